"""Languages and groups that claims speak of: automata, their transition monoids, and what follows from them."""

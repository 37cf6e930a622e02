"""The standard library of specs, one architecture a file."""

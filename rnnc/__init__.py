"""rnnc: a compiler and a small declarative language for recurrent neural architectures."""

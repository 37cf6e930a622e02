"""The Triton backend: groups of states as generated GPU kernels, forward and backward; see docs/kernels.md."""

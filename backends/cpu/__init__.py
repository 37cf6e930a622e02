"""The CPU backend: the torch backend's module, in which native kernels run the groups of states."""

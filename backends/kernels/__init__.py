"""What the native backends share: a group of states and the pointwise work around it as one kernel.

`region.find_region` decides which nodes of a cell a kernel computes, `program.lower` turns one step of it (and its
derivative) into scalar operations over labelled axes.
"""

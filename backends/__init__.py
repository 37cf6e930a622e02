"""The backends: each turns a planned cell into source text and a loaded module."""

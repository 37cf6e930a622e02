"""Measuring cells: every legal strategy and backend side by side, peers, and the rates that the planner ranks by."""

"""The tasks, by name."""

from __future__ import annotations

from rnnc.training.tasks.base import Batch, Split, Task, TaskError
from rnnc.training.tasks.registry import FAMILIES, make_task

__all__ = ["FAMILIES", "Batch", "Split", "Task", "TaskError", "make_task"]

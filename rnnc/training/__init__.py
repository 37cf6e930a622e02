"""Training a compiled cell on a task: data, model, loop, checkpoints, record.

The tasks are NumPy; everything that trains is torch.  Nothing here is imported by the compiler.
"""

from __future__ import annotations

"""Which matrix states the chunkwise low-rank kernels of `rnnc.runtime.gpu.low_rank` run."""

from __future__ import annotations

from rnnc.analysis.forms import Form, MatrixState
from rnnc.ir.graph import CellIR

__all__ = ["LOW_RANK", "has_low_rank_kernel"]

LOW_RANK = "chunkwise kernels, the values of a chunk by one triangular inverse, from chunk to chunk the state"
LARGEST_RANK = 16  # terms of one micro-step


def has_low_rank_kernel(cell: CellIR, form: Form | None) -> bool:
    """Whether a form reads the state it updates (rank-one terms, a delta rule's), under decays that have logarithms or
    none, of all keys alike or of each, and is itself read by vectors.
    """
    if not isinstance(form, MatrixState) or not form.reads:
        return False
    if cell.nodes[cell.state(form.state).node].type.rank != 2 or not any(step.low_rank for step in form.steps):
        return False
    for step in form.steps:
        if len(step.low_rank) + len(step.writes) > LARGEST_RANK or any(v is None for _, v in step.writes):
            return False
        if step.log_decay is None and step.decay is not None:
            return False
    return True


def decays_keys(cell: CellIR, form: Form | None) -> bool:
    """Whether `form` is run by the low-rank kernels with a decay for each key."""
    if not has_low_rank_kernel(cell, form) or not isinstance(form, MatrixState):
        return False
    return any(s.log_decay is not None and cell.nodes[s.log_decay].type.rank == 1 for s in form.steps)

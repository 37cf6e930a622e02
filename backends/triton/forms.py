"""Which matrix states the runtime's chunkwise kernels run."""

from __future__ import annotations

import math

from rnnc.analysis.forms import Form, MatrixState
from rnnc.analysis.ranges import Ranges
from rnnc.backends.triton.low_rank import decays_keys, has_low_rank_kernel
from rnnc.ir.graph import CellIR
from rnnc.plan.choose import GroupPlan

__all__ = ["has_chunkwise_kernel", "in_chunks", "least_log_decay"]


def in_chunks(cell: CellIR, g: GroupPlan) -> bool:
    """Whether a group runs by them."""
    served = has_chunkwise_kernel(cell, g.form) or has_low_rank_kernel(cell, g.form)
    return g.strategy == "chunkwise" and served


def has_chunkwise_kernel(cell: CellIR, form: Form | None) -> bool:
    """Whether `rnnc.runtime.gpu.decays` runs a form: one micro-step, a decay with a logarithm (or none) and no low
    rank.
    """
    if not isinstance(form, MatrixState) or len(form.steps) != 1 or not form.reads:
        return False
    (step,) = form.steps
    if step.low_rank or not step.writes or any(v is None for _, v in step.writes):
        return False
    if cell.nodes[cell.state(form.state).node].type.rank != 2:
        return False
    return step.log_decay is not None or step.decay is None


def least_log_decay(cell: CellIR, form: Form | None) -> float | None:
    """A lower bound of the log decays that holds for any inputs, whatever was declared of them, or None."""
    if not isinstance(form, MatrixState) or not (has_chunkwise_kernel(cell, form) or decays_keys(cell, form)):
        return None
    ranges = Ranges(cell.nodes, {})
    found = [ranges.real(step.log_decay).lo for step in form.steps if step.log_decay is not None]
    known = [math.nextafter(float(x), -math.inf) for x in found if x is not None]
    return min(known) if known and len(known) == len(found) else None

"""Which matrix states run chunk by chunk in C (`rnnc/runtime/chunkwise.h`), and what that costs.

The function serves one update a step under a decay of one number, read once after it: retention, Mamba-2, mLSTM's
matrix, the (gated) delta rule.  It is a function of the runtime, the same for all of them; gates stay outside.
"""

from __future__ import annotations

from rnnc.analysis.forms import Group, MatrixState
from rnnc.backends.torch.updates import fused_updates
from rnnc.ir.dims import ONE, Dim
from rnnc.ir.graph import CellIR
from rnnc.plan.native import Work

CHUNK = 32


def find_chunkwise(cell: CellIR, group: Group) -> MatrixState | None:
    """The form by which the function in C runs a group; None where it does not."""
    form = next((f for f in group.forms if isinstance(f, MatrixState)), None)
    if form is None or len(form.steps) != 1 or form.reads_across or form.reads is None or form.normaliser is not None:
        return None
    (step,), state = form.steps, cell.nodes[cell.state(form.state).node].type
    if state.rank != 2 or state.dtype != "real" or len(form.reads) != 1 or form.reads[0].when != "new":
        return None
    if step.decay is not None and (step.log_decay is None or cell.nodes[step.log_decay].type.rank):
        return None
    updates, low_rank, writes = fused_updates(cell, step)
    if low_rank or len(updates) + len(writes) != 1 or any(v is None for _, v in writes):
        return None
    return None if any(u.v is None for u in updates) else form


def chunkwise_work(cell: CellIR, form: MatrixState) -> Work:
    """Of one step of the function, its products spread over the steps of a chunk."""
    t = cell.nodes[cell.state(form.state).node].type
    keys, values = t.shape if form.side == "left" else t.shape[::-1]
    delta = bool(fused_updates(cell, form.steps[0])[0])
    state, keyed, valued = keys * values * 2, keys * (2 * CHUNK), values * (2 * CHUNK)
    tasks = ONE
    for size in t.per:
        tasks = tasks * size
    forward = tasks * (state * (3 if delta else 2) + keyed * (2 if delta else 1) + valued * (2 if delta else 1))
    back = tasks * (state * (8 if delta else 5) + keyed * (7 if delta else 4) + valued * (4 if delta else 2))
    return Work(
        strategy="chunkwise",
        serves=frozenset({"chunkwise"}),
        rates="native chunkwise",
        why="products of matrices in C, chunk by chunk",
        flops=forward + back,
        special=Dim.of(0),
        numbers=tasks * (keys * (6 if delta else 4) + values * 4),
        shared=Dim.of(0),
        lanes=values,
        height=ONE,
        tasks=tasks,
        chain=1.0,
        forward=forward,
    )

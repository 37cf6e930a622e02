"""Which matrix states run chunk by chunk in C (`rnnc/runtime/chunkwise.h`), and what that costs.

The function serves rows of one update each, some of them a step, under decays of one number or of each key, read once
before or after the step: retention, Mamba-2, mLSTM's matrix, gated linear attention, the (gated) delta rule, products
of several; and plain writes under decays of each value.  It is a function of the runtime, the same for all of them;
gates stay outside.
"""

from __future__ import annotations

from rnnc.analysis.forms import Group, MatrixState, MicroStep
from rnnc.backends.torch.updates import fused_updates
from rnnc.ir.dims import ONE, Dim
from rnnc.ir.graph import CellIR
from rnnc.plan.native import Work

CHUNK = 32


def find_chunkwise(cell: CellIR, group: Group) -> MatrixState | None:
    """The form by which the function in C runs a group, with the reads that it has; None where it does not."""
    form = next((f for f in group.forms if isinstance(f, MatrixState)), None)
    if form is None or form.normaliser is not None:
        return None
    form = form.read_across() if form.reads is None and form.across else form
    state = cell.nodes[cell.state(form.state).node].type
    if state.rank != 2 or state.dtype != "real" or form.reads is None or len(form.reads) != 1:
        return None
    plain = not any(step.low_rank for step in form.steps)
    return form if all(_served(cell, step) for step in form.steps) and (plain or not form.reads_across) else None


def _served(cell: CellIR, step: MicroStep) -> bool:
    """Whether a micro-step is rows one after another: one of them reads the state at most."""
    if step.decay is not None and step.log_decay is None:
        return False
    updates, low_rank, writes = fused_updates(cell, step)
    whole = all(v is not None for _, v in writes) and all(u.v is not None for u in updates)
    return whole and len(updates) + len(low_rank) <= 1 and bool(updates or low_rank or writes)


def chunkwise_work(cell: CellIR, form: MatrixState) -> Work:
    """Of one time step of the function, its products spread over the rows of a chunk."""
    t = cell.nodes[cell.state(form.state).node].type
    keys, values = t.shape if (form.side == "left") != form.reads_across else t.shape[::-1]
    terms = [fused_updates(cell, step) for step in form.steps]
    rows = sum(len(x) for kinds in terms for x in kinds)
    reading = rows * any(updates or low_rank for updates, low_rank, _ in terms)
    vector = any(s.log_decay is not None and cell.nodes[s.log_decay].type.rank for s in form.steps)
    gates = (values if form.reads_across else keys) if vector else ONE
    state, keyed, valued = keys * values * 2, keys * (2 * CHUNK), values * (2 * CHUNK)
    tasks = ONE
    for size in t.per:
        tasks = tasks * size
    readers = 1 + reading  # rows of products of pairs: those of the read, and of updates that read
    forward = tasks * (state * (readers + rows) + keyed * readers + valued * readers)
    back = tasks * (state * (2 * readers + 2 * rows) + keyed * (3 * readers) + valued * (2 * readers))
    numbers = keys * (2 + 2 * rows + 2 * reading) + values * (2 + 2 * rows) + gates * (2 * rows)
    return Work(
        strategy="chunkwise",
        serves=frozenset({"chunkwise"}),
        rates="native chunkwise",
        why="products of matrices in C, chunk by chunk",
        flops=forward + back,
        special=tasks * gates * (2 * rows) if vector else Dim.of(0),
        numbers=tasks * numbers,
        shared=Dim.of(0),
        lanes=values,
        height=ONE,
        tasks=tasks,
        chain=1.0,
        forward=forward,
    )

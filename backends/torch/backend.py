"""The torch backend's entry: analyse, plan, emit."""

from __future__ import annotations

from collections.abc import Mapping

from rnnc.analysis.forms import BlockLinear, Coupled, Dense, Elementwise, Form, Group, MatrixState
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.backends.torch.emit import emit_cell
from rnnc.backends.torch.strategies import Choice
from rnnc.ir.graph import CellIR

NATURAL: dict[type, str] = {
    Elementwise: "scan",
    Coupled: "block_scan",
    MatrixState: "chunkwise",
    BlockLinear: "block_scan",
    Dense: "block_scan",
}


def emit(
    cell: CellIR,
    *,
    dims: Mapping[str, int] | None,
    strategy: str | Mapping[str, str] | None,
    sources: Mapping[str, str],
) -> str:
    """The source text of a standalone module; see `rnnc.backends.Backend`."""
    recurrence = analyse_recurrence(cell)
    choices = tuple(choose(g, strategy) for g in recurrence.groups)
    return emit_cell(recurrence.cell, choices, sources)


def choose(group: Group, strategy: str | Mapping[str, str] | None) -> Choice:
    wanted = strategy if isinstance(strategy, str) or strategy is None else next(
        (strategy[s] for s in group.states if s in strategy), None
    )
    if wanted in ("step", "sequential") or not group.forms:
        return Choice(group=group, strategy="sequential")
    form: Form = next((f for f in group.forms if isinstance(f, MatrixState)), group.forms[0])
    if wanted is not None:
        form = next((f for f in group.forms if NATURAL[type(f)] == wanted), form)
    return Choice(group=group, strategy=wanted or NATURAL[type(form)], form=form)

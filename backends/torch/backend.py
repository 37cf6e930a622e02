"""The torch backend's entry: analyse, plan, emit."""

from __future__ import annotations

from collections.abc import Mapping

from rnnc.analysis.forms import Recurrence
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.backends.torch.emit import emit_file
from rnnc.backends.torch.strategies import Choice
from rnnc.diagnostics import Diagnostic, SpecError
from rnnc.ir.graph import CellIR
from rnnc.plan.choose import Plan, plan

Strategies = str | Mapping[str, str] | None


def emit(cell: CellIR, *, dims: Mapping[str, int] | None, strategy: Strategies, sources: Mapping[str, str]) -> str:
    """The source text of a standalone module; see `rnnc.backends.Backend`."""
    require_inputs(cell)
    plans = plan_all(cell, dims, strategy)
    made = {}
    for c, p in plans.items():
        choices = tuple(Choice.of(p.recurrence.cell, g) for g in p.groups)
        made[c] = (p.recurrence.cell, choices, tuple(explanation(p)))
    return emit_file(cell, made, sources)


def unavailable() -> str | None:
    """None: PyTorch runs everywhere."""
    return None


def require_inputs(cell: CellIR) -> None:
    """SpecError for a cell, or one that it calls, whose inputs do not say how many sequences and steps there are."""
    for part in (cell, *cell.subcells):
        if not part.inputs:
            raise SpecError(
                (
                    Diagnostic(
                        code="E0604",
                        message=f"`{part.name}` has no input",
                        span=None,
                        help="a module's inputs say how many sequences and steps there are: add `input x: real`",
                    ),
                )
            )
        if part is not cell:
            require_inputs(part)


def explanation(p: Plan) -> list[str]:
    """One sentence a group: what was chosen, and why."""
    return [f"{' and '.join(g.group.states)}: {g.strategy}; {g.chosen.why}" for g in p.groups]


def plan_all(cell: CellIR, dims: Mapping[str, int] | None, strategy: Strategies) -> dict[CellIR, Plan]:
    """Plans of a cell and of all the cells it calls, called ones first.

    A strategy given by name runs every cell it is legal for; it is an error when that is none.  One given by state
    reaches the cells that have the state.
    """
    cells: dict[CellIR, None] = {}

    def visit(c: CellIR) -> None:
        for sub in c.subcells:
            visit(sub)
        cells.setdefault(c)

    visit(cell)
    found: dict[CellIR, Plan] = {}
    refused: list[SpecError] = []
    accepted = not any(c.states for c in cells)
    for c in cells:
        recurrence = analyse_recurrence(c) if c.states else Recurrence(cell=c, groups=())
        sizes = dims if c == cell else None
        override = for_cell(c, cell, strategy)
        if override is None or not c.states:
            found[c] = plan(recurrence, sizes)
            continue
        try:
            found[c] = plan(recurrence, sizes, override)
            accepted = True
        except SpecError as problem:
            if isinstance(override, Mapping) or len(cells) == 1:
                raise
            refused.append(problem)
            found[c] = plan(recurrence, sizes)
    if refused and not accepted:
        raise refused[0]
    return found


def for_cell(c: CellIR, root: CellIR, strategy: Strategies) -> Strategies:
    """The part of a strategy by state that concerns one cell; all of it for a lone cell: unknown names are errors."""
    if not isinstance(strategy, Mapping) or (c == root and not root.subcells):
        return strategy
    own = {s.name for s in c.states}
    return {k: v for k, v in strategy.items() if k in own} or None

"""Block scan: transitions stay small matrices under products, so they are scanned like numbers."""

from __future__ import annotations

from typing import ClassVar

from rnnc.analysis.forms import BlockLinear, Coupled, Dense, Form
from rnnc.ir.dims import Dim
from rnnc.plan.cost import NUMBER, STEPS, Cost, Problem, per_step, root
from rnnc.plan.strategy import Strategy, names, not_linear, structure


class BlockScan(Strategy):
    name: ClassVar[str] = "block_scan"

    def form(self, problem: Problem) -> Form | str | None:
        found = next((f for f in problem.group.forms if isinstance(f, (BlockLinear, Coupled, Dense))), None)
        if found is not None:
            return found
        return not_linear(problem) or f"the transition of {names(problem)} is {structure(problem)}, not made of blocks"

    def _block(self, problem: Problem, form: Form | None) -> tuple[Dim, Dim]:
        """The side of a block, and the number of entries of the states per row of a block."""
        match form:
            case Coupled():
                n = Dim.of(len(form.states))
            case BlockLinear():
                n = problem.cell.nodes[form.blocks].type.shape[-1]
            case Dense():
                n = problem.cell.nodes[form.a].type.shape[-1]
            case _:
                raise AssertionError(form)
        return n, problem.state_size

    def cost(self, problem: Problem, form: Form | None) -> Cost:
        n, size = self._block(problem, form)
        moved = 4 if isinstance(form, Dense) else 10  # blocks that change are put together, and have gradients
        return Cost(
            depth=f"log {STEPS}",
            flops=per_step(size * n * n * 4),
            bytes=per_step(size * n * (moved * NUMBER)),
            memory=per_step(size * (n + 1) * (2 * NUMBER)),  # transitions and states, and the level above
            launches=8 * root(problem.number(Dim.of(STEPS))),
        )

    def why(self, problem: Problem, form: Form | None) -> str:
        n, _ = self._block(problem, form)
        verb = "is" if len(problem.group.states) == 1 else "are"
        return f"{names(problem)} {verb} linear with {n} by {n} blocks, whose products stay {n} by {n}"

    def remedy(self, problem: Problem) -> str:
        return f"a transition of {names(problem)} made of fixed blocks (`blockdiag`, `rotation`) would be a block scan"

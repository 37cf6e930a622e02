"""Elementwise scan: h' = a (x) h (+) b over any semiring is associative, so prefixes are combined in a tree or by
chunks.
"""

from __future__ import annotations

from typing import ClassVar

from rnnc.analysis.forms import Elementwise, Form
from rnnc.ir.dims import Dim
from rnnc.plan.cost import NUMBER, STEPS, Cost, Problem, per_step, root
from rnnc.plan.safety import scan_safety
from rnnc.plan.strategy import Strategy, names, not_linear, structure

SEMIRING = {
    "plus_times": "elementwise linear",
    "max_plus": "linear over (max, +)",
    "min_plus": "linear over (min, +)",
    "log_plus": "linear over (logaddexp, +)",
}


class Scan(Strategy):
    name: ClassVar[str] = "scan"

    def form(self, problem: Problem) -> Form | str | None:
        found = next((f for f in problem.group.forms if isinstance(f, Elementwise)), None)
        if found is not None:
            return found
        return not_linear(problem) or f"the transition of {names(problem)} is {structure(problem)}, not elementwise"

    def cost(self, problem: Problem, form: Form | None) -> Cost:
        size = problem.state_size
        return Cost(
            depth=f"log {STEPS}",
            flops=per_step(size * 2),
            bytes=per_step(size * (4 * NUMBER)),  # a, b and h, and the carries of the two levels
            memory=per_step(size * (2 * NUMBER)),  # coefficients and states
            launches=6 * root(problem.number(Dim.of(STEPS))),
        )

    def why(self, problem: Problem, form: Form | None) -> str:
        return f"{names(problem)} is {SEMIRING[problem.group.semiring]}, so the steps combine associatively"

    def safety(self, problem: Problem, form: Form | None) -> str:
        return scan_safety(problem, form)

    def remedy(self, problem: Problem) -> str:
        return f"a diagonal transition of {names(problem)}, such as `diag(a)`, would scan"

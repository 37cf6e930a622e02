"""Newton's method: a nonlinear group as a few linear ones, each solved for all steps at once.

Chosen by itself only where the update is proved to be a contraction (`contraction.py`), or was measured to be one, and
where the cost model says that it wins: its iterations each cost a whole step with its derivative, and a scan.
"""

from __future__ import annotations

from typing import ClassVar

from rnnc.analysis.forms import Form
from rnnc.ir.dims import Dim
from rnnc.ir.domains.cost import costs
from rnnc.ir.linearise import Structure, structure_of, too_large
from rnnc.plan.contraction import contraction
from rnnc.plan.cost import NUMBER, STEPS, Cost, Problem, evaluated, per_step, root, size_of
from rnnc.plan.strategy import Strategy, names

ITERATIONS = 6  # of a contraction, the one that finds it solved included
DERIVATIVE = 2  # the work of a step's slopes, in steps


class Newton(Strategy):
    name: ClassVar[str] = "newton"
    margin: ClassVar[float] = 1.1  # its iterations depend on values: at a tie steps are the safer choice

    def form(self, problem: Problem) -> Form | str | None:
        group = problem.group
        if group.kind != "nonlinear":
            return (
                f"{names(problem)} is linear: one scan solves it, without iterations"
                if group.forms
                else (f"{names(problem)} is linear, in no form that a scan runs")
            )
        found = structure_of(problem.cell, group.states)
        if isinstance(found, str):
            return found
        entries = evaluated(found.entries, problem)
        return too_large(entries) if found.pattern == "dense" and entries is not None else None

    def may_choose(self, problem: Problem) -> bool:
        """Dense blocks only where their size is a number or was given: a layer may be made with other dims than the
        defaults.
        """
        structure = self._structure(problem)
        fixed = structure.pattern != "dense" or structure.entries.names <= problem.given
        return fixed and contraction(problem).holds

    def _structure(self, problem: Problem) -> Structure:
        found = structure_of(problem.cell, problem.group.states)
        assert isinstance(found, Structure)
        return found

    def cost(self, problem: Problem, form: Form | None) -> Cost:
        structure, size = self._structure(problem), problem.state_size
        nodes = problem.dependent
        work = costs(problem.cell, [n.id for n in nodes])
        flops, special, moved = (Dim.of(0) for _ in range(3))
        for n in nodes:
            flops = flops + work[n.id].flops
            special = special + work[n.id].special
            moved = moved + size_of(n.type) * 3
        rows = structure.entries if structure.pattern == "dense" else Dim.of(len(problem.group.states))
        evaluations = rows * DERIVATIVE + 1
        inside = size * structure.entries * (2 if structure.pattern == "diagonal" else 4 * len(problem.group.states))
        count = Dim.of(ITERATIONS)
        return Cost(
            depth=f"{ITERATIONS} log {STEPS}",
            flops=per_step(count, flops * evaluations + inside),
            special=per_step(count, special),
            bytes=per_step(count, (moved * evaluations + size * structure.entries * 8) * NUMBER),
            memory=per_step((size * structure.entries + moved) * NUMBER),
            launches=ITERATIONS * (3 * len(nodes) + 20 + 6 * root(problem.number(Dim.of(STEPS)))),
        )

    def why(self, problem: Problem, form: Form | None) -> str:
        structure = self._structure(problem)
        kind = {
            "diagonal": "numbers at every position",
            "coupled": f"{structure.entries} by {structure.entries} blocks at every position",
            "dense": f"dense blocks of {structure.entries} by {structure.entries}",
        }[structure.pattern]
        return (
            f"the slopes of {names(problem)} are {kind} (proved), so each of Newton's iterations is a scan; "
            f"{contraction(problem).why}"
        )

    def safety(self, problem: Problem, form: Form | None) -> str:
        return (
            "every window of steps is checked against its residual; one that is not solved is run in smaller ones, at "
            "last step by step, with a warning"
        )

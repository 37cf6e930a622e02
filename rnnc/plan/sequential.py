"""One step after the other inside `forward`: always legal."""

from __future__ import annotations

from typing import ClassVar

from rnnc.analysis.forms import Form
from rnnc.ir.dims import Dim
from rnnc.ir.domains.cost import costs
from rnnc.plan.cost import NUMBER, STEPS, Cost, Problem, per_step, size_of
from rnnc.plan.strategy import Strategy, names


class Sequential(Strategy):
    name: ClassVar[str] = "sequential"

    def form(self, problem: Problem) -> Form | str | None:
        return None

    def cost(self, problem: Problem, form: Form | None) -> Cost:
        flops, moved = Dim.of(0), problem.state_size  # every state is put into the sequence of states
        nodes = problem.dependent
        work = costs(problem.cell, [n.id for n in nodes])
        for n in nodes:
            flops = flops + work[n.id].flops
            moved = moved + size_of(n.type)
            for a in n.args:
                moved = moved + problem.size(a)
        return Cost(
            depth=STEPS,
            flops=per_step(flops),
            bytes=per_step(moved * NUMBER),
            memory=per_step(problem.state_size * NUMBER),  # the states of all steps
            launches=problem.number(Dim.of(STEPS)) * max(1, len(nodes)),
        )

    def why(self, problem: Problem, form: Form | None) -> str:
        are = "is" if len(problem.group.states) == 1 else "are"
        return f"the loop over time that {names(problem)} {are} written as"

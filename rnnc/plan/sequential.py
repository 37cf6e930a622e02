"""One step after the other inside `forward`: always legal."""

from __future__ import annotations

from typing import ClassVar

from rnnc.analysis.forms import Form
from rnnc.ir.dims import Dim
from rnnc.ir.domains.cost import costs
from rnnc.ir.graph import Node, is_static
from rnnc.ir.ops import OPS
from rnnc.plan.cost import NUMBER, STEPS, Cost, Problem, per_step, size_of
from rnnc.plan.strategy import Strategy, names

PRODUCT = 4  # elementwise operations that a small contraction takes as long as, forward and backward


def launches(problem: Problem, node: Node) -> int:
    """Framework operations of a node in a step, in elementwise ones; a learned map is one."""
    category = OPS[node.op].category
    learned = any(is_static(problem.cell.nodes, [a]) for a in node.args)
    return 0 if category == "view" else PRODUCT if category == "contraction" and not learned else 1


class Sequential(Strategy):
    name: ClassVar[str] = "sequential"

    def form(self, problem: Problem) -> Form | str | None:
        return None

    def cost(self, problem: Problem, form: Form | None) -> Cost:
        flops, special = Dim.of(0), Dim.of(0)
        moved = problem.state_size  # every state is put into the sequence of states
        nodes = problem.dependent
        work = costs(problem.cell, [n.id for n in nodes])
        reads = PRODUCT * sum(problem.cell.nodes[s].type.rank > 1 for s in problem.state_nodes)  # S^T q, in the loop
        for n in nodes:
            flops = flops + work[n.id].flops
            special = special + work[n.id].special
            moved = moved + size_of(n.type)
            for a in n.args:
                moved = moved + problem.size(a)
        return Cost(
            depth=STEPS,
            flops=per_step(flops),
            special=per_step(special),
            bytes=per_step(moved * NUMBER),
            memory=per_step(problem.state_size * NUMBER),  # the states of all steps
            launches=problem.number(Dim.of(STEPS)) * max(1, reads + sum(launches(problem, n) for n in nodes)),
        )

    def why(self, problem: Problem, form: Form | None) -> str:
        are = "is" if len(problem.group.states) == 1 else "are"
        return f"the loop over time that {names(problem)} {are} written as"

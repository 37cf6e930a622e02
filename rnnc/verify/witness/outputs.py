"""Output maps that show the state: chosen after the recurrence, without touching what it needs."""

from __future__ import annotations

from collections.abc import Iterator

from rnnc.analysis.forms import Group, MatrixState
from rnnc.exact import NotExact
from rnnc.ir.graph import CellIR, NodeId, ancestors
from rnnc.verify.witness.expressions import Expression
from rnnc.verify.witness.numbers import ONE, ZERO
from rnnc.verify.witness.solver import Branch, Solver
from rnnc.verify.witness.want import Conflict


def with_outputs(cell: CellIR, solver: Solver, branch: Branch, group: Group) -> Iterator[Branch]:
    """The branch with queries and output layers that pass the state on, where that can be had; else as it is."""
    child = branch.copy()
    _queries(solver, child, group)
    found = _solved(solver, child)
    found = _layers(cell, solver, found or branch.copy())
    yield found if found is not None else branch


def _solved(solver: Solver, branch: Branch) -> Branch | None:
    try:
        return solver.solve(branch)
    except (Conflict, NotExact):
        return None


def _queries(solver: Solver, branch: Branch, group: Group) -> None:
    """Every read of a matrix state asks along the first direction."""
    for form in group.forms:
        if not isinstance(form, MatrixState) or form.reads is None:
            continue
        for read in form.reads:
            target = solver.unwanted(read.key)
            target[...] = ZERO
            target[..., 0] = ONE
            try:
                solver.want(branch, read.key, target)
            except Conflict:
                branch.pending.discard(read.key)


def _layers(cell: CellIR, solver: Solver, branch: Branch) -> Branch | None:
    """Linear layers that nothing is wanted of and that lie behind the state's update: identities."""
    recurrent = ancestors(cell, [s.update for s in cell.states])
    after = ancestors(cell, [o.node for o in cell.outputs]) - recurrent
    used = {v[0] for v in branch.system.pivots}
    child = branch.copy()
    for node in after:
        n = cell.nodes[node]
        if n.op != "param" or node in used or len(n.type.shape) != 2:
            continue
        for i, j in _diagonal(solver, node):
            index = i * solver.shape(node)[-1] + j
            if not child.system.add(Expression(ZERO, {(node, index, 0): ONE}), ONE):
                return None
    return child


def _diagonal(solver: Solver, node: NodeId) -> list[tuple[int, int]]:
    shape = solver.shape(node)
    if len(shape) != 2:
        return []
    return [(i, i) for i in range(min(shape))]

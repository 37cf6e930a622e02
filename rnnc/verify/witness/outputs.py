"""Output maps that show the state: chosen after the recurrence, without touching what it needs."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from rnnc.analysis.forms import Group, MatrixState
from rnnc.exact import NotExact, Number, root
from rnnc.ir.graph import CellIR, NodeId, ancestors
from rnnc.verify.witness.expressions import Expression
from rnnc.verify.witness.numbers import ONE, ZERO
from rnnc.verify.witness.solver import Branch, Solver
from rnnc.verify.witness.want import Conflict


def with_outputs(cell: CellIR, solver: Solver, branch: Branch, group: Group) -> Iterator[Branch]:
    """The branch with queries and output layers that pass the state on, where that can be had; else as it is."""
    found = next((c for length in (ONE, None) if (c := _asked(solver, branch, group, length)) is not None), None)
    found = _gates(cell, solver, found or branch.copy())
    found = _layers(cell, solver, found or branch.copy())
    yield found if found is not None else branch


def _solved(solver: Solver, branch: Branch) -> Branch | None:
    try:
        return solver.solve(branch)
    except (Conflict, NotExact):
        return None


def _asked(solver: Solver, branch: Branch, group: Group, length: Number | None) -> Branch | None:
    """Every read of a matrix state asks along the first direction, with a query of this length.

    None for 1/sqrt(n): that of a unit query that is scaled by its n entries.
    """
    child = branch.copy()
    for form in group.forms:
        if not isinstance(form, MatrixState) or form.reads is None:
            continue
        for read in form.reads:
            target = solver.unwanted(read.key)
            target[...] = ZERO
            target[..., 0] = length if length is not None else root(Fraction(1, target.shape[-1]))
            try:
                solver.want(child, read.key, target)
            except Conflict:
                child.pending.discard(read.key)
    return _solved(solver, child)


def _gates(cell: CellIR, solver: Solver, branch: Branch) -> Branch:
    """What multiplies the state behind its update is 1, where that can be had."""
    states = {s.node for s in cell.states}
    shows: set[NodeId] = set()
    for n in cell.nodes:  # arguments come first
        if n.id in states or any(a in shows for a in n.args):
            shows.add(n.id)
    recurrent = ancestors(cell, [s.update for s in cell.states])
    for node in sorted(ancestors(cell, [o.node for o in cell.outputs]) - recurrent):
        n = cell.nodes[node]
        gates = [a for a in n.args if a not in shows]
        if n.op != "mul" or len(gates) != 1 or not _reads_input(cell, gates[0]):
            continue
        child = branch.copy()
        target = solver.unwanted(gates[0])
        target[...] = ONE
        try:
            solver.want(child, gates[0], target)
        except Conflict:
            continue
        branch = _solved(solver, child) or branch
    return branch


def _reads_input(cell: CellIR, node: NodeId) -> bool:
    return any(cell.nodes[i].op == "input" for i in ancestors(cell, [node]))


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

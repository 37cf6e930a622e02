"""Vector states that are one more column of a matrix state: a normaliser n beside C, read by the same queries.

    C <- a C + u v^T,   n <- a n + c u,   read by C^T q and n . q

with a scalar c: for whoever runs C by chunks, n is a column whose value is c.  Products are compared factor by factor,
so it does not matter how the two were spelled; c is what n's write has besides u, never a quotient by a part of u.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from rnnc.analysis.forms import Elementwise, Group, MatrixState, Normaliser, Recurrence
from rnnc.ir.builder import Builder
from rnnc.ir.dims import Dim
from rnnc.ir.domains.dependence import dependences
from rnnc.ir.graph import CellIR, NodeId, ancestors

VIEWS = frozenset({"expand", "lift", "broadcast"})


def with_normalisers(recurrence: Recurrence) -> Recurrence:
    """The recurrence with `MatrixState.normaliser` wherever a later or earlier group is one.

    Requires: groups in topological order.  Ensures: nodes stay, some (scalars) are appended.
    """
    b = Builder.of(recurrence.cell)
    found = list(recurrence.groups)
    for place, group in enumerate(recurrence.groups):
        for k, form in enumerate(group.forms):
            if isinstance(form, MatrixState) and form.reads:
                other = next((n for g in recurrence.groups if (n := _column(b, recurrence, place, form, g))), None)
                forms = (*group.forms[:k], replace(form, normaliser=other), *group.forms[k + 1 :])
                found[place] = replace(group, forms=forms)
                break
    return replace(recurrence, cell=replace(recurrence.cell, nodes=tuple(b.nodes)), groups=tuple(found))


def _column(b: Builder, recurrence: Recurrence, place: int, form: MatrixState, group: Group) -> Normaliser | None:
    """The group's state as one more column of a matrix state; None where it is none."""
    cell, matrix = recurrence.cell, recurrence.cell.state(form.state)
    vector = next((f for f in group.forms if isinstance(f, Elementwise)), None)
    if vector is None or len(group.states) != 1 or group.semiring != "plus_times" or len(form.steps) != 1:
        return None
    state = cell.state(vector.state)
    t, s = b.type(state.node), b.type(matrix.node)
    keys = s.shape[0 if form.side == "left" else -1]
    if t.per != s.per or t.shape != (keys,) or t.dtype != "real" or s.rank != 2:
        return None
    (step,) = form.steps
    if step.low_rank or len(step.writes) != 1 or step.writes[0][1] is None or vector.b is None:
        return None
    if _factors(b, step.decay) != _factors(b, vector.a):
        return None
    write = _factors(b, step.writes[0][0])
    rest = _quotient(_factors(b, vector.b), write)
    if any(b.type(i).rank or (i in write and not _never_zero(b, i)) for i in rest):
        return None  # no scalar, or n would divide by what may be zero, which it does not do by itself
    early = {x for g in recurrence.groups[: min(place, group.index)] for x in g.states}
    depends = dependences(cell)
    given = [*rest, *(r.key for r in form.reads or ())]
    if any(not depends[i].states <= early for i in given):
        return None
    reads = _reads(cell, vector.state, form)
    value = _product(b, rest, s.per) if rest else None
    return None if reads is None else Normaliser(state=vector.state, value=value, reads=reads)


def _factors(b: Builder, node: NodeId | None) -> dict[NodeId, int]:
    """A product as its factors, with their powers; views that repeat a value are left out."""
    if node is None:
        return {}
    n = b.nodes[node]
    if n.op in VIEWS:
        return _factors(b, n.args[0])
    if n.op == "const" and n.attr("value") == Fraction(1):
        return {}
    if n.op in ("mul", "div"):
        left, right = (_factors(b, a) for a in n.args)
        return _quotient(left, {i: -p if n.op == "mul" else p for i, p in right.items()})
    return {node: 1}


def _never_zero(b: Builder, node: NodeId) -> bool:
    """Whether a value is a number or a size, or a power of one."""
    n = b.nodes[node]
    if n.op == "pow":
        return all(_never_zero(b, a) for a in n.args)
    return n.op == "dim" or (n.op == "const" and isinstance(n.attr("value"), Fraction) and n.attr("value") != 0)


def _quotient(a: dict[NodeId, int], b: dict[NodeId, int]) -> dict[NodeId, int]:
    powers = {i: a.get(i, 0) - b.get(i, 0) for i in {**a, **b}}
    return {i: p for i, p in powers.items() if p}


def _product(b: Builder, factors: dict[NodeId, int], per: tuple[Dim, ...]) -> NodeId:
    total = b.const(1)
    for i, p in sorted(factors.items()):
        for _ in range(abs(p)):
            total = b.map("mul" if p > 0 else "div", total, i)
    return b.broadcast_to(total, (), per)


def _reads(cell: CellIR, name: str, form: MatrixState) -> tuple[tuple[NodeId, ...], ...] | None:
    """The nodes that are the vector state times the key of each read; None where it is used in any other way."""
    state = cell.state(name)
    roots = {o.node for o in cell.outputs} | {s.update for s in cell.states if s.name != name}
    live = ancestors(cell, roots, frozenset({state.update}))
    if state.node in roots or state.update in roots:
        return None
    found: list[list[NodeId]] = [[] for _ in form.reads or ()]
    for i in sorted(live - {state.update}):
        node = cell.nodes[i]
        for when, atom in (("old", state.node), ("new", state.update)):
            if atom not in node.args or (when == "old" and state.node == state.update):
                continue
            other = next((a for a in node.args if a != atom), None)
            places = [k for k, r in enumerate(form.reads or ()) if r.when == when and r.key == other]
            if node.op != "einsum" or node.attr("spec") not in DOT or not places:
                return None
            found[places[0]].append(i)
    return tuple(tuple(x) for x in found)


DOT = frozenset({"i,i->", "j,j->"})

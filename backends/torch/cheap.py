"""The step of a matrix state without products of matrices.

A transition is often written as a matrix, `A = alpha * (I - beta * outer(k, k))`; applying it as one costs K^2 V per
step and head.  Its normal form says the same with vectors, at K V.
"""

from __future__ import annotations

from dataclasses import replace

from rnnc.analysis.forms import Group, MatrixState, MicroStep
from rnnc.backends.torch.needs import closure, state_dependence
from rnnc.backends.torch.updates import fused_updates
from rnnc.ir.builder import Builder
from rnnc.ir.graph import CellIR, Node, NodeId, State
from rnnc.ir.rewrite import remap


def cheap_step(cell: CellIR, groups: tuple[Group, ...]) -> CellIR:
    """Updates that multiply a state by a matrix, written by their normal forms instead.

    Requires: the cell of a recurrence and its groups.  Ensures: the same values; nodes in topological order.
    before: S <- (alpha * (I - beta * k k^T)) @ S + beta * k v^T
    after:  S <- alpha * S + (beta * k) (v - alpha * S^T k)^T
    """
    b = Builder.of(cell)
    moved: dict[NodeId, NodeId] = {}
    for group in groups:
        for form in group.forms:
            if isinstance(form, MatrixState) and b.type(cell.state(form.state).node).rank == 2:
                state = cell.state(form.state)
                if multiplies_matrices(cell, state) and has_vectors(cell, form):
                    moved[state.update] = by_form(b, cell, state, form)
                break
    return replaced(cell, b.nodes, moved) if moved else cell


def multiplies_matrices(cell: CellIR, state: State) -> bool:
    """Whether the update contains a product of matrices, one of which depends on the state."""
    depends = state_dependence(cell)
    for i in closure(cell, [state.update]):
        n = cell.nodes[i]
        if n.op == "einsum" and any(state.name in depends[a] for a in n.args):
            inputs, out = str(n.attr("spec")).split("->")
            if min(map(len, inputs.split(","))) == 2 and len(out) == 2:
                return True
    return False


def has_vectors(cell: CellIR, form: MatrixState) -> bool:
    """Whether all vectors of the form are vectors, not constants that stand for one."""
    pairs = [pair for step in form.steps for pair in (*step.low_rank, *step.writes)]
    return all(n is not None and cell.nodes[n].type.rank == 1 for pair in pairs for n in pair)


def by_form(b: Builder, cell: CellIR, state: State, form: MatrixState) -> NodeId:
    """Nodes of the state's new value; K is the first axis inside."""
    right = form.side == "right"
    s = b.transpose(state.node) if right else state.node
    for step in form.steps:
        s = micro_step(b, cell, s, step)
    s = b.transpose(s) if right else s
    b.nodes[s] = replace(b.nodes[s], name=cell.nodes[state.update].name, span=cell.nodes[state.update].span)
    return s


def micro_step(b: Builder, cell: CellIR, s: NodeId, step: MicroStep) -> NodeId:
    fused, low_rank, writes = fused_updates(cell, step)
    total = s
    if step.decay is not None:
        decay = step.decay
        if b.type(decay).rank == 1:
            decay = b.add("expand", decay, axes=(-1,))
        total = b.map("mul", decay, s)
    for u in fused:
        value = read(b, s, u.b)
        for factor in u.factors:
            value = b.map("mul", factor, value)
        if u.v is not None:
            value = b.map("sub" if u.negative else "add", u.v, value)
        elif u.negative:
            value = b.map("neg", value)
        total = b.map("add", total, b.outer(u.u, value))
    for a, key in low_rank:
        total = b.map("add", total, b.outer(a, read(b, s, key)))
    for u_, v in writes:
        assert v is not None
        total = b.map("add", total, b.outer(u_, v))
    return total


def read(b: Builder, s: NodeId, key: NodeId) -> NodeId:
    return b.einsum("ij,i->j", s, key)


def replaced(cell: CellIR, nodes: list[Node], moved: dict[NodeId, NodeId]) -> CellIR:
    """`cell` over `nodes`, every use of a key of `moved` reading its value instead, sorted and without dead nodes."""
    at: dict[NodeId, NodeId] = {}
    ordered: list[Node] = []

    def place(i: NodeId) -> NodeId:
        i = moved.get(i, i)
        if i not in at:
            args = tuple(place(a) for a in nodes[i].args)
            at[i] = len(ordered)
            ordered.append(replace(nodes[i], id=len(ordered), args=args))
        return at[i]

    for i in range(len(cell.nodes)):
        place(i)
    return remap(cell, tuple(ordered), {i: at[moved.get(i, i)] for i in range(len(cell.nodes))})

"""Norms and softmax inside updates, written as the sums that they are: kernels need no rule for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rnnc.analysis.forms import Recurrence
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.backends.torch.cheap import replaced
from rnnc.backends.torch.needs import state_dependence
from rnnc.ir.builder import Builder
from rnnc.ir.graph import Node, NodeId, ancestors

NORMS = frozenset({"softmax", "l2norm", "rmsnorm", "layernorm"})


def without_norms(recurrence: Recurrence) -> Recurrence:
    """The recurrence of an equal cell without norms on the way from a group's states to their updates.

    before: h <- l2norm(x)      -->  after: h <- x / sqrt(sum(x * x) + eps)
    """
    cell = recurrence.cell
    depends = state_dependence(cell)
    b = Builder.of(cell)
    moved: dict[NodeId, NodeId] = {}
    for group in recurrence.groups:
        own = set(group.states)
        for i in sorted(ancestors(cell, [cell.state(s).update for s in group.states])):
            node = cell.nodes[i]
            if node.op in NORMS and depends[i] & own and node.type.dtype == "real":
                new = moved[i] = _plain(b, node)
                b.nodes[new] = replace(b.nodes[new], name=node.name, span=node.span)
    return analyse_recurrence(replaced(cell, b.nodes, moved)) if moved else recurrence


def _plain(b: Builder, node: Node) -> NodeId:
    (x,) = node.args
    eps: Any = node.attr("eps") if node.op != "softmax" else 0

    def over(op: str, y: NodeId) -> NodeId:
        return b.add("expand", b.add(op, y, axes=(-1,)), axes=(-1,))

    if node.op == "softmax":
        top = b.add("exp", b.map("sub", x, over("amax", x)))
        return b.map("div", top, over("sum", top))
    if node.op == "layernorm":
        x = b.map("sub", x, over("mean", x))
    size = over("sum" if node.op == "l2norm" else "mean", b.map("mul", x, x))
    return b.map("div", x, b.add("sqrt", b.map("add", size, b.const(eps))))

"""The one evaluator: walks a cell's graph in topological order over a domain that says what a value is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

from rnnc.ir.graph import CellIR, Node, NodeId, ancestors

V = TypeVar("V")


class Domain(Protocol[V]):
    """What a value is.  A domain is built for one cell (it may look up `cell.nodes[a].type` of an argument `a`)."""

    def leaf(self, node: Node) -> V:
        """The value of a node without arguments (input, param, state, const, dim, eye, arange)."""
        ...

    def apply(self, node: Node, args: tuple[V, ...]) -> V:
        """The value of `node` from those of its arguments, in order."""
        ...


def evaluate(
    cell: CellIR,
    domain: Domain[V],
    nodes: Iterable[NodeId] | None = None,
    known: Mapping[NodeId, V] | None = None,
) -> dict[NodeId, V]:
    """Values of `nodes` (all nodes when None) and of everything they are computed from.

    Nodes in `known` have that value; what only they need is left out.
    """
    known = known or {}
    wanted = range(len(cell.nodes)) if nodes is None else nodes
    needed = ancestors(cell, wanted, known.keys())
    values: dict[NodeId, V] = {}
    for i in sorted(needed):
        node = cell.nodes[i]
        if i in known:
            values[i] = known[i]
        else:
            values[i] = domain.apply(node, tuple([values[a] for a in node.args])) if node.args else domain.leaf(node)
    return values

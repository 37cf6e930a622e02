"""The one evaluator: walks a graph in topological order over a domain that says what a value is.

`evaluate` reads the nodes of a finished cell; a `Walk` reads on demand, also from a graph that still grows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from rnnc.ir.graph import CellIR, Node, NodeId

V = TypeVar("V")


class Domain(ABC, Generic[V]):
    """What a value is.  A domain is built for one graph, and may look at the nodes around the one it is asked for: the
    values of everything that a node is computed from (not past leaves) are known when it is reached.
    """

    def is_leaf(self, node: Node) -> bool:
        """Whether the value of `node` is found without those of its arguments, which are then not read."""
        return not node.args

    @abstractmethod
    def leaf(self, node: Node) -> V:
        """The value of a leaf."""

    @abstractmethod
    def apply(self, node: Node, args: tuple[V, ...]) -> V:
        """The value of `node` from those of its arguments, in order."""


class Walk(Generic[V]):
    """The values of a graph's nodes in one domain, each found once: when it, or what is computed from it, is asked for.

    `nodes` may be a list that grows (a builder's), also while a value is being found.  `values` (kept, not copied) has
    what is known beforehand.
    """

    __slots__ = ("domain", "nodes", "values")

    def __init__(self, nodes: Sequence[Node], domain: Domain[V], values: dict[NodeId, V] | None = None) -> None:
        self.nodes = nodes
        self.domain = domain
        self.values: dict[NodeId, V] = {} if values is None else values

    def __getitem__(self, node: NodeId) -> V:
        if node not in self.values:
            self.run((node,))
        return self.values[node]

    def run(self, wanted: Iterable[NodeId]) -> None:
        """Finds the values of `wanted` and of everything they need, in topological order."""
        nodes, domain, values = self.nodes, self.domain, self.values
        is_leaf: dict[NodeId, bool] = {}
        work = list(wanted)
        while work:
            i = work.pop()
            if i in values or i in is_leaf:
                continue
            is_leaf[i] = domain.is_leaf(nodes[i])
            if not is_leaf[i]:
                work.extend(nodes[i].args)
        for i in sorted(is_leaf):
            if i in values:  # the domain asked for it on the way
                continue
            node = nodes[i]
            values[i] = domain.leaf(node) if is_leaf[i] else domain.apply(node, tuple([values[a] for a in node.args]))


def evaluate(
    cell: CellIR,
    domain: Domain[V],
    nodes: Iterable[NodeId] | None = None,
    known: Mapping[NodeId, V] | None = None,
) -> dict[NodeId, V]:
    """Values of `nodes` (all nodes when None) and of everything they are computed from, beside those in `known`."""
    walk = Walk(cell.nodes, domain, dict(known or {}))
    walk.run(range(len(cell.nodes)) if nodes is None else nodes)
    return walk.values

"""Reverse mode on the graph: forward and backward of one step as one graph.

The rules stand in the op table (`Op.vjp`).  Batch and time are no axes of the graph, so the gradient of a static node
(a parameter) comes out per batch element and step: whoever runs the graph sums over those axes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from rnnc.ir.builder import Builder
from rnnc.ir.dims import ONE
from rnnc.ir.graph import CellIR, Node, NodeId
from rnnc.ir.ops import OPS
from rnnc.ir.types import Type


@dataclass(frozen=True, slots=True, kw_only=True)
class Backward:
    """`cell` is the original with nodes appended (original ids stay).

    `seeds`: for each root, the "input" node that holds the gradient of the loss with respect to it.
    `grads`: for each wanted node, the node of its gradient; absent where it is zero by structure.
    """

    cell: CellIR
    seeds: dict[NodeId, NodeId]
    grads: dict[NodeId, NodeId]


def backward(
    cell: CellIR, roots: Iterable[NodeId], wanted: Iterable[NodeId], stop: Set[NodeId] = frozenset()
) -> Backward:
    """Gradients of a real loss with respect to the nodes `wanted`, from those with respect to `roots`.

    Requires: no time or model operation on the way (`rnnc.ir.unfold` removes them), but for the nodes in `stop`, which
    count as leaves.
    Complex gradients follow PyTorch: the conjugate of dL/dz.
    before: y = mul(a, x)      -->  after: also d_y = input;  d_a = mul(d_y, conj(x));  d_x = mul(d_y, conj(a))
    """
    b = Builder.of(cell)
    wanted = tuple(wanted)
    seeds: dict[NodeId, NodeId] = {}
    for root in dict.fromkeys(roots):
        if cell.nodes[root].type.dtype in ("real", "complex"):
            seeds[root] = b.leaf("input", f"d_{cell.nodes[root].name or root}", cell.nodes[root].type)
    grads = propagate(b, cell.nodes, seeds, wanted, stop)
    return Backward(cell=replace(cell, nodes=tuple(b.nodes)), seeds=seeds, grads=grads)


def propagate(
    b: Builder,
    nodes: Sequence[Node],
    seeds: Mapping[NodeId, NodeId],
    wanted: Sequence[NodeId],
    stop: Set[NodeId] = frozenset(),
) -> dict[NodeId, NodeId]:
    """The gradients of the nodes `wanted`, appended to `b`; absent where they are zero by structure.

    Requires: `nodes` are the first ones of `b`; `seeds`: each root with the node of its gradient; else as `backward`.
    """
    active = _active(nodes, wanted)
    grads = dict(seeds)
    outer_span = b.span
    for node in reversed(nodes):
        if node.id not in active or node.id not in grads or node.id in stop or not node.args:
            continue
        op = OPS[node.op]
        if op.category in ("time", "model"):
            raise ValueError(f"`{node.op}` has no derivative within one step; unfold the cell first")
        if op.vjp is None:
            continue
        want = tuple(a in active for a in node.args)
        b.span = node.span
        for arg, g, use in zip(node.args, op.vjp(b, node, grads[node.id], want), want, strict=True):
            if use and g is not None:
                fitted = fit(b, g, nodes[arg].type)
                grads[arg] = b.map("add", grads[arg], fitted) if arg in grads else fitted
    b.span = outer_span
    return {w: _as_dtype(b, grads[w], nodes[w].type) for w in wanted if w in grads}


def _active(nodes: Sequence[Node], wanted: Iterable[NodeId]) -> set[NodeId]:
    """Nodes through which a gradient reaches something wanted."""
    active = set(wanted)
    for n in nodes:
        if n.type.dtype in ("real", "complex") and any(a in active for a in n.args):
            active.add(n.id)
    return active


def _as_dtype(b: Builder, g: NodeId, type_: Type) -> NodeId:
    have = b.type(g).dtype
    if type_.dtype == "real" and have == "complex":
        return b.map("re", g)
    if type_.dtype == "complex" and have == "real":
        return b.map("complex", g, b.const(0))
    return g


def fit(b: Builder, g: NodeId, type_: Type) -> NodeId:
    """`g` as a gradient of a value of `type_`: summed over the axes along which that value was broadcast."""
    g = _as_dtype(b, g, type_) if type_.dtype == "real" else g
    have = b.type(g)
    if len(have.per) > len(type_.per):
        assert not type_.per, "values are broadcast into per blocks by `lift`"
        g = b.add("merge", g, n=len(have.per))
        have = b.type(g)
    extra = have.rank - type_.rank
    if extra > 0:
        g = b.add("sum", g, axes=tuple(range(-have.rank, -type_.rank)))
        have = b.type(g)
    ones = tuple(
        i - type_.rank
        for i, (old, new) in enumerate(zip(type_.shape, have.shape, strict=True))
        if old == ONE and new != ONE
    )
    return b.add("expand", b.add("sum", g, axes=ones), axes=ones) if ones else g

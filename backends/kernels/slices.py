"""Gates sliced out of one product with a learned matrix: slices moved down to what is sliced in the end.

A product whose result is taken apart leads from n entries of a state to 4 n numbers, of which no two have the same
index as an entry; a product with a part of the matrix leads from n to n.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rnnc.backends.torch.cheap import replaced
from rnnc.backends.torch.context import static_nodes
from rnnc.backends.torch.needs import state_dependence
from rnnc.ir.builder import Builder
from rnnc.ir.dims import ONE, Dim
from rnnc.ir.graph import CellIR, Node, NodeId
from rnnc.ir.ops import OPS
from rnnc.ir.rewrite import copy_node


def slices_down(cell: CellIR) -> CellIR:
    """The same cell, no slice standing behind a product of a learned matrix with a state's values.

    before: z = W @ h + V @ x; i = z[0:n]      -->  after: i = W[0:n] @ h + (V @ x)[0:n]
    """
    mover = _Mover(cell)
    moved: dict[NodeId, NodeId] = {}
    for node in cell.nodes:
        if node.op == "slice" and mover.reaches_product(node.args[0]):
            moved[node.id] = mover.slice(node.args[0], node)
    return replaced(cell, mover.b.nodes, moved) if moved else cell


class _Mover:
    def __init__(self, cell: CellIR) -> None:
        self.b = Builder.of(cell)
        self.count = len(cell.nodes)
        self.static = static_nodes(cell)
        self.depends = state_dependence(cell)

    def node(self, i: NodeId) -> Node:
        return self.b.nodes[i]

    def reaches_product(self, i: NodeId) -> bool:
        """Whether slices can be moved from a node to a product, through entry by entry operations alone."""
        node = self.node(i)
        if i >= self.count or not self.depends[i]:
            return False
        if node.op == "einsum":
            return any(a in self.static for a in node.args)
        return OPS[node.op].category == "elementwise" and any(self.reaches_product(a) for a in node.args)

    def slice(self, i: NodeId, like: Node) -> NodeId:
        """Node `i` sliced as the node `like` slices its argument."""
        node, axis = self.node(i), _axis(like)
        if not self.reaches_product(i):
            return self._cut(i, like, axis)
        if node.op == "einsum":
            return self._product(node, like, axis)
        args = [a if self._short(a, axis) else self.slice(a, like) for a in node.args]
        return copy_node(self.b, replace(node, name=""), tuple(args))

    def _short(self, i: NodeId, axis: int) -> bool:
        """Whether an operand is the same all along the axis."""
        shape = self.node(i).type.shape
        return len(shape) < -axis or shape[axis] == ONE

    def _product(self, node: Node, like: Node, axis: int) -> NodeId:
        spec = str(node.attr("spec"))
        inputs, out = spec.split("->")
        letter = out[axis]
        args = []
        for letters, a in zip(inputs.split(","), node.args, strict=True):
            args.append(self._cut(a, like, letters.index(letter) - len(letters)) if letter in letters else a)
        return self.b.add("einsum", *args, spec=spec)

    def _cut(self, i: NodeId, like: Node, axis: int) -> NodeId:
        bounds: tuple[Any, Any] = like.attr("start"), like.attr("stop")
        size = self.node(i).type.shape[axis]
        if (Dim.of(bounds[0]), Dim.of(bounds[1])) == (Dim.of(0), size):
            return i
        return self.b.add("slice", i, axis=axis, start=bounds[0], stop=bounds[1])


def _axis(like: Node) -> int:
    axis: Any = like.attr("axis")
    return int(axis)

"""Logarithms by structure: a node for log(value), for values that are exponentials by how they are computed."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from rnnc.ir.builder import Builder
from rnnc.ir.evaluate import Domain, Walk
from rnnc.ir.graph import Node, NodeId

VIEWS = frozenset({"lift", "expand", "broadcast", "reshape", "transpose", "slice", "merge", "split_per"})
PRODUCTS = frozenset({"mul", "div", "pow", "sqrt"})


class Logarithms(Domain["NodeId | None"]):
    """The domain, over a builder's growing graph: None where a value is no exponential of anything.

    exp x --> x;  sigmoid x --> logsigmoid x;  1 - sigmoid x --> logsigmoid(-x);  p q --> log p + log q;
    p / q --> log p - log q;  p ^ y --> y log p;  sqrt p --> log p / 2;  views pass through.
    """

    def __init__(self, b: Builder) -> None:
        self.b = b
        self.of = Walk(b.nodes, self)

    def is_leaf(self, node: Node) -> bool:
        return node.type.dtype != "real" or node.op not in VIEWS | PRODUCTS

    def leaf(self, node: Node) -> NodeId | None:
        if node.type.dtype != "real":
            return None
        match node.op:
            case "exp":
                return node.args[0]
            case "sigmoid":
                return self.b.map("logsigmoid", node.args[0])
            case "sub" if (x := self._one_minus_sigmoid(node)) is not None:
                return self.b.map("logsigmoid", self.b.map("neg", x))
        return self.other(node)

    def other(self, node: Node) -> NodeId | None:
        """Of what has no logarithm by structure."""
        return None

    def apply(self, node: Node, args: tuple[NodeId | None, ...]) -> NodeId | None:
        b, first, last = self.b, args[0], args[-1]
        if first is None or (last is None and node.op != "pow"):
            return None
        match node.op:
            case "mul" if node.args[0] == node.args[1]:
                return b.map("mul", b.const(2), first)
            case "mul" | "div":
                assert last is not None
                return b.map("add" if node.op == "mul" else "sub", first, last)
            case "pow":
                return b.map("mul", node.args[1], first) if b.type(node.args[1]).dtype == "real" else None
            case "sqrt":
                return b.map("mul", b.const(Fraction(1, 2)), first)
        if b.is_free_scalar(first):
            return first
        attrs: dict[str, Any] = dict(node.attrs)
        return b.add(node.op, first, **attrs)

    def _one_minus_sigmoid(self, n: Node) -> NodeId | None:
        nodes, one = self.b.nodes, n.args[0]
        while nodes[one].op in VIEWS:
            one = nodes[one].args[0]
        if nodes[one].op != "const" or nodes[one].attr("value") != 1 or nodes[n.args[1]].op != "sigmoid":
            return None
        return nodes[n.args[1]].args[0]

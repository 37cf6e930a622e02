"""Rewrites that keep the digits which floating point would lose; exact mathematics is left as it is.

They are applied to cells that are about to be compiled, not to those that are analysed: proofs and searches for weights
see what the spec says.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

from rnnc.ir.builder import Builder
from rnnc.ir.evaluate import Domain, Walk
from rnnc.ir.graph import CellIR, Node, NodeId
from rnnc.ir.rewrite import rebuild

VIEWS = frozenset({"lift", "expand", "broadcast"})


class Exponents(Domain["NodeId | None"]):
    """w with exp(w) the value, by how it is computed: None where that is no product of powers of exponentials.

    exp(w) --> w;  sigmoid(x) --> logsigmoid(x);  p q --> v + w;  p / q --> v - w;  p ^ y --> y w;  sqrt p --> w / 2
    """

    def __init__(self, b: Builder) -> None:
        self.b = b
        self.found = Walk(b.nodes, self)

    def is_leaf(self, node: Node) -> bool:
        return node.type.dtype != "real" or node.op not in {"mul", "div", "pow", "sqrt", *VIEWS}

    def leaf(self, node: Node) -> NodeId | None:
        if node.type.dtype != "real" or node.op not in ("exp", "sigmoid"):
            return None
        return node.args[0] if node.op == "exp" else self.b.map("logsigmoid", node.args[0])

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
                return b.map("mul", node.args[1], first)
            case "sqrt":
                return b.map("mul", b.const(Fraction(1, 2)), first)
        attrs: dict[str, Any] = dict(node.attrs)
        return b.add(node.op, first, **attrs)


def keep_digits(cell: CellIR) -> CellIR:
    """1 - exp(w) --> -expm1(w), and exp(w) - 1 --> expm1(w), for every product of powers that is an exponential.

    `sqrt(1 - a^2)` with a = exp(w) has an infinite derivative in float32 where a rounds to 1; `sqrt(-expm1(2 w))` has
    not.  Requires: a simplified cell.  Ensures: the same values in exact arithmetic; names stay.
    """
    subcells = tuple(keep_digits(sub) for sub in cell.subcells)
    seen: list[Exponents] = []  # one walk over the graph that is being built

    def rule(b: Builder, node: Node, args: tuple[NodeId, ...]) -> NodeId | None:
        if node.op != "sub" or node.type.dtype != "real":
            return None
        exponents = seen[0] if seen else Exponents(b)
        seen[:] = [exponents]
        for value, other, negated in ((args[1], args[0], True), (args[0], args[1], False)):
            one = b.nodes[other].op == "const" and b.nodes[other].attr("value") == Fraction(1)
            if not one or b.type(value) != node.type or _is_sigmoid(b, value):
                continue
            if (exponent := exponents.found[value]) is not None:
                new = b.map("expm1", exponent)
                new = b.map("neg", new) if negated else new
                if node.name and not b.nodes[new].name:
                    b.nodes[new] = replace(b.nodes[new], name=node.name)
                return new if b.type(new) == node.type else None
        return None

    return rebuild(replace(cell, subcells=subcells), rule)[0]


def _is_sigmoid(b: Builder, node: NodeId) -> bool:
    """1 - sigmoid(x) needs no help: its derivative does not divide by it."""
    while b.nodes[node].op in VIEWS:
        node = b.nodes[node].args[0]
    return b.nodes[node].op == "sigmoid"

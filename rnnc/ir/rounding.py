"""Rewrites that keep the digits which floating point would lose; exact mathematics is left as it is.

They are applied to cells that are about to be compiled, not to those that are analysed: proofs and searches for weights
see what the spec says.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from rnnc.ir.builder import Builder
from rnnc.ir.graph import CellIR, Node, NodeId
from rnnc.ir.logs import VIEWS, Logarithms
from rnnc.ir.rewrite import rebuild


def keep_digits(cell: CellIR) -> CellIR:
    """1 - exp(w) --> -expm1(w), and exp(w) - 1 --> expm1(w), for every product of powers that is an exponential.

    `sqrt(1 - a^2)` with a = exp(w) has an infinite derivative in float32 where a rounds to 1; `sqrt(-expm1(2 w))` has
    not.  Requires: a simplified cell.  Ensures: the same values in exact arithmetic; names stay.
    """
    subcells = tuple(keep_digits(sub) for sub in cell.subcells)
    seen: list[Logarithms] = []  # one walk over the graph that is being built

    def rule(b: Builder, node: Node, args: tuple[NodeId, ...]) -> NodeId | None:
        if node.op != "sub" or node.type.dtype != "real":
            return None
        logs = seen[0] if seen else Logarithms(b)
        seen[:] = [logs]
        for value, other, negated in ((args[1], args[0], True), (args[0], args[1], False)):
            one = b.nodes[other].op == "const" and b.nodes[other].attr("value") == Fraction(1)
            if not one or b.type(value) != node.type or _is_sigmoid(b, value):
                continue
            if (exponent := logs.of[value]) is not None:
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

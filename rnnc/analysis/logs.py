"""The logarithm of a coefficient that is positive by how it is computed, without a `log` of something that may
underflow.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from rnnc.analysis import intervals
from rnnc.analysis.ranges import Ranges
from rnnc.ir.builder import Builder
from rnnc.ir.graph import Node, NodeId

PASSES_THROUGH = frozenset({"lift", "expand", "broadcast", "reshape", "transpose", "slice", "merge", "split_per"})


def log_of(b: Builder, node: NodeId) -> NodeId | None:
    """A node for log(node), or None where positivity is not evident.

    log(exp x) --> x; log(sigmoid x) --> logsigmoid x; log(1 - sigmoid x) --> logsigmoid(-x); log(p q) --> log p + log
    q; log(p^y) --> y log p; views pass through; other values that are positive by construction get a `log` node.
    """
    n = b.nodes[node]
    if n.type.dtype != "real":
        return None
    match n.op:
        case "const":
            return b.add("log", node) if _positive_const(n) else None
        case "exp":
            return n.args[0]
        case "sigmoid":
            return b.map("logsigmoid", n.args[0])
        case "sub" if (inner := _one_minus_sigmoid(b, n)) is not None:
            return b.map("logsigmoid", b.map("neg", inner))
        case "mul" | "div":
            logs = [log_of(b, a) for a in n.args]
            if logs[0] is None or logs[1] is None:
                return None
            return b.map("add" if n.op == "mul" else "sub", logs[0], logs[1])
        case "pow":
            base = log_of(b, n.args[0])
            return None if base is None else b.map("mul", n.args[1], base)
        case "sqrt":
            inner = log_of(b, n.args[0])
            return None if inner is None else b.map("mul", b.const(Fraction(1, 2)), inner)
        case op if op in PASSES_THROUGH:
            inner = log_of(b, n.args[0])
            if inner is None or b.is_free_scalar(inner):
                return inner
            attrs: dict[str, Any] = dict(n.attrs)
            return b.add(op, inner, **attrs)
        case _:
            return b.map("log", node) if is_positive(b, node) else None


def _one_minus_sigmoid(b: Builder, n: Node) -> NodeId | None:
    one = _behind_views(b, n.args[0])
    if b.nodes[one].op != "const" or b.nodes[one].attr("value") != 1:
        return None
    return b.nodes[n.args[1]].args[0] if b.nodes[n.args[1]].op == "sigmoid" else None


def _behind_views(b: Builder, node: NodeId) -> NodeId:
    while b.nodes[node].op in PASSES_THROUGH:
        node = b.nodes[node].args[0]
    return node


def _positive_const(n: Node) -> bool:
    value = n.attr("value")
    return value in ("pi", "e") or (isinstance(value, Fraction) and value > 0)


def is_positive(b: Builder, node: NodeId) -> bool:
    """Whether the value is above zero whatever the parameters and inputs are (declared domains of inputs are not
    trusted: a logarithm of a negative number would be silent).
    """
    return intervals.is_positive(Ranges(b.nodes, {}).real(node)) and b.nodes[node].type.dtype == "real"

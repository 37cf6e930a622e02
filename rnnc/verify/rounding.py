"""Signs and monotonicity of values as floating point computes them, in any format.

Rounding is monotone and keeps 0 and 1; beyond that only the operations as they are written count: `(1 - z) * h + z * c`
rises with h in every format, and `h - z * h` need not, where z h rounds into another binade.
"""

from __future__ import annotations

from fractions import Fraction

from rnnc.ir.graph import CellIR, Node, NodeId, ancestors

_NONNEGATIVE = frozenset({"exp", "sigmoid", "softplus", "relu", "abs", "sqrt", "softmax", "one_hot", "step", "real"})
_AT_MOST_ONE = frozenset({"sigmoid", "softmax", "one_hot", "step"})
_VIEWS = frozenset({"lift", "merge", "split_per", "expand", "broadcast", "reshape", "transpose", "slice", "take"})


def nonnegative_in_floats(cell: CellIR, node: NodeId) -> bool:
    """Whether the value of a real node, computed in any floating-point format, is never negative (nor NaN by a sign).

    By the signs of rounded operations alone: rounding is monotone and keeps 0 and 1.
    """
    n = cell.nodes[node]
    args = n.args
    if n.op in _NONNEGATIVE:
        return n.op != "real" or cell.nodes[args[0]].type.dtype == "bool"
    match n.op:
        case "const":
            return all(v >= 0 for v in _numbers(n.attr("value")))
        case "dim" | "eye":
            return True
        case "mul":
            return args[0] == args[1] or all(nonnegative_in_floats(cell, a) for a in args)
        case "add" | "div" | "min" | "sum" | "mean" | "concat":
            return all(nonnegative_in_floats(cell, a) for a in args)
        case "max":
            return any(nonnegative_in_floats(cell, a) for a in args)
        case "select":
            return all(nonnegative_in_floats(cell, a) for a in args[1:])
        case "pow":
            return nonnegative_in_floats(cell, args[0])
        case "sub":
            return _numbers(cell.nodes[args[0]].attr("value")) == [Fraction(1)] and _at_most_one(cell, args[1])
        case op if op in _VIEWS:
            return nonnegative_in_floats(cell, args[0])
    return False


def _at_most_one(cell: CellIR, node: NodeId) -> bool:
    n = cell.nodes[node]
    if n.op in _AT_MOST_ONE:
        return True
    match n.op:
        case "const":
            return all(v <= 1 for v in _numbers(n.attr("value")))
        case "mul":
            return all(_at_most_one(cell, a) and nonnegative_in_floats(cell, a) for a in n.args)
        case "sub":
            return _at_most_one(cell, n.args[0]) and nonnegative_in_floats(cell, n.args[1])
    return n.op in _VIEWS and _at_most_one(cell, n.args[0])


def _numbers(value: object) -> list[Fraction]:
    """The entries of a constant; what is no number has no known sign or bound."""
    if isinstance(value, Fraction):
        return [value]
    if isinstance(value, tuple):
        return [x for v in value for x in _numbers(v)]
    return [Fraction(3)] if value in ("pi", "e") else [Fraction(-1), Fraction(2)]


def nondecreasing_in_floats(cell: CellIR, node: NodeId, state: NodeId) -> bool:
    """Whether each entry of `node`, as computed, is a nondecreasing function of the same entry of the state.

    Requires: in exact arithmetic no entry depends on another entry of the state.
    """
    if node == state:
        return True
    n = cell.nodes[node]
    if state not in ancestors(cell, [node]):
        return True
    match n.op:
        case "add" | "max" | "min":
            return all(nondecreasing_in_floats(cell, a, state) for a in n.args)
        case "sub":
            return nondecreasing_in_floats(cell, n.args[0], state) and state not in ancestors(cell, n.args[1:])
        case "mul":
            return any(_scaled_up(cell, a, b, state) for a, b in (n.args, n.args[::-1]))
        case "div":
            return _scaled_up(cell, n.args[1], n.args[0], state)
        case "lift" | "expand" | "broadcast":
            return nondecreasing_in_floats(cell, n.args[0], state)
        case "einsum":
            return _diagonal_times(cell, n, state)
    return False


def _scaled_up(cell: CellIR, factor: NodeId, value: NodeId, state: NodeId) -> bool:
    """A value that rises with the state, times (or over) a number that is never negative and not made from it."""
    return (
        state not in ancestors(cell, [factor])
        and cell.nodes[factor].type.dtype == "real"
        and nonnegative_in_floats(cell, factor)
        and nondecreasing_in_floats(cell, value, state)
    )


def _diagonal_times(cell: CellIR, n: Node, state: NodeId) -> bool:
    """diag(a) @ h (or h @ diag(a)): every sum has one term, beside exact zeros."""
    inputs, _, out = str(n.attr("spec")).partition("->")
    labels = inputs.split(",")
    if len(n.args) != 2 or len(labels) != 2:
        return False
    for i, j in ((0, 1), (1, 0)):
        matrix = cell.nodes[n.args[i]]
        if matrix.op != "layout" or matrix.attr("kind") != "diag" or len(labels[i]) != 2:
            continue
        for inner, outer in (tuple(labels[i]), tuple(labels[i][::-1])):
            if labels[j].count(inner) == 1 and outer not in labels[j] and labels[j].replace(inner, outer) == out:
                return _scaled_up(cell, matrix.args[0], n.args[j], state)
    return False

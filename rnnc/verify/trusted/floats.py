"""Signs and order as floating point computes them, in any format: rounding is monotone and keeps 0 and 1.

Only the operations as they are written count: `(1 - z) * h + z * c` rises with h in every format, and `h - z * h` need
not, where z h rounds into another binade.  -0.0 and 0.0 count as one number (docs/ceilings.md).  Independent of
`rnnc.verify.rounding`; the certificate checker uses it.
"""

from __future__ import annotations

from rnnc.ir.graph import CellIR, Node, ancestors
from rnnc.verify.trusted.ranges import VIEWS, constant

KEPT = frozenset(VIEWS) - {"transpose", "reshape", "slice", "take"}  # an entry stays at its place
POSITIVE_VALUES = ("exp", "sigmoid", "softplus", "relu", "abs", "sqrt", "softmax", "one_hot", "step", "dim", "eye")


def bounded_by_one(cell: CellIR, i: int) -> bool:
    """Whether a value is never above 1."""
    n = cell.nodes[i]
    if n.op == "const":
        return bool(constant(n.attr("value")).hi <= 1)
    if n.op == "mul":
        return all(bounded_by_one(cell, a) and never_negative(cell, a) for a in n.args)
    return n.op in ("sigmoid", "softmax", "one_hot", "step") or (n.op in VIEWS and bounded_by_one(cell, n.args[0]))


def never_negative(cell: CellIR, i: int) -> bool:
    """Whether a value is never negative."""
    n = cell.nodes[i]
    match n.op:
        case op if op in POSITIVE_VALUES:
            return True
        case "const":
            return bool(constant(n.attr("value")).lo >= 0)
        case "real":
            return cell.nodes[n.args[0]].type.dtype == "bool"
        case "mul" if n.args[0] == n.args[1]:
            return True
        case "mul" | "add" | "div" | "min" | "sum" | "mean" | "concat":
            return all(never_negative(cell, a) for a in n.args)
        case "max":
            return any(never_negative(cell, a) for a in n.args)
        case "select":
            return all(never_negative(cell, a) for a in n.args[1:])
        case "sub":
            one = cell.nodes[n.args[0]]
            exactly_one = one.op == "const" and constant(one.attr("value")).lo == constant(one.attr("value")).hi == 1
            return exactly_one and bounded_by_one(cell, n.args[1])
        case op if op in VIEWS or op == "pow":
            return never_negative(cell, n.args[0])
    return False


def rises(cell: CellIR, i: int, state: int) -> bool:
    """Whether each entry of a node rises with the same entry of the state, or stays, and depends on no other one."""
    n, free = cell.nodes[i], [a for a in cell.nodes[i].args if state not in ancestors(cell, [a])]
    if i == state or state not in ancestors(cell, [i]):
        return True
    match n.op:
        case "add" | "max" | "min":
            return all(rises(cell, a, state) for a in n.args)
        case "sub":
            return n.args[1] in free and rises(cell, n.args[0], state)
        case "mul" | "div" if len(free) == 1 and (n.op == "mul" or free == [n.args[1]]):
            own = next(a for a in n.args if a not in free)
            scale = cell.nodes[free[0]].type.dtype == "real" and never_negative(cell, free[0])
            return scale and rises(cell, own, state)
        case "einsum" if len(free) == 1:
            return _diagonal_product(cell, n, state)
        case op if op in KEPT:
            return rises(cell, n.args[0], state)
    return False


def _diagonal_product(cell: CellIR, n: Node, state: int) -> bool:
    """diag(a) @ h or h @ diag(a): every sum has one term, beside exact zeros."""
    ins, _, out = str(n.attr("spec")).partition("->")
    k = int(state in ancestors(cell, [n.args[0]]))  # of the matrix
    matrix, m, x = cell.nodes[n.args[k]], ins.split(",")[k], ins.split(",")[1 - k]
    diagonal = matrix.op == "layout" and matrix.attr("kind") == "diag" and len(m) == 2
    if not diagonal or not never_negative(cell, matrix.args[0]):
        return False
    kept = any(x.count(i) == 1 and o not in x and x.replace(i, o) == out for i, o in ((m[0], m[1]), (m[1], m[0])))
    return kept and rises(cell, n.args[1 - k], state)

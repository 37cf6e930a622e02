"""By which angles a transition turns: the same ones at every step, whatever the input, or not.

A transition that is the same at every step turns its planes by fixed angles, and so does a complex diagonal of the form
r e^(i theta) with r >= 0 that may depend on the input and a theta that does not.
"""

from __future__ import annotations

from rnnc.analysis.elementary import NONNEGATIVE
from rnnc.analysis.forms import Coupled, Elementwise, Recurrence
from rnnc.analysis.intervals import within
from rnnc.analysis.ranges import VIEWS, Ranges
from rnnc.ir.graph import NodeId, is_static
from rnnc.verify.layers import Layer


def fixed_angles(recurrence: Recurrence, layer: Layer) -> str:
    """Why the products over p steps turn by p times fixed angles, or "" where that is not known."""
    forms = layer.group.forms
    if layer.group.semiring != "plus_times" or not forms:
        return ""
    if layer.fixed_transition:
        return "the transition is the same at every step"
    form, ranges = forms[0], Ranges.of(recurrence.cell)
    if isinstance(form, Elementwise) and form.a is not None and _fixed(ranges, form.a):
        return "a diagonal of moduli that depend on the input and angles that do not"
    if isinstance(form, Coupled) and _one_factor(ranges, [a for row in form.a for a in row if a is not None]):
        return "one fixed matrix, times a number that is never negative"
    return ""


_BROADCASTS = frozenset({"lift", "expand", "broadcast"})


def _one_factor(ranges: Ranges, nodes: list[NodeId]) -> bool:
    """Whether the nodes are fixed numbers times the same product, which is never negative."""
    varying = [_varying(ranges, node) for node in nodes]
    return all(v is not None and v == varying[0] for v in varying)


def _varying(ranges: Ranges, node: NodeId) -> tuple[NodeId, ...] | None:
    """The factors of a product that are not the same at every step; None if one of them may be negative."""
    n = ranges.nodes[node]
    if is_static(ranges.nodes, [node]):
        return ()
    if n.op in _BROADCASTS or n.op == "neg":
        return _varying(ranges, n.args[0])
    if n.op == "mul":
        found = [_varying(ranges, a) for a in n.args]
        parts = [i for f in found if f is not None for i in f]
        return None if None in found else tuple(sorted(parts))
    return (node,) if n.type.dtype == "real" and within(ranges.real(node), NONNEGATIVE) else None


def _fixed(ranges: Ranges, node: NodeId) -> bool:
    """Whether the argument of a number is the same at every step (that of zero is any)."""
    n = ranges.nodes[node]
    if is_static(ranges.nodes, [node]):
        return True
    if n.type.dtype == "real" and within(ranges.real(node), NONNEGATIVE):
        return True
    match n.op:
        case "polar":
            return within(ranges.real(n.args[0]), NONNEGATIVE) and is_static(ranges.nodes, n.args[1:2])
        case "mul" | "div":
            return all(_fixed(ranges, a) for a in n.args)
        case "complex":
            return _one_factor(ranges, list(n.args))
        case "exp":
            return _fixed_imaginary(ranges, n.args[0])
        case op if op in VIEWS:
            return _fixed(ranges, n.args[0])
    return False


def _fixed_imaginary(ranges: Ranges, node: NodeId) -> bool:
    """Whether the imaginary part is the same at every step."""
    n = ranges.nodes[node]
    if n.type.dtype == "real" or is_static(ranges.nodes, [node]):
        return True
    match n.op:
        case "complex":
            return is_static(ranges.nodes, n.args[1:2])
        case "add" | "sub" | "neg":
            return all(_fixed_imaginary(ranges, a) for a in n.args)
        case "mul":  # a fixed real factor
            a, b = n.args
            for factor, other in ((a, b), (b, a)):
                if ranges.nodes[factor].type.dtype == "real" and is_static(ranges.nodes, [factor]):
                    return _fixed_imaginary(ranges, other)
            return False
        case op if op in VIEWS:
            return _fixed_imaginary(ranges, n.args[0])
    return False

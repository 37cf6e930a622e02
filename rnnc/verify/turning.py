"""By which angles a transition turns: the same ones at every step, whatever the input, or not.

A transition that is the same at every step turns its planes by fixed angles, and so does a complex diagonal of the form
r e^(i theta) with r >= 0 that may depend on the input and a theta that does not.
"""

from __future__ import annotations

from rnnc.analysis.elementary import NONNEGATIVE
from rnnc.analysis.forms import Elementwise, Recurrence
from rnnc.analysis.intervals import within
from rnnc.analysis.products import is_static
from rnnc.analysis.ranges import VIEWS, Ranges
from rnnc.ir.graph import NodeId
from rnnc.verify.layers import Layer


def fixed_angles(recurrence: Recurrence, layer: Layer) -> str:
    """Why the products over p steps turn by p times fixed angles, or "" where that is not known."""
    forms = layer.group.forms
    if layer.group.semiring != "plus_times" or not forms:
        return ""
    if layer.fixed_transition:
        return "the transition is the same at every step"
    form = forms[0]
    if isinstance(form, Elementwise) and form.a is not None and _fixed(Ranges.of(recurrence.cell), form.a):
        return "a diagonal of moduli that depend on the input and angles that do not"
    return ""


def _fixed(ranges: Ranges, node: NodeId) -> bool:
    """Whether the argument of a number is the same at every step (that of zero is any)."""
    n = ranges.nodes[node]
    if is_static(ranges, node):
        return True
    if n.type.dtype == "real" and within(ranges.real(node), NONNEGATIVE):
        return True
    match n.op:
        case "polar":
            return within(ranges.real(n.args[0]), NONNEGATIVE) and is_static(ranges, n.args[1])
        case "mul" | "div":
            return all(_fixed(ranges, a) for a in n.args)
        case "exp":
            return _fixed_imaginary(ranges, n.args[0])
        case op if op in VIEWS:
            return _fixed(ranges, n.args[0])
    return False


def _fixed_imaginary(ranges: Ranges, node: NodeId) -> bool:
    """Whether the imaginary part is the same at every step."""
    n = ranges.nodes[node]
    if n.type.dtype == "real" or is_static(ranges, node):
        return True
    match n.op:
        case "complex":
            return is_static(ranges, n.args[1])
        case "add" | "sub" | "neg":
            return all(_fixed_imaginary(ranges, a) for a in n.args)
        case "mul":  # a fixed real factor
            a, b = n.args
            for factor, other in ((a, b), (b, a)):
                if ranges.nodes[factor].type.dtype == "real" and is_static(ranges, factor):
                    return _fixed_imaginary(ranges, other)
            return False
        case op if op in VIEWS:
            return _fixed_imaginary(ranges, n.args[0])
    return False

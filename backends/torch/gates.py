"""Gates between an old value and a new one, u a + (1 - u) b: one operation each, found by their structure."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from rnnc.analysis.forms import Elementwise
from rnnc.ir.graph import CellIR, NodeId

__all__ = ["Gated", "Mixture", "gated_update", "mixture"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gated:
    """h' = h + share (new - h), elementwise over one state: the linear form with a = 1 - share, b = share * new."""

    state: str
    share: NodeId
    new: NodeId


def gated_update(cell: CellIR, form: Elementwise) -> Gated | None:
    """An elementwise form over (+, x) whose coefficients are those of a gate, a real one.

    before: h <- (1 - z) h + z c, h <- f h + (1 - f) x      -->  after: share z, new c; share 1 - f, new x
    """
    if form.a is None or form.b is None or cell.nodes[form.b].op != "mul":
        return None
    for share, new in (cell.nodes[form.b].args, cell.nodes[form.b].args[::-1]):
        if cell.nodes[share].type.dtype == "real" and (is_rest(cell, form.a, share) or is_rest(cell, share, form.a)):
            return Gated(state=form.state, share=share, new=new)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """share * new + (1 - share) * old, and the nodes between these and the sum."""

    old: NodeId
    new: NodeId
    share: NodeId
    parts: tuple[NodeId, ...]


def mixture(cell: CellIR, node: NodeId) -> Mixture | None:
    """What a sum mixes, where it is that of a gate.

    before: (1 - z) * c + z * h      -->  after: share z, old c, new h
    """
    n = cell.nodes[node]
    if n.op != "add" or any(cell.nodes[x].op != "mul" for x in n.args):
        return None
    left, right = n.args
    for kept, taken in ((left, right), (right, left)):
        for rest, old in _both_ways(cell, kept):
            for u, new in _both_ways(cell, taken):
                if is_rest(cell, rest, u):
                    return Mixture(old=old, new=new, share=u, parts=(kept, taken, *_down_to_sub(cell, rest)))
    return None


def _both_ways(cell: CellIR, product: NodeId) -> tuple[tuple[NodeId, ...], tuple[NodeId, ...]]:
    args = cell.nodes[product].args
    return args, args[::-1]


def _down_to_sub(cell: CellIR, node: NodeId) -> list[NodeId]:
    n = cell.nodes[node]
    return [node] if n.op == "sub" else [node, *_down_to_sub(cell, n.args[0])]


def is_rest(cell: CellIR, node: NodeId, share: NodeId) -> bool:
    """Whether a node is written as one minus another, both seen through the same broadcast."""
    n, other = cell.nodes[node], cell.nodes[share]
    if n.op in ("expand", "lift", "broadcast"):
        return n.op == other.op and n.attrs == other.attrs and is_rest(cell, n.args[0], other.args[0])
    if n.op != "sub" or n.args[1] != share:
        return False
    one = cell.nodes[n.args[0]]
    return one.op == "const" and one.attr("value") == Fraction(1)

"""Whether a step keeps large states from growing: every value v of it has |v| <= a N + C or |v| <= max(a N, C).

N is the largest entry of the group's states, C a number that no state enters.  With a < 1, or a = 1 in the second form,
the largest entry ever is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import TypeAlias

from rnnc.ir.graph import CellIR, Node, ancestors, is_static
from rnnc.verify.trusted.ranges import INF, UNIT, VIEWS, Ranges

Bound: TypeAlias = "tuple[Fraction, bool] | None"  # a, and whether C is added; None: no bound
NOT_MORE = frozenset({*VIEWS, "neg", "abs", "relu", "silu", "gelu", "mean", "amax", "amin"}) - {"take"}  # than |x|
WILD = frozenset({"log", "pow", "sqrt", "solve", "cayley", "expm", "call", "repeat", "attention", "delay", "conv"})


def kept(cell: CellIR, ranges: Ranges, own: set[int], updates: Iterable[int]) -> bool:
    """Requires: quotients, roots, logarithms and powers of what no state enters are continuous."""
    bounds: dict[int, Bound] = dict.fromkeys(own, (Fraction(1), False))
    moved = {*own}
    for i in sorted(ancestors(cell, updates) - own):
        n = cell.nodes[i]
        if moved.isdisjoint(n.args):
            held = n.op not in ("call", "repeat", "attention") and all(bounds[a] is not None for a in n.args)
            bounds[i] = (Fraction(0), False) if held or is_static(cell.nodes, [i]) else None
            continue
        moved.add(i)
        finite = ranges.of(i, size=True).hi < INF and n.type.dtype in ("real", "complex")
        truth = n.type.dtype not in ("real", "complex")
        bounds[i] = (Fraction(0), False) if finite or truth else _bound(cell, ranges, n, bounds)
    found = [bounds[u] for u in updates]
    return all(b is not None and (b[0] < 1 or (b[0] == 1 and not b[1])) for b in found)


def _bound(cell: CellIR, ranges: Ranges, n: Node, bounds: dict[int, Bound]) -> Bound:
    found = [bounds[a] for a in n.args[n.op == "select" : 1 if n.op == "div" else None]]
    args = [b for b in found if b is not None]
    if len(args) < len(found) or not args:
        return None
    most = max(b[0] for b in args), any(b[1] for b in args)
    if n.op == "div":
        d = ranges.of(n.args[1])
        least = d.lo if d.lo > 0 else -d.hi
        return (args[0][0] / Fraction(least), args[0][1]) if least > 0 and _real(cell, n.args[1]) else None
    if not most[0]:
        return None if n.op in WILD else most
    if n.op in ("add", "sub"):
        return _mixed(cell, ranges, n, bounds) or (args[0][0] + args[1][0], True)
    if n.op == "mul":
        sizes = [ranges.of(a, size=True).hi for a in n.args]
        scaled = [(b[0] * Fraction(size), b[1]) for b, size in zip(args, reversed(sizes), strict=True) if size < INF]
        return scaled[0] if scaled else None
    if n.op in ("softplus", "logsigmoid"):  # no larger than |x| + log 2
        return most[0], True
    if n.op in ("l2norm", "rmsnorm", "layernorm"):
        return (Fraction(0), False) if n.attr("eps") else None
    return most if n.op in NOT_MORE or n.op in ("select", "max", "min", "concat") else None


def _mixed(cell: CellIR, ranges: Ranges, n: Node, bounds: dict[int, Bound]) -> Bound:
    """z a + (1 - z) b and a + z (b - a) lie between a and b where z lies in [0, 1]."""
    nodes = cell.nodes
    turned = [(x, y) for x, y in (n.args, n.args[::-1]) if nodes[y].op == "mul"] if n.op == "add" else []
    for x, y in turned:
        for z, v in (nodes[y].args, nodes[y].args[::-1]):
            share = _real(cell, z) and ranges.of(z).within(UNIT)
            ends = [(x, nodes[v].args[0])] if nodes[v].op == "sub" and nodes[v].args[1] == x else []
            for rest, w in (nodes[x].args, nodes[x].args[::-1]) if nodes[x].op == "mul" else ():
                r = nodes[rest]
                one = r.op == "sub" and nodes[r.args[0]].op == "const" and nodes[r.args[0]].attr("value") == 1
                ends += [(v, w)] if one and r.args[1] == z else []
            for a, b in ends if share else ():
                p, q = bounds[a], bounds[b]
                if p is not None and q is not None:
                    return max(p[0], q[0]), p[1] or q[1]
    return None


def _real(cell: CellIR, node: int) -> bool:
    return bool(cell.nodes[node].type.dtype == "real")

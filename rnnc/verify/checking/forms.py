"""What the transition of a state is made of, and how its eigenvalues and norm are bounded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from rnnc.exact.products import Expansion, NoForm
from rnnc.exact.ranges import FULL, ONE, POSITIVE, ZERO, Range, add, closed, hull, magnitude, mul, reciprocal
from rnnc.ir.dims import ONE as SINGLE
from rnnc.ir.graph import CellIR
from rnnc.ir.types import UnitNorm
from rnnc.verify.checking.ranges import Ranges


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """What is known of a transition for every input: `eigenvalues` where they are real; `nodes`: what it is made of."""

    elementwise: bool = False
    low_rank: bool = False  # diagonal plus low rank along one axis of a matrix; what is written has rank one
    eigenvalues: Range | None = None
    norm: Range = POSITIVE
    nodes: frozenset[int] = frozenset()
    single: bool = False  # a product of these nodes


def spectrum(cell: CellIR, ranges: Ranges, state: int, update: int) -> Spectrum:
    """Of the map from a state to its update.  Raises NoForm where no linear form is found."""
    found: list[Any] = []
    rank, shape = cell.nodes[state].type.rank, (*cell.nodes[state].type.per, *cell.nodes[state].type.shape)
    terms = [t.in_order() for t in Expansion(cell, frozenset({state})).terms(update)]
    apart = rank == 2 and not any(set(t.out[-2:]) <= set(at) for t in terms for n, at in t.factors if n != state)
    for t in terms:
        own = [at for n, at in t.factors if n == state]
        if len(own) > 1:
            raise NoForm("a product of the state with itself")
        if own:
            out = tuple(x for x, d in zip(t.out, shape, strict=True) if d != SINGLE)
            factors = [f for f in t.factors if f[0] != state]
            summed = any(set(at) - {*out, *own[0]} for _, at in factors)
            found.append((FULL if summed else closed(t.coef, t.coef), factors, own[0], out))
    nodes = frozenset(n if n >= 0 else -1 - n for _, factors, _, _ in found for n, _ in factors)
    real = all(cell.nodes[i].type.dtype != "complex" for i in (*nodes, state))
    moved = {k for *_, at, out in found for k in range(len(at)) if at[k] != out[k]}
    if any(None in out or len({*at}) + len({*out}) < 2 * len(at) for *_, at, out in found) or len(moved) > 1:
        return Spectrum(nodes=nodes)
    if moved:
        s = along_one_axis(cell, ranges, found, moved.pop(), real)
        return replace(s, nodes=nodes, low_rank=s.low_rank and (apart or rank == 1))
    whole, sizes = (total(ranges, [f[:2] for f in found], size) for size in (False, True))
    norm = magnitude(whole) if real else closed(0, sizes.hi) if len(found) > 1 else sizes
    one, known = len(found) == 1 and found[0][0].lo >= 0, whole if real else None
    return Spectrum(elementwise=True, low_rank=apart, eigenvalues=known, norm=norm, nodes=nodes, single=one)


def along_one_axis(cell: CellIR, ranges: Ranges, found: list[Any], axis: int, real: bool) -> Spectrum:
    """g (D + sum of c u w^T), D diagonal: symmetric where every w is u, and then bounded by Weyl's inequality."""
    shared, symmetric, inner = Counter(found[0][1]), real, ZERO
    parts: list[Any] = []
    for c, factors, at, out in found:
        o, b = out[axis], at[axis]
        u, w = ([f for f in factors if label in f[1]] if o != b else [] for label in (o, b))
        if any(set(x) - {o, *out} for _, x in u) or any(set(x) - {b, *out} or o in x for _, x in w):
            return Spectrum()
        symmetric &= Counter(u) == Counter((n, tuple(o if y == b else y for y in x)) for n, x in w)
        rest = Counter(f for f in factors if f not in u and f not in w)
        shared &= rest
        parts.append((c, rest, u, o))
    if not symmetric:
        return Spectrum(low_rank=True)
    for c, rest, u, o in parts:
        part = total(ranges, [(c, (rest - shared).elements())])
        for k, (n, x) in enumerate(u):
            size = ranges.of(n, True) if n >= 0 else POSITIVE
            part = mul(
                part,
                squared_norm(cell, ranges, n) if k == 0 and x[-1] == o else POSITIVE if k == 0 else mul(size, size),
            )
        inner = add(inner, hull([*part.ends, (Fraction(0), False)]) if u else part)
    whole = mul(total(ranges, [(ONE, shared.elements())]), inner)
    return Spectrum(low_rank=True, eigenvalues=whole, norm=magnitude(whole))


def total(ranges: Ranges, terms: Any, size: bool = False) -> Range:
    """The range of an entry of the sum of coef (a range) * factors, or a bound on its modulus."""
    whole = ZERO
    for coef, factors in terms:
        one = magnitude(coef) if size else coef
        for (n, _), times in Counter(factors).items():
            node = ranges.of(n, size) if n >= 0 else reciprocal(ranges.of(-1 - n, size))
            for _ in range(times // 2):
                one = mul(one, mul(magnitude(node), magnitude(node)))
            one = mul(one, node) if times % 2 else one
        whole = add(whole, one)
    return whole


def squared_norm(cell: CellIR, ranges: Ranges, i: int) -> Range:
    """The range of the sum of squares along the last axis."""
    n = cell.nodes[i] if i >= 0 else cell.nodes[-1 - i]
    if i >= 0 and n.op in ("lift", "merge", "split_per") and n.type.rank:
        return squared_norm(cell, ranges, n.args[0])
    unit = isinstance(ranges.domains.get(i), UnitNorm) or (i >= 0 and n.op == "l2norm" and not n.attr("eps"))
    return ONE if unit else closed(0, 1) if i >= 0 and n.op == "l2norm" else POSITIVE

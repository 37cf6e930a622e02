"""Rules of the operations along an axis: norms, sums, softmax, convolutions, blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np

from rnnc.exact import I
from rnnc.ir.domains.exact_rules import exact_array, solve
from rnnc.verify.witness.numbers import (
    OMEGA,
    ONE,
    ZERO,
    Number,
    cosine,
    inverse,
    is_real,
    known,
    quotient,
    radians,
    sine,
    size,
    turns_of,
)
from rnnc.verify.witness.want import Option, Want, empty


def _l2norm(w: Want) -> Iterator[Option]:
    """A unit vector from any positive multiple of it; with `eps`, from an infinite one."""
    eps = bool(w.site.attrs["eps"])
    out = empty(w.target.shape)
    for at in np.ndindex(*w.target.shape[:-1]):
        if all(t is None for t in w.target[at]):
            continue
        row: list[Number] = [ZERO if t is None else t for t in w.target[at]]
        if any(row):
            if sum((t * t for t in row), ZERO) != ONE:
                return
            pivot = next(t for t in row if t)
            sign = ONE if size(pivot) > 0 else -ONE
            ratios = [quotient(t, pivot) for t in row]
            scaled = [r * sign for r in ratios if r is not None]
            row = scaled if len(scaled) == len(row) else row
            row = [t * OMEGA if eps else t for t in row]
        out[at] = row
    yield [out]


def _softmax(w: Want) -> Iterator[Option]:
    """One entry 1 and all others 0, in the limit."""
    if all(t is None or known(t) in (0, 1) for t in w.target.reshape(-1)):
        out = empty(w.target.shape)
        for at in w.entries():
            out[at] = OMEGA * w.target[at]
        yield [out]


def _sum(w: Want) -> Iterator[Option]:
    """All of it in the first summand, or in equal shares."""
    axes = tuple(len(w.shapes[0]) + a for a in w.site.attrs["axes"])
    count = math.prod(w.shapes[0][axis] for axis in axes)
    whole = count if w.node.op == "mean" else 1
    for full in (False, True):
        out = empty((w.target.shape[0], *w.shapes[0]))
        for at in np.ndindex(*w.shapes[0]):
            kept = tuple(i for axis, i in enumerate(at) if axis not in axes)
            first = all(at[axis] == 0 for axis in axes)
            for c in range(out.shape[0]):
                t = w.target[(c, *kept)]
                if t is not None:
                    out[(c, *at)] = t * Fraction(whole, count) if full else t * whole if first else ZERO
        yield [out]


def _rotation(w: Want) -> Iterator[Option]:
    """[[cos, -sin], [sin, cos]]"""
    out = empty(w.target.shape[:-2])
    for at in np.ndindex(*out.shape):
        (c, s1), (s2, c2) = w.target[at]
        if c is None and s2 is None:
            continue
        if c is None or s2 is None or (c2 is not None and c != c2) or (s1 is not None and s1 != -s2):
            return
        if not is_real(c) or not is_real(s2) or not -1.0001 < size(c) < 1.0001:
            return
        turns = Fraction(math.atan2(size(s2), size(c)) / (2 * math.pi)).limit_denominator(360)
        if cosine(turns) != c or sine(turns) != s2:
            return
        out[at] = radians(turns)
    yield [out]


def _cayley(w: Want) -> Iterator[Option]:
    """(I + M)^-1 (I - M) = Q where M = (I - Q)(I + Q)^-1, unless Q has the eigenvalue -1."""
    n = w.target.shape[-1]
    one = exact_array(np.eye(n, dtype=int))
    out = empty(w.target.shape)
    for at in np.ndindex(*w.target.shape[:-2]):
        q = w.target[at]
        if any(x is None for x in q.reshape(-1)):
            if any(x is not None for x in q.reshape(-1)):
                return
            continue
        out[at] = solve((one + q).T, (one - q).T).T
    yield [out]


def _expm(w: Want) -> Iterator[Option]:
    """The logarithm of a rotation of the plane, or of a diagonal matrix."""
    out = empty(w.target.shape)
    for at in np.ndindex(*w.target.shape[:-2]):
        q = w.target[at]
        n = q.shape[-1]
        if all(x is None for x in q.reshape(-1)):
            continue
        if any(x is None for x in q.reshape(-1)):
            return
        turns = turns_of(q[0, 0] + I * q[1, 0]) if n == 2 and q[0, 0] == q[1, 1] and q[0, 1] == -q[1, 0] else None
        if turns is not None:
            angle = radians(turns if turns <= Fraction(1, 2) else turns - 1)
            out[at] = [[ZERO, -angle], [angle, ZERO]]
            continue
        logs = [inverse("exp", q[i, i]) for i in range(n)]
        if any(x is None for x in logs) or any(q[i, j] for i in range(n) for j in range(n) if i != j):
            return
        out[at] = [[logs[i] if i == j else ZERO for j in range(n)] for i in range(n)]
    yield [out]


def _conv(w: Want) -> Iterator[Option]:
    """The identity: the newest tap one, the others and the bias zero."""
    tap = empty((w.target.shape[0], *w.shapes[1]))
    tap[...] = ZERO
    tap[..., -1] = ONE
    out: Option = [w.target, tap]
    if len(w.shapes) > 2:
        bias = empty((w.target.shape[0], *w.shapes[2]))
        bias[...] = ZERO
        out.append(bias)
    yield out


ALONG: dict[str, Callable[[Want], Iterator[Option]]] = {
    "l2norm": _l2norm,
    "softmax": _softmax,
    "sum": _sum,
    "mean": _sum,
    "rotation_blocks": _rotation,
    "conv": _conv,
    "cayley": _cayley,
    "expm": _expm,
}

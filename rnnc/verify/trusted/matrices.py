"""Eigenvalues and norms of small matrices: of intervals, of rationals, and of floating-point numbers by a margin.

Independent of `rnnc.analysis`.  What is found holds for every choice of the entries inside their intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from math import isqrt
from typing import Any

import numpy as np

from rnnc.ir.types import Disk, Domain, HalfPlane, Interval
from rnnc.verify.trusted.ranges import INF, POSITIVE, ZERO, Range, add, closed, hull, magnitude, mul, neg, upto

Matrix = Sequence[Sequence[Range]]
MOST_SQUARES = 11
FINE = Fraction(1, 10**6)  # to which irrational eigenvalues are found


def root_above(x: Any) -> Any:
    """sqrt(x), exact where it is rational, else a little more."""
    if x == INF:
        return INF
    scale = 1 if isqrt(x.numerator) ** 2 == x.numerator and isqrt(x.denominator) ** 2 == x.denominator else 10**12
    n, d = x.numerator * x.denominator * scale**2, x.denominator * scale
    return Fraction(isqrt(n) + (isqrt(n) ** 2 != n), d)


def root(a: Range) -> Range:
    """The square root of what lies in `a`, which is >= 0, from 0 on."""
    return Range(Fraction(0), root_above(a.hi), False, a.hi_open and a.hi in (INF, root_above(a.hi) ** 2))


def sum_of(parts: Sequence[Range]) -> Range:
    total = ZERO
    for part in parts:
        total = add(total, part)
    return total


def norm_bound(sizes: Matrix) -> Range:
    """|A| <= sqrt(|A|_1 |A|_inf), from the moduli of the entries."""
    rows, columns = ([upto(sum_of(line)) for line in way] for way in (sizes, [*zip(*sizes)]))
    return root(mul(hull(e for r in rows for e in r.ends), hull(e for c in columns for e in c.ends)))


def gershgorin(m: Matrix) -> Range:
    """Where real eigenvalues lie: in the disks around the entries of the diagonal."""
    ends: list[tuple[Any, bool]] = []
    for i, row in enumerate(m):
        radius = sum_of([magnitude(x) for j, x in enumerate(row) if j != i])
        ends += add(row[i], hull([*radius.ends, *neg(radius).ends])).ends
    return hull(ends)


def real_pair(m: Matrix) -> tuple[Range | None, Range | None]:
    """Of [[a, b], [c, d]]: the eigenvalues if they are real, since b c >= 0; and those of all products of such matrices
    (POSITIVE or anything), if these are real, since nothing is negative.
    """
    (a, b), (c, d) = m
    if mul(b, c).lo < 0:
        return None, None
    determinant, one = add(mul(a, d), neg(mul(b, c))), gershgorin(m)
    if determinant.lo >= 0 and add(a, d).lo >= 0 and one.lo < 0:
        one = Range(Fraction(0), one.hi, False, one.hi_open)
    signed = min(x.lo for x in (a, b, c, d)) >= 0
    return one, (POSITIVE if determinant.lo >= 0 else closed(-INF, INF)) if signed else None


# ---------------------------------------------------------------- rational matrices


def fades(a: Sequence[Sequence[Fraction]]) -> bool:
    """Whether the entries of some power are so small that its norm is below 1: then all eigenvalues are, too."""
    for _ in range(MOST_SQUARES):
        if sum(x * x for row in a for x in row) < 1:
            return True
        columns = [*zip(*a)]
        a = [[sum((x * y for x, y in zip(row, column)), Fraction(0)) for column in columns] for row in a]
    return False


def characteristic(a: Sequence[Sequence[Fraction]]) -> list[Fraction]:
    """Coefficients of det(x - A), the highest first (Faddeev and LeVerrier)."""
    n = len(a)
    m = [[Fraction(i == j) for j in range(n)] for i in range(n)]
    found = [Fraction(1)]
    for k in range(1, n + 1):
        product = [[sum((a[i][r] * m[r][j] for r in range(n)), Fraction(0)) for j in range(n)] for i in range(n)]
        found.append(-sum((product[i][i] for i in range(n)), Fraction(0)) / k)
        m = [[product[i][j] + (found[-1] if i == j else 0) for j in range(n)] for i in range(n)]
    return found


def value(p: Sequence[Fraction], x: Any) -> Fraction:
    total = Fraction(0)
    for c in p:
        total = total * x + c
    return total


def divided(p: Sequence[Fraction], q: Sequence[Fraction]) -> tuple[list[Fraction], list[Fraction]]:
    """Quotient and remainder."""
    rest, quotient = list(p), []
    while len(rest) >= len(q):
        quotient.append(rest[0] / q[0])
        rest = [c - quotient[-1] * (q[k] if k < len(q) else 0) for k, c in enumerate(rest)][1:]
    while rest and rest[0] == 0:
        rest = rest[1:]
    return quotient, rest


def sturm(p: Sequence[Fraction]) -> list[list[Fraction]]:
    chain = [list(p), [c * (len(p) - 1 - k) for k, c in enumerate(p[:-1])]]
    while rest := divided(chain[-2], chain[-1])[1]:
        chain.append([-c for c in rest])
    return chain


def real_roots(p: Sequence[Fraction]) -> Range | None:
    """From the least to the greatest root, if all are real; ends that are not simple fractions are moved outward.

    Requires: a degree of 1 at least.
    """
    simple = divided(p, sturm(p)[-1])[0]  # the same roots, each once
    chain = sturm(simple)

    def changes(x: Fraction) -> int:
        signs = [v > 0 for v in (value(q, x) for q in chain) if v]
        return sum(s != t for s, t in pairwise(signs))

    bound = 1 + max(abs(c / simple[0]) for c in simple[1:])
    if changes(-bound) - changes(bound) < len(simple) - 1:  # Sturm: the number of roots between
        return None
    ends = []
    for flip, target in ((1, changes(bound)), (-1, changes(-bound))):
        near, far = -bound * flip, bound * flip  # no root lies beyond `far`, one lies beyond `near` or at it
        while abs(far - near) > FINE:
            middle = (near + far) / 2
            near, far = (middle, far) if changes(middle) != target else (near, middle)
        guess = ((near + far) / 2).limit_denominator(1000)
        exact = value(simple, guess) == 0 and abs(changes(guess) - target) == (flip < 0)
        ends.append((guess if exact else far, False))
    return hull(ends)


# ---------------------------------------------------------------- matrices of floating-point numbers

MARGIN, WIDE = 1e-6, 1e-2  # above rounding, and above what it does to eigenvalues of matrices that are not normal


def outside(a: Any, wanted: Domain, kind: str) -> bool:
    """Whether an eigenvalue (or the norm) lies outside of a set by a margin."""
    norm, star = float(np.linalg.norm(a, 2)), a.conj().T
    margin = MARGIN if np.allclose(a @ star, star @ a, rtol=1e-12, atol=1e-12) else WIDE
    for z in np.linalg.eigvals(a) if kind == "eigenvalues" else [norm]:
        match wanted:
            case Interval(lo=lo, hi=hi):
                off = abs(np.imag(z)) > WIDE * max(1.0, norm) or _beyond(np.real(z), lo, hi, margin)
            case Disk(radius=r):
                off = _beyond(abs(z), None, r, margin)
            case HalfPlane(bound=b, above=up):
                off = _beyond(np.real(z), b if up else None, None if up else b, margin)
            case _:
                off = False
        if off:
            return True
    return False


def _beyond(x: float, lo: Any, hi: Any, margin: float) -> bool:
    below = lo is not None and x < float(lo) - margin * (1 + abs(float(lo)))
    return bool(below or (hi is not None and x > float(hi) + margin * (1 + abs(float(hi)))))

"""Exact facts of a constant matrix: its characteristic polynomial over Q decides, never a numerical eigensolver.

A ball-arithmetic solver cannot tell a double real eigenvalue from a complex pair ([[1, 1], [0, 1]]); counting the real
roots of the square-free factors of a polynomial can.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from math import isqrt
from operator import mul
from typing import TypeAlias

from rnnc.analysis.intervals import exactly
from rnnc.ir.types import Interval

Rows: TypeAlias = "tuple[tuple[Fraction, ...], ...]"
Poly: TypeAlias = "tuple[Fraction, ...]"  # coefficients, highest first
MAX_SIZE = 24  # of a matrix whose characteristic polynomial is computed
SMALL, FINE, GRID = 12, 20, 2**24  # up to which size how many bounds of complex roots are tried, on which grid
PRECISION = Fraction(1, 10**12)  # width of an enclosure of an irrational root


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantFacts:
    """`interval`: the smallest to the largest eigenvalue, where all are real (ends exact or rounded outward).
    `diagonalisable`: over C.  `norm`: of the spectral norm.  `radius`: of the moduli of the eigenvalues, `abscissa` of
    their real parts.
    """

    real: bool
    interval: Interval | None
    norm: Interval
    radius: Interval
    abscissa: Interval
    unit_circle: bool
    diagonalisable: bool


def constant_rows(value: object) -> Rows | None:
    """A square matrix from a `const` node's value."""
    if not isinstance(value, tuple) or not value or not all(isinstance(r, tuple) for r in value):
        return None
    if any(len(r) != len(value) or not all(isinstance(v, Fraction) for v in r) for r in value):
        return None
    return value


@lru_cache(maxsize=256)
def constant_facts(rows: Rows) -> ConstantFacts | None:
    """None where the matrix is larger than is worth an exact answer."""
    if len(rows) > MAX_SIZE:
        return None
    polynomial = characteristic_polynomial(rows)
    distinct = radical(polynomial)
    real = Roots.of(distinct).count == len(distinct) - 1
    interval = None
    if real:
        interval = Interval(lo=smallest_root(polynomial).lo, hi=largest_root(polynomial).hi)
    norm = _root(largest_root(characteristic_polynomial(_gram(rows))))
    radius = _magnitude(interval) if interval is not None else spectral_radius(polynomial, norm)
    abscissa = interval or largest_real_part(polynomial, norm)
    on_circle = _is_identity(_gram(rows))
    if on_circle:
        norm = radius = exactly(1)
    return ConstantFacts(
        real=real,
        interval=interval,
        norm=norm,
        radius=radius,
        abscissa=abscissa,
        unit_circle=on_circle,
        diagonalisable=_annihilates(rows, distinct),
    )


# ---------------------------------------------------------------- polynomials (coefficients, highest first)


def characteristic_polynomial(rows: Rows) -> tuple[Fraction, ...]:
    """det(x I - A), by Faddeev and Le Verrier on the whole matrix d A: there every division is exact."""
    n = len(rows)
    d = math.lcm(*(v.denominator for row in rows for v in row))
    whole = [[int(v * d) for v in row] for row in rows]
    coefficients = [1]
    m = [[0] * n for _ in range(n)]
    for k in range(1, n + 1):
        m = _products(whole, m)
        for i in range(n):
            m[i][i] += coefficients[-1]
        coefficients.append(-sum(row[i] for i, row in enumerate(_products(whole, m))) // k)
    return tuple(Fraction(c, d**k) for k, c in enumerate(coefficients))


def _products(a: list[list[int]], b: list[list[int]]) -> list[list[int]]:
    columns = list(zip(*b, strict=True))
    return [[sum(map(mul, row, column)) for column in columns] for row in a]


def _trimmed(p: Sequence[Fraction]) -> Poly:
    """Without leading zeros."""
    start = next((i for i, c in enumerate(p) if c != 0), len(p))
    return tuple(p[start:])


def _divided(p: Poly, q: Poly) -> tuple[Poly, Poly]:
    """Quotient and remainder."""
    rest, quotient = list(p), []
    while len(rest) >= len(q):
        c = rest[0] / q[0]
        quotient.append(c)
        rest = [x - c * y for x, y in zip(rest, (*q, *(Fraction(0),) * (len(rest) - len(q))), strict=True)][1:]
    return tuple(quotient), _trimmed(rest)


def _monic(p: Poly) -> Poly:
    return tuple(c / p[0] for c in p)


def _derivative(p: Poly) -> Poly:
    n = len(p) - 1
    return tuple(c * (n - i) for i, c in enumerate(p[:-1]))


def radical(p: Poly) -> Poly:
    """The polynomial with the same roots, each once: p / gcd(p, p')."""
    a, b = _monic(p), _derivative(p)
    while b:
        a, b = _monic(b), _divided(a, _monic(b))[1]
    return _divided(_monic(p), a)[0]


@dataclass(frozen=True, slots=True)
class Roots:
    """The real roots of a polynomial without multiple ones, by its Sturm chain; its coefficients are whole, since only
    the signs of values count.
    """

    chain: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(p: Poly) -> Roots:
        chain = [p, _derivative(p)]
        while len(chain[-1]) > 1:
            rest = _divided(chain[-2], chain[-1])[1]
            if not rest:
                break
            chain.append(tuple(Fraction(-c) for c in _primitive(rest)))
        return Roots(tuple(_primitive(q) for q in chain if q))

    @property
    def bound(self) -> Fraction:
        """All roots are smaller than this in absolute value (Cauchy)."""
        p = self.chain[0]
        return 1 + max((abs(Fraction(c, p[0])) for c in p[1:]), default=Fraction(0))

    def between(self, lo: Fraction, hi: Fraction) -> int:
        """How many lie in (lo, hi]."""
        return self._changes(lo) - self._changes(hi)

    def _changes(self, x: Fraction) -> int:
        signs = [s > 0 for q in self.chain if (s := _sign_at(q, x)) != 0]
        return sum(1 for s, t in pairwise(signs) if s != t)

    @property
    def count(self) -> int:
        return self.between(-self.bound, self.bound)

    def largest(self) -> Interval:
        """An enclosure of the largest real root (there is one); exact where it is a rational of few digits."""
        hi = Fraction(math.ceil(self.bound))
        lo = -hi
        while hi - lo > PRECISION:
            middle = (lo + hi) / 2
            lo, hi = (middle, hi) if self.between(middle, hi) else (lo, middle)
        guess = ((lo + hi) / 2).limit_denominator(10**6)
        for x in (guess, hi):
            if _sign_at(self.chain[0], x) == 0 and not self.between(x, self.bound):
                return exactly(x)
        return Interval(lo=lo, hi=hi)


def _primitive(p: Poly) -> tuple[int, ...]:
    """A positive multiple with whole coefficients that have no factor in common."""
    scale = math.lcm(*(c.denominator for c in p))
    whole = [int(c * scale) for c in p]
    shared = math.gcd(*whole)
    return tuple(c // shared for c in whole)


def _sign_at(p: tuple[int, ...], x: Fraction) -> int:
    """The sign of p(x), by whole numbers."""
    total, power = 0, 1
    for c in p:
        total = total * x.numerator + c * power
        power *= x.denominator
    return (total > 0) - (total < 0)


def largest_root(p: Poly) -> Interval:
    return Roots.of(radical(p)).largest()


def smallest_root(p: Poly) -> Interval:
    """Of p(x): minus the largest of p(-x)."""
    n = len(p) - 1
    found = largest_root(tuple(c if (n - i) % 2 == 0 else -c for i, c in enumerate(p)))
    assert found.lo is not None
    assert found.hi is not None
    return Interval(lo=-found.hi, hi=-found.lo)


# ---------------------------------------------------------------- complex roots


def in_unit_disk(p: Poly) -> bool:
    """Whether all roots lie inside the open unit disk (Schur and Cohn)."""
    p = _monic(p)
    while len(p) > 1:
        last = p[-1]
        if abs(last) >= 1:
            return False
        p = _monic(tuple(x - last * y for x, y in zip(p[:-1], reversed(p[1:]), strict=True)))
    return True


def in_left_half_plane(p: Poly) -> bool:
    """Whether all roots have negative real parts: those of (z + 1)^n p((z - 1) / (z + 1)) lie inside the unit disk."""
    total: Poly = (Fraction(0),)
    power: Poly = (Fraction(1),)  # of z + 1, as Horner's scheme goes on
    for c in p:
        raised = _plus(_scaled(total, (Fraction(1), Fraction(-1))), tuple(c * x for x in power))
        total, power = raised, _scaled(power, (Fraction(1), Fraction(1)))
    total = total[len(total) - len(p) :]
    return total[0] != 0 and in_unit_disk(total)


def _scaled(p: Poly, q: Poly) -> Poly:
    out = [Fraction(0)] * (len(p) + len(q) - 1)
    for i, x in enumerate(p):
        for j, y in enumerate(q):
            out[i + j] += x * y
    return tuple(out)


def _plus(p: Poly, q: Poly) -> Poly:
    size = max(len(p), len(q))
    wide = ((Fraction(0),) * (size - len(x)) + x for x in (p, q))
    return tuple(x + y for x, y in zip(*wide, strict=True))


def spectral_radius(p: Poly, norm: Interval) -> Interval:
    """[0, r] for an r that no root exceeds in modulus, near the least one; below 1 where it is."""

    def below(r: Fraction) -> bool:
        return r > 0 and in_unit_disk(tuple(c / r**k for k, c in enumerate(p)))

    return replace(_least(below, Fraction(1), Fraction(0), norm, len(p)), lo=Fraction(0))


def largest_real_part(p: Poly, norm: Interval) -> Interval:
    """[-|A|, s] for an s that no root exceeds in its real part, near the least one; below 0 where it is."""
    assert norm.hi is not None
    least = -norm.hi

    def below(s: Fraction) -> bool:
        shifted: Poly = (Fraction(0),)
        for c in p:
            shifted = _plus(_scaled(shifted, (Fraction(1), s)), (c,))
        return in_left_half_plane(shifted[len(shifted) - len(p) :])

    return replace(_least(below, Fraction(0), least, norm, len(p)), lo=least)


def _least(below: Callable[[Fraction], bool], first: Fraction, lo: Fraction, norm: Interval, size: int) -> Interval:
    """What lies below some numbers, from `first` on, and never above the norm."""
    assert norm.hi is not None
    hi, strict = norm.hi, False
    for k in range(FINE if size <= SMALL else 1):
        middle = first if k == 0 else Fraction(math.floor((lo + hi) / 2 * GRID), GRID)
        if not lo < middle < hi and not (k == 0 and middle == hi):
            continue
        if below(middle):
            hi, strict = middle, True
        else:
            lo = middle
    return Interval(hi=hi, hi_open=strict)


def _annihilates(rows: Rows, distinct: Poly) -> bool:
    """Whether the product of the distinct factors is zero at A: exactly then A is diagonalisable over C."""
    n = len(rows)
    total = [[Fraction(0)] * n for _ in range(n)]
    for c in distinct:
        total = _times(rows, total)
        for i in range(n):
            total[i][i] += c
    return all(v == 0 for row in total for v in row)


# ---------------------------------------------------------------- matrices of Fractions


def _times(a: Sequence[Sequence[Fraction]], b: Sequence[Sequence[Fraction]]) -> list[list[Fraction]]:
    columns = list(zip(*b, strict=True))
    return [[sum((x * y for x, y in zip(r, c, strict=True) if x and y), Fraction(0)) for c in columns] for r in a]


def _identity(n: int) -> list[list[Fraction]]:
    return [[Fraction(int(i == j)) for j in range(n)] for i in range(n)]


def _gram(rows: Rows) -> Rows:
    """A^T A."""
    columns = tuple(zip(*rows, strict=True))
    return tuple(tuple(r) for r in _times(columns, rows))


def _is_identity(rows: Rows) -> bool:
    return [list(r) for r in rows] == _identity(len(rows))


def _magnitude(x: Interval) -> Interval:
    """The largest absolute value, enclosed."""
    assert x.lo is not None
    assert x.hi is not None
    top = max(abs(x.lo), abs(x.hi))
    return Interval(lo=Fraction(0), hi=top)


def _root(x: Interval) -> Interval:
    """[0, square root of the upper end]; exact for squares of rationals."""
    assert x.hi is not None
    return Interval(lo=Fraction(0), hi=root_above(max(x.hi, Fraction(0))))


def root_above(x: Fraction) -> Fraction:
    """A rational at or above the square root: the root itself where it is rational."""
    num, den = isqrt(x.numerator), isqrt(x.denominator)
    if num * num == x.numerator and den * den == x.denominator:
        return Fraction(num, den)
    scale = 2**80
    return Fraction(isqrt(x.numerator * scale * scale // x.denominator) + 1, scale)

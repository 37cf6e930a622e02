"""Exact facts of a constant matrix: its characteristic polynomial over Q decides, never a numerical eigensolver.

A ball-arithmetic solver cannot tell a double real eigenvalue from a complex pair ([[1, 1], [0, 1]]); counting the real
roots of the square-free factors of a polynomial can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import isqrt
from typing import Any, TypeAlias

from rnnc.analysis.intervals import exactly
from rnnc.ir.types import Interval

Rows: TypeAlias = "tuple[tuple[Fraction, ...], ...]"
MAX_SIZE = 24  # of a matrix whose characteristic polynomial is computed
PRECISION = Fraction(1, 10**12)  # width of an enclosure of an irrational root


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantFacts:
    """`interval`: the smallest to the largest eigenvalue, where all are real (ends exact or rounded outward).
    `diagonalisable`: over C.  `norm`: of the spectral norm.  `radius`: an interval of the spectral radius.
    """

    real: bool
    interval: Interval | None
    norm: Interval
    radius: Interval
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
    factors = square_free(characteristic_polynomial(rows))
    real = all(real_roots(p) == degree(p) for p, _ in factors)
    ends = [r for p, _ in factors for r in enclosures(p)] if real else []
    interval = _hull(ends) if real else None
    gram = [r for p, _ in square_free(characteristic_polynomial(_gram(rows))) for r in enclosures(p)]
    norm = _root(max((Fraction(0), *(r.hi for r in gram if r.hi is not None))))
    radius = _magnitude(interval) if interval is not None else Interval(lo=Fraction(0), hi=norm.hi)
    on_circle = _is_identity(_gram(rows))
    if on_circle:
        norm = radius = exactly(1)
    return ConstantFacts(
        real=real,
        interval=interval,
        norm=Interval(lo=norm.lo, hi=norm.hi),
        radius=radius,
        unit_circle=on_circle,
        diagonalisable=_annihilates(rows, [p for p, _ in factors]),
    )


# ---------------------------------------------------------------- polynomials (coefficients, highest first)


def characteristic_polynomial(rows: Rows) -> tuple[Fraction, ...]:
    """det(x I - A), by Faddeev and Le Verrier."""
    n = len(rows)
    coefficients = [Fraction(1)]
    m: list[list[Fraction]] = [[Fraction(0)] * n for _ in range(n)]
    for k in range(1, n + 1):
        m = _times(rows, m)
        for i in range(n):
            m[i][i] += coefficients[-1]
        am = _times(rows, m)
        coefficients.append(-sum((am[i][i] for i in range(n)), Fraction(0)) / k)
    return tuple(coefficients)


def _poly(p: Sequence[Fraction]) -> Any:
    import sympy

    return sympy.Poly([sympy.Rational(c.numerator, c.denominator) for c in p], sympy.Symbol("x"), domain="QQ")


def square_free(p: Sequence[Fraction]) -> list[tuple[tuple[Fraction, ...], int]]:
    """Square-free factors and their multiplicities."""
    _, factors = _poly(p).sqf_list()
    return [(tuple(Fraction(c.p, c.q) for c in f.all_coeffs()), int(k)) for f, k in factors]


def degree(p: Sequence[Fraction]) -> int:
    return len(p) - 1


def real_roots(p: Sequence[Fraction]) -> int:
    """How many distinct real roots a polynomial has (Sturm)."""
    return int(_poly(p).count_roots())


def enclosures(p: Sequence[Fraction]) -> list[Interval]:
    """Disjoint enclosures of the distinct real roots; exact where a root is rational."""
    import sympy

    eps = sympy.Rational(PRECISION.numerator, PRECISION.denominator)
    found = []
    for (lo, hi), _ in _poly(p).intervals(eps=eps):
        found.append(Interval(lo=Fraction(lo.p, lo.q), hi=Fraction(hi.p, hi.q)))
    for root in _poly(p).ground_roots():
        exact = Fraction(root.p, root.q)
        found = [i for i in found if not (i.lo is not None and i.hi is not None and i.lo <= exact <= i.hi)]
        found.append(exactly(exact))
    return found


def _annihilates(rows: Rows, factors: Sequence[Sequence[Fraction]]) -> bool:
    """Whether the product of the distinct factors is zero at A: exactly then A is diagonalisable over C."""
    n = len(rows)
    total = _identity(n)
    for p in factors:
        value = [[Fraction(0)] * n for _ in range(n)]
        for c in p:
            value = _times(rows, value)
            for i in range(n):
                value[i][i] += c
        total = _times(total, value)
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


def _hull(parts: Sequence[Interval]) -> Interval:
    lows, highs = [p.lo for p in parts if p.lo is not None], [p.hi for p in parts if p.hi is not None]
    return Interval(lo=min(lows), hi=max(highs))


def _magnitude(x: Interval) -> Interval:
    """The largest absolute value, enclosed."""
    assert x.lo is not None
    assert x.hi is not None
    top = max(abs(x.lo), abs(x.hi))
    return Interval(lo=Fraction(0), hi=top)


def _root(x: Fraction) -> Interval:
    """An enclosure of the square root; exact for squares of rationals."""
    return Interval(lo=Fraction(0), hi=root_above(x))


def root_above(x: Fraction) -> Fraction:
    """A rational at or above the square root: the root itself where it is rational."""
    num, den = isqrt(x.numerator), isqrt(x.denominator)
    if num * num == x.numerator and den * den == x.denominator:
        return Fraction(num, den)
    scale = 2**80
    return Fraction(isqrt(x.numerator * scale * scale // x.denominator) + 1, scale)

"""Images of intervals under elementary functions: exact at exact ends, rounded outward elsewhere."""

from __future__ import annotations

import math
from fractions import Fraction

from rnnc.analysis import intervals as iv
from rnnc.analysis.intervals import ALL, between, exactly
from rnnc.ir.dims import Dim
from rnnc.ir.types import Interval

NONNEGATIVE = between(0, None, lo_open=False)


def constant(value: object) -> Interval:
    if isinstance(value, Fraction):
        return exactly(value)
    if isinstance(value, tuple) and value:
        found = constant(value[0])
        for v in value[1:]:
            found = iv.union(found, constant(v))
        return found
    if value == "pi":
        return between(Fraction(31415926, 10**7), Fraction(31415927, 10**7))
    return between(Fraction(27182818, 10**7), Fraction(27182819, 10**7)) if value == "e" else ALL


def dimension(value: Dim) -> Interval:
    """A number made of sizes, which are whole and at least 1."""
    known = value.constant
    if known is not None:
        return exactly(known)
    for low in (1, 0):
        if (value - low).is_nonnegative():
            return between(low, None, lo_open=False)
        if (-value - low).is_nonnegative():
            return between(None, -low, hi_open=False)
    return between(0, None) if all(c > 0 for _, c in value.terms) else ALL


def exp(x: Interval) -> Interval:
    return iv.intersect(iv.monotone(iv.exp, x), between(0, None))


def log(z: Fraction | float) -> Fraction | float:
    if z <= 0:
        return -math.inf
    if isinstance(z, float) and math.isinf(z):
        return z
    near = abs(float(Fraction(z) - 1)) < 0.5  # there the difference from one must not be rounded away
    return Fraction(0) if z == 1 else math.log1p(float(Fraction(z) - 1)) if near else math.log(z)


def sigmoid(x: Interval) -> Interval:
    def value(z: Fraction | float) -> Fraction | float:
        if math.isinf(z):
            return Fraction(1) if z > 0 else Fraction(0)
        return Fraction(1, 2) if z == 0 else 1 / (1 + float(iv.exp(-z)))

    return iv.intersect(iv.monotone(value, x), between(0, 1))


def tanh(z: Fraction | float) -> Fraction | float:
    if math.isinf(z):
        return Fraction(1) if z > 0 else Fraction(-1)
    return Fraction(0) if z == 0 else math.tanh(z)


def softplus(x: Interval) -> Interval:
    def value(z: Fraction | float) -> Fraction | float:
        if math.isinf(z):
            return z if z > 0 else Fraction(0)
        return max(float(z), 0.0) + math.log1p(math.exp(-abs(float(z))))

    return iv.intersect(iv.monotone(value, x), between(0, None))


def sqrt(x: Interval) -> Interval:
    def value(z: Fraction | float) -> Fraction | float:
        return z if z in (0, 1, math.inf) else math.sqrt(z)

    return iv.monotone(value, iv.at_least(x, exactly(0)))


def power(x: Interval, n: Fraction) -> Interval:
    """x^n for a fixed exponent."""
    if n == 0:
        return exactly(1)
    if n.denominator == 1 and n > 0:
        (lo, lo_open), (hi, hi_open) = iv.ends(x if n % 2 else iv.magnitude(x))
        bottom, top = iv.power(lo, int(n), up=False), iv.power(hi, int(n), up=True)
        return iv.hull_of([(bottom, lo_open or bottom == -math.inf), (top, hi_open or top == math.inf)])
    if n < 0:
        return iv.reciprocal(power(x, -n))
    if not iv.within(x, NONNEGATIVE):
        return NONNEGATIVE

    def value(z: Fraction | float) -> Fraction | float:
        return z if z in (0, 1, math.inf) else float(z) ** float(n)

    return iv.monotone(value, x)


def exponential(base: Fraction, exponent: Interval) -> Interval:
    """base^exponent for a base of at least one; exact at small whole exponents."""

    def value(e: Fraction | float) -> Fraction | float:
        if math.isinf(e):
            return iv.exp(e)
        if Fraction(e).denominator == 1 and -64 <= e <= 64:
            return Fraction(base ** int(e))
        return iv.exp(float(e) * math.log(base))

    return exactly(1) if base == 1 else iv.intersect(iv.monotone(value, exponent), between(0, None))


def larger_lower(x: Interval, y: Interval) -> Fraction | None:
    known: list[Fraction] = [v.lo for v in (x, y) if v.lo is not None]
    return max(known) if known else None

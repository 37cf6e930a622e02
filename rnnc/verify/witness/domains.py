"""Declared domains of inputs: values inside, and whether a value is."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from rnnc.exact import NotExact
from rnnc.exact.asymptotic import sign
from rnnc.ir.types import Disk, Domain, HalfPlane, Interval, UnitNorm
from rnnc.verify.witness.numbers import ONE, ZERO, Number, infinite, is_real, modulus
from rnnc.verify.witness.want import Array

GRAIN = Fraction(1, 10**30)  # far above the digits to which irrational ends are rounded


def two_points(domain: Domain | None) -> tuple[Number, Number]:
    """Two values of a domain, 0 and 1 where it has both; more of their multiples may lie outside."""
    if isinstance(domain, UnitNorm) or (holds(domain, ZERO) and holds(domain, ONE)):
        return ZERO, ONE
    first = some_value(domain)
    for step in (ONE, -ONE, *(s * Fraction(1, 2**k) for k in range(1, 12) for s in (1, -1))):
        if holds(domain, first + step):
            return first, first + step
    return first, first


def into_domain(row: Array, domain: Domain | None) -> bool:
    """Chooses what is open; False for a value outside (or an infinite one: an input is a number)."""
    if any(x is not None and infinite(x) for x in row.reshape(-1)):
        return False
    if isinstance(domain, UnitNorm):
        return all(_unit(row[at]) for at in _rows(row))
    row[row == None] = some_value(domain)  # noqa: E711
    return all(holds(domain, x) for x in row.reshape(-1))


def _rows(row: Array) -> list[tuple[int, ...]]:
    return list(np.ndindex(*row.shape[:-1]))


def _unit(vector: Array) -> bool:
    if all(x is None for x in vector):
        vector[0] = ONE
    vector[vector == None] = ZERO  # noqa: E711
    try:
        return sum((x * x for x in vector), ZERO) == ONE
    except NotExact:
        return False


def some_value(domain: Domain | None) -> Number:
    """Some number of the domain, zero where it is one."""
    if holds(domain, ZERO):
        return ZERO
    match domain:
        case Interval(lo=lo, hi=hi):
            if lo is not None and hi is not None:
                return (lo + hi) / 2
            return lo + 1 if lo is not None else (hi or Fraction(0)) - 1
        case HalfPlane(bound=bound, above=above):
            return bound + (1 if above else -1)
        case _:
            return ZERO


def holds(domain: Domain | None, x: Number) -> bool:
    """Whether a number lies in the domain; a vector's norm is not asked for here."""
    try:
        return _holds(domain, x)
    except NotExact:
        return False


def _holds(domain: Domain | None, x: Number) -> bool:
    match domain:
        case Interval(lo=lo, hi=hi, lo_open=lo_open, hi_open=hi_open):
            if not is_real(x):
                return False
            # An irrational end is rounded outward: an irrational number that near it may be outside.
            margin = ZERO if isinstance(x, Fraction) else GRAIN
            low = lo is None or sign(x - lo - margin) >= (1 if lo_open else 0)
            return low and (hi is None or sign(hi - x - margin) >= (1 if hi_open else 0))
        case Disk(radius=radius):
            length = modulus(x)
            return length is not None and sign(radius - length) >= 0
        case HalfPlane(bound=bound, above=above, strict=strict):
            real = x if is_real(x) else (x + x.conjugate()) / 2
            return sign(real - bound) * (1 if above else -1) >= (1 if strict else 0)
        case _:
            return True

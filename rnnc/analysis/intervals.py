"""Exact interval arithmetic with open and closed ends: sound enclosures of what an operation can give.

Ends are Fractions; an end of None is infinite (and open).  Irrational ends (exp of a number) are rounded outward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import TypeAlias

from rnnc.ir.types import Interval

ALL = Interval(lo_open=True, hi_open=True)
MOST_DIGITS = 300  # of an end in base 2: numbers below 2^-300 are taken as up to that
MOST_BITS = 512  # of a numerator or denominator
FAR = 400  # ends beyond 2^FAR are infinite, below 2^-FAR zero
SMALLEST = 2.0**-MOST_DIGITS
End: TypeAlias = "tuple[Fraction | float, bool]"  # a value (or +-inf) and whether it is left out


def exactly(value: Fraction | int) -> Interval:
    return Interval(lo=Fraction(value), hi=Fraction(value))


def between(
    lo: int | Fraction | None, hi: int | Fraction | None, lo_open: bool = True, hi_open: bool = True
) -> Interval:
    """An interval, open unless said otherwise."""
    return Interval(
        lo=None if lo is None else Fraction(lo),
        hi=None if hi is None else Fraction(hi),
        lo_open=lo_open or lo is None,
        hi_open=hi_open or hi is None,
    )


def ends(x: Interval) -> tuple[End, End]:
    lo: End = (-math.inf, True) if x.lo is None else (x.lo, x.lo_open)
    hi: End = (math.inf, True) if x.hi is None else (x.hi, x.hi_open)
    return lo, hi


def hull_of(points: Iterable[End]) -> Interval:
    """The smallest interval with these ends; where two agree, a closed one wins."""
    listed = list(points)
    lo = min(listed, key=lambda e: (e[0], e[1]))
    hi = max(listed, key=lambda e: (e[0], not e[1]))
    return Interval(lo=_finite(lo[0]), hi=_finite(hi[0]), lo_open=lo[1], hi_open=hi[1])


def _finite(value: Fraction | float) -> Fraction | None:
    return None if isinstance(value, float) and math.isinf(value) else Fraction(value)


def tidy(x: Interval) -> Interval:
    """`x` with ends of few digits, rounded outward: chains of powers would double their digits at every step."""
    if _is_short(x.lo) and _is_short(x.hi):
        return x
    lo = None if x.lo is None else rounded(x.lo, up=False)
    hi = None if x.hi is None else rounded(x.hi, up=True)
    return Interval(lo=lo, hi=hi, lo_open=x.lo_open or lo != x.lo, hi_open=x.hi_open or hi != x.hi)


def _is_short(v: Fraction | None) -> bool:
    return v is None or max(v.numerator.bit_length(), v.denominator.bit_length()) <= MOST_BITS


def rounded(v: Fraction, *, up: bool) -> Fraction | None:
    """A bound of v with at most MOST_BITS; None (infinite) where there is none on that side."""
    if _is_short(v):
        return v
    if v < 0:
        bound = rounded(-v, up=not up)
        return None if bound is None else -bound
    exponent = (
        v.numerator.bit_length() - v.denominator.bit_length()
    )  # v is between 2^(exponent - 1) and 2^(exponent + 1)
    if exponent > FAR:
        return None if up else Fraction(2) ** (FAR - 1)
    if exponent < -FAR:
        return Fraction(2) ** (1 - FAR) if up else Fraction(0)
    grain = Fraction(2) ** (exponent - 64)
    return (math.ceil(v / grain) if up else math.floor(v / grain)) * grain


def power(z: Fraction | float, n: int, *, up: bool) -> Fraction | float:
    """z^n for a whole n > 0, rounded to one side where it has many digits."""
    if isinstance(z, float):
        return z if z > 0 or n % 2 else -z  # infinite
    if z < 0:
        return -power(-z, n, up=up != bool(n % 2)) if n % 2 else power(-z, n, up=up)
    result, square = Fraction(1), z
    while n:
        if n % 2:
            product = rounded(result * square, up=up)
            if product is None:
                return math.inf
            result = product
        n //= 2
        if n:
            wider = rounded(square * square, up=up)
            if wider is None:
                return math.inf
            square = wider
    return result


def union(x: Interval, y: Interval) -> Interval:
    return hull_of([*ends(x), *ends(y)])


def add(x: Interval, y: Interval) -> Interval:
    (a, a_open), (b, b_open) = ends(x)
    (c, c_open), (d, d_open) = ends(y)
    return Interval(lo=_finite(a + c), hi=_finite(b + d), lo_open=a_open or c_open, hi_open=b_open or d_open)


def neg(x: Interval) -> Interval:
    return Interval(
        lo=None if x.hi is None else -x.hi, hi=None if x.lo is None else -x.lo, lo_open=x.hi_open, hi_open=x.lo_open
    )


def sub(x: Interval, y: Interval) -> Interval:
    return add(x, neg(y))


def mul(x: Interval, y: Interval) -> Interval:
    return hull_of(_times(p, q) for p in ends(x) for q in ends(y))


def _times(p: End, q: End) -> End:
    (a, a_open), (b, b_open) = p, q
    if a == 0 or b == 0:
        attained = (a == 0 and not a_open) or (b == 0 and not b_open)
        return Fraction(0), not attained
    return a * b, a_open or b_open


def reciprocal(x: Interval) -> Interval:
    """1 / x; everything where x may be zero inside."""
    if x.lo is not None and x.lo >= 0:
        hi = None if x.lo == 0 else 1 / x.lo
        lo = Fraction(0) if x.hi is None else 1 / x.hi if x.hi != 0 else None
        return Interval(lo=lo, hi=hi, lo_open=x.hi_open or lo is None, hi_open=x.lo_open or hi is None)
    if x.hi is not None and x.hi <= 0:
        return neg(reciprocal(neg(x)))
    return ALL


def monotone(f: Callable[[Fraction | float], Fraction | float], x: Interval) -> Interval:
    """The image under an increasing function that is continuous up to infinite ends, rounded outward."""
    (a, a_open), (b, b_open) = ends(x)
    lo, hi = f(a), f(b)
    return Interval(
        lo=_finite(_outward(lo, -math.inf)),
        hi=_finite(_outward(hi, math.inf)),
        lo_open=a_open or lo == -math.inf,
        hi_open=b_open or hi == math.inf,
    )


def _outward(value: Fraction | float, towards: float) -> Fraction | float:
    """A float result moved by more than its relative error can be, to a number of few digits; exact results stay.

    Arguments are rounded to floats first, which costs exp(x) up to |x| units of 2^-53, and |x| is below 750.
    """
    if isinstance(value, Fraction) or math.isinf(value):
        return value
    exponent = math.frexp(value)[1] if abs(value) > SMALLEST else -MOST_DIGITS
    grain = Fraction(2) ** (exponent - 42)
    return (
        (math.floor(Fraction(value) / grain) - 5) * grain
        if towards < 0
        else (math.ceil(Fraction(value) / grain) + 5) * grain
    )


def exp(x: Fraction | float) -> Fraction | float:
    if x == -math.inf:
        return Fraction(0)
    if x == 0:
        return Fraction(1)
    if x > 709:
        return math.inf
    return math.exp(x) if x > -745 else math.ulp(0.0)


def at_least(x: Interval, bound: Interval) -> Interval:
    """max(x, y) for y in `bound`."""
    (a, a_open), (b, b_open) = ends(x)
    (c, c_open), (d, d_open) = ends(bound)
    lo = max((a, a_open), (c, c_open))  # where both start at one value, both must reach it
    hi = max((b, not b_open), (d, not d_open))
    return Interval(lo=_finite(lo[0]), hi=_finite(hi[0]), lo_open=lo[1], hi_open=not hi[1])


def at_most(x: Interval, bound: Interval) -> Interval:
    """min(x, y) for y in `bound`."""
    return neg(at_least(neg(x), neg(bound)))


def intersect(x: Interval, y: Interval) -> Interval:
    """Values in both; the caller knows that there are some."""
    (a, a_open), (b, b_open) = ends(x)
    (c, c_open), (d, d_open) = ends(y)
    lo = max((a, a_open), (c, c_open))
    hi = min((b, not b_open), (d, not d_open))
    return Interval(lo=_finite(lo[0]), hi=_finite(hi[0]), lo_open=lo[1], hi_open=not hi[1])


def magnitude(x: Interval) -> Interval:
    """|x|."""
    if x.lo is not None and x.lo >= 0:
        return x
    if x.hi is not None and x.hi <= 0:
        return neg(x)
    outer = hull_of([*ends(x), *ends(neg(x))])
    return Interval(lo=Fraction(0), hi=outer.hi, lo_open=False, hi_open=outer.hi_open)


def within(x: Interval, y: Interval) -> bool:
    """Whether x is a subset of y."""
    (a, a_open), (b, b_open) = ends(x)
    (c, c_open), (d, d_open) = ends(y)
    return (a > c or (a == c and (a_open or not c_open))) and (b < d or (b == d and (b_open or not d_open)))


def is_positive(x: Interval) -> bool:
    return x.lo is not None and (x.lo > 0 or (x.lo == 0 and x.lo_open))

"""What the search asks of exact numbers: are they rational, infinite, how large; and functions with their inverses.

The numbers are those of `rnnc.exact`.  The search works with the values that weights go to as omega grows: what is left
out is left out here too, and whether that was right is decided by the closure.
"""

from __future__ import annotations

import cmath
import math
from fractions import Fraction
from functools import lru_cache

from rnnc import exact
from rnnc.exact import Asymptotic, NotExact, Number, omega
from rnnc.exact import functions as fn
from rnnc.exact.asymptotic import make, wide

__all__ = [
    "HALF",
    "OMEGA",
    "ONE",
    "ZERO",
    "Number",
    "cosine",
    "forward",
    "infinite",
    "inverse",
    "known",
    "sine",
    "size",
]

ZERO, ONE, HALF = Fraction(0), Fraction(1), Fraction(1, 2)
OMEGA: Number = omega
FAR = 1e3  # omega, where sizes are compared
MOST_TURNS = 720  # angles are sought among multiples of 2 pi / n with n up to here
POSITIVE = frozenset({"softplus", "silu", "gelu"})


def known(x: Number | None) -> Fraction | None:
    """The value, if it is rational."""
    return x if isinstance(x, Fraction) else None


@lru_cache(maxsize=4096)
def size(x: Number) -> float:
    """A real number as a float, with omega large; of a complex one its real part."""
    return complex(exact.to_float(x, FAR)).real


def is_real(x: Number) -> bool:
    if isinstance(x, Fraction):
        return True
    if isinstance(x, Asymptotic):
        return all(isinstance(c, Fraction) or c.is_real for c in x.terms.values())
    return x.is_real


def infinite(x: Number) -> int:
    """1 or -1 for a number that grows with omega (a complex one: 1), else 0."""
    if not isinstance(x, Asymptotic):
        return 0
    grows = x.degree > 0 or any(
        power > 0 and wide(atom.value).degree > 0 for _, atoms in x.terms for atom, power in atoms
    )
    if not grows:
        return 0
    return 1 if not is_real(x) or complex(exact.to_float(x, 1e6)).real > 0 else -1


def quotient(a: Number, b: Number) -> Number | None:
    """a / b, or None where that has no exact value."""
    if not b:
        return None
    try:
        found = a / b
    except NotExact:
        return None
    return None if isinstance(found, Asymptotic) and found.error is not None else found


def square_root(x: Number) -> Number | None:
    """The root that is positive; None where it is no exact number, or x is negative."""
    if not is_real(x) or size(x) < 0:
        return None
    try:
        found = fn.sqrt(x)
    except NotExact:
        return None
    return None if isinstance(found, Asymptotic) and found.error is not None else found


def cosine(turns: Fraction) -> Number:
    """cos(2 pi turns)."""
    return exact.cosine(turns)


def sine(turns: Fraction) -> Number:
    return exact.sine(turns)


def unity(turns: Fraction) -> Number:
    """exp(2 pi i turns)."""
    return exact.unity(turns)


def modulus(z: Number) -> Number | None:
    """|z|."""
    try:
        return fn.absolute(z)
    except NotExact:
        return None


def turns_of(z: Number) -> Fraction | None:
    """The turns in [0, 1) of a number on the unit circle, where they are rational."""
    near = complex(exact.to_float(z, FAR))
    if not 0.999 < abs(near) < 1.001:
        return None
    turns = Fraction(cmath.phase(near) / (2 * math.pi)).limit_denominator(MOST_TURNS) % 1
    try:
        return turns if unity(turns) == z else None
    except NotExact:
        return None


def radians(turns: Fraction) -> Number:
    """2 pi turns."""
    return exact.pi * (2 * turns)


@lru_cache(maxsize=4096)
def inverse(function: str, value: Number) -> Number | None:
    """x with function(x) = value (of silu and gelu the x >= 0): exact, or an infinity where the value is only a limit;
    None outside of the range.
    """
    if not is_real(value):
        return None
    grows = infinite(value)
    if grows and (grows < 0 or function not in (*POSITIVE, "exp")):
        return None
    if function == "exp" and wide(value - 1).terms and wide(value - 1).degree < 0:
        return value - 1  # infinitesimal: exp(x) is 1 + x, and what is left out is smaller
    try:
        return exact.preimage(function, value)
    except NotExact:
        return None


def forward(function: str, x: Number) -> Number | None:
    """function(x), without what vanishes with omega; None where it has no exact value."""
    try:
        found = fn.UNARY[function](x)
    except NotExact:
        return None
    if not isinstance(found, Asymptotic):
        return found
    if found.error is not None and found.error >= 0:
        return None
    return make({k: c for k, c in found.terms.items() if k[0] >= 0}, None)

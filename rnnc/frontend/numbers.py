"""Arithmetic on numbers known at compile time: exact rationals, symbolic in dims.

Each function gives None when the result is not such a number; the caller then builds graph nodes.
"""

from __future__ import annotations

from fractions import Fraction

from rnnc.ir.dims import Dim, DimError

MAX_TERMS = 200
MAX_BITS = 2048
MAX_POWER = 64


def fold_exact(op: str, a: Dim, b: Dim) -> Dim | None:
    """`a op b` as a rational polynomial in dims, if it is one (and a small one)."""
    if len(a.terms) * len(b.terms) > MAX_TERMS or not (_small(a) and _small(b)):
        return None
    match op:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case "/":
            try:
                return a / b
            except DimError:
                return None
        case "^":
            return _power(a, b)
    return None


def _small(a: Dim) -> bool:
    return len(a.terms) <= MAX_TERMS and all(
        coefficient.numerator.bit_length() <= MAX_BITS and coefficient.denominator.bit_length() <= MAX_BITS
        for _, coefficient in a.terms
    )


def _power(a: Dim, b: Dim) -> Dim | None:
    k = b.constant
    if k is None or k.denominator != 1 or abs(k) > MAX_POWER or (k < 0 and len(a.terms) != 1):
        return None
    if len(a.terms) > 1 and k > 4:
        return None
    if a.constant is not None and a.constant != 0:
        bits = max(a.constant.numerator.bit_length(), a.constant.denominator.bit_length())
        return Dim.of(Fraction(a.constant) ** int(k)) if bits * abs(k) <= MAX_BITS else None
    result = Dim.of(1)
    for _ in range(abs(int(k))):
        result = result * a if k > 0 else result / a
    return result


def negate_exact(a: Dim) -> Dim:
    return -a


def compare_exact(op: str, a: Dim, b: Dim) -> bool | None:
    """A comparison of two known numbers; None when it depends on dims."""
    difference = (a - b).constant
    if difference is None:
        return None
    match op:
        case "<":
            return difference < 0
        case "<=":
            return difference <= 0
        case ">":
            return difference > 0
        case ">=":
            return difference >= 0
        case "==":
            return difference == 0
        case _:
            return difference != 0

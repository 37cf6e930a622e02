"""Arithmetic on numbers known at compile time: exact rationals, symbolic in dims.

Each function gives None when the result is not such a number; the caller then builds graph nodes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TypeAlias

from rnnc.ir.dims import ONE, Dim, DimError
from rnnc.ir.graph import Node, NodeId

PowerForm: TypeAlias = "tuple[Fraction, Dim, Fraction]"  # coefficient * base ^ power

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
    result = ONE
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


# ---------------------------------------------------------------- scales of initial values


def power_form_of_dim(value: Dim) -> PowerForm | None:
    """`value` as coefficient * base^power, the base a dimension that is a whole number."""
    if value.constant is not None:
        return value.constant, ONE, Fraction(1)
    if all(power > 0 for monomial, _ in value.terms for _, power in monomial):
        return Fraction(1), value, Fraction(1)
    if len(value.terms) == 1 and all(power < 0 for _, power in value.terms[0][0]):
        monomial, coefficient = value.terms[0]
        return coefficient, Dim({tuple((n, -p) for n, p in monomial): Fraction(1)}), Fraction(-1)
    return None


def power_form(nodes: Sequence[Node], at: NodeId) -> PowerForm | None:
    """A static scalar node such as `2 / sqrt(n)` as coefficient * base^power, if it is of that form.

    The coefficient is rounded where it is irrational: it scales random numbers only.
    """
    node = nodes[at]
    if node.op == "dim":
        value = node.attr("value")
        return power_form_of_dim(value) if isinstance(value, Dim) else None
    if node.op == "const":
        value = node.attr("value")
        if isinstance(value, str):
            return _rounded(math.pi if value == "pi" else math.e), ONE, Fraction(1)
        return (value, ONE, Fraction(1)) if isinstance(value, Fraction) else None
    parts = [power_form(nodes, a) for a in node.args]
    forms = [f for f in parts if f is not None]
    if len(forms) < len(parts):
        return None
    try:
        match node.op, forms:
            case "neg", [(c, base, p)]:
                return -c, base, p
            case "sqrt", [(c, base, p)]:
                return _rounded(math.sqrt(c)), base, p / 2
            case "pow", [(c, base, p), (k, other, _)] if other == ONE:
                return _rounded(float(c) ** float(k)), base, p * k
            case "mul", [(c, base, p), (k, other, q)]:
                return _times_forms(c * k, base, p, other, q)
            case "div", [(c, base, p), (k, other, q)]:
                return _times_forms(c / k, base, p, other, -q)
            case (("exp" | "log"), [(c, base, _)]) if base == ONE:
                return _rounded(math.exp(c) if node.op == "exp" else math.log(c)), ONE, Fraction(1)
            case (("add" | "sub"), [(c, base, _), (k, other, _)]) if base == ONE and other == ONE:
                return (c + k if node.op == "add" else c - k), ONE, Fraction(1)
    except (ValueError, OverflowError, ZeroDivisionError, TypeError):
        return None
    return None


def _times_forms(c: Fraction, a: Dim, p: Fraction, b: Dim, q: Fraction) -> PowerForm | None:
    if b == ONE:
        return c, a, p
    if a == ONE:
        return c, b, q
    if a == b:
        return (c, a, p + q) if p + q != 0 else (c, ONE, Fraction(1))
    return (c, a * b, p) if p == q else None


def _rounded(x: float) -> Fraction:
    return Fraction(repr(float(x)))

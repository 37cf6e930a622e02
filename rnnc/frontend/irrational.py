"""Constants that are no rational numbers, such as `2 * pi`, as ends of domains.

A `Domain` has rational ends, so an irrational end is rounded: inward where the domain is kept (a `param`), outward
where it is assumed or has to be possible.  A `gate` in (0, 2 pi) is proved by its factor: 2 pi g lies there when g does
in (0, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Context as DecimalContext
from decimal import Decimal, DecimalException
from fractions import Fraction
from math import isqrt
from typing import TypeAlias

from rnnc.ir.graph import Node, NodeId

PRECISION = DecimalContext(prec=70)
SLACK = Decimal(10) ** -50  # relative to the largest number on the way; far above the error of 70 digits
DIGITS = 40  # after the point, of a rounded end
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803")

# Powers of what is irrational: (("pi", 1),), ((2, 1/2),) for sqrt(2)
Atoms: TypeAlias = "tuple[tuple[str | int, Fraction], ...]"


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """An end of a domain: a rational number `exact`, or one between `low` and `high` (then `exact` is None)."""

    low: Fraction
    high: Fraction
    exact: Fraction | None = None
    node: NodeId | None = None

    def rounded(self, up: bool) -> Fraction:
        if self.exact is not None:
            return self.exact
        return self.high if up else self.low


def enclose(nodes: Sequence[Node], at: NodeId) -> End | None:
    """A constant scalar node as an end; None where it is not made of numbers by arithmetic, sqrt, exp and log."""
    try:
        value, size = _value(nodes, at)
    except (_NoNumber, DecimalException, OverflowError):
        return None
    slack = max(size, Decimal(1)) * SLACK
    grain = Fraction(1, 10**DIGITS)
    low = (Fraction(PRECISION.subtract(value, slack)) // grain) * grain
    return End(low=low, high=low + 2 * grain, node=at)


class _NoNumber(Exception):
    pass


def _value(nodes: Sequence[Node], at: NodeId) -> tuple[Decimal, Decimal]:
    """The value of a constant, and the largest absolute value on the way."""
    node, c = nodes[at], PRECISION
    if node.op == "const":
        value = node.attr("value")
        if isinstance(value, Fraction):
            found = c.divide(Decimal(value.numerator), Decimal(value.denominator))
        elif value in ("pi", "e"):
            found = PI if value == "pi" else c.exp(Decimal(1))
        else:
            raise _NoNumber
        return found, found.copy_abs()
    parts = [_value(nodes, a) for a in node.args]
    match node.op, [v for v, _ in parts]:
        case "neg", [x]:
            found = c.minus(x)
        case "sqrt", [x]:
            found = c.sqrt(x)
        case "exp", [x]:
            found = c.exp(x)
        case "log", [x]:
            found = c.ln(x)
        case "add", [x, y]:
            found = c.add(x, y)
        case "sub", [x, y]:
            found = c.subtract(x, y)
        case "mul", [x, y]:
            found = c.multiply(x, y)
        case "div", [x, y]:
            found = c.divide(x, y)
        case "pow", [x, y]:
            found = c.power(x, y)
        case _:
            raise _NoNumber
    return found, max(found.copy_abs(), *(size for _, size in parts))


# ---------------------------------------------------------------- factors


@dataclass(frozen=True, slots=True, kw_only=True)
class Monomial:
    """factor * the product of the atoms' powers."""

    factor: Fraction
    atoms: Atoms = ()

    def times(self, other: Monomial, power: int = 1) -> Monomial:
        found = dict(self.atoms)
        for atom, p in other.atoms:
            found[atom] = found.get(atom, Fraction(0)) + p * power
        atoms = tuple(sorted(((a, p) for a, p in found.items() if p), key=str))
        return Monomial(factor=self.factor * other.factor**power, atoms=atoms)


ONE = Monomial(factor=Fraction(1))


def monomial(nodes: Sequence[Node], at: NodeId) -> Monomial | None:
    """A constant as a rational number times powers of pi, e and square roots, if it is of that form and not 0."""
    node = nodes[at]
    if node.op == "const":
        value = node.attr("value")
        if isinstance(value, Fraction):
            return Monomial(factor=value) if value else None
        return Monomial(factor=Fraction(1), atoms=((value, Fraction(1)),)) if value in ("pi", "e") else None  # type: ignore[arg-type]
    parts = [monomial(nodes, a) for a in node.args]
    found = [p for p in parts if p is not None]
    match node.op, found if len(found) == len(parts) else []:
        case (("expand" | "lift" | "broadcast"), [x]):
            return x  # one number, for every element
        case "neg", [x]:
            return Monomial(factor=-x.factor, atoms=x.atoms)
        case "mul", [x, y]:
            return x.times(y)
        case "div", [x, y]:
            return x.times(y, -1)
        case "sqrt", [x] if not x.atoms and x.factor > 0:
            return _root(x.factor)
        case _:
            return None


def _root(x: Fraction) -> Monomial:
    under = x.numerator * x.denominator
    if isqrt(under) ** 2 == under:
        return Monomial(factor=Fraction(isqrt(under), x.denominator))
    return Monomial(factor=Fraction(1, x.denominator), atoms=((under, Fraction(1, 2)),))


def split_factor(nodes: Sequence[Node], at: NodeId) -> tuple[Monomial, NodeId]:
    """2 * pi * g      -->  2 pi, g: the constants that multiply or divide a node."""
    total = ONE
    while True:
        node = nodes[at]
        if node.op == "neg":
            total, at = Monomial(factor=-total.factor, atoms=total.atoms), node.args[0]
            continue
        if node.op not in ("mul", "div"):
            return total, at
        left, right = (monomial(nodes, a) for a in node.args)
        if right is not None:
            total, at = total.times(right, 1 if node.op == "mul" else -1), node.args[0]
        elif left is not None and node.op == "mul":
            total, at = total.times(left), node.args[1]
        else:
            return total, at

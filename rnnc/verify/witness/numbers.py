"""Numbers a target may be: rational combinations of atoms such as omega, sqrt(3) or logit(1/3).

The search needs little arithmetic: it adds, scales by rationals, and inverts functions.  A value of a function that is
no rational, and the argument at which a function has a wanted value, are atoms; what they are worth is left to the
exact domain that closes the witness.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import total_ordering
from typing import Literal, TypeAlias

Function = Literal["exp", "sigmoid", "tanh", "softplus", "silu", "gelu", "erf"]


@total_ordering
@dataclass(frozen=True, slots=True)
class Omega:
    """The formal infinity, times an algebraic number."""

    factor: Root | Cosine | None = None

    def __lt__(self, other: object) -> bool:
        return str(self) < str(other)

    def __str__(self) -> str:
        return "omega" if self.factor is None else f"omega {self.factor}"

    def at(self, tau: float) -> float:
        return tau if self.factor is None else tau * self.factor.at(tau)


@total_ordering
@dataclass(frozen=True, slots=True)
class Cosine:
    """cos(turns * 2 pi)."""

    turns: Fraction

    def __lt__(self, other: object) -> bool:
        return str(self) < str(other)

    def __str__(self) -> str:
        return f"cos(2 pi {self.turns})"

    def at(self, tau: float) -> float:
        return math.cos(2 * math.pi * float(self.turns))


@total_ordering
@dataclass(frozen=True, slots=True)
class Root:
    """The square root of a square-free natural number, or pi (`radicand` 0)."""

    radicand: int

    def __lt__(self, other: object) -> bool:
        return str(self) < str(other)

    def __str__(self) -> str:
        return f"sqrt({self.radicand})" if self.radicand else "pi"

    def at(self, tau: float) -> float:
        return math.sqrt(self.radicand) if self.radicand else math.pi


@total_ordering
@dataclass(frozen=True, slots=True)
class Preimage:
    """The (for silu and gelu: positive) x with function(x) = value."""

    function: Function
    value: Number

    def __lt__(self, other: object) -> bool:
        return str(self) < str(other)

    def __str__(self) -> str:
        return f"{self.function}^-1({self.value})"

    def at(self, tau: float) -> float:
        y = self.value.at(tau)
        match self.function:
            case "exp":
                return math.log(y)
            case "sigmoid":
                return math.log(y) - math.log1p(-y)
            case "tanh":
                return math.atanh(y)
            case "softplus":
                return y + math.log(-math.expm1(-y))
        return bisect(FORWARD[self.function], y)


Atom: TypeAlias = "Omega | Cosine | Root | Preimage"
FORWARD = {
    "silu": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: 0.5 * x * math.erfc(-x / math.sqrt(2)),
    "erf": math.erf,
}


def bisect(f, y: float) -> float:  # type: ignore[no-untyped-def]
    """x in [0, 64 + y] with f(x) = y, for f growing there."""
    lo, hi = (0.0, 64.0 + y) if y >= 0 else (-64.0, 0.0)
    for _ in range(200):
        mid = (lo + hi) / 2
        lo, hi = (mid, hi) if f(mid) < y else (lo, mid)
    return (lo + hi) / 2


class Number:
    """rational + sum of rational * atom; equality is that of the expressions."""

    __slots__ = ("_hash", "atoms", "rational")
    rational: Fraction
    atoms: tuple[tuple[Atom, Fraction], ...]

    def __init__(self, rational: Fraction | int = 0, atoms: dict[Atom, Fraction] | None = None) -> None:
        self.rational = Fraction(rational)
        kept = [(a, c) for a, c in (atoms or {}).items() if c]
        self.atoms = tuple(sorted(kept, key=lambda item: str(item[0]))) if len(kept) > 1 else tuple(kept)
        self._hash = hash((self.rational, self.atoms))

    @staticmethod
    def of(value: Number | Fraction | int | Atom) -> Number:
        if isinstance(value, Number):
            return value
        if isinstance(value, (int, Fraction)):
            return Number(value)
        return Number(0, {value: Fraction(1)})

    @property
    def known(self) -> Fraction | None:
        """The value, if it is rational."""
        return None if self.atoms else self.rational

    @property
    def infinite(self) -> int:
        """1 or -1 for a number that grows with omega, else 0."""
        if any(isinstance(a, Omega) or (isinstance(a, Preimage) and a.value.infinite) for a, _ in self.atoms):
            return 1 if self.at(1e6) > 0 else -1
        return 0

    def at(self, tau: float) -> float:
        """As a float, with omega = tau."""
        return float(self.rational) + sum(float(c) * a.at(tau) for a, c in self.atoms)

    @property
    def size(self) -> float:
        """The finite value as a float; an infinite one at some large omega."""
        return self.at(1e3)

    def __add__(self, other: Number) -> Number:
        total = dict(self.atoms)
        for atom, c in other.atoms:
            total[atom] = total.get(atom, Fraction(0)) + c
        return Number(self.rational + other.rational, total)

    def scaled(self, by: Fraction) -> Number:
        return Number(self.rational * by, {a: c * by for a, c in self.atoms})

    def __neg__(self) -> Number:
        return self.scaled(Fraction(-1))

    def __sub__(self, other: Number) -> Number:
        return self + -other

    def __mul__(self, other: Number) -> Number | None:
        """The product, or None where it is no combination of atoms."""
        for x, y in ((self, other), (other, self)):
            if x.known is not None:
                return y.scaled(x.known)
        total = Number(self.rational * other.rational)
        total += Number(0, dict(self.atoms)).scaled(other.rational) + Number(0, dict(other.atoms)).scaled(self.rational)
        for a, c in self.atoms:
            for b, d in other.atoms:
                term = _times(a, b)
                if term is None:
                    return None
                total += term.scaled(c * d)
        return total

    def __truediv__(self, other: Number) -> Number | None:
        """The quotient, or None where it is no combination of atoms (or the divisor is zero)."""
        if other.known is not None:
            return None if other.known == 0 else self.scaled(1 / other.known)
        ratio = _ratio(self, other)
        if ratio is not None:
            return Number(ratio)
        if not other.rational and len(other.atoms) == 1 and isinstance(other.atoms[0][0], Root):
            ((atom, c),) = other.atoms
            if isinstance(atom, Root) and atom.radicand:
                product = self * Number.of(atom)
                return None if product is None else product.scaled(1 / (c * atom.radicand))
        return None

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (int, Fraction)):
            other = Number(other)
        return isinstance(other, Number) and self.rational == other.rational and self.atoms == other.atoms

    def __hash__(self) -> int:
        return self._hash

    def __bool__(self) -> bool:
        return bool(self.rational) or bool(self.atoms)

    def __repr__(self) -> str:
        terms = [str(self.rational)] if self.rational or not self.atoms else []
        terms += [str(a) if c == 1 else f"{c} {a}" for a, c in self.atoms]
        return " + ".join(terms)


ZERO, ONE, OMEGA = Number(0), Number(1), Number.of(Omega())


def _times(a: Atom, b: Atom) -> Number | None:
    """The product of two algebraic atoms, or of omega and one."""
    for x, y in ((a, b), (b, a)):
        if isinstance(x, Omega) and x.factor is None and isinstance(y, (Root, Cosine)):
            return Number.of(Omega(y))
    if isinstance(a, Root) and isinstance(b, Root) and a.radicand and b.radicand:
        return root(Fraction(a.radicand * b.radicand))
    if isinstance(a, Cosine) and isinstance(b, Cosine):
        return (cosine(a.turns + b.turns) + cosine(a.turns - b.turns)).scaled(Fraction(1, 2))
    return None


def _ratio(a: Number, b: Number) -> Fraction | None:
    """a / b where a is a rational multiple of b."""
    if not a:
        return Fraction(0)
    if len(a.atoms) != len(b.atoms) or not b.atoms:
        return None
    c = a.atoms[0][1] / b.atoms[0][1]
    return c if a == b.scaled(c) else None


def root(x: Fraction) -> Number:
    """sqrt(x), x >= 0."""
    n = x.numerator * x.denominator
    square, rest, p = 1, n, 2
    while p * p <= rest:
        while rest % (p * p) == 0:
            rest //= p * p
            square *= p
        p += 1
    c = Fraction(square, x.denominator)
    return Number(c) if rest == 1 else Number(0, {Root(rest): c}) if n else ZERO


def cosine(turns: Fraction) -> Number:
    """cos(2 pi turns), with the rational ones and those of 1/8 and 1/12 turns as square roots."""
    turns %= 1
    turns = min(turns, 1 - turns)  # even, period 1: now in [0, 1/2]
    if turns > Fraction(1, 4):
        return -cosine(Fraction(1, 2) - turns)
    table = {
        Fraction(0): ONE,
        Fraction(1, 12): Number(0, {Root(3): Fraction(1, 2)}),
        Fraction(1, 8): Number(0, {Root(2): Fraction(1, 2)}),
        Fraction(1, 6): Number(Fraction(1, 2)),
        Fraction(1, 4): ZERO,
    }
    return table.get(turns) or (ZERO if turns == Fraction(1, 4) else Number.of(Cosine(turns)))


def sine(turns: Fraction) -> Number:
    return cosine(turns - Fraction(1, 4))


POINTS: dict[tuple[str, Fraction], Number] = {
    ("exp", Fraction(1)): ZERO,
    ("exp", Fraction(0)): -OMEGA,
    ("sigmoid", Fraction(0)): -OMEGA,
    ("sigmoid", Fraction(1, 2)): ZERO,
    ("sigmoid", Fraction(1)): OMEGA,
    ("tanh", Fraction(-1)): -OMEGA,
    ("tanh", Fraction(0)): ZERO,
    ("tanh", Fraction(1)): OMEGA,
    ("softplus", Fraction(0)): -OMEGA,
    ("silu", Fraction(0)): ZERO,
    ("gelu", Fraction(0)): ZERO,
    ("erf", Fraction(-1)): -OMEGA,
    ("erf", Fraction(0)): ZERO,
    ("erf", Fraction(1)): OMEGA,
}


def inverse(function: Function, value: Number) -> Number | None:
    """x with function(x) = value: exact, an infinity for a value that is only a limit, or an atom; None outside."""
    y = value.known
    if y is not None and (function, y) in POINTS:
        return POINTS[function, y]
    # An argument that goes to infinity where the function does.
    if value.infinite:
        grows = value.infinite > 0
        if function in ("softplus", "silu", "gelu") and grows:
            return value
        return Number.of(Preimage("exp", value)) if function == "exp" and grows else None
    lo, hi = {"exp": (0, math.inf), "sigmoid": (0, 1), "tanh": (-1, 1), "erf": (-1, 1)}.get(function, (0, math.inf))
    return Number.of(Preimage(function, value)) if lo < value.size < hi else None


LIMITS: dict[str, tuple[Number | None, Number | None]] = {
    "exp": (ZERO, None),
    "sigmoid": (ZERO, ONE),
    "tanh": (-ONE, ONE),
    "erf": (-ONE, ONE),
}
AT_ZERO = {"exp": ONE, "sigmoid": Number(Fraction(1, 2)), "tanh": ZERO, "erf": ZERO, "silu": ZERO, "gelu": ZERO}


def forward(function: str, x: Number) -> Number | None:
    """function(x) where it is rational (in the limit), or undoes an atom."""
    if not x.rational and len(x.atoms) == 1 and x.atoms[0][1] == 1:
        atom = x.atoms[0][0]
        if isinstance(atom, Preimage) and atom.function == function:
            return atom.value
    sign = x.infinite
    if sign:
        if function in ("softplus", "silu", "gelu"):
            return x if sign > 0 else ZERO
        if function == "logsigmoid":
            return ZERO if sign > 0 else x
        return LIMITS[function][sign > 0] if function in LIMITS else None
    return AT_ZERO.get(function) if x.known == 0 else None

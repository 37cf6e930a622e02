"""Symbolic dimensions: Laurent polynomials with rational coefficients over a cell's `dim` parameters.

`2*d`, `d/heads` and `d*(n + 1)` are exact; `(d/heads)*heads` is `d` again.  sympy would do the same and takes longer to
import than a whole `rnnc check` may run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from functools import total_ordering

MAX_POWER = 16  # beyond these, the sign of a dimension is not looked for
MAX_TERMS = 500

Monomial = tuple[tuple[str, int], ...]  # sorted ((name, power), ...); () is the constant term


class DimError(ValueError):
    """A dimension that has no value: not an integer, not positive, or a name without a value."""


@total_ordering
class Dim:
    """An immutable dimension expression.  Equality is equality of polynomials."""

    __slots__ = ("_hash", "terms")
    terms: tuple[tuple[Monomial, Fraction], ...]

    def __init__(self, terms: Mapping[Monomial, Fraction]) -> None:
        self.terms = tuple(sorted((m, c) for m, c in terms.items() if c != 0))
        self._hash = hash(self.terms)

    @staticmethod
    def of(value: int | Fraction | str | Dim) -> Dim:
        """The dimension of a number, or of a name."""
        if isinstance(value, Dim):
            return value
        if isinstance(value, str):
            return Dim({((value, 1),): Fraction(1)})
        return Dim({(): Fraction(value)})

    @property
    def constant(self) -> Fraction | None:
        """The value if no name occurs in it, else None."""
        if not self.terms:
            return Fraction(0)
        if len(self.terms) == 1 and self.terms[0][0] == ():
            return self.terms[0][1]
        return None

    @property
    def names(self) -> frozenset[str]:
        return frozenset(name for monomial, _ in self.terms for name, _ in monomial)

    def __add__(self, other: Dim | int) -> Dim:
        total = dict(self.terms)
        for monomial, c in Dim.of(other).terms:
            total[monomial] = total.get(monomial, Fraction(0)) + c
        return Dim(total)

    def __neg__(self) -> Dim:
        return Dim({m: -c for m, c in self.terms})

    def __sub__(self, other: Dim | int) -> Dim:
        return self + -Dim.of(other)

    def __mul__(self, other: Dim | int) -> Dim:
        total: dict[Monomial, Fraction] = {}
        for m1, c1 in self.terms:
            for m2, c2 in Dim.of(other).terms:
                powers = dict(m1)
                for name, power in m2:
                    powers[name] = powers.get(name, 0) + power
                key = tuple(sorted((n, p) for n, p in powers.items() if p != 0))
                total[key] = total.get(key, Fraction(0)) + c1 * c2
        return Dim(total)

    __radd__ = __add__
    __rmul__ = __mul__

    def __truediv__(self, other: Dim | int) -> Dim:
        """Exact division by a single term; raises DimError for a sum (`n/(d + 1)`) or zero."""
        divisor = Dim.of(other)
        if len(divisor.terms) != 1:
            if self == divisor and self.terms:
                return Dim.of(1)
            raise DimError(f"cannot divide by `{divisor}`")
        monomial, c = divisor.terms[0]
        return self * Dim({tuple((n, -p) for n, p in monomial): 1 / c})

    def substitute(self, env: Mapping[str, Dim | int]) -> Dim:
        """Replace names by dimensions; names not in `env` stay."""
        total = Dim({})
        for monomial, c in self.terms:
            term = Dim({(): c})
            for name, power in monomial:
                factor = Dim.of(env.get(name, name))
                for _ in range(abs(power)):
                    term = term * factor if power > 0 else term / factor
            total = total + term
        return total

    def is_nonnegative(self) -> bool:
        """Whether this is at least 0 for all positive whole values of its names; False also where that is not clear.

        With v = 1 + w for every name v, after clearing denominators, no coefficient may be negative.
        """
        terms = dict(self.terms)
        for name in sorted(self.names):
            lowest = min(0, *(dict(m).get(name, 0) for m in terms))
            expanded: dict[Monomial, Fraction] = {}
            for monomial, c in terms.items():
                powers = dict(monomial)
                power = powers.pop(name, 0) - lowest
                if power > MAX_POWER:
                    return False
                for k in range(power + 1):
                    key = tuple(sorted({**powers, f"{name} - 1": k}.items())) if k else tuple(sorted(powers.items()))
                    expanded[key] = expanded.get(key, Fraction(0)) + c * math.comb(power, k)
            terms = expanded
            if len(terms) > MAX_TERMS:
                return False
        return all(c >= 0 for c in terms.values())

    def is_negative(self) -> bool:
        """Whether this is less than 0 for all positive whole values of its names; False also where that is not
        clear."""
        if (-self - 1).is_nonnegative():
            return True
        negated = -self
        return bool(negated.terms) and all(c > 0 for _, c in negated.terms)

    def number(self, env: Mapping[str, int]) -> Fraction:
        """Its value as a number, of any sign; DimError where a name has none."""
        missing = self.names - env.keys()
        if missing:
            raise DimError(f"`{self}` needs a value for {', '.join(f'`{n}`' for n in sorted(missing))}")
        total = Fraction(0)
        for monomial, c in self.terms:
            term = c
            for name, power in monomial:
                term *= Fraction(env[name]) ** power
            total += term
        return total

    def evaluate(self, env: Mapping[str, int]) -> int:
        """The size this stands for, a whole number of at least zero; DimError says what is wrong otherwise."""
        total = self.number(env)
        where = ", ".join(f"{n} = {env[n]}" for n in sorted(self.names))
        if total.denominator != 1:
            raise DimError(f"`{self}` is not a whole number when {where}")
        if total < 0:
            raise DimError(f"`{self}` is negative when {where}")
        return int(total)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (int, Fraction)):
            other = Dim.of(other)
        return isinstance(other, Dim) and self.terms == other.terms

    def __lt__(self, other: Dim) -> bool:
        """An arbitrary total order, for deterministic output only."""
        return self.terms < other.terms

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        return self.render(lambda name: name)

    def render(self, name_of) -> str:  # type: ignore[no-untyped-def]
        """The expression in the syntax of both the language and Python, each name spelled by `name_of`."""
        if not self.terms:
            return "0"
        parts: list[str] = []
        for monomial, c in sorted(self.terms, key=lambda t: (-sum(p for _, p in t[0]), t[0])):
            top = [f"{name_of(n)}" for n, p in monomial for _ in range(max(p, 0))]
            bottom = [f"{name_of(n)}" for n, p in monomial for _ in range(max(-p, 0))]
            if abs(c.numerator) != 1 or not top:
                top.insert(0, str(abs(c.numerator)))
            if c.denominator != 1:
                bottom.append(str(c.denominator))
            text = "*".join(top) + "".join(f"/{b}" for b in bottom)
            parts.append(("- " if c < 0 else "+ ") + text if parts else ("-" if c < 0 else "") + text)
        return " ".join(parts)

    def __repr__(self) -> str:
        return f"Dim({self})"


ONE = Dim.of(1)

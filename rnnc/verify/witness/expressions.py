"""Affine expressions in unknown parameters, and the linear system they have to satisfy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias

from rnnc.ir.graph import NodeId
from rnnc.verify.witness.numbers import ZERO, Number

Variable: TypeAlias = tuple[NodeId, int]  # a parameter's node and the flat index of an entry


class NotAffine(Exception):
    """A product of two unknowns, or a function of one."""


@dataclass(frozen=True, slots=True)
class Expression:
    """constant + sum of coefficient * unknown.  `constant` None: a value nobody has chosen.

    `zeros` are unknowns that must be zero because they multiply such a value, or an irrational one.
    """

    constant: Number | None
    terms: Mapping[Variable, Fraction] = field(default_factory=dict)
    zeros: frozenset[Variable] = frozenset()

    def __add__(self, other: Expression | int) -> Expression:
        if isinstance(other, int):  # numpy starts its sums with 0
            return self
        if self.constant is None or other.constant is None:
            return Expression(None)
        zeros = self.zeros | other.zeros
        if not other.terms:
            return Expression(self.constant + other.constant, self.terms, zeros)
        terms = dict(self.terms)
        for v, c in other.terms.items():
            terms[v] = terms.get(v, Fraction(0)) + c
        return Expression(self.constant + other.constant, terms, zeros)

    __radd__ = __add__

    def __neg__(self) -> Expression:
        constant = None if self.constant is None else -self.constant
        return Expression(constant, {v: -c for v, c in self.terms.items()}, self.zeros)

    def __sub__(self, other: Expression) -> Expression:
        return self + -other

    def __mul__(self, other: Expression) -> Expression:
        for x, y in ((self, other), (other, self)):
            if x.constant is None:
                # An unknown value: only its product with zero is known, so unknown weights on it are made zero.
                if y.constant is None:
                    return Expression(None)
                if y.terms or not y.constant:
                    return _without(y)
                return Expression(None)
        assert self.constant is not None
        assert other.constant is not None
        if self.terms and other.terms:
            raise NotAffine
        x, y = (self, other) if not self.terms else (other, self)
        assert x.constant is not None
        assert y.constant is not None
        c = x.constant.known
        if c is None and y.terms:
            return _without(y)
        product = x.constant * y.constant
        if product is None:
            raise NotAffine
        return Expression(product, {v: c * d for v, d in y.terms.items()} if c else {}, x.zeros | y.zeros)

    def __truediv__(self, other: Expression) -> Expression:
        if other.terms or other.constant is None or not other.constant.known:
            raise NotAffine
        return self * Expression(Number(1 / other.constant.known))


def _without(y: Expression) -> Expression:
    """A weight that multiplies what is unknown or irrational has to be zero."""
    return Expression(ZERO if y.constant is not None and not y.constant else None, {}, y.zeros | y.terms.keys())


class LinearSystem:
    """Equations in reduced form: each pivot as an expression in unknowns that are no pivots."""

    def __init__(self) -> None:
        self.pivots: dict[Variable, Expression] = {}

    def copy(self) -> LinearSystem:
        new = LinearSystem()
        new.pivots = dict(self.pivots)
        return new

    def add(self, left: Expression, value: Number) -> bool:
        """Adds left = value; False when it contradicts what is there."""
        if left.constant is None:
            return False
        return all(self._add(Expression(ZERO, {v: Fraction(1)}), ZERO) for v in left.zeros) and self._add(left, value)

    def _add(self, left: Expression, value: Number) -> bool:
        assert left.constant is not None
        e = self.reduce(Expression(left.constant - value, left.terms))
        assert e.constant is not None
        free = {v: c for v, c in e.terms.items() if c}
        if not free:
            return not e.constant
        pivot = max(free)
        scale = -1 / free.pop(pivot)
        solved = Expression(e.constant.scaled(scale), {v: c * scale for v, c in free.items()})
        for v, row in self.pivots.items():
            c = row.terms.get(pivot)
            if c:
                rest = Expression(row.constant, {u: d for u, d in row.terms.items() if u != pivot})
                self.pivots[v] = rest + Expression(Number(c)) * solved
        self.pivots[pivot] = solved
        return True

    def reduce(self, e: Expression) -> Expression:
        total = Expression(e.constant)
        for v, c in e.terms.items():
            row = self.pivots.get(v)
            total = total + (Expression(ZERO, {v: c}) if row is None else Expression(Number(c)) * row)
        return total

    def solution(self) -> dict[Variable, Number]:
        """With every free unknown at zero."""
        return {v: e.constant for v, e in self.pivots.items() if e.constant is not None}

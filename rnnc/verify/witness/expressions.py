"""Affine expressions in unknown parameters, and the linear system they have to satisfy.

Unknowns are real; a complex parameter is two of them.  Coefficients are algebraic, constants any exact numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np

from rnnc.exact import Asymptotic
from rnnc.exact import functions as fn
from rnnc.ir.graph import NodeId
from rnnc.ir.simplify import foldable
from rnnc.verify.effort import spend
from rnnc.verify.witness.numbers import ONE, ZERO, Number, is_real, quotient

Array: TypeAlias = Any  # np.ndarray of expressions
Variable: TypeAlias = tuple[
    NodeId, int, int
]  # a parameter's node, the flat index of an entry, 1 for the imaginary part


class NotAffine(Exception):
    """A product of two unknowns, or a function of one."""


@dataclass(frozen=True, slots=True)
class Expression:
    """constant + sum of coefficient * unknown.  `constant` None: a value nobody has chosen.

    `zeros` are unknowns that must be zero because they multiply such a value, or one that is not algebraic.
    """

    constant: Number | None
    terms: Mapping[Variable, Number] = field(default_factory=dict)
    zeros: frozenset[Variable] = frozenset()

    def __add__(self, other: Expression | float) -> Expression:
        if isinstance(other, (int, float)):  # numpy starts its sums with 0, and has zeros and ones of its own
            other = Expression(Fraction(other)) if other else NOTHING
        if other is NOTHING:
            return self
        if self is NOTHING:
            return other
        if self.constant is None or other.constant is None:
            return Expression(None)
        zeros = self.zeros | other.zeros
        if not other.terms:
            return Expression(self.constant + other.constant, self.terms, zeros)
        if not self.terms:
            return Expression(self.constant + other.constant, other.terms, zeros)
        terms = dict(self.terms)
        for v, c in other.terms.items():
            terms[v] = terms[v] + c if v in terms else c
        return Expression(self.constant + other.constant, terms, zeros)

    __radd__ = __add__

    def __neg__(self) -> Expression:
        constant = None if self.constant is None else -self.constant
        return Expression(constant, {v: -c for v, c in self.terms.items()}, self.zeros)

    def __sub__(self, other: Expression) -> Expression:
        return self + -other

    def __mul__(self, other: Expression | float) -> Expression:
        if isinstance(other, (int, float)):
            other = Expression(Fraction(other)) if other else NOTHING
        for x, y in ((self, other), (other, self)):
            if x.constant is None:
                # An unknown value: only its product with zero is known, so unknown weights on it are made zero.
                if y.constant is not None and (y.terms or not y.constant):
                    return _without(y)
                return Expression(None)
        if self.terms and other.terms:
            raise NotAffine
        if not (self.terms or self.constant or self.zeros) or not (other.terms or other.constant or other.zeros):
            return NOTHING
        x, y = (self, other) if not self.terms else (other, self)
        assert x.constant is not None
        assert y.constant is not None
        if (
            isinstance(x.constant, Fraction)
            and isinstance(y.constant, Fraction)
            and not foldable(x.constant, y.constant)
        ):
            raise NotAffine  # a number squared again and again: nothing that a search could want
        if not y.terms:
            return Expression(x.constant * y.constant, {}, x.zeros | y.zeros)
        if isinstance(x.constant, Asymptotic):
            return _without(y)
        scaled = {v: x.constant * d for v, d in y.terms.items()} if x.constant else {}
        return Expression(x.constant * y.constant, scaled, x.zeros | y.zeros)

    __rmul__ = __mul__

    def __truediv__(self, other: Expression) -> Expression:
        if other.terms or other.constant is None:
            raise NotAffine
        by = quotient(ONE, other.constant)
        if by is None:
            raise NotAffine
        return self * Expression(by)

    def part(self, of: Callable[[Number], Number]) -> Expression:
        """The real or imaginary part, or the conjugate: unknowns are real."""
        constant = None if self.constant is None else of(self.constant)
        return Expression(constant, {v: of(c) for v, c in self.terms.items()}, self.zeros)

    @property
    def is_real(self) -> bool:
        return (self.constant is None or is_real(self.constant)) and all(map(is_real, self.terms.values()))


NOTHING = Expression(ZERO)


def contracted(spec: str, a: Array, b: Array) -> Array:
    """einsum of two arrays [..., *core] of expressions, with the work that its nonzero entries need."""
    (left, right), output = spec.split("->")[0].split(","), spec.split("->")[1]
    lead = np.broadcast_shapes(a.shape[: a.ndim - len(left)], b.shape[: b.ndim - len(right)])
    a = np.broadcast_to(a, (*lead, *a.shape[a.ndim - len(left) :]))
    b = np.broadcast_to(b, (*lead, *b.shape[b.ndim - len(right) :]))
    sizes = dict(zip(left + right, (*a.shape[len(lead) :], *b.shape[len(lead) :]), strict=True))
    out = np.full((*lead, *(sizes[x] for x in output)), NOTHING, dtype=object)
    if not any(a.strides[: len(lead)]):  # the same in all contexts: a parameter
        a, b, left, right = b, a, right, left
    of_a, of_b = _nonzeros(a, lead), _nonzeros(b, lead)
    shared = [(left.index(x), right.index(x)) for x in left if x in right]
    places = [(0, left.index(x)) if x in left else (1, right.index(x)) for x in output]
    groups: dict[tuple[int, ...], list[tuple[tuple[int, ...], Expression]]] = {}
    grouped: object = None
    for at in np.ndindex(*lead):
        rows = of_b(at)
        if rows is not grouped:
            groups, grouped = {}, rows
            for index, y in rows:
                groups.setdefault(tuple(index[j] for _, j in shared), []).append((index, y))
        for index, x in of_a(at):
            for other, y in groups.get(tuple(index[i] for i, _ in shared), ()):
                place = (*at, *((index, other)[k][i] for k, i in places))
                out[place] = out[place] + x * y
    return out


Nonzero: TypeAlias = "list[tuple[tuple[int, ...], Expression]]"


def _nonzeros(array: Array, lead: tuple[int, ...]) -> Callable[[tuple[int, ...]], Nonzero]:
    """Index and value of the nonzero entries of array[at], found once where all of `lead` shares them."""
    if any(array.strides[: len(lead)]) or 0 in lead:
        return lambda at: _nonzero(array[at])
    same = _nonzero(array[(0,) * len(lead)])
    return lambda at: same


def _nonzero(array: Array) -> Nonzero:
    flat = zip(np.ndindex(*array.shape), array.reshape(-1).tolist(), strict=True)
    return [(i, e) for i, e in flat if e.constant is None or e.constant or e.terms or e.zeros]


def _without(y: Expression) -> Expression:
    """A weight that multiplies what is unknown or not algebraic has to be zero."""
    return Expression(ZERO if y.constant is not None and not y.constant else None, {}, y.zeros | y.terms.keys())


class LinearSystem:
    """Equations in reduced form: each pivot as an expression in unknowns that are no pivots."""

    def __init__(self) -> None:
        self.pivots: dict[Variable, Expression] = {}
        self._uses: dict[Variable, set[Variable]] = {}  # an unknown -> the pivots in whose rows it stands

    def copy(self) -> LinearSystem:
        spend("copied", len(self.pivots))
        new = LinearSystem()
        new.pivots = dict(self.pivots)
        new._uses = {v: set(rows) for v, rows in self._uses.items()}
        return new

    def add(self, left: Expression, value: Number) -> bool:
        """Adds left = value; False when it contradicts what is there."""
        if left.constant is None:
            return False
        if not all(self._add(Expression(ZERO, {v: ONE}), ZERO) for v in left.zeros):
            return False
        if left.is_real and is_real(value):
            return self._add(left, value)
        return all(self._add(left.part(of), of(value)) for of in (fn.re, fn.im))

    def _add(self, left: Expression, value: Number) -> bool:
        assert left.constant is not None
        spend("equation")
        spend("term", len(left.terms))
        e = self.reduce(Expression(left.constant - value, left.terms))
        assert e.constant is not None
        free = {v: c for v, c in e.terms.items() if c}
        if not free:
            return not e.constant
        pivot = max(free)
        scale = quotient(Fraction(-1), free.pop(pivot))
        assert scale is not None
        solved = Expression(e.constant * scale, {v: c * scale for v, c in free.items()})
        for v in self._uses.pop(pivot, ()):
            row = self.pivots[v]
            c = row.terms.get(pivot)
            if not c:
                continue
            rest = Expression(row.constant, {u: d for u, d in row.terms.items() if u != pivot})
            self._put(v, rest + Expression(c) * solved)
        self._put(pivot, solved)
        return True

    def _put(self, pivot: Variable, row: Expression) -> None:
        row = Expression(row.constant, {v: c for v, c in row.terms.items() if c})
        self.pivots[pivot] = row
        for v in row.terms:
            self._uses.setdefault(v, set()).add(pivot)

    def reduce(self, e: Expression) -> Expression:
        """The expression in unknowns that are no pivots."""
        assert e.constant is not None
        constant: Number = e.constant
        terms: dict[Variable, Number] = {}
        for v, c in e.terms.items():
            row = self.pivots.get(v)
            if row is None:
                terms[v] = terms[v] + c if v in terms else c
                continue
            assert row.constant is not None
            constant = constant + row.constant * c
            for u, d in row.terms.items():
                terms[u] = terms[u] + d * c if u in terms else d * c
        return Expression(constant, terms)

    def solution(self) -> dict[Variable, Number]:
        """With every free unknown at zero."""
        return {v: e.constant for v, e in self.pivots.items() if e.constant is not None}

"""The degree of a value as a polynomial in states, over a semiring: is it linear, affine, nonlinear?

Over (+, x) a value is a sum of monomials c s1 s2 ... with state-free c; over (max, +) a maximum of terms
c + s1 + s2 + ..., and so on.  The degree is an upper bound, found by rules only: `s - s` has degree 1.  What no rule
covers has degree None (unknown: to be treated as nonlinear), so that "degree at most 1" is a proof.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from rnnc.ir.evaluate import evaluate
from rnnc.ir.graph import CellIR, Node, NodeId
from rnnc.ir.ops import OPS
from rnnc.ir.ops.table import Semiring

NO_TERM = 10**9  # the least degree of a value without any term: the semiring's zero


@dataclass(frozen=True, slots=True, kw_only=True)
class Degree:
    """`most` and `least`: the highest and lowest degree of a term in all states together (`most` None: unknown).

    `each`: the highest degree in each state that occurs (None: unknown).  `over_reals`: the linearity holds for real
    factors only, since a complex state passes through re, im or conj.
    """

    most: int | None = 0
    least: int = 0
    each: tuple[tuple[str, int | None], ...] = ()
    over_reals: bool = False

    @property
    def free(self) -> bool:
        """Depends on none of the states."""
        return self.most == 0

    @property
    def affine(self) -> bool:
        return self.most is not None and self.most <= 1

    @property
    def linear(self) -> bool:
        """Affine without a constant part."""
        return self.affine and self.least >= 1

    def of(self, state: str) -> int | None:
        """The highest degree in one state; None is unknown."""
        return dict(self.each).get(state, 0)


def _join(args: tuple[Degree, ...]) -> Degree:
    """A sum: in the semiring, of terms that are each some argument's."""
    names = sorted({name for a in args for name, _ in a.each})
    return Degree(
        most=_top([a.most for a in args]),
        least=min(a.least for a in args),
        each=tuple((name, _top([a.of(name) for a in args])) for name in names),
        over_reals=any(a.over_reals for a in args),
    )


def _top(values: list[int | None]) -> int | None:
    return None if any(v is None for v in values) else max(v for v in values if v is not None)


def _total(values: list[int | None]) -> int | None:
    return None if any(v is None for v in values) else sum(v for v in values if v is not None)


def _product(args: tuple[Degree, ...]) -> Degree:
    names = sorted({name for a in args for name, _ in a.each})
    return Degree(
        most=_total([a.most for a in args]),
        least=min(NO_TERM, sum(a.least for a in args)),
        each=tuple((name, _total([a.of(name) for a in args])) for name in names),
        over_reals=any(a.over_reals for a in args),
    )


def _unknown(args: tuple[Degree, ...]) -> Degree:
    """Any function of the arguments: of degree 0 if they all are."""
    if all(a.free for a in args):
        return Degree()
    names = sorted({name for a in args for name, d in a.each if d != 0})
    return Degree(most=None, least=0, each=tuple((name, None) for name in names))


class Degrees:
    """The degree domain in the states named (all when None); every other state counts as given."""

    def __init__(self, cell: CellIR, states: Iterable[str] | None = None, semiring: Semiring = "plus_times") -> None:
        self.cell = cell
        self.semiring = semiring
        wanted = None if states is None else frozenset(states)
        self.states = {s.node: s.name for s in cell.states if wanted is None or s.name in wanted}

    def leaf(self, node: Node) -> Degree:
        if node.id in self.states:
            return Degree(most=1, least=1, each=((self.states[node.id], 1),))
        zero = self.semiring == "plus_times" and node.op == "const" and _is_zero(node.attr("value"))
        return Degree(least=NO_TERM if zero else 0)

    def apply(self, node: Node, args: tuple[Degree, ...]) -> Degree:
        if all(a.free for a in args) and not any(a.least == NO_TERM for a in args):
            return Degree()
        return self._arithmetic(node, args) if self.semiring == "plus_times" else self._tropical(node, args)

    def _arithmetic(self, node: Node, args: tuple[Degree, ...]) -> Degree:
        op = OPS[node.op]
        match op.linear:
            case "joint":
                found = _join(args)
                if node.op == "layout" and node.attr("kind") == "companion":
                    found = _join((found, Degree()))  # its fixed ones
            case "multi":
                found = _product(args)
            case "none":
                return self._power(node, args)
            case places:
                rest = tuple(a for i, a in enumerate(args) if i not in places)
                found = _join(tuple(args[i] for i in places)) if all(a.free for a in rest) else _unknown(args)
        narrow = op.over_reals and any(
            self.cell.nodes[n].type.dtype == "complex" and not a.free for n, a in zip(node.args, args, strict=True)
        )
        return found if not narrow else Degree(most=found.most, least=found.least, each=found.each, over_reals=True)

    def _power(self, node: Node, args: tuple[Degree, ...]) -> Degree:
        """x^n for a constant whole n: x times itself."""
        if node.op == "pow":
            n = self.cell.nodes[node.args[1]].attr("value")
            if isinstance(n, Fraction) and n.denominator == 1 and 1 <= n <= 64:
                return _product((args[0],) * int(n))
        return _unknown(args)

    def _tropical(self, node: Node, args: tuple[Degree, ...]) -> Degree:
        """Over (max, +) and its kin addition is the product; a constant 0 is the semiring's one, never its zero."""
        op = OPS[node.op]
        if op.adds_in == self.semiring:
            return _join(args)
        if op.category == "view":
            return _join(args)
        with_one = {"relu": "max_plus", "softplus": "log_plus"}.get(node.op)
        if with_one == self.semiring:
            return _join((*args, Degree()))  # relu(x) = max(x, 0), softplus(x) = logaddexp(x, 0)
        match node.op:
            case "add":
                return _product(args)
            case "sub" if args[1].free:
                return _product((args[0], Degree()))
            case "select" if args[0].free:
                return _join(args[1:])
        return _unknown(args)


def _is_zero(value: object) -> bool:
    if isinstance(value, tuple):
        return all(_is_zero(v) for v in value)
    return isinstance(value, (int, Fraction)) and not isinstance(value, bool) and value == 0


def degrees(
    cell: CellIR,
    states: Iterable[str] | None = None,
    semiring: Semiring = "plus_times",
    nodes: Iterable[NodeId] | None = None,
) -> dict[NodeId, Degree]:
    """Degrees of `nodes` (all when None) in the states named (all when None)."""
    return evaluate(cell, Degrees(cell, states, semiring), nodes)

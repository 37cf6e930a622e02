"""Interval arithmetic on rationals with open and closed ends, and a cell's nodes read in it.

Independent of `rnnc.analysis`, with which proofs are found.  Ends are Fractions or infinite; what is not rational is
moved outward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

from rnnc.ir.dims import Dim
from rnnc.ir.graph import CellIR, Node
from rnnc.ir.types import Domain, Interval, UnitNorm

INF = math.inf  # compares and adds with Fractions


class Range(NamedTuple):
    """lo to hi, Fractions or infinite; infinite ends are open."""

    lo: Any
    hi: Any
    lo_open: bool
    hi_open: bool

    @property
    def ends(self) -> tuple[tuple[Any, bool], ...]:
        return (self.lo, self.lo_open), (self.hi, self.hi_open)

    def within(self, d: Interval) -> bool:
        low = d.lo is None or self.lo > d.lo or (self.lo == d.lo and self.lo_open >= d.lo_open)
        return low and (d.hi is None or self.hi < d.hi or (self.hi == d.hi and self.hi_open >= d.hi_open))


def hull(ends: Iterable[tuple[Any, bool]]) -> Range:
    """Between the least and the greatest end (value, open)."""
    at = list(ends)
    lo, hi = min(v for v, _ in at), max(v for v, _ in at)
    return Range(lo, hi, *(all(o for v, o in at if v == end) or abs(end) == INF for end in (lo, hi)))


def closed(lo: Any, hi: Any) -> Range:
    return hull((v if abs(v) == INF else Fraction(v), False) for v in (lo, hi))


FULL, ZERO, ONE, POSITIVE = closed(-INF, INF), closed(0, 0), closed(1, 1), closed(0, INF)
UNIT = Interval(lo=Fraction(0), hi=Fraction(1))


def add(a: Range, b: Range) -> Range:
    return Range(a.lo + b.lo, a.hi + b.hi, a.lo_open or b.lo_open, a.hi_open or b.hi_open)


def neg(a: Range) -> Range:
    return Range(-a.hi, -a.lo, a.hi_open, a.lo_open)


def mul(a: Range, b: Range) -> Range:
    def corner(x: Any, x_open: bool, y: Any, y_open: bool) -> tuple[Any, bool]:
        attained = (x == 0 and not x_open) or (y == 0 and not y_open)
        return (Fraction(0) if x == 0 or y == 0 else x * y), not attained and (x_open or y_open)

    return hull(corner(*x, *y) for x in a.ends for y in b.ends)


def upto(a: Range) -> Range:
    """From zero to the upper end."""
    return Range(Fraction(0), a.hi, False, a.hi_open)


def least(a: Range, b: Range) -> Range:
    """The one with the lower upper end."""
    return min(a, b, key=lambda r: (r.hi, not r.hi_open))


def magnitude(a: Range) -> Range:
    return hull([*((abs(v), o) for v, o in a.ends), *([(Fraction(0), False)] if a.lo < 0 < a.hi else [])])


def reciprocal(a: Range) -> Range:
    if a.hi < 0 or (a.hi == 0 and a.hi_open):
        return neg(reciprocal(neg(a)))
    if a.lo < 0 or (a.lo == 0 and not a.lo_open):
        return FULL
    return hull((INF if v == 0 else Fraction(0) if v == INF else 1 / v, o) for v, o in a.ends)


# values at -inf, 0 and inf (None: not known exactly), and the function in floating point
RISING: dict[str, tuple[Any, Any, Any, Any]] = {
    "exp": (0, 1, INF, math.exp), "log": (-INF, -INF, INF, math.log), "sqrt": (0, 0, INF, math.sqrt),
    "tanh": (-1, 0, 1, math.tanh), "sigmoid": (0, Fraction(1, 2), 1, lambda x: 1 / (1 + math.exp(-x))),
    "softplus": (0, None, INF, lambda x: math.log1p(math.exp(x))), "erf": (-1, 0, 1, math.erf),
    "logsigmoid": (-INF, None, 0, lambda x: -math.log1p(math.exp(-x))),
}  # fmt: skip


def rising(name: str, a: Range) -> Range:
    """The range of a nondecreasing function; ends that are not rational are moved outward."""
    low, zero, high, f = RISING[name]
    if a.lo < 0 and name in ("log", "sqrt"):
        return FULL

    def at(x: Any, outward: int) -> Any:
        exact = {-INF: low, 0: zero, INF: high} | ({1: 0} if name == "log" else {})
        if exact.get(x) is not None:
            return exact[x] if abs(exact[x]) == INF else Fraction(exact[x])
        try:
            y = Fraction(f(float(x)))
        except OverflowError:
            return high if outward > 0 else low
        return min(max(y + outward * Fraction(1e-9) * (1 + abs(y)), low), high)

    return hull([(at(a.lo, -1), a.lo_open), (at(a.hi, 1), a.hi_open)])


def power(a: Range, n: Range) -> Range:
    if n == closed(2, 2):
        return mul(magnitude(a), magnitude(a))
    found = FULL if a.lo < 0 else rising("exp", mul(rising("log", a), n))
    return found._replace(lo_open=False) if a.lo == 0 and not a.lo_open else found


def extremum(sign: int, a: Range, b: Range) -> Range:
    """Of max (sign 1) or min (-1)."""
    if sign < 0:
        return neg(extremum(1, neg(a), neg(b)))
    lo, hi = max(a.lo, b.lo), max(a.hi, b.hi)
    return hull((v, o) for v, o in (*a.ends, *b.ends) if v in (lo, hi))


def constant(value: Any) -> Range:
    """Of a number, nested tuples of numbers, pi or e."""
    if isinstance(value, tuple):
        return hull(e for v in value for e in constant(v).ends)
    return closed(*{"pi": (3, 4), "e": (2, 3)}[value]) if isinstance(value, str) else closed(value, value)


VIEWS = ("lift", "merge", "split_per", "expand", "broadcast", "reshape", "transpose", "slice", "take")
# the range of an operation's value from those of its (real) arguments; no rule: anything
RULES: dict[str, Callable[..., Range]] = {
    **{name: lambda a: a for name in (*VIEWS, "mean", "amax", "amin", "re")},
    **{name: partial(rising, name) for name in RISING},
    **{name: lambda *a: closed(0, 1) for name in ("step", "real", "softmax", "one_hot", "eye")},
    **{name: lambda *a: closed(-1, 1) for name in ("sin", "cos", "sign", "l2norm")},
    **{name: lambda *a: closed(Fraction(-3, 10), INF) for name in ("silu", "gelu")},
    **{name: lambda *a: hull(e for x in a for e in x.ends) for name in ("select", "concat")},
    "neg": neg, "add": add, "sub": lambda a, b: add(a, neg(b)), "mul": mul, "pow": power,
    "div": lambda a, b: mul(a, reciprocal(b)),
    "abs": magnitude, "max": partial(extremum, 1), "min": partial(extremum, -1),
    "relu": lambda a: extremum(1, a, ZERO), "sum": lambda a: closed(a.lo, INF) if a.lo >= 0 else FULL,
    "einsum": lambda a, b: POSITIVE if a.lo >= 0 and b.lo >= 0 else FULL,
}  # fmt: skip


class Ranges:
    """Ranges of a cell's nodes for all weights and inputs: of a real one itself, of a complex one its real part and its
    modulus.  `closed_inputs`: the ends of open domains belong to them, too; `within`: nodes whose range is given.
    """

    def __init__(self, cell: CellIR, closed_inputs: bool = False, within: Mapping[int, Range] | None = None) -> None:
        self.cell, self.closed_inputs = cell, closed_inputs
        self.domains: dict[int, Domain | None] = {i.node: i.domain for i in cell.inputs}
        self.known: dict[tuple[int, bool], Range] = {(i, False): r for i, r in (within or {}).items()}

    def of(self, i: int, size: bool = False) -> Range:
        """The range of a node's (real part's) entries, or of their moduli."""
        if (i, size) not in self.known:
            n = self.cell.nodes[i]
            if n.type.dtype == "complex":
                self.known[i, size] = self._complex(n, size)
            else:
                self.known[i, size] = magnitude(self.of(i)) if size else self._real(n)
        return self.known[i, size]

    def _real(self, n: Node) -> Range:
        if n.type.dtype != "real":
            return POSITIVE  # truth values and tokens
        args = [self.of(a, n.op == "abs") for a in n.args if self.cell.nodes[a].type.dtype in ("real", "complex")]
        match n.op, self.domains.get(n.id):
            case "input", Interval() as d:
                closed_ = self.closed_inputs
                ends = ((-INF if d.lo is None else d.lo, d.lo_open), (INF if d.hi is None else d.hi, d.hi_open))
                return hull((v, open_ and not closed_) for v, open_ in ends)
            case "input", UnitNorm():
                return closed(-1, 1)
            case "const", _:
                return constant(n.attr("value"))
            case "dim", _:
                return closed(1, INF) if str(n.attr("value")).isidentifier() else FULL
            case "arange", _:
                start = Dim.of(n.attr("start")).constant  # type: ignore[arg-type]
                return FULL if start is None else closed(start, INF)
            case "mul", _ if n.args[0] == n.args[1]:
                return power(args[0], closed(2, 2))
            case "add", _:
                mixed = self._convex(n)
                return add(*args) if mixed is None else mixed
        return RULES[n.op](*args) if n.op in RULES else FULL

    def _convex(self, n: Node) -> Range | None:
        """f x + (1 - f) y with f in [0, 1] lies between x and y."""
        nodes = self.cell.nodes
        if any(nodes[a].op != "mul" for a in n.args):
            return None
        left, right = (nodes[a].args for a in n.args)
        for f, x in (left, left[::-1]):
            for g, y in (right, right[::-1]):
                if (self._complement(f, g) or self._complement(g, f)) and self.of(f).within(UNIT):
                    return hull([*self.of(x).ends, *self.of(y).ends])
        return None

    def _complement(self, f: int, g: int) -> bool:
        """Whether g = 1 - f, entry by entry."""
        (of_f, axes_f), (of_g, axes_g) = self._plain(f), self._plain(g)
        n = self.cell.nodes[of_g]
        if n.op != "sub" or self.of(n.args[0]) != ONE:
            return False
        below, axes = self._plain(n.args[1])
        return (below, axes + axes_g) == (of_f, axes_f)

    def _plain(self, i: int) -> tuple[int, tuple[Any, ...]]:
        """Without axes of size 1 that were put in front or between, and where those between were put."""
        n = self.cell.nodes[i]
        if n.op not in ("lift", "expand"):
            return i, ()
        inner, axes = self._plain(n.args[0])
        return inner, axes if n.op == "lift" else (*axes, n.attr("axes"))

    def _complex(self, n: Node, size: bool) -> Range:
        args = [self.of(a, size) for a in n.args]
        scaled = n.op in ("mul", "div") and any(
            self.cell.nodes[a].type.dtype == "real" for a in n.args[n.op == "div" :]
        )
        if n.op == "exp" and size:
            return rising("exp", self.of(n.args[0]))
        if (n.op == "polar" and size) or (n.op == "complex" and not size) or n.op in VIEWS or n.op == "conj":
            return args[0]
        if n.op in (("mul", "div") if size else ("neg", "add", "sub")) or scaled:
            return RULES[n.op](*args)
        return args[0] if n.op == "neg" else POSITIVE if size else FULL

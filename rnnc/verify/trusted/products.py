"""Sums of products with labelled axes, as in an einsum: the algebra in which the certificate checker reads updates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import count
from typing import Any

from rnnc.ir.dims import ONE as SINGLE
from rnnc.ir.graph import CellIR, Node

MOST_TERMS, MOST_FACTORS, MOST_BITS = 64, 256, 1 << 16
VIEWS = frozenset({"lift", "merge", "split_per", "expand", "broadcast", "reshape", "transpose"})
FORMED = VIEWS | {"neg", "add", "sub", "mul", "div", "einsum", "sum", "eye", "layout"}


class NoForm(Exception):
    """A value that is no sum of such products; the message says why."""


@dataclass(frozen=True)
class Term:
    """coef * factors, summed over the labels that are not in `out`.

    A factor is (a node i, or -1 - i for 1 / i; the labels of its axes); `out` has the label of each axis of the whole,
    None for an axis along which it does not change.  A label twice in `out` is a diagonal: zero elsewhere.
    """

    coef: Fraction
    factors: tuple[tuple[int, tuple[int, ...]], ...]
    out: tuple[int | None, ...]

    def relabelled(self, f: Callable[[int], int]) -> Term:
        out = tuple(None if x is None else f(x) for x in self.out)
        return Term(self.coef, tuple((n, tuple(map(f, at))) for n, at in self.factors), out)

    def in_order(self) -> Term:
        """Labels 0, 1, ... by their first place, so that terms can be compared."""
        order: dict[int, int] = {}
        return self.relabelled(lambda x: order.setdefault(x, len(order)))

    def summed(self, out: tuple[int | None, ...]) -> Term:
        """The sum over the axes whose labels are not in `out`; NoForm where a size would come in as a factor."""
        used = {x for _, at in self.factors for x in at} | set(out) - {None}
        if any(x not in used and (x is not None or self.out.count(x) > out.count(x)) for x in self.out):
            raise NoForm("a sum over an axis along which nothing changes")
        return replace(self, out=out)


def product(s: Term, t: Term, names: list[list[Any]], wanted: list[Any], labels: Iterator[int]) -> Term:
    """Axes with one name have one label; then the sum over the names that are not wanted.

    `names`: of the axes of s and of t, from the right (a term with fewer axes has the last ones).
    """
    fresh: dict[int, int] = {}
    t = t.relabelled(lambda x: fresh[x] if x in fresh else fresh.setdefault(x, next(labels)))
    same: dict[int, int] = {}
    at: dict[Any, int | None] = {}

    def first(x: int) -> int:
        return first(same[x]) if x in same else x

    for term, axes in zip((s, t), names, strict=True):
        for name, label in zip(axes[len(axes) - len(term.out) :], term.out, strict=True):
            other = at.get(name)
            if other is not None and label is not None and first(other) != first(label):
                same[first(other)] = first(label)
            at[name] = other if label is None else label
    bits = sum(n.bit_length() for x in (s.coef, t.coef) for n in (x.numerator, x.denominator))
    if len(s.factors) + len(t.factors) > MOST_FACTORS or bits > MOST_BITS:
        raise NoForm("a product of too many factors")
    both = Term(s.coef * t.coef, s.factors + t.factors, tuple(at.values())).relabelled(first)
    return both.summed(tuple(dict(zip(at, both.out, strict=True)).get(name) for name in wanted))


class Expansion:
    """The terms of a cell's nodes; `varying` are the nodes that they are taken apart for: states, or values
    through which all ways from a state lead."""

    def __init__(self, cell: CellIR, varying: frozenset[int]) -> None:
        self.cell, self.labels, self.known = cell, count(), dict[int, list[Term]]()
        self.varying, self.reads = varying, set(varying)  # the nodes that are computed from a state
        for n in cell.nodes:
            if self.reads & set(n.args):
                self.reads.add(n.id)

    def terms(self, i: int) -> list[Term]:
        if i not in self.known:
            try:
                n = self.cell.nodes[i]
                self.known[i] = self.combined(n) if n.op in FORMED and i not in self.varying else [self.leaf(n)]
                if len(self.known[i]) > MOST_TERMS:
                    raise NoForm(f"more than {MOST_TERMS} terms")
            except NoForm:
                if i in self.reads:
                    raise
                self.known[i] = [self.leaf(n)]
        return self.known[i]

    def leaf(self, n: Node, sign: int = 1) -> Term:
        if n.id in self.reads - self.varying or (sign < 0 and n.id in self.reads):
            raise NoForm(f"the state enters `{n.name or n.op}`")
        value, axes = n.attr("value"), (*n.type.per, *n.type.shape)
        if n.op == "const" and isinstance(value, Fraction) and n.type.dtype == "real" and value:
            return Term(value**sign, (), (None,) * len(axes))
        out = tuple(None if d == SINGLE else next(self.labels) for d in axes)
        return Term(Fraction(1), ((n.id if sign > 0 else -1 - n.id, tuple(x for x in out if x is not None)),), out)

    def combined(self, n: Node) -> list[Term]:
        """The terms of a node from those of its arguments; axes are `per` axes, then those of the shape."""
        attrs: dict[str, Any] = dict(n.attrs)
        types = [self.cell.nodes[a].type for a in n.args]
        args = [self.terms(a) for a in n.args[: 1 if n.op == "div" else None]]
        per, axes = len(n.type.per), len(n.type.per) + n.type.rank
        match n.op:
            case "neg" | "add" | "sub":
                signs = {"neg": (-1,), "add": (1, 1), "sub": (1, -1)}[n.op]
                signed = [replace(t, coef=s * t.coef) for s, ts in zip(signs, args) for t in ts]
                return [replace(t, out=(None,) * (axes - len(t.out)) + t.out) for t in signed]
            case "mul" | "div" | "einsum":
                right = args[1] if n.op != "div" else [self.leaf(self.cell.nodes[n.args[1]], -1)]
                names, wanted = [[*range(-len(t.per) - t.rank, 0)] for t in types], [*range(-axes, 0)]
                if n.op == "einsum":
                    parts = attrs["spec"].replace("->", ",").split(",")
                    *names, wanted = [[*range(len(t.per)), *s] for t, s in zip((*types, n.type), parts, strict=True)]
                return [product(s, t, names, wanted, self.labels) for s in args[0] for t in right]
            case "sum":
                gone = {per + types[0].rank + a for a in attrs["axes"]}
                return [t.summed(tuple(x for k, x in enumerate(t.out) if k not in gone)) for t in args[0]]
            case "eye":
                label = next(self.labels)
                return [Term(Fraction(1), (), (label, label))]
            case "layout" if attrs["kind"] == "diag":
                ends = [next(self.labels) if t.out[-1] is None else t.out[-1] for t in args[0]]
                return [replace(t, out=(*t.out[:-1], x, x)) for t, x in zip(args[0], ends, strict=True)]
            case "merge" | "split_per":
                return args[0]
            case "lift":
                return [replace(t, out=(None,) * (axes - len(t.out)) + t.out) for t in args[0]]
            case "transpose":
                return [replace(t, out=t.out[:per] + tuple(t.out[per + p] for p in attrs["perm"])) for t in args[0]]
            case "broadcast":
                return [replace(t, out=t.out[:per] + (None,) * (axes - len(t.out)) + t.out[per:]) for t in args[0]]
            case "expand" | "reshape":
                kept = [k for k, d in enumerate(types[0].shape) if d != SINGLE]
                if [types[0].shape[k] for k in kept] == [d for d in n.type.shape if d != SINGLE]:
                    at = [0 if d == SINGLE else 1 + per + kept.pop(0) for d in n.type.shape]
                    return [replace(t, out=t.out[:per] + tuple((None, *t.out)[k] for k in at)) for t in args[0]]
        raise NoForm(f"no rule for `{n.op}` of `{n.name}`")

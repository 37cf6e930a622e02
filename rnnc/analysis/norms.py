"""Norms of vectors, and numbers that belong together: |k|^2 under a scale, cos and sin, a and sqrt(1 - a^2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from rnnc.analysis import elementary as el
from rnnc.analysis import intervals as iv
from rnnc.analysis.elementary import NONNEGATIVE
from rnnc.analysis.intervals import between, exactly
from rnnc.ir.dims import Dim
from rnnc.ir.evaluate import Domain, Walk
from rnnc.ir.graph import Node, NodeId
from rnnc.ir.types import Domain as DeclaredDomain
from rnnc.ir.types import Interval, UnitNorm

MOST_FACTORS = 64  # a longer product of numbers is not taken apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """What is known of a value: its entries (`real`; everything for a complex value), their real parts, their moduli,
    and the squared Euclidean norm along the last axis.
    """

    real: Interval
    part: Interval
    modulus: Interval
    squared: Interval


class Norms(Domain[Range]):
    """What `Ranges` says of vectors, beside the intervals of their entries."""

    def __init__(self, nodes: Sequence[Node], domains: dict[NodeId, DeclaredDomain]) -> None:
        self.nodes = nodes
        self.domains = domains
        self._values = Walk(nodes, self)

    def real(self, node: NodeId) -> Interval:
        """An interval that holds every entry of a real node."""
        return self._values[node].real

    def modulus(self, node: NodeId) -> Interval:
        """|z| of every entry."""
        return self._values[node].modulus

    def real_part(self, node: NodeId) -> Interval:
        """re z of every entry."""
        return self._values[node].part

    def norm_squared(self, node: NodeId) -> Interval:
        """Squared Euclidean norm along the last axis."""
        return self._values[node].squared

    def _squared(self, n: Node, args: tuple[Range, ...], entry: Interval) -> Interval:
        found = self._norm_squared(n, args)
        return found if found.hi is not None else _by_entries(n, entry, found)

    def _norm_squared(self, n: Node, args: tuple[Range, ...]) -> Interval:
        match n.op:
            case "l2norm":
                return between(0, 1, lo_open=False) if n.attr("eps") else exactly(1)
            case "rmsnorm":
                size = Dim.of(n.type.shape[-1]).constant
                return NONNEGATIVE if size is None else between(0, size, lo_open=False, hi_open=bool(n.attr("eps")))
            case "input" if isinstance(self.domains.get(n.id), UnitNorm):
                return exactly(1)
            case "one_hot":
                return exactly(1)
            case "softmax":
                return between(0, 1, hi_open=False)
            case "lift" | "neg" | "conj":
                return args[0].squared
            case "merge" | "split_per" | "broadcast" | "expand" if self._keeps_last(n):
                return args[0].squared
            case "mul":
                return self._norm_of_mul(n, args)
            case "sqrt":  # of a vector whose entries sum to at most one
                return exactly(1) if self._sums_to_one(n.args[0]) else NONNEGATIVE
        return NONNEGATIVE

    def _norm_of_mul(self, n: Node, args: tuple[Range, ...]) -> Interval:
        """|c k|^2 = c^2 |k|^2 for a number c; at most sup(c^2) |k|^2 for a vector c."""
        best = NONNEGATIVE
        for (c, k), node in ((args, n.args[1]), (args[::-1], n.args[0])):
            if self.nodes[node].type.shape[-1:] == n.type.shape[-1:]:
                best = iv.intersect(best, iv.mul(el.power(c.modulus, Fraction(2)), k.squared))
        return best

    def _keeps_last(self, n: Node) -> bool:
        """Whether a view only repeats or regroups vectors along the last axis."""
        inner = self.nodes[n.args[0]].type.shape
        return bool(inner) and inner[-1:] == n.type.shape[-1:]

    def _sums_to_one(self, node: NodeId) -> bool:
        return self.nodes[node].op in ("softmax", "one_hot")

    def scaled_norm(self, scalars: Sequence[NodeId], weights: Sequence[NodeId], key: Sequence[NodeId]) -> Interval:
        """prod(scalars) * sum_i prod(weights)_i k_i^2 of the vector k = prod(key), elementwise.

        Requires: the weights are nonnegative.  A step size that divides by |k|^2, as in c / (1 + c |k|^2), is seen.
        """
        whole = self._normalised_step(scalars, key) if not weights else None
        if whole is not None:
            return whole
        k = min(key, key=lambda v: (self.norm_squared(v).hi is None, v))
        others = list(key)
        others.remove(k)
        size = self.norm_squared(k)
        for w in others:
            size = iv.mul(el.power(self.modulus(w), Fraction(2)), size)
        for w in weights:
            size = iv.mul(self.real(w), size)
        return iv.mul(self.product(scalars), size)

    def scaled_length(self, scalars: Sequence[NodeId], length: Dim) -> Interval:
        """prod(scalars) * length; a factor c / length, as of a mean, is seen."""
        for s in scalars:
            n = self.nodes[s]
            if n.op == "div" and self.nodes[n.args[1]].op == "dim" and self.nodes[n.args[1]].attr("value") == length:
                rest = list(scalars)
                rest.remove(s)
                return iv.mul(self.product(rest), self.real(n.args[0]))
        known = length.constant
        size = between(1, None, lo_open=False) if known is None else exactly(known)
        return iv.mul(self.product(scalars), size)

    def _normalised_step(self, scalars: Sequence[NodeId], key: Sequence[NodeId]) -> Interval | None:
        """c |k|^2 / (x + c |k|^2) for c >= 0 and x > 0 is in [0, 1), times what else there is."""
        if len(key) != 1:
            return None
        for s in scalars:
            n = self.nodes[s]
            if n.op != "div":
                continue
            top = self._number_factors(n.args[0])
            bottom = self.nodes[self._unexpanded(n.args[1])]
            if bottom.op != "add" or not iv.within(self.product(top), NONNEGATIVE):
                continue
            for x, y in (bottom.args, bottom.args[::-1]):
                if iv.is_positive(self.real(x)) and self._is_scaled_square(y, top, key[0]):
                    rest = list(scalars)
                    rest.remove(s)
                    return iv.mul(self.product(rest), between(0, 1, lo_open=False))
        return None

    def _is_scaled_square(self, node: NodeId, top: list[NodeId], key: NodeId) -> bool:
        """Whether a number is prod(top) |key|^2."""
        found = self._number_factors(node)
        squares = [f for f in found if self._is_square_of(f, key)]
        if len(squares) != 1:
            return False
        found.remove(squares[0])
        return sorted(f for f in found if not self._is_one(f)) == sorted(f for f in top if not self._is_one(f))

    def _is_square_of(self, node: NodeId, key: NodeId) -> bool:
        """dot(k, k), sum(k * k) or sum(k^2)."""
        n = self.nodes[node]
        if n.op == "einsum":
            return n.attr("spec") == "i,i->" and n.args == (key, key)
        if n.op != "sum" or self.nodes[n.args[0]].type.rank != 1:
            return False
        inner = self.nodes[n.args[0]]
        if inner.op == "pow":
            return inner.args[0] == key and self.real(inner.args[1]) == exactly(2)
        return inner.op == "mul" and inner.args == (key, key)

    def _number_factors(self, node: NodeId) -> list[NodeId]:
        """The factors of a product of numbers, behind their views; of a long one the product itself."""
        found: list[NodeId] = []
        work = [node]
        while work:
            n = self.nodes[self._unexpanded(work.pop())]
            if n.op == "mul":
                work.extend(n.args)
            else:
                found.append(n.id)
            if len(found) + len(work) > MOST_FACTORS:
                return [node]
        return found

    def _is_one(self, node: NodeId) -> bool:
        return self.real(node) == exactly(1)

    def _unexpanded(self, node: NodeId) -> NodeId:
        while self.nodes[node].op in ("expand", "lift", "broadcast"):
            node = self.nodes[node].args[0]
        return node

    def norm_of_product(self, vectors: Sequence[NodeId]) -> Interval:
        """Euclidean norm of an elementwise product, as [0, bound]."""
        if not vectors:
            return NONNEGATIVE
        k = min(vectors, key=lambda v: (self.norm_squared(v).hi is None, v))
        squared = self.norm_squared(k)
        others = list(vectors)
        others.remove(k)
        size = el.sqrt(squared)
        for v in others:
            size = iv.mul(self.modulus(v), size)
        return Interval(lo=Fraction(0), hi=size.hi, hi_open=size.hi_open)

    def product(self, factors: Sequence[NodeId]) -> Interval:
        """Of real factors; one that occurs several times is a power."""
        total = exactly(1)
        for f in dict.fromkeys(factors):
            total = iv.mul(total, el.power(self.real(f), Fraction(list(factors).count(f))))
        return total

    def on_circle(self, x: NodeId, y: NodeId) -> bool:
        """Whether x^2 + y^2 = 1: cos t and sin t, or a and sqrt(1 - a^2)."""
        a, b = self.nodes[x], self.nodes[y]
        if {a.op, b.op} == {"cos", "sin"}:
            return a.args == b.args
        return self._is_cathetus(x, y) or self._is_cathetus(y, x)

    def _is_cathetus(self, a: NodeId, root: NodeId) -> bool:
        """Whether root is sqrt(1 - a^2); also as sqrt(-expm1(2 w)) with a = exp(w)."""
        n = self.nodes[root]
        if n.op == "sqrt" and (negated := self.nodes[n.args[0]]).op == "neg":
            return self._is_square_less_one(a, negated.args[0])
        inner = self.nodes[n.args[0]] if n.op == "sqrt" else n
        if n.op != "sqrt" or inner.op != "sub" or not self._is_one(inner.args[0]):
            return False
        square = self.nodes[inner.args[1]]
        if square.op == "mul":
            return square.args == (a, a)
        return square.op == "pow" and square.args[0] == a and self.real(square.args[1]) == exactly(2)

    def _is_square_less_one(self, a: NodeId, node: NodeId) -> bool:
        """Whether node is a^2 - 1, as expm1(2 w) with a = exp(w)."""
        n, power = self.nodes[node], self.nodes[a]
        if n.op != "expm1" or power.op != "exp" or self.nodes[n.args[0]].op != "mul":
            return False
        two, w = self.nodes[n.args[0]].args
        return (w,) == power.args and self.real(two) == exactly(2)

    def name(self, node: NodeId) -> str:
        """The name of a value, or of the one value that it is a function of."""
        n = self.nodes[node]
        while not n.name and n.args:
            varying = [a for a in n.args if self.nodes[a].op not in ("const", "dim")]
            if len(varying) != 1:
                break
            n = self.nodes[varying[0]]
        return n.name or n.op


def _by_entries(n: Node, entry: Interval, found: Interval) -> Interval:
    """At most n sup(x^2) with a known number of entries."""
    size = n.type.shape[-1].constant if n.type.shape else Fraction(1)
    if size is None or entry.hi is None:
        return found
    return iv.intersect(found, Interval(lo=Fraction(0), hi=size * entry.hi**2, hi_open=entry.hi_open))

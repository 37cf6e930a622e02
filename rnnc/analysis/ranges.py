"""The range domain: an interval for every real value, a modulus for complex ones, and Euclidean norms of vectors.

What is trusted: the declared domains of *inputs* (the caller keeps them).  Parameters are free reals (a declared domain
of a parameter is ordinary nodes around its leaf); states are free.  Ends are limits of the real function; what floating
point rounds to is another question.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from rnnc.analysis import intervals as iv
from rnnc.analysis.intervals import ALL, between, exactly
from rnnc.ir.dims import Dim
from rnnc.ir.graph import CellIR, Node, NodeId
from rnnc.ir.types import Domain, Interval, UnitNorm

VIEWS = frozenset({"lift", "merge", "split_per", "expand", "broadcast", "reshape", "transpose", "slice"})
NONNEGATIVE = between(0, None, lo_open=False)
FIXED = {
    "tanh": between(-1, 1),
    "erf": between(-1, 1),
    "silu": between(Fraction(-2785, 10000), None),  # least at -1.278: -0.27846
    "gelu": between(Fraction(-17, 100), None),  # least at -0.752: -0.16997
    "softplus": between(0, None),
    "softmax": between(0, 1, hi_open=False),
    "sin": between(-1, 1, False, False),
    "cos": between(-1, 1, False, False),
    "sign": between(-1, 1, False, False),
    "step": between(0, 1, False, False),
    "one_hot": between(0, 1, False, False),
    "rotation_blocks": between(-1, 1, False, False),
    "eye": between(0, 1, False, False),
}


class Ranges:
    """Ranges of the nodes of one cell, found on demand."""

    def __init__(self, nodes: Sequence[Node], domains: dict[NodeId, Domain]) -> None:
        self.nodes = nodes
        self.domains = domains
        self._real: dict[NodeId, Interval] = {}

    @staticmethod
    def of(cell: CellIR) -> Ranges:
        return Ranges(cell.nodes, {i.node: i.domain for i in cell.inputs if i.domain is not None})

    def real(self, node: NodeId) -> Interval:
        """An interval that holds every entry of a real node."""
        if node not in self._real:
            n = self.nodes[node]
            found = self._range(n) if n.type.dtype == "real" else ALL
            self._real[node] = found
        return self._real[node]

    def _range(self, n: Node) -> Interval:
        args = n.args
        match n.op:
            case "input":
                domain = self.domains.get(n.id)
                if isinstance(domain, Interval):
                    return domain
                return between(-1, 1, False, False) if isinstance(domain, UnitNorm) else ALL
            case "const":
                return _const(n.attr("value"))
            case "dim":
                known = Dim.of(n.attr("value")).constant  # type: ignore[arg-type]
                return exactly(known) if known is not None else between(0, None)
            case "arange":
                return self._arange(n)
            case "abs":
                return self.modulus(args[0])
            case "re":
                return self.real_part(args[0])
            case "l2norm":
                return between(-1, 1) if n.attr("eps") else between(-1, 1, False, False)
            case "real":
                is_bool = self.nodes[args[0]].type.dtype == "bool"
                return between(0, 1, False, False) if is_bool else NONNEGATIVE
            case "sigmoid":
                return _sigmoid(self.real(args[0]))
            case "select":
                return iv.union(self.real(args[1]), self.real(args[2]))
            case "sum":
                x = self.real(args[0])
                return NONNEGATIVE if iv.within(x, NONNEGATIVE) else ALL
            case "concat":
                found = self.real(args[0])
                for a in args[1:]:
                    found = iv.union(found, self.real(a))
                return found
            case "mean" | "amax" | "amin" | "take":
                return self.real(args[0])
            case "delay":
                start = self.real(args[1]) if len(args) > 1 else exactly(0)
                return iv.union(start, self.real(args[0]))
            case op if op in FIXED:
                return FIXED[op]
            case op if op in VIEWS:
                return self.real(args[0])
        return self._arithmetic(n)

    def _arithmetic(self, n: Node) -> Interval:
        x = self.real(n.args[0]) if n.args else ALL
        y = self.real(n.args[1]) if len(n.args) > 1 else ALL
        match n.op:
            case "neg":
                return iv.neg(x)
            case "add":
                return iv.add(x, y)
            case "sub":
                return exactly(0) if n.args[0] == n.args[1] else iv.intersect(iv.sub(x, y), self._below_its_max(n))
            case "mul":
                return _power(x, Fraction(2)) if n.args[0] == n.args[1] else iv.mul(x, y)
            case "div":
                return between(0, 1) if self._is_share(n) else iv.mul(x, iv.reciprocal(y))
            case "pow":
                return self._pow(x, y)
            case "exp":
                return _exp(x)
            case "log":
                return iv.monotone(_log, iv.at_least(x, exactly(0)))
            case "logsigmoid":
                return between(None, 0)
            case "sqrt":
                return _sqrt(x)
            case "relu":
                return iv.at_least(x, exactly(0))
            case "max":
                return iv.at_least(x, y)
            case "min":
                return iv.at_most(x, y)
            case "logaddexp":
                return between(_max_lower(x, y), None)
        return ALL

    def _below_its_max(self, n: Node) -> Interval:
        """x - max(x, y) <= 0 and x - logaddexp(x, y) < 0: what a stabiliser subtracts."""
        top = self.nodes[n.args[1]]
        if n.args[0] not in top.args:
            return ALL
        return (
            between(None, 0, hi_open=False) if top.op == "max" else between(None, 0) if top.op == "logaddexp" else ALL
        )

    def _is_share(self, n: Node) -> bool:
        """x / (x + y) of positive x and y."""
        whole = self.nodes[n.args[1]]
        if whole.op != "add" or n.args[0] not in whole.args:
            return False
        return all(iv.is_positive(self.real(a)) for a in whole.args)

    def _pow(self, x: Interval, y: Interval) -> Interval:
        if y.lo is not None and y.lo == y.hi:
            return _power(x, y.lo)
        if x.lo is not None and x.lo == x.hi and x.lo > 0:
            return _exponential(x.lo, y) if x.lo >= 1 else _exponential(1 / x.lo, iv.neg(y))
        return between(0, None) if iv.is_positive(x) else ALL

    def _arange(self, n: Node) -> Interval:
        start, stop = (Dim.of(n.attr(k)).constant for k in ("start", "stop"))  # type: ignore[arg-type]
        return between(start, None if stop is None else stop - 1, False, False)

    # ------------------------------------------------------------ complex values

    def modulus(self, node: NodeId) -> Interval:
        """|z| of every entry."""
        n = self.nodes[node]
        if n.type.dtype == "real":
            return iv.magnitude(self.real(node))
        match n.op:
            case "polar":
                return iv.magnitude(self.real(n.args[0]))
            case "exp":
                return _exp(self.real_part(n.args[0]))
            case "mul":
                return iv.mul(self.modulus(n.args[0]), self.modulus(n.args[1]))
            case "neg" | "conj":
                return self.modulus(n.args[0])
            case op if op in VIEWS:
                return self.modulus(n.args[0])
        return NONNEGATIVE

    def real_part(self, node: NodeId) -> Interval:
        """re z of every entry."""
        n = self.nodes[node]
        if n.type.dtype == "real":
            return self.real(node)
        match n.op:
            case "complex":
                return self.real(n.args[0])
            case "neg":
                return iv.neg(self.real_part(n.args[0]))
            case "add":
                return iv.add(self.real_part(n.args[0]), self.real_part(n.args[1]))
            case "mul":
                for x, z in (n.args, n.args[::-1]):
                    if self.nodes[x].type.dtype == "real":
                        return iv.mul(self.real(x), self.real_part(z))
            case op if op in VIEWS or op == "conj":
                return self.real_part(n.args[0])
        return ALL

    def norm_squared(self, node: NodeId) -> Interval:
        """Squared Euclidean norm along the last axis."""
        n = self.nodes[node]
        match n.op:
            case "l2norm":
                return between(0, 1, lo_open=False) if n.attr("eps") else exactly(1)
            case "input" if isinstance(self.domains.get(node), UnitNorm):
                return exactly(1)
            case "lift":
                return self.norm_squared(n.args[0])
            case "neg":
                return self.norm_squared(n.args[0])
        return NONNEGATIVE


def _const(value: object) -> Interval:
    if isinstance(value, Fraction):
        return exactly(value)
    if isinstance(value, tuple) and value:
        found = _const(value[0])
        for v in value[1:]:
            found = iv.union(found, _const(v))
        return found
    if value == "pi":
        return between(Fraction(31415926, 10**7), Fraction(31415927, 10**7))
    return between(Fraction(27182818, 10**7), Fraction(27182819, 10**7)) if value == "e" else ALL


def _exp(x: Interval) -> Interval:
    return iv.intersect(iv.monotone(iv.exp, x), between(0, None))


def _log(z: Fraction | float) -> Fraction | float:
    if z <= 0:
        return -math.inf
    if isinstance(z, float) and math.isinf(z):
        return z
    near = abs(float(Fraction(z) - 1)) < 0.5  # there the difference from one must not be rounded away
    return Fraction(0) if z == 1 else math.log1p(float(Fraction(z) - 1)) if near else math.log(z)


def _sigmoid(x: Interval) -> Interval:
    def value(z: Fraction | float) -> Fraction | float:
        if math.isinf(z):
            return Fraction(1) if z > 0 else Fraction(0)
        return Fraction(1, 2) if z == 0 else 1 / (1 + float(iv.exp(-z)))

    return iv.intersect(iv.monotone(value, x), between(0, 1))


def _sqrt(x: Interval) -> Interval:
    def value(z: Fraction | float) -> Fraction | float:
        return z if z in (0, 1, math.inf) else math.sqrt(z)

    return iv.monotone(value, iv.at_least(x, exactly(0)))


def _power(x: Interval, n: Fraction) -> Interval:
    """x^n for a fixed exponent."""
    if n == 0:
        return exactly(1)
    if n.denominator == 1 and n > 0:
        base = x if n % 2 else iv.magnitude(x)
        return iv.monotone(lambda z: z if math.isinf(z) else Fraction(z) ** int(n), base)
    if n < 0:
        return iv.reciprocal(_power(x, -n))
    if not iv.within(x, NONNEGATIVE):
        return NONNEGATIVE

    def value(z: Fraction | float) -> Fraction | float:
        return z if z in (0, 1, math.inf) else float(z) ** float(n)

    return iv.monotone(value, x)


def _exponential(base: Fraction, exponent: Interval) -> Interval:
    """base^exponent for a base of at least one; exact at small whole exponents."""

    def value(e: Fraction | float) -> Fraction | float:
        if math.isinf(e):
            return iv.exp(e)
        if Fraction(e).denominator == 1 and -64 <= e <= 64:
            return Fraction(base ** int(e))
        return iv.exp(float(e) * math.log(base))

    return exactly(1) if base == 1 else iv.intersect(iv.monotone(value, exponent), between(0, None))


def _max_lower(x: Interval, y: Interval) -> Fraction | None:
    known: list[Fraction] = [v.lo for v in (x, y) if v.lo is not None]
    return max(known) if known else None

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
ABOVE = frozenset({"max", "logaddexp", "softplus", "relu", "abs"})  # never below their (real) arguments
STRICTLY = frozenset({"logaddexp", "softplus"})
NONNEGATIVE = between(0, None, lo_open=False)
FIXED = {
    "tanh": between(-1, 1),
    "erf": between(-1, 1),
    "silu": between(Fraction(-2785, 10000), None),  # least at -1.278: -0.27846
    "gelu": between(Fraction(-17, 100), None),  # least at -0.752: -0.16997
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
        self._norms: dict[NodeId, Interval] = {}

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
            case "input" | "state":  # of a state only where a caller assumes one
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
                return iv.intersect(self.real_part(args[0]), self._within_modulus(args[0]))
            case "im":
                return self._within_modulus(args[0])
            case "l2norm":
                return between(-1, 1) if n.attr("eps") else between(-1, 1, False, False)
            case "real":
                is_bool = self.nodes[args[0]].type.dtype == "bool"
                return between(0, 1, False, False) if is_bool else NONNEGATIVE
            case "sigmoid":
                return _sigmoid(self.real(args[0]))
            case "tanh":
                return iv.intersect(iv.monotone(_tanh, self.real(args[0])), FIXED["tanh"])
            case "softplus":
                return _softplus(self.real(args[0]))
            case "logsigmoid":
                return iv.neg(_softplus(iv.neg(self.real(args[0]))))
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
                mixed = self._mixture(n)
                return iv.add(x, y) if mixed is None else iv.intersect(mixed, iv.add(x, y))
            case "sub":
                return exactly(0) if n.args[0] == n.args[1] else iv.intersect(iv.sub(x, y), self._below_its_max(n))
            case "mul":
                if n.args[0] == n.args[1]:
                    return _power(x, Fraction(2))
                return iv.intersect(iv.mul(x, y), self._with_its_gate(n))
            case "div":
                return between(0, 1) if self._is_share(n) else iv.mul(x, iv.reciprocal(y))
            case "pow":
                return self._pow(x, y)
            case "exp":
                return _exp(x)
            case "log":
                return iv.monotone(_log, iv.at_least(x, exactly(0)))
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
        """x - max(x, y) <= 0 and x - logaddexp(x, y) < 0: what a stabiliser subtracts; softplus, relu and |x| alike."""
        x, y = (self.nodes[a] for a in n.args)
        if x.id in y.args and y.op in ABOVE:
            return between(None, 0, hi_open=y.op in STRICTLY)
        if y.id in x.args and x.op in ABOVE:
            return between(0, None, lo_open=x.op in STRICTLY)
        return ALL

    def _mixture(self, n: Node) -> Interval | None:
        """f x + (1 - f) y lies between x and y for f in [0, 1]."""
        first, second = (self.nodes[a] for a in n.args)
        if first.op != "mul" or second.op != "mul":
            return None
        for f, x in (first.args, first.args[::-1]):
            for g, y in (second.args, second.args[::-1]):
                if (self._complement(f, g) or self._complement(g, f)) and iv.within(
                    self.real(f), between(0, 1, False, False)
                ):
                    return iv.union(self.real(x), self.real(y))
        return None

    def _complement(self, f: NodeId, g: NodeId) -> bool:
        """Whether g is 1 - f."""
        n = self.nodes[self._unexpanded(g)]
        return n.op == "sub" and self._is_one(n.args[0]) and self._unexpanded(n.args[1]) == self._unexpanded(f)

    def _with_its_gate(self, n: Node) -> Interval:
        """x sigmoid(x) is silu(x); the product of x with an odd increasing function of x is not negative."""
        for x, g in (n.args, n.args[::-1]):
            gate = self.nodes[g]
            if gate.args == (x,) and gate.op == "sigmoid":
                return FIXED["silu"]
            if gate.args == (x,) and gate.op in ("tanh", "sign", "erf"):
                return NONNEGATIVE
        return ALL

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
            case "div":
                return iv.mul(self.modulus(n.args[0]), iv.reciprocal(self.modulus(n.args[1])))
            case "complex":
                return self._modulus_of_parts(*n.args)
            case "add" | "sub":
                both = iv.add(self.modulus(n.args[0]), self.modulus(n.args[1]))
                return Interval(lo=Fraction(0), hi=both.hi, hi_open=both.hi_open)
            case "const":
                return iv.magnitude(_const(n.attr("value")))
            case "l2norm":
                return between(0, 1, lo_open=False, hi_open=bool(n.attr("eps")))
            case "neg" | "conj":
                return self.modulus(n.args[0])
            case op if op in VIEWS:
                return self.modulus(n.args[0])
        return NONNEGATIVE

    def _modulus_of_parts(self, x: NodeId, y: NodeId) -> Interval:
        if self.on_circle(x, y):
            return exactly(1)
        squares = iv.add(_power(self.real(x), Fraction(2)), _power(self.real(y), Fraction(2)))
        return _sqrt(squares)

    def _within_modulus(self, node: NodeId) -> Interval:
        """[-m, m] for |z| at most m."""
        m = self.modulus(node)
        return Interval(
            lo=None if m.hi is None else -m.hi,
            hi=m.hi,
            lo_open=m.hi_open or m.hi is None,
            hi_open=m.hi_open or m.hi is None,
        )

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

    # ------------------------------------------------------------ vectors

    def norm_squared(self, node: NodeId) -> Interval:
        """Squared Euclidean norm along the last axis."""
        if node not in self._norms:
            found = self._norm_squared(self.nodes[node])
            self._norms[node] = found if found.hi is not None else self._by_entries(node, found)
        return self._norms[node]

    def _norm_squared(self, n: Node) -> Interval:
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
                return self.norm_squared(n.args[0])
            case "merge" | "split_per" | "broadcast" | "expand" if self._keeps_last(n):
                return self.norm_squared(n.args[0])
            case "mul":
                return self._norm_of_mul(n)
            case "sqrt":  # of a vector whose entries sum to at most one
                return exactly(1) if self._sums_to_one(n.args[0]) else NONNEGATIVE
        return NONNEGATIVE

    def _norm_of_mul(self, n: Node) -> Interval:
        """|c k|^2 = c^2 |k|^2 for a number c; at most sup(c^2) |k|^2 for a vector c."""
        best = NONNEGATIVE
        for c, k in (n.args, n.args[::-1]):
            if self.nodes[k].type.shape[-1:] != n.type.shape[-1:]:
                continue
            squared = iv.mul(_power(self.modulus(c), Fraction(2)), self.norm_squared(k))
            best = iv.intersect(best, squared)
        return best

    def _by_entries(self, node: NodeId, found: Interval) -> Interval:
        """At most n sup(x^2) with a known number of entries."""
        t = self.nodes[node].type
        size = t.shape[-1].constant if t.shape else Fraction(1)
        entry = self.modulus(node)
        if size is None or entry.hi is None:
            return found
        return iv.intersect(found, Interval(lo=Fraction(0), hi=size * entry.hi**2, hi_open=entry.hi_open))

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
            size = iv.mul(_power(self.modulus(w), Fraction(2)), size)
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
        node = self._unexpanded(node)
        n = self.nodes[node]
        return [f for a in n.args for f in self._number_factors(a)] if n.op == "mul" else [node]

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
        size = _sqrt(squared)
        for v in others:
            size = iv.mul(self.modulus(v), size)
        return Interval(lo=Fraction(0), hi=size.hi, hi_open=size.hi_open)

    def product(self, factors: Sequence[NodeId]) -> Interval:
        """Of real factors; one that occurs several times is a power."""
        total = exactly(1)
        for f in dict.fromkeys(factors):
            total = iv.mul(total, _power(self.real(f), Fraction(list(factors).count(f))))
        return total

    def on_circle(self, x: NodeId, y: NodeId) -> bool:
        """Whether x^2 + y^2 = 1: cos t and sin t, or a and sqrt(1 - a^2)."""
        a, b = self.nodes[x], self.nodes[y]
        if {a.op, b.op} == {"cos", "sin"}:
            return a.args == b.args
        return self._is_cathetus(x, y) or self._is_cathetus(y, x)

    def _is_cathetus(self, a: NodeId, root: NodeId) -> bool:
        """Whether root is sqrt(1 - a^2)."""
        n = self.nodes[root]
        inner = self.nodes[n.args[0]] if n.op == "sqrt" else n
        if n.op != "sqrt" or inner.op != "sub" or not self._is_one(inner.args[0]):
            return False
        square = self.nodes[inner.args[1]]
        if square.op == "mul":
            return square.args == (a, a)
        return square.op == "pow" and square.args[0] == a and self.real(square.args[1]) == exactly(2)

    def name(self, node: NodeId) -> str:
        """The name of a value, or of the one value that it is a function of."""
        n = self.nodes[node]
        while not n.name and n.args:
            varying = [a for a in n.args if self.nodes[a].op not in ("const", "dim")]
            if len(varying) != 1:
                break
            n = self.nodes[varying[0]]
        return n.name or n.op


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


def _tanh(z: Fraction | float) -> Fraction | float:
    if math.isinf(z):
        return Fraction(1) if z > 0 else Fraction(-1)
    return Fraction(0) if z == 0 else math.tanh(z)


def _softplus(x: Interval) -> Interval:
    def value(z: Fraction | float) -> Fraction | float:
        if math.isinf(z):
            return z if z > 0 else Fraction(0)
        return max(float(z), 0.0) + math.log1p(math.exp(-abs(float(z))))

    return iv.intersect(iv.monotone(value, x), between(0, None))


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

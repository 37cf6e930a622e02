"""The range domain: an interval for every real value, a modulus for complex ones, and Euclidean norms of vectors.

What is trusted: the declared domains of *inputs* (the caller keeps them).  Parameters are free reals (a declared domain
of a parameter is ordinary nodes around its leaf); states are free.  Ends are limits of the real function; what floating
point rounds to is another question.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

from rnnc.analysis import elementary as el
from rnnc.analysis import intervals as iv
from rnnc.analysis.elementary import NONNEGATIVE
from rnnc.analysis.intervals import ALL, between, exactly
from rnnc.analysis.norms import Norms, Range
from rnnc.ir.dims import Dim
from rnnc.ir.graph import CellIR, Node, NodeId
from rnnc.ir.types import Disk, HalfPlane, Interval, UnitNorm

VIEWS = frozenset({"lift", "merge", "split_per", "expand", "broadcast", "reshape", "transpose", "slice"})
ABOVE = frozenset({"max", "logaddexp", "softplus", "relu", "abs"})  # never below their (real) arguments
STRICTLY = frozenset({"logaddexp", "softplus"})
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


class Ranges(Norms):
    """The range domain, and the ranges of the nodes of one graph, found on demand."""

    @staticmethod
    def of(cell: CellIR) -> Ranges:
        return Ranges(cell.nodes, {i.node: i.domain for i in cell.inputs if i.domain is not None})

    def with_closed_inputs(self) -> Ranges:
        """The same with the ends of the inputs' domains in them: what bounded inputs come arbitrarily near to."""
        closed = {
            i: replace(d, lo_open=d.lo is None, hi_open=d.hi is None)
            for i, d in self.domains.items()
            if isinstance(d, Interval)
        }
        return Ranges(self.nodes, {**self.domains, **closed})

    def leaf(self, node: Node) -> Range:
        return self.apply(node, ())

    def apply(self, node: Node, args: tuple[Range, ...]) -> Range:
        if node.type.dtype == "complex":
            real, part, modulus = ALL, self._real_part(node, args), self._modulus(node, args)
        else:
            real = self._range(node, args) if node.type.dtype == "real" else ALL
            part, modulus = real, iv.magnitude(real)
        squared = self._squared(node, args, modulus)
        return Range(real=iv.tidy(real), part=iv.tidy(part), modulus=iv.tidy(modulus), squared=iv.tidy(squared))

    def _range(self, n: Node, args: tuple[Range, ...]) -> Interval:
        match n.op:
            case "input" | "state":  # of a state only where a caller assumes one
                domain = self.domains.get(n.id)
                if isinstance(domain, Interval):
                    return domain
                return between(-1, 1, False, False) if isinstance(domain, UnitNorm) else ALL
            case "const":
                return el.constant(n.attr("value"))
            case "dim":
                return el.dimension(Dim.of(n.attr("value")))  # type: ignore[arg-type]
            case "arange":
                return self._arange(n)
            case "abs":
                return args[0].modulus
            case "re":
                return iv.intersect(args[0].part, _within(args[0].modulus))
            case "im":
                return _within(args[0].modulus)
            case "l2norm":
                return between(-1, 1) if n.attr("eps") else between(-1, 1, False, False)
            case "real":
                is_bool = self.nodes[n.args[0]].type.dtype == "bool"
                return between(0, 1, False, False) if is_bool else NONNEGATIVE
            case "sigmoid":
                return el.sigmoid(args[0].real)
            case "tanh":
                return iv.intersect(iv.monotone(el.tanh, args[0].real), FIXED["tanh"])
            case "softplus":
                return el.softplus(args[0].real)
            case "logsigmoid":
                return iv.neg(el.softplus(iv.neg(args[0].real)))
            case "select":
                return iv.union(args[1].real, args[2].real)
            case "sum":
                x = args[0].real
                return NONNEGATIVE if iv.within(x, NONNEGATIVE) else ALL
            case "concat":
                found = args[0].real
                for a in args[1:]:
                    found = iv.union(found, a.real)
                return found
            case "mean" | "amax" | "amin" | "take":
                return args[0].real
            case "delay":
                start = args[1].real if len(args) > 1 else exactly(0)
                return iv.union(start, args[0].real)
            case op if op in FIXED:
                return FIXED[op]
            case op if op in VIEWS:
                return args[0].real
        return self._arithmetic(n, args)

    def _arithmetic(self, n: Node, args: tuple[Range, ...]) -> Interval:
        x = args[0].real if args else ALL
        y = args[1].real if len(args) > 1 else ALL
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
                    return el.power(x, Fraction(2))
                return iv.intersect(iv.mul(x, y), self._with_its_gate(n))
            case "div":
                return between(0, 1) if self._is_share(n) else iv.mul(x, iv.reciprocal(y))
            case "pow":
                return self._pow(x, y)
            case "exp":
                return el.exp(x)
            case "expm1":
                return iv.sub(el.exp(x), exactly(1))
            case "log":
                return iv.monotone(el.log, iv.at_least(x, exactly(0)))
            case "sqrt":
                return el.sqrt(x)
            case "relu":
                return iv.at_least(x, exactly(0))
            case "max":
                return iv.at_least(x, y)
            case "min":
                return iv.at_most(x, y)
            case "logaddexp":
                return between(el.larger_lower(x, y), None)
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
        """Whether g is 1 - f, entry by entry; also as -expm1(w) with f = exp(w)."""
        (of_f, places_f), (of_g, places_g) = self._spread(f), self._spread(g)
        n = self.nodes[of_g]
        if n.op == "neg" and (inner := self.nodes[n.args[0]]).op == "expm1":
            of = self.nodes[of_f]
            return places_f == places_g and of.op == "exp" and of.args == inner.args
        if n.op != "sub" or not self._is_one(n.args[0]):
            return False
        below, places = self._spread(n.args[1])
        return below == of_f and tuple(places_g[i] for i in places) == places_f

    def _spread(self, node: NodeId) -> tuple[NodeId, tuple[int, ...]]:
        """The value that is only broadcast to `node`, and where each of its axes ends up, counted from the right."""
        t = self.nodes[node].type
        places = tuple(range(len(t.per) + t.rank))
        while (n := self.nodes[node]).op in ("expand", "lift", "broadcast"):
            node = n.args[0]
            inner, outer = self.nodes[node].type, n.type
            if n.op == "expand":
                new: Any = n.attr("axes")
                gone = {-1 - a for a in new}
                places = tuple(p for i, p in enumerate(places) if i not in gone)
            elif n.op == "broadcast":  # new axes between the per axes and the core
                places = places[: inner.rank] + places[outer.rank :]
            else:  # new per axes in front
                places = places[: len(inner.per) + inner.rank]
        return node, places

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
            return el.power(x, y.lo)
        if x.lo is not None and x.lo == x.hi and x.lo > 0:
            return el.exponential(x.lo, y) if x.lo >= 1 else el.exponential(1 / x.lo, iv.neg(y))
        return between(0, None) if iv.is_positive(x) else ALL

    def _arange(self, n: Node) -> Interval:
        start, stop = (Dim.of(n.attr(k)).constant for k in ("start", "stop"))  # type: ignore[arg-type]
        return between(start, None if stop is None else stop - 1, False, False)

    # ------------------------------------------------------------ complex values

    def _modulus(self, n: Node, args: tuple[Range, ...]) -> Interval:
        """|z| of every entry."""
        match n.op:
            case "input":
                match self.domains.get(n.id):
                    case Disk(radius=radius):
                        return between(0, radius, False, False)
                    case UnitNorm():
                        return between(0, 1, False, False)
            case "polar":
                return args[0].modulus
            case "exp":
                return el.exp(args[0].part)
            case "mul":
                return iv.mul(args[0].modulus, args[1].modulus)
            case "div":
                return iv.mul(args[0].modulus, iv.reciprocal(args[1].modulus))
            case "complex":
                return exactly(1) if self.on_circle(*n.args) else _hypotenuse(args[0].real, args[1].real)
            case "add" | "sub":
                both = iv.add(args[0].modulus, args[1].modulus)
                return Interval(lo=Fraction(0), hi=both.hi, hi_open=both.hi_open)
            case "const":
                return iv.magnitude(el.constant(n.attr("value")))
            case "l2norm":
                return between(0, 1, lo_open=False, hi_open=bool(n.attr("eps")))
            case op if op in VIEWS or op in ("neg", "conj"):
                return args[0].modulus
        return NONNEGATIVE

    def _real_part(self, n: Node, args: tuple[Range, ...]) -> Interval:
        """re z of every entry."""
        match n.op:
            case "input" if isinstance(plane := self.domains.get(n.id), HalfPlane):
                above = between(plane.bound, None, lo_open=plane.strict)
                return above if plane.above else between(None, plane.bound, hi_open=plane.strict)
            case "complex":
                return args[0].real
            case "neg":
                return iv.neg(args[0].part)
            case "add":
                return iv.add(args[0].part, args[1].part)
            case "mul":
                for i, x in enumerate(n.args):
                    if self.nodes[x].type.dtype == "real":
                        return iv.mul(args[i].real, args[1 - i].part)
            case op if op in VIEWS or op == "conj":
                return args[0].part
        return ALL


def nonnegative_nodes(cell: CellIR) -> frozenset[NodeId]:
    """The real nodes that are proved to have no negative entry."""
    ranges = Ranges.of(cell)
    real = (n.id for n in cell.nodes if n.type.dtype == "real")
    return frozenset(i for i in real if iv.within(ranges.real(i), NONNEGATIVE))


def _hypotenuse(x: Interval, y: Interval) -> Interval:
    return el.sqrt(iv.add(el.power(x, Fraction(2)), el.power(y, Fraction(2))))


def _within(m: Interval) -> Interval:
    """[-m, m] for |z| at most m."""
    is_open = m.hi_open or m.hi is None
    return Interval(lo=None if m.hi is None else -m.hi, hi=m.hi, lo_open=is_open, hi_open=is_open)

"""Whether the ends of a proved range are reached: by weights and inputs (attained), arbitrarily nearly (limit), or
by rounding in a floating-point format (saturation).

An expression in which every free leaf occurs once takes every value of its interval: each operation maps connected sets
of independent arguments onto the interval that interval arithmetic gives.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

from rnnc.analysis.facts import Saturation
from rnnc.analysis.forms import MicroStep
from rnnc.analysis.microsteps import factors
from rnnc.analysis.ranges import VIEWS, Ranges
from rnnc.ir.evaluate import Domain, Walk
from rnnc.ir.graph import Node, NodeId
from rnnc.ir.ops import OPS
from rnnc.ir.types import Interval

if TYPE_CHECKING:
    import numpy as np

CONTINUOUS = frozenset(
    {"neg", "exp", "expm1", "log", "sigmoid", "sqrt", "abs", "relu", "tanh", "softplus", "logsigmoid"}
)
ARITHMETIC = frozenset({"add", "sub", "mul", "div", "pow"})
UNBOUNDED = frozenset({"silu", "gelu", "relu", "softplus"})  # the range of silu and gelu is no more than a bound
WHOLE = 2**40  # a larger number in an end is the mark of one that was rounded outward


@dataclass(frozen=True, slots=True)
class Freedom:
    """Of a value: all leaves it is computed from, and those on which its taking every value of its range rests (None:
    it is not known to).
    """

    uses: frozenset[NodeId]
    rests_on: frozenset[NodeId] | None


class Tight(Domain[Freedom]):
    """The domain, and its answers for the nodes of one graph."""

    def __init__(self, ranges: Ranges) -> None:
        self.ranges = ranges
        self.nodes = ranges.nodes
        self._values = Walk(ranges.nodes, self)

    def exact(self, node: NodeId) -> bool:
        """Whether some entry of a real node takes every value of its range, at some weights and inputs."""
        return self._values[node].rests_on is not None and _unrounded(self.ranges.real(node))

    def independent(self, nodes: Iterable[NodeId]) -> bool:
        """Whether nodes take every combination of the values of their ranges."""
        return _together([self._values[n] for n in nodes]) is not None

    # ------------------------------------------------------------ the domain

    def leaf(self, node: Node) -> Freedom:
        rests_on = None
        if node.type.dtype == "real" and node.op in ("param", "input"):
            rests_on = frozenset({node.id})
        elif node.op == "const" and isinstance(node.attr("value"), Fraction):
            rests_on = frozenset()
        return Freedom(frozenset({node.id}), rests_on)

    def apply(self, node: Node, args: tuple[Freedom, ...]) -> Freedom:
        rests_on = self._rests_on(node, args) if node.type.dtype == "real" else None
        return Freedom(frozenset().union(*(a.uses for a in args)), rests_on)

    def _rests_on(self, n: Node, args: tuple[Freedom, ...]) -> frozenset[NodeId] | None:
        match n.op:
            case "einsum":
                return self._linear(n, args)
            case "conv":
                return self._convolved(n, args)
            case "add":
                return self._shifted(n, args) or _together(args)
            case "sub" | "div":
                return _together(args)
            case "mul":
                return args[0].rests_on if n.args[0] == n.args[1] else _together(args)
            case "pow":
                return _together(args) if self.nodes[n.args[1]].op == "const" else None
            case op if op in CONTINUOUS or op in VIEWS:
                return args[0].rests_on
        return None

    def _linear(self, n: Node, args: tuple[Freedom, ...]) -> frozenset[NodeId] | None:
        """A learned map of something that need not be zero: any number."""
        for i, w in enumerate(n.args):
            if self.nodes[w].op == "param" and w not in self.ranges.domains:
                rest = self._generic(n.args[1 - i])
                if rest is not None and w not in args[1 - i].uses:
                    return rest | {w}
        return None

    def _convolved(self, n: Node, args: tuple[Freedom, ...]) -> frozenset[NodeId] | None:
        if len(n.args) > 2 and self.nodes[n.args[2]].op == "param":
            return frozenset({n.args[2]})
        rest = self._generic(n.args[0])
        is_free = self.nodes[n.args[1]].op == "param" and n.args[1] not in args[0].uses
        return None if rest is None or not is_free else rest | {n.args[1]}

    def _shifted(self, n: Node, args: tuple[Freedom, ...]) -> frozenset[NodeId] | None:
        """A free bias makes any number of anything."""
        for i, a in enumerate(n.args):
            bias = self._viewed(a)
            fits = self.nodes[a].type.shape == n.type.shape and bias not in args[1 - i].uses
            if self.nodes[bias].op == "param" and fits:
                return frozenset({bias})
        return None

    def _generic(self, x: NodeId) -> frozenset[NodeId] | None:
        """Leaves that must have certain values for x to be nonzero: none for an unrestricted input, which is held at
        any nonzero value.
        """
        source = self._viewed(x)
        if self.nodes[source].op == "input" and source not in self.ranges.domains:
            return frozenset()
        unrestricted = self.ranges.real(x).lo is None or self.ranges.real(x).hi is None
        return self._values[x].rests_on if unrestricted else None

    def _viewed(self, node: NodeId) -> NodeId:
        while self.nodes[node].op in VIEWS:
            node = self.nodes[node].args[0]
        return node

    def of_micro_step(self, step: MicroStep, interval: Interval | None) -> Interval | None:
        """The interval of c (I + s k k^T), if its factors vary independently and |k| takes every value of its range."""
        if interval is None or len(step.low_rank) > 1 or not _unrounded(interval):
            return None
        if not step.low_rank:
            return interval if step.decay is None or self.exact(step.decay) else None
        a, b = (factors(self.ranges, x) for x in step.low_rank[0])
        scalars = [*a.scalars, *b.scalars]
        if step.decay is not None:
            of_decay = factors(self.ranges, step.decay)
            if of_decay.vectors:
                return None
            scalars += of_decay.scalars
        if len(a.vectors) != 1 or a.vectors != b.vectors or self.nodes[a.vectors[0]].type.shape[-1] == 1:
            return None
        direction = self._direction(a.vectors[0])
        if direction is None or not self.independent([direction, *dict.fromkeys(scalars)]):
            return None
        return interval

    def _direction(self, key: NodeId) -> NodeId | None:
        """The unbounded value that a vector normalises, whose |k|^2 so takes every value of its range."""
        n = self.nodes[key]
        if n.op == "input":
            return key
        if n.op != "l2norm":
            return None
        inner = self.nodes[n.args[0]]
        node = inner.args[0] if inner.op in UNBOUNDED else inner.id
        unrestricted = self.ranges.real(node).lo is None and self.ranges.real(node).hi is None
        return node if unrestricted else None


def _together(values: Iterable[Freedom]) -> frozenset[NodeId] | None:
    """Values vary independently where none is computed from a leaf that another one's freedom rests on."""
    listed = list(values)
    for i, v in enumerate(listed):
        if v.rests_on is None or any(v.rests_on & other.uses for j, other in enumerate(listed) if j != i):
            return None
    return frozenset().union(*(v.rests_on for v in listed if v.rests_on is not None))


def _unrounded(x: Interval) -> bool:
    return all(end is None or max(end.denominator, abs(end.numerator)) < WHOLE for end in (x.lo, x.hi))


# ---------------------------------------------------------------- saturation in floating point


def saturations(ranges: Ranges, node: NodeId, interval: Interval) -> tuple[Saturation, ...]:
    """At what size of the one pre-activation an elementwise value rounds to the open ends of its interval."""
    source = _pre_activation(ranges, node)
    if source is None:
        return ()
    found = []
    precisions: tuple[Literal["float16", "float32"], ...] = ("float16", "float32")
    for precision in precisions:
        for end, value, is_open in (("lo", interval.lo, interval.lo_open), ("hi", interval.hi, interval.hi_open)):
            tau = _tau(ranges, node, source, value, precision) if value is not None and is_open else None
            if tau is not None:
                found.append(Saturation(precision=precision, end="lo" if end == "lo" else "hi", tau=tau))
    return tuple(found)


def _pre_activation(ranges: Ranges, node: NodeId) -> NodeId | None:
    """The one unbounded value that an elementwise expression of constants is a function of."""
    sources: set[NodeId] = set()
    seen: set[NodeId] = set()
    work = [node]
    while work:
        i = work.pop()
        n = ranges.nodes[i]
        if i in seen:
            continue
        seen.add(i)
        range_ = ranges.real(i)
        if n.op == "const" and isinstance(n.attr("value"), (Fraction, str)):
            continue
        if range_.lo is None and range_.hi is None:
            sources.add(i)
        elif n.type.dtype != "real" or n.op not in CONTINUOUS | VIEWS | ARITHMETIC:
            return None
        else:
            work.extend(n.args)
    return sources.pop() if len(sources) == 1 else None


def _tau(ranges: Ranges, node: NodeId, source: NodeId, end: Fraction, precision: str) -> float | None:
    """The least multiple of 0.1 from which on the computed value is the end, at pre-activations of one sign."""
    import numpy as np

    sizes = np.arange(1, 1281) / 10
    for sign in (1.0, -1.0):
        hit = _computed(ranges, node, source, (sign * sizes).astype(precision)) == np.dtype(precision).type(end)
        if hit[-1]:
            return float(sizes[len(hit) - int(np.argmin(hit[::-1]))]) if not hit.all() else float(sizes[0])
    return None


class _Entry(Domain[Any]):
    """One entry of an elementwise expression of constants, in the precision of the values it is given."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype

    def leaf(self, node: Node) -> Any:
        value = node.attr("value")
        number = {"pi": math.pi, "e": math.e}[value] if isinstance(value, str) else float(value)  # type: ignore[arg-type]
        return self.dtype.type(number)

    def apply(self, node: Node, args: tuple[Any, ...]) -> Any:
        import numpy as np

        rule = OPS[node.op].value
        assert rule is not None
        return args[0] if node.op in VIEWS else rule(np, None, *args)


def _computed(ranges: Ranges, node: NodeId, source: NodeId, values: Any) -> np.ndarray[Any, Any]:
    """An entry of the node at each of the pre-activations, in their precision."""
    import numpy as np

    with np.errstate(all="ignore"):
        found = Walk(ranges.nodes, _Entry(values.dtype), {source: values})[node]
    return np.broadcast_to(found, values.shape)

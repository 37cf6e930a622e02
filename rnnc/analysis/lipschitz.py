"""A Lipschitz bound of a group's update in its states: |F(h) - F(h')| <= L |h - h'| in the Euclidean norm, for every
input, all weights inside their domains, and all values of earlier states.

Each node gets a bound for its dependence on the states of the group, taken together; a bound below 1 makes the update a
contraction, which gives the echo state property (the start is forgotten).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from rnnc.analysis import intervals as iv
from rnnc.analysis.constants import root_above
from rnnc.analysis.forms import Group
from rnnc.analysis.matrices import Matrices
from rnnc.analysis.ranges import Ranges
from rnnc.ir.dims import ONE, Dim
from rnnc.ir.domains.dependence import DependsOn
from rnnc.ir.evaluate import Domain, Walk
from rnnc.ir.graph import CellIR, Node, NodeId
from rnnc.ir.types import Interval, nearest

# the largest |derivative| of functions of real values (of erf 2/sqrt(pi), of silu 1.0998, of gelu 1.1289)
SLOPES = {
    "tanh": Fraction(1),
    "relu": Fraction(1),
    "sin": Fraction(1),
    "cos": Fraction(1),
    "abs": Fraction(1),
    "softplus": Fraction(1),
    "logsigmoid": Fraction(1),
    "sigmoid": Fraction(1, 4),
    "erf": Fraction(113, 100),
    "silu": Fraction(11, 10),
    "gelu": Fraction(113, 100),
    "softmax": Fraction(1, 2),
    "amax": Fraction(1),
    "amin": Fraction(1),
}
OF_COMPLEX = frozenset({"neg", "conj", "re", "im", "abs"})  # slope 1 over the complex numbers, too
REARRANGING = frozenset({"merge", "split_per", "expand", "reshape", "transpose", "slice"})


@dataclass(frozen=True, slots=True)
class Slope:
    """A Lipschitz bound, None where there is none; `why` says what is missing."""

    bound: Fraction | None
    why: str = ""


ZERO = Slope(Fraction(0))


def lipschitz_of(cell: CellIR, group: Group, ranges: Ranges) -> tuple[Interval | None, str]:
    """The bound as [0, L] (None where nothing is proved), and what it is made of or what is missing."""
    slopes = Slopes(cell, group, ranges)
    parts = [slopes.of(cell.state(name).update) for name in group.states]
    found = _joined(parts)
    if found.bound is None:
        return None, found.why or "a bound for the derivative of the update"
    return Interval(
        lo=Fraction(0), hi=found.bound
    ), f"the update has the Lipschitz bound {_short(found.bound)} in {_names(group)}"


class Slopes(Domain[Slope]):
    """The domain, for one group of states of one cell."""

    def __init__(self, cell: CellIR, group: Group, ranges: Ranges) -> None:
        self.nodes = cell.nodes
        self.ranges = ranges
        self.matrices = Matrices(ranges)
        self.states = {cell.state(name).node for name in group.states}
        self._moved = Walk(cell.nodes, DependsOn(self.states))
        self._values = Walk(cell.nodes, self)

    def of(self, node: NodeId) -> Slope:
        return self._values[node]

    def moves(self, node: NodeId) -> bool:
        """Whether the node is computed from the group's states."""
        return self._moved[node]

    def is_leaf(self, node: Node) -> bool:
        return node.id in self.states or not self.moves(node.id)

    def leaf(self, node: Node) -> Slope:
        return Slope(Fraction(1)) if node.id in self.states else ZERO

    def apply(self, node: Node, args: tuple[Slope, ...]) -> Slope:
        n = node
        match n.op:
            case op if op in OF_COMPLEX:
                return args[0]
            case op if op in SLOPES and self.nodes[n.args[0]].type.dtype == "real":
                return _times(args[0], SLOPES[op])
            case op if op in REARRANGING:
                return args[0]
            case "broadcast" | "lift":
                return self._repeated(n, n.args[0])
            case "exp":
                return self._by_derivative(n, self.ranges.real(n.id))
            case "expm1":
                return self._by_derivative(n, iv.add(self.ranges.real(n.id), iv.exactly(1)))
            case "pow" if self._is_square(n):
                return self._by_derivative(n, iv.mul(iv.exactly(2), self.ranges.real(n.args[0])))
            case "add" | "sub":
                return _added([self._repeated(n, a) for a in n.args])
            case "max" | "min" | "logaddexp" | "complex":
                return _joined([self._repeated(n, a) for a in n.args])
            case "concat":
                return _joined(args)
            case "select" if not self.moves(n.args[0]):
                return _joined([self._repeated(n, a) for a in n.args[1:]])
            case "mul":
                return self._product(n)
            case "div" if not self.moves(n.args[1]):
                return self._scaled(n, n.args[0], iv.reciprocal(self.ranges.real(n.args[1])))
            case "einsum":
                return self._contraction(n)
            case "sum" | "mean":
                return self._summed(n)
        return Slope(None, f"a bound for the derivative of {self._named(n)}")

    def _named(self, n: Node) -> str:
        line = f" in line {n.span.line}" if n.span is not None else ""
        return f"`{n.op}`{line}"

    # ------------------------------------------------------------ rules

    def _by_derivative(self, n: Node, derivative: Interval) -> Slope:
        return self._scaled(n, n.args[0], derivative)

    def _scaled(self, n: Node, argument: NodeId, by: Interval) -> Slope:
        size = iv.magnitude(by).hi
        if size is None:
            return Slope(None, f"a bound for {self._named(n)}")
        return _times(self._repeated(n, argument), size)

    def _is_square(self, n: Node) -> bool:
        return not self.moves(n.args[1]) and self.ranges.real(n.args[1]) == iv.exactly(2)

    def _repeated(self, n: Node, argument: NodeId) -> Slope:
        """The slope of an operand that is broadcast to the result: each copy counts."""
        slope = self.of(argument)
        if slope.bound is None or slope.bound == 0:
            return slope
        t = self.nodes[argument].type
        copies = ONE
        per = n.type.per[: len(n.type.per) - len(t.per)]
        missing = (*per, *n.type.shape[: n.type.rank - t.rank])
        sizes = [d for d, own in zip(n.type.shape[n.type.rank - t.rank :], t.shape, strict=True) if own != d]
        for d in (*missing, *sizes):
            copies = copies * d
        known = copies.constant
        if known is None:
            return Slope(None, f"the number of copies {copies} of a value of the state")
        return _times(slope, root_above(known))

    def _product(self, n: Node) -> Slope:
        """|f g - f' g'| <= sup|f| |g - g'| + sup|g| |f - f'|."""
        x, y = n.args
        if x == y:
            return self._scaled(n, x, iv.mul(iv.exactly(2), self.ranges.modulus(x)))
        if not (self.moves(x) and self.moves(y)):
            number, vector = (x, y) if self.moves(x) else (y, x)
            along = self._along(n, number, vector)
            if along is not None:
                return along
        parts = [self._scaled(n, a, self.ranges.modulus(other)) for a, other in ((x, y), (y, x)) if self.moves(a)]
        return _added(parts)

    def _along(self, n: Node, number: NodeId, vector: NodeId) -> Slope | None:
        """A number that depends on the state times a state-free vector: the vector's length."""
        t = self.nodes[number].type
        squared = self.ranges.norm_squared(vector).hi if n.type.rank == 1 else None
        if squared is None or any(d != ONE for d in t.shape) or t.per != n.type.per:
            return None
        return _times(self.of(number), root_above(squared))

    def _contraction(self, n: Node) -> Slope:
        """A state-free matrix or vector times a value of the state: its norm."""
        inside = [a for a in n.args if self.moves(a)]
        if len(inside) != 1:
            return Slope(None, f"a bound for the product {self._named(n)} of two values of the state")
        inputs, output = str(n.attr("spec")).split("->")
        letters = inputs.split(",")
        which = 0 if self.moves(n.args[0]) else 1
        factor, own, other = n.args[1 - which], letters[1 - which], letters[which]
        norm = self._norm(factor, own, other, output)
        if norm is None:
            return Slope(None, f"a bound for the norm of `{self.ranges.name(factor)}`")
        lifted = self._per_copies(n, inside[0])
        return _times(lifted, norm)

    def _per_copies(self, n: Node, argument: NodeId) -> Slope:
        if self.nodes[argument].type.per == n.type.per:
            return self.of(argument)
        return Slope(None, "a value of the state is used in every block of `per`")

    def _norm(self, factor: NodeId, own: str, other: str, output: str) -> Fraction | None:
        """The operator norm of a contraction with `factor` (axes `own`): a matrix, a vector or a number."""
        summed = [c for c in own if c in other and c not in output]
        new = [c for c in own if c not in other]
        if any(c in other and c in output for c in own):
            return None
        if any(c not in output and (c in own) != (c in other) for c in own + other):
            return None  # a sum over one operand alone
        t = self.nodes[factor].type
        if len(own) == 2 and len(summed) == 1 and len(new) == 1 and t.shape[0] == t.shape[1]:
            return self.matrices.facts(factor).norm.hi
        size = self._frobenius(factor)
        return None if size is None else size

    def _frobenius(self, factor: NodeId) -> Fraction | None:
        """sqrt of the sum of squares of all entries in one block: at least the norm of any contraction with it."""
        t = self.nodes[factor].type
        if t.rank == 1:
            squared = self.ranges.norm_squared(factor).hi
            return None if squared is None else root_above(squared)
        count = ONE
        for d in t.shape:
            count = count * d
        entry = self.ranges.modulus(factor).hi
        known = Dim.of(count).constant
        return None if known is None or entry is None else root_above(known * entry * entry)

    def _summed(self, n: Node) -> Slope:
        """A sum of m entries: sqrt(m); their mean: 1 / sqrt(m)."""
        t, axes = self.nodes[n.args[0]].type, n.attr("axes")
        assert isinstance(axes, tuple)
        count = ONE
        for a in axes:
            assert isinstance(a, int)
            count = count * t.shape[a]
        known = count.constant
        if known is None:
            many = f"the number {count} of terms in {self._named(n)}"
            return Slope(None, many) if n.op == "sum" else self.of(n.args[0])
        return _times(self.of(n.args[0]), root_above(known if n.op == "sum" else 1 / known))


def _times(x: Slope, by: Fraction) -> Slope:
    return x if x.bound is None else Slope(x.bound * by)


def _added(parts: Sequence[Slope]) -> Slope:
    for p in parts:
        if p.bound is None:
            return p
    return Slope(sum((p.bound for p in parts if p.bound is not None), Fraction(0)))


def _joined(parts: Sequence[Slope]) -> Slope:
    """sqrt of the sum of squares: values side by side."""
    for p in parts:
        if p.bound is None:
            return p
    moving = [p.bound for p in parts if p.bound]
    if len(moving) <= 1:
        return Slope(moving[0] if moving else Fraction(0))
    return Slope(root_above(sum((b * b for b in moving), Fraction(0))))


def _short(x: Fraction) -> str:
    return str(x) if len(str(x)) <= 9 else f"{nearest(x):.6g}"


def _names(group: Group) -> str:
    return " and ".join(f"`{n}`" for n in group.states)

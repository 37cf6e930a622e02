"""How far a step can carry its states: |v| <= a N + C or |v| <= max(a N, C), entry by entry, for every value v of it.

N is the largest entry of the group's states before the step; C is some number that depends on the weights, the sizes,
and bounds of the inputs and of earlier states, and not on the states.  With a below 1, or a at most 1 in the second
form, the states stay bounded: N' <= max(N, C / (1 - a)).  So a leaky unit stays bounded whatever bounded thing is added
to it, and a gate between the old state and a bounded value, wherever the gate is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from rnnc.analysis import intervals as iv
from rnnc.analysis.forms import Group
from rnnc.analysis.ranges import Ranges
from rnnc.ir.graph import CellIR, Node, NodeId, ancestors
from rnnc.ir.logs import VIEWS

NO_LARGER = VIEWS | {"neg", "abs", "relu", "silu", "gelu", "conj", "re", "im", "mean", "amax", "amin", "real"}
NORMS = frozenset({"l2norm", "rmsnorm", "layernorm"})
NEARLY = frozenset({"softplus", "logsigmoid"})  # of x no larger than |x| + log 2
ANY_OF = frozenset({"max", "min", "concat", "stack"})
NOT_BOUNDED = frozenset({"log", "pow", "solve", "cayley", "call", "repeat", "attention"})  # of what is bounded


@dataclass(frozen=True, slots=True)
class Growth:
    """`factor`: a, of the states; `adds`: whether C comes on top."""

    factor: Fraction
    adds: bool = False


BOUNDED = Growth(Fraction(0))


def largest(found: Iterable[Growth]) -> Growth:
    """Of a value that is one of these, or lies between them."""
    every = list(found)
    return Growth(max(g.factor for g in every), any(g.adds for g in every))


class Growths:
    """`ranges`: over closed domains of the inputs.  `steady`: what is said of values that no state of the group enters:
    whether they stay bounded while inputs and earlier states do.
    """

    def __init__(self, cell: CellIR, group: Group, ranges: Ranges, steady: frozenset[NodeId]) -> None:
        self.ranges, self.nodes = ranges, ranges.nodes
        own = {cell.state(s).node for s in group.states}
        self.moved: set[NodeId] = {*own}
        self.known: dict[NodeId, Growth | None] = dict.fromkeys(own, Growth(Fraction(1)))
        for i in sorted(ancestors(cell, [cell.state(s).update for s in group.states])):
            if i in own:
                continue
            if self.moved.isdisjoint(self.nodes[i].args):
                self.known[i] = BOUNDED if i in steady else None
            else:
                self.moved.add(i)
                self.known[i] = BOUNDED if ranges.modulus(i).hi is not None else self._of(self.nodes[i])

    def _of(self, n: Node) -> Growth | None:
        found = [self.known[a] for a in n.args]
        found = found[1:] if n.op == "select" else found[:1] if n.op == "div" else found  # no condition, no divisor
        args = [g for g in found if g is not None]
        if len(args) < len(found):
            return None
        if n.op == "div":
            return self._quotient(n, args[0])
        if all(g == BOUNDED for g in args):
            return None if n.op in NOT_BOUNDED else BOUNDED
        match n.op:
            case "add" | "sub":
                return self._between(n) or Growth(args[0].factor + args[1].factor, adds=True)
            case "mul":
                return self._scaled(args[0], n.args[1]) or self._scaled(args[1], n.args[0])
            case "select":
                return largest(args)
            case op if op in ANY_OF:
                return largest(args)
            case op if op in NO_LARGER:
                return args[0]
            case op if op in NEARLY:
                return replace(args[0], adds=True)
            case op if op in NORMS and n.attr("eps"):  # entries of at most the root of their number
                return BOUNDED
        return None

    def _scaled(self, g: Growth, by: NodeId) -> Growth | None:
        size = self.ranges.modulus(by).hi
        return None if size is None else Growth(g.factor * size, g.adds)

    def _quotient(self, n: Node, g: Growth) -> Growth | None:
        """By what stays away from zero by a fixed distance."""
        below = n.args[1]
        if self.nodes[below].type.dtype != "real":
            return None
        d = self.ranges.real(below)
        least = d.lo if d.lo is not None and d.lo > 0 else -d.hi if d.hi is not None and d.hi < 0 else None
        return None if least is None else Growth(g.factor / least, g.adds)

    def _between(self, n: Node) -> Growth | None:
        """Of z a + (1 - z) b, or a + z (b - a), with z in [0, 1]: it lies between a and b."""
        for a, b in self._ends(n) if n.op == "add" else ():
            both = [g for g in (self.known[a], self.known[b]) if g is not None]
            if len(both) == 2:
                return largest(both)
        return None

    def _ends(self, n: Node) -> Iterator[tuple[NodeId, NodeId]]:
        for a, other in (n.args, n.args[::-1]):
            if self.nodes[other].op != "mul":
                continue
            for z, to in self._pairs(other):
                away = self.nodes[to]
                if away.op == "sub" and away.args[1] == a and self._inside(z):
                    yield a, away.args[0]
                if self.nodes[a].op == "mul":
                    yield from ((b, to) for rest, b in self._pairs(a) if self._rest(z, rest) or self._rest(rest, z))

    def _pairs(self, product: NodeId) -> tuple[tuple[NodeId, NodeId], ...]:
        x, y = self.nodes[product].args
        return (x, y), (y, x)

    def _inside(self, z: NodeId) -> bool:
        found = self.ranges.real(z) if self.nodes[z].type.dtype == "real" else None
        return found is not None and iv.within(found, iv.between(0, 1, False, False))

    def _rest(self, z: NodeId, rest: NodeId) -> bool:
        """Whether `rest` is 1 - z, and both lie in [0, 1].  Behind other axes z might meet other entries."""
        n = self.nodes[rest]
        one = self.nodes[n.args[0]] if n.op == "sub" else n
        return one.op == "const" and one.attr("value") == 1 and n.args[1:] == (z,) and self._inside(z)


def keeps_bounded(cell: CellIR, group: Group, ranges: Ranges, steady: frozenset[NodeId]) -> str:
    """Why the states stay bounded; "" where this is not found."""
    growths = Growths(cell, group, ranges, steady)
    found = {name: growths.known[cell.state(name).update] for name in group.states}
    for g in found.values():
        if g is None or g.factor > 1 or (g.factor == 1 and g.adds):
            return ""
    return "; ".join(f"`{name}` is {_words(g)}" for name, g in found.items() if g is not None)


def _words(g: Growth) -> str:
    if g == BOUNDED:
        return "bounded whatever the states are"
    return f"at most {g.factor} times the largest state{' and something bounded' if g.adds else ', or bounded'}"

"""A cell as the theorems see it: groups of states, what each reads, and what its update does to it."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from functools import cached_property
from typing import Any, TypeAlias

from rnnc.ir.graph import CellIR, Node, ancestors, is_static
from rnnc.ir.types import Interval
from rnnc.ir.unfold import inline_calls
from rnnc.verify.trusted.growth import kept
from rnnc.verify.trusted.products import NoForm
from rnnc.verify.trusted.ranges import INF, ONE, POSITIVE, VIEWS, Ranges, closed
from rnnc.verify.trusted.transitions import Transition, Transitions

JOINT = frozenset({*VIEWS, "neg", "add", "sub", "concat", "sum", "mean", "layout", "complex"}) - {"take"}
# semiring -> ops that are linear in all arguments together, in one if the others are free of states, in the first
OVER: dict[str, Any] = {"plus_times": (JOINT, {"mul", "einsum"}, {"div", "take"})} | {
    f"{n}_plus": ({op}, {"add"}, {"sub"}) for n, op in (("max", "max"), ("min", "min"), ("log", "logaddexp"))
}
COMPARISONS = {"step", "sign", "lt", "le", "eq", "ne", "select"}
SINGULAR = {"div", "log", "pow", "sqrt", "solve", "cayley"}
NORMS = {"l2norm", "rmsnorm", "layernorm"}
Group: TypeAlias = "tuple[str, ...]"


class Reject(Exception):
    """The certificate does not establish what it claims: the first step that fails."""


def need(holds: Any, what: str) -> None:
    if not holds:
        raise Reject(what)


class Cell:
    """A cell and what is known of it: groups of states that read each other, in the order in which they are read."""

    def __init__(self, cell: CellIR, given: Any, closed_inputs: bool = False) -> None:
        self.source, self.cell, self.given = cell, inline_calls(cell), given
        self.states, self.known = {s.name: s for s in self.cell.states}, dict[Group, Transition]()
        self.ranges = Ranges(self.cell, closed_inputs)
        self.attends = [n.id for n in self.cell.nodes if n.op == "attention"]
        self.windows = any(n.op in ("delay", "conv") for n in self.cell.nodes)
        below = {s.name: self.sources([s.update])[0] for s in self.cell.states}
        for _ in below:
            below = {s: reads.union(*(below[t] for t in reads)) for s, reads in below.items()}
        self.below = below
        groups = {tuple(sorted({s, *(t for t in below[s] if s in below[t])})) for s in below}
        self.groups: list[Group] = sorted(groups, key=lambda g: len(below[g[0]] | {g[0]}))

    @cached_property
    def depth(self) -> int:
        """The most groups that read each other in a row."""
        depth: dict[str, int] = {}
        for g in self.groups:
            depth |= dict.fromkeys(g, 1 + max((depth[s] for s in self.below[g[0]] - set(g)), default=0))
        return max(depth.values(), default=0)

    def updates(self, group: Iterable[str]) -> list[int]:
        return [self.states[s].update for s in group]

    def sources(self, nodes: Iterable[int]) -> tuple[set[str], bool]:
        """The states whose old values nodes are computed from, and whether an input or an earlier time is."""
        seen = ancestors(self.cell, nodes)
        varying = any(self.cell.nodes[i].op in ("input", "delay", "conv", "attention") for i in seen)
        return {s.name for s in self.cell.states if s.node in seen}, varying

    # ------------------------------------------------------------ linear updates

    def coefficients(self, names: Iterable[str], updates: Iterable[int], over: str = "plus_times") -> set[int] | None:
        """What multiplies these states, if the updates are affine in them together by their operations."""
        joint, products, first = OVER[over]
        own, degree, found = {self.states[s].node for s in names}, dict[int, int](), set[int]()
        for i in sorted(ancestors(self.cell, updates)):
            n, d = self.cell.nodes[i], [degree[a] for a in self.cell.nodes[i].args]
            one = n.op in joint or (n.op in products and sum(d) == 1) or (n.op in first and not any(d[1:]))
            degree[i] = int(any(d) or i in own)
            if any(d) and not one and not (n.op == "select" and not d[0]):
                return None
            if any(d) and (n.op not in joint or n.op == "select"):
                found |= {a for a, x in zip(n.args, d, strict=True) if not x}
        return found

    def semirings(self, group: Group) -> list[str]:
        return [o for o in OVER if self.coefficients(group, self.updates(group), o) is not None]

    def tropical(self, group: Group) -> bool:
        """Whether each number goes through a nondecreasing function of itself."""
        return len(group) == 1 and bool(set(self.semirings(group)) - {"plus_times"})

    def transition(self, group: Group) -> Transition:
        """Of a group that is linear over (+, x).  Raises Reject."""
        if group not in self.known:
            gates = self.coefficients(group, self.updates(group))
            need(gates is not None, f"the update of {names(group)} is not linear")
            reader, states = Transitions(self.cell, self.ranges), tuple(self.states[s].node for s in group)
            try:
                self.known[group] = reader.of(states, tuple(self.updates(group)))
            except NoForm:
                self.known[group] = Transition(nodes=frozenset(gates or ()))
        return self.known[group]

    def fixed(self, group: Group) -> bool:
        """Whether the transition is the same at every step."""
        return self.sources(self.transition(group).nodes) == (set(), False)

    def still(self, group: Group) -> bool:
        return all(self.states[s].update == self.states[s].node for s in group)

    def clock(self, group: Group) -> bool:
        """Whether no input reaches a group that does not fade: what reads it knows the position."""
        driven = any(self.sources(self.updates([t]))[1] for t in {*group, *self.below[group[0]]})
        return not driven and not self.still(group) and (self.tropical(group) or self.transition(group).norm.hi >= 1)

    def slope(self, group: Group) -> Any:
        """A bound on how much the update moves two states of the group apart."""
        own = frozenset(self.states[s].node for s in group)
        if self.coefficients(group, self.updates(group)) is not None and self.transition(group).norm.hi < INF:
            return self.transition(group).norm
        slopes = [Transitions(self.cell, self.ranges).slope(u, own) for u in self.updates(group)]
        return slopes[0] if len(slopes) == 1 else POSITIVE

    # ------------------------------------------------------------ angles and clocks

    def turns(self, i: int) -> bool:
        """Whether the angle of a number does not vary: of a fixed one, one >= 0, or a polar form with such an angle."""
        n, size = self.cell.nodes[i], self.ranges.of
        polar = n.op == "polar" and size(n.args[0]).lo >= 0 and not any(self.sources(n.args[1:]))
        exponent = self.cell.nodes[n.args[0]] if n.op == "exp" else n
        polar |= n.op == "exp" and exponent.op == "complex" and not any(self.sources(exponent.args[1:]))
        parts = n.op in ("mul", "div", *VIEWS) and all(map(self.turns, n.args))
        return polar or parts or not any(self.sources([i])) or (n.type.dtype == "real" and size(i).lo >= 0)

    def rotary(self, clock: str) -> bool:
        """Whether other states know only sines and cosines of multiples of a counter, and write products of them."""
        t, nodes = self.states[clock], self.cell.nodes
        if self.sources([t.update]) != ({clock}, False) or self.transition((clock,)).eigenvalues != ONE:
            return False
        for group in self.groups:
            kinds = {t.node: "clock", t.update: "clock"}
            for i in sorted(ancestors(self.cell, self.updates(group)) - kinds.keys() if clock not in group else ()):
                args = [kinds.get(a, "") for a in nodes[i].args]
                fixed = self.sources([i]) == ({clock}, False)
                multiple = fixed and self.coefficients([clock], [i]) is not None
                turn = nodes[i].op in ("cos", "sin", "rotation_blocks") and "clock" in args
                free = nodes[i].op in JOINT | {"mul", "einsum"} or (nodes[i].op == "div" and not args[1])
                turn |= nodes[i].op == "polar" and args[1] == "clock" and args[0] != "clock"
                product = "clock" not in args and free
                kinds[i] = "" if not any(args) else "turned" if turn or product else "clock" if multiple else "other"
            wrong = "other" in kinds.values() or "clock" in [kinds.get(u, "") for u in self.updates(group)]
            if clock not in group and (wrong or clock in self.sources(self.transition(group).nodes)[0]):
                return False
        return True

    # ------------------------------------------------------------ bounds

    def regular(self, n: Node) -> bool:
        """Whether a quotient, root, logarithm or power is continuous where it is used, and so bounded on what is."""
        inner = self.ranges.of(n.args[n.op == "div"]) if n.op not in ("solve", "cayley") else POSITIVE
        apart = inner.lo > 0 or inner.hi < 0 or (inner.lo == 0 and inner.lo_open) or (inner.hi == 0 and inner.hi_open)
        if n.type.dtype != "real" or n.op in ("solve", "cayley") or (n.op in ("log", "sqrt", "pow") and inner.hi <= 0):
            return n.type.dtype == "real" and n.op == "sqrt" and inner.lo >= 0
        power = self.ranges.of(n.args[1]) if n.op == "pow" else closed(-1, -1)
        return apart or (n.op == "sqrt" and inner.lo >= 0) or (power.lo == power.hi >= 0 and power.lo == int(power.lo))

    def wild(self, nodes: Iterable[int], ops: set[str]) -> set[str]:
        """Of these operations those on varying values that need not be continuous."""
        seen = [self.cell.nodes[i] for i in ancestors(self.cell, nodes) if not is_static(self.cell.nodes, [i])]
        return {n.op for n in seen if n.op in ops and not (n.op in SINGULAR and self.regular(n)) and not n.attr("eps")}

    def divides(self) -> bool:
        """Whether an update divides by what is computed from a state, and so tells -0.0 from 0.0."""
        own = {s.node for s in self.cell.states}
        seen = [self.cell.nodes[i] for i in ancestors(self.cell, self.updates(self.states))]
        told = {"div": slice(1, 2), "pow": slice(0, 1), "solve": slice(2), "cayley": slice(1)}
        return any(own & ancestors(self.cell, n.args[told[n.op]]) for n in seen if n.op in told)

    def jumps(self) -> set[str]:
        """What is computed from states, on the way to updates, and need not be continuous."""
        own = {s.node for s in self.cell.states}
        seen = [self.cell.nodes[i] for i in ancestors(self.cell, self.updates(self.states))]
        moved = [n for n in seen if own & ancestors(self.cell, [n.id])]
        quotient = [n for n in moved if n.op == "div" and not own & ancestors(self.cell, [n.args[1]])]
        bad = COMPARISONS | SINGULAR - {"sqrt"} | {"real", "take", "one_hot"}
        return {n.op for n in moved if (n.op in bad or (n.op in NORMS and not n.attr("eps"))) and n not in quotient}

    def bounded(self, group: Group) -> bool:
        """Whether a group stays bounded whatever it reads: by its update alone, or in a box that it starts in."""
        nodes = {self.states[s].node for s in group}
        for box in (None, closed(-1, 1), closed(-2, 2)):
            ranges = Ranges(self.cell, self.ranges.closed_inputs, {} if box is None else dict.fromkeys(nodes, box))
            found = [ranges.of(u, size=True) for u in self.updates(group)]
            starts = [ranges.of(self.states[s].init, size=True) for s in group]
            real = all(self.cell.nodes[i].type.dtype == "real" for i in nodes)
            if box is None and all(r.hi < INF for r in found):
                return True
            if real and box and all(r.within(Interval(hi=box.hi)) for r in [*found, *starts]):
                return True
        return False

    # ------------------------------------------------------------ what a group does

    def stays(self, group: Group) -> None:
        """Raises Reject for a group that may not stay bounded, though what it reads does."""
        updates, over = self.updates(group), self.semirings(group)
        need(not self.wild(updates, SINGULAR), f"{names(group)}: {self.wild(updates, SINGULAR)} of varying values")
        seen = [self.cell.nodes[i] for i in ancestors(self.cell, updates)]
        odd = {n.op for n in seen if n.op in ("log", "sqrt", "pow") and n.type.dtype == "real" and not self.regular(n)}
        odd |= {n.op for n in seen if n.op in NORMS and not n.attr("eps") and not is_static(self.cell.nodes, [n.id])}
        need(not odd, f"{names(group)}: {odd} may be no number")  # a norm without eps is 0 / 0 of zeros
        if "plus_times" not in over:
            own = {self.states[s].node for s in group}
            held = self.bounded(group) or (not over and self.slope(group).hi < 1)
            need(held or kept(self.cell, self.ranges, own, updates), f"{names(group)} may grow")
            return
        t = self.transition(group)
        alone, e, one = not t.adds and t.norm.hi <= 1, t.eigenvalues, Fraction(1)
        between = e is not None and e.within(Interval(lo=-one, hi=one, lo_open=True, hi_open=True))
        inside = self.fixed(group) and (t.fades or between)
        # a continuous norm below one has a maximum below one on bounded values
        attained = t.norm.hi == 1 and t.norm.hi_open and not self.wild(t.nodes, COMPARISONS | NORMS | SINGULAR)
        need(t.norm.hi < 1 or alone or inside or attained, f"{names(group)} may grow: the norm is in {t.norm}")

    def ways(self, group: Group) -> set[str]:
        """How a group of states can run in parallel."""
        over = self.semirings(group)
        if "plus_times" not in over:
            return {"scan"} if over and len(group) == 1 else set()
        t = self.transition(group)
        moves = t.nodes or t.eigenvalues is None or not t.eigenvalues.lo == t.eigenvalues.hi == 1
        convolves = t.elementwise and self.fixed(group) and moves and t.adds
        legal = {"scan": t.elementwise or (t.blocks and not t.low_rank), "chunk": t.low_rank, "convolution": convolves}
        return {way for way, holds in legal.items() if holds}


def names(group: Group) -> str:
    return " and ".join(f"`{s}`" for s in group)

"""From wanted values of nodes, one array a context, back to the raw parameters (and free inputs) that give them.

Nodes are taken from the last to the first, so all that is wanted of one is known when it is taken.  Nonlinear
operations are inverted entry by entry (`rules.py`), with backtracking over the few ways a product or sum can be had.
Nodes that are affine in parameters (linear layers) come last: they become exact linear equations, once the values the
layers read are chosen, letters one-hot where nothing else is wanted of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from rnnc.analysis.ranges import Ranges
from rnnc.exact import NotExact
from rnnc.ir.graph import CellIR, Node, NodeId
from rnnc.verify.effort import Effort, spend
from rnnc.verify.witness.domains import two_points
from rnnc.verify.witness.evaluation import BY_STATE, BY_WINDOW, Branch, Contexts, Evaluation
from rnnc.verify.witness.expressions import NotAffine
from rnnc.verify.witness.numbers import ONE, ZERO, Number
from rnnc.verify.witness.rules import options
from rnnc.verify.witness.taps import window_taps
from rnnc.verify.witness.want import VIEWS, Array, Conflict, Want, join

__all__ = ["Branch", "Clock", "Contexts", "OutOfBudget", "Solver", "Stuck"]


class OutOfBudget(Exception):
    """The search took longer than it may."""


class Stuck(Exception):
    """One proposal took more steps than it may."""


class Clock:
    """Raises OutOfBudget once the seconds' worth of work is over, or the nodes taken too many."""

    def __init__(self, seconds: float, steps: int = 200_000) -> None:
        self.effort = Effort.of(seconds)
        self.steps = steps
        self.limit = 0  # of `steps`: below it the proposal at hand is given up

    @property
    def left(self) -> float:
        """Seconds, at least 0."""
        return self.effort.left

    def allow(self, steps: int) -> None:
        """Starts a proposal that may take so many steps."""
        self.limit = self.steps - steps

    def check(self) -> None:
        """Raises OutOfBudget once the seconds are over."""
        if self.effort.over:
            raise OutOfBudget

    def tick(self) -> None:
        """Counts a node that is taken."""
        self.steps -= 1
        if self.steps < 0:
            raise OutOfBudget
        self.check()
        if self.steps < self.limit:
            raise Stuck


class Solver(Evaluation):
    """For one cell at fixed dims."""

    def __init__(
        self,
        cell: CellIR,
        dims: Mapping[str, int],
        contexts: Contexts,
        clock: Clock,
        ranges: Ranges | None = None,
    ) -> None:
        super().__init__(cell, dims, contexts, ranges)
        self.clock = clock
        self._unknowable: dict[NodeId, bool] = {}

    def at(self, contexts: Contexts) -> Solver:
        """The same cell in other contexts."""
        return Solver(self.cell, self.dims, contexts, self.clock, self.ranges)

    # ------------------------------------------------------------ wanting

    def want(self, b: Branch, node: NodeId, target: Array) -> None:
        """Adds a want; raises Conflict."""
        if not self.possible(node, target):
            raise Conflict
        target = self.spread(node, target)
        new = join(b.wanted.get(node), target)
        if node in b.fixed:
            join(b.fixed[node], target)
        b.wanted[node] = new
        b.pending.add(node)

    # ------------------------------------------------------------ affine nodes

    def affine(self, b: Branch, node: NodeId) -> bool:
        """Turns what is wanted of an affine node into equations; False on a contradiction."""
        for z in self._read_by(b, node, own=True):
            self.complete(b, z)
        try:
            found = self.expressions(b, node, True, own=True)
        except NotAffine:
            return False
        target = b.wanted[node]
        for at in zip(*np.nonzero(target != None), strict=True):  # noqa: E711
            self.clock.check()
            if not b.system.add(found[at], target[at]):
                return False
        return True

    def _read_by(self, b: Branch, node: NodeId, own: bool = False) -> list[NodeId]:
        """The values that the layers of an affine node read, not yet decided."""
        n = self.cell.nodes[node]
        if (node in b.fixed and not own) or not n.args or self.free(node) or n.op == "take":
            return []
        if n.op == "einsum" and any(self.static_affine(a) for a in n.args):
            return [a for a in n.args if not self.static_affine(a) and a not in b.fixed and not self.free(a)]
        return [z for a in n.args for z in self._read_by(b, a)]

    def complete(self, b: Branch, z: NodeId) -> None:
        """Decides all that is open in a value that layers read: the letters one-hot in entries nothing is wanted of."""
        n = self.cell.nodes[z]
        if z in b.fixed:
            return
        if n.op == "lift" or (n.op in VIEWS and self.cell.nodes[n.args[0]].op in ("input", "state")):
            self.complete(b, n.args[0])
            b.fixed[z] = self.known(b, z)
            return
        have = self.known(b, z)
        settled = n.op in ("one_hot", "state", "delay") or (have != None).all()  # noqa: E711
        if settled or (self.varies[z] == BY_STATE and (have != None).any()):  # noqa: E711
            b.fixed[z] = have
            return
        by_window = self.varies[z] == BY_WINDOW
        full = self._with_windows(have) if by_window else self._with_letters(have, *self._values(z))
        if n.op == "input":
            full[full == None] = self._values(z)[0]  # noqa: E711
        self.want(b, z, full)
        b.fixed[z] = b.wanted[z]

    def _values(self, z: NodeId) -> tuple[Number, Number]:
        """Two values that an entry may have: 0 and 1 where nothing forbids them."""
        declared = next((i.domain for i in self.cell.inputs if i.node == z), None)
        return two_points(declared)

    def _with_letters(self, have: Array, zero: Number, one: Number) -> Array:
        """One-hot letters in the first entries (of each block) that are free in all contexts; where these are too few,
        multiples in the last, and zeros in what is wanted of some letters only.
        """
        out = have.copy()
        rows = have if have.ndim > 1 else have[:, None]
        full = out if out.ndim > 1 else out[:, None]
        letters = sorted(set(self.contexts.letters))
        for at in np.ndindex(*rows.shape[1:-1]):
            block = rows[(slice(None), *at)]
            free = [i for i in range(block.shape[-1]) if all(x is None for x in block[:, i])]
            many = len(free) >= len(letters)
            for i in range(block.shape[-1]):
                if not many and i not in free:  # what is wanted of some letters only tells these apart
                    column = full[(slice(None), *at, i)]
                    column[column == None] = zero  # noqa: E711
            for c, letter in enumerate(self.contexts.letters):
                k = letters.index(letter) + (1 if many else 0)  # with too few entries the first letter is zero
                for j in range(min(len(free), len(letters))):
                    on = j == min(k, len(free)) - 1
                    times = max(k - len(free) + 1, 1) if on else 0
                    full[(c, *at, free[j])] = zero + (one - zero) * times
        return out

    def _with_windows(self, have: Array) -> Array:
        """Entries that are free in all contexts say what the letter is, and what the one before was; those of which one
        value is wanted have it everywhere.
        """
        assert self.contexts.past is not None
        out = have.copy()
        full = out if out.ndim > 1 else out[:, None]
        now, past = np.array(self.contexts.letters), np.array(self.contexts.past)
        first, *rest = sorted(set(self.contexts.letters))
        features = [*(now == k for k in rest), *(past == k for k in (first, *rest)), now == first]
        for at in np.ndindex(*full.shape[1:-1]):
            unused = list(features)
            for i in range(full.shape[-1]):
                column = full[(slice(None), *at, i)]
                wanted = list(dict.fromkeys(x for x in column if x is not None))
                if not wanted:
                    shown = unused.pop(0) if unused else np.zeros(len(now), dtype=bool)
                    column[:] = [ONE if x else ZERO for x in shown]
                elif len(wanted) == 1:
                    column[:] = [wanted[0]] * len(column)
                elif any(x is None for x in column):
                    raise Conflict
        return out

    # ------------------------------------------------------------ the search

    def solve(self, b: Branch) -> Branch | None:
        """A branch in which nothing is pending, or None."""
        while b.pending:
            self.clock.tick()
            node = self._next(b)
            b.pending.discard(node)
            if (b.wanted[node] == None).all():  # noqa: E711
                continue
            n = self.cell.nodes[node]
            try:
                if n.op in ("input", "state"):
                    self._leaf(b, n)
                elif self.shaped(b, node, own=True):
                    if not self.affine(b, node):
                        return None
                elif (done := self._only(b, n)) is not None:
                    if done:
                        continue
                    return self._branch(b, n)
            except (Conflict, NotExact):
                return None
        return b

    def _next(self, b: Branch) -> NodeId:
        """What layers want of a convolution that sees windows is known only after them."""
        late = "conv" if self.contexts.past is not None else ""
        first = [i for i in b.pending if self.cell.nodes[i].op != late and not self.shaped(b, i, own=True)]
        forced = [i for i in first if self.cell.nodes[i].op in ("add", "sub") and self._offset(i)]
        return max(forced or first or b.pending)

    def _offset(self, node: NodeId) -> bool:
        """A constant is added, or this is taken from one: there is one way to have it, and factors follow from it."""
        return any(self.free(a) for a in self.cell.nodes[node].args)

    def _leaf(self, b: Branch, n: Node) -> None:
        """A state has the value of the context; an input is free, or stands for the letter."""
        if n.op == "state" and n.id not in self.contexts.states:
            raise Conflict
        if n.op == "state" or n.id in self.tokens:
            join(self.known(b, n.id), b.wanted[n.id])

    def _only(self, b: Branch, n: Node) -> bool | None:
        """Takes a node whose rule is the same in every branch: True when done, False when there are choices."""
        if n.op == "conv" and self.contexts.past is not None:
            self._take(b, n, window_taps(self._question(b, n), self.contexts))
            return True
        if n.op in VIEWS or n.op in ("neg", "conv"):
            for option in options(self._question(b, n)):
                self._take(b, n, option)
                return True
            raise Conflict
        return False

    def _question(self, b: Branch, n: Node) -> Want:
        target = b.wanted[n.id]
        spend("wanted", target.size)
        return Want(
            n,
            self.site(n.id),
            target,
            tuple(self.known(b, a) for a in n.args) if n.op not in VIEWS else (),
            tuple(self.shape(a) for a in n.args),
            tuple(self.unknowable(a) for a in n.args),
            self._twin(b, n),
            self.contexts.hints.get(target.shape[1:]),
        )

    def _twin(self, b: Branch, n: Node) -> Array | None:
        """What is wanted of the cosine of the same angle, or of the sine."""
        other = {"sin": "cos", "cos": "sin"}.get(n.op)
        if other is None:
            return None
        same = (m.id for m in self.cell.nodes if m.op == other and m.args == n.args and m.id in b.wanted)
        return next((b.wanted[m] for m in same), None)

    def unknowable(self, node: NodeId) -> bool:
        """A state of which nothing is known, or a multiple of one."""
        if node not in self._unknowable:
            n = self.cell.nodes[node]
            product = n.op == "mul" or n.op in VIEWS
            self._unknowable[node] = (
                node not in self.contexts.states
                if n.op == "state"
                else product and any(self.unknowable(a) for a in n.args)
            )
        return self._unknowable[node]

    def _take(self, b: Branch, n: Node, option: Iterable[Array | None]) -> None:
        for a, target in zip(n.args, option, strict=True):
            if target is not None and (target != None).any():  # noqa: E711
                self.want(b, a, target)

    def _branch(self, b: Branch, n: Node) -> Branch | None:
        gates = self._gates(b, n.id)
        if gates:
            child = b.copy()
            try:
                for g in gates:
                    ones = np.full((len(self.contexts), *self.shape(g)), ONE, dtype=object)
                    self.want(child, g, ones)
                    child.fixed[g] = ones
                child.pending.add(n.id)
                found = self.solve(child)
                if found is not None:
                    return found
            except Conflict:
                pass  # the gates cannot be open: try other ways
        for option in options(self._question(b, n)):
            child = b.copy()
            try:
                self._take(child, n, option)
            except Conflict:
                continue
            found = self.solve(child)
            if found is not None:
                return found
        return None

    def _gates(self, b: Branch, node: NodeId) -> list[NodeId]:
        """Factors of the summands that would leave a sum of linear layers if they were one."""
        if self.cell.nodes[node].op not in ("add", "sub"):
            return []
        found: list[NodeId] = []
        for a in self.cell.nodes[node].args:
            m = self.cell.nodes[a]
            if self.shaped(b, a):
                continue
            rest = [x for x in m.args if not self.shaped(b, x)]
            if m.op == "mul" and len(rest) == 1 and len(m.args) == 2:
                found += rest
            else:
                inner = self._gates(b, a)
                if not inner:
                    return []
                found += inner
        return found

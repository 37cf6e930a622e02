"""From wanted values of nodes, one array a context, back to the raw parameters (and free inputs) that give them.

Nodes are taken from the last to the first, so all that is wanted of one is known when it is taken.  Nonlinear
operations are inverted entry by entry (`rules.py`), with backtracking over the few ways a product or sum can be had.
Nodes that are affine in parameters (linear layers) come last: they become exact linear equations, once the values the
layers read are chosen, letters one-hot where nothing else is wanted of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from rnnc.ir.dims import Dim
from rnnc.ir.domains.concrete import site_of
from rnnc.ir.graph import CellIR, Node, NodeId
from rnnc.ir.ops import OPS
from rnnc.ir.ops.table import Site
from rnnc.verify.witness.expressions import Expression, LinearSystem, NotAffine
from rnnc.verify.witness.numbers import ONE, ZERO, Number, forward
from rnnc.verify.witness.rules import UNARY, VIEWS, Array, Conflict, Want, empty, join, options, root_of_pi

UNKNOWN = Expression(None)
PLAIN = frozenset({"add", "sub", "mul", "div", "neg", "sum", "einsum", "real"})


class OutOfBudget(Exception):
    """The search took longer than it may."""


class Stuck(Exception):
    """One proposal took more steps than it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contexts:
    """What differs between the evaluations at which values are wanted.

    `letters[c]` is the letter read in context c; `states` the known values of states, [context, *per, *shape];
    `hints` see `nonlinear`: [context, *per, *shape], used for any node of that shape.
    """

    letters: tuple[int, ...]
    states: Mapping[NodeId, Array] = field(default_factory=dict)
    hints: Array | None = None

    def __len__(self) -> int:
        return len(self.letters)


@dataclass(slots=True)
class Branch:
    """One line of the search: what is wanted, what is decided, the equations so far, and the nodes still to take."""

    wanted: dict[NodeId, Array] = field(default_factory=dict)
    fixed: dict[NodeId, Array] = field(default_factory=dict)
    system: LinearSystem = field(default_factory=LinearSystem)
    pending: set[NodeId] = field(default_factory=set)

    def copy(self) -> Branch:
        return Branch(dict(self.wanted), dict(self.fixed), self.system.copy(), set(self.pending))


class Clock:
    """Raises OutOfBudget once the seconds are over, or the nodes taken too many."""

    def __init__(self, seconds: float, steps: int = 200_000) -> None:
        self.end = time.monotonic() + seconds
        self.steps = steps
        self.limit = 0  # of `steps`: below it the proposal at hand is given up

    def allow(self, steps: int) -> None:
        """Starts a proposal that may take so many steps."""
        self.limit = self.steps - steps

    def tick(self) -> None:
        self.steps -= 1
        if self.steps < 0 or time.monotonic() > self.end:
            raise OutOfBudget
        if self.steps < self.limit:
            raise Stuck


class Solver:
    """For one cell at fixed dims."""

    def __init__(self, cell: CellIR, dims: Mapping[str, int], contexts: Contexts, clock: Clock) -> None:
        self.cell, self.dims, self.contexts, self.clock = cell, dims, contexts, clock
        self._sites: dict[NodeId, Site] = {}
        self._constants: dict[NodeId, Array] = {}
        self.varies = self._kinds()
        self.has_param = self._below("param")

    # ------------------------------------------------------------ facts of the graph

    def _kinds(self) -> list[int]:
        """0: the same in all contexts, 1: depends on the letter alone, 2: on states."""
        kinds: list[int] = []
        for n in self.cell.nodes:
            own = 1 if n.op == "input" else 2 if n.op in ("state", "delay", "attention") else 0
            kinds.append(max([own, *(kinds[a] for a in n.args)]))
        return kinds

    def _below(self, op: str) -> list[bool]:
        found: list[bool] = []
        for n in self.cell.nodes:
            found.append(n.op == op or any(found[a] for a in n.args))
        return found

    def site(self, node: NodeId) -> Site:
        if node not in self._sites:
            self._sites[node] = site_of(self.cell, self.cell.nodes[node], self.dims)
        return self._sites[node]

    def shape(self, node: NodeId) -> tuple[int, ...]:
        s = self.site(node)
        return (*s.per, *s.shape)

    def unwanted(self, node: NodeId) -> Array:
        return empty((len(self.contexts), *self.shape(node)))

    # ------------------------------------------------------------ wanting

    def want(self, b: Branch, node: NodeId, target: Array) -> None:
        """Adds a want; raises Conflict."""
        target = self.spread(node, target)
        have = b.wanted.get(node)
        new = join(have, target)
        if node in b.fixed:
            join(b.fixed[node], target)
        b.wanted[node] = new
        b.pending.add(node)

    def spread(self, node: NodeId, target: Array) -> Array:
        """What is wanted in one context is wanted in all that the node cannot tell from it."""
        kind = self.varies[node]
        if kind == 2:
            return target
        groups: dict[int, list[int]] = {}
        for c, letter in enumerate(self.contexts.letters):
            groups.setdefault(letter if kind else 0, []).append(c)
        out = target.copy()
        for same in groups.values():
            row: Array | None = None
            for c in same:
                row = join(row, target[c : c + 1])
            out[same] = row
        return out

    # ------------------------------------------------------------ values

    def constant(self, n: Node) -> Array:
        """Of a leaf without arguments that is no input, parameter or state."""
        if n.id not in self._constants:
            value = n.attr("value")
            shape = self.shape(n.id)
            if n.op == "const":
                array = (
                    np.broadcast_to(_exact(value), shape) if isinstance(value, tuple) else np.full(shape, _exact(value))
                )
            else:
                found = OPS[n.op].value
                assert found is not None
                plain = np.asarray(found(np, self.site(n.id)))
                array = np.array([Expression(Number(Fraction(float(x)))) for x in plain.reshape(-1)], dtype=object)
                array = array.reshape(shape)
            out = np.empty((len(self.contexts), *shape), dtype=object)
            out[...] = array
            self._constants[n.id] = out
        return self._constants[n.id]

    def expressions(self, b: Branch, node: NodeId, symbolic: bool, memo: dict[NodeId, Array] | None = None) -> Array:
        """The node's value in each context as an array of Expressions: in the parameters if `symbolic`, else known or
        not.
        """
        memo = {} if memo is None else memo
        if node not in memo:
            memo[node] = self._expressions(b, self.cell.nodes[node], symbolic, memo)
        return memo[node]

    def _expressions(self, b: Branch, n: Node, symbolic: bool, memo: dict[NodeId, Array]) -> Array:
        if n.id in b.fixed:
            return _wrap(b.fixed[n.id])
        chosen = _wrap(b.wanted[n.id]) if n.id in b.wanted else None
        match n.op:
            case "param":
                if not symbolic:
                    return _wrap(self.unwanted(n.id)) if chosen is None else chosen
                return self._variables(n.id)
            case "input":
                return _wrap(self.unwanted(n.id)) if chosen is None else chosen
            case "state":
                known = self.contexts.states.get(n.id)
                return _wrap(self.unwanted(n.id) if known is None else known)
            case _ if not n.args:
                return self.constant(n)
        if not symbolic and (n.op in ("einsum", "take") and self.has_param[n.id]):
            return _wrap(self.unwanted(n.id)) if chosen is None else chosen
        found = self._apply(b, n, symbolic, memo)
        if chosen is None or (symbolic and self.shaped(b, n.id)):
            return found
        return np.where(np.vectorize(lambda e: e.constant is None, otypes=[bool])(chosen), found, chosen)

    def _apply(self, b: Branch, n: Node, symbolic: bool, memo: dict[NodeId, Array]) -> Array:
        def argument(i: int) -> Array:
            return self.expressions(b, n.args[i], symbolic, memo)

        if n.op == "conv":
            return argument(0)  # only identity taps are ever chosen
        if n.op == "take":
            table = argument(0)
            return np.array([table[c, letter] for c, letter in enumerate(self.contexts.letters)], dtype=object)
        if n.op == "one_hot":
            out = np.full((len(self.contexts), *self.shape(n.id)), Expression(ZERO), dtype=object)
            for c, letter in enumerate(self.contexts.letters):
                out[c, ..., letter] = Expression(ONE)
            return out
        if n.op in VIEWS or n.op in PLAIN:
            args = [argument(i) for i in range(len(n.args))]
            rank = max(a.ndim for a in args)
            if OPS[n.op].category == "elementwise":
                args = [a.reshape((a.shape[0],) + (1,) * (rank - a.ndim) + a.shape[1:]) for a in args]
            if n.op == "real":
                return args[0]
            value = OPS[n.op].value
            assert value is not None
            try:
                return _plain(np.asarray(value(np, self.site(n.id), *args), dtype=object))
            except NotAffine:
                if symbolic:
                    raise
                return _wrap(self.unwanted(n.id))
        if n.op in UNARY:
            x = argument(0)
            return np.array([_forward(n.op, e) for e in x.reshape(-1)], dtype=object).reshape(x.shape)
        return _wrap(self.unwanted(n.id))

    def _variables(self, node: NodeId) -> Array:
        shape = self.shape(node)
        size = int(np.prod(shape, dtype=int))
        row = np.empty(size, dtype=object)
        for i in range(size):
            row[i] = Expression(ZERO, {(node, i): Fraction(1)})
        return np.broadcast_to(row.reshape(shape), (len(self.contexts), *shape))

    def known(self, b: Branch, node: NodeId) -> Array:
        """[context, ...] of Number or None."""
        return _unwrap(self.expressions(b, node, False))

    # ------------------------------------------------------------ affine nodes

    def shaped(self, b: Branch, node: NodeId) -> bool:
        """Affine in parameters once the values that layers read are chosen."""
        n = self.cell.nodes[node]
        if node in b.fixed or n.op in ("param", "state"):
            return True
        if n.op == "einsum" or n.op == "mul":
            if any(self._static_affine(a) for a in n.args) and (n.op == "einsum" or self._decided(b, n)):
                return True
            return n.op == "mul" and self._decided(b, n) and all(self.shaped(b, a) for a in n.args)
        if n.op == "take":
            return self.cell.nodes[n.args[0]].op == "param"
        if n.op == "div":
            return self.shaped(b, n.args[0]) and self._free(n.args[1])
        if n.op in ("add", "sub", "neg", "sum") or n.op in VIEWS:
            return all(self.shaped(b, a) for a in n.args)
        return self._free(node)

    def _decided(self, b: Branch, n: Node) -> bool:
        """One factor of a product is known."""
        return any(self._free(a) or a in b.fixed for a in n.args)

    def _free(self, node: NodeId) -> bool:
        """Made of constants only."""
        return self.varies[node] == 0 and not self.has_param[node]

    def _static_affine(self, node: NodeId) -> bool:
        n = self.cell.nodes[node]
        return n.op == "param" or (
            n.op in VIEWS and self.has_param[node] and all(self._static_affine(a) for a in n.args)
        )

    def affine(self, b: Branch, node: NodeId) -> bool:
        """Turns what is wanted of an affine node into equations; False on a contradiction."""
        for z in self._read_by(b, node):
            self.complete(b, z)
        try:
            found = self.expressions(b, node, True)
        except NotAffine:
            return False
        target = b.wanted[node]
        return all(
            b.system.add(found[at], target[at])
            for at in zip(*np.nonzero(target != None), strict=True)  # noqa: E711
        )

    def _read_by(self, b: Branch, node: NodeId) -> list[NodeId]:
        """The values that the layers of an affine node read, not yet decided."""
        n = self.cell.nodes[node]
        if node in b.fixed or not n.args or self._free(node):
            return []
        if n.op == "take":
            return []
        if n.op == "einsum" and any(self._static_affine(a) for a in n.args):
            return [a for a in n.args if not self._static_affine(a) and a not in b.fixed and not self._free(a)]
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
        if self.varies[z] == 2 or n.op == "one_hot" or (have != None).all():  # noqa: E711
            b.fixed[z] = have
            return
        full = self._with_letters(have)
        if n.op == "input":
            full[full == None] = ZERO  # noqa: E711
        self.want(b, z, full)
        b.fixed[z] = b.wanted[z]

    def _with_letters(self, have: Array) -> Array:
        """One-hot letters in the first entries (of each block) that are free in all contexts."""
        out = have.copy()
        letters = sorted(set(self.contexts.letters))
        for at in np.ndindex(*have.shape[1:-1]):
            rows = have[(slice(None), *at)]
            free = [i for i in range(rows.shape[-1]) if all(x is None for x in rows[:, i])]
            for c, letter in enumerate(self.contexts.letters):
                k = letters.index(letter)
                if len(free) >= len(letters):
                    for j in range(len(letters)):
                        out[(c, *at, free[j])] = ONE if j == k else ZERO
                elif free:
                    for j in range(len(free)):
                        out[(c, *at, free[j])] = Number(max(k - len(free) + 1, 1) if j == min(k, len(free)) - 1 else 0)
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
                elif self.shaped(b, node):
                    if not self.affine(b, node):
                        return None
                elif (done := self._only(b, n)) is not None:
                    if done:
                        continue
                    return self._branch(b, n)
            except Conflict:
                return None
        return b

    def _next(self, b: Branch) -> NodeId:
        first = [i for i in b.pending if not self.shaped(b, i)]
        return max(first or b.pending)

    def _leaf(self, b: Branch, n: Node) -> None:
        if n.op == "state":
            known = self.contexts.states.get(n.id)
            if known is None:
                raise Conflict
            join(known, b.wanted[n.id])

    def _only(self, b: Branch, n: Node) -> bool | None:
        """Takes a node whose rule is the same in every branch: True when done, False when there are choices."""
        if n.op in VIEWS or n.op in ("neg", "conv"):
            for option in options(self._question(b, n)):
                self._take(b, n, option)
                return True
            raise Conflict
        return False

    def _question(self, b: Branch, n: Node) -> Want:
        hints = self.contexts.hints
        target = b.wanted[n.id]
        return Want(
            n,
            self.site(n.id),
            target,
            tuple(self.known(b, a) for a in n.args) if n.op not in VIEWS else (),
            tuple(self.shape(a) for a in n.args),
            tuple(self.unknowable(a) for a in n.args),
            hints if hints is not None and hints.shape == target.shape else None,
        )

    def unknowable(self, node: NodeId) -> bool:
        """A state of which nothing is known, or a multiple of one."""
        n = self.cell.nodes[node]
        if n.op == "state":
            return node not in self.contexts.states
        return (n.op == "mul" or n.op in VIEWS) and any(self.unknowable(a) for a in n.args)

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


# ---------------------------------------------------------------- arrays of expressions


def _wrap(values: Array) -> Array:
    out = np.empty(values.shape, dtype=object)
    flat = out.reshape(-1)
    for i, x in enumerate(values.reshape(-1)):
        flat[i] = UNKNOWN if x is None else Expression(x)
    return out


def _unwrap(values: Array) -> Array:
    out = empty(values.shape)
    flat = out.reshape(-1)
    for i, e in enumerate(values.reshape(-1)):
        flat[i] = None if e.terms else e.constant
    return out


def _plain(values: Array) -> Array:
    """NumPy's own zeros and ones as expressions."""
    out = np.empty(values.shape, dtype=object)
    flat = out.reshape(-1)
    for i, e in enumerate(values.reshape(-1)):
        flat[i] = e if isinstance(e, Expression) else Expression(Number(Fraction(e)))
    return out


def _forward(op: str, e: Expression) -> Expression:
    if e.terms or e.constant is None:
        return UNKNOWN
    return Expression(-e.constant if op == "neg" else e.constant if op == "real" else forward(op, e.constant))


def _exact(value: Any) -> Any:
    if isinstance(value, tuple):
        return np.array([_exact(v) for v in value], dtype=object)
    if isinstance(value, (int, Fraction)):
        return Expression(Number(Fraction(value)))
    return Expression(root_of_pi()) if value == "pi" else UNKNOWN


def size_of(value: Dim, dims: Mapping[str, int]) -> int:
    return value.evaluate(dims)

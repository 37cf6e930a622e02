"""Values of nodes in every context of a search: known numbers, and affine expressions in parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from rnnc.analysis.ranges import Ranges
from rnnc.exact import I, NotExact
from rnnc.exact import functions as fn
from rnnc.ir.domains.concrete import site_of
from rnnc.ir.domains.exact import ExactDomain
from rnnc.ir.evaluate import evaluate
from rnnc.ir.graph import CellIR, Node, NodeId
from rnnc.ir.ops import OPS
from rnnc.ir.ops.table import Site
from rnnc.ir.types import Interval
from rnnc.verify.effort import spend
from rnnc.verify.witness.expressions import Expression, LinearSystem, NotAffine, contracted
from rnnc.verify.witness.numbers import ONE, ZERO, Number, forward, infinite, is_real, modulus, size
from rnnc.verify.witness.rules import UNARY
from rnnc.verify.witness.want import VIEWS, Array, Conflict, empty, join

UNKNOWN = Expression(None)
STEADY, BY_LETTER, BY_WINDOW, BY_STATE = range(4)  # on what a node's value depends
NOTHING_BEFORE = -1  # in place of a letter before the first
SUMS = frozenset({"add", "sub", "neg", "sum", "mean"})
PARTS = {"re": fn.re, "im": fn.im, "conj": fn.conj}
PLAIN = SUMS | {"mul", "div", "einsum", "real"}
CHOSEN = frozenset({"token", "bool"})  # inputs whose values are letters


@dataclass(frozen=True, slots=True, kw_only=True)
class Contexts:
    """What differs between the evaluations at which values are wanted.

    `letters[c]` is the letter read in context c, `past[c]` the one before it where convolutions look back (see
    `windows`); `states` the known values of states, [context, *per, *shape]; `hints` see `nonlinear`: for any node of
    core shape [*per, *shape] an array [context, *per, *shape].
    """

    letters: tuple[int, ...]
    past: tuple[int, ...] | None = None
    states: Mapping[NodeId, Array] = field(default_factory=dict)
    hints: Mapping[tuple[int, ...], Array] = field(default_factory=dict)

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


class Evaluation:
    """One cell at fixed dims, in some contexts."""

    def __init__(self, cell: CellIR, dims: Mapping[str, int], contexts: Contexts, ranges: Ranges | None = None) -> None:
        self.cell, self.dims, self.contexts = cell, dims, contexts
        self.ranges = ranges or Ranges.of(cell)
        self._sites: dict[NodeId, Site] = {}
        self._constants: dict[NodeId, Array] = {}
        self.varies = self._kinds()
        self.has_param = self._below("param")
        self.tokens = tokens_of(cell, dims)

    # ------------------------------------------------------------ facts of the graph

    def _kinds(self) -> list[int]:
        """The same in all contexts, by the letter alone, by it and the one before, or by states."""
        kinds: list[int] = []
        for n in self.cell.nodes:
            own = BY_LETTER if n.op == "input" else BY_STATE if n.op in ("state", "delay", "attention") else STEADY
            if n.op == "conv" and self.contexts.past is not None:
                own = BY_WINDOW
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

    def spread(self, node: NodeId, target: Array) -> Array:
        """What is wanted in one context is wanted in all that the node cannot tell from it."""
        kind = self.varies[node]
        if kind >= BY_WINDOW:
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

    def possible(self, node: NodeId, target: Array) -> bool:
        """Whether the values lie in the proven range of the node, its ends included."""
        wanted = {x for x in target.reshape(-1) if x is not None}
        if self.cell.nodes[node].type.dtype == "complex":
            lengths = [modulus(z) for z in wanted]
            interval = self.ranges.modulus(node)
            return all(length is None or _in_closure(interval, length) for length in lengths)
        interval = self.ranges.real(node)
        return all(is_real(x) and _in_closure(interval, x) for x in wanted)

    # ------------------------------------------------------------ values

    def constant(self, node: NodeId) -> Array:
        """Of a node that is made of constants only."""
        if node not in self._constants:
            shape = self.shape(node)
            out = np.full((len(self.contexts), *shape), UNKNOWN, dtype=object)
            try:
                value = evaluate(self.cell, ExactDomain(self.cell, self.dims, {}), [node])[node]
            except NotExact:
                value = None
            if value is not None and value.dtype == object:
                out[...] = _wrap(np.broadcast_to(value, shape))
            self._constants[node] = out
        return self._constants[node]

    def known(self, b: Branch, node: NodeId) -> Array:
        """[context, ...] of numbers or None."""
        return _unwrap(self.expressions(b, node, False))

    def expressions(
        self, b: Branch, node: NodeId, symbolic: bool, memo: dict[NodeId, Array] | None = None, own: bool = False
    ) -> Array:
        """The node's value in each context as an array of Expressions: in the parameters if `symbolic`, else known or
        not.  `own`: as computed from its arguments, whatever has been decided of the node itself.
        """
        memo = {} if memo is None else memo
        if node not in memo:
            memo[node] = self._expressions(b, self.cell.nodes[node], symbolic, memo, own)
        return memo[node]

    def _expressions(self, b: Branch, n: Node, symbolic: bool, memo: dict[NodeId, Array], own: bool) -> Array:
        spend("node")
        spend("value", len(self.contexts) * math.prod(self.shape(n.id)))
        if n.id in b.fixed and not own:
            return _wrap(b.fixed[n.id])
        chosen = _wrap(b.wanted[n.id]) if n.id in b.wanted else None
        match n.op:
            case "param":
                if not symbolic:
                    return _wrap(self.unwanted(n.id)) if chosen is None else chosen
                return self._variables(n)
            case "input" if n.type.dtype in CHOSEN:
                return self._letters(n)
            case "input":
                return _wrap(self.unwanted(n.id)) if chosen is None else chosen
            case "state":
                have = self.contexts.states.get(n.id)
                return _wrap(self.unwanted(n.id) if have is None else have)
            case _ if self.free(n.id):
                return self.constant(n.id)
        if not symbolic and (n.op in ("einsum", "take") and self.has_param[n.id]):
            return _wrap(self.unwanted(n.id)) if chosen is None else chosen
        if chosen is not None and not symbolic and (b.wanted[n.id] != None).all():  # noqa: E711
            return chosen
        found = self._apply(b, n, symbolic, memo)
        if chosen is None or (symbolic and self.shaped(b, n.id)):
            return found
        return np.where(np.vectorize(lambda e: e.constant is None, otypes=[bool])(chosen), found, chosen)

    def _apply(self, b: Branch, n: Node, symbolic: bool, memo: dict[NodeId, Array]) -> Array:
        def argument(i: int) -> Array:
            return self.expressions(b, n.args[i], symbolic, memo)

        if n.op == "conv":  # without windows only identity taps are ever chosen
            return argument(0) if self.contexts.past is None else _wrap(self.unwanted(n.id))
        if n.op == "take":
            table, tokens = argument(0), self._token_values(n.args[1])
            return np.array([table[c, t] for c, t in enumerate(tokens)], dtype=object)
        if n.op == "one_hot":
            out = np.full((len(self.contexts), *self.shape(n.id)), Expression(ZERO), dtype=object)
            for c, t in enumerate(self._token_values(n.args[0])):
                out[c, ..., t] = Expression(ONE)
            return out
        if n.op in PARTS:
            return np.vectorize(lambda e: e.part(PARTS[n.op]), otypes=[object])(argument(0))
        if n.op == "complex":
            i = np.full((1,), Expression(I), dtype=object)
            real, imaginary = _aligned([argument(0), argument(1)])
            return real + imaginary * i
        if n.op in VIEWS or n.op in PLAIN:
            return self._by_table(n, [argument(i) for i in range(len(n.args))], symbolic)
        if n.op in UNARY:
            x = argument(0)
            return np.array([_forward(n.op, e) for e in x.reshape(-1)], dtype=object).reshape(x.shape)
        if n.op == "pow":
            return np.frompyfunc(_power, 2, 1)(*_aligned([argument(0), argument(1)]))
        return _wrap(self.unwanted(n.id))

    def _by_table(self, n: Node, args: list[Array], symbolic: bool) -> Array:
        if n.op == "real":
            return args[0]
        if OPS[n.op].category == "elementwise":
            args = _aligned(args)
        value = OPS[n.op].value
        assert value is not None
        try:
            if n.op == "einsum" and len(args) == 2:
                return contracted(str(n.attr("spec")), *args)
            return _plain(np.asarray(value(np, self.site(n.id), *args), dtype=object))
        except NotAffine:
            if symbolic:
                raise
            return _wrap(self.unwanted(n.id))

    def _variables(self, n: Node) -> Array:
        shape = self.shape(n.id)
        size = int(np.prod(shape, dtype=int))
        row = np.empty(size, dtype=object)
        for i in range(size):
            row[i] = Expression(ZERO, {(n.id, i, 0): ONE} | ({(n.id, i, 1): I} if n.type.dtype == "complex" else {}))
        return np.broadcast_to(row.reshape(shape), (len(self.contexts), *shape))

    def _token_values(self, node: NodeId) -> list[int]:
        """The token that each context reads; Conflict where it is no input."""
        if self.cell.nodes[node].op == "lift":
            return self._token_values(self.cell.nodes[node].args[0])
        if node not in self.tokens:
            raise Conflict
        return [self.token(node, letter) for letter in self.contexts.letters]

    def token(self, node: NodeId, letter: int) -> int:
        """The letter's value of an input of tokens: several such inputs spell its number out, the first the lowest."""
        stride, count = self.tokens[node]
        return letter // stride % count

    def _letters(self, n: Node) -> Array:
        out = np.empty((len(self.contexts), *self.shape(n.id)), dtype=object)
        for c, letter in enumerate(self.contexts.letters):
            out[c] = Expression(Fraction(self.token(n.id, letter)))
        return out

    # ------------------------------------------------------------ affine nodes

    def shaped(self, b: Branch, node: NodeId, own: bool = False) -> bool:
        """Affine in parameters once the values that layers read are chosen; `own` as for `expressions`."""
        return self._shaped(b, node, own, {})

    def _shaped(self, b: Branch, node: NodeId, own: bool, seen: dict[NodeId, bool]) -> bool:
        """`seen`: what is known of the nodes below, each of which may be read many times."""
        n = self.cell.nodes[node]

        def below(a: NodeId) -> bool:
            if a not in seen:
                seen[a] = self._shaped(b, a, False, seen)
            return seen[a]

        if (node in b.fixed and not own) or n.op in ("param", "state"):
            return True
        if n.op == "einsum" or n.op == "mul":
            if any(self.static_affine(a) for a in n.args) and (n.op == "einsum" or self._decided(b, n)):
                return True
            return n.op == "mul" and self._decided(b, n) and all(map(below, n.args))
        if n.op == "take":
            return self.cell.nodes[n.args[0]].op == "param"
        if n.op == "div":
            return below(n.args[0]) and self.free(n.args[1])
        if n.op in SUMS or n.op in VIEWS or n.op in PARTS or n.op == "complex":
            return all(map(below, n.args))
        return self.free(node)

    def _decided(self, b: Branch, n: Node) -> bool:
        """One factor of a product is known."""
        return any(self.free(a) or a in b.fixed for a in n.args)

    def free(self, node: NodeId) -> bool:
        """Made of constants only."""
        return self.varies[node] == STEADY and not self.has_param[node]

    def static_affine(self, node: NodeId) -> bool:
        """Parameters, moved about."""
        n = self.cell.nodes[node]
        linear = n.op in VIEWS or n.op == "complex"
        return n.op == "param" or (linear and self.has_param[node] and all(self.static_affine(a) for a in n.args))


def _in_closure(interval: Interval, x: Number) -> bool:
    """False only where x is clearly outside."""
    sign = infinite(x)
    near = math.inf * sign if sign else size(x)
    slack = 1e-6 * (1 + abs(near)) if not sign else 0.0
    low = interval.lo is None or near >= float(interval.lo) - slack
    return low and (interval.hi is None or near <= float(interval.hi) + slack)


def tokens_of(cell: CellIR, dims: Mapping[str, int]) -> dict[NodeId, tuple[int, int]]:
    """(stride, size of the vocabulary) of every input of tokens or bools."""
    found: dict[NodeId, tuple[int, int]] = {}
    stride = 1
    for i in cell.inputs:
        t = cell.nodes[i.node].type
        if t.dtype in CHOSEN:
            count = 2 if t.vocab is None else t.vocab.evaluate(dims)
            found[i.node] = (stride, count)
            stride *= count
    return found


# ---------------------------------------------------------------- arrays of expressions


def _aligned(args: list[Array]) -> list[Array]:
    rank = max(a.ndim for a in args)
    return [a.reshape((a.shape[0],) + (1,) * (rank - a.ndim) + a.shape[1:]) for a in args]


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
        flat[i] = e if isinstance(e, Expression) else Expression(Fraction(e))
    return out


def _power(base: Expression, exponent: Expression) -> Expression:
    a, b = base.constant, exponent.constant
    if a is None or base.terms or exponent.terms or not isinstance(b, Fraction) or b.denominator > 1 or b < 1:
        return UNKNOWN
    return Expression(a ** int(b))


def _forward(op: str, e: Expression) -> Expression:
    if e.terms or e.constant is None:
        return UNKNOWN
    return Expression(-e.constant if op == "neg" else e.constant if op == "real" else forward(op, e.constant))

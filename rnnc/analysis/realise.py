"""Builds nodes for sums of state-free monomials: the coefficients of a normal form.

A *frame* is the list of axes the result has, per axes first.  A label that is not in the frame is summed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from rnnc.analysis.logs import CoefficientLogs
from rnnc.analysis.monomials import Axis, Factor, Label, Labels, Monomial
from rnnc.ir.builder import Builder
from rnnc.ir.dims import ONE, Dim
from rnnc.ir.graph import NodeId

LETTERS = "ijklmnopqrstuvwxyzabcdefgh"


@dataclass(frozen=True, slots=True)
class Frame:
    """The axes of a coefficient; `per` are a batch, `core` its own.  No label occurs twice."""

    per: tuple[Axis, ...]
    core: tuple[Axis, ...]

    @property
    def labels(self) -> list[Label]:
        return [x for axis in self.per + self.core for x in axis]


@dataclass(frozen=True, slots=True)
class Piece:
    """A node whose core axes are the labels `core`, one each; `per` says whether it has the frame's per axes."""

    node: NodeId
    per: bool
    core: tuple[Label, ...]


class Realiser:
    """Builds coefficients in one builder, sharing equal nodes."""

    def __init__(self, builder: Builder, labels: Labels) -> None:
        self.b = builder
        self.labels = labels
        self.logs = CoefficientLogs(builder)

    def sum(self, terms: Iterable[Monomial], frame: Frame) -> NodeId | None:
        """The sum of the terms' coefficients, of rank `len(frame.core)` (axes of size 1 where nothing varies); None for
        zero.

        `out` and `atom_axes` of the terms are not looked at: the frame says which labels are free.
        """
        total: NodeId | None = None
        ordered = sorted(terms, key=lambda m: (m.coeff < 0, len(m.factors)))
        for m in ordered:
            node, negative = self._term(m, frame)
            if total is None:
                total = self.neg(node) if negative else node
            else:
                total = self.sub(total, node) if negative else self.add(total, node)
        return total

    def full(self, node: NodeId, per: tuple[Dim, ...], rank: int) -> NodeId:
        """`node` in the per block `per` and of core rank `rank`; a constant scalar stays as it is."""
        return self.b.expand_to_rank(self.b.lift(node, per), rank)

    # ------------------------------------------------------------ one term

    def _term(self, m: Monomial, frame: Frame) -> tuple[NodeId, bool]:
        """|coeff| * product of the factors, and whether it is to be subtracted."""
        m, frame = self._fused(m, frame)
        free = frame.labels
        per_labels = [x for axis in frame.per for x in axis]
        merged = any(f.labels and not self._fits_per(f, frame) for f in m.factors)
        pieces = [self._piece(f, frame, merged) for f in m.factors]
        free_core = free if merged else [x for x in free if x not in per_labels]
        pieces = self._contract(pieces, free_core)
        node = self._multiply(abs(m.coeff), pieces, free_core, frame, merged)
        return node, m.coeff < 0

    def _fused(self, m: Monomial, frame: Frame) -> tuple[Monomial, Frame]:
        """Axes split in blocks that every factor has as a whole, or not at all, as one label each."""
        used = [axis for f in m.factors for axis in f.axes]
        swap: dict[Axis, Axis] = {}
        for axis in frame.per + frame.core:
            whole = all(axis == a or not set(axis) & set(a) for a in used)
            if len(axis) > 1 and whole:
                swap[axis] = (self.labels.fresh(self.labels.size(axis)),)
        if not swap:
            return m, frame

        def go(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
            return tuple(swap.get(axis, axis) for axis in axes)

        factors = tuple(Factor(f.node, go(f.axes)) for f in m.factors)
        return replace(m, factors=factors), Frame(go(frame.per), go(frame.core))

    def _fits_per(self, f: Factor, frame: Frame) -> bool:
        """Whether the factor's per axes are the frame's (or it has none), and its core axes none of the frame's per
        labels.
        """
        n_per = len(self.b.type(f.node).per)
        per_labels = {x for axis in frame.per for x in axis}
        inside = {x for axis in f.axes[n_per:] for x in axis}
        return (n_per == 0 or f.axes[:n_per] == frame.per) and not (inside & per_labels)

    def _piece(self, f: Factor, frame: Frame, merged: bool) -> Piece:
        """A factor with one core axis per label; blocks are split by a reshape, repeated labels made one."""
        n_per = len(self.b.type(f.node).per)
        node, axes = f.node, f.axes
        if merged:
            node = self.b.add("merge", node, n=n_per) if n_per else node
            n_per = 0
        core = tuple(x for axis in axes[n_per:] for x in axis)
        shape = tuple(self.labels.sizes[x] for x in core)
        if self.b.type(node).shape != shape:
            node = self.b.add("reshape", node, shape=shape)
        while len(set(core)) < len(core):
            node, core = self._diagonal(node, core)
        return Piece(node, n_per > 0, core)

    def _diagonal(self, node: NodeId, core: tuple[Label, ...]) -> tuple[NodeId, tuple[Label, ...]]:
        """Entries at which a repeated label's two axes agree."""
        label = next(x for x in core if core.count(x) > 1)
        first = core.index(label)
        second = core.index(label, first + 1)
        letters = {x: LETTERS[i] for i, x in enumerate(dict.fromkeys(core))}
        other = LETTERS[len(letters)]
        text = [letters[x] for x in core]
        text[second] = other
        rest = core[:second] + core[second + 1 :]
        eye = self.b.add("eye", n=self.labels.sizes[label])
        spec = f"{''.join(text)},{letters[label]}{other}->{''.join(letters[x] for x in rest)}"
        return self.b.einsum(spec, node, eye), rest

    def _contract(self, pieces: list[Piece], free: Sequence[Label]) -> list[Piece]:
        """Sum out the labels that are not free, two factors at a time."""
        while True:
            bound = [x for p in pieces for x in p.core if x not in free]
            if not bound:
                return pieces
            label = min(bound, key=bound.count)  # those that only one factor has are summed first
            holders = [p for p in pieces if label in p.core]
            rest = [p for p in pieces if label not in p.core]
            if len(holders) == 1:
                p = holders[0]
                axes = tuple(i - len(p.core) for i, x in enumerate(p.core) if x == label)
                rest.append(Piece(self.b.add("sum", p.node, axes=axes), p.per, tuple(x for x in p.core if x != label)))
            else:
                a, b = sorted(holders, key=lambda p: -len(p.core))[:2]
                elsewhere = {x for p in pieces if p is not a and p is not b for x in p.core} | set(free)
                core = tuple(x for x in dict.fromkeys(a.core + b.core) if x in elsewhere)
                rest.append(self._einsum(a, b, core))
                rest += [p for p in holders if p is not a and p is not b]
            pieces = rest

    def _einsum(self, a: Piece, b: Piece, core: tuple[Label, ...]) -> Piece:
        letters = {x: LETTERS[i] for i, x in enumerate(dict.fromkeys(a.core + b.core))}
        left, right, out = ("".join(letters[x] for x in xs) for xs in (a.core, b.core, core))
        return Piece(self.b.einsum(f"{left},{right}->{out}", a.node, b.node), a.per or b.per, core)

    def _multiply(
        self, coeff: Fraction, pieces: list[Piece], free: Sequence[Label], frame: Frame, merged: bool
    ) -> NodeId:
        """The elementwise product of pieces in the order of the free labels, shaped as the frame."""
        total: NodeId | None = None if coeff == 1 and pieces else self.b.const(coeff)
        aligned = [self._aligned(p, free) for p in sorted(pieces, key=lambda p: len(p.core))]  # scalars first
        for node in dict.fromkeys(aligned):
            power = node
            for _ in range(1, aligned.count(node)):  # x * x by itself, so that its sign is seen
                power = self.mul(power, node)
            total = power if total is None else self.mul(total, power)
        assert total is not None
        return self._shaped(total, free, frame, merged)

    def _aligned(self, p: Piece, free: Sequence[Label]) -> NodeId:
        """A piece with one axis for each free label (size 1 where it lacks it); scalars stay scalars."""
        if not p.core:
            return p.node
        order = [x for x in free if x in p.core]
        node = p.node
        if list(p.core) != order:
            node = self.b.add("transpose", node, perm=tuple(p.core.index(x) for x in order))
        missing = tuple(i - len(free) for i, x in enumerate(free) if x not in p.core)
        first = next(i for i, x in enumerate(free) if x in p.core)
        inner = tuple(a for a in missing if a > first - len(free))
        node = self.b.add("expand", node, axes=inner) if inner else node
        return self.b.expand_to_rank(node, len(free))

    def _shaped(self, node: NodeId, free: Sequence[Label], frame: Frame, merged: bool) -> NodeId:
        """From one axis per free label to the frame's axes: blocks merged, per axes split off, full rank."""
        plain = all(len(axis) == 1 for axis in frame.core) and not merged
        if plain:
            return node if self.b.is_free_scalar(node) else self.b.expand_to_rank(node, len(frame.core))
        t = self.b.type(node)
        if t.rank == 0 and not merged:
            return node if self.b.is_free_scalar(node) else self.b.expand_to_rank(node, len(frame.core))
        if self.b.is_free_scalar(node):
            node = self.b.broadcast_to(node, (ONE,) * len(free))
        node = self.b.expand_to_rank(node, len(free))
        axes = (frame.per if merged else ()) + frame.core
        have = dict(zip(free, self.b.type(node).shape, strict=True))
        sizes, target = [], []
        for i, axis in enumerate(axes):
            varies = any(have[x] != ONE for x in axis) or (merged and i < len(frame.per))
            sizes += [self.labels.sizes[x] if varies else ONE for x in axis]
            target.append(self.labels.size(axis) if varies else ONE)
        node = self.b.broadcast_to(node, tuple(sizes))
        if sizes != target:
            node = self.b.add("reshape", node, shape=tuple(target))
        return self.b.add("split_per", node, n=len(frame.per)) if merged and frame.per else node

    # ------------------------------------------------------------ arithmetic with the obvious simplifications

    def _const(self, node: NodeId) -> Fraction | None:
        n = self.b.nodes[node]
        value = n.attr("value")
        return value if n.op == "const" and isinstance(value, Fraction) and n.type.rank == 0 else None

    def neg(self, x: NodeId) -> NodeId:
        """-x; -(-x) --> x, -(a - b) --> b - a."""
        n = self.b.nodes[x]
        if (c := self._const(x)) is not None:
            return self.b.const(-c)
        if n.op == "neg":
            return n.args[0]
        return self.sub(n.args[1], n.args[0]) if n.op == "sub" else self.b.map("neg", x)

    def add(self, x: NodeId, y: NodeId) -> NodeId:
        cx, cy = self._const(x), self._const(y)
        if cx is not None and cy is not None:
            return self.b.const(cx + cy)
        return y if cx == 0 else x if cy == 0 else self.b.map("add", x, y)

    def sub(self, x: NodeId, y: NodeId) -> NodeId:
        """x - y; x - (x - z) --> z, so that 1 - (1 - z) is z again."""
        cx, cy = self._const(x), self._const(y)
        if cx is not None and cy is not None:
            return self.b.const(cx - cy)
        n = self.b.nodes[y]
        if n.op == "sub" and n.args[0] == x:
            return n.args[1]
        if n.op == "sub" and cx is not None and self._const(self._unexpanded(n.args[0])) == cx:
            return n.args[1]
        return x if cy == 0 else self.neg(y) if cx == 0 else self.b.map("sub", x, y)

    def _unexpanded(self, node: NodeId) -> NodeId:
        while self.b.nodes[node].op in ("expand", "lift", "broadcast"):
            node = self.b.nodes[node].args[0]
        return node

    def mul(self, x: NodeId, y: NodeId) -> NodeId:
        cx, cy = self._const(x), self._const(y)
        if cx is not None and cy is not None:
            return self.b.const(cx * cy)
        return y if cx == 1 else x if cy == 1 else self.b.map("mul", x, y)

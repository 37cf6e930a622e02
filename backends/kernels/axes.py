"""Which axes of different values are the same: one label for all axes that are indexed together.

In `h <- a * h + outer(dt * u, B)` with h [e, n] there are two labels; a and h carry both, dt and u the first, B the
second.  A step whose values can all be labelled, no value with one label twice, is computed entry by entry: one loop
a label, and nothing but scalars inside.  A product with a learned matrix is no such step: it reads the state under one
label and writes it under another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from rnnc.ir.dims import ONE, Dim
from rnnc.ir.graph import CellIR, Node, NodeId
from rnnc.ir.ops import OPS
from rnnc.ir.types import Type

Label: TypeAlias = int
Axis: TypeAlias = "Label | None"  # None: an axis of size 1, which has no index

VIEWS = frozenset({"lift", "merge", "split_per", "expand", "broadcast", "reshape", "transpose"})
REDUCTIONS = frozenset({"sum", "mean", "amax", "amin"})
ELEMENTWISE = frozenset(n for n, op in OPS.items() if op.category == "elementwise")
POINTWISE = ELEMENTWISE | VIEWS | REDUCTIONS | {"einsum"}

# Those that are written for pairs of a real and an imaginary part.
OF_PAIRS = frozenset({"add", "sub", "neg", "mul", "div", "conj", "exp", "abs", "re", "im"}) | frozenset(
    {"eq", "ne", "select", "polar", "complex"}
)


class Unlabelled(Exception):
    """A value has no labels: its op is not pointwise, or two of its axes would share one."""


def axes_of(t: Type) -> tuple[Dim, ...]:
    """All axes of a value, the `per` axes first."""
    return (*t.per, *t.shape)


def is_number(node: Node) -> bool:
    """A rank-0 constant, which fits operands of any rank."""
    return node.op in ("const", "dim") and not axes_of(node.type)


@dataclass(slots=True)
class Axes:
    """Labels of the axes of the nodes seen so far (union-find; a label may be joined with another later)."""

    of: dict[NodeId, tuple[Axis, ...]] = field(default_factory=dict)
    parent: list[Label] = field(default_factory=list)
    size: list[Dim] = field(default_factory=list)

    def copy(self) -> Axes:
        return Axes(dict(self.of), list(self.parent), list(self.size))

    def fresh(self, size: Dim) -> Axis:
        if size == ONE:
            return None
        self.parent.append(len(self.parent))
        self.size.append(size)
        return self.parent[-1]

    def find(self, axis: Axis) -> Axis:
        while axis is not None and self.parent[axis] != axis:
            axis = self.parent[axis]
        return axis

    def join(self, a: Axis, b: Axis) -> Axis:
        """One label for both; the smaller one stays, a size-1 axis takes the other."""
        a, b = self.find(a), self.find(b)
        if a is None or b is None:
            return b if a is None else a
        if self.size[a] != self.size[b]:
            raise Unlabelled(f"axes of sizes {self.size[a]} and {self.size[b]}")
        self.parent[max(a, b)] = min(a, b)
        return min(a, b)

    def labels(self, node: NodeId) -> tuple[Axis, ...]:
        """For each axis of a node, `per` axes first, its label."""
        return tuple(self.find(a) for a in self.of[node])

    def carried(self, node: NodeId) -> frozenset[Label]:
        return frozenset(a for a in self.labels(node) if a is not None)

    def leaf(self, node: Node) -> None:
        """A value given from outside: every axis has a label of its own, until something joins it."""
        self.of[node.id] = tuple(self.fresh(d) for d in axes_of(node.type))

    def join_nodes(self, a: NodeId, b: NodeId) -> None:
        """`a` and `b` are indexed alike, as a state and its update are."""
        for x, y in zip(self.of[a], self.of[b], strict=True):
            self.join(x, y)

    def join_blocks(self, a: NodeId, b: NodeId) -> None:
        """Join all axes of two vectors but the last."""
        for x, y in zip(self.of[a][:-1], self.of[b][:-1], strict=True):
            if x is not None and y is not None:
                self.join(x, y)

    def extend(self, cell: CellIR, node: Node, again: bool = False) -> None:
        """Labels of a node from those of its arguments, joined with those it has where it was a leaf before (`again`).

        Raises Unlabelled.
        """
        before = self.of[node.id] if again else None
        if node.op not in POINTWISE:
            raise Unlabelled(f"`{node.op}` does not act entry by entry")
        if node.op in ELEMENTWISE - OF_PAIRS and any(cell.nodes[a].type.dtype == "complex" for a in node.args):
            raise Unlabelled(f"`{node.op}` of a complex number")
        args = [(cell.nodes[a], self.of[a]) for a in node.args]
        if node.op == "einsum":
            self.of[node.id] = self._einsum(node, args)
        elif node.op in REDUCTIONS:
            gone: Any = node.attr("axes")
            self.of[node.id] = tuple(x for i, x in enumerate(args[0][1]) if i - len(args[0][1]) not in gone)
        elif node.op in VIEWS:
            self.of[node.id] = self._view(node, *args[0])
        else:
            self.of[node.id] = self._elementwise(node, args)
        if before is not None:
            for a, b in zip(before, self.of[node.id], strict=True):
                if a is not None and b is not None:
                    self.join(a, b)

    def distinct(self) -> bool:
        """Whether no value carries a label twice."""
        for node in self.of:
            known = [a for a in self.labels(node) if a is not None]
            if len(set(known)) < len(known):
                return False
        return True

    def _elementwise(self, node: Node, args: list[tuple[Node, tuple[Axis, ...]]]) -> tuple[Axis, ...]:
        out: list[Axis] = [None] * len(axes_of(node.type))
        for arg, axes in args:
            if is_number(arg):
                continue
            if len(axes) != len(out):
                raise Unlabelled(f"`{node.op}` of values of different rank")
            out = [self.join(a, b) for a, b in zip(out, axes)]
        return tuple(out)

    def _view(self, node: Node, arg: Node, axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        target = axes_of(node.type)
        match node.op:
            case "merge" | "split_per":
                return axes
            case "lift":
                return (*(self.fresh(d) for d in target[: len(target) - len(axes)]), *axes)
            case "expand":
                added: Any = node.attr("axes")
                rest = iter(axes)
                return tuple(None if i - len(target) in added else next(rest) for i in range(len(target)))
            case "broadcast":
                own: tuple[Axis, ...] = (*(None for _ in range(len(target) - len(axes))), *axes)
                return tuple(self.fresh(d) if x is None else x for x, d in zip(own, target))
            case "transpose":
                perm: Any = node.attr("perm")
                per = len(arg.type.per)
                return (*axes[:per], *(axes[per + p] for p in perm))
            case _:  # reshape: axes of size 1 come and go, nothing else
                kept = [(d, x) for d, x in zip(axes_of(arg.type), axes) if d != ONE]
                if [d for d, _ in kept] != [d for d in target if d != ONE]:
                    raise Unlabelled("a reshape that joins or divides axes")
                labels = iter(x for _, x in kept)
                return tuple(None if d == ONE else next(labels) for d in target)

    def _einsum(self, node: Node, args: list[tuple[Node, tuple[Axis, ...]]]) -> tuple[Axis, ...]:
        inputs, output = str(node.attr("spec")).split("->")
        per = len(node.type.per)
        heads: list[Axis] = [None] * per
        letters: dict[str, Axis] = {}
        for spec, (arg, axes) in zip(inputs.split(","), args, strict=True):
            if is_number(arg) and not spec:
                continue
            if len(arg.type.per) != per:
                raise Unlabelled("a contraction across `per` blocks")
            heads = [self.join(a, b) for a, b in zip(heads, axes)]
            for letter, axis in zip(spec, axes[per:], strict=True):
                letters[letter] = self.join(letters.get(letter), axis)
        return (*heads, *(letters[x] for x in output))

"""Which entries of a state an entry of a value depends on: the proven pattern of the Jacobian.

A value's axes are `[*per, *shape]`, each a row of *slots* (mixed-radix digits of its index, most significant first).
A *term* is one way in which the value depends on a state: a slot may be tied to a digit of the state's index, which
says that the entry depends only on state entries with that very digit; digits of the state tied to no slot are free.
`carrier` slots and `count` bound the rank over the free digits: with the tied digits fixed, the gradients of all
entries span at most `count` times the product of the carriers' sizes dimensions.  So `k (k^T S)` has a term with V
tied, K free and rank 1, and S itself a term with both tied.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from rnnc.ir.dims import ONE, Dim
from rnnc.ir.domains.matrices import DiagonalPlus, Matrices
from rnnc.ir.evaluate import Domain, evaluate
from rnnc.ir.graph import CellIR, Node
from rnnc.ir.ops import OPS
from rnnc.ir.types import Type

MOST_TERMS = 8  # beyond this many the pattern of a value is given up as dense


@dataclass(frozen=True, slots=True)
class Digit:
    """(index of the state's axis // stride) mod the slot's size."""

    axis: int
    stride: Dim


@dataclass(frozen=True, slots=True)
class Slot:
    size: Dim
    digit: Digit | None = None
    carrier: bool = False

    def loose(self) -> Slot:
        """The slot when entries along it depend on the state in unknown, different ways."""
        return Slot(self.size, None, True)

    def vary(self) -> Slot:
        """The slot when the coefficients of a sum differ along it."""
        return self if self.digit is not None else self.loose()


Slots = tuple[tuple[Slot, ...], ...]
Origin = tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """`origin` tells functionals apart: terms with equal slots and origin span the same space."""

    state: str
    axes: Slots
    count: Dim = ONE
    origin: Origin = field(default=())


Pattern = frozenset[Term]
NOTHING: Pattern = frozenset()


def _plain(size: Dim) -> tuple[Slot, ...]:
    return () if size == ONE else (Slot(size),)


def _width(slots: Iterable[Slot]) -> Dim:
    total = ONE
    for s in slots:
        total = total * s.size
    return total


def full_shape(t: Type) -> tuple[Dim, ...]:
    return (*t.per, *t.shape)


def _whole(d: Dim) -> bool:
    """Whether the quotient stands for a whole number for all values of the names."""
    return all(c.denominator == 1 and c > 0 and all(p > 0 for _, p in m) for m, c in d.terms)


def _quotient(a: Dim, b: Dim) -> Dim | None:
    if len(b.terms) != 1 and a != b:
        return None
    q = a / b
    return q if _whole(q) else None


def regroup(slots: list[Slot], shape: tuple[Dim, ...]) -> Slots | None:
    """The same row-major digits cut into axes of the sizes `shape`; None where the cuts do not fall between digits."""
    todo, out = list(slots), []
    for size in shape:
        axis: list[Slot] = []
        while size != ONE:
            if not todo:
                return None
            s = todo.pop(0)
            if (rest := _quotient(size, s.size)) is not None:
                axis.append(s)
                size = rest
            elif (low := _quotient(s.size, size)) is not None:
                high = None if s.digit is None else Digit(s.digit.axis, s.digit.stride * low)
                axis.append(Slot(size, high, s.carrier))
                todo.insert(0, Slot(low, s.digit, s.carrier))
                size = ONE
            else:
                return None
        out.append(tuple(axis))
    return tuple(out) if not todo else None


def _dense(term: Term, shape: tuple[Dim, ...], node: Node) -> Term:
    return Term(state=term.state, axes=tuple(_loosen(_plain(d)) for d in shape), origin=(node.id,))


def _loosen(axis: tuple[Slot, ...]) -> tuple[Slot, ...]:
    return tuple(s.loose() for s in axis)


def _contract(term: Term, gone: set[int], weighted: bool, origin: Origin) -> tuple[Term, bool]:
    """The term of a sum over the axes `gone`, which stay in place here; and whether the weights' own axes become
    carriers.

    Where tied entries are summed, each place of the result is a functional of its own: every axis that is not tied
    carries.  Where only dependent directions are summed, the result stays in the span there was (the origin is kept),
    or it is one new functional at each place, whichever bound is better.  `weighted`: the weights bring axes of their
    own into the result.
    """
    lost = [s for i in gone for s in term.axes[i]]
    kept = [s for i, a in enumerate(term.axes) if i not in gone for s in a]
    alone = not weighted and all(s.carrier for s in kept if s.digit is None)
    alone = alone and (term.count != ONE or any(s.carrier for s in lost))
    if any(s.digit is not None for s in lost) or alone:
        axes = tuple(tuple(s.vary() for s in a) for a in term.axes)
        return Term(state=term.state, axes=axes, origin=origin), weighted
    count = term.count * _width(s for s in lost if s.carrier)
    return Term(state=term.state, axes=term.axes, count=count, origin=term.origin), False


class Sparsity(Domain[Pattern]):
    """The sparsity domain in the states named (all when None)."""

    def __init__(self, cell: CellIR, states: Iterable[str] | None = None) -> None:
        self.cell = cell
        wanted = None if states is None else frozenset(states)
        self.states = {s.node: s.name for s in cell.states if wanted is None or s.name in wanted}
        self.matrices = evaluate(cell, Matrices(cell))

    def leaf(self, node: Node) -> Pattern:
        if node.id not in self.states:
            return NOTHING
        axes = tuple(
            () if size == ONE else (Slot(size, Digit(i, ONE)),) for i, size in enumerate(full_shape(node.type))
        )
        return frozenset({Term(state=self.states[node.id], axes=axes)})

    def apply(self, node: Node, args: tuple[Pattern, ...]) -> Pattern:
        found: set[Term] = set()
        for k, pattern in enumerate(args):
            for term in pattern:
                found.update(self._through(node, k, term))
        if len(found) > MOST_TERMS:
            found = {_dense(t, full_shape(node.type), node) for t in found}
        return frozenset(found)

    def _through(self, node: Node, k: int, term: Term) -> tuple[Term, ...]:
        """What a dependence `term` of argument k becomes in `node`."""
        shape = full_shape(node.type)
        match OPS[node.op].category:
            case "elementwise":
                return (replace(term, axes=_stretch(term.axes, self._shape(node, k), shape)),)
            case "view":
                return (self._view(node, k, term),)
            case "contraction" if node.op == "einsum":
                return self._einsum(node, k, term)
            case "reduction":
                return (self._reduce(node, term),)
            case "composite":
                return self._composite(node, term)
            case "structured":
                return (self._structured(node, term),)
            case _:
                return (_dense(term, shape, node),)

    def _shape(self, node: Node, k: int) -> tuple[Dim, ...]:
        return full_shape(self.cell.nodes[node.args[k]].type)

    def _view(self, node: Node, k: int, term: Term) -> Term:
        arg, out = self.cell.nodes[node.args[k]].type, node.type
        shape, axes, lead = full_shape(out), list(term.axes), len(arg.per)
        match node.op:
            case "lift":
                return replace(term, axes=(*(_plain(d) for d in out.per[: len(out.per) - lead]), *axes))
            case "merge" | "split_per":
                return term
            case "expand":
                new_axes: Any = node.attr("axes")
                for axis in new_axes:
                    axes.insert(len(shape) + axis, ())
                return replace(term, axes=tuple(axes))
            case "broadcast":
                extra = [()] * (out.rank - arg.rank)
                old = (*arg.per, *(ONE for _ in extra), *arg.shape)
                return replace(term, axes=_stretch((*axes[:lead], *extra, *axes[lead:]), old, shape))
            case "transpose":
                perm: Any = node.attr("perm")
                return replace(term, axes=(*axes[:lead], *(axes[lead + p] for p in perm)))
            case "reshape":
                core = regroup([s for axis in axes[lead:] for s in axis], out.shape)
                if core is not None:
                    return replace(term, axes=(*axes[:lead], *core))
                axes[lead:] = [_loosen(_plain(d)) for d in out.shape]
                return replace(term, axes=tuple(axes), origin=(node.id, k, term.origin))
            case _:  # slice, concat: indices along one axis are shifted
                at = len(shape) + int(node.attr("axis"))  # type: ignore[arg-type]
                axes[at] = _loosen(_plain(shape[at]))
                return replace(term, axes=tuple(axes), origin=(node.id, k, term.origin))

    def _einsum(self, node: Node, k: int, term: Term) -> tuple[Term, ...]:
        inputs, output = str(node.attr("spec")).split("->")
        mine, other = inputs.split(",")[k], inputs.split(",")[1 - k]
        lead = len(node.type.per)
        at = {x: lead + i for i, x in enumerate(mine)}
        gone = {at[x] for x in mine if x not in output}
        new = [x for x in output if x not in mine]
        weighted = bool(new) and any(x in other for x in mine if x not in output)
        term = replace(term, axes=(*(() for _ in range(lead + len(mine) - len(term.axes))), *term.axes))
        known = self.matrices[node.args[1 - k]]
        if known is not None and len(gone) == 1 and len(new) == 1 and len(other) == 2 and weighted:
            return self._structured_product(node, k, term, at, known)
        done, carry = _contract(term, gone, weighted, (node.id, k, term.origin)) if gone else (term, False)
        sizes = dict(zip(output, node.type.shape, strict=True))
        fresh = {x: _loosen(_plain(sizes[x])) if carry else _plain(sizes[x]) for x in new}
        axes = (*done.axes[:lead], *(done.axes[at[x]] if x in at else fresh[x] for x in output))
        return (replace(done, axes=axes),)

    def _structured_product(
        self, node: Node, k: int, term: Term, at: dict[str, int], matrix: DiagonalPlus
    ) -> tuple[Term, ...]:
        """A diagonal plus low rank matrix times the argument: its entries scaled, and `rank` weighted sums of them."""
        output = str(node.attr("spec")).split("->")[1]
        (gone,) = (i for x, i in at.items() if x not in output)
        lead = len(node.type.per)
        done, _ = _contract(term, {gone}, False, (node.id, k, term.origin))
        found = []
        if matrix.diagonal:
            axes = (*term.axes[:lead], *(term.axes[at.get(x, gone)] for x in output))
            found.append(replace(term, axes=axes))
        if matrix.rank:
            sizes = dict(zip(output, node.type.shape, strict=True))
            axes = (*done.axes[:lead], *(done.axes[at[x]] if x in at else _plain(sizes[x]) for x in output))
            found.append(replace(done, axes=axes, count=done.count * matrix.rank))
        return tuple(found)

    def _reduce(self, node: Node, term: Term) -> Term:
        gone = {len(term.axes) + int(a) for a in node.attr("axes")}  # type: ignore[union-attr, arg-type]
        done, _ = _contract(term, gone, False, (node.id, term.origin))
        return replace(done, axes=tuple(a for i, a in enumerate(done.axes) if i not in gone))

    def _composite(self, node: Node, term: Term) -> tuple[Term, ...]:
        """Each entry itself, and one (layernorm: two) weighted sums of the last axis, shared by all its entries."""
        last = len(term.axes) - 1
        if all(s.digit is None for s in term.axes[last]):
            return (term,)
        done, _ = _contract(term, {last}, False, (node.id, term.origin))
        count = Dim.of(2 if node.op == "layernorm" else 1)
        return (term, replace(done, axes=(*done.axes[:last], _plain(full_shape(node.type)[last])), count=count))

    def _structured(self, node: Node, term: Term) -> Term:
        shape, lead = full_shape(node.type), len(node.type.per)
        front, core = term.axes[:lead], term.axes[lead:]
        match node.op, node.attr("kind"):
            case "rotation_blocks", _:
                return replace(term, axes=(*term.axes, _plain(Dim.of(2)), _plain(Dim.of(2))))
            case "layout", "diag" | "companion":
                return replace(term, axes=(*front, core[0], _plain(shape[-1])))
            case "layout", "blockdiag":
                block = _width(core[0])
                return replace(term, axes=(*front, (*core[0], *core[1]), (*_plain(block), *core[2])))
            case _:
                kept = tuple(tuple(s.vary() for s in a) for a in front)
                return replace(_dense(term, shape, node), axes=(*kept, *(_loosen(_plain(d)) for d in shape[lead:])))


def _stretch(axes: Slots, old: tuple[Dim, ...], new: tuple[Dim, ...]) -> Slots:
    """Axes of size 1 repeated to the new sizes."""
    return tuple(a if o == n else _plain(n) for a, o, n in zip(axes, old, new, strict=True))

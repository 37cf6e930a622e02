"""Linear maps as sums of monomials: one state's entries times state-free factors, as in an einsum.

A *label* is an index that runs over an axis.  An *axis* of a tensor is a tuple of labels, row-major: `()` has size 1,
`(i,)` is an ordinary axis, and `(b, i)` is an axis split into blocks.  The monomial

    out[o...] = coeff * sum over labels not in `out` of  prod_f node_f[axes_f] * state[atom_axes]

is written `Monomial(coeff, factors, atom, atom_axes, out)`.  The identity is a label shared by `out` and the state (or
twice in `out`), a broadcast is a label of `out` that occurs nowhere else.  Every operation on values is an operation on
labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeAlias

from rnnc.ir.dims import ONE, Dim
from rnnc.ir.graph import NodeId

Label: TypeAlias = int
Axis: TypeAlias = tuple[Label, ...]
Axes: TypeAlias = tuple[Axis, ...]

CAP = 64  # a sum of more monomials than this is treated as a map without a known form


class NotRepresentable(Exception):
    """The map is linear, but not a small sum of monomials; the message says why."""


class Labels:
    """Gives out labels and knows their sizes."""

    def __init__(self) -> None:
        self.sizes: list[Dim] = []

    def fresh(self, size: Dim) -> Label:
        self.sizes.append(size)
        return len(self.sizes) - 1

    def axis(self, size: Dim) -> Axis:
        return () if size == ONE else (self.fresh(size),)

    def axes(self, shape: Iterable[Dim]) -> Axes:
        return tuple(self.axis(d) for d in shape)

    def size(self, axis: Axis) -> Dim:
        total = ONE
        for label in axis:
            total = total * self.sizes[label]
        return total


@dataclass(frozen=True, slots=True)
class Factor:
    """A state-free node, its `per` and core axes labelled."""

    node: NodeId
    axes: Axes

    @property
    def labels(self) -> frozenset[Label]:
        return labels_of(self.axes)


@dataclass(frozen=True, slots=True)
class Monomial:
    """See the module's docstring.  `atom` names the state (None: a state-free term, `atom_axes` is empty)."""

    coeff: Fraction
    factors: tuple[Factor, ...]
    atom: str | None
    atom_axes: Axes
    out: Axes

    @property
    def used(self) -> frozenset[Label]:
        """Labels that some factor or the state carries."""
        return labels_of(self.atom_axes).union(*(f.labels for f in self.factors))

    def scaled(self, by: Fraction) -> Monomial:
        return replace(self, coeff=self.coeff * by)


Sum: TypeAlias = tuple[Monomial, ...]


def labels_of(axes: Iterable[Axis]) -> frozenset[Label]:
    return frozenset(label for axis in axes for label in axis)


def rewrite(m: Monomial, axis_of: Callable[[Label], Axis]) -> Monomial:
    """Replace every label by an axis."""

    def go(axes: Axes) -> Axes:
        return tuple(tuple(new for old in axis for new in axis_of(old)) for axis in axes)

    factors = tuple(Factor(f.node, go(f.axes)) for f in m.factors)
    return Monomial(m.coeff, factors, m.atom, go(m.atom_axes), go(m.out))


def renamed(m: Monomial, labels: Labels) -> Monomial:
    """A copy with labels of its own."""
    new: dict[Label, Axis] = {}

    def fresh(label: Label) -> Axis:
        if label not in new:
            new[label] = (labels.fresh(labels.sizes[label]),)
        return new[label]

    return rewrite(m, fresh)


class Unifier:
    """Finds what labels stand for so that given axes become equal."""

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.found: dict[Label, Axis] = {}

    def resolve(self, axis: Axis) -> Axis:
        out: list[Label] = []
        for label in axis:
            out.extend(self.resolve(self.found[label]) if label in self.found else (label,))
        return tuple(out)

    def of_label(self, label: Label) -> Axis:
        return self.resolve((label,))

    def equate(self, a: Axis, b: Axis) -> None:
        """Make two axes of the same size equal.  Raises NotRepresentable where blocks do not line up."""
        a, b = self.resolve(a), self.resolve(b)
        while a and b:
            i, j = self._first_common_block(a, b)
            left, right = a[:i], b[:j]
            if left != right:
                if len(left) == 1 and left[0] not in right:
                    self.found[left[0]] = right
                elif len(right) == 1 and right[0] not in left:
                    self.found[right[0]] = left
                else:
                    raise NotRepresentable("an axis is split in two ways that do not line up")
            a, b = self.resolve(a[i:]), self.resolve(b[j:])
        if a or b:
            raise NotRepresentable("an axis is split in two ways that do not line up")

    def _first_common_block(self, a: Axis, b: Axis) -> tuple[int, int]:
        """The least prefixes of equal size."""
        if self.labels.sizes[a[0]] == self.labels.sizes[b[0]]:
            return 1, 1
        for total in range(2, len(a) + len(b) + 1):
            for i in range(max(1, total - len(b)), min(len(a), total - 1) + 1):
                if self.labels.size(a[:i]) == self.labels.size(b[: total - i]):
                    return i, total - i
        raise NotRepresentable("an axis is split in two ways that do not line up")


def product(a: Monomial, b: Monomial, pairs: Iterable[tuple[Axis, Axis]], out: Axes, labels: Labels) -> Monomial:
    """The product of two terms with given axes made equal; at most one of them has the state."""
    assert a.atom is None or b.atom is None
    unifier = Unifier(labels)
    for x, y in pairs:
        unifier.equate(x, y)
    atom, atom_axes = (a.atom, a.atom_axes) if a.atom is not None else (b.atom, b.atom_axes)
    joined = Monomial(a.coeff * b.coeff, a.factors + b.factors, atom, atom_axes, out)
    return rewrite(joined, unifier.of_label)


def elementwise_product(a: Monomial, b: Monomial, labels: Labels) -> Monomial:
    """a * b with NumPy's broadcasting (equal ranks): size-1 axes follow the other's."""
    out = tuple(x or y for x, y in zip(a.out, b.out, strict=True))
    pairs = [(x, y) for x, y in zip(a.out, b.out, strict=True) if x and y]
    return product(a, b, pairs, out, labels)


def canonical(m: Monomial) -> tuple[object, ...]:
    """A key: two monomials of equal keys are equal up to their coefficients and the names of labels."""
    number: dict[Label, int] = {}

    def go(axes: Axes) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(number.setdefault(x, len(number)) for x in axis) for axis in axes)

    head = (go(m.out), m.atom, go(m.atom_axes))

    def rough(f: Factor) -> tuple[NodeId, tuple[tuple[int, ...], ...]]:
        return (f.node, tuple(tuple(number.get(x, 1 << 30) for x in axis) for axis in f.axes))

    ordered = sorted(m.factors, key=rough)
    return (*head, tuple((f.node, go(f.axes)) for f in ordered))


def collect(terms: Iterable[Monomial]) -> Sum:
    """Add equal terms up and drop those that cancel.  Raises NotRepresentable above CAP terms."""
    found: dict[tuple[object, ...], Monomial] = {}
    for m in terms:
        key = canonical(m)
        have = found.get(key)
        found[key] = m if have is None else replace(have, coeff=have.coeff + m.coeff)
        if len(found) > CAP:
            raise NotRepresentable(f"the map is a sum of more than {CAP} terms")
    return tuple(m for m in found.values() if m.coeff != 0)

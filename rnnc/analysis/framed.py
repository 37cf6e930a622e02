"""A state's update as a map between common axes: every monomial written over the same labels.

`out[k]` are the labels of the new state's axis k; a monomial's state axis k is either the same (`diagonal` there) or
carries labels of its own that are summed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from rnnc.analysis.label_rules import full_shape
from rnnc.analysis.monomials import (
    Axes,
    Axis,
    Factor,
    Label,
    Labels,
    Monomial,
    NotRepresentable,
    Sum,
    Unifier,
    labels_of,
    renamed,
    rewrite,
)
from rnnc.ir.builder import Builder
from rnnc.ir.types import Type


@dataclass(frozen=True, slots=True)
class Framed:
    """new[out] = sum of `linear` (terms with the state) + sum of `offset`; `type` is the state's, `n_per` its per
    axes.
    """

    type: Type
    out: Axes
    linear: Sum
    offset: Sum

    @property
    def n_per(self) -> int:
        return len(self.type.per)

    @property
    def per(self) -> Axes:
        return self.out[: self.n_per]

    @property
    def core(self) -> Axes:
        return self.out[self.n_per :]


def frame(
    terms: Iterable[Monomial], type_: Type, builder: Builder, labels: Labels, state_axis: Sequence[int] | None = None
) -> Framed:
    """Rename all terms' output labels to common ones.  Raises NotRepresentable where axes are split in different ways.

    `state_axis[k]` is the state's axis that the result's axis k may share its label with; axis k itself by default.
    """
    out = labels.axes(full_shape(type_))
    own = [separated(renamed(m, labels), builder, labels, state_axis or range(len(out))) for m in terms]
    unifier = Unifier(labels)
    for m in own:
        if len(m.out) != len(out):
            raise NotRepresentable("the update has another rank than the state")
        for have, want in zip(m.out, out, strict=True):
            unifier.equate(have, want)
    done = [rewrite(m, unifier.of_label) for m in own]
    out = tuple(unifier.resolve(axis) for axis in out)
    return Framed(type_, out, tuple(m for m in done if m.atom is not None), tuple(m for m in done if m.atom is None))


def separated(m: Monomial, builder: Builder, labels: Labels, state_axis: Sequence[int]) -> Monomial:
    """Write coincidences of labels as identity factors, except those of an axis of the result and its axis of the
    state.

    out (x, x) --> out (x, y) with a factor eye[x, y];   S.T: out (i, j), state (j, i) --> state (p, q) with eye[i, q]
    eye[j, p].
    """
    taken: set[Label] = set()
    factors = list(m.factors)

    def fresh(label: Label) -> Label:
        new = labels.fresh(labels.sizes[label])
        factors.append(Factor(builder.add("eye", n=labels.sizes[label]), ((label,), (new,))))
        return new

    out: list[Axis] = []
    for axis in m.out:
        renamed_axis = tuple(fresh(x) if x in taken else x for x in axis)
        taken |= set(axis)
        out.append(renamed_axis)
    seen: set[Label] = set()
    atom_axes: list[Axis] = []
    for k, axis in enumerate(m.atom_axes):
        own = {x for i, of_out in zip(state_axis, out, strict=True) if i == k for x in of_out}
        keep = [x not in seen and (x not in taken or x in own) for x in axis]
        atom_axes.append(tuple(x if ok else fresh(x) for x, ok in zip(axis, keep, strict=True)))
        seen |= set(axis)
    return replace(m, factors=tuple(factors), out=tuple(out), atom_axes=tuple(atom_axes))


def is_diagonal(m: Monomial, k: int) -> bool:
    """Whether the term acts position by position along axis k."""
    return m.out[k] == m.atom_axes[k]


def acts_only_on(f: Framed, k: int) -> bool:
    """Whether no term of the map mixes, or depends on, another core axis than k, nor mixes per axes."""
    for m in f.linear:
        if len(m.atom_axes) != len(m.out):
            return False
        for i, axis in enumerate(m.out):
            if i == k:
                continue
            if not is_diagonal(m, i):
                return False
            if i >= f.n_per and any(fac.labels & set(axis) for fac in m.factors):
                return False
    return True


def parts(m: Monomial, left: Axis, right: Axis, per: Axes) -> tuple[Monomial, Monomial] | None:
    """Split a term's factors into those tied to `left` labels and those tied to `right` ones; None when some are tied
    to both.

    Factors of neither (scalars, which may vary along `per`), and the coefficient, go to the left.  The results are
    state-free terms whose `out` is the per axes and their side's axis.
    """
    bound = {x for fac in m.factors for x in fac.labels} - labels_of(per) - set(left) - set(right)
    groups: list[tuple[set[int], list[Factor]]] = []
    for fac in m.factors:
        links = set(fac.labels) & (bound | set(left) | set(right))
        hit = [g for g in groups if g[0] & links & bound]
        joined = (links.union(*(g[0] for g in hit)), [x for g in hit for x in g[1]] + [fac])
        groups = [g for g in groups if g not in hit] + [joined]
    l_factors: list[Factor] = []
    r_factors: list[Factor] = []
    for links, facs in groups:
        on_left, on_right = bool(links & set(left)), bool(links & set(right))
        if on_left and on_right:
            return None
        (r_factors if on_right else l_factors).extend(facs)
    return (
        Monomial(m.coeff, tuple(l_factors), None, (), (*per, left)),
        Monomial(Fraction(1), tuple(r_factors), None, (), (*per, right)),
    )

"""What the form of a transition and the ranges of its coefficients prove about its eigenvalues.

Nothing here is estimated: an attribute is None where it is not proved, and `missing` says what would be needed.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from rnnc.analysis import intervals as iv
from rnnc.analysis.facts import Spectrum
from rnnc.analysis.forms import Elementwise, Form, Group, MatrixState, MicroStep, Recurrence
from rnnc.analysis.intervals import exactly
from rnnc.analysis.ranges import Ranges
from rnnc.ir.graph import CellIR, NodeId
from rnnc.ir.types import Interval


def spectrum_of(recurrence: Recurrence, group: Group) -> Spectrum:
    """Requires: `group` is one of the recurrence's.  Semirings other than (+, x) have no spectrum."""
    if group.kind == "nonlinear":
        return Spectrum(missing="the update is nonlinear")
    if group.semiring != "plus_times":
        return Spectrum(
            missing=f"the update is linear over {group.semiring}, where eigenvalues are not those of a real matrix"
        )
    if not group.forms:
        return Spectrum(missing="the transition is in no normal form")
    ranges = Ranges.of(recurrence.cell)
    if group.structure == "orthogonal":
        return Spectrum(modulus=exactly(1), norm=exactly(1))
    found = _of_form(recurrence.cell, group.forms[0], ranges)
    return _with_stability(found, group)


def _of_form(cell: CellIR, form: Form, ranges: Ranges) -> Spectrum:
    match form:
        case Elementwise():
            return _diagonal(cell, form, ranges)
        case MatrixState():
            return _micro_steps(cell, form, ranges)
        case _:
            return Spectrum(missing="no rule bounds the eigenvalues of a dense or block transition from its entries")


def _diagonal(cell: CellIR, form: Elementwise, ranges: Ranges) -> Spectrum:
    if form.a is None:
        one = exactly(1)
        return Spectrum(real=True, interval=one, modulus=one, norm=one, products_real=True)
    modulus = ranges.modulus(form.a)
    missing = f"a bound for the coefficient `{_name(cell, form.a)}`" if modulus.hi is None else ""
    if cell.nodes[form.a].type.dtype == "complex":
        return Spectrum(modulus=modulus, norm=modulus, missing=missing)
    interval = ranges.real(form.a)
    return Spectrum(real=True, interval=interval, modulus=modulus, norm=modulus, products_real=True, missing=missing)


def _micro_steps(cell: CellIR, form: MatrixState, ranges: Ranges) -> Spectrum:
    """One symmetric step has real eigenvalues; of several only the norm is bounded, by the product of theirs."""
    steps = [_micro_step(cell, step, ranges) for step in form.steps]
    if len(steps) == 1:
        return steps[0]
    norm: Interval | None = exactly(1)
    for s in steps:
        norm = None if norm is None or s.norm is None else iv.mul(norm, s.norm)
    if norm is None:
        return Spectrum(missing=next(s.missing for s in steps if s.norm is None))
    modulus = Interval(lo=Fraction(0), hi=norm.hi, hi_open=norm.hi_open)
    return Spectrum(modulus=modulus, norm=norm, missing="a product of symmetric factors need not have real eigenvalues")


def _micro_step(cell: CellIR, step: MicroStep, ranges: Ranges) -> Spectrum:
    decay_node = step.decay
    if decay_node is not None and cell.nodes[decay_node].type.dtype != "real":
        return Spectrum(missing="no rule for a complex decay with a low-rank part")
    decay = exactly(1) if decay_node is None else ranges.real(decay_node)
    if not step.low_rank:
        modulus = iv.magnitude(decay)
        return Spectrum(real=True, interval=decay, modulus=modulus, norm=modulus, products_real=True)
    if len(step.low_rank) > 1 or (decay_node is not None and cell.nodes[decay_node].type.rank > 0):
        return Spectrum(
            missing="no rule bounds the eigenvalues of a diagonal plus low-rank transition that is not symmetric"
        )
    return _scaled_householder(cell, step, decay, ranges)


def _scaled_householder(cell: CellIR, step: MicroStep, decay: Interval, ranges: Ranges) -> Spectrum:
    """c I + s k k^T: eigenvalues c and c + s |k|^2, with factors that c and s share taken out of the sum."""
    (a, b) = step.low_rank[0]
    sign_a, factors_a = _factors(cell, a)
    sign_b, factors_b = _factors(cell, b)
    vectors = [f for f in factors_b if cell.nodes[f].type.rank > 0]
    if len(vectors) != 1 or vectors[0] not in factors_a or cell.nodes[vectors[0]].type.dtype != "real":
        return Spectrum(missing="the low-rank part is not a multiple of an outer product of a vector with itself")
    key = vectors[0]
    factors_a.remove(key)
    scale = factors_a + [f for f in factors_b if f != key]
    if any(cell.nodes[f].type.rank > 0 for f in scale):
        return Spectrum(missing="the low-rank part is not a multiple of an outer product of a vector with itself")
    _, of_decay = (1, []) if step.decay is None else _factors(cell, step.decay)
    common: list[NodeId] = []
    for f in of_decay:
        if f in scale:
            scale.remove(f)
            common.append(f)
    rest = _product(ranges, [f for f in of_decay if f not in common])
    along = iv.mul(exactly(sign_a * sign_b), iv.mul(_product(ranges, scale), ranges.norm_squared(key)))
    turned = iv.mul(_product(ranges, common), iv.add(rest, along))
    interval = iv.union(decay, turned)
    norm = iv.magnitude(interval)
    missing = "" if norm.hi is not None else f"a bound for |{_name(cell, key)}|^2, for example a unit vector (l2norm)"
    return Spectrum(real=True, interval=interval, modulus=norm, norm=norm, missing=missing)


def _factors(cell: CellIR, node: NodeId) -> tuple[int, list[NodeId]]:
    """A product as its sign and its factors, views that only broadcast taken off."""
    n = cell.nodes[node]
    match n.op:
        case "neg":
            sign, factors = _factors(cell, n.args[0])
            return -sign, factors
        case "mul":
            (s, left), (t, right) = (_factors(cell, a) for a in n.args)
            return s * t, left + right
        case "expand" | "lift" | "broadcast":
            return _factors(cell, n.args[0])
        case _:
            return 1, [node]


def _product(ranges: Ranges, factors: list[NodeId]) -> Interval:
    total = exactly(1)
    for f in factors:
        total = iv.mul(total, ranges.real(f))
    return total


def _with_stability(s: Spectrum, group: Group) -> Spectrum:
    """Proved where every product of transitions goes to zero: a norm bounded below 1, or a fixed diagonal inside the
    disk.
    """
    bound = s.norm
    if bound is None or bound.hi is None:
        return s
    if bound.hi < 1 or (
        group.transition_static and group.structure in ("scalar", "diagonal") and bound.hi == 1 and bound.hi_open
    ):
        return replace(s, stability="proved")
    missing = s.missing or "a bound of the norm below 1 for all inputs"
    return replace(s, missing=missing)


def _name(cell: CellIR, node: NodeId) -> str:
    n = cell.nodes[node]
    while not n.name and n.op in ("expand", "lift", "broadcast", "neg"):
        n = cell.nodes[n.args[0]]
    return n.name or n.op

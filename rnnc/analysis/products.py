"""Products of transitions over time: what stays true however long the sequence is, and at any inputs.

A family of matrices that commute and are diagonal in one basis multiplies eigenvalue by eigenvalue; so does a family
that is triangular in one basis.  Nothing else is closed: two symmetric matrices have a product that need not be.
"""

from __future__ import annotations

from dataclasses import replace

from rnnc.analysis.coupled import nonnegative_pair
from rnnc.analysis.facts import Spectrum
from rnnc.analysis.forms import Coupled, Group, MatrixState
from rnnc.analysis.matrix_facts import PRODUCT, MatrixFacts
from rnnc.analysis.microsteps import factors
from rnnc.analysis.ranges import Ranges
from rnnc.ir.graph import NodeId, is_static

FAMILIES = {
    "diagonal": "diagonal transitions commute",
    "rotation": "rotations of fixed planes commute (each plane's are complex numbers)",
    "circulant": "circulant matrices are all diagonal in the Fourier basis",
}


def with_products(s: Spectrum, facts: MatrixFacts, group: Group, ranges: Ranges) -> Spectrum:
    """`s` with what is proved of products over time."""
    found = _bounded(s)
    basis = _common_basis(facts, group, ranges)
    if basis:
        found = found.because(basis, commuting=True, diagonalisable=True)
    elif group.transition_static:
        why = "the transition is the same at every step, so products are its powers"
        found = found.because(why, commuting=True)
        if facts.diagonalisable:
            found = found.because(f"{why}; it is diagonalisable", diagonalisable=True)
    if facts.lower or facts.upper:
        found = found.because("all transitions are triangular (or diagonal) as they stand", triangular=True)
    elif s.real and s.field == "real" and (basis or group.transition_static):
        found = found.because("commuting matrices with real eigenvalues are triangular in one basis", triangular=True)
    return _closed(found, facts, group, ranges)


def _closed(s: Spectrum, facts: MatrixFacts, group: Group, ranges: Ranges) -> Spectrum:
    """Closure of real and of nonnegative spectra under products."""
    if s.real and (s.triangular or (s.commuting and s.diagonalisable)):
        why = s.why("triangular") if s.triangular else s.why("diagonalisable")
        s = s.because(f"eigenvalues of a product are products of eigenvalues: {why}", products_real=True)
        if s.nonnegative:
            s = s.because(f"{s.why('products_real')}, none of them negative", products_nonnegative=True)
    form = group.forms[0]
    if s.products_real is None and isinstance(form, Coupled):
        signs = nonnegative_pair(ranges, form)
        if signs is not None:
            why = "products of nonnegative 2 by 2 matrices are such, and their eigenvalues are real"
            s = s.because(why, products_real=True)
            if signs:
                s = s.because(f"{why}; their determinants stay nonnegative", products_nonnegative=True)
    if s.products_real is None:
        missing = PRODUCT if s.real else s.missing or "real eigenvalues of one step"
        return replace(s, reasons={**s.reasons, **dict.fromkeys(_OPEN, missing)})
    return s


_OPEN = ("products_real", "products_nonnegative")


def _bounded(s: Spectrum) -> Spectrum:
    if s.norm is not None and s.norm.hi is not None and s.norm.hi <= 1:
        return s.because("the norm of every transition is at most 1, so that of every product", products_bounded=True)
    return s


def _common_basis(facts: MatrixFacts, group: Group, ranges: Ranges) -> str:
    """Why all transitions commute and are diagonal in one basis over C, or ""."""
    if facts.family:
        return FAMILIES[facts.family]
    form = group.forms[0]
    if isinstance(form, MatrixState) and facts.symmetric and _fixed_directions(form, ranges):
        return "symmetric transitions c I + s k k^T with a fixed direction k commute"
    return ""


def _fixed_directions(form: MatrixState, ranges: Ranges) -> bool:
    """Whether the only direction of the low-rank parts is one static vector, beside decays that are numbers."""
    directions: set[tuple[NodeId, ...]] = set()
    for step in form.steps:
        if step.decay is not None and factors(ranges, step.decay).vectors:
            return False
        for a, b in step.low_rank:
            for side in (factors(ranges, a), factors(ranges, b)):
                directions.add(tuple(sorted(side.vectors)))
    return len(directions) == 1 and is_static(ranges.nodes, next(iter(directions)))

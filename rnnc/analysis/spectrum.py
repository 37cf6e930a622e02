"""What the form of a transition and the ranges of its coefficients prove: of one step here, of products in `products`.

Nothing here is estimated: an attribute is None where it is not proved, and `missing` says what would be needed.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from rnnc.analysis import intervals as iv
from rnnc.analysis.elementary import NONNEGATIVE
from rnnc.analysis.facts import EndKind, Spectrum
from rnnc.analysis.forms import Dense, Elementwise, Group, MatrixState, Recurrence
from rnnc.analysis.intervals import exactly
from rnnc.analysis.products import with_products
from rnnc.analysis.ranges import Ranges
from rnnc.analysis.stability import with_stability
from rnnc.analysis.steps import OneStep, one_step
from rnnc.analysis.tight import Tight, saturations
from rnnc.ir.types import Interval

__all__ = ["OneStep", "Spectrum", "one_step", "spectrum_of"]


def spectrum_of(recurrence: Recurrence, group: Group) -> Spectrum:
    """Requires: `group` is one of the recurrence's.  Semirings other than (+, x) have no spectrum."""
    ranges = Ranges.of(recurrence.cell)
    about = Spectrum(field=group.field, input_dependent=group.input_dependent, time_invariant=group.transition_static)
    why_none = _no_spectrum(group)
    if why_none:
        return with_stability(replace(about, missing=why_none), recurrence, group, ranges)
    step = one_step(group, ranges)
    found = _of_step(about, step, group, ranges)
    found = with_products(found, step.facts, group, ranges)
    found = _with_ends(found, step, recurrence, ranges)
    return with_stability(found, recurrence, group, ranges)


def _no_spectrum(group: Group) -> str:
    if group.kind == "nonlinear":
        return "the update is nonlinear"
    if group.semiring != "plus_times":
        return f"the update is linear over {group.semiring}, where eigenvalues are not those of a real matrix"
    return "" if group.forms else "the transition is in no normal form"


def _of_step(about: Spectrum, step: OneStep, group: Group, ranges: Ranges) -> Spectrum:
    """The facts of one step as a spectrum."""
    facts = step.facts
    bounded = facts.modulus.hi is not None or facts.modulus.lo != 0
    found = replace(about, missing=facts.missing)
    if bounded or facts.interval is not None:
        found = replace(found, modulus=facts.modulus)
    if facts.norm.hi is not None or facts.interval is not None:
        found = replace(found, norm=facts.norm)
        if facts.norm.hi is not None:
            how = (
                "the largest |eigenvalue| of a symmetric or diagonal transition"
                if facts.symmetric
                else "norms of the parts"
            )
            found = found.because(f"{how}: at most {facts.norm.hi}", norm=facts.norm)
    if facts.interval is not None:
        why = facts.why or "the eigenvalues are real by the structure of the transition"
        found = found.because(why, real=True, interval=facts.interval)
        if iv.within(facts.interval, NONNEGATIVE):
            found = found.because(f"{why}; none is below {facts.interval.lo}", nonnegative=True)
        else:
            found = replace(found, reasons={**found.reasons, "nonnegative": _negative(facts.interval)})
    if facts.orthogonal and facts.modulus == exactly(1):
        found = found.because(facts.why or "the transition is orthogonal or unitary", unit_circle=True)
    if facts.monomial:
        found = found.because("the transition has one nonzero entry in each row and column", permutation_like=True)
    return found


def _negative(interval: Interval) -> str:
    low = "-inf" if interval.lo is None else str(interval.lo)
    return f"the eigenvalues are only known to be above {low}, which is negative"


def _with_ends(s: Spectrum, step: OneStep, recurrence: Recurrence, ranges: Ranges) -> Spectrum:
    """Which ends of the interval are reached, where that is known."""
    if s.interval is None:
        return s
    tight = Tight(ranges)
    kinds = {"lo": _end(s.interval.lo, s.interval.lo_open, False), "hi": _end(s.interval.hi, s.interval.hi_open, False)}
    reached = _reached(step, tight)
    if reached is not None:
        kinds = {
            "lo": _end(s.interval.lo, s.interval.lo_open, reached.lo == s.interval.lo),
            "hi": _end(s.interval.hi, s.interval.hi_open, reached.hi == s.interval.hi),
        }
    found = replace(s, lo_end=kinds["lo"], hi_end=kinds["hi"])
    if step.entries is not None and "limit" in kinds.values():
        found = replace(found, saturation=saturations(ranges, step.entries, s.interval))
    return found


def _reached(step: OneStep, tight: Tight) -> Interval | None:
    """An interval whose ends eigenvalues come arbitrarily near to (or reach): None where nothing is known."""
    match step.form:
        case Elementwise(a=None):
            return exactly(1)
        case Elementwise(a=int() as a):
            return tight.ranges.real(a) if tight.exact(a) else None
        case MatrixState(steps=(only,)):
            return tight.of_micro_step(only, step.facts.interval)
        case _:
            return step.facts.interval if _is_constant(step, tight) else None


def _is_constant(step: OneStep, tight: Tight) -> bool:
    return isinstance(step.form, Dense) and tight.ranges.nodes[step.form.a].op == "const"


def _end(value: Fraction | None, is_open: bool, tight: bool) -> EndKind:
    if value is None:
        return "infinite"
    return "bound" if not tight else "limit" if is_open else "attained"

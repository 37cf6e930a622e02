"""Declared ranges against proved ones: a gate's range must follow from its expression; no other may contradict it."""

from __future__ import annotations

from typing import assert_never

from rnnc.analysis.intervals import within
from rnnc.analysis.ranges import Ranges
from rnnc.diagnostics import Diagnostics
from rnnc.ir.graph import CellIR, RangeClaim
from rnnc.ir.types import Disk, HalfPlane, Interval, UnitNorm


def check_declared_ranges(cell: CellIR) -> Diagnostics:
    """An error for each gate whose range is not proved, and for each declared range that cannot hold at all.

    Parameters count as any reals (inside their own domains), inputs as their declared domains, states as anything.
    """
    found = Diagnostics()
    ranges = Ranges.of(cell)
    for claim in cell.ranges:
        _check(cell, ranges, claim, found)
    for body in cell.subcells:
        for d in check_declared_ranges(body).items:
            found.add(d)
    return found


def _check(cell: CellIR, ranges: Ranges, claim: RangeClaim, found: Diagnostics) -> None:
    node = cell.nodes[claim.node]
    match claim.domain:
        case Interval():
            known, claimed, what = ranges.real(claim.node), claim.domain, "the value"
        case Disk(radius=radius):
            known, claimed, what = ranges.modulus(claim.node), Interval(hi=radius), "its modulus"
        case HalfPlane(bound=bound, strict=strict, above=True):
            known, claimed, what = ranges.real_part(claim.node), Interval(lo=bound, lo_open=strict), "its real part"
        case HalfPlane(bound=bound, strict=strict):
            known, claimed, what = ranges.real_part(claim.node), Interval(hi=bound, hi_open=strict), "its real part"
        case UnitNorm():
            return  # provable up to eps only; the frontend refuses what cannot be
        case _:
            assert_never(claim.domain)
    name = f"`{node.name}`" if node.name else "this value"
    if _disjoint(known, claimed):
        found.error(
            "E0503", f"{name} is never in {claim.domain}", claim.span, label=f"{what} is in {known}", help="correct one"
        )
    elif claim.required and not within(known, claimed):
        unknown = known.lo is None and known.hi is None
        found.error(
            "E0503",
            f"the range of {name} cannot be proved: it is declared in {claim.domain}",
            claim.span,
            label=f"nothing is known of {what}" if unknown else f"all that is known: {what} is in {known}",
            help="keep it in range with sigmoid, tanh, softplus, exp or clamp, or declare the range that is known",
        )


def _disjoint(x: Interval, y: Interval) -> bool:
    return _below(x, y) or _below(y, x)


def _below(x: Interval, y: Interval) -> bool:
    """Whether every number of x is less than every number of y."""
    if x.hi is None or y.lo is None:
        return False
    return x.hi < y.lo or (x.hi == y.lo and (x.hi_open or y.lo_open))

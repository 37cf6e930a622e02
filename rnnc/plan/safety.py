"""What the proven bounds make safe: chunk sizes, precisions, and the inverse inside a chunk."""

from __future__ import annotations

from fractions import Fraction

from rnnc.analysis import intervals as iv
from rnnc.analysis.forms import Elementwise, Form, MatrixState, MicroStep
from rnnc.analysis.microsteps import factors, micro_step_facts
from rnnc.analysis.ranges import Ranges
from rnnc.ir.types import Interval
from rnnc.plan.cost import Problem

LARGEST = {"float16": 11, "float32": 88}  # natural logarithms of the largest numbers, rounded down (bfloat16: float32)


def chunk_safety(problem: Problem, form: MatrixState) -> str:
    """Of the chunkwise form: how far decays may be accumulated in a chunk, and how large the chunk's inverse is."""
    ranges = Ranges.of(problem.cell)
    parts = [_decays(ranges, form)]
    if any(step.low_rank for step in form.steps):
        parts.append(_inverse(ranges, form))
    return "; ".join(p for p in parts if p)


def _decays(ranges: Ranges, form: MatrixState) -> str:
    """A factored form exp(g_t) exp(-g_s) is safe while the accumulated logarithm is below the format's largest."""
    logs = [step.log_decay for step in form.steps]
    if all(step.decay is None for step in form.steps):
        return "no decay: any chunk is safe in every precision"
    if any(log is None and step.decay is not None for log, step in zip(logs, form.steps, strict=True)):
        return (
            "the decay is not known to be positive, so its values are multiplied, not its logarithms: any chunk is safe"
        )
    lowest = iv.exactly(0)
    for log in logs:
        if log is not None:
            lowest = iv.add(lowest, ranges.real(log))
    if lowest.lo is None:
        return (
            "the decay has no lower bound above zero: a factored decay overflows at any chunk size, so chunks are "
            "halved and every exponent stays below zero, which is safe in every precision"
        )
    if lowest.lo >= 0:
        return "the decay is at least 1: no chunk underflows"
    steps = {p: int(most / -lowest.lo) for p, most in LARGEST.items()}
    least = f"{float(lowest.lo):.4g}"
    return (
        f"log decay at least {least} a step: a factored decay is safe in chunks of {steps['float32']} steps in float32 "
        f"and bfloat16, of {steps['float16']} in float16"
    )


def _inverse(ranges: Ranges, form: MatrixState) -> str:
    """Entries of (I + tril(B A^T))^-1 are -b_t^T (product of transitions in between) a_s: at most |a| |b| where the
    transitions do not grow.
    """
    bound = Fraction(0)
    for step in form.steps:
        norm = micro_step_facts(ranges, step).norm
        if not step.low_rank:
            continue
        size = _coupling(ranges, step)
        if size.hi is None:
            named = next(
                (ranges.name(v) for pair in step.low_rank for x in pair for v in factors(ranges, x).vectors), ""
            )
            return (
                f"the inverse inside a chunk has no proven bound (unnormalised keys `{named}` can make it 1e17): "
                "normalise them (l2norm), keep beta |k|^2 <= 2, or compute in float64 with short chunks"
            )
        if norm.hi is None or norm.hi > 1:
            return (
                "the inverse inside a chunk may grow with the chunk: the norm of a transition is not proved to be at "
                "most 1"
            )
        bound = max(bound, size.hi)
    return f"entries of the inverse inside a chunk are at most {_short(bound)}: safe in float32 at any chunk size"


def _coupling(ranges: Ranges, step: MicroStep) -> Interval:
    """|a| |b| of the one low-rank term; for a = s k, b = k it is |s| |k|^2, with what is known of that product."""
    total = iv.exactly(0)
    for a, b in step.low_rank:
        left, right = factors(ranges, a), factors(ranges, b)
        if (
            left.vectors
            and left.vectors == right.vectors
            and all(ranges.nodes[v].type.dtype == "real" for v in left.vectors)
        ):
            size = iv.magnitude(ranges.scaled_norm([*left.scalars, *right.scalars], [], left.vectors))
        else:
            size = _norms(ranges, left.vectors, right.vectors, [*left.scalars, *right.scalars])
        total = iv.add(total, Interval(lo=Fraction(0), hi=size.hi, hi_open=size.hi_open))
    return total


def _norms(ranges: Ranges, left: tuple[int, ...], right: tuple[int, ...], scalars: list[int]) -> Interval:
    total = iv.mul(ranges.norm_of_product(left), ranges.norm_of_product(right))
    for s in scalars:
        total = iv.mul(total, ranges.modulus(s))
    return total


def _short(x: Fraction) -> str:
    return str(x) if len(str(x)) <= 6 else f"{float(x):.4g}"


def scan_safety(problem: Problem, form: Form | None) -> str:
    """Of a scan: whether accumulated products can overflow."""
    if not isinstance(form, Elementwise) or problem.group.semiring != "plus_times":
        return ""
    if form.a is None:
        return "the transition is the identity: sums only, safe in every precision up to rounding"
    modulus = Ranges.of(problem.cell).modulus(form.a)
    if modulus.hi is None:
        return "no bound of the transition is proved: products over a long sequence may overflow"
    if modulus.hi <= 1:
        return "|transition| is at most 1: products never overflow, in any precision"
    return f"|transition| may reach {_short(modulus.hi)}: products over a long sequence may overflow"

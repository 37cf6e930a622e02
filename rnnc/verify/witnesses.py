"""Positive claims: what the search for weights found, and which precision models it speaks for.

A witness is `attained` (exact weights inside the declared domains), reached `in the limit only`, or attained in float32
by saturation at a pre-activation tau.  What it proves depends on the model:
- `exact`, `eta_finite`: only an attained one;
- `finite_precision`: an attained one, and one in the limit (the model casts gates, too);
- `float32`: one whose closure was computed in float32;
- `log_precision`: an attained one with finitely many states of bounded size (any closure).
A closure by sets of states (`rnnc.verify.regions`) serves `finite_precision`; where it is attained `exact`, too, and
`eta_finite` if the sets are compact.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rnnc.ir.unfold import inline_calls
from rnnc.verify.effort import worked
from rnnc.verify.results import Precision
from rnnc.verify.structural import Subject
from rnnc.verify.target import Target
from rnnc.verify.witness.silent import unbounded

if TYPE_CHECKING:
    from rnnc.verify.closure import Closure
    from rnnc.verify.languages.dfa import DFA
    from rnnc.verify.witness.witness import Witness

LEAST = 0.05  # seconds below which no search is begun
MOST_ROUNDED, ROUNDED = 400, 5.0  # states beyond those of the exact closure, and seconds, for one in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A witness that serves; `data` is plain JSON."""

    reason: str
    source: str
    data: dict[str, Any] = field(default_factory=dict)
    proof: tuple[Closure, DFA] | None = field(default=None, compare=False, repr=False)


def find(
    subject: Subject, target: Target, copies: int, precision: Precision, budget: float
) -> tuple[Found | str, float]:
    """A witness under this precision, or why there is none; and the seconds' worth of work."""
    if budget < LEAST:
        return "no weights were searched for", 0.0
    if find_spec("rnnc.verify.witness.search") is None:
        return "no search for weights is installed", 0.0
    if target.dfa is None:
        return "weights are searched for finite automata of moderate size only", 0.0
    from rnnc.verify.witness import find_witness

    begun = worked()
    witness = find_witness(subject.cell, target.dfa, dims=dict(subject.dims), layers=copies, budget=budget)
    spent = worked() - begun
    if witness is None:
        return "no weights were found that do it", spent
    return _judged(witness, precision), spent


def _judged(witness: Witness, precision: Precision) -> Found | str:
    serves = {
        "exact": ("attained",),
        "eta_finite": ("attained",),
        "log_precision": ("attained",),
        "finite_precision": ("attained", "limit", "saturation"),
        "float32": ("attained", "saturation"),
    }.get(precision, ())
    if witness.status not in serves:
        how = "in the limit only" if witness.status == "limit" else "in the limit, and in float32 by saturation"
        return f"the weights that were found do it {how}: that says nothing under {precision}"
    if witness.closure.regions and (
        precision == "log_precision" or (precision == "eta_finite" and not witness.closure.bounded)
    ):
        return f"the weights that were found lead to infinitely many states: nothing is shown under {precision}"
    if (
        precision == "eta_finite"
        and witness.silent
        and unbounded(inline_calls(witness.cell), frozenset(witness.silent))
    ):
        return f"the weights that were found leave {', '.join(witness.silent)} out, which may have no bound"
    closure = _in_float32(witness) if precision == "float32" else witness.closure
    if closure is None:
        return "the weights that were found were not shown to do it in float32"
    proof = (closure, witness.dfa)
    return Found(reason=witness.reason, source=witness.source, data=witness.to_json(), proof=proof)


def _in_float32(witness: Witness) -> Closure | None:
    """The closure of the rounded weights, one step at a time: exact ones need not close when they are rounded."""
    if witness.rounded is not None or witness.layers > 1:
        return witness.rounded
    from rnnc.verify.closure import Closure, close
    from rnnc.verify.witness.witness import TAU

    most = 4 * len(witness.closure.states) + MOST_ROUNDED
    cell, dfa = witness.cell, witness.dfa
    found = close(cell, witness.dims, witness.params, witness.letters, dfa, most, "float32", TAU, seconds=ROUNDED)
    return found if isinstance(found, Closure) else None

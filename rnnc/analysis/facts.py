"""`Spectrum`: what is proved of one group's transition, of one step and of products over time.

Every attribute speaks of *every* input (inside its declared domain), all weights inside theirs, and all sizes that the
cell's dims leave open.  None means "not proved", never "false"; False means proved not to hold for some weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from rnnc.ir.types import Interval

Stability = Literal["proved", "refuted", "unknown"]
EndKind = Literal["attained", "limit", "bound", "infinite"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Saturation:
    """An end that is a limit of the real function is reached in this format: the value computed at pre-activations of
    size `tau` (of the sign that leads there) rounds to it.
    """

    precision: Literal["float16", "float32"]
    end: Literal["lo", "hi"]
    tau: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """Eigenvalues of one step's transition A, its norm, and products A_t ... A_1 over time.

    One step: `real`: all eigenvalues are real; `interval` holds them if so; `nonnegative`: real and >= 0; `modulus`
    holds their absolute values; `unit_circle`: all have modulus 1; `norm`: holds the spectral norm (`norm.hi` is the
    bound).  `permutation_like`: one nonzero entry at most in each row and column (a diagonal is).

    Over time, of every product of transitions at any inputs: `products_real`, `products_nonnegative` (eigenvalues),
    `products_bounded` (the norms have a bound that does not depend on the length), `commuting` (any two transitions
    commute), `diagonalisable` (one change of basis over C makes all transitions diagonal), `triangular` (one change of
    basis over R makes all of them triangular).

    `lo_end`, `hi_end` say of the ends of `interval`: "attained" by some weights and input, "limit" (approached but
    never reached), "bound" (an enclosure, perhaps not tight), "infinite"; `saturation` where a limit is reached in
    floating point.  `reasons` has one sentence for each attribute that is proved, or that was tried in vain.
    """

    field: Literal["real", "complex"] = "real"
    input_dependent: bool = True
    time_invariant: bool = False
    real: bool | None = None
    nonnegative: bool | None = None
    interval: Interval | None = None
    modulus: Interval | None = None
    norm: Interval | None = None
    unit_circle: bool | None = None
    permutation_like: bool | None = None
    products_real: bool | None = None
    products_nonnegative: bool | None = None
    products_bounded: bool | None = None
    commuting: bool | None = None
    diagonalisable: bool | None = None
    triangular: bool | None = None
    lo_end: EndKind = "bound"
    hi_end: EndKind = "bound"
    saturation: tuple[Saturation, ...] = ()
    stability: Stability = "unknown"
    lipschitz: Interval | None = None
    missing: str = ""
    reasons: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def norm_bound(self) -> Fraction | None:
        """An upper bound of the spectral norm of one transition."""
        return None if self.norm is None else self.norm.hi

    def why(self, attribute: str) -> str:
        """Why an attribute is proved, or what is missing for it."""
        return self.reasons.get(attribute, self.missing or "no rule decides it")

    def because(self, why: str, **changes: object) -> Spectrum:
        """With these attributes, proved for one reason."""
        reasons = {**self.reasons, **dict.fromkeys(changes, why)}
        return replace(self, **changes, reasons=reasons)  # type: ignore[arg-type]

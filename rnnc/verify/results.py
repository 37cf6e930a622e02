"""What the verifier says: one `ClaimResult` a claim, always with the precision model it speaks of.

A verdict of one precision model is never moved to another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["proved", "proved_conditional", "refuted", "unknown"]
Precision = Literal[
    "finite_precision", "eta_finite", "exact", "log_precision", "float16", "bfloat16", "float32", "float64"
]
EvidenceKind = Literal["theorem", "witness", "counterexample", "analysis"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A side condition of a theorem: what had to hold, what discharged it (or what is missing), and whether it does."""

    text: str
    holds: bool
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Why a verdict holds.  `source` cites the theorem or construction; `data` is plain JSON (weights, states).

    `proof` is what a certificate is written from (of a witness: its closure and automaton); no part of the JSON.
    """

    kind: EvidenceKind
    source: str = ""
    conditions: tuple[Condition, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)
    proof: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimResult:
    """The answer to one claim.  `reason` is one sentence; for unknown it names the condition that is missing."""

    claim: str
    line: int
    verdict: Verdict
    precision: Precision
    reason: str
    evidence: Evidence | None = None

    def to_json(self) -> dict[str, Any]:
        evidence: dict[str, Any] | None = None
        if self.evidence is not None:
            e = self.evidence
            evidence = {"kind": e.kind, "source": e.source, **e.data}
            if e.conditions:
                evidence["conditions"] = [{"text": c.text, "holds": c.holds, "by": c.by} for c in e.conditions]
        return {
            "claim": self.claim,
            "line": self.line,
            "verdict": self.verdict,
            "precision": self.precision,
            "reason": self.reason,
            "evidence": evidence,
        }

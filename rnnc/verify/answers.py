"""The cell that claims are made of, and a verdict with its reason before it is put beside its claim."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from rnnc.ir.graph import CellIR
from rnnc.verify.layers import Layer, Layers, layers_of
from rnnc.verify.probing import Point, Prober, dims_for
from rnnc.verify.results import Condition, Evidence, Verdict

TRIES = 40  # points of a search
MARGIN = 1e-6  # relative: far above the rounding of one step in float64


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A verdict with its reason, before it is put beside its claim."""

    verdict: Verdict
    reason: str
    evidence: Evidence | None = None


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The cell that claims are made of; `dims` are those bound from outside, `fixed` parameters that have a value."""

    cell: CellIR
    dims: Mapping[str, int] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def layers(self) -> Layers:
        return layers_of(self.cell)

    @cached_property
    def sizes(self) -> dict[str, int] | None:
        """For searches."""
        return dims_for(self.cell, self.dims)

    def prober(self, cell: CellIR | None = None) -> Prober | None:
        return None if self.sizes is None else Prober(cell or self.cell, self.sizes, self.fixed)

    def layer_of(self, state: str) -> Layer:
        return next(x for x in self.layers.layers if state in x.group.states)


def proved(reason: str, *conditions: Condition, **data: Any) -> Answer:
    evidence = Evidence(kind="analysis", source="rnnc's analyses", conditions=conditions, data=data)
    return Answer(verdict="proved", reason=reason, evidence=evidence)


def refuted(reason: str, point: Point | None, **data: Any) -> Answer:
    """By numbers, or by an analysis that says what stands against the claim."""
    where = {} if point is None else {"at": point.to_json()}
    kind = "analysis" if point is None else "counterexample"
    source = "rnnc's analyses" if point is None else "the reference interpreter, in float64"
    return Answer(
        verdict="refuted",
        reason=reason,
        evidence=Evidence(kind=kind, source=source, data={**data, **where}),  # type: ignore[arg-type]
    )


def unknown(missing: str) -> Answer:
    return Answer(verdict="unknown", reason=f"missing: {missing}")

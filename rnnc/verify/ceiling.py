"""One attempt to show that no weights do what a claim asks: the theorem, its conditions, and what follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rnnc.verify.layers import Layers
from rnnc.verify.results import Condition, Precision
from rnnc.verify.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """An attempt to show that no weights do what `Target` asks.

    `assuming`: a conjecture it rests on.  `data` is plain JSON: the letter or word that decides, with its period.
    """

    theorem: str
    source: str
    precision: Precision
    reason: str
    conditions: tuple[Condition, ...]
    assuming: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        return all(c.holds for c in self.conditions)

    @property
    def missing(self) -> Condition | None:
        return next((c for c in self.conditions if not c.holds), None)


def no_obstacle(layers: Layers) -> Condition:
    text = "the cell is a recurrence over its own states"
    return Condition(text=text, holds=not layers.obstacle, by=layers.obstacle or "recurrence analysis")


def subject(target: Target) -> str:
    """`parity`, or the group."""
    return f"`{target.task.name}`"

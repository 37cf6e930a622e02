"""What a search has cost so far, counted in what it did and not by a clock: so neither others on the machine nor its
speed change a verdict.

Each kind of work has a price in seconds, about what it takes on one core of a machine of 2024 (fitted to 28 searches,
docs/decisions.md).  What has no price is little; a search that is kept waiting, or does nothing but that, still ends:
`Effort.over` also looks at the wall clock, with `PATIENCE` times as much.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Literal

PATIENCE = 30.0
Work = Literal[
    "node", "value", "wanted", "term", "equation", "copied", "exact node", "exact entry", "float node", "table", "code"
]
PRICES: dict[Work, float] = {
    "node": 100e-6,  # of a graph, evaluated in the contexts of a search
    "value": 1e-6,  # an entry of it in one context
    "wanted": 7e-6,  # an entry that is carried backwards
    "term": 17e-6,  # of an equation between parameters
    "equation": 10e-6,
    "copied": 40e-6,  # a row of a system of equations
    "exact node": 8e-6,  # of a graph in an exact step
    "exact entry": 0.22e-6,  # of it: numbers, and products in contractions
    "float node": 9e-6,
    "table": 300e-6,  # an operation on places in a table of numbers
    "code": 0.01e-6,  # an entry of it
}


class _Done(threading.local):
    seconds = 0.0


_done = _Done()


def spend(work: Work, count: int = 1) -> None:
    """Counts some work of the calling thread."""
    _done.seconds += PRICES[work] * count


def worked() -> float:
    """Seconds that the calling thread's work so far is worth."""
    return _done.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """A budget that runs from now on: `end` of the thread's work, `late` by the wall clock."""

    end: float
    late: float

    @staticmethod
    def of(seconds: float) -> Effort:
        return Effort(end=worked() + seconds, late=time.monotonic() + PATIENCE * seconds)

    @property
    def left(self) -> float:
        """Seconds' worth of work, at least 0."""
        return 0.0 if time.monotonic() > self.late else max(0.0, self.end - worked())

    @property
    def over(self) -> bool:
        return worked() > self.end or time.monotonic() > self.late

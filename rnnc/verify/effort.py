"""What a search has cost so far: processor time of the calling thread, so that others on the machine change no verdict.

Waiting for the processor does not count.  A search that is hardly ever given it ends all the same: `Effort.over` also
looks at the wall clock, with `PATIENCE` times as much.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

PATIENCE = 30.0


def worked() -> float:
    """Seconds of processor time that this thread has had."""
    return time.thread_time()


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """A budget that runs from now on: `end` of the thread's processor time, `late` by the wall clock."""

    end: float
    late: float

    @staticmethod
    def of(seconds: float) -> Effort:
        return Effort(end=worked() + seconds, late=time.monotonic() + PATIENCE * seconds)

    @property
    def left(self) -> float:
        """Seconds of processor time, at least 0."""
        return 0.0 if time.monotonic() > self.late else max(0.0, self.end - worked())

    @property
    def over(self) -> bool:
        return worked() > self.end or time.monotonic() > self.late

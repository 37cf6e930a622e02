"""Fair timing on a machine that others use too: interleaved runs, paired ratios, medians with quartiles.

Every round runs every competitor once, in an order that rotates, so that a slow moment hits all of them alike; the
ratio to report is the median over rounds of (baseline's time / competitor's time of the same round).
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch

from rnnc.plan.calibration import this_machine

SETTINGS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "THP_MEM_ALLOC_ENABLE")  # what changes the numbers

Runner = Callable[[], object]
OnRun = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Milliseconds over the rounds, and the paired speed-up over the baseline (its median and quartiles).

    `processor_ms` is the time that all threads of this process used: it exceeds the other where threads work (or spin)
    side by side.  `least_processor_ms` is the least of a round: with one thread what a machine without other work would
    take, nearly.
    """

    median_ms: float
    quartiles_ms: tuple[float, float]
    fastest_ms: float
    processor_ms: float
    least_processor_ms: float
    speedup: float
    speedup_quartiles: tuple[float, float]
    rounds: int


def interleaved(
    runners: Mapping[str, Runner],
    *,
    baseline: str,
    rounds: int,
    deadline: float | None = None,
    turn: float = 0.0,
    on_run: OnRun = lambda name: None,
) -> dict[str, Timing]:
    """Time each runner once a round (after one round that does not count).

    A turn of less than `turn` seconds runs its runner again until it lasts as long, and its fastest run counts: what
    takes a tenth of a millisecond is else mostly what the last one left in the caches.  With a `deadline` (of
    `time.monotonic`) no round begins after it, but for the first that counts.
    """
    names = list(runners)
    times: dict[str, list[float]] = {n: [] for n in names}
    processor: dict[str, list[float]] = {n: [] for n in names}
    for r in range(rounds + 1):
        if r > 1 and deadline is not None and time.monotonic() > deadline:
            break
        for i in range(len(names)):
            name = names[(i + r) % len(names)]
            on_run(name)
            wall, used = _turn(runners[name], turn if r else 0.0)
            if r:
                times[name].append(wall)
                processor[name].append(used)
    return {n: _timing(times[n], times[baseline], processor[n]) for n in names}


def _turn(runner: Runner, seconds: float) -> tuple[float, float]:
    """Milliseconds of the fastest run in so many seconds, at least of one: by the wall clock, and of the processor."""
    end = time.perf_counter() + seconds
    walls: list[float] = []
    useds: list[float] = []
    while not walls or time.perf_counter() < end:
        start, used = time.perf_counter(), time.process_time()
        runner()
        walls.append(1e3 * (time.perf_counter() - start))
        useds.append(1e3 * (time.process_time() - used))
    return min(walls), min(useds)


def _timing(own: Sequence[float], base: Sequence[float], processor: Sequence[float]) -> Timing:
    ratios = [b / t for t, b in zip(own, base, strict=True)]
    return Timing(
        median_ms=round(statistics.median(own), 4),
        quartiles_ms=_quartiles(own),
        fastest_ms=round(min(own), 4),
        processor_ms=round(statistics.median(processor), 4),
        least_processor_ms=round(min(processor), 4),
        speedup=round(statistics.median(ratios), 3),
        speedup_quartiles=_quartiles(ratios),
        rounds=len(own),
    )


def _quartiles(xs: Sequence[float]) -> tuple[float, float]:
    low, _, high = statistics.quantiles(xs, n=4, method="inclusive") if len(xs) > 1 else (xs[0], xs[0], xs[0])
    return round(low, 4), round(high, 4)


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "cpu": this_machine().rsplit(",", 1)[0],
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "settings": {k: os.environ[k] for k in SETTINGS if k in os.environ},
        "load_before": round(os.getloadavg()[0], 2),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }

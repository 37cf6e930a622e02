"""Fair timing on a machine that others use too: interleaved runs, paired ratios, medians with quartiles.

Every round runs every competitor once, in an order that rotates, so that a slow moment hits all of them alike; the
ratio to report is the median over rounds of (baseline's time / competitor's time of the same round).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

RESULTS = Path(__file__).parent / "results"
SETTINGS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "THP_MEM_ALLOC_ENABLE")  # what changes the numbers
Runner = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Milliseconds over the rounds, and the paired speed-up over the baseline (its median and quartiles).

    `processor_ms` is the time that all threads of this process used: it exceeds the other where threads work (or spin)
    side by side.
    """

    median_ms: float
    quartiles_ms: tuple[float, float]
    fastest_ms: float
    processor_ms: float
    speedup: float
    speedup_quartiles: tuple[float, float]
    rounds: int


def interleaved(runners: Mapping[str, Runner], *, baseline: str, rounds: int) -> dict[str, Timing]:
    """Time each runner once a round (after one round that does not count)."""
    names = list(runners)
    times: dict[str, list[float]] = {n: [] for n in names}
    processor: dict[str, list[float]] = {n: [] for n in names}
    for r in range(rounds + 1):
        for i in range(len(names)):
            name = names[(i + r) % len(names)]
            start, used = time.perf_counter(), time.process_time()
            runners[name]()
            if r:
                times[name].append(1e3 * (time.perf_counter() - start))
                processor[name].append(1e3 * (time.process_time() - used))
    return {n: _timing(times[n], times[baseline], processor[n]) for n in names}


def _timing(own: Sequence[float], base: Sequence[float], processor: Sequence[float]) -> Timing:
    ratios = [b / t for t, b in zip(own, base, strict=True)]
    return Timing(
        median_ms=round(statistics.median(own), 3),
        quartiles_ms=_quartiles(own),
        fastest_ms=round(min(own), 3),
        processor_ms=round(statistics.median(processor), 3),
        speedup=round(statistics.median(ratios), 3),
        speedup_quartiles=_quartiles(ratios),
        rounds=len(own),
    )


def _quartiles(xs: Sequence[float]) -> tuple[float, float]:
    low, _, high = statistics.quantiles(xs, n=4) if len(xs) > 1 else (xs[0], xs[0], xs[0])
    return round(low, 3), round(high, 3)


def forward_backward(f: Callable[..., Tensor], arguments: Sequence[Tensor]) -> Runner:
    """A run of `f` and of the gradients of all arguments."""

    def run() -> tuple[Tensor, ...]:
        y = f(*arguments)
        return torch.autograd.grad(y, arguments, torch.ones_like(y))

    return run


def forward(f: Callable[..., Tensor], arguments: Sequence[Tensor]) -> Runner:
    def run() -> Tensor:
        with torch.no_grad():
            return f(*arguments)

    return run


def check_same(
    functions: Mapping[str, Callable[..., Tensor]], arguments: Sequence[Tensor], *, baseline: str, bound: float = 1e-4
) -> dict[str, float]:
    """Values and gradients against the baseline's, by ||a - b|| / ||b||: nothing is timed before they agree."""
    weight = None
    found: dict[str, list[Tensor]] = {}
    for name, f in functions.items():
        y = f(*arguments)
        weight = torch.randn_like(y) if weight is None else weight
        found[name] = [y.detach(), *torch.autograd.grad(y, arguments, weight)]
    errors = {
        name: max(relative_error(a, b) for a, b in zip(values, found[baseline], strict=True))
        for name, values in found.items()
    }
    for name, error in errors.items():
        if not error < bound:
            raise SystemExit(f"{name} does not agree with {baseline}: relative error {error:.2e}, allowed {bound:.0e}")
    return errors


def relative_error(a: Tensor, b: Tensor) -> float:
    """||a - b|| / ||b||."""
    return float((a - b).norm() / b.norm())


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {
        "cpu": model,
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


def parser(description: str, name: str) -> argparse.ArgumentParser:
    """The options every benchmark has."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--rounds", type=int, default=10, help="interleaved rounds")
    p.add_argument("--threads", type=int, default=2, help="PyTorch threads")
    p.add_argument("--output", type=Path, default=RESULTS / f"{name}.json", help="where the JSON result goes")
    return p


def report(rows: Sequence[Mapping[str, Any]], where: Path, before: Mapping[str, Any]) -> None:
    """Print a table and write the JSON record."""
    for row in rows:
        print(f"\n{row['case']}  (largest relative error {max(row['errors'].values()):.1e})")
        for direction in ("forward", "forward_backward"):
            for name, t in row[direction].items():
                low, high = t.quartiles_ms
                print(
                    f"  {direction:17s} {name:24s} {t.median_ms:9.2f} ms [{low:.2f}, {high:.2f}]"
                    f"   x{t.speedup:.2f} [{t.speedup_quartiles[0]:.2f}, {t.speedup_quartiles[1]:.2f}]"
                )
    where.parent.mkdir(parents=True, exist_ok=True)
    where.write_text(json.dumps({"machine": before, "cases": rows}, indent=1, default=asdict) + "\n")
    print(f"\nwritten to {where}")


def measure(
    case: str,
    functions: Mapping[str, Callable[..., Tensor]],
    arguments: Sequence[Tensor],
    *,
    baseline: str,
    rounds: int,
) -> dict[str, Any]:
    """Check that all agree, then time the forward alone and the forward with the backward."""
    errors = check_same(functions, arguments, baseline=baseline)
    both = {
        name: interleaved({n: run(f, arguments) for n, f in functions.items()}, baseline=baseline, rounds=rounds)
        for name, run in (("forward", forward), ("forward_backward", forward_backward))
    }
    return {"case": case, "baseline": baseline, "errors": errors, **both}

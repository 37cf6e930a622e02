"""Every strategy on every benchmark shape, by PyTorch and by C kernels, and how near the planner comes to the best.

python -m benchmarks.strategies

First the cells and shapes of `rnnc bench --calibrate`, to which prices are fitted; then the shapes of the other
benchmarks, which the fit has not seen.  Forward and backward, interleaved; a choice that looks more than a tenth slower
than the best is measured again beside it, in three times as many rounds, and the median of the ratios within the rounds
counts.  With one thread times are the processor's, so other work on the machine disturbs them little.

The record is what `tests/plan/test_calibration.py` holds the planner to: its choice within a tenth of the best.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median

import torch

import rnnc
from benchmarks.cells import DECAY, DIAGONAL_GRU, PEEPHOLE, ROTATION
from benchmarks.measure import machine, parser
from rnnc.bench.calibrate import TURN, Job, Measured, fitted, least, measured, regret
from rnnc.bench.timing import interleaved
from rnnc.plan.calibration import Calibration

FAR = 1.1  # times the best
SECONDS = 20.0  # for a shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One of the shapes, what each way to run it took, and what was chosen: by PyTorch alone, and among all."""

    title: str
    seconds: dict[str, float]
    by_torch: str
    by_torch_ratio: float
    chosen: str
    ratio: float
    expected: dict[str, float]


def jobs() -> list[tuple[str, Job]]:
    """The shapes of the other benchmarks, and those where strategies change places."""
    lib, parse = rnnc.stdlib, rnnc.parse
    delta, mamba, diagonal = lib("gated_deltanet"), lib("mamba"), parse(DIAGONAL_GRU)
    found = [Job(spec=parse(DECAY), cell="Decay", sizes={"n": n}, batch=b, steps=t) for b, t, n in DECAYS]
    found += [
        Job(spec=lib("mingru"), cell="MinGRU", sizes={"d": d}, batch=b, steps=4096) for b, d in ((2, 64), (4, 128))
    ]
    found += [Job(spec=parse(ROTATION), cell="Rotation", sizes={"n": 64}, batch=2, steps=1024)]
    found += [
        Job(spec=delta, cell="GatedDeltaOp", sizes={"heads": h, "dk": k, "dv": k}, batch=b, steps=t)
        for b, t, h, k in ((2, 1024, 4, 64), (1, 4096, 4, 64), (2, 1000, 2, 128), (1, 512, 1, 256))
    ]
    found += [Job(spec=mamba, cell="Mamba", sizes={"d": 256, "e": 512, "n": 16, "rank": 16}, batch=2, steps=1024)]
    for name in ("lstm", "gru"):
        found += [Job(spec=lib(name), cell=name.upper(), sizes={"d": 256}, batch=16, steps=t) for t in (128, 256)]
    found += [Job(spec=parse(PEEPHOLE), cell="Peephole", sizes={"d": 256}, batch=16, steps=256)]
    found += [
        Job(spec=diagonal, cell="DiagonalGRU", sizes={"d": d}, batch=b, steps=t)
        for b, t, d in ((1, 8192, 4), (1, 8192, 16), (4, 8192, 16), (1, 8192, 64), (4, 256, 8))
    ]
    return [(f"{j.cell} [{j.batch}, {j.steps}, {', '.join(map(str, j.sizes.values()))}]", j) for j in found]


DECAYS = ((4, 2048, 1024), (2, 4096, 64), (4, 4096, 256), (4, 1024, 1024), (4, 64, 256))


def typical(passes: Sequence[Sequence[Measured]]) -> list[Measured]:
    """Of each case and strategy the median over the passes: the load of the machine differs from pass to pass."""
    found = []
    for same in zip(*passes, strict=True):
        seconds = {s: median(m.seconds[s] for m in same) for s in same[0].seconds}
        found.append(replace(same[0], seconds=seconds))
    return found


def measure(title: str, job: Job, rates: Calibration, rounds: int) -> Shape:
    options = job.options()
    seconds = job.measured(options, rounds, time.monotonic() + SECONDS)
    group = job.plan(rates)
    chosen, by_torch = group.chosen.title, job.plan(rates, native=False).chosen.title
    torchs = {s: t for s, t in seconds.items() if not s.startswith("native ")}
    return Shape(
        title=title,
        seconds=seconds,
        by_torch=by_torch,
        by_torch_ratio=ratio(job, by_torch, torchs, rounds),
        chosen=chosen,
        ratio=ratio(job, chosen, seconds, rounds),
        expected={o.title: o.seconds for o in group.ranked if o.seconds is not None},
    )


def ratio(job: Job, chosen: str, seconds: dict[str, float], rounds: int) -> float:
    """The time of the choice over the best one's; measured again, side by side, where it is more than a tenth."""
    best = min(seconds, key=lambda s: seconds[s])
    if chosen not in seconds:
        return float("inf")
    first = seconds[chosen] / seconds[best]
    if first <= FAR:
        return first
    pair = [o for o in job.options() if o.title in (chosen, best)]
    timings = interleaved(job.runners(pair), baseline=chosen, rounds=3 * rounds, turn=TURN)
    if torch.get_num_threads() == 1:
        return least(timings[chosen]) / least(timings[best])
    return timings[best].speedup


def show(shape: Shape) -> str:
    times = "  ".join(f"{name} {1e3 * t:.3g} ms" for name, t in sorted(shape.seconds.items(), key=lambda kv: kv[1]))
    choice = f"{shape.chosen} x{shape.ratio:.2f} of the best; by PyTorch {shape.by_torch} x{shape.by_torch_ratio:.2f}"
    return f"{shape.title:36s} {choice}   ({times})"


def main() -> None:
    p = parser(__doc__ or "", "strategies")
    p.add_argument("--passes", type=int, default=2, help="over the calibrated shapes; the median of the passes counts")
    p.add_argument("--only", default="", help="shapes whose title contains this")
    p.set_defaults(rounds=5, threads=1)
    options = p.parse_args()
    torch.set_num_threads(options.threads)
    before = machine()
    progress = lambda k, n, title: print(f"calibrate {k + 1} of {n}: {title}", file=sys.stderr)  # noqa: E731
    found = typical([measured(options.rounds, on_case=progress) for _ in range(options.passes)])
    rates = fitted(found)
    known = Calibration(rates=rates, threads=options.threads)
    for m, chosen, far in regret(found, rates, threads=options.threads):
        times = "  ".join(f"{name} {1e3 * t:.3g} ms" for name, t in m.seconds.items())
        print(f"{m.cell:10s} {list(m.shape)!s:18s} {chosen:18s} x{far:.2f} of the best   ({times})")
    shapes = []
    for title, job in jobs():
        if options.only in title:
            shapes.append(measure(title, job, known, options.rounds))
            print(show(shapes[-1]), flush=True)
    within = sum(s.ratio <= FAR for s in shapes)
    by_torch = sum(s.by_torch_ratio <= FAR for s in shapes)
    print(f"within a tenth of the best: {within} of {len(shapes)}, by PyTorch alone {by_torch} of {len(shapes)}")
    record = {
        "machine": before,
        "threads": options.threads,
        "rates": {d: {s: asdict(r) for s, r in known.items()} for d, known in rates.items()},
        "cases": [{"cell": m.cell, "shape": list(m.shape), "seconds": dict(m.seconds)} for m in found],
        "shapes": [asdict(s) for s in shapes],
    }
    options.output.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()

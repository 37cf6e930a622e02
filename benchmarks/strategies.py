"""Every strategy on every shape of the calibration, the prices fitted to it, and what the planner then chooses.

python -m benchmarks.strategies

The record is what `tests/plan/test_calibration.py` holds the planner to: its choice within a tenth of the best.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from statistics import median

import torch

from benchmarks.measure import machine, parser
from rnnc.bench.calibrate import Measured, fitted, measured, regret


def typical(passes: Sequence[Sequence[Measured]]) -> list[Measured]:
    """Of each case and strategy the median over the passes: the load of the machine differs from pass to pass."""
    found = []
    for same in zip(*passes, strict=True):
        seconds = {s: median(m.seconds[s] for m in same) for s in same[0].seconds}
        found.append(replace(same[0], seconds=seconds))
    return found


def main() -> None:
    p = parser(__doc__ or "", "strategies")
    p.add_argument("--passes", type=int, default=3, help="over all shapes; the median of the passes counts")
    options = p.parse_args()
    torch.set_num_threads(options.threads)
    before = machine()
    found = typical([measured(options.rounds) for _ in range(options.passes)])
    rates = fitted(found)
    for m, chosen, ratio in regret(found, rates):
        times = "  ".join(f"{name} {1e3 * t:.3g} ms" for name, t in m.seconds.items())
        print(f"{m.cell:10s} {list(m.shape)!s:18s} {chosen:12s} x{ratio:.2f} of the best   ({times})")
    record = {
        "machine": before,
        "rates": {d: {s: asdict(r) for s, r in known.items()} for d, known in rates.items()},
        "cases": [{"cell": m.cell, "shape": list(m.shape), "seconds": dict(m.seconds)} for m in found],
    }
    options.output.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()

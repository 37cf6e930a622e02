"""Times on a GPU, and the least that a device could take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.gpu_cases import Cell, Shape

SPECIAL = 28e9  # special functions a second and multiprocessor: 16 a cycle at 1.75 GHz
SLOW = 1.0  # seconds beyond which a competitor runs once
AHEAD = 16  # writes of the scratch memory before a run: about a millisecond, in which the host gets ahead of the device
BACKWARD = 2.5  # arithmetic and special functions of a backward, in forwards


@dataclass(slots=True)
class Clock:
    """Times functions on a device; on a CPU (a dry run) by the wall.

    Before each run scratch memory is written, which empties the cache and keeps the device busy until the host has
    launched what is timed: what PyTorch and Python take to launch does not count, for any competitor.
    """

    device: str
    scratch: Tensor | None = None

    def __post_init__(self) -> None:
        if self.device != "cpu":
            self.scratch = torch.empty(256 << 20, dtype=torch.int8, device=self.device)

    def seconds(self, run: Callable[[], object]) -> float:
        if self.scratch is None:
            begun = time.perf_counter()
            run()
            return time.perf_counter() - begun
        torch.cuda.synchronize()
        for _ in range(AHEAD):
            self.scratch.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in "ab")
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3

    def interleaved(self, runners: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
        """Median seconds of each; those slower than SLOW run once, the others `rounds` times after two more."""
        first = {n: min(self.seconds(run) for _ in range(2)) for n, run in runners.items()}
        quick = [n for n, s in first.items() if s < SLOW]
        times: dict[str, list[float]] = {n: [] for n in quick}
        for r in range(rounds):
            for i in range(len(quick)):
                name = quick[(i + r) % len(quick)]
                times[name].append(self.seconds(runners[name]))
        return first | {n: statistics.median(ts) for n, ts in times.items()}


def both(run: Callable[[], Tensor], leaves: Sequence[Tensor], weight: Tensor) -> Callable[[], object]:
    """Forward and backward."""

    def go() -> None:
        for x in leaves:
            x.grad = None
        run().backward(weight)

    return go


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Of the device: products (bfloat16) and special functions a second."""

    products: float
    functions: float

    def limit(self, cell: Cell, shape: Shape, copy: float, *, backward: bool = False, moved: float = 1.0) -> float:
        """The least seconds of a forward, or of that and a `backward` which together move `moved` times the bytes."""
        steps, work = shape.batch * shape.steps, 1 + BACKWARD if backward else 1.0
        arithmetic = steps * cell.flops(shape.sizes) / self.products
        special = steps * cell.functions(shape.sizes) / self.functions
        chain = shape.steps * cell.chain * 1e-6
        return max(copy * moved, arithmetic * work, special * work, chain * (2 if backward else 1))


def rates(clock: Clock) -> Rates:
    """Measured with a large product of random matrices."""
    if clock.scratch is None:
        return Rates(products=1e12, functions=1e10)
    n = 8192
    a, b = (torch.randn(n, n, device=clock.device, dtype=torch.bfloat16) for _ in "ab")
    best = statistics.median(clock.seconds(lambda: a @ b) for _ in range(8))
    count = torch.cuda.get_device_properties(0).multi_processor_count
    return Rates(products=2 * n**3 / best, functions=SPECIAL * count)

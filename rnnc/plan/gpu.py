"""A GPU in the cost model: what one can do, and how often its prices are paid for a kernel.

A kernel's time is what its programs take one after another.  Steps that wait for each other (`chain`) take their
latency however few there are, and programs beyond those that are resident at once wait for a place; bytes, FLOPs and
special functions take their share of what the whole device does in a second, and that share is small where programs are
too few to fill it.  So a scan, which divides the steps, is told from a loop over them, and chunks from both.

`rnnc bench --calibrate` on a GPU measures the prices; the defaults here come from data sheets, with what copies and
products were seen to reach of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import ceil, log2
from typing import Any

from rnnc.ir.dims import ONE, Dim
from rnnc.plan.cost import BATCH, DEVICES, NOTHING, NUMBER, STEPS, Device, Problem

RESIDENT = 4  # programs of four warps and some 100 registers a thread that a multiprocessor holds at once
ENOUGH = 1.5  # programs a multiprocessor from which the steps of a scan are not shared out: that reads inputs twice
REACHED = 0.87  # of the memory's bandwidth, by a copy
DENSE = 0.35  # of the rate of tensor cores, by the small products of chunks
SCALAR = 0.5  # of the rate in float32, by code that is not all multiply-adds, and by PyTorch's products
OPERATIONS = 3  # of PyTorch, forward and backward, for one of a forward
DOUBLED = 2.0  # sequences and parameters are in 16 or 32 bits: the cost model counts 32
PARTS = 4  # tiles that a part of the steps has at least (`rnnc.runtime.gpu.recurrence`)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """Of a device: multiprocessors, and in one second the bytes of a copy, FLOPs of products of 16-bit numbers, FLOPs
    in float32, and special functions.  `launch` is the time of a kernel that does nothing, `wait` that of an operation
    which waits for the one before, both in seconds; `chip` are bytes of matrices that one program holds.
    """

    name: str
    processors: int
    bandwidth: float
    products: float
    arithmetic: float
    functions: float
    launch: float = 4e-6
    wait: float = 5e-9
    chip: int = 227 * 1024

    def rates(self, name: str) -> Device:
        """The prices of a kind of kernels ("triton ...") or, by any other name, of PyTorch's operations."""
        if not name.startswith("triton"):
            times, cuda = OPERATIONS, DEVICES["cuda"]
            flop, byte = times / (SCALAR * self.arithmetic), times / self.bandwidth
            return replace(cuda, overhead=times * cuda.overhead, flop=flop, byte=byte)
        dense = name in ("triton chunkwise", "triton coupled")
        return Device(
            name=name,
            call=self.launch,
            overhead=self.wait,
            flop=1 / (DENSE * self.products if dense else SCALAR * self.arithmetic),
            byte=1 / (DOUBLED * self.bandwidth),
            special=1 / self.functions,
        )


HOPPER = Gpu(
    name="sm_90", processors=132, bandwidth=4.3e12, products=7.9e14, arithmetic=6.7e13, functions=3.7e12
)  # an H200
KNOWN: Mapping[tuple[int, int], Gpu] = {
    (8, 0): Gpu(
        name="sm_80",
        processors=108,
        bandwidth=1.7e12,
        products=2.5e14,
        arithmetic=1.95e13,
        functions=2.4e12,
        chip=163 * 1024,
    ),
    (8, 6): Gpu(name="sm_86", processors=84, bandwidth=6e11, products=1.2e14, arithmetic=3.1e13, functions=2.3e12),
    (8, 9): Gpu(name="sm_89", processors=128, bandwidth=8.8e11, products=2.6e14, arithmetic=7e13, functions=4.5e12),
    (9, 0): HOPPER,
    (10, 0): Gpu(name="sm_100", processors=148, bandwidth=6.9e12, products=1.6e15, arithmetic=7.5e13, functions=4.4e12),
    (12, 0): Gpu(name="sm_120", processors=170, bandwidth=1.5e12, products=3.8e14, arithmetic=1e14, functions=6.5e12),
}
AMD = Gpu(
    name="gfx942",
    processors=304,
    bandwidth=4.2e12,
    products=6.5e14,
    arithmetic=8e13,
    functions=5e12,
    chip=128 * 1024,  # of registers
)


def of_properties(properties: Any, *, hip: bool = False) -> Gpu:
    """The device that PyTorch describes (`torch.cuda.get_device_properties`): the newest known one that is not newer,
    by its own number of multiprocessors and, where the driver says it, its memory's bandwidth.
    """
    capability = (int(properties.major), int(properties.minor))
    older = [c for c in KNOWN if c <= capability]
    like = AMD if hip else KNOWN[max(older, default=min(KNOWN))]
    count = int(properties.multi_processor_count)
    share = count / like.processors
    kilohertz, width = (float(getattr(properties, n, 0) or 0) for n in ("memory_clock_rate", "memory_bus_width"))
    stated = REACHED * 2e3 * kilohertz * width / 8  # two transfers a cycle
    return replace(
        like,
        name=str(properties.name),
        processors=count,
        bandwidth=stated or like.bandwidth * share,
        products=like.products * share,
        arithmetic=like.arithmetic * share,
        functions=like.functions * share,
        chip=like.chip if hip else int(getattr(properties, "shared_memory_per_block_optin", 0) or like.chip),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuWork:
    """What the kernels of one strategy do for one step of one sequence, forward and backward together.

    `numbers` are read and written, `again` the part of them that is read once more where the steps are divided.  Of the
    states a program holds `channels` / `width` of `channels`, where `held` numbers fit and a channel has `entries` of
    them, for each of `grid` heads and `rows` sequences.  `tile` steps wait for `chain` operations, one after another;
    programs may share out the steps where these can be `divided`.  `launches` are kernels, forward and backward;
    `resident` programs fit a multiprocessor, and `abreast` is the part of the work that is done for all tiles at once.

    `matrices` are the sizes of those that a program holds whole.  Where they do not fit, every step takes `apart`
    launches, for all sequences at once, and reads all matrices twice.
    """

    strategy: str
    serves: frozenset[str]
    rates: str
    why: str
    flops: Dim
    special: Dim
    numbers: Dim
    forward: Dim
    launches: float
    channels: Dim
    entries: Dim = ONE
    grid: Dim = ONE
    held: int = 1024
    widest: int = 64
    rows: int = 1
    tile: int = 1
    chain: float
    divided: bool = False
    resident: int = RESIDENT
    abreast: float = 0.0
    again: Dim = NOTHING
    matrices: tuple[tuple[Dim, Dim], ...] = ()
    apart: float = 0.0
    automatic: bool = True
    gates: tuple[tuple[Dim, Dim], ...] = ()  # none is left to PyTorch by one strategy and not by another

    def paid(self, problem: Problem, gpu: Gpu) -> tuple[float, ...]:
        """How often each price is paid: launches, operations that wait, FLOPs, bytes, special functions."""
        batch, steps = float(problem.value(BATCH)), float(problem.value(STEPS))
        if not self.fits(problem, gpu):
            return self._apart(problem, batch, steps)
        tokens, tiles = batch * steps, ceil(steps / self.tile)
        programs = max(1, self._programs(problem) * ceil(batch / self.rows))
        room = self.resident * gpu.processors
        parts = 1
        if self.divided and programs < ENOUGH * gpu.processors:
            parts = max(1, min(ceil(room / programs), tiles // PARTS))
        alone = (1 - self.abreast) / min(1.0, programs * parts / room)  # times as long as if it filled the device
        share = alone + self.abreast / min(1.0, programs * tiles / room)
        waves = max(1.0, programs * parts / room)
        more = problem.number(self.again) if parts > 1 else 0.0
        passes = 2 if parts > 1 else 1  # what the parts do to a state is found first
        return (
            self.launches * passes,
            ceil(tiles / parts) * self.chain * waves * passes,
            tokens * problem.number(self.flops) * share,
            tokens * (problem.number(self.numbers) + more) * NUMBER * share,
            tokens * problem.number(self.special) * share,
            0.0,
            0.0,
        )

    def fits(self, problem: Problem, gpu: Gpu) -> bool:
        """Whether a program holds its matrices, in 16 bits."""
        sizes = [[max(16, power_of_two(ceil(problem.number(x)))) for x in pair] for pair in self.matrices]
        return 2 * sum(a * b for a, b in sizes) <= gpu.chip

    def _apart(self, problem: Problem, batch: float, steps: float) -> tuple[float, ...]:
        """`paid`, step by step: all of a step's sequences share the device."""
        read = 2 * max(1.0, problem.number(self.grid)) * sum(problem.number(a * b) for a, b in self.matrices)
        tokens = batch * steps
        return (
            self.launches + steps * self.apart,
            0.0,
            tokens * problem.number(self.flops),
            (tokens * problem.number(self.numbers) + steps * read) * NUMBER,
            tokens * problem.number(self.special),
            0.0,
            0.0,
        )

    def _programs(self, problem: Problem) -> int:
        """Of one sequence, its steps undivided."""
        channels, entries = (max(1, ceil(problem.number(x))) for x in (self.channels, self.entries))
        width = max(1, min(self.widest, self.held // power_of_two(entries), power_of_two(channels)))
        return ceil(channels / width) * max(1, ceil(problem.number(self.grid)))


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()


@cache
def levels(tile: int) -> int:
    """Compositions that wait for each other in a scan of so many steps."""
    return ceil(log2(max(2, tile)))

"""A backend's own kernels in the cost model: what one does in a step, and how often each price is paid for it.

The backend counts what its kernel computes (`Work`); here that becomes the numbers that prices are multiplied with, for
given sizes and threads.  Besides FLOPs, special functions and bytes there is *latency*: a step cannot begin before the
last one has ended, so what counts is how many tasks a thread takes one after another, how many steps each has and how
many dependent operations a step.  Lanes of a vector that nothing uses cost as much as the others, and threads without a
task do not help.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from rnnc.analysis.forms import Form, MatrixState
from rnnc.ir.dims import Dim
from rnnc.plan.cost import BATCH, CACHE, NOTHING, NUMBER, STEPS, Device, Problem
from rnnc.plan.gpu import GpuWork

LANES = 16  # numbers of a vector (float32, 512 bits)
BLOCK = 4096  # numbers of state of one task: they stay in the first-level cache

# Prices of kernels where nothing was measured: one thread of a processor with vectors of 512 bits.
NATIVE_DEVICES = {
    "native sequential": Device(
        name="native sequential",
        call=1e-4,
        overhead=5e-9,
        flop=6e-12,
        byte=1.1e-11,
        special=2.6e-10,
        far=4.5e-11,
        strided=3e-10,
    ),
    "native newton": Device(
        name="native newton", call=1.25e-4, overhead=5e-9, flop=2.6e-11, byte=1.2e-10, special=4e-10, far=4.5e-11
    ),
    "native chunkwise": Device(
        name="native chunkwise", call=1.7e-4, overhead=0.0, flop=4e-12, byte=4.3e-10, strided=4.3e-10
    ),
    "native loops": Device(
        name="native loops", call=1e-4, overhead=5e-9, flop=5e-11, byte=3e-11, special=1e-9, far=4.5e-11
    ),
    "native products": Device(
        name="native products", call=1e-4, overhead=1.8e-8, flop=1e-11, byte=2.5e-10, special=2.6e-10
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one kernel does for one step of one sequence, forward and backward together unless said.

    `strategy` is the one that it runs a group by, `serves` those that may be asked for and mean the same; `rates` the
    name of its prices.  `numbers` are read and written, `shared` once more for every block of lanes after the first,
    `near` in the caches of a core: states in memory, and those that the backward pass works out again.  `lanes` is the
    axis along vectors, `height` how many numbers of state a lane has, `tasks` how many independent loops over time one
    sequence has (`rows` sequences share one); `chain` counts the operations of a step that wait for each other.
    `forward` are the FLOPs of a forward pass alone, `gates` what PyTorch would compute apart: for each operation that a
    kernel does before its update, the numbers it writes and its special functions.
    """

    strategy: str
    serves: frozenset[str]
    rates: str
    why: str
    flops: Dim
    special: Dim
    numbers: Dim
    shared: Dim
    lanes: Dim
    height: Dim
    tasks: Dim
    chain: float
    forward: Dim
    rows: int = 1
    near: Dim = NOTHING
    gates: tuple[tuple[Dim, Dim], ...] = ()
    automatic: bool = True
    segments: bool = False  # whether lanes are segments of time: channels leave none unused, and threads have work


def paid(work: Work, problem: Problem, threads: int) -> tuple[float, ...]:
    """How often each price is paid: calls, operations that wait, FLOPs, bytes, special functions, bytes far, strided.

    Where sequences have several tasks (heads), what one reads in a step lies apart from what it reads in the next.
    """
    batch, steps = float(problem.value(BATCH)), float(problem.value(STEPS))
    lanes = max(1.0, problem.number(work.lanes))
    vectors = ceil(lanes / LANES)
    wide = vectors * LANES / lanes  # unused lanes cost as much
    tasks = ceil(batch / work.rows) * max(1.0, problem.number(work.tasks))
    if work.segments:
        width = ceil(lanes / vectors)
        wide = vectors * LANES / (LANES // width * lanes)
        tasks *= threads
    busy = max(1.0, min(float(threads), tasks * vectors))
    tokens = batch * steps / busy
    blocks = ceil(vectors / max(1, BLOCK // (LANES * max(1, ceil(problem.number(work.height))))))
    again = problem.number(work.shared) * (blocks - 1)
    moved = batch * steps * (problem.number(work.numbers) + again) * NUMBER
    return (
        1.0,
        steps * work.chain * ceil(tasks * blocks / threads),
        tokens * problem.number(work.flops) * wide,
        moved / busy + tokens * problem.number(work.near) * NUMBER,
        tokens * problem.number(work.special) * wide,
        max(0.0, moved - CACHE) / busy,
        moved / busy * (1 - 1 / max(1.0, problem.number(work.tasks))),
    )


SPECIAL = 3e-9  # of PyTorch, forward and backward, in seconds


def around(work: Work | GpuWork, problem: Problem, device: Device, form: Form | None) -> float:
    """Seconds of what PyTorch runs apart from a group that the kernel does along with it: gates before the update.

    In the form of a matrix state products of vectors stay vectors: what is as large as the state is never computed.
    """
    large = {problem.size(node) for node in problem.state_nodes} if isinstance(form, MatrixState) else set()
    gates = [(n, special) for n, special in work.gates if n not in large]
    numbers, specials = (sum((g[k] for g in gates), Dim.of(0)) for k in (0, 1))
    tokens = float(problem.value(BATCH) * problem.value(STEPS))
    moved = 3 * NUMBER * problem.number(numbers) * tokens  # two arguments and a result
    return len(gates) * device.overhead + moved * device.byte + SPECIAL * problem.number(specials) * tokens

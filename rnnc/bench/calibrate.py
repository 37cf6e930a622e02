"""The prices that the planner ranks strategies by, fitted to what they take on this machine.

For each strategy, and for the kernels of the CPU backend (on a GPU: the Triton backend), times of forward and backward
passes are explained by how often each price is paid (`plan.cost`, `plan.native`, `plan.gpu`): nonnegative least squares
of relative errors, drawn slightly to the defaults so that a price that no measurement speaks of stays there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch

import rnnc.spec
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.backends import load_backend
from rnnc.backends.cpu.backend import natives
from rnnc.bench.cells import CELLS, GPU_SHAPES, SHAPES
from rnnc.bench.timing import Timing, interleaved
from rnnc.compile import compile
from rnnc.ir.domains.concrete import Array
from rnnc.ir.rounding import keep_digits
from rnnc.plan.calibration import NOTHING, Calibration
from rnnc.plan.choose import STRATEGIES, GroupPlan, Option, plan
from rnnc.plan.cost import Device
from rnnc.plan.gpu import Gpu
from rnnc.spec import Spec
from rnnc.verify.probing import Prober

PRICES = ("call", "overhead", "flop", "byte", "special", "far", "strided")
SMALL = {
    "call": 1e-4,
    "overhead": 1e-5,
    "flop": 1e-11,
    "byte": 1e-10,
    "special": 1e-9,
    "far": 1e-10,
    "strided": 1e-10,
}  # what is drawn to zero, by
PULL = 0.02  # the weight of the defaults beside one measurement
ROUNDS = 10  # of the fit
LEAST = 0.3  # of a time that is left for the group when what its gates are expected to take is subtracted
HOPELESS = 20.0  # times the fastest: measured once
TURN = 5e-3  # seconds that a turn lasts at least: short runs are repeated
SLOWEST = 3.0  # seconds by the defaults beyond which a strategy is not measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Seconds of every strategy for one cell and shape (batch, time, n), "native ..." those of kernels."""

    cell: str
    shape: tuple[int, int, int]
    seconds: Mapping[str, float]


KERNELS = {"cpu": "cpu", "cuda": "triton"}  # the backend whose kernels are measured on a device


def group_of(
    cell: str, shape: tuple[int, int, int], rates: Calibration = NOTHING, *, native: bool = True, device: str = "cpu"
) -> GroupPlan:
    """The plan of a cell's one group at a shape, among the kernels of the device's backend too, or without them."""
    return job(cell, shape, device).plan(rates, native=native)


def devices() -> list[str]:
    """What is calibrated on this machine: the CPU, and behind it a GPU where there is one."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def this_gpu(device: str) -> Gpu | None:
    """The GPU that is measured."""
    if device == "cpu":
        return None
    from rnnc.backends.triton.planning import this_gpu

    return this_gpu()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A cell with one group of states, its sizes, and how many sequences of how many steps, on "cpu" or "cuda"."""

    spec: Spec
    cell: str
    sizes: Mapping[str, int]
    batch: int
    steps: int
    device: str = "cpu"

    def plan(self, rates: Calibration = NOTHING, *, native: bool = True) -> GroupPlan:
        recurrence = analyse_recurrence(keep_digits(self.spec.lower(self.cell)))
        dims = {**self.sizes, "B": self.batch, "T": self.steps}
        gpu = this_gpu(self.device)
        if gpu is not None:
            from rnnc.backends.triton.planning import gpu_plan

            (group,) = gpu_plan(recurrence, dims, gpu, rates=rates, native=native).groups
            return group
        kernels = natives(recurrence) if native else None
        (group,) = plan(recurrence, dims, rates=rates, natives=kernels).groups
        return group

    def options(self) -> list[Option]:
        """Every way to run it that can be measured in reasonable time."""
        automatic = {s.name for s in STRATEGIES if s.automatic}
        group = self.plan(native=load_backend(KERNELS[self.device]).unavailable() is None)
        options = [*(o for o in group.options if o.legal and o.name in automatic), *group.natives]
        return [o for o in options if o.seconds is not None and o.seconds < SLOWEST]

    def runners(self, options: Sequence[Option]) -> dict[str, Callable[[], object]]:
        """A forward and a backward pass by each, with the same weights and inputs."""
        ir = self.spec.lower(self.cell)
        numbers = Prober(ir, self.sizes).points(1, batch=self.batch, steps=self.steps)
        point = next(iter(numbers))
        given = [torch.tensor(point.inputs[i.name], device=self.device) for i in ir.inputs]
        inputs = [x.float().requires_grad_() for x in given]
        found: dict[str, Callable[[], object]] = {}
        state: dict[str, torch.Tensor] | None = None
        for o in options:
            backend = KERNELS[self.device] if o.native else "torch"
            layer = compile(self.spec, self.cell, backend=backend, strategy=o.name)(**self.sizes, device=self.device)
            state = layer.state_dict() if state is None else state
            layer.load_state_dict(state)
            found[o.title] = _both(layer, inputs)
        return found

    def measured(self, options: Sequence[Option], rounds: int, deadline: float | None = None) -> dict[str, float]:
        """Seconds of each: the least over the rounds; on a CPU, with one thread, of processor time.

        What takes `HOPELESS` times as long as the fastest is run twice only: it is never chosen.
        """
        runners = self.runners(options)
        of = least if self.device == "cpu" else (lambda t: t.fastest_ms)
        first = {title: 1e-3 * of(t) for title, t in _each(runners, 1).items()}
        near = {title: runners[title] for title, t in first.items() if t < HOPELESS * min(first.values())}
        found = _each(near, rounds, deadline)
        return first | {title: 1e-3 * of(t) for title, t in found.items()}


def _each(
    runners: Mapping[str, Callable[[], object]], rounds: int, deadline: float | None = None
) -> Mapping[str, Timing]:
    return interleaved(runners, baseline=next(iter(runners)), rounds=rounds, deadline=deadline, turn=TURN)


def least(t: Timing) -> float:
    """The time that other work on the machine disturbs least: with one thread the processor's, where its clock is fine
    enough to tell.
    """
    return t.least_processor_ms if torch.get_num_threads() == 1 and t.least_processor_ms > 0 else t.fastest_ms


def job(cell: str, shape: tuple[int, int, int], device: str = "cpu") -> Job:
    """One of the cells and shapes that are calibrated on."""
    batch, steps, n = shape
    ir = _cells().lower(cell)
    values = ir.dim_values({"n": n})
    sizes = {d.name: values[d.name] for d in ir.dims}
    return Job(spec=_cells(), cell=cell, sizes=sizes, batch=batch, steps=steps, device=device)


@cache
def _cells() -> Spec:
    return rnnc.spec.parse(CELLS)


def measured(
    rounds: int = 5,
    shapes: Sequence[tuple[str, tuple[int, int, int]]] | None = None,
    on_case: Callable[[int, int, str], None] = lambda k, n, title: None,
    deadline: float | None = None,
    device: str = "cpu",
) -> list[Measured]:
    """Forward and backward of every strategy that may be chosen, on each shape (the device's own, unless given); fewer
    shapes after the deadline.
    """
    found: list[Measured] = []
    shapes = shapes or (SHAPES if device == "cpu" else GPU_SHAPES)
    for k, (cell, shape) in enumerate(shapes):
        on_case(k, len(shapes), f"{cell} {list(shape)}")
        if found and deadline is not None and time.monotonic() > deadline:
            break
        one = job(cell, shape, device)
        found.append(Measured(cell=cell, shape=shape, seconds=one.measured(one.options(), rounds, deadline)))
    return found


def _both(layer: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> Callable[[], object]:
    wanted = [*inputs, *layer.parameters()]

    def run() -> object:
        y = layer(*inputs)[0]
        found = torch.autograd.grad(y, wanted, torch.ones_like(y))
        if y.is_cuda:
            torch.cuda.synchronize()
        return found

    return run


# ---------------------------------------------------------------- the fit


def fitted(found: Sequence[Measured], device: str = "cpu") -> dict[str, dict[str, Device]]:
    """The rates of every strategy that was measured, and of every kind of kernel."""
    rows: dict[str, list[tuple[tuple[float, ...], float]]] = {}
    for m in found:
        options = {o.title: o for o in group_of(m.cell, m.shape, device=device).ranked}
        for title, seconds in m.seconds.items():
            o = options[title]
            alone = max(seconds - o.apart, LEAST * seconds)
            rows.setdefault(o.rates, []).append((o.work, alone))
    gpu = this_gpu(device)
    return {device: {name: _fit(NOTHING.of(device, name, gpu), name, r) for name, r in rows.items()}}


def _fit(like: Device, name: str, rows: Sequence[tuple[tuple[float, ...], float]]) -> Device:
    """The prices of strategy `name`, drawn to those of `like`."""
    default = asdict(like)
    scale = np.array([default[p] or SMALL[p] for p in PRICES])
    target = np.array([1.0 if default[p] else 0.0 for p in PRICES])
    work = np.array([w for w, _ in rows]) * scale
    seconds = np.array([t for _, t in rows])
    size = seconds  # of an error: it is (predicted - seconds) / size, first relative to the time measured, ...
    for _ in range(ROUNDS):
        a = np.concatenate([work / size[:, None], PULL * np.eye(len(PRICES))])
        b = np.concatenate([seconds / size, PULL * target])
        prices = nonnegative(a, b)
        size = np.sqrt(
            seconds * np.maximum(work @ prices, 1e-2 * seconds)
        )  # ... then the same for too fast and too slow
    numbers: dict[str, Any] = {p: float(v) for p, v in zip(PRICES, prices * scale, strict=True)}
    rates = Device(name=name, **numbers)
    late = [float(np.log(t / max(rates.seconds(w), 1e-9))) for w, t in rows]
    return replace(rates, known=tuple((w, x) for (w, _), x in zip(rows, late, strict=True)))


def nonnegative(a: Array, b: Array) -> Array:
    """argmin |a x - b| over x >= 0, by coordinate descent (few columns)."""
    gram, right = a.T @ a, a.T @ b
    x: Array = np.maximum(np.linalg.lstsq(a, b, rcond=None)[0], 0)
    for _ in range(20000):
        before = x.copy()
        for i in range(len(x)):
            if gram[i, i] > 0:
                x[i] = max(0.0, x[i] + (right[i] - gram[i] @ x) / gram[i, i])
        if np.abs(x - before).max() <= 1e-12 * max(1.0, np.abs(x).max()):
            break
    return x


def regret(
    found: Sequence[Measured],
    rates: Mapping[str, Mapping[str, Device]],
    *,
    threads: int = 1,
    native: bool = True,
    device: str = "cpu",
) -> list[tuple[Measured, str, float]]:
    """For each case what these rates choose, with kernels or without, and its measured time over the best one's."""
    gpu = this_gpu(device)
    known = Calibration(rates=rates, threads=threads, gpu="" if gpu is None else gpu.name)
    rows = []
    for m in found:
        seconds = {s: t for s, t in m.seconds.items() if native or not s.startswith("native ")}
        chosen = group_of(m.cell, m.shape, known, native=native, device=device).chosen.title
        rows.append((m, chosen, seconds.get(chosen, float("inf")) / min(seconds.values())))
    return rows

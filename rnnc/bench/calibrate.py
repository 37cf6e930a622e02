"""The prices that the planner ranks strategies by, fitted to what they take on this machine.

For each strategy, and for the kernels of the CPU backend, times of forward and backward passes are explained by how
often each price is paid (`plan.cost`, `plan.native`): nonnegative least squares of relative errors, drawn slightly to
the defaults so that a price that no measurement speaks of stays there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

import rnnc.spec
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.backends.cpu.backend import natives, unavailable
from rnnc.bench.cells import CELLS, SHAPES
from rnnc.bench.timing import interleaved
from rnnc.compile import compile
from rnnc.ir.domains.concrete import Array
from rnnc.plan.calibration import NOTHING, Calibration
from rnnc.plan.choose import STRATEGIES, GroupPlan, plan
from rnnc.plan.cost import DEVICES, Device
from rnnc.plan.native import NATIVE_DEVICES

PRICES = ("call", "overhead", "flop", "byte", "special", "far")
SMALL = {
    "call": 1e-4,
    "overhead": 1e-5,
    "flop": 1e-11,
    "byte": 1e-10,
    "special": 1e-9,
    "far": 1e-10,
}  # what is drawn to zero, by
PULL = 0.02  # the weight of the defaults beside one measurement
ROUNDS = 10  # of the fit
LEAST = 0.3  # of a time that is left for the group when what its gates are expected to take is subtracted
SLOWEST = 3.0  # seconds by the defaults beyond which a strategy is not measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Seconds of every strategy for one cell and shape (batch, time, n), "native ..." those of kernels: the fastest
    round, which other work on the machine disturbs least.
    """

    cell: str
    shape: tuple[int, int, int]
    seconds: Mapping[str, float]


def group_of(cell: str, shape: tuple[int, int, int], rates: Calibration = NOTHING, *, native: bool = True) -> GroupPlan:
    """The plan of a cell's one group at a shape, among the kernels of the CPU backend too, or without them."""
    batch, steps, n = shape
    recurrence = analyse_recurrence(rnnc.spec.parse(CELLS).lower(cell))
    kernels = natives(recurrence) if native else None
    (group,) = plan(recurrence, {"n": n, "B": batch, "T": steps}, rates=rates, natives=kernels).groups
    return group


def measured(
    rounds: int = 5,
    shapes: Sequence[tuple[str, tuple[int, int, int]]] = SHAPES,
    on_case: Callable[[int, int, str], None] = lambda k, n, title: None,
    deadline: float | None = None,
) -> list[Measured]:
    """Forward and backward of every strategy that may be chosen, on each shape; fewer shapes after the deadline."""
    found = []
    for k, (cell, shape) in enumerate(shapes):
        on_case(k, len(shapes), f"{cell} {list(shape)}")
        if deadline is not None and time.monotonic() > deadline:
            break
        found.append(measure_case(cell, shape, rounds, deadline))
    return found


def measure_case(cell: str, shape: tuple[int, int, int], rounds: int, deadline: float | None = None) -> Measured:
    batch, steps, n = shape
    automatic = {s.name for s in STRATEGIES if s.automatic}
    group = group_of(cell, shape, native=unavailable() is None)
    options = [*(o for o in group.options if o.legal and o.name in automatic), *group.natives]
    options = [o for o in options if o.seconds is not None and o.seconds < SLOWEST]
    spec = rnnc.spec.parse(CELLS)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.rand(batch, steps, n, generator=generator, requires_grad=True) for _ in spec.lower(cell).inputs]
    runners: dict[str, Callable[[], object]] = {}
    state: dict[str, torch.Tensor] | None = None
    for o in options:
        layer = compile(spec, cell, backend="cpu" if o.native else "torch", strategy=o.name)(n=n)
        state = layer.state_dict() if state is None else state
        layer.load_state_dict(state)
        runners[o.title] = _both(layer, inputs)
    timings = interleaved(runners, baseline=options[0].title, rounds=rounds, deadline=deadline)
    return Measured(cell=cell, shape=shape, seconds={s: 1e-3 * t.fastest_ms for s, t in timings.items()})


def _both(layer: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> Callable[[], object]:
    wanted = [*inputs, *layer.parameters()]

    def run() -> object:
        y = layer(*inputs)[0]
        return torch.autograd.grad(y, wanted, torch.ones_like(y))

    return run


# ---------------------------------------------------------------- the fit


def fitted(found: Sequence[Measured]) -> dict[str, dict[str, Device]]:
    """The rates of every strategy that was measured, and of every kind of kernel."""
    rows: dict[str, list[tuple[tuple[float, ...], float]]] = {}
    for m in found:
        options = {o.title: o for o in group_of(m.cell, m.shape).ranked}
        for title, seconds in m.seconds.items():
            o = options[title]
            alone = max(seconds - o.apart, LEAST * seconds)
            rows.setdefault(o.rates, []).append((o.work, alone))
    return {"cpu": {name: _fit(name, r) for name, r in rows.items()}}


def _fit(name: str, rows: Sequence[tuple[tuple[float, ...], float]]) -> Device:
    default = asdict(NATIVE_DEVICES.get(name, DEVICES["cpu"]))
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
    found: Sequence[Measured], rates: Mapping[str, Mapping[str, Device]], *, threads: int = 1, native: bool = True
) -> list[tuple[Measured, str, float]]:
    """For each case what these rates choose, with kernels or without, and its measured time over the best one's."""
    known = Calibration(rates=rates, threads=threads)
    rows = []
    for m in found:
        seconds = {s: t for s, t in m.seconds.items() if native or not s.startswith("native ")}
        chosen = group_of(m.cell, m.shape, known, native=native).chosen.title
        rows.append((m, chosen, seconds.get(chosen, float("inf")) / min(seconds.values())))
    return rows

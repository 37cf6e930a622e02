"""Everything that can run a cell, side by side: strategies, backends, the eager loop over steps, peers."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from rnnc.bench.candidates import EAGER, Candidate, affordable, agreeing, candidates
from rnnc.bench.limits import Limits, bound
from rnnc.bench.settings import OnRun, Settings
from rnnc.bench.timing import Timing, interleaved, machine
from rnnc.compile import automatic, error
from rnnc.ir.domains.cost import elements
from rnnc.ir.graph import VARYING, CellIR, ancestors
from rnnc.ir.unfold import inline_calls
from rnnc.spec import Spec
from rnnc.verify.probing import Prober

USUAL_SIZE = 64  # of dims that nobody gave
MOST_NUMBERS = 1 << 31  # that all operations of a run make together, which a gradient keeps: 8 GiB, ...
SHARE = 1 / 3  # ... or this part of the machine's memory, where that is less
DIRECTIONS = ("forward", "forward + backward")

__all__ = ["DIRECTIONS", "EAGER", "Result", "Row", "Settings", "bench"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One competitor: its times, and what part of the machine's limit it reaches, in each direction that it has.

    `chosen`: the planner takes it for its backend.  `error` is that of its outputs against the first competitor's.
    """

    name: str
    kind: str  # "strategy", "loop" or "peer"
    chosen: bool
    error: float
    timings: Mapping[str, Timing]
    roofline: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """`left_out`: what was not measured, with the reason; `bound_ms`: what the machine's limits allow."""

    cell: str
    sizes: Mapping[str, int]
    rows: tuple[Row, ...]
    left_out: tuple[tuple[str, str], ...]
    bound_ms: Mapping[str, float]
    set_by: Mapping[str, str]
    limits: Limits
    machine: Mapping[str, Any]
    why: tuple[str, ...] = ()
    automatic: str = "torch"  # what `backend="auto"` means here

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def baseline(self) -> str:
        return self.rows[0].name


def _quiet(name: str, done: int, total: int) -> None:
    pass


def bench(spec: Spec, cell: str | None, hyper: Mapping[str, Any], settings: Settings, on_run: OnRun = _quiet) -> Result:
    """Measure a cell.  SpecError where the spec is wrong or the sizes are too large (E0606)."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    ir = spec.lower(cell, **hyper)
    dims = _dims(ir, hyper)
    given = {k: v for k, v in hyper.items() if k not in dims} | dims
    inputs = _inputs(ir, dims, settings)
    deadline = time.monotonic() + settings.seconds
    before = machine()
    found, left_out, why = candidates(spec, cell, given, ir, dims, settings, inputs, on_run)
    kept = agreeing(found, inputs, left_out)
    kept = affordable(kept, inputs, settings, left_out)
    if not kept:
        raise error("E0606", f"nothing of `{ir.name}` could be measured", "; ".join(f"{n}: {w}" for n, w in left_out))
    limits = Limits.measured()
    timings = {d: _timed(kept, inputs, d, settings, deadline, on_run) for d in DIRECTIONS}
    bounds = {d: bound(ir, dims, settings.batch, settings.steps, limits, d) for d in DIRECTIONS}
    rows = tuple(
        Row(
            name=c.name,
            kind=c.kind,
            chosen=c.chosen,
            error=c.error,
            timings={d: timings[d][c.name] for d in DIRECTIONS[: c.directions]},
            roofline={d: 1e3 * bounds[d].seconds / timings[d][c.name].median_ms for d in DIRECTIONS[: c.directions]},
        )
        for c in kept
    )
    return Result(
        cell=ir.name,
        sizes={"B": settings.batch, "T": settings.steps, **dims},
        rows=rows,
        left_out=tuple(left_out),
        bound_ms={d: 1e3 * b.seconds for d, b in bounds.items()},
        set_by={d: b.set_by for d, b in bounds.items()},
        limits=limits,
        machine=before,
        why=why,
        automatic=automatic(),
    )


def _dims(ir: CellIR, hyper: Mapping[str, Any]) -> dict[str, int]:
    dims = ir.dim_values({d.name: int(hyper[d.name]) for d in ir.dims if d.name in hyper})
    for d in ir.dims:
        if d.name not in dims:
            dims = ir.dim_values({**dims, d.name: USUAL_SIZE})
    return dims


def _numbers(ir: CellIR, dims: Mapping[str, int], tokens: int) -> int:
    """How many numbers a run makes: parameters and constants once, everything else for each token."""
    cell = inline_calls(ir)
    needed = ancestors(cell, [*(o.node for o in cell.outputs), *(s.update for s in cell.states)])
    roots = [*needed, *(i.node for i in cell.inputs), *(p.node for p in cell.params), *(s.node for s in cell.states)]
    static: dict[int, bool] = {}
    for i in sorted(set(roots)):  # arguments stand before what reads them
        node = cell.nodes[i]
        static[i] = node.op not in VARYING and all(static.get(a, False) for a in node.args)
    sizes = ((elements(cell.nodes[i].type).evaluate(dims), fixed) for i, fixed in static.items())
    return sum(n if fixed else n * tokens for n, fixed in sizes)


def _most_numbers() -> float:
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # a system that does not say
        return MOST_NUMBERS
    return min(MOST_NUMBERS, SHARE * memory / 4)


def _inputs(ir: CellIR, dims: Mapping[str, int], settings: Settings) -> list[Tensor]:
    """Random inputs inside their domains, those that have gradients as leaves."""
    numbers = _numbers(ir, dims, settings.batch * settings.steps)
    if numbers > _most_numbers():
        help_ = "give a smaller --shape, or smaller dims by --set"
        raise error("E0606", f"{numbers:.2g} numbers of parameters and values are too many to measure", help_)
    point = next(Prober(ir, dims).points(1, batch=settings.batch, steps=settings.steps))
    found = []
    for i in ir.inputs:
        x = torch.tensor(point.inputs[i.name])
        x = x.to(torch.complex64) if x.is_complex() else x.float() if x.is_floating_point() else x
        found.append(x.requires_grad_(x.is_floating_point() or x.is_complex()))
    return found


# ---------------------------------------------------------------- timing


def _timed(
    found: Sequence[Candidate],
    inputs: Sequence[Tensor],
    direction: str,
    settings: Settings,
    deadline: float,
    on_run: OnRun,
) -> dict[str, Timing]:
    least = 1 + DIRECTIONS.index(direction)
    runners = {c.name: _runner(c, inputs, direction) for c in found if c.directions >= least}
    done, total = 0, len(runners) * (settings.rounds + 1)

    def on_each(name: str) -> None:
        nonlocal done
        on_run(f"{direction}: {name}", done, total)
        done += 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # Newton's, whose reports are for those who train
        return interleaved(runners, baseline=found[0].name, rounds=settings.rounds, deadline=deadline, on_run=on_each)


def _runner(c: Candidate, inputs: Sequence[Tensor], direction: str) -> Callable[[], object]:
    wanted = [x for x in (*inputs, *c.parameters) if x.requires_grad]

    def forward() -> object:
        with torch.no_grad():
            return c.run(*inputs)

    def both() -> object:
        ys = c.run(*inputs)
        ys = [y for y in (ys if isinstance(ys, tuple) else (ys,)) if y.requires_grad]
        return torch.autograd.grad(ys, wanted, [torch.ones_like(y) for y in ys], allow_unused=True) if ys else None

    return forward if direction == "forward" else both

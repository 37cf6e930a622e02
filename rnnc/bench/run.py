"""Everything that can run a cell, side by side: strategies, backends, the eager loop over steps, peers."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rnnc.backends import BACKENDS, load_backend
from rnnc.backends.torch.backend import plan_all
from rnnc.bench.limits import Limits, bound
from rnnc.bench.peers import peers, relative_error
from rnnc.bench.timing import Timing, interleaved, machine
from rnnc.compile import compile, error
from rnnc.ir.domains.cost import elements
from rnnc.ir.graph import VARYING, CellIR, ancestors
from rnnc.ir.unfold import inline_calls
from rnnc.spec import Spec
from rnnc.verify.probing import Prober

EAGER = "eager loop"
USUAL_SIZE = 64  # of dims that nobody gave
AGREE = 1e-3  # relative error of outputs in float32
MOST_NUMBERS = 1 << 31  # that all operations of a run make together, which a gradient keeps: 8 GiB, ...
SHARE = 1 / 3  # ... or this part of the machine's memory, where that is less
PROBED = 64  # steps from which the time of a loop is predicted
DIRECTIONS = ("forward", "forward + backward")

OnRun = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What to measure: `batch` sequences of `steps`; `seconds` is the time limit for all runs together."""

    batch: int = 4
    steps: int = 1024
    rounds: int = 5
    threads: int | None = None
    seconds: float = 60.0
    backends: tuple[str, ...] = ("torch", "cpu")
    against_peers: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One competitor: its times, and what part of the machine's limit it reaches in each direction.

    `chosen`: the planner would take it.  `error` is that of its outputs against the first competitor's.
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

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def baseline(self) -> str:
        return self.rows[0].name


@dataclass(slots=True, kw_only=True)
class _Candidate:
    name: str
    kind: str
    run: Callable[..., Any]
    parameters: Sequence[Tensor] = ()
    chosen: bool = False
    per_step: bool = False  # whether its time grows with every step
    error: float = 0.0


def bench(
    spec: Spec, cell: str | None, hyper: Mapping[str, Any], settings: Settings, on_run: OnRun = lambda name: None
) -> Result:
    """Measure a cell.  SpecError where the spec is wrong or the sizes are too large (E0606)."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    ir = spec.lower(cell, **hyper)
    dims = _dims(ir, hyper)
    given = {k: v for k, v in hyper.items() if k not in dims} | dims
    inputs = _inputs(ir, dims, settings)
    deadline = time.monotonic() + settings.seconds
    before = machine()
    found, left_out, why = _candidates(spec, cell, given, ir, dims, settings, inputs, on_run)
    kept = _agreeing(found, inputs, left_out)
    kept = _affordable(kept, inputs, settings, left_out)
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
            timings={d: timings[d][c.name] for d in DIRECTIONS},
            roofline={d: 1e3 * bounds[d].seconds / timings[d][c.name].median_ms for d in DIRECTIONS},
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


# ---------------------------------------------------------------- who takes part


def _candidates(
    spec: Spec,
    cell: str | None,
    given: Mapping[str, Any],
    ir: CellIR,
    dims: Mapping[str, int],
    settings: Settings,
    inputs: Sequence[Tensor],
    on_run: OnRun,
) -> tuple[list[_Candidate], list[tuple[str, str]], tuple[str, ...]]:
    expect = (settings.batch, settings.steps)
    plans = plan_all(ir, {**dims, "B": settings.batch, "T": settings.steps}, None)
    groups = [g for p in plans.values() for g in p.groups]
    names = dict.fromkeys(o.name for g in groups for o in g.options if o.legal and o.name != "step")
    chosen = {g.strategy for g in groups}
    found: list[_Candidate] = []
    left_out: list[tuple[str, str]] = []
    state: dict[str, Tensor] | None = None
    sources: dict[str, str] = {}
    for backend in dict.fromkeys(settings.backends):
        if backend not in BACKENDS:
            known = ", ".join(BACKENDS)
            raise error("E0601", f"there is no backend `{backend}`", f"known backends: {known}")
        missing = load_backend(backend).unavailable()
        if missing is not None:
            left_out.append((f"{backend} backend", missing))
            continue
        for strategy in [None, *names] if backend != "torch" or len(chosen) != 1 else names:
            title = f"{backend}: {strategy or 'auto'}"
            on_run(f"compile {title}")
            cls = compile(spec, cell, backend=backend, strategy=strategy, expect=expect, **given)
            if cls.source in sources:
                if strategy is not None:
                    left_out.append((title, f"the same as {sources[cls.source]}"))
                continue
            sources[cls.source] = title
            layer = cls(**{k: v for k, v in dims.items() if k in {d.name for d in ir.dims}})
            state = layer.state_dict() if state is None else state
            layer.load_state_dict(state)
            auto = backend == "torch" and (strategy is None or chosen == {strategy})
            found.append(_layer(title, layer, chosen=auto, per_step=strategy == "sequential" and backend == "torch"))
            if not any(c.kind == "loop" for c in found) and backend == "torch":
                found.append(_eager(layer))
                if settings.against_peers:
                    on_run("peers")
                    found += [
                        _Candidate(name=p.name, kind="peer", run=p.run, parameters=p.parameters, per_step=True)
                        for p in peers(ir, _for_peers(spec, cell, given, layer, names), inputs)
                    ]
    found.sort(key=lambda c: c.kind != "loop")  # the loop is what all are compared with
    why = tuple(f"{' and '.join(g.group.states)}: {g.strategy}; {g.chosen.why}" for g in groups)
    return found, left_out, why


def _for_peers(spec: Spec, cell: str | None, given: Mapping[str, Any], layer: nn.Module, names: Any) -> nn.Module:
    """The layer that peers are compared with: by its scan where it has one, which a peer may take over."""
    if "scan" not in names:
        return layer
    sizes = {k: v for k, v in given.items() if hasattr(layer, k)}
    other: nn.Module = compile(spec, cell, backend="torch", strategy="scan", **given)(**sizes)
    other.load_state_dict(layer.state_dict())
    return other


def _layer(title: str, layer: nn.Module, *, chosen: bool, per_step: bool) -> _Candidate:
    return _Candidate(
        name=title,
        kind="strategy",
        run=lambda *x: layer(*x)[0],
        parameters=list(layer.parameters()),
        chosen=chosen,
        per_step=per_step,
    )


def _eager(layer: nn.Module) -> _Candidate:
    """`layer.step` in a loop, as a person would write it."""

    def run(*inputs: Tensor) -> Any:
        state, rows = None, []
        for t in range(inputs[0].shape[1]):
            y, state = layer.step(*(x[:, t] for x in inputs), state=state)  # type: ignore[operator]
            rows.append(y)
        if isinstance(rows[0], tuple):
            return tuple(torch.stack(r, 1) for r in zip(*rows, strict=True))
        return torch.stack(rows, 1)

    return _Candidate(name=EAGER, kind="loop", run=run, parameters=list(layer.parameters()), per_step=True)


def _first(y: Any) -> Tensor:
    """One output, or all in a row."""
    if isinstance(y, Tensor):
        return y
    return torch.cat([x.flatten(2) if x.ndim > 2 else x.unsqueeze(-1) for x in y], -1)


def _agreeing(
    found: Sequence[_Candidate], inputs: Sequence[Tensor], left_out: list[tuple[str, str]]
) -> list[_Candidate]:
    """Those whose outputs are the first one's, on the first steps: nothing else is timed."""
    kept: list[_Candidate] = []
    short = [x[:, :PROBED].detach() for x in inputs]
    want: Tensor | None = None
    for c in found:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            y = _first(c.run(*short))
        want = y if want is None else want
        if bool(torch.isfinite(want).all()) and y.numel():
            real = [torch.view_as_real(x) if x.is_complex() else x.float() for x in (y, want)]
            c.error = relative_error(*real)
        if not c.error < AGREE:
            left_out.append((c.name, f"its outputs differ from those of {found[0].name} by {c.error:.1e}"))
        else:
            kept.append(c)
    return kept


def _affordable(
    found: Sequence[_Candidate], inputs: Sequence[Tensor], settings: Settings, left_out: list[tuple[str, str]]
) -> list[_Candidate]:
    """Those that fit into the time, by a prediction from few steps where the time grows with every one."""
    kept = []
    short = [x[:, :PROBED].detach() for x in inputs]
    share = settings.seconds / (4 * max(2, min(settings.rounds, 3)))  # of one run: forward, and three times that
    for c in found:
        if c.per_step and settings.steps > PROBED:
            start = time.perf_counter()
            with torch.no_grad():
                c.run(*short)
            expected = (time.perf_counter() - start) * settings.steps / short[0].shape[1]
            if expected > share:
                left_out.append((c.name, f"a run would take about {expected:.2g} s (--seconds allows more)"))
                continue
        kept.append(c)
    return kept


# ---------------------------------------------------------------- timing


def _timed(
    found: Sequence[_Candidate],
    inputs: Sequence[Tensor],
    direction: str,
    settings: Settings,
    deadline: float,
    on_run: OnRun,
) -> dict[str, Timing]:
    runners = {c.name: _runner(c, inputs, direction) for c in found}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # Newton's, whose reports are for those who train
        return interleaved(
            runners,
            baseline=found[0].name,
            rounds=settings.rounds,
            deadline=deadline,
            on_run=lambda name: on_run(f"{direction}: {name}"),
        )


def _runner(c: _Candidate, inputs: Sequence[Tensor], direction: str) -> Callable[[], object]:
    wanted = [x for x in (*inputs, *c.parameters) if x.requires_grad]

    def forward() -> object:
        with torch.no_grad():
            return c.run(*inputs)

    def both() -> object:
        ys = c.run(*inputs)
        ys = [y for y in (ys if isinstance(ys, tuple) else (ys,)) if y.requires_grad]
        return torch.autograd.grad(ys, wanted, [torch.ones_like(y) for y in ys], allow_unused=True) if ys else None

    return forward if direction == "forward" else both

"""Who takes part in a measurement: strategies of backends, the eager loop over steps, peers; and who is left out."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rnnc.backends import BACKENDS, load_backend
from rnnc.backends.cpu.backend import native_plans
from rnnc.backends.torch.backend import plan_all
from rnnc.bench.peers import peers, relative_error
from rnnc.bench.settings import OnRun, Settings
from rnnc.compile import compile, error
from rnnc.ir.graph import CellIR
from rnnc.plan.choose import Option, Plan
from rnnc.spec import Spec

EAGER = "eager loop"
AGREE = 1e-3  # relative error of outputs in float32
PROBED = 64  # steps from which the time of a loop is predicted


@dataclass(slots=True, kw_only=True)
class Candidate:
    """`chosen`: what the planner takes for its backend; `per_step`: whether its time grows with every step."""

    name: str
    kind: str
    run: Callable[..., Any]
    parameters: Sequence[Tensor] = ()
    chosen: bool = False
    per_step: bool = False
    directions: int = 2  # forward alone, or backward too
    error: float = 0.0


def candidates(
    spec: Spec,
    cell: str | None,
    given: Mapping[str, Any],
    ir: CellIR,
    dims: Mapping[str, int],
    settings: Settings,
    inputs: Sequence[Tensor],
    on_run: OnRun,
) -> tuple[list[Candidate], list[tuple[str, str]], tuple[str, ...]]:
    """Those that take part, those that do not with the reason, and what each backend chose and why."""
    field_ = _Field(spec=spec, cell=cell, given=given, ir=ir, dims=dims, settings=settings)
    for backend in dict.fromkeys(settings.backends):
        if backend not in BACKENDS:
            known = ", ".join(BACKENDS)
            raise error("E0601", f"there is no backend `{backend}`", f"known backends: {known}")
        missing = load_backend(backend).unavailable()
        if missing is not None:
            field_.left_out.append((f"{backend} backend", missing))
            continue
        field_.enter(backend, on_run)
    if settings.loop:
        field_.found.insert(0, _eager(field_.layer()))  # what all are compared with
    if settings.against is not None:
        on_run("peers", 0, 0)
        compiled = settings.against == "peers"
        found = peers(ir, field_.by_scan(), inputs, compiled=compiled, on_run=lambda name: on_run(name, 0, 0))
        for p in found:
            directions = 2 if p.differentiable else 1
            field_.found.append(
                Candidate(
                    name=p.name,
                    kind="peer",
                    run=p.run,
                    parameters=p.parameters,
                    per_step=not p.fixed,
                    directions=directions,
                    error=p.error,
                )
            )
    return field_.found, field_.left_out, tuple(field_.why)


@dataclass(slots=True, kw_only=True)
class _Field:
    """The competitors in the making: all have one set of weights."""

    spec: Spec
    cell: str | None
    given: Mapping[str, Any]
    ir: CellIR
    dims: Mapping[str, int]
    settings: Settings
    found: list[Candidate] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    why: list[str] = field(default_factory=list)
    state: dict[str, Tensor] | None = None
    sources: dict[str, str] = field(default_factory=dict)

    def enter(self, backend: str, on_run: OnRun) -> None:
        """What a backend chooses, and every legal strategy that makes another module of it."""
        for strategy in (None, *self.legal()):
            title = f"{backend}: {strategy or 'auto'}"
            on_run(f"compile {title}", 0, 0)
            made = self.made(backend, strategy)
            source = getattr(type(made), "source", "")
            if source in self.sources:
                if strategy is not None:
                    self.left_out.append((title, f"the same as {self.sources[source]}"))
                continue
            self.sources[source] = title
            if strategy is None:
                sizes = {**self.dims, "B": self.settings.batch, "T": self.settings.steps}
                self.why += reasons(backend, self.ir, sizes)
            slow = strategy == "sequential" and backend == "torch"
            self.found.append(
                Candidate(
                    name=title,
                    kind="strategy",
                    run=lambda *x, layer=made: layer(*x)[0],
                    parameters=list(made.parameters()),
                    chosen=strategy is None,
                    per_step=slow,
                )
            )

    def legal(self) -> list[str]:
        """The strategies that some group may run by."""
        sizes = {**self.dims, "B": self.settings.batch, "T": self.settings.steps}
        groups = [g for p in plan_all(self.ir, sizes, None).values() for g in p.groups]
        return list(dict.fromkeys(o.name for g in groups for o in g.options if o.legal and o.name != "step"))

    def made(self, backend: str, strategy: str | None) -> nn.Module:
        expect = (self.settings.batch, self.settings.steps)
        cls = compile(self.spec, self.cell, backend=backend, strategy=strategy, expect=expect, **self.given)
        layer: nn.Module = cls(**{d.name: self.dims[d.name] for d in self.ir.dims})
        if self.state is None:
            self.state = layer.state_dict()
        layer.load_state_dict(self.state)
        return layer

    def layer(self) -> nn.Module:
        return self.made("torch", None)

    def by_scan(self) -> nn.Module:
        """The layer that peers are compared with: by its scan where it has one, which a peer may take over."""
        return self.made("torch", "scan" if "scan" in self.legal() else None)


def reasons(backend: str, ir: CellIR, dims: Mapping[str, int]) -> Iterator[str]:
    """How a backend runs each group, what that is expected to take, and what was ranked behind it."""
    for g in (g for p in _plans(backend, ir, dims) for g in p.groups):
        others = [f"{o.title} {milliseconds(o)}" for o in g.ranked if o is not g.chosen and o.name != "step"]
        behind = f"; {', '.join(others)}" if others else ""
        took = f"expected {milliseconds(g.chosen)}{behind} {g.priced}"
        yield f"{backend}: {' and '.join(g.group.states)}: {g.chosen.title}; {g.chosen.why} ({took})"


def _plans(backend: str, ir: CellIR, dims: Mapping[str, int]) -> list[Plan]:
    """What a backend chooses for a cell and for all that it calls."""
    if backend == "cpu":
        return native_plans(ir, dims)
    if backend == "triton":
        from rnnc.backends.triton.planning import plans

        return list(plans(ir, dims, None).values())
    return list(plan_all(ir, dims, None).values())


def milliseconds(o: Option) -> str:
    return "?" if o.seconds is None else f"{1e3 * o.seconds:.3g} ms"


def _eager(layer: nn.Module) -> Candidate:
    """`layer.step` in a loop, as a person would write it."""

    def run(*inputs: Tensor) -> Any:
        state, rows = None, []
        for t in range(inputs[0].shape[1]):
            y, state = layer.step(*(x[:, t] for x in inputs), state=state)  # type: ignore[operator]
            rows.append(y)
        if isinstance(rows[0], tuple):
            return tuple(torch.stack(r, 1) for r in zip(*rows, strict=True))
        return torch.stack(rows, 1)

    return Candidate(name=EAGER, kind="loop", run=run, parameters=list(layer.parameters()), per_step=True)


def _first(y: Any) -> Tensor:
    """One output, or all in a row."""
    if isinstance(y, Tensor):
        return y
    return torch.cat([x.flatten(2) if x.ndim > 2 else x.unsqueeze(-1) for x in y], -1)


def agreeing(found: Sequence[Candidate], inputs: Sequence[Tensor], left_out: list[tuple[str, str]]) -> list[Candidate]:
    """Those whose outputs are the first one's, on the first steps: nothing else is timed.

    Peers, which have other weights, were compared when they were found.
    """
    kept: list[Candidate] = []
    short = [x[:, :PROBED].detach() for x in inputs]
    want: Tensor | None = None
    for c in found:
        if c.kind == "peer":
            kept.append(c)
            continue
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


def affordable(
    found: Sequence[Candidate], inputs: Sequence[Tensor], settings: Settings, left_out: list[tuple[str, str]]
) -> list[Candidate]:
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

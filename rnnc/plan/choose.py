"""Legal strategies of every group, and the choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rnnc.analysis.forms import Form, Group, Recurrence
from rnnc.diagnostics import Diagnostic, SpecError
from rnnc.plan.block_scan import BlockScan
from rnnc.plan.calibration import NOTHING, Calibration, calibration
from rnnc.plan.chunkwise import Chunkwise
from rnnc.plan.convolution import Convolution
from rnnc.plan.cost import DEVICES, NUMBER, STEPS, Device, Problem, evaluated, per_step, per_token, seconds, work_of
from rnnc.plan.gpu import HOPPER, Gpu, GpuWork
from rnnc.plan.native import Work, around, paid
from rnnc.plan.newton import Newton
from rnnc.plan.remedy import Remedy, remedies
from rnnc.plan.scan import Scan
from rnnc.plan.sequential import Sequential
from rnnc.plan.step import Step
from rnnc.plan.strategy import Strategy

STRATEGIES: tuple[Strategy, ...] = (Step(), Sequential(), Scan(), Chunkwise(), BlockScan(), Convolution(), Newton())


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One strategy for one group.

    `flops` and `bytes` are expressions in B, T and the cell's dims ("" where illegal), `..._number` their values where
    all of these are known, `..._per_token` those for one sequence and step.  `seconds` is the estimate that ranks the
    legal ones, by the prices called `rates`; `apart` of them are for gates that a kernel would do along with the group.
    A `native` one is run by a kernel of the backend, which `serves` the strategies named.
    """

    name: str
    legal: bool
    why: str
    depth: str = ""
    flops: str = ""
    bytes: str = ""
    flops_number: int | None = None
    bytes_number: int | None = None
    memory: str = ""
    memory_number: int | None = None
    flops_per_token: str = ""
    bytes_per_token: str = ""
    seconds: float | None = None
    work: tuple[float, ...] = ()  # how often each price of the device is paid
    safety: str = ""
    remedy: str = ""
    form: Form | None = None
    rates: str = ""
    apart: float = 0.0
    native: bool = False
    serves: frozenset[str] = frozenset()

    @property
    def title(self) -> str:
        """The name, with whose it is."""
        return f"native {self.name}" if self.native else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlan:
    """The options of one group, in a fixed order, and the chosen one.

    `options` are PyTorch's, one a strategy; `natives` those that the backend has kernels for.  `priced` says at which
    sizes and by which rates the seconds of the options were estimated.
    """

    group: Group
    options: tuple[Option, ...]
    chosen: Option
    priced: str = ""
    natives: tuple[Option, ...] = ()

    @property
    def strategy(self) -> str:
        return self.chosen.name

    @property
    def ranked(self) -> list[Option]:
        """Every way to run the group, kernels included, the one that is expected to be fastest first."""
        legal = [o for o in (*self.natives, *self.options) if o.legal]
        return sorted(legal, key=lambda o: o.seconds if o.seconds is not None else float("inf"))

    @property
    def form(self) -> Form | None:
        return self.chosen.form


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a recurrence is run: one strategy a group, groups in topological order."""

    recurrence: Recurrence
    groups: tuple[GroupPlan, ...]
    device: str
    calibration: Calibration = NOTHING


def plan(
    recurrence: Recurrence,
    dims: Mapping[str, int] | None = None,
    strategy: str | Mapping[str, str] | None = None,
    device: str = "cpu",
    rates: Calibration | None = None,
    natives: Mapping[int, Sequence[Work | GpuWork]] | None = None,
    gpu: Gpu | None = None,
) -> Plan:
    """Choose a strategy for every group.

    `dims` gives sizes (and `B`, `T`, where known); those missing are taken as usual ones for the ranking.  `strategy`
    overrides: one name runs every group that it is legal for (the others keep their best); a mapping from state names
    is strict. `device` is "cpu" or "cuda", then `gpu` says which; `rates` are what this machine was measured to do,
    unless given.  `natives` are the kernels that a backend has for a group (by its index): one of them runs it where it
    is expected to be faster, and where it serves what was asked for.  Raises SpecError: E0602 for an override that is
    illegal, E0603 for an unknown name.
    """
    rates = calibration() if rates is None else rates
    prices = _Prices(rates=rates, device=device, gpu=gpu)
    works = natives or {}
    groups = tuple(_group_plan(recurrence, g, dims or {}, prices, works.get(g.index, ())) for g in recurrence.groups)
    if strategy is not None:
        groups = _overridden(recurrence, groups, strategy)
    return Plan(recurrence=recurrence, groups=groups, device=device, calibration=rates)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prices:
    """What was measured, and which device it is for."""

    rates: Calibration
    device: str
    gpu: Gpu | None

    def of(self, name: str) -> Device:
        return self.rates.of(self.device, name, self.gpu)

    def paid(self, work: Work | GpuWork, problem: Problem) -> tuple[float, ...]:
        if isinstance(work, GpuWork):
            return work.paid(problem, self.gpu or HOPPER)
        return paid(work, problem, self.rates.threads)

    @property
    def source(self) -> str:
        """Where they come from."""
        if self.rates.speaks_of(self.device, self.gpu):
            return "by what was measured on this machine"
        note = f"; {self.rates.note}" if self.rates.note else ""
        kind = f" of {self.gpu.name}" if self.gpu is not None else ""
        return f"by default rates{kind} (`rnnc bench --calibrate` measures them{note})"


def _group_plan(
    recurrence: Recurrence, group: Group, dims: Mapping[str, int], prices: _Prices, works: Sequence[Work | GpuWork]
) -> GroupPlan:
    given = {p.name for p in recurrence.cell.dims} | {"B", "T"}
    problem = Problem(
        cell=recurrence.cell,
        group=group,
        dims={k: v for k, v in recurrence.cell.dim_values(dims).items() if k in given},
        given=frozenset(dims),
    )
    cures = remedies(recurrence.cell, group)
    options = tuple(_option(s, problem, prices.of(s.name), cures) for s in STRATEGIES)
    options = tuple(_with_gates(o, problem, DEVICES[prices.device], works) for o in options)
    alike = {o.name: o for o in options}
    natives = tuple(_native(w, problem, prices, works, alike[w.strategy]) for w in works)
    by_name = {s.name: s for s in STRATEGIES}
    automatic = {w.strategy for w in works if w.automatic}
    able = [o for o in options if o.legal and by_name[o.name].may_choose(problem)]
    able = [*(o for o in natives if o.name in automatic and by_name[o.name].may_choose(problem)), *able]
    chosen = min(able, key=lambda o: o.seconds * by_name[o.name].margin if o.seconds is not None else float("inf"))
    return GroupPlan(group=group, options=options, chosen=chosen, priced=_priced(problem, prices), natives=natives)


def _priced(problem: Problem, prices: _Prices) -> str:
    """The sizes that the estimates are for, and where the rates come from."""
    names = sorted({"B", "T"} | {n for s in problem.group.states for n in problem.size_names(s)})
    sizes = ", ".join(f"{n} = {problem.value(n)}" for n in names)
    return f"at {sizes}, {prices.source}"


def _native(
    work: Work | GpuWork, problem: Problem, prices: _Prices, works: Sequence[Work | GpuWork], like: Option
) -> Option:
    """The option of a kernel, `like` PyTorch's of that name: legal where there is one.  Gates that another one would do
    along are PyTorch's here.
    """
    counts = prices.paid(work, problem)
    apart = 0.0 if work.gates else max(around(w, problem, DEVICES[prices.device], like.form) for w in works)
    flops, moved = per_step(work.forward), per_step(work.numbers)
    return Option(
        name=work.strategy,
        legal=True,
        native=True,
        rates=work.rates,
        serves=work.serves,
        why=work.why,
        depth=STEPS,
        flops=str(flops),
        bytes=str(moved * NUMBER),
        flops_number=evaluated(flops, problem),
        bytes_number=evaluated(moved * NUMBER, problem),
        flops_per_token=per_token(flops, problem),
        bytes_per_token=per_token(moved * NUMBER, problem),
        seconds=prices.of(work.rates).seconds(counts) + apart,
        work=counts,
        apart=apart,
        form=like.form if isinstance(work, GpuWork) else None,
        safety=like.safety if isinstance(work, GpuWork) else "",
    )


def _with_gates(o: Option, problem: Problem, device: Device, works: Sequence[Work | GpuWork]) -> Option:
    """One of PyTorch's options, with the seconds of what a kernel would do along with the group."""
    if o.seconds is None or not works:
        return o
    apart = max(around(w, problem, device, o.form) for w in works)
    return replace(o, seconds=o.seconds + apart, apart=apart)


def _option(s: Strategy, problem: Problem, device: Device, cures: tuple[Remedy, ...]) -> Option:
    form = s.form(problem)
    if isinstance(form, str):
        return Option(name=s.name, legal=False, why=form, remedy=_remedy(s, problem, cures))
    cost = s.cost(problem, form)
    return Option(
        name=s.name,
        legal=True,
        rates=s.name,
        why=s.why(problem, form),
        depth=cost.depth,
        flops=str(cost.flops),
        bytes=str(cost.bytes),
        flops_number=evaluated(cost.flops, problem),
        bytes_number=evaluated(cost.bytes, problem),
        flops_per_token=per_token(cost.flops, problem),
        bytes_per_token=per_token(cost.bytes, problem),
        seconds=seconds(cost, problem, device),
        work=work_of(cost, problem),
        memory=str(cost.memory),
        memory_number=evaluated(cost.memory, problem),
        safety=s.safety(problem, form),
        form=form,
    )


def _remedy(s: Strategy, problem: Problem, cures: tuple[Remedy, ...]) -> str:
    """The first change under which the strategy is legal (tried, not guessed)."""
    if problem.group.kind != "nonlinear":
        return s.remedy(problem)
    for cure in cures:
        changed = [Problem(cell=cure.cell, group=g, dims=problem.dims) for g in cure.groups]
        if not any(isinstance(s.form(p), str) for p in changed):
            return f"{cure.text} and runs by {s.name.replace('_', ' ')}"
    return ""


# ---------------------------------------------------------------- overrides


def _overridden(
    recurrence: Recurrence, groups: tuple[GroupPlan, ...], strategy: str | Mapping[str, str]
) -> tuple[GroupPlan, ...]:
    if isinstance(strategy, str):
        _check_name(strategy)
        replaced = [_with(g, strategy) for g in groups]
        if groups and all(r is None for r in replaced):
            raise _illegal(recurrence, groups, strategy)
        return tuple(r or g for r, g in zip(replaced, groups, strict=True))
    by_state = {name: g for g in groups for name in g.group.states}
    changed = {g.group.index: g for g in groups}
    for state, name in strategy.items():
        _check_name(name)
        if state not in by_state:
            known = ", ".join(f"`{s}`" for s in by_state)
            raise _error(
                "E0603",
                f"a strategy is given for `{state}`, which is no state of `{recurrence.cell.name}`",
                f"its states are {known}",
            )
        found = _with(by_state[state], name)
        if found is None:
            raise _illegal(recurrence, (by_state[state],), name)
        changed[found.group.index] = found
    return tuple(changed[g.group.index] for g in groups)


def _with(g: GroupPlan, name: str) -> GroupPlan | None:
    """The plan with another strategy, by a kernel that serves it where there is one; None where it is illegal."""
    option = next(o for o in g.options if o.name == name)
    if not option.legal:
        return None
    kernel = next((o for o in g.natives if name in o.serves), None)
    return replace(g, chosen=option if kernel is None else replace(kernel, name=name))


def _check_name(name: str) -> None:
    known = [s.name for s in STRATEGIES]
    if name not in known:
        raise _error("E0603", f"there is no strategy `{name}`", f"the strategies are {', '.join(known)}")


def _illegal(recurrence: Recurrence, groups: tuple[GroupPlan, ...], name: str) -> SpecError:
    reasons = tuple(next(o.why for o in g.options if o.name == name) for g in groups)
    legal = sorted({o.name for g in groups for o in g.options if o.legal})
    state = recurrence.cell.state(groups[0].group.states[0])
    diagnostic = Diagnostic(
        code="E0602",
        message=f"`{recurrence.cell.name}` cannot run by `{name}`",
        span=state.span,
        notes=tuple(dict.fromkeys(reasons)),
        help=f"legal here: {', '.join(legal)}",
    )
    return SpecError((diagnostic,))


def _error(code: str, message: str, help: str) -> SpecError:
    return SpecError((Diagnostic(code=code, message=message, span=None, help=help),))

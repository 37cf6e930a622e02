"""The report on a cell: what its recurrence is, what that proves, how it can run and why; as text, JSON and HTML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, assert_never

from rnnc.analysis.forms import Group, Recurrence
from rnnc.analysis.ranges import Ranges
from rnnc.analysis.spectrum import Spectrum
from rnnc.ir.dims import Dim
from rnnc.ir.graph import CellIR, RangeClaim, ancestors
from rnnc.ir.types import Disk, HalfPlane, Interval, UnitNorm

if TYPE_CHECKING:
    from rnnc.plan import GroupPlan
    from rnnc.plan.choose import Option
    from rnnc.spec import Spec
    from rnnc.verify.results import ClaimResult


@dataclass(frozen=True, slots=True, kw_only=True)
class StateReport:
    """`shape` has the per axes in front; sizes are numbers where the dims are known."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    group: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeReport:
    """A declared range: the proved one beside it, of the same quantity (`what`: "", "modulus" or "real part").

    `proved` is None for unit vectors, whose norm is no interval of their entries.
    """

    name: str
    what: str
    declared: str
    proved: Interval | None
    required: bool
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupReport:
    """One group of states; `transition` is the spec's name for its operator ("" where it has none).

    `plan` is PyTorch's; `native` the one with the C kernels of the CPU backend (None on a GPU).
    """

    group: Group
    transition: str
    spectrum: Spectrum
    plan: GroupPlan
    native: GroupPlan | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The analysis of one cell.  A model has no states of its own: `parts` are the reports of the cells it calls.

    `source` is the text of the file that the cell is in; `expressivity` the answers to its claims.
    """

    cell: str
    file: str
    hyperparameters: tuple[tuple[str, int | float | bool], ...]
    states: tuple[StateReport, ...]
    groups: tuple[GroupReport, ...]
    recurrence: Recurrence
    dims: tuple[tuple[str, int], ...] = ()
    parts: tuple[Report, ...] = ()
    ranges: tuple[RangeReport, ...] = ()
    expressivity: tuple[ClaimResult, ...] = ()
    source: str = ""

    def to_json(self) -> dict[str, Any]:
        """The stable contract of `rnnc analyze --json`; what is not proved is "unknown" or null."""
        found: dict[str, Any] = {
            "cell": self.cell,
            "file": self.file,
            "hyperparameters": dict(self.hyperparameters),
            "states": [
                {"name": s.name, "shape": list(s.shape), "dtype": s.dtype, "group": s.group} for s in self.states
            ],
            "groups": [_group_json(g, dict(self.dims)) for g in self.groups],
            "ranges": [_range_json(r) for r in self.ranges],
            "expressivity": [r.to_json() for r in self.expressivity],
        }
        if self.parts:
            found["parts"] = [p.to_json() for p in self.parts]
        return found

    def to_text(self, width: int = 110) -> str:
        """One screen of plain text."""
        from rnnc.analysis.report_text import as_text

        return as_text(self, width)

    def to_html(self) -> str:
        """A self-contained page of the same content."""
        from rnnc.analysis.report_html import page

        return page(self)

    def _repr_html_(self) -> str:
        """What a notebook shows: the page inside a frame, so that neither's style reaches the other."""
        from html import escape

        return f'<iframe srcdoc="{escape(self.to_html())}" width="100%" height="640" style="border:0"></iframe>'

    def __str__(self) -> str:
        return self.to_text()


def analyze(spec: Spec | CellIR, cell: str | None = None, **hyper: Any) -> Report:
    """The report on a cell of a spec (or on a `CellIR`).

    `hyper` are hyperparameters; dims among them give numbers to sizes (and `B`, `T` to the costs).  Raises SpecError as
    `Spec.lower` does.
    """
    given = dict(hyper)
    device = str(given.pop("device", "cpu"))
    if isinstance(spec, CellIR):
        known = {p.name for p in spec.dims} | {"B", "T"}
        sizes = {k: int(v) for k, v in given.items() if k in known}
        return replace(_report(spec, sizes, device), expressivity=_questions(spec, sizes))
    shape = {k: int(given.pop(k)) for k in ("B", "T") if k in given}  # unless the cell has dims of these names
    ir = spec.lower(cell, **given)
    known = {p.name for p in ir.dims}
    if shape.keys() & known:
        given |= {k: n for k, n in shape.items() if k in known}
        ir = spec.lower(cell, **given)
    sizes = shape | {k: int(v) for k, v in given.items() if k in known}
    claims = _claims(spec, cell, given)
    asked = {r.claim for r in claims}
    return replace(
        _report(ir, sizes, device),
        source=spec.sources.get(ir.file, spec.text),
        expressivity=(*claims, *(r for r in _questions(ir, sizes) if r.claim not in asked)),
    )


def _claims(spec: Spec, cell: str | None, given: Mapping[str, Any]) -> tuple[ClaimResult, ...]:
    """What the cell's `expect` blocks claim, answered without a search for weights."""
    from rnnc.verify.engine import verify

    return verify(spec, cell, search=False, **given).results


def _questions(ir: CellIR, sizes: Mapping[str, int]) -> tuple[ClaimResult, ...]:
    """What is asked of every cell, by theorems alone."""
    from rnnc.verify.engine import expressivity

    return tuple(expressivity(ir, {k: v for k, v in sizes.items() if k not in ("B", "T")}))


def _report(ir: CellIR, given: Mapping[str, int], device: str) -> Report:
    from rnnc.analysis.recurrence import analyse_recurrence
    from rnnc.analysis.spectrum import spectrum_of
    from rnnc.plan import plan

    recurrence = analyse_recurrence(ir)
    dims = ir.dim_values(given)
    planned = plan(recurrence, dims, device=device)
    natives = _native_plans(ir, dims) if device == "cpu" and ir.states and ir.inputs else {}
    groups = tuple(
        GroupReport(
            group=p.group,
            transition=_transition_name(ir, p.group),
            spectrum=spectrum_of(recurrence, p.group),
            plan=p,
            native=natives.get(p.group.states),
        )
        for p in planned.groups
    )
    index = {name: g.group.index for g in groups for name in g.group.states}
    return Report(
        cell=ir.name,
        file=ir.file,
        hyperparameters=(
            *((k, v) for k, v in dims.items() if k not in ("B", "T")),
            *((k, _number(v)) for k, v in ir.hyper),
        ),
        states=tuple(_state(ir, s.name, s.node, dims, index[s.name]) for s in ir.states),
        groups=groups,
        recurrence=recurrence,
        dims=tuple(dims.items()),
        parts=tuple(_report(sub, {}, device) for sub in ir.subcells),
        ranges=_declared_ranges(recurrence.cell),
    )


def _native_plans(ir: CellIR, dims: Mapping[str, int]) -> dict[tuple[str, ...], GroupPlan]:
    """What `backend="cpu"` chooses for each group, kernels among the options."""
    from rnnc.backends.cpu.backend import native_plans
    from rnnc.ir.rounding import keep_digits

    return {
        g.group.states: g
        for p in native_plans(keep_digits(ir), dims)
        if p.recurrence.cell.name == ir.name
        for g in p.groups
    }


def _declared_ranges(cell: CellIR) -> tuple[RangeReport, ...]:
    """One row for each declared range, in the order of the source; micro-steps that agree share one."""
    ranges = Ranges.of(cell)
    found = [_range_report(cell, ranges, claim) for claim in cell.ranges]
    return tuple(dict.fromkeys(sorted(found, key=lambda r: r.line)))


def _range_report(cell: CellIR, ranges: Ranges, claim: RangeClaim) -> RangeReport:
    what, proved = "", None
    match claim.domain:
        case Interval():
            proved = ranges.real(claim.node)
        case Disk():
            what, proved = "modulus", ranges.modulus(claim.node)
        case HalfPlane():
            what, proved = "real part", ranges.real_part(claim.node)
        case UnitNorm():
            what = "norm"
        case _:
            assert_never(claim.domain)
    return RangeReport(
        name=cell.nodes[claim.node].name or "(a value without a name)",
        what=what,
        declared=str(claim.domain),
        proved=proved,
        required=claim.required,
        line=claim.span.line if claim.span is not None else 0,
    )


def _state(ir: CellIR, name: str, node: int, dims: Mapping[str, int], group: int) -> StateReport:
    t = ir.nodes[node].type
    return StateReport(name=name, shape=tuple(sized(d, dims) for d in (*t.per, *t.shape)), dtype=t.dtype, group=group)


def _transition_name(ir: CellIR, group: Group) -> str:
    """The named transition that the group's updates use."""
    used = ancestors(ir, [ir.state(n).update for n in group.states])
    return next((name for name, node in ir.transitions if node in used), "")


def sized(d: Dim, dims: Mapping[str, int]) -> int | str:
    """A dimension as a number where it has one, else as text in the names that are open."""
    rest = d.substitute({k: v for k, v in dims.items() if k in d.names})
    known = rest.constant
    return int(known) if known is not None and known.denominator == 1 else str(rest)


# ---------------------------------------------------------------- JSON


def _number(value: Fraction | int | bool | None) -> Any:
    if value is None or isinstance(value, bool):
        return value
    return int(value) if Fraction(value).denominator == 1 else float(value)


def _ends(x: Interval | None) -> list[Any] | None:
    return None if x is None else [_number(x.lo), _number(x.hi)]


def _closed(x: Interval | None) -> list[bool] | None:
    return None if x is None else [x.lo is not None and not x.lo_open, x.hi is not None and not x.hi_open]


def _range_json(r: RangeReport) -> dict[str, Any]:
    return {
        "name": r.name,
        "of": r.what or "value",
        "declared": r.declared,
        "interval": _ends(r.proved),
        "closed": _closed(r.proved),
        "line": r.line,
    }


def _group_json(g: GroupReport, dims: Mapping[str, int]) -> dict[str, Any]:
    group = g.group
    return {
        "states": list(group.states),
        "kind": group.kind,
        "semiring": group.semiring,
        "input_dependent": group.input_dependent,
        "time_invariant": group.transition_static,
        "transition": {"name": g.transition, "structure": group.structure, "rank": group.rank, "field": group.field},
        "jacobian": group.jacobian,
        "spectrum": spectrum_json(g.spectrum),
        "reasons": dict(g.spectrum.reasons),
        "stability": g.spectrum.stability,
        "because": [message for message, _ in group.because],
        "forms": [type(f).__name__ for f in group.forms],
        "strategies": [_option_json(o) for o in g.plan.options],
        "chosen": g.plan.strategy,
        "why": g.plan.chosen.why,
        "priced": g.plan.priced,
        "native": None if g.native is None else _native_json(g.native),
    }


def _native_json(p: GroupPlan) -> dict[str, Any]:
    """What the CPU backend runs: by a kernel or by PyTorch, and what every way is expected to take."""
    return {
        "chosen": p.strategy,
        "kernel": p.chosen.native,
        "why": p.chosen.why,
        "expected": [{"name": o.name, "kernel": o.native, "seconds": o.seconds} for o in p.ranked],
    }


def _option_json(o: Option) -> dict[str, Any]:
    found = {"name": o.name, "legal": o.legal, "depth": o.depth, "flops": o.flops, "bytes": o.bytes, "why": o.why}
    found |= {"memory": o.memory, "safety": o.safety, "remedy": o.remedy, "seconds": o.seconds}
    numbers = {"flops": o.flops_number, "bytes": o.bytes_number, "memory": o.memory_number}
    return found | {f"{name}_number": n for name, n in numbers.items() if n is not None}


PRODUCTS = ("nonnegative", "products_nonnegative", "products_bounded", "commuting", "diagonalisable", "triangular")


def spectrum_json(s: Spectrum) -> dict[str, Any]:
    """`interval`, `modulus`, `norm_bound`: null where nothing is proved; an end of null is infinite."""
    return {
        "real": "unknown" if s.real is None else s.real,
        "interval": _ends(s.interval),
        "closed": _closed(s.interval),
        "modulus": _ends(s.modulus),
        "norm_bound": None if s.norm is None else _number(s.norm.hi),
        "products_real": "unknown" if s.products_real is None else s.products_real,
        **{name: "unknown" if (known := getattr(s, name)) is None else known for name in PRODUCTS},
        "ends": [s.lo_end, s.hi_end],
        "saturation": [{"precision": x.precision, "end": x.end, "tau": x.tau} for x in s.saturation],
        "lipschitz": None if s.lipschitz is None else _number(s.lipschitz.hi),
        "missing": s.missing,
    }

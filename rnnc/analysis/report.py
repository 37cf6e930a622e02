"""The report on a cell: what its recurrence is, what that proves, how it can run and why; as text, JSON and HTML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from rnnc.analysis.forms import Group, Recurrence
from rnnc.analysis.spectrum import Spectrum
from rnnc.ir.dims import Dim
from rnnc.ir.graph import CellIR, ancestors
from rnnc.ir.types import Interval

if TYPE_CHECKING:
    from rnnc.plan import GroupPlan
    from rnnc.spec import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class StateReport:
    """`shape` has the per axes in front; sizes are numbers where the dims are known."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    group: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupReport:
    """One group of states; `transition` is the spec's name for its operator ("" where it has none)."""

    group: Group
    transition: str
    spectrum: Spectrum
    plan: GroupPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The analysis of one cell.  A model has no states of its own: `parts` are the reports of the cells it calls."""

    cell: str
    file: str
    hyperparameters: tuple[tuple[str, int | float | bool], ...]
    states: tuple[StateReport, ...]
    groups: tuple[GroupReport, ...]
    recurrence: Recurrence
    dims: tuple[tuple[str, int], ...] = ()
    parts: tuple[Report, ...] = ()

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
            "expressivity": [],
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
        from rnnc.analysis.report_text import as_html

        return as_html(self)

    def _repr_html_(self) -> str:
        return self.to_html()

    def __str__(self) -> str:
        return self.to_text()


def analyze(spec: Spec | CellIR, cell: str | None = None, **hyper: Any) -> Report:
    """The report on a cell of a spec (or on a `CellIR`).

    `hyper` are hyperparameters; dims among them give numbers to sizes (and `B`, `T` to the costs).  Raises SpecError as
    `Spec.lower` does.
    """
    device = str(hyper.pop("device", "cpu"))
    sizes = {k: int(hyper.pop(k)) for k in ("B", "T") if k in hyper and isinstance(spec, CellIR)}
    if isinstance(spec, CellIR):
        known = {p.name for p in spec.dims}
        return _report(spec, {k: int(v) for k, v in hyper.items() if k in known} | sizes, device)
    ir = spec.lower(cell, **hyper)
    known = {p.name for p in ir.dims}
    return _report(ir, {k: int(v) for k, v in hyper.items() if k in known}, device)


def _report(ir: CellIR, given: Mapping[str, int], device: str) -> Report:
    from rnnc.analysis.recurrence import analyse_recurrence
    from rnnc.analysis.spectrum import spectrum_of
    from rnnc.plan import plan

    recurrence = analyse_recurrence(ir)
    dims = ir.dim_values(given)
    planned = plan(recurrence, dims, device=device)
    groups = tuple(
        GroupReport(
            group=p.group,
            transition=_transition_name(ir, p.group),
            spectrum=spectrum_of(recurrence, p.group),
            plan=p,
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
        "stability": g.spectrum.stability,
        "because": [message for message, _ in group.because],
        "forms": [type(f).__name__ for f in group.forms],
        "strategies": [_option_json(o) for o in g.plan.options],
        "chosen": g.plan.strategy,
        "why": g.plan.chosen.why,
    }


def _option_json(o: Any) -> dict[str, Any]:
    found = {"name": o.name, "legal": o.legal, "depth": o.depth, "flops": o.flops, "bytes": o.bytes, "why": o.why}
    if o.flops_number is not None and o.bytes_number is not None:
        found |= {"flops_number": o.flops_number, "bytes_number": o.bytes_number}
    return found


def spectrum_json(s: Spectrum) -> dict[str, Any]:
    """`interval`, `modulus`, `norm_bound`: null where nothing is proved; an end of null is infinite."""
    return {
        "real": "unknown" if s.real is None else s.real,
        "interval": _ends(s.interval),
        "closed": _closed(s.interval),
        "modulus": _ends(s.modulus),
        "norm_bound": None if s.norm is None else _number(s.norm.hi),
        "products_real": "unknown" if s.products_real is None else s.products_real,
        "missing": s.missing,
    }

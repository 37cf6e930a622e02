"""A report on one screen: text and HTML by rich (loaded when a report is printed)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rnnc.ir.types import Interval

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from rnnc.analysis.report import GroupReport, Report

SEMIRING = {
    "plus_times": "",
    "max_plus": " over (max, +)",
    "min_plus": " over (min, +)",
    "log_plus": " over (logaddexp, +)",
}


def as_text(report: Report, width: int) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False, legacy_windows=False)
    _print(console, report)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def as_html(report: Report) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=120, record=True, force_terminal=True, legacy_windows=False)
    _print(console, report)
    return console.export_html(inline_styles=True)


def _print(console: Console, report: Report) -> None:
    for item in _items(report):
        console.print(item, highlight=False)
    for part in report.parts:
        console.print()
        _print(console, part)


def _items(report: Report) -> Iterator[RenderableType]:
    from rich.text import Text

    settings = ", ".join(f"{k} = {v}" for k, v in report.hyperparameters)
    yield Text.assemble(
        (report.cell, "bold"), f"  {report.file}" if report.file else "", f"   {settings}" if settings else ""
    )
    for s in report.states:
        shape = f"[{', '.join(map(str, s.shape))}]" if s.shape else ""
        yield Text(f"  state {s.name}: {s.dtype}{shape}, group {s.group}")
    if not report.states:
        yield Text("  no state of its own")
    for g in report.groups:
        yield from _group(g)


def _group(g: GroupReport) -> Iterator[RenderableType]:
    from rich.text import Text

    group = g.group
    yield Text()
    yield Text.assemble((f"group {group.index}: {', '.join(group.states)}", "bold"), f"   {_kind(g)}")
    for message, _ in group.because:
        yield Text(f"  because     {message}")
    if group.kind != "nonlinear":
        yield Text(f"  transition  {_transition(g)}")
        yield Text(f"  spectrum    {_spectrum(g)}")
    yield Text(f"  jacobian    {group.jacobian.replace('_', ' ')}")
    yield _strategies(g)
    for line in _illegal(g):
        yield Text(line)
    yield Text.assemble("  chosen      ", (g.plan.strategy, "bold green"), f": {g.plan.chosen.why}")


def _kind(g: GroupReport) -> str:
    group = g.group
    facts = [group.kind + SEMIRING[group.semiring]]
    if group.kind != "nonlinear":
        varies = "depends on the input" if group.input_dependent else "changes with time"
        facts.append("time-invariant" if group.transition_static else f"transition {varies}")
    return ", ".join(facts)


def _transition(g: GroupReport) -> str:
    name = f"{g.transition}: " if g.transition else ""
    rank = f" of rank {g.group.rank}" if g.group.rank is not None else ""
    return f"{name}{g.group.structure.replace('_', ' ')}{rank}, {g.group.field}"


def _spectrum(g: GroupReport) -> str:
    s = g.spectrum
    parts = []
    if s.real and s.interval is not None:
        fixed = s.interval.lo is not None and s.interval.lo == s.interval.hi
        where = f"all {_end(s.interval.lo)}" if fixed else f"real, in {_interval(s.interval)}"
        parts.append(f"eigenvalues {where}")
    elif s.modulus is not None and s.modulus.hi is not None:
        parts.append(f"eigenvalues of modulus in {_interval(s.modulus)}")
    if s.norm is not None and s.norm.hi is not None:
        parts.append(f"norm {'<' if s.norm.hi_open else '<='} {_end(s.norm.hi)}")
    if s.products_real:
        parts.append("products over time real too")
    parts.append(f"stability {s.stability}")
    return "; ".join(parts) + (f" (missing: {s.missing})" if s.missing else "")


def _interval(x: Interval) -> str:
    low = "-inf" if x.lo is None else _end(x.lo)
    high = "inf" if x.hi is None else _end(x.hi)
    left = "(" if x.lo_open or x.lo is None else "["
    right = ")" if x.hi_open or x.hi is None else "]"
    return f"{left}{low}, {high}{right}"


def _end(value: object) -> str:
    text = str(value)
    return text if len(text) <= 9 else f"{float(value):.6g}"  # type: ignore[arg-type]


def _strategies(g: GroupReport) -> RenderableType:
    """The legal strategies, the chosen one marked."""
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(box=SIMPLE, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    for column in ("  strategy", "depth", "FLOPs/token", "bytes/token", "why"):
        table.add_column(column, overflow="fold")
    for o in g.plan.options:
        if o.legal:
            mark = " *" if o.name == g.plan.strategy else "  "
            table.add_row(f"{mark}{o.name}", o.depth, o.flops_per_token, o.bytes_per_token, o.why)
    return table


def _illegal(g: GroupReport) -> Iterator[str]:
    """One line a reason, with the strategies it rules out."""
    reasons: dict[str, list[str]] = {}
    for o in g.plan.options:
        if not o.legal:
            reasons.setdefault(o.why, []).append(o.name)
    for why, names in reasons.items():
        yield f"  no {', '.join(names)}: {why}"

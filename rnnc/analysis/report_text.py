"""A report on one screen: text and HTML by rich (loaded when a report is printed)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rnnc.ir.types import Interval, nearest

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from rnnc.analysis.facts import Spectrum
    from rnnc.analysis.report import GroupReport, Report

SEMIRING = {
    "plus_times": "",
    "max_plus": " over (max, +)",
    "min_plus": " over (min, +)",
    "log_plus": " over (logaddexp, +)",
}
LOOK = {
    "proved": ("proved", "green"),
    "proved_conditional": ("proved under a conjecture", "yellow"),
    "refuted": ("refuted", "red"),
    "unknown": ("unknown", "yellow"),
}


def as_text(report: Report, width: int) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False, legacy_windows=False)
    print_to(console, report)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def print_to(console: Console, report: Report) -> None:
    """In colour where the console has it."""
    for item in _items(report):
        console.print(item, highlight=False)
    for part in report.parts:
        console.print()
        print_to(console, part)


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
    gates = [r for r in report.ranges if r.required and r.proved is not None]
    if gates:
        shown = ", ".join(f"{r.name}{f' ({r.what})' if r.what else ''} in {r.proved}" for r in gates)
        yield Text.assemble("  gates ", shown)
    for g in report.groups:
        yield from _group(g)
    if report.expressivity:
        yield Text()
        yield from _expressivity(report)


def _expressivity(report: Report) -> Iterator[RenderableType]:
    """What is proved possible, proved impossible, and open; each claim of the spec that does not hold with its line."""
    from rich.text import Text

    mine = [r for r in report.expressivity if r.line]
    asked = [r for r in report.expressivity if not r.line]
    if mine:
        counts = {v: sum(r.verdict == v for r in mine) for v in LOOK}
        parts = [(f"{n} {LOOK[v][0]}", LOOK[v][1]) for v, n in counts.items() if n]
        yield Text.assemble(
            "  claims      ", *_separated(parts), "  (`rnnc verify` searches for weights, and says why)"
        )
        for r in mine:
            if r.verdict != "proved":
                name, style = LOOK[r.verdict]
                yield Text.assemble("              ", (name, style), f" line {r.line}: {r.claim}")
    for verdict, label in (("proved", "can"), ("refuted", "cannot"), ("unknown", "open")):
        found = [
            r.claim.removeprefix("recognizes ").removeprefix("tracks group ") for r in asked if r.verdict == verdict
        ]
        if found:
            yield Text.assemble(f"  {label:<12}", (", ".join(found), LOOK[verdict][1]))


def _separated(parts: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for i, part in enumerate(parts):
        if i:
            yield (", ", "")
        yield part


def _group(g: GroupReport) -> Iterator[RenderableType]:
    from rich.text import Text

    group = g.group
    yield Text()
    yield Text.assemble((f"group {group.index}: {', '.join(group.states)}", "bold"), f"   {facts_of_kind(g)}")
    for message, _ in group.because:
        yield Text(f"  because     {message}")
    if group.kind != "nonlinear":
        yield Text(f"  transition  {transition_text(g)}")
        yield Text(f"  spectrum    {spectrum_text(g)}")
    yield Text(f"  jacobian    {group.jacobian.replace('_', ' ')}")
    yield _strategies(g)
    for line in _illegal(g):
        yield Text(line)
    if g.plan.strategy in ("step", "sequential"):  # the page has those of the others too
        for remedy in dict.fromkeys(o.remedy for o in g.plan.options if o.remedy):
            yield Text(f"  to change   {remedy}")
    yield Text.assemble("  chosen      ", (g.plan.strategy, "bold green"), f": {g.plan.chosen.why}")
    yield Text(f"  expected    {expected(g)}")
    if g.native is not None:
        how = "by a C kernel" if g.native.chosen.native else "by PyTorch"
        yield Text.assemble("  on a CPU    ", (g.native.strategy, "bold green"), f" {how}: {g.native.chosen.why}")
    if g.plan.chosen.safety:
        yield Text(f"  safe        {g.plan.chosen.safety}")


def facts_of_kind(g: GroupReport) -> str:
    group = g.group
    facts = [group.kind + SEMIRING[group.semiring]]
    if group.kind != "nonlinear":
        varies = "depends on the input" if group.input_dependent else "changes with time"
        facts.append("time-invariant" if group.transition_static else f"transition {varies}")
    return ", ".join(facts)


def transition_text(g: GroupReport) -> str:
    name = f"{g.transition}: " if g.transition else ""
    rank = f" of rank {g.group.rank}" if g.group.rank is not None else ""
    return f"{name}{g.group.structure.replace('_', ' ')}{rank}, {g.group.field}"


def spectrum_text(g: GroupReport) -> str:
    s = g.spectrum
    parts = [f"eigenvalues {eigenvalues_text(s)}"] if s.real or s.modulus is not None else []
    if s.norm is not None and s.norm.hi is not None:
        parts.append(f"norm {norm_text(s)}")
    if s.products_real:
        parts.append("products over time real too")
    if s.stability == "unknown":
        parts.append(f"stability unknown (missing: {s.why('stability')})")
    else:
        parts.append(f"stability {s.stability}")
    if s.missing and not parts[0].startswith("eigenvalues"):
        parts.append(f"missing: {s.missing}")
    return "; ".join(dict.fromkeys(parts))


def eigenvalues_text(s: Spectrum) -> str:
    """Where the eigenvalues of one transition are proved to be."""
    if s.real and s.interval is not None:
        fixed = s.interval.lo is not None and s.interval.lo == s.interval.hi
        return f"all {_end(s.interval.lo)}" if fixed else f"real, in {_interval(s.interval)}"
    if s.modulus is not None and s.modulus.hi is not None:
        return f"of modulus in {_interval(s.modulus)}"
    return "real" if s.real else "not bounded"


def norm_text(s: Spectrum) -> str:
    if s.norm is None or s.norm.hi is None:
        return "not bounded"
    return f"{'<' if s.norm.hi_open else '<='} {_end(s.norm.hi)}"


def _interval(x: Interval) -> str:
    low = "-inf" if x.lo is None else _end(x.lo)
    high = "inf" if x.hi is None else _end(x.hi)
    left = "(" if x.lo_open or x.lo is None else "["
    right = ")" if x.hi_open or x.hi is None else "]"
    return f"{left}{low}, {high}{right}"


def _end(value: object) -> str:
    text = str(value)
    return text if len(text) <= 9 else f"{nearest(value):.6g}"  # type: ignore[arg-type]


def expected(g: GroupReport) -> str:
    """What the planner ranked by: the estimate of every way to run the group, the fastest first.  Beside those of C
    kernels the others count what a kernel does along with the group.
    """
    options = (g.native or g.plan).ranked
    known = [(o.seconds, o.title) for o in options if o.seconds is not None and o.name != "step"]
    return ", ".join(f"{title} {_time(t)}" for t, title in sorted(known)) + f" {g.plan.priced}"


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


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

"""Reports beside each other: one row a fact, those in which they differ marked; as text, JSON and HTML."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from rnnc.analysis.report_text import LOOK, eigenvalues_text, facts_of_kind, norm_text, transition_text

if TYPE_CHECKING:
    from rich.console import Console

    from rnnc.analysis.report import GroupReport, Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`cells` [reports]: the fact as text, "" where a report has none."""

    label: str
    cells: tuple[str, ...]

    @property
    def differs(self) -> bool:
        return len(set(self.cells)) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`titles` [reports]; rows in the order of a report, in sections."""

    titles: tuple[str, ...]
    sections: tuple[tuple[str, tuple[Row, ...]], ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(row for _, rows in self.sections for row in rows)

    def to_json(self) -> dict[str, Any]:
        sections = [
            {
                "title": title,
                "rows": [{"fact": r.label, "values": list(r.cells), "differs": r.differs} for r in rows],
            }
            for title, rows in self.sections
        ]
        return {"titles": list(self.titles), "sections": sections}

    def to_text(self, width: int = 110) -> str:
        """Plain; `*` marks a difference."""
        from rich.console import Console

        console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False)
        self.print_to(console)
        assert isinstance(console.file, io.StringIO)
        return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())

    def print_to(self, console: Console) -> None:
        from rich.box import SIMPLE
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
        for title in ("", "", *self.titles):
            table.add_column(Text(title), overflow="fold")
        for i, (title, rows) in enumerate(self.sections):
            if title:
                if i:
                    table.add_row()
                table.add_row("", Text(title, style="bold"))
            for row in rows:
                style = "bold yellow" if row.differs else ""
                table.add_row("*" if row.differs else "", row.label, *(Text(c, style=style) for c in row.cells))
        console.print(table, highlight=False)

    def to_html(self) -> str:
        """A self-contained page."""
        from rnnc.analysis.report_html import document

        head = "".join(f"<th>{escape(t)}</th>" for t in ("", *self.titles))
        lines = []
        for title, rows in self.sections:
            if title:
                lines.append(f'<tr><th colspan="{1 + len(self.titles)}"><h3>{escape(title)}</h3></th></tr>')
            for row in rows:
                cells = "".join(f"<td>{escape(c)}</td>" for c in row.cells)
                lines.append(f'<tr class="{"differs" if row.differs else ""}"><th>{escape(row.label)}</th>{cells}</tr>')
        count = sum(row.differs for row in self.rows)
        top = (
            f'<h1>{escape(" and ".join(self.titles))}</h1><p class="soft">{count} of {len(self.rows)} facts differ</p>'
        )
        table = f'<div class="scroll"><table class="compare"><tr>{head}</tr>{"".join(lines)}</table></div>'
        return document(" and ".join(self.titles), top + table)


def compare(titles: Sequence[str], reports: Sequence[Report]) -> Comparison:
    """Groups of states are set beside each other in the order in which they run."""
    flat = [_whole(r) for r in reports]
    sections = [("", _rows([dict(_about(r)) for r in flat]))]
    most = max((len(r.groups) for r in flat), default=0)
    for i in range(most):
        facts = [dict(_group(r.groups[i])) if i < len(r.groups) else {} for r in flat]
        sections.append((f"group {i}" if most > 1 else "recurrence", _rows(facts)))
    sections.append(("declared ranges that are proved", _rows([dict(_gates(r)) for r in flat])))
    sections.append(("what it can do", _rows([dict(_expressivity(r)) for r in flat])))
    return Comparison(titles=tuple(titles), sections=tuple((title, rows) for title, rows in sections if rows))


def _whole(report: Report) -> Report:
    """A model that calls one cell is compared as that cell."""
    return report.parts[0] if not report.groups and len(report.parts) == 1 else report


def _rows(facts: Sequence[dict[str, str]]) -> tuple[Row, ...]:
    labels = dict.fromkeys(label for column in facts for label in column)
    return tuple(Row(label=name, cells=tuple(column.get(name, "") for column in facts)) for name in labels)


def _about(report: Report) -> Iterator[tuple[str, str]]:
    for name, value in report.hyperparameters:
        yield name, str(value)
    yield "groups of states", str(len(report.groups))


def _group(g: GroupReport) -> Iterator[tuple[str, str]]:
    group, s = g.group, g.spectrum
    yield "states", ", ".join(group.states)
    yield "update", facts_of_kind(g)
    if group.kind == "nonlinear":
        yield "because", "; ".join(message for message, _ in group.because)
    else:
        yield "transition", transition_text(g)
        yield "eigenvalues", eigenvalues_text(s)
        yield "norm", norm_text(s)
        yield "products real", _known(s.products_real)
        yield "products nonnegative", _known(s.products_nonnegative)
        yield "transitions commute", _known(s.commuting)
    yield "stability", s.stability
    yield "jacobian", group.jacobian.replace("_", " ")
    yield "legal strategies", ", ".join(o.name for o in g.plan.options if o.legal)
    yield "chosen", f"{g.plan.strategy}, depth {g.plan.chosen.depth}"


def _known(fact: bool | None) -> str:
    return "not proved" if fact is None else "yes" if fact else "no"


def _gates(report: Report) -> Iterator[tuple[str, str]]:
    for r in report.ranges:
        if r.required and r.proved is not None:
            yield f"{r.name}{f' ({r.what})' if r.what else ''}", str(r.proved)


def _expressivity(report: Report) -> Iterator[tuple[str, str]]:
    for r in report.expressivity:
        if r.claim.startswith(("recognizes ", "tracks ")):
            yield r.claim, LOOK[r.verdict][0]

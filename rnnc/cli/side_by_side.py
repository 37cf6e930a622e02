"""Two reports beside each other: which facts of a recurrence two settings differ in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

# entries of a group that are lists of sentences or details, for which the whole report is the place
LONG = ("states", "strategies", "because", "forms", "why")


def facts(report: Mapping[str, Any]) -> dict[str, str]:
    """The facts of an `analyze --json` report, as label -> text, in the report's order."""
    found: dict[str, str] = {}
    several = len(report["groups"]) > 1
    for group in report["groups"]:
        prefix = f"{', '.join(group['states'])}: " if several else ""
        _collect(found, prefix, {k: v for k, v in group.items() if k not in LONG})
    for claim in report.get("expressivity", ()):
        found[str(claim["claim"])] = str(claim["verdict"]).replace("_", " ")
    return found


def _collect(found: dict[str, str], prefix: str, entries: Mapping[str, Any]) -> None:
    for key, value in entries.items():
        label = prefix + str(key).replace("_", " ")
        match value:
            case None:
                continue
            case _ if key == "missing":
                continue
            case Mapping():
                inner = dict(value)
                if "interval" in inner:  # the ends and whether they belong to it are one fact
                    found[f"{label} interval"] = _interval(inner.pop("interval"), inner.pop("closed", None))
                _collect(found, label + " ", inner)
            case bool():
                found[label] = "yes" if value else "no"
            case list() | tuple():
                found[label] = (" to " if key == "modulus" else ", ").join(map(str, value))
            case _:
                found[label] = str(value).replace("_", " ")


def _interval(ends: Sequence[object] | None, closed: Sequence[bool] | None) -> str:
    if ends is None:
        return "unknown"
    low, high = ("-inf" if ends[0] is None else ends[0]), ("inf" if ends[1] is None else ends[1])
    left, right = closed or (True, True)
    return f"{'[' if left else '('}{low}, {high}{']' if right else ')'}"


def compare(labels: Sequence[str], reports: Sequence[Mapping[str, Any]]) -> str:
    """A table with one column a report; rows in which they differ are marked and coloured."""
    columns = [facts(report) for report in reports]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [(name, [column.get(name, "") for column in columns]) for name in names]
    first = max(len(name) for name in names)
    widths = [max(len(label), *(len(cells[i]) for _, cells in rows)) for i, label in enumerate(labels)]
    lines = ["    " + "  ".join([" " * first, *(f"{label:{w}}" for label, w in zip(labels, widths))]).rstrip()]
    for name, cells in rows:
        differs = len(set(cells)) > 1
        line = ("  * " if differs else "    ") + "  ".join(
            [f"{name:{first}}", *(f"{cell:{w}}" for cell, w in zip(cells, widths))]
        )
        lines.append(click.style(line.rstrip(), bold=True) if differs else line.rstrip())
    return "\n".join(lines)

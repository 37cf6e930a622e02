"""Printing: diagnostics with colours on a terminal, plain text otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import click

from rnnc.diagnostics import Diagnostic, render

_HEAD = re.compile(r"^(error|warning)(\[E\d+\])(: .*)$")
_UNDERLINE = re.compile(r"^( +\| +)(\^+)(.*)$")


def coloured(text: str) -> str:
    """The plain form of one diagnostic with ANSI colours: `error[E0203]: ... --> ^^^^ = help:`."""
    lines = []
    for line in text.split("\n"):
        if head := _HEAD.match(line):
            severity, code, message = head.groups()
            colour = "red" if severity == "error" else "yellow"
            lines.append(click.style(severity + code, fg=colour, bold=True) + click.style(message, bold=True))
        elif under := _UNDERLINE.match(line):
            bar, carets, label = under.groups()
            lines.append(click.style(bar, fg="blue") + click.style(carets + label, fg="red", bold=True))
        elif line.lstrip().startswith("-->"):
            lines.append(click.style(line, fg="blue"))
        elif line.lstrip().startswith(("= help:", "= note:")):
            lines.append(click.style(line, fg="cyan"))
        else:
            lines.append(line)
    return "\n".join(lines)


def print_diagnostics(diagnostics: Iterable[Diagnostic], sources: Mapping[str, str]) -> None:
    """To stderr, in the order given, a blank line after each; click drops the colours where there is no terminal."""
    for diagnostic in diagnostics:
        click.echo(coloured(render(diagnostic, dict(sources))), err=True)
        click.echo(err=True)


def diagnostic_json(diagnostic: Diagnostic) -> dict[str, object]:
    """One diagnostic as plain data; positions are 1-based, `null` where the diagnostic has no place."""
    span = diagnostic.span
    return {
        "code": diagnostic.code,
        "severity": diagnostic.severity,
        "message": diagnostic.message,
        "file": span.file if span else None,
        "line": span.line if span else None,
        "column": span.column if span else None,
        "end_line": span.end_line if span else None,
        "end_column": span.end_column if span else None,
        "label": diagnostic.label,
        "help": diagnostic.help,
        "notes": list(diagnostic.notes),
    }


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"

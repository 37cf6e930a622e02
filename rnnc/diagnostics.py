"""Diagnostics: what a user sees when a spec is wrong.

A user's mistake is a `Diagnostic` with a `Span`; passes collect them in a `Diagnostics` bag and only the command line
prints.  `assert` is for the compiler's own bugs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Span:
    """A half-open range of characters in one source text; lines and columns are 1-based."""

    file: str
    start: int
    end: int
    line: int
    column: int
    end_line: int
    end_column: int

    def to(self, other: Span) -> Span:
        """The smallest span that covers `self` and `other` (same file)."""
        first, last = (self, other) if self.start <= other.start else (other, self)
        if last.end < first.end:
            last = first
        return Span(first.file, first.start, last.end, first.line, first.column, last.end_line, last.end_column)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """One error or warning: `code` indexes the pages of `rnnc explain`."""

    code: str
    message: str
    span: Span | None
    label: str = ""
    help: str = ""
    notes: tuple[str, ...] = ()
    severity: Severity = "error"


class SpecError(Exception):
    """Raised by the Python API when a spec has errors; `diagnostics` holds all of them in source order."""

    def __init__(self, diagnostics: tuple[Diagnostic, ...], sources: dict[str, str] | None = None) -> None:
        self.diagnostics = diagnostics
        self.sources = sources or {}
        super().__init__(diagnostics, self.sources)  # args must mirror the signature so that the error pickles

    def __str__(self) -> str:
        return "\n\n".join(render(d, self.sources) for d in self.diagnostics)


@dataclass(slots=True)
class Diagnostics:
    """A bag that passes add to.  Equal diagnostics are kept once."""

    items: list[Diagnostic] = field(default_factory=list)

    def error(
        self,
        code: str,
        message: str,
        span: Span | None,
        *,
        label: str = "",
        help: str = "",
        notes: tuple[str, ...] = (),
    ) -> None:
        self.add(Diagnostic(code=code, message=message, span=span, label=label, help=help, notes=notes))

    def add(self, diagnostic: Diagnostic) -> None:
        if diagnostic not in self.items:
            self.items.append(diagnostic)

    @property
    def has_errors(self) -> bool:
        return any(d.severity == "error" for d in self.items)

    def sorted(self) -> tuple[Diagnostic, ...]:
        def key(d: Diagnostic) -> tuple[str, int, str]:
            return (d.span.file, d.span.start, d.code) if d.span else ("", -1, d.code)

        return tuple(sorted(self.items, key=key))


LONGEST_LINE = 160


def _clip(source: str, column: int, stop: int) -> tuple[str, int, int]:
    """A long source line cut down to the part around columns [column, stop), and these columns in what is left."""
    if len(source) <= LONGEST_LINE:
        return source, column, stop
    first = max(0, column - 1 - LONGEST_LINE // 4)
    window = source[first : first + LONGEST_LINE]
    before, after = "... " if first else "", " ..." if first + LONGEST_LINE < len(source) else ""
    moved = len(before) - first
    return before + window + after, column + moved, min(stop + moved, len(before) + len(window) + 1)


def render(diagnostic: Diagnostic, sources: dict[str, str]) -> str:
    """The plain-text form of a diagnostic, with the source line underlined (`sources`: file name -> text)."""
    d = diagnostic
    lines = [f"{d.severity}[{d.code}]: {d.message}"]
    if d.span is not None:
        s = d.span
        number = str(s.line)
        pad = " " * len(number)
        lines.append(f"{pad}--> {s}")
        text = sources.get(s.file)
        source_lines = text.split("\n") if text is not None else []
        if 0 < s.line <= len(source_lines):
            source = source_lines[s.line - 1].rstrip("\r").replace("\t", " ")
            stop = s.end_column if s.end_line == s.line else len(source) + 1
            shown, column, stop = _clip(source, s.column, min(stop, len(source) + 2))
            carets = "^" * max(1, stop - column)
            lines += [f"{pad} |", f"{number} | {shown}", f"{pad} | {' ' * (column - 1)}{carets} {d.label}".rstrip()]
        pad_help = pad
    else:
        pad_help = " "
    lines += [f"{pad_help} = note: {note}" for note in d.notes]
    if d.help:
        lines.append(f"{pad_help} = help: {d.help}")
    return "\n".join(lines)

"""A verification on one screen: one line a claim, its reason under it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rnnc.verify.results import ClaimResult

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from rnnc.verify.engine import Verification

LOOK = {
    "proved": ("proved", "bold green"),
    "proved_conditional": ("proved under a conjecture", "bold yellow"),
    "refuted": ("refuted", "bold red"),
    "unknown": ("unknown", "bold yellow"),
}
INDENT = 11


def as_text(verification: Verification, width: int) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False, legacy_windows=False)
    print_to(console, verification)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def print_to(console: Console, verification: Verification) -> None:
    for item in _lines(verification):
        console.print(item, highlight=False)


def _lines(v: Verification) -> Iterator[RenderableType]:
    from rich.text import Text

    for cell in v.cells:
        given = ", ".join(f"{k} = {x}" for k, x in cell.hyper.items())
        yield Text.assemble((cell.cell, "bold"), f"  {v.file}" if v.file else "", f"   {given}" if given else "")
        if not cell.results:
            yield Text("  no claims: write them in an `expect { }` block")
        for r in cell.results:
            yield from claim_lines(r)
    if len(v.results) > 1:
        yield Text(_summary(v.results))


def claim_lines(r: ClaimResult) -> Iterator[RenderableType]:
    """The verdict and the claim; below, why."""
    from rich.padding import Padding
    from rich.text import Text

    word, style = LOOK[r.verdict]
    yield Text.assemble(
        "  ", (f"{word:<8}", style), f" {r.claim}", (f"  ({r.precision})" if _has_model(r) else "", "dim")
    )
    yield Padding(Text(r.reason), (0, 0, 0, INDENT))


def _has_model(r: ClaimResult) -> bool:
    """Whether the precision model says something of the claim: structural ones are about exact real arithmetic."""
    return r.precision != "exact" or "recognizes" in r.claim or "tracks" in r.claim


def _summary(results: tuple[ClaimResult, ...]) -> str:
    counts = {word: sum(r.verdict == verdict for r in results) for verdict, (word, _) in LOOK.items()}
    return f"{len(results)} claims: " + ", ".join(f"{n} {word}" for word, n in counts.items() if n)

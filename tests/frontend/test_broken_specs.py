"""Specs with several errors each: every one is reported, with its code, line and column, and nothing else is.

In broken/*.rnn a comment `#   ^ E0203` stands below the line with the error, its caret below the column where it is;
where that is not possible, `# LINE:COLUMN CODE` says it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import rnnc
from rnnc.diagnostics import SpecError, render
from rnnc.spec import parse

FOLDER = Path(__file__).parent / "broken"


def expected_errors(text: str) -> list[tuple[int, int, str]]:
    expected: list[tuple[int, int, str]] = []
    source_line = 0
    for number, line in enumerate(text.split("\n"), 1):
        if not line.startswith("#"):
            source_line = number
        if found := re.fullmatch(r"#( *)\^ (E\d{4})", line):
            expected.append((source_line, len(found[1]) + 2, found[2]))
        elif found := re.fullmatch(r"# (\d+):(\d+) (E\d{4})", line):
            expected.append((int(found[1]), int(found[2]), found[3]))
    return sorted(expected)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.rnn")), ids=lambda p: p.stem)
def test_all_errors_and_no_others(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    expected = expected_errors(text)
    assert len(expected) >= 3
    spec = parse(text, path.name)
    found = spec.check().items
    shown = "\n\n".join(render(d, spec.sources) for d in found)
    assert sorted((d.span.line, d.span.column, d.code) for d in found if d.span) == expected, shown


def test_claims_are_read_wherever_a_cell_is_lowered() -> None:
    """Python reaches a cell without `Spec.check`: a claim about nothing is an error there too."""
    spec = parse(
        "cell A(d: dim) { input x: real[d]; state h: real[d] = 0; h <- x; output y = h'; expect { linear in g } }"
    )
    for use in (spec.lower, lambda: rnnc.analyze(spec), lambda: rnnc.verify(spec)):
        with pytest.raises(SpecError, match="`g` is unknown"):
            use()

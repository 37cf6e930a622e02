"""The language reference says what the compiler does: its specs are right, and it leaves nothing out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rnnc.diagnostics import render
from rnnc.frontend import build, build_statements, hyper, lowering, maps, modules, outline, tokens  # noqa: F401
from rnnc.frontend.calls import FUNCTIONS
from rnnc.frontend.codes import pages
from rnnc.frontend.lalr import table
from rnnc.frontend.params import DISTRIBUTIONS
from rnnc.spec import parse

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SPECS = [
    pytest.param(block, id=f"{document.name}:{text[: match.start()].count(chr(10)) + 1}")
    for document in DOCUMENTS
    if document.exists()
    for text in [document.read_text(encoding="utf-8")]
    for match in re.finditer(r"^```rnn\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for block in [match[1]]
]


@pytest.mark.parametrize("text", SPECS)
def test_specs_in_the_documents_check_and_lower(text: str) -> None:
    spec = parse(text, "block")
    found = spec.check()
    assert not found.items, "\n".join(render(d, {"block": text}) for d in found.items)
    for name in spec.cells:
        assert spec.lower(name).outputs


def test_there_are_whole_specs() -> None:
    assert len(SPECS) >= 10


def test_every_function_is_documented() -> None:
    assert [name for name in FUNCTIONS if not re.search(rf"`{name}[(`]", REFERENCE)] == []


def test_every_initial_distribution_is_documented() -> None:
    assert [name for name in DISTRIBUTIONS if not re.search(rf"`{name}[(`]", REFERENCE)] == []


def test_every_keyword_is_documented() -> None:
    words = [word for word in table().literals if word.isidentifier()]
    assert len(words) > 40
    assert [word for word in words if not re.search(rf"\b{word}\b", REFERENCE)] == []


def test_every_code_is_documented() -> None:
    ranges = {"E06", "E07"}  # named as wholes
    assert [code for code in pages() if code[:3] not in ranges and code not in REFERENCE] == []
    assert all(f"{r}xx" in REFERENCE for r in ranges)


def test_bounds_are_the_real_ones() -> None:
    bounds = REFERENCE[REFERENCE.index("## Bounds") : REFERENCE.index("## Diagnostics")]
    real = [
        tokens.MAX_CHARACTERS,
        tokens.MAX_TOKENS,
        tokens.MAX_DIGITS,
        tokens.MAX_EXPONENT,
        build.MAX_DEPTH,
        outline.MAX_BRACKETS,
        outline.MAX_BLOCKS,
        lowering.MAX_UNROLL,
        lowering.MAX_NODES,
        modules.MAX_FILES,
        modules.MAX_TOTAL,
    ]
    assert [n for n in real if not re.search(rf"(?<![\d,]){n:,}(?!\d|,\d)", bounds)] == []


def test_reserved_words_are_the_real_ones() -> None:
    line = next(line for line in REFERENCE.split("\n") if line.startswith("`if else"))
    assert set(line.split("`")[1].split()) == set(tokens.RESERVED)


def test_links_lead_to_headings() -> None:
    anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", REFERENCE, re.M)}
    assert set(re.findall(r"\]\(#([\w-]+)\)", REFERENCE)) <= anchors

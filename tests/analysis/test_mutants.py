"""Cells with a few tokens exchanged: each is refused with a diagnostic, or analysed and compiled by every backend.

A mutant that still lowers is a cell nobody had in mind: an unused state, a gate that reads another input, a decay that
became a norm.  No pass may take for granted that cells make sense.
"""

from __future__ import annotations

import random

import pytest

import rnnc
from rnnc.diagnostics import Diagnostics, SpecError
from rnnc.frontend.modules import stdlib_folder
from rnnc.frontend.tokens import Lexer

SPECS = sorted(stdlib_folder().glob("*.rnn"))
OPERATORS = ("+", "-", "*", "/", "@")


def _spans(text: str) -> list[tuple[int, int]]:
    lexer = Lexer(text, "f", Diagnostics())
    lexer.run()
    return [(t.start, t.end) for t in lexer.tokens if t.end > t.start]


def _kind(token: str) -> str:
    return (
        "word"
        if token[0].isalpha()
        else "number"
        if token[0].isdigit()
        else "operator"
        if token in OPERATORS
        else token
    )


def _mutant(text: str, rng: random.Random) -> str:
    """The text with one or two tokens left out, or replaced by others of their kind (a name by a name) in the file."""
    spans = _spans(text)
    edits: dict[tuple[int, int], str] = {}
    for _ in range(rng.choice((1, 2))):
        span = rng.choice([s for s in spans if _kind(text[slice(*s)]) in ("word", "number", "operator")])
        kind = _kind(text[slice(*span)])
        others = [text[slice(*s)] for s in spans if _kind(text[slice(*s)]) == kind]
        edits[span] = rng.choice((*OPERATORS,) if kind == "operator" else others) if rng.random() < 0.9 else ""
    for (start, end), new in sorted(edits.items(), reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _survives(text: str) -> bool:
    """Whether the text is a spec; every cell of it is then reported on and compiled."""
    try:
        spec = rnnc.parse(text)
        for cell in spec.cells:
            str(rnnc.analyze(spec, cell))
            for backend in ("torch", "cpu"):
                rnnc.compile(spec, cell, backend=backend)
    except SpecError:
        return False
    return True


def _sweep(seed: int, count: int) -> int:
    rng = random.Random(seed)
    texts = [p.read_text(encoding="utf-8") for p in SPECS]
    return sum(_survives(_mutant(rng.choice(texts), rng)) for _ in range(count))


def test_mutants_are_refused_or_compiled() -> None:
    assert _sweep(seed=1, count=60) > 3


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 10))
def test_many_mutants_are_refused_or_compiled(seed: int) -> None:
    assert _sweep(seed, count=1000) > 50

"""Thousands of broken specs: a diagnostic with a place for each mistake, never a crash or a hang."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from syntax_samples import valid_texts

from rnnc.diagnostics import SpecError, render
from rnnc.frontend.format import format_source
from rnnc.frontend.parse import parse_text
from rnnc.frontend.tokens import Lexer
from rnnc.spec import parse

TEXTS = valid_texts()
PIECES = [*"{}()[]:;=,.'\"\\#@^+-*/<>|~$?\0\t\r\n é∈η0", "\n", "<-", "->", "..", "''", "if", "else", "in", "not", "and"]
PIECES += [
    "product j in 1..3 {",
    "cell X(d: dim) {",
    "expect {",
    "per heads {",
    "let",
    "state",
    "S'",
    "1e",
    "1e999",
    "}}}",
]
PIECES += [
    "linear(x)",
    "substep j in 1..2 {",
    "repeat",
    "as",
    "from",
    "over",
    "start",
    "real",
    "token[V]",
    "I",
    "T",
    "(" * 99,
]


def pieces(text: str) -> list[str]:
    """The tokens of a text and the white space and comments between them."""
    from rnnc.diagnostics import Diagnostics

    lexer = Lexer(text, "f", Diagnostics())
    lexer.run()
    found, end = [], 0
    for token in lexer.tokens:
        found += [text[end : token.start], text[token.start : token.end]]
        end = token.end
    return [p for p in found if p]


SPLIT = {name: pieces(text) for name, text in TEXTS.items()}


@st.composite
def mutated(draw: st.DrawFn) -> str:
    parts = list(SPLIT[draw(st.sampled_from(sorted(SPLIT)))])
    for _ in range(draw(st.integers(1, 4))):
        i = draw(st.integers(0, len(parts) - 1))
        j = draw(st.integers(0, len(parts) - 1))
        match draw(st.sampled_from(["delete", "duplicate", "swap", "replace", "insert", "cut", "copy"])):
            case "delete":
                parts[i] = ""
            case "duplicate":
                parts[i] *= 2
            case "swap":
                parts[i], parts[j] = parts[j], parts[i]
            case "replace":
                parts[i] = draw(st.sampled_from(PIECES))
            case "insert":
                parts[i] += draw(st.sampled_from(PIECES) | st.characters())
            case "cut":
                parts = parts[: max(i, 1)]
            case "copy":
                parts[i:i] = parts[j : j + 12]
    return "".join(parts)


def seconds_to_parse(text: str) -> float:
    began = time.perf_counter()
    module, diagnostics = parse_text(text, "f")
    spent = time.perf_counter() - began
    assert module is not None
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for d in diagnostics.items:
        assert d.span is not None
        assert 1 <= d.span.line <= len(lines)
        assert 1 <= d.span.column <= len(lines[d.span.line - 1]) + 1
        assert render(d, {"f": text})
    return spent


@settings(max_examples=1500)
@given(mutated())
def test_mutated_specs_are_parsed_or_diagnosed(text: str) -> None:
    assert seconds_to_parse(text) < 2


@settings(max_examples=300)
@given(mutated())
def test_mutated_specs_are_checked_or_diagnosed(text: str) -> None:
    spec = parse(text, "f")
    for d in spec.check().items:
        assert d.code.startswith("E")
        assert render(d, spec.sources)


@settings(max_examples=300)
@given(mutated())
def test_mutated_specs_are_formatted_or_refused(text: str) -> None:
    if parse_text(text, "f")[1].has_errors:
        with pytest.raises(SpecError):
            format_source(text, "f")
    else:
        formatted = format_source(text, "f")
        assert format_source(formatted, "f") == formatted


@settings(max_examples=300)
@given(st.text(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=40).map(" ".join))
def test_any_text_is_diagnosed(text: str) -> None:
    assert seconds_to_parse(text) < 2

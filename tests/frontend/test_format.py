"""The formatter: canonical, idempotent, and it changes neither the tree nor a comment."""

from __future__ import annotations

import pytest
from syntax_samples import EVERYTHING, valid_texts

from rnnc.diagnostics import Diagnostics, SpecError
from rnnc.frontend.format import format_source
from rnnc.frontend.parse import parse_text
from rnnc.frontend.tokens import Lexer


@pytest.mark.parametrize("name", list(valid_texts()))
def test_formatting_keeps_tree_and_comments_and_is_idempotent(name: str) -> None:
    text = valid_texts()[name]
    formatted = format_source(text, name)
    before, after = parse_text(text, name)[0], parse_text(formatted, name)[0]
    assert before is not None
    assert after is not None
    assert before == after
    assert [c for _, c in before.comments] == [c for _, c in after.comments]
    assert format_source(formatted, name) == formatted


def test_formatting_does_not_depend_on_white_space() -> None:
    lexer = Lexer(EVERYTHING, "f", Diagnostics())
    lexer.run()
    spellings = [EVERYTHING[t.start : t.end] for t in lexer.tokens]
    starts = {c.start: c.text for c in lexer.comments}
    pieces = sorted([(t.start, s) for t, s in zip(lexer.tokens, spellings)] + list(starts.items()))
    spaced = "  ".join(piece for _, piece in pieces)
    assert spaced != EVERYTHING
    assert format_source(spaced, "f") == format_source(EVERYTHING, "f")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("floor+(1-floor)*x", "floor + (1 - floor) * x"),
        ("-(a)+-(b)", "-(a) + -(b)"),
        ("f (x)[ 0 ]", "f(x)[0]"),
        ("(a)-b", "(a) - b"),
        ("[a ,b][ 0 ]-1", "[a, b][0] - 1"),
        ("a^-(b)if not(c)else(d)", "a^-(b) if not (c) else (d)"),
        ("product j in 1 .. (n) {(j)}@ M . T", "product j in 1..(n) { (j) } @ M.T"),
    ],
)
def test_spaces(line: str, expected: str) -> None:
    assert format_source(f"fn f(x: real) {{\n{line}\n}}", "f").split("\n")[1] == "  " + expected


def test_canonical_layout() -> None:
    messy = """

use std.gates {a,b}
cell   Z ( d :dim=2 ) { # zz
  # lead
     input x:real[ d ,2 * d ] ;  let a=-x [ 0 : 2 ]+ - b ^ -2 *(-c) # trail



  if (a) {}  else{ let q=(not a)and -1<=x if [1,2][0]else(3)
  # last
  }
  }
# end"""
    assert (
        format_source(messy, "f")
        == """\
use std.gates { a, b }

cell Z(d: dim = 2) {  # zz
  # lead
  input x: real[d, 2*d]
  let a = -x[0:2] + -b^-2 * (-c)  # trail

  if (a) {} else {
    let q = (not a) and -1 <= x if [1, 2][0] else (3)
    # last
  }
}
# end
"""
    )


def test_text_with_errors_is_left_alone() -> None:
    with pytest.raises(SpecError) as caught:
        format_source("cell A() {\n  let a = \n  let b = )\n}\n", "f")
    assert [d.code for d in caught.value.diagnostics] == ["E0102", "E0103"]
    assert "f" in caught.value.sources


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment", "\ufeffcell A() {}\r\n"])
def test_small_texts(text: str) -> None:
    formatted = format_source(text, "f")
    assert formatted == format_source(formatted, "f")
    assert "\r" not in formatted

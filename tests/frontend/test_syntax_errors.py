"""Every syntax error of a file at once, each with its exact place, and none that only follows from another."""

from __future__ import annotations

from pathlib import Path

import pytest
from syntax_samples import EVERYTHING, valid_texts

from rnnc.diagnostics import render
from rnnc.frontend import ast
from rnnc.frontend.parse import parse_text
from rnnc.frontend.source import read_source
from rnnc.spec import parse

Found = tuple[int, int, str]


def errors(text: str) -> list[Found]:
    _, diagnostics = parse_text(text, "f")
    found = [(d.span.line, d.span.column, d.code) for d in diagnostics.sorted() if d.span is not None]
    assert len(found) == len(diagnostics.items)
    return found


def check_error(source: str, line: int, column: int, code: str) -> None:
    """`source` has exactly one error, at this place."""
    _, diagnostics = parse_text(source, "f")
    shown = "\n".join(render(d, {"f": source}) for d in diagnostics.sorted())
    assert errors(source) == [(line, column, code)], shown


STATEMENTS = [
    ("let a = ", 8, "E0102"),
    ("let a = x y", 11, "E0102"),
    ("let a x", 7, "E0102"),
    ("let = 3", 5, "E0102"),
    ("let in = 3", 5, "E0102"),
    ("let a = b +", 12, "E0102"),
    ("let a = * b", 9, "E0102"),
    ("let a = x ** 2", 12, "E0102"),
    ("let a = x // 2", 12, "E0102"),
    ("let a = if x", 9, "E0102"),
    ("let a = x if y", 15, "E0102"),
    ("let a = f(x,, y)", 13, "E0102"),
    ("let a = f(x", 10, "E0103"),
    ("let a = f(x))", 13, "E0103"),
    ("let a = f(x]", 12, "E0103"),
    ("let a = [0, 1", 9, "E0103"),
    ("let a = (f(x)", 9, "E0103"),
    ("let a = x ? y", 11, "E0101"),
    ("let a = x $$ y", 11, "E0101"),
    ("let a = é", 9, "E0101"),
    ("let a = S''", 9, "E0101"),
    ("let a = 2x", 9, "E0102"),
    ("let a = 1_000", 9, "E0102"),
    ("let a = 3.", 11, "E0102"),
    ("let a = .5", 9, "E0102"),
    ('let a = "abc', 9, "E0104"),
    ('let a = "abc"', 9, "E0102"),
    ("let a: reel = 1", 8, "E0105"),
    ("let a: dim = 1", 8, "E0105"),
    ("let a: real[] = 1", 13, "E0102"),
    ("let a: real == 1", 13, "E0105"),
    ("let a: real in {0} = 1", 16, "E0102"),
    ("let a = M.transpose", 11, "E0107"),
    ("let a = 3(x)", 9, "E0107"),
    ("let a = S'(x)", 9, "E0107"),
    ("let a = f(x = 1, x = 2)", 18, "E0107"),
    ("let a = f(x = 1, y)", 18, "E0107"),
    ("let a = linear[0:2](x)", 16, "E0107"),
    ("let a = product j in 1..n ( j )", 32, "E0102"),
    ("S' <- 1", 1, "E0102"),
    ("S <- <- 1", 6, "E0102"),
    ("S: real <- 1", 1, "E0108"),
    ("S = 1", 3, "E0108"),
    ("ouput y = 1", 1, "E0108"),
    ("3", 1, "E0108"),
    ("linear in S", 1, "E0108"),
    ("input x", 8, "E0102"),
    ("input x: real = 3", 15, "E0102"),
    ("state S: real", 14, "E0102"),
    ("param W = 3", 9, "E0102"),
    ("per heads", 10, "E0103"),
    ("per heads, d { }", 10, "E0102"),
    ("substep j in 1 { }", 16, "E0102"),
    ("repeat n as h { }", 15, "E0102"),
    ("else { }", 1, "E0108"),
    ("if a { } else b { }", 15, "E0102"),
    ("if a { } else { } else { }", 19, "E0108"),
    ("if a = b { }", 6, "E0102"),
    ("expect n { }", 8, "E0102"),
    ("expect { linear S }", 17, "E0102"),
    ("expect { parallel by magic }", 22, "E0107"),
    ("expect { stable under exactly }", 23, "E0107"),
    ("expect { stable with layers = 0 }", 31, "E0107"),
    ("expect { stable under exact under exact }", 10, "E0107"),
    ("expect { let a = 3 }", 10, "E0102"),
    ("expect { recognizes x[0] }", 21, "E0107"),
    ("pr heads {\nlet a = 1\n}", 1, "E0108"),
    ("let a = 1e301", 9, "E0313"),
    ("let a = 1e-99999999999", 9, "E0313"),
    ("let a = " + "9" * 5000, 9, "E0313"),
]


@pytest.mark.parametrize(("text", "column", "code"), STATEMENTS)
def test_one_error_in_a_statement(text: str, column: int, code: str) -> None:
    """The statement stands between two right ones, which stay in the tree."""
    source = f"cell A() {{\nlet first = 1\n{text}\nlet last = 2\n}}\ncell B() {{}}\n"
    line = next(i for i, s in enumerate(text.split("\n")) if len(s) + 1 >= column) + 3
    check_error(source, line, column, code)
    module, _ = parse_text(source, "f")
    assert module is not None
    cell, other = module.items
    assert isinstance(cell, ast.CellDecl)
    assert [s.name for s in cell.body if isinstance(s, ast.LetDecl)] == ["first", "last"]
    assert isinstance(other, ast.CellDecl)


ITEMS = [
    ("cell (d: dim) { let a = 1 }", 1, 6, "E0102"),
    ("cell A(d dim) { let a = 1 }", 1, 10, "E0102"),
    ("cell A(d: dimension) { }", 1, 11, "E0105"),
    ("cell A(d: dim { let a = 1 }", 1, 7, "E0103"),
    ("cel A(d: dim) { let a = 1 }", 1, 1, "E0108"),
    ("let a = 1", 1, 1, "E0108"),
    ("use std.gates", 1, 14, "E0102"),
    ("use { a }", 1, 5, "E0102"),
    ("use std.gates { a b }", 1, 19, "E0102"),
    ("fn f(x: real) { let y = x }", 1, 15, "E0109"),
    ("fn f(x: real) { x\n x }", 1, 17, "E0108"),
    ("fn f(x: real) { state S: real = 0\n x }", 1, 17, "E0108"),
    ("fn f(x) { x }", 1, 7, "E0102"),
    ("automaton A over {0, 0} { start a }", 1, 22, "E0202"),
    ("automaton A over {0} { a: 0 -> a }", 1, 22, "E0109"),
    ("automaton A over {0} { start a; start b }", 1, 39, "E0109"),
    ("automaton A over {0} { start a; a 0 -> a }", 1, 35, "E0102"),
    ("automaton A {\nstart a }", 1, 13, "E0102"),
    ('language L = regex "a"', 1, 12, "E0102"),
    ("language L over {a} = regex", 1, 28, "E0102"),
    ("task T { length 3 }", 1, 17, "E0102"),
]


@pytest.mark.parametrize(("text", "line", "column", "code"), ITEMS)
def test_one_error_in_an_item(text: str, line: int, column: int, code: str) -> None:
    check_error(f"{text}\ncell Z() {{\n}}\n", line, column, code)


def test_a_missing_brace_of_an_inner_block_is_found_by_indentation() -> None:
    source = """\
cell A(d: dim) {
  input x: real[d]
  per heads {
    let q = linear(x)
  state S: real[d] = 0
  S <- S +* x
  output y: real[d = S'
}
cell B() {
  let b = )
}
"""
    assert errors(source) == [(3, 13, "E0103"), (6, 11, "E0102"), (7, 17, "E0103"), (10, 11, "E0103")]
    module, _ = parse_text(source, "f")
    assert module is not None
    cell = module.items[0]
    assert isinstance(cell, ast.CellDecl)
    assert [type(s).__name__ for s in cell.body] == ["InputDecl", "Per", "StateDecl"]


def test_a_missing_brace_of_a_cell_ends_at_the_next_item() -> None:
    check_error("cell A() {\n  let a = 1\n\ncell B() {\n  let b = 1\n}\n", 1, 10, "E0103")
    check_error("cell A() {\nlet a = 1\nper n {\nlet b = 1\n}\ncell B() {\nlet b = 1\n}\n", 1, 10, "E0103")
    check_error("cell A() {\n  let a = 1\n", 1, 10, "E0103")


def test_a_missing_opening_brace() -> None:
    check_error("cell A()\n  let a = 1\n}\ncell B() {}\n", 1, 9, "E0103")
    check_error("cell A() {\n  per heads\n    let a = 1\n  }\n  let b = 1\n}\n", 2, 12, "E0103")


@pytest.mark.parametrize("brace", "{}")
def test_any_one_missing_brace_gives_few_errors_and_hides_no_other(brace: str) -> None:
    """In specs of the standard library: the missing brace, at most two errors that follow, and the last cell's own."""
    counts = []
    for name, text in valid_texts().items():
        if name == "everything":
            continue
        broken = text + "\ncell Last() {\n  let a = )\n}\n"
        for i, c in enumerate(text):
            if c == brace and "#" not in text[text.rfind("\n", 0, i) + 1 : i]:
                found = errors(broken[:i] + broken[i + 1 :])
                assert found[-1][1:] == (11, "E0103")
                counts.append(len(found) - 1)
    assert len(counts) > 50
    assert max(counts) <= 3
    assert counts.count(1) > 0.85 * len(counts)


def test_a_surplus_brace() -> None:
    source = "cell A() {\n  per h {\n    let a = 1\n  }\n  }\n  let b = 1\n}\ncell B() {}\n"
    check_error(source, 5, 3, "E0103")
    module, _ = parse_text(source, "f")
    assert module is not None
    assert [type(s).__name__ for s in module.items[0].body] == ["Per", "LetDecl"]  # type: ignore[union-attr]
    check_error("cell A() {\n  let a = 1\n}\n}\ncell B() {}\n", 4, 1, "E0103")


def test_an_unclosed_bracket_does_not_swallow_the_next_statements() -> None:
    source = (
        "cell A() {\n  let a = f(x,\n    y\n  let b = (1\n  S <- [\n  expect {\n    norm(A <= 1\n    stable\n  }\n}\n"
    )
    assert errors(source) == [(2, 12, "E0103"), (4, 11, "E0103"), (5, 8, "E0103"), (7, 9, "E0103")]


def test_names_in_a_block_with_a_broken_head_are_remembered() -> None:
    block = "  per 2 {\n    let k = x\n    if true { state h: real = 0; h <- k }\n  }\n"
    found = parse(f"cell A() {{\n  input x: real\n{block}  output y = k + h\n}}\n").check().sorted()
    assert [(d.code, d.span.line) for d in found if d.span] == [("E0102", 3)]


def test_names_of_broken_statements_are_remembered() -> None:
    module, _ = parse_text("use a. { p }\ncell A( {\n let q = \n r <- )\n}\nfn f(x) { x }\nlet t = 1", "f")
    assert module is not None
    assert {"p", "A", "q", "r", "f", "t"} <= module.broken_names


def test_many_errors_in_one_file() -> None:
    edits = [
        ("leaky(x: real[n], eps", "leaky(x real[n], eps", "real[n], eps", "E0102"),
        ("real in (0, 2) =", "real in (0, 2 =", "(0, 2 =", "E0103"),
        ("rmsnorm(S'.T", "rms norm(S'.T", "norm(S'.T", "E0102"),
        ("Parity over {", "Parity {", "{0, 1} {", "E0102"),
        ("even, 1 -> odd\n  odd", "even 1 -> odd\n  odd", "1 -> odd\n  odd", "E0102"),
        ("regex", "regexp", '"(a[', "E0102"),
        ("length = 40", "length = 40)", ");", "E0103"),
    ]
    source = EVERYTHING
    for old, new, _, _ in edits:
        assert source.count(old) == 1
        source = source.replace(old, new)
    expected = []
    for _, _, place, code in edits:
        before = source[: source.index(place)]
        expected.append((before.count("\n") + 1, len(before) - before.rfind("\n"), code))
    assert errors(source) == expected


def test_nesting_is_bounded_not_the_stack() -> None:
    check_error("cell A() { let a = " + "(" * 5000 + "1" + ")" * 5000 + " }", 1, 120, "E0312")
    assert [e[2] for e in errors("cell A() { let a = " + "+".join(["x"] * 5000) + " }")] == ["E0312"]
    assert [e[2] for e in errors("cell A() { let a = " + "-" * 5000 + "x }")] == ["E0312"]
    assert [e[2] for e in errors("cell A() { let a = " + "not " * 5000 + "x }")] == ["E0312"]
    assert [e[2] for e in errors("cell A() { let a = " + "x^" * 5000 + "x }")] == ["E0312"]
    assert [e[2] for e in errors("cell A() { let a = " + "x if y else " * 5000 + "x }")] == ["E0312"]
    assert [e[2] for e in errors("cell A() { let a = " + "x < " * 5000 + "x }")] == ["E0312"]
    assert [e[2] for e in errors("cell A() { let a = x" + ".T" * 5000 + " }")] == ["E0312"]
    assert [e[2] for e in errors("cell A() { let a = f" + "(x)" * 5000 + " }")] == ["E0312"]
    assert [e[2] for e in errors("cell A() {" + "per h {" * 3000 + "}" * 3001)] == ["E0312"]
    assert [e[2] for e in errors("cell A() {" + "if a { } else " * 3000 + "{ } }")] == ["E0312"]
    assert errors("cell A() { let a = " + "+".join(["x"] * 100) + " }") == []
    assert errors("cell A() { let a = " + "(" * 90 + "1" + ")" * 90 + " }") == []


def test_sizes_are_bounded() -> None:
    module, diagnostics = parse_text("#" * 2_000_000, "f")
    assert module is None
    assert [d.code for d in diagnostics.items] == ["E0310"]
    module, diagnostics = parse_text("x " * 250_000, "f")
    assert module is None
    assert [d.code for d in diagnostics.items] == ["E0311"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    def code(name: str) -> str:
        text, diagnostics = read_source(tmp_path / name)
        assert text is None
        return diagnostics.items[0].code

    (tmp_path / "latin.rnn").write_bytes("cell Caf\u00e9() {}".encode("latin-1"))
    (tmp_path / "folder.rnn").mkdir()
    assert [code(n) for n in ("none.rnn", "folder.rnn", "latin.rnn", "a\0b")] == ["E0401", "E0401", "E0106", "E0401"]
    (tmp_path / "good.rnn").write_bytes(b"\xef\xbb\xbfcell A() {\r\n}")
    text, diagnostics = read_source(tmp_path / "good.rnn")
    assert (text, diagnostics.items) == ("\ufeffcell A() {\n}", [])


def test_a_nul_byte_is_an_error_with_a_place() -> None:
    check_error("cell A() {\n  let a = 1\0\n}", 2, 12, "E0101")


@pytest.mark.parametrize("position", [0, 100, 5000])
def test_a_long_line_is_shown_in_part(position: int) -> None:
    source = "cell A() { let a = [" + "1, " * position + "$$$, " + "2, " * (5000 - position) + "3] }"
    _, diagnostics = parse_text(source, "f")
    lines = render(diagnostics.items[0], {"f": source}).split("\n")
    assert all(len(line) < 200 for line in lines)
    at = lines[-1].index("^")
    assert lines[-2][at : at + 3] == "$$$"
    assert lines[-1].count("^") == 1


def test_the_shown_form() -> None:
    source = "cell A() {\n  let a = x ** 2\n}\n"
    _, diagnostics = parse_text(source, "a.rnn")
    assert render(diagnostics.items[0], {"a.rnn": source}) == (
        "error[E0102]: unexpected `*`: an expression is expected\n"
        " --> a.rnn:2:14\n"
        "  |\n"
        "2 |   let a = x ** 2\n"
        "  |              ^\n"
        "  = help: a power is written `^`"
    )


def test_habits_of_other_languages_are_one_error_each() -> None:
    """A loop hides no name that it declares, and a call through a module is one mistake."""
    text = """cell A(d: dim) {
  input x: float[d]
  for h in heads {
    let q = linear[d](x)
  }
  let o = np.outer(q, q)
  expect { lineer in h }
  output y = q
}"""
    _, found = parse_text(text, "a.rnn")
    assert [(d.code, d.span.line if d.span else 0) for d in found.sorted()] == [
        ("E0105", 2),
        ("E0108", 3),
        ("E0107", 6),
        ("E0102", 7),
    ]
    helps = [d.help for d in found.sorted()]
    assert helps[0] == "real numbers are `real`"
    assert "`per heads { }`" in helps[1]
    assert "`outer(...)`" in helps[2]
    assert helps[3] == "did you mean `linear`?"


CLAIMS = {
    "eigenvalues in [-1, 1]": "this claim is written `eigenvalues(A) in [-1, 1]` or `eigenvalues(A) real`",
    "norm <= 1": "this claim is written `norm(A) <= 1`",
    "not tracks S(3)": "this claim is written `tracks group S(3)`",
    "recognizes mod 3": "this claim is written `recognizes parity` or `recognizes mod(3)`",
    "recognises parity": "did you mean `recognizes`?",
    "time invariant": "did you mean `time_invariant`?",
    "parity": "a claim begins with linear, affine,",
    "frobnicate s": "a claim begins with linear, affine,",
    "not": "a claim begins with linear, affine,",
    "stable under": "for example `under finite_precision`",
    "stable with layers = two": "for example `with layers = 2`",
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_that_is_none_is_shown_its_form(claim: str) -> None:
    _, diagnostics = parse_text(f"cell A() {{\n  expect {{\n    {claim}\n    linear in S\n  }}\n}}", "f")
    (found,) = diagnostics.items
    assert found.code == "E0102"
    assert CLAIMS[claim] in found.help


HEADS = {
    "cell A(d: dim, n: dim = 4 {": [("E0103", 1)],
    "cell A(d: dim, n dim) {": [("E0102", 1)],
    "cell A(d: dim = , n: real) {": [("E0102", 1)],
    "cell A(d: dim n: dim) {": [("E0102", 1)],
    "cell A d: dim, n: dim) {": [("E0103", 1)],
    "model A(d: dim, n: dim]": [("E0103", 1)],
}


@pytest.mark.parametrize("head", HEADS)
def test_the_body_of_a_cell_with_a_broken_head_is_checked(head: str) -> None:
    from rnnc.spec import parse

    text = f"{head} {'' if head.endswith('{') else '{'}\n  input x: real[d]\n  let a = x + oops\n  output y = a\n}}"
    found = [(d.code, d.span.line) for d in parse(text).check().items if d.span]
    assert found == [*HEADS[head], ("E0201", 3)]

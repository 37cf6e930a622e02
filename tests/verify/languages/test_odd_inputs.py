"""Languages as a user may write them: empty ones, one letter, huge automata, expressions that explode."""

from __future__ import annotations

import re
import time
from itertools import product as words_of

import pytest

import rnnc
from rnnc.verify.engine import verify
from rnnc.verify.languages.builtin import BUILDERS

CELL = """
cell C(d: dim) {{
  input x: real[d]
  gate a: real[d] in (0, 1) = sigmoid(linear(x))
  state h: real[d] = 0
  h <- a * h + linear(x)
  output y: real[d] = h'
  expect {{ {claims} }}
}}
"""


def answers(declaration: str, *claims: str) -> list[str]:
    """Verdicts, or the codes of what is wrong; in any case soon."""
    begun = time.monotonic()
    spec = rnnc.parse(declaration + CELL.format(claims="; ".join(claims)))
    wrong = [d.code for d in spec.check().items]
    found = wrong or [r.verdict for r in verify(spec, search=False).results]
    assert time.monotonic() - begun < 10
    return found


def row(states: int, letters: int) -> str:
    names = [f"a{i}" for i in range(letters)]
    lines = [
        f"  s{q}: " + ", ".join(f"{a} -> s{(q * i + 1) % states}" for i, a in enumerate(names)) for q in range(states)
    ]
    return f"automaton P over {{{', '.join(names)}}} {{\n  start s0\n" + "\n".join(lines) + "\n  accept s0\n}\n"


@pytest.mark.parametrize(
    ("declaration", "expected"),
    [
        ('language L over {a} = regex ""', "unknown"),
        ('language L over {a, b} = regex "()"', "unknown"),
        ('language A over {a, b} = regex "a"\nlanguage L over {a, b} = A and not A', "unknown"),
        ('language A over {a, b} = regex "a"\nlanguage L over {a, b} = A or not A', "unknown"),
        ("automaton L over {a} { start s; s: a -> s }", "unknown"),
        ("automaton L over {a} { start s; s: a -> s; t: a -> t; accept t }", "unknown"),  # never reached
        ('language L over {a} = regex "(aaa)*"', "refuted"),
        ('language L over {a} = regex "a(aa)*|aa"', "refuted"),
        ('language L over {a, b} = regex "((((a*)*)*)*)*b"', "unknown"),
        (row(1000, 1).replace("automaton P", "automaton L"), "unknown"),
        (row(200, 60).replace("automaton P", "automaton L"), "refuted"),
    ],
)
def test_what_a_nonnegative_diagonal_says(declaration: str, expected: str) -> None:
    declaration += "\n"
    assert answers(declaration, "recognizes L") == [expected]
    negated = {"unknown": "unknown", "refuted": "proved"}[expected]
    assert answers(declaration, "not recognizes L") == [negated]


def test_expressions_that_explode_are_bounded() -> None:
    """(a|b)* a (a|b)^n has 2^(n+1) states."""
    for n in (6, 11, 18, 100):
        pattern = "(a|b)*a" + "(a|b)" * n
        spec = rnnc.parse(f'language L over {{a, b}} = regex "{pattern}"' + CELL.format(claims="recognizes L"))
        (result,) = verify(spec, search=False).results
        assert result.verdict == "unknown"
        if n >= 18:
            assert "too large" in result.reason


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(" * 300 + "a" + ")" * 300, "nested"),
        ("a|" * 3000 + "b", "more than"),
        ("a||b", "empty"),
        ("*", "nothing before"),
        ("a{3}", "no letter"),
        ("a&b", "no letter"),
        ("c", "no letter"),
    ],
)
def test_what_is_no_expression_is_said(pattern: str, said: str) -> None:
    spec = rnnc.parse(f'language L over {{a, b}} = regex "{pattern}"' + CELL.format(claims="recognizes L"))
    (found,) = [d for d in spec.check().items if d.code != "E0501"]
    assert found.code == "E0502"
    assert said in found.message


@pytest.mark.parametrize(
    "claim",
    [
        *("recognizes mod(1)", "recognizes mod(-3)", "recognizes mod(2.5)", "recognizes mod(1001)", "recognizes mod"),
        *("recognizes dyck(2, 30)", "recognizes dyck(0)", "recognizes parity(2)", "recognizes nothing"),
        *("tracks group Z(0)", "tracks group S(13)", "tracks group A(1)", "tracks group generated([[0, 0]])"),
        *("tracks group Q(8)", "tracks group 3", "tracks group generated()", "tracks parity"),
    ],
)
def test_what_is_no_language_or_group_is_a_diagnostic(claim: str) -> None:
    found = answers("", claim)
    assert found
    assert all(code.startswith("E0") for code in found)


def test_large_groups_are_answered_and_shown_short() -> None:
    claims = ("S(12)", "Z(1000) * Z(1000)", "A(9)", "D(500)", "S(3) * S(3) * S(3)", "generated([[0, 1, 2]], [[0, 1]])")
    spec = rnnc.parse(CELL.format(claims="; ".join(f"not tracks group {g}" for g in claims)))
    for result in verify(spec, search=False).results:
        assert result.verdict == "proved"
        assert len(result.reason) < 200


# ---------------------------------------------------------------- built-in languages, by their definitions


def _nested(word: tuple[str, ...], depth: int) -> bool:
    text, most = "".join(word), 0
    for k in range(len(text) + 1):
        most = max(most, sum(1 if c in "([" else -1 for c in text[:k]))
    while text != (shorter := text.replace("()", "").replace("[]", "")):
        text = shorter
    return not text and most <= depth


DEFINED = {
    ("parity",): lambda w: w.count("1") % 2 == 1,
    ("mod", 3): lambda w: w.count("1") % 3 == 0,
    ("mod", 4): lambda w: w.count("1") % 4 == 0,
    ("unary_mod", 5): lambda w: len(w) % 5 == 0,
    ("flip_flop",): lambda w: (["reset", *(a for a in w if a != "hold")])[-1] == "set",
    ("alternating",): lambda w: re.fullmatch("(ab)*", "".join(w)) is not None,
    ("dyck", 1, 2): lambda w: _nested(w, 2),
    ("dyck", 2, 3): lambda w: _nested(w, 3),
}


@pytest.mark.parametrize("key", DEFINED, ids=str)
def test_builtin_languages_are_what_they_are_called(key: tuple[str | int, ...]) -> None:
    dfa = BUILDERS[str(key[0])](*key[1:])
    longest = {1: 12, 2: 10, 3: 7, 4: 6}[len(dfa.alphabet)]
    for length in range(longest + 1):
        for word in words_of(dfa.alphabet, repeat=length):
            assert dfa.accepts(word) == DEFINED[key](word), word

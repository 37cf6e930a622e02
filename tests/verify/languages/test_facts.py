"""Known facts of known languages and groups."""

from __future__ import annotations

import math
import re
from itertools import product as words_of
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnc.diagnostics import SpecError
from rnnc.frontend import ast
from rnnc.frontend.languages import LANGUAGES, dyck_states
from rnnc.frontend.patterns import PatternError, read_pattern
from rnnc.groups import compose, group
from rnnc.spec import parse
from rnnc.verify.languages import GroupTask, Language, TooLarge, group_of, language_of
from rnnc.verify.languages.builtin import BUILDERS, arithmetic, left_arithmetic
from rnnc.verify.languages.dfa import equivalent, minimise, rename
from rnnc.verify.languages.groups import few_generators, group_facts
from rnnc.verify.languages.regex import regex_dfa

CELL = "cell C(d: dim) {{ input x: real[d]; state h: real[d] = 0; h <- 0.5 * h + x; output y = h'; expect {{ {} }} }}"


def claimed(claim: str, declarations: str = "") -> tuple[Any, ast.Expr]:
    """A spec with one claim, and what the claim names."""
    spec = parse(declarations + "\n" + CELL.format(claim))
    assert spec.check().items == []
    assert spec.tree is not None
    cell = next(i for i in spec.tree.items if isinstance(i, ast.CellDecl))
    block = next(s for s in cell.body if isinstance(s, ast.Expect))
    return spec, block.claims[0].args[0]


def named(text: str, declarations: str = "") -> Language:
    return language_of(*claimed(f"recognizes {text}", declarations))


def task(text: str) -> GroupTask:
    return group_of(claimed(f"tracks group {text}")[1])


# language -> states, order of the monoid, periods of its elements, letters' periods, name of the group or None
LANGUAGE_TABLE: dict[str, tuple[int, int, set[int], set[int], str | None]] = {
    "parity": (2, 2, {1, 2}, {1, 2}, "Z(2)"),
    "mod(3)": (3, 3, {1, 3}, {1, 3}, "Z(3)"),
    "mod(4)": (4, 4, {1, 2, 4}, {1, 4}, "Z(4)"),
    "unary_mod(6)": (6, 6, {1, 2, 3, 6}, {6}, "Z(6)"),
    "flip_flop": (2, 3, {1}, {1}, None),
    "alternating": (3, 6, {1}, {1}, None),
    "dyck(1, 2)": (4, 15, {1}, {1}, None),
    "dyck(2, 3)": (16, 285, {1}, {1}, None),
    "arithmetic(5)": (51, 518, {1, 2, 4, 5}, {1}, None),
    "left_arithmetic(5)": (19, 518, {1, 2, 4, 5}, {1}, None),
}


@pytest.mark.parametrize("text", LANGUAGE_TABLE)
def test_languages(text: str) -> None:
    states, order, periods, letters, name = LANGUAGE_TABLE[text]
    found = named(text)
    assert found.name == text
    assert found.dfa is not None
    facts = found.facts
    assert facts is not None
    assert (facts.states, facts.monoid_order) == (states, order)
    assert facts.monoid_periods == periods
    assert set(facts.letter_periods.values()) == letters
    assert facts.star_free is (periods == {1})
    assert found.kind == ("group" if name else "regular")
    assert (facts.group.name if facts.group else None) == name
    assert facts.solvable is True
    assert len(minimise(found.dfa).states) == states


def test_every_builtin_has_an_automaton_and_the_letters_it_is_said_to_have() -> None:
    assert set(BUILDERS) == set(LANGUAGES)
    for name, builtin in LANGUAGES.items():
        args = [2 for _ in builtin.ranges]
        assert BUILDERS[name](*args).alphabet == builtin.letters(*args)


def test_flip_flop_is_made_of_resets_and_an_identity() -> None:
    facts = named("flip_flop").facts
    assert facts is not None
    assert {a: (f.resets, f.identity) for a, f in facts.letters.items()} == {
        "set": (True, False),
        "reset": (True, False),
        "hold": (False, True),
    }
    assert facts.permutation_reset
    assert not facts.commutative


def evaluate(word: tuple[str, ...], m: int, flat: bool) -> bool:
    """Whether a word is a term of value 0 modulo m, by Python's own arithmetic."""
    if len(word) % 2 == 0 or any(c.isdigit() == bool(i % 2) for i, c in enumerate(word)):
        return False
    text = word[0]
    for op, digit in zip(word[1::2], word[2::2]):
        text = f"({text}){op}{digit}" if flat else f"{text}{op}{digit}"
    return int(eval(text)) % m == 0


def test_arithmetic_is_arithmetic() -> None:
    for m, longest in ((2, 6), (3, 5)):
        precedence, flat = arithmetic(m), left_arithmetic(m)
        for n in range(1, longest + 1):
            for word in words_of(precedence.alphabet, repeat=n):
                assert precedence.accepts(word) == evaluate(word, m, flat=False)
                assert flat.accepts(word) == evaluate(word, m, flat=True)
    for word in ("2+3*4-4", "4*4*4-4", "1-3*2", "0-4*4+1", "3*2+1*3+1"):
        assert arithmetic(5).accepts(word) == evaluate(tuple(word), 5, flat=False)
        assert left_arithmetic(5).accepts(word) == evaluate(tuple(word), 5, flat=True)


def test_trap_10_arithmetic_with_precedence_is_no_five_state_automaton() -> None:
    """51 states: 25 pairs (sum, product), each before and after a digit, and one for errors; periods 1, 2, 4, 5."""
    assert len(arithmetic(5).states) == 51
    facts = named("arithmetic(5)").facts
    assert facts is not None
    assert facts.states == 51
    assert facts.monoid_periods == {1, 2, 4, 5}
    assert facts.star_free is False
    assert facts.subgroups is not None
    assert {g.name for g in facts.subgroups} == {"Z(4)", "Z(5)"}  # products by a digit, sums of terms


def test_bounded_brackets() -> None:
    for k, depth in ((1, 3), (2, 2), (3, 2), (5, 1)):
        assert len(BUILDERS["dyck"](k, depth).states) == dyck_states(k, depth)
    two = BUILDERS["dyck"](2, 2)
    assert two.accepts("([])()")
    assert not two.accepts("([)]")
    assert not two.accepts("([()])")
    assert BUILDERS["dyck"](6, 1).accepts(["(5", ")5", "(4", ")4", "<", ">"])


def test_unbounded_brackets_have_no_automaton() -> None:
    found = named("dyck(2)")
    assert (found.kind, found.dfa, found.facts, found.alphabet) == ("context_free", None, None, ("(", ")", "[", "]"))
    assert "no finite number of states" in found.why_not_regular


# ---------------------------------------------------------------- groups

# group -> order, abelian, nilpotent, derived length (None: not solvable), degree
GROUP_TABLE: dict[str, tuple[int, bool, bool, int | None, int]] = {
    "Z(2)": (2, True, True, 1, 2),
    "Z(6)": (6, True, True, 1, 6),
    "S(3)": (6, False, False, 2, 3),
    "S(4)": (24, False, False, 3, 4),
    "S(5)": (120, False, False, None, 5),
    "S(12)": (math.factorial(12), False, False, None, 12),
    "A(3)": (3, True, True, 1, 3),
    "A(4)": (12, False, False, 2, 4),
    "A(5)": (60, False, False, None, 5),
    "D(4)": (8, False, True, 2, 4),
    "D(5)": (10, False, False, 2, 5),
    "S(3) * Z(2)": (12, False, False, 2, 5),
    "Z(2) * Z(2)": (4, True, True, 1, 4),
    "generated([[0, 1, 2], [3, 4]])": (6, True, True, 1, 5),
    "generated([[0, 1, 2, 3, 4]], [[0, 1, 2]])": (60, False, False, None, 5),
}


@pytest.mark.parametrize("text", GROUP_TABLE)
def test_groups(text: str) -> None:
    order, abelian, nilpotent, length, degree = GROUP_TABLE[text]
    found = task(text)
    facts = found.facts
    assert found.name == text
    assert (facts.order, facts.abelian, facts.nilpotent, facts.derived_length) == (order, abelian, nilpotent, length)
    assert facts.solvable is (length is not None)
    assert found.degree == degree
    if order <= 120:
        assert len(found.dfa.states) == order
        assert len(minimise(found.dfa).states) == order


NAMES = {
    "z1": "Z(1)", "z12": "Z(12)", "z2xz2": "Z(2) * Z(2)", "z6xz4": "Z(12) * Z(2)", "s2": "Z(2)", "s3": "S(3)",
    "d3": "S(3)",
    "s4": "S(4)", "s5": "S(5)", "a4": "A(4)", "a5": "A(5)", "d4": "D(4)", "d5": "D(5)", "d12": "D(12)", "q8": "Q8",
    "z2xs3": "D(6)", "z3xs3": "", "z2xa4": "", "z2xa5": "", "z2xd4": "", "z2xq8": "",
}  # fmt: skip


@pytest.mark.parametrize("text", NAMES)
def test_names_do_not_depend_on_how_a_group_acts(text: str) -> None:
    """Each group acts on itself here, by multiplication."""
    table = group(text).table
    regular = [tuple(int(x) for x in row) for row in table]
    facts = group_facts(few_generators(regular))
    assert facts.name == NAMES[text]
    assert facts.order == len(regular)
    assert facts.shown == NAMES[text] or facts.shown == f"a group of order {len(regular)}"


def test_a_group_is_tracked_newest_on_the_left() -> None:
    found = task("S(3)")
    letters = dict(found.letters)
    assert len(letters) == 6
    for word in words_of(letters, repeat=2):
        state = found.dfa.run(word)
        assert found.dfa.states[state] == next(
            n for n, p in letters.items() if p == compose(letters[word[1]], letters[word[0]])
        )


def test_letters_of_a_group() -> None:
    assert [name for name, _ in task("S(4, letters = swaps)").letters] == [
        "(0 1)",
        "(0 2)",
        "(0 3)",
        "(1 2)",
        "(1 3)",
        "(2 3)",
    ]
    assert [name for name, _ in task("D(4, letters = generators)").letters] == ["(0 1 2 3)", "(1 3)"]
    assert task("S(5, letters = swaps)").most_moved == 2
    assert task("S(5)").most_moved == 5
    assert task("A(5)").most_moved == 5
    assert len(task("generated([[0, 1, 2]], [[0, 1]])").letters) == 2
    assert len(task("generated([[0, 1, 2]], [[0, 1]], letters = all)").letters) == 6
    assert len(task("S(7, letters = swaps)").dfa.states) == 5040


def test_a_word_problem_beyond_the_bounds() -> None:
    found = task("S(9)")
    assert found.facts.solvable is False
    with pytest.raises(TooLarge, match="too many to be letters"):
        _ = found.dfa
    with pytest.raises(TooLarge, match="more than 50000 elements"):
        _ = task("S(11, letters = generators)").dfa


# ---------------------------------------------------------------- declarations

DECLARED = """
automaton Parity over {0, 1} {
  start even
  even: 0 -> even, 1 -> odd
  odd: 0 -> odd, 1 -> even
  accept odd
}
language Ends over {a, b} = regex "([ab]*a)?"
language Same over {a, b} = regex "(a[ab]*a|b[ab]*b|a|b)?"
language Odd over {b, a} = Parity
language Swapped over {b, a} = Ends
language Stack over {push, pop} = regex "(push pop)*"
language Turns over {r, s} = group D(4)
language Mixed over {a, b} = not (Ends or mod(3)) and Odd
language Open over {a, b} = dyck(1)
"""


def test_declared_automaton() -> None:
    found = named("Parity", DECLARED)
    assert found.dfa is not None
    assert equivalent(found.dfa, BUILDERS["parity"]())
    assert found.dfa.states == ("even", "odd")


def test_letters_keep_their_names_or_are_taken_in_order() -> None:
    odd, swapped = named("Odd", DECLARED).dfa, named("Swapped", DECLARED).dfa
    assert odd is not None
    assert swapped is not None
    assert odd.accepts("ba") and not odd.accepts("bb")  # noqa: PT018
    assert swapped.alphabet == ("b", "a")
    assert swapped.accepts("ba") and not swapped.accepts("ab")  # noqa: PT018


def test_boolean_combination() -> None:
    found = named("Mixed", DECLARED).dfa
    assert found is not None
    for n in range(1, 7):
        for word in words_of("ab", repeat=n):
            ones = word.count("b")
            odd = word.count("a") % 2 == 1  # Odd calls 0 `b` and 1 `a`, and keeps these names
            assert found.accepts(word) == (not (word[-1] == "a" or ones % 3 == 0) and odd), word


def test_words_as_letters_groups_and_the_empty_word() -> None:
    stack, same = named("Stack", DECLARED), named("Same", DECLARED)
    assert stack.dfa is not None
    assert equivalent(rename(stack.dfa, ("a", "b")), BUILDERS["alternating"]())
    turns = named("Turns", DECLARED)
    assert turns.kind == "group"
    assert turns.facts is not None
    assert turns.facts.group is not None
    assert turns.facts.group.name == "D(4)"
    assert same.facts is not None
    assert same.facts.star_free
    assert same.facts.states == 5


def test_what_is_not_regular_joins_nothing() -> None:
    assert named("Open", DECLARED).kind == "context_free"
    spec, expr = claimed("recognizes (Open and Ends)", DECLARED)
    with pytest.raises(SpecError, match=r"E0502.*`Open` is not regular"):
        language_of(spec, expr)


def test_a_language_too_large_is_reported() -> None:
    late = 'language Late over {a, b} = regex "[ab]*a' + "[ab]" * 20 + '"'
    spec, expr = claimed("recognizes Late", late)
    with pytest.raises(SpecError, match=r"E0504.*more than 20000 states"):
        language_of(spec, expr)


def test_languages_made_of_many_others() -> None:
    """Each is worked out once, though it is named twice in the next; a hundred is the bound."""
    lines = ["language L0 over {0, 1} = mod(3)"]
    lines += [f"language L{i} over {{0, 1}} = L{i - 1} and (L{i - 1} or parity)" for i in range(1, 80)]
    found = named("L79", chr(10).join(lines)).dfa
    assert found is not None
    assert equivalent(found, BUILDERS["mod"](3))
    chain = [f"language L{i} over {{0, 1}} = L{i + 1}" for i in range(150)]
    problems = parse(chr(10).join([*chain, "language L150 over {0, 1} = parity"])).check().items
    assert {d.code for d in problems} == {"E0304"}
    assert len(problems) == 51  # `parity` counts too


def test_a_product_too_large_is_reported() -> None:
    spec, expr = claimed("recognizes (mod(997) and mod(991))")
    with pytest.raises(SpecError, match=r"E0504.*more than 20000 states"):
        language_of(spec, expr)


PATTERNS = {
    "a*b": ["b", "ab", "aab"],
    "(a|b)+": ["a", "b", "ab", "bb"],
    "a (b a)*": ["a", "aba"],
    "[ab][ab]": ["aa", "ab", "ba", "bb"],
    "a?()b": ["b", "ab"],
    "(a|()|bb)b": ["b", "ab", "bbb"],
    "": [],
    "a*?+b": ["b", "ab", "aab"],
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_regular_expressions_agree_with_the_standard_module(pattern: str) -> None:
    compiled = re.compile(pattern.replace(" ", "").replace("*?+", "*").replace("?()", "?"))
    dfa = regex_dfa(pattern, ("a", "b"))
    for n in range(8):
        for letters in words_of("ab", repeat=n):
            assert dfa.accepts(letters) == bool(compiled.fullmatch("".join(letters))), letters
    assert all(dfa.accepts(w) for w in PATTERNS[pattern])


WRONG = {
    'language L over {a, b} = regex "a|"': ("E0502", "an alternative is empty"),
    'language L over {a, b} = regex "(a|)b"': ("E0502", "an alternative is empty"),
    'language L over {a, b} = regex "*a"': ("E0502", "nothing before `*`"),
    'language L over {a, b} = regex "(a"': ("E0502", "a `(` is not closed"),
    'language L over {a, b} = regex "a)"': ("E0502", "closes nothing"),
    'language L over {a, b} = regex "[a"': ("E0502", "a class `[` is not closed"),
    'language L over {a, b} = regex "[]a"': ("E0502", "an empty class"),
    'language L over {a, b} = regex "[a*]"': ("E0502", "stands inside a class"),
    'language L over {a, b} = regex "a.b{2}"': ("E0502", "`.`, `2`, `{`, `}` in the expression is no letter"),
    'language L over {go, stop} = regex "gostop"': ("E0502", "`gostop` in the expression is no letter"),
    "language L over {a, b} = L": ("E0206", "defined by itself"),
    "language L over {a, b} = not M\nlanguage M over {a, b} = L": ("E0206", "defined by itself"),
    "language L over {a, b, c} = mod(3)": ("E0502", "`L` has 3 letters, and this language 2"),
    "language L over {a} = mod(1)": ("E0501", "this language is written `mod(m)`"),
    "language L over {a} = 3": ("E0501", "name a language"),
    "language L over {a, b} = group Z(5)": ("E0502", "this group has 1 generator,"),
    "language L over {a} = group Q(8)": ("E0501", "not a known group"),
    "language L over {a} = group generated([0, 1])": ("E0501", "a list of cycles"),
    "language L over {a} = group generated([[0, 1], [1, 2]])": ("E0501", "a list of cycles"),
    "language L over {a} = group D(4, letters = swaps)": ("E0501", "no option of the group"),
    "language L over {a, b} = dyck(3, 9)": ("E0304", "more than 1000 states"),
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_said(text: str) -> None:
    code, message = WRONG[text]
    found = parse(text).check().items
    assert found
    assert {d.code for d in found} == {code}
    assert any(message in d.message for d in found), [d.message for d in found]


def test_checking_a_spec_imports_neither_the_automata_library_nor_sympy() -> None:
    import subprocess
    import sys

    text = "from rnnc.spec import parse; import sys; parse('language L over {a} = regex \"a*\"').check();"
    test = "print([m for m in ('automata', 'sympy', 'numpy', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", text + test], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def patterns() -> st.SearchStrategy[str]:
    """Random expressions over a and b that mean the same here and in the standard module."""
    leaf = st.sampled_from(["a", "b", "[ab]", "()"])

    def more(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.one_of(
            st.tuples(inner, inner).map("".join),
            st.tuples(inner, inner).map(lambda p: f"({p[0]}|{p[1]})"),
            st.tuples(inner, st.sampled_from("*+?")).map(lambda p: f"({p[0]}){p[1]}"),
        )

    return st.recursive(leaf, more, max_leaves=8)


@given(patterns())
@settings(max_examples=150, deadline=None)
def test_random_expressions_agree_with_the_standard_module(pattern: str) -> None:
    compiled = re.compile(pattern)
    dfa = regex_dfa(pattern, ("a", "b"))
    for n in range(6):
        for letters in words_of("ab", repeat=n):
            assert dfa.accepts(letters) == bool(compiled.fullmatch("".join(letters))), letters


@given(st.text(alphabet="ab|*+?()[] c", max_size=12))
@settings(max_examples=300, deadline=None)
def test_every_text_is_an_expression_or_an_error(text: str) -> None:
    try:
        tokens = read_pattern(text, ("a", "b"))
    except PatternError:
        return
    assert regex_dfa(text, ("a", "b")).alphabet == ("a", "b")
    assert "c" not in text
    assert set(tokens) <= {0, 1, *"|*+?()"}


def test_the_name_of_a_task_says_its_letters() -> None:
    found = task("S(4, letters = swaps)")
    assert (found.name, found.group, found.facts.name) == ("S(4, letters = swaps)", "S(4)", "S(4)")
    assert found.shown_letters() == "the swaps of two points"
    assert task("S(4)").shown_letters() == "all elements"
    assert task("Z(4, letters = generators)").shown_letters() == "the generators"

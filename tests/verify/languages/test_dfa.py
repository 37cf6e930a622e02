"""Automata: minimal forms, Boolean operations and shortest differences, against running all short words."""

from __future__ import annotations

from itertools import product as words_of

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnc.verify.languages.dfa import (
    DFA,
    TooLarge,
    complement,
    distinguishing_word,
    equivalent,
    explore,
    minimise,
    product,
    reachable,
    rename,
    reorder,
    without_empty_word,
)


@st.composite
def automata(draw: st.DrawFn, letters: int | None = None, most: int = 7) -> DFA:
    size = draw(st.integers(1, most))
    alphabet = ("a", "b", "c")[: letters or draw(st.integers(1, 3))]
    state = st.integers(0, size - 1)
    return DFA(
        alphabet=alphabet,
        states=tuple(f"s{i}" for i in range(size)),
        delta=tuple(tuple(draw(state) for _ in alphabet) for _ in range(size)),
        start=draw(state),
        accept=frozenset(draw(st.sets(state))),
    )


def words(dfa: DFA, most: int = 5) -> list[tuple[str, ...]]:
    return [w for n in range(most + 1) for w in words_of(dfa.alphabet, repeat=n)]


def classes_by_refinement(dfa: DFA) -> int:
    """Moore's algorithm, the slow way: the number of classes of reachable states."""
    dfa = reachable(dfa)
    mark = [int(q in dfa.accept) for q in range(len(dfa.states))]
    while True:
        keys = [(mark[q], *(mark[t] for t in dfa.delta[q])) for q in range(len(dfa.states))]
        numbers = {k: i for i, k in enumerate(dict.fromkeys(keys))}
        new = [numbers[k] for k in keys]
        if len(set(new)) == len(set(mark)):
            return len(set(new))
        mark = new


@given(automata())
@settings(max_examples=200, deadline=None)
def test_minimal_automaton_has_the_language_and_no_state_too_many(dfa: DFA) -> None:
    small = minimise(dfa)
    assert all(small.accepts(w) == dfa.accepts(w) for w in words(dfa, 4))
    assert equivalent(small, dfa)
    assert len(small.states) == classes_by_refinement(dfa)
    assert minimise(small) == small


@given(automata(letters=2), automata(letters=2))
@settings(max_examples=150, deadline=None)
def test_boolean_operations_and_shortest_difference(a: DFA, b: DFA) -> None:
    both, either = product(a, b, lambda p, q: p and q), product(a, b, lambda p, q: p or q)
    different = [w for w in words(a) if a.accepts(w) != b.accepts(w)]
    for w in words(a):
        assert both.accepts(w) == (a.accepts(w) and b.accepts(w))
        assert either.accepts(w) == (a.accepts(w) or b.accepts(w))
        assert complement(a).accepts(w) != a.accepts(w)
    assert equivalent(complement(both), product(complement(a), complement(b), lambda p, q: p or q))
    found = distinguishing_word(a, b)
    if found is not None:
        assert a.accepts(found) != b.accepts(found)
    if different:
        assert found is not None
        assert len(found) == len(different[0])


@given(automata(), automata())
@settings(max_examples=100, deadline=None)
def test_the_empty_word_does_not_count(a: DFA, b: DFA) -> None:
    small = without_empty_word(a)
    assert equivalent(small, a, nonempty=True)
    assert len(small.states) <= len(minimise(a).states)
    if a.alphabet == b.alphabet and equivalent(a, b, nonempty=True):
        assert len(small.states) == len(without_empty_word(b).states)
    if a.alphabet == b.alphabet:
        found = distinguishing_word(a, b, nonempty=True)
        assert found != ()
        assert found is None or a.accepts(found) != b.accepts(found)
        assert found is not None or all(a.accepts(w) == b.accepts(w) for w in words(a, 4)[1:])


def test_letters_by_other_names_and_in_another_order() -> None:
    dfa = DFA(alphabet=("a", "b"), states=("0", "1"), delta=((0, 1), (1, 1)), start=0, accept=frozenset({1}))
    assert rename(dfa, ("x", "y")).accepts("xxyx")
    assert reorder(dfa, ("b", "a")).accepts("aab")
    assert reorder(dfa, ("b", "a")).delta == ((1, 0), (1, 1))
    with pytest.raises(ValueError, match="2 letters cannot be called 3 names"):
        rename(dfa, ("x", "y", "z"))
    with pytest.raises(ValueError, match="different alphabets"):
        equivalent(dfa, rename(dfa, ("x", "y")))


def test_a_bound_on_states() -> None:
    with pytest.raises(TooLarge, match="more than 100 states"):
        explore(("a",), 0, lambda n, _: n + 1, lambda n: False, most=100)

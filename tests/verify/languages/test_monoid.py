"""Transition monoids: the word action, periods and subgroups, against doing it by hand."""

from __future__ import annotations

import math
from itertools import product as words_of

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnc.verify.languages.dfa import DFA, TooLarge
from rnnc.verify.languages.facts import LanguageFacts
from rnnc.verify.languages.monoid import (
    all_periods,
    compose,
    cycles,
    lasting_elements,
    maximal_subgroups,
    period,
    transition_monoid,
)

maps = st.integers(1, 6).flatmap(lambda n: st.lists(st.integers(0, n - 1), min_size=n, max_size=n))


def automaton(letters: list[list[int]]) -> DFA:
    size = len(letters[0])
    return DFA(
        alphabet=tuple("abc"[: len(letters)]),
        states=tuple(map(str, range(size))),
        delta=tuple(tuple(f[q] for f in letters) for q in range(size)),
        start=0,
        accept=frozenset({0}),
    )


@st.composite
def automata(draw: st.DrawFn) -> DFA:
    size = draw(st.integers(1, 4))
    state = st.integers(0, size - 1)
    return automaton(draw(st.lists(st.lists(state, min_size=size, max_size=size), min_size=1, max_size=2)))


@given(automata())
@settings(max_examples=100, deadline=None)
def test_elements_are_the_actions_of_words(dfa: DFA) -> None:
    monoid = transition_monoid(dfa)
    elements = [monoid.element(i) for i in range(monoid.order)]
    assert len(set(elements)) == monoid.order
    for i, element in enumerate(elements):
        word = monoid.word(i)
        assert element == tuple(dfa.run(word, q) for q in range(len(dfa.states)))
    lengths = [len(monoid.word(i)) for i in range(monoid.order)]
    assert lengths == sorted(lengths)
    for n in range(5):
        for word in words_of(dfa.alphabet, repeat=n):
            assert tuple(dfa.run(word, q) for q in range(len(dfa.states))) in set(elements)
    for a in elements[:12]:
        for b in elements[:12]:
            assert compose(a, b) in set(elements)


@given(maps)
def test_period_is_that_of_the_powers(f: list[int]) -> None:
    power = tuple(range(len(f)))
    seen = [power]
    while (power := compose(power, f)) not in seen:
        seen.append(power)
    assert period(f) == len(seen) - seen.index(power)
    assert math.lcm(*cycles(f)) == period(f)


@given(automata())
@settings(max_examples=100, deadline=None)
def test_aperiodic_exactly_without_subgroups(dfa: DFA) -> None:
    """A monoid is aperiodic iff all its subgroups are trivial; and the subgroups are closed under composition."""
    monoid = transition_monoid(dfa)
    found = maximal_subgroups(monoid)
    assert (all_periods(monoid) == {1}) == (found == [])
    for elements in found:
        assert {compose(a, b) for a in elements for b in elements} == set(elements)
    periods = {period(g) for elements in found for g in elements} | {1}
    assert periods == all_periods(monoid)


def test_unknown_beyond_a_bound() -> None:
    full = automaton([[1, 2, 3, 4, 5, 0], [1, 0, 2, 3, 4, 5], [0, 0, 2, 3, 4, 5]])  # all 6^6 maps
    with pytest.raises(TooLarge, match="more than 1000 elements"):
        transition_monoid(full, most=1000)
    facts = LanguageFacts(full, most=1000)
    assert facts.monoid is None
    assert facts.monoid_periods is None
    assert facts.subgroups is None
    assert facts.solvable is None
    assert facts.star_free is False  # a letter has period 6: no monoid is needed
    assert facts.why_unknown == "the transition monoid has more than 1000 elements"


def test_full_transformation_monoid_on_five_points() -> None:
    """5^5 maps; its maximal subgroups are S2 to S5."""
    facts = LanguageFacts(automaton([[1, 2, 3, 4, 0], [1, 0, 2, 3, 4], [0, 0, 2, 3, 4]]))
    assert facts.monoid_order == 5**5
    assert facts.monoid_periods == {1, 2, 3, 4, 5, 6}
    assert facts.subgroups is not None
    assert {g.order for g in facts.subgroups} == {2, 6, 24, 120}
    assert facts.solvable is False


@given(automata())
def test_what_words_of_one_length_do_comes_round(dfa: DFA) -> None:
    """By listing what words do, length by length: W(s) = W(2s)."""
    monoid = transition_monoid(dfa)
    s, elements = lasting_elements(monoid, dfa)
    found = {monoid.element(i) for i in elements}
    letters = [dfa.action(a) for a in dfa.alphabet]
    now = {tuple(range(len(dfa.states)))}
    sets = [now]
    for _ in range(2 * s):
        now = {compose(f, g) for f in now for g in letters}
        sets.append(now)
    assert sets[s] == sets[2 * s] == found
    assert (max(map(period, found)) == 1) == (LanguageFacts(dfa).in_ac0 is True)

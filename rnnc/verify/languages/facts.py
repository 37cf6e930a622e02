"""What decides expressivity about a regular language: letter periods, its transition monoid, and the groups in it.

A fact is None when it was not found within the bounds; `why_unknown` says which bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from rnnc.groups import closure
from rnnc.verify.languages.dfa import DFA, TooLarge
from rnnc.verify.languages.groups import GroupFacts, few_generators, group_facts
from rnnc.verify.languages.monoid import (
    MAX_ELEMENTS,
    Monoid,
    all_periods,
    commutes,
    cycles,
    is_permutation,
    lasting_elements,
    maximal_subgroups,
    moved,
    period,
    rank,
    transition_monoid,
)

MAX_SUBGROUP = 2_000  # elements of a group that is enumerated
MAX_DEGREE = 20  # points of a larger one, known by its generators only


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterFacts:
    """What one letter does to the states of the minimal automaton.

    `period`: repeated, it comes back to a state after that many steps, in the end and at most; `cycles` are the lengths
    of its cycles.  `permutes` all states, `resets` all to one, or is the `identity`.
    """

    period: int
    cycles: tuple[int, ...]
    rank: int
    moved: int
    permutes: bool
    resets: bool
    identity: bool


class LanguageFacts:
    """Facts of the minimal automaton `dfa`, each worked out when it is first asked for."""

    def __init__(self, dfa: DFA, *, most: int = MAX_ELEMENTS) -> None:
        self.dfa = dfa
        self._most = most

    @cached_property
    def letters(self) -> dict[str, LetterFacts]:
        found = {}
        for letter in self.dfa.alphabet:
            f = self.dfa.action(letter)
            found[letter] = LetterFacts(
                period=period(f),
                cycles=cycles(f),
                rank=rank(f),
                moved=moved(f),
                permutes=is_permutation(f),
                resets=rank(f) == 1,
                identity=moved(f) == 0,
            )
        return found

    @property
    def states(self) -> int:
        return len(self.dfa.states)

    @property
    def letter_periods(self) -> dict[str, int]:
        """Decides N1: a letter with a period above 1 rules nonnegative real spectra out."""
        return {letter: facts.period for letter, facts in self.letters.items()}

    @property
    def is_group(self) -> bool:
        """Whether every letter permutes the states: then the monoid is a group."""
        return all(facts.permutes for facts in self.letters.values())

    @property
    def permutation_reset(self) -> bool:
        """Whether every letter permutes the states or resets them all to one."""
        return all(facts.permutes or facts.resets for facts in self.letters.values())

    @cached_property
    def commutative(self) -> bool:
        return commutes([self.dfa.action(letter) for letter in self.dfa.alphabet])

    @property
    def most_moved(self) -> int:
        """The most states that one letter moves."""
        return max(facts.moved for facts in self.letters.values())

    # ------------------------------------------------------------ the monoid

    @cached_property
    def _monoid(self) -> Monoid | str:
        try:
            return transition_monoid(self.dfa, most=self._most)
        except TooLarge as error:
            return str(error)

    @property
    def monoid(self) -> Monoid | None:
        return self._monoid if isinstance(self._monoid, Monoid) else None

    @property
    def why_unknown(self) -> str:
        """Why the monoid is not known, by the bound that was met; empty when it is known."""
        if self.is_group:
            return self._group if isinstance(self._group, str) else ""
        return self._monoid if isinstance(self._monoid, str) else ""

    @property
    def monoid_order(self) -> int | None:
        if self.is_group:
            return self.group.order if self.group is not None else None
        return None if self.monoid is None else self.monoid.order

    @cached_property
    def monoid_periods(self) -> frozenset[int] | None:
        """The periods of all words.  Decides N1*."""
        if self.is_group and self.group is None:
            return None
        return None if self.monoid is None else all_periods(self.monoid)

    @cached_property
    def star_free(self) -> bool | None:
        """Whether the monoid is aperiodic (Schützenberger 1965): no word has a period above 1."""
        if any(p > 1 for p in self.letter_periods.values()):
            return False
        if self.is_group:
            return self.states == 1
        return None if self.monoid_periods is None else self.monoid_periods == {1}

    @cached_property
    def lasting(self) -> tuple[int, tuple[int, ...]] | None:
        """(s, elements of the monoid that words of every multiple of the length s have); None beyond the bounds.

        Decides N7: where one of them has a period, the language is not in AC0.
        """
        if self.monoid is None:
            return None
        try:
            return lasting_elements(self.monoid, self.dfa)
        except TooLarge:
            return None

    @property
    def in_ac0(self) -> bool | None:
        """Whether constant-depth circuits of polynomial size recognise it: no group at any length."""
        if self.lasting is None or self.monoid is None:
            return None
        return all(period(self.monoid.element(i)) == 1 for i in self.lasting[1])

    # ------------------------------------------------------------ groups

    @cached_property
    def _group(self) -> GroupFacts | str:
        actions = list(dict.fromkeys(self.dfa.action(letter) for letter in self.dfa.alphabet))
        elements = closure(actions, MAX_SUBGROUP)
        if elements is not None:
            return group_facts(few_generators(elements, MAX_SUBGROUP))
        if self.states <= MAX_DEGREE:
            return group_facts(actions)
        return f"the letters generate a group of more than {MAX_SUBGROUP} elements on more than {MAX_DEGREE} states"

    @property
    def group(self) -> GroupFacts | None:
        """The facts of the monoid when it is a group (within the bounds), else None."""
        return self._group if self.is_group and isinstance(self._group, GroupFacts) else None

    @cached_property
    def subgroups(self) -> tuple[GroupFacts, ...] | None:
        """The maximal subgroups of the monoid, the trivial ones left out."""
        if self.group is not None:
            return (self.group,) if self.group.order > 1 else ()
        if self.star_free:
            return ()
        if self.is_group or self.monoid is None:
            return None
        try:
            found = maximal_subgroups(self.monoid)
        except TooLarge:
            return None
        if any(len(elements) > MAX_SUBGROUP for elements in found):
            return None
        return tuple(dict.fromkeys(group_facts(few_generators(elements, MAX_SUBGROUP)) for elements in found))

    @cached_property
    def solvable(self) -> bool | None:
        """Whether all groups in the monoid are solvable; a language where one is not is complete for NC1."""
        return None if self.subgroups is None else all(g.solvable for g in self.subgroups)

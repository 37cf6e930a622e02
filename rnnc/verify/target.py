"""What a claim on expressivity asks for: a language to recognise or a group to track, with the facts that decide it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from rnnc.diagnostics import SpecError
from rnnc.frontend import ast
from rnnc.groups import cycle_notation
from rnnc.spec import Spec
from rnnc.verify.claims import Unclear
from rnnc.verify.languages.dfa import DFA, TooLarge, Word
from rnnc.verify.languages.facts import LanguageFacts
from rnnc.verify.languages.groups import GroupFacts, GroupTask
from rnnc.verify.languages.language import Language, group_of, language_of, show
from rnnc.verify.languages.monoid import period

EVIDENCE_LETTERS = 12  # of a word that is shown
LONGEST_LETTER = 40  # characters of one that are shown


@dataclass(frozen=True, kw_only=True)
class Target:
    """`what` as claims say it: "recognizes parity", "tracks group S(3)"."""

    what: str
    task: Language | GroupTask

    @property
    def kind(self) -> Literal["recognizes", "tracks"]:
        return "tracks" if isinstance(self.task, GroupTask) else "recognizes"

    @cached_property
    def dfa(self) -> DFA | None:
        """The minimal automaton; None when the language is not regular or the automaton is too large."""
        try:
            return self.task.dfa
        except TooLarge:
            return None

    @property
    def regular(self) -> bool:
        return not isinstance(self.task, Language) or self.task.dfa is not None

    @cached_property
    def facts(self) -> LanguageFacts | None:
        if isinstance(self.task, Language):
            return self.task.facts
        return None if self.dfa is None else LanguageFacts(self.dfa)

    @cached_property
    def group(self) -> GroupFacts | None:
        """Of the group, when every letter permutes the states."""
        if isinstance(self.task, GroupTask):
            return self.task.facts
        return None if self.facts is None else self.facts.group

    @cached_property
    def solvable(self) -> bool | None:
        """Whether all groups in the transition monoid are solvable."""
        if isinstance(self.task, GroupTask):
            return self.task.facts.solvable
        return None if self.facts is None else self.facts.solvable

    @cached_property
    def letter_periods(self) -> Mapping[str, int]:
        """After how many repetitions a letter comes back to a state, in the end and at most."""
        if isinstance(self.task, GroupTask):
            try:
                return {name: period(p) for name, p in self.task.letters}
            except TooLarge:
                return {
                    cycle_notation(g): period(g) for g in self.task.generators
                }  # their powers are products of letters
        return {} if self.facts is None else self.facts.letter_periods

    def letter_beyond(self, exponent: int) -> tuple[str, int] | None:
        """A letter whose period does not divide 2^exponent, and that period."""
        return next(((a, p) for a, p in self.letter_periods.items() if 2**exponent % p), None)

    def word_beyond(self, exponent: int) -> tuple[Word, int] | None:
        """A shortest word whose period, in rounds of the word, does not divide 2^exponent."""
        letter = self.letter_beyond(exponent)
        if letter is not None and letter[0] in self._alphabet:
            return (letter[0],), letter[1]
        monoid = None if self.facts is None else self.facts.monoid
        if monoid is None:
            return None
        for i, row in enumerate(monoid.images.tolist()):
            p = period(row)
            if 2**exponent % p:
                return monoid.word(i), p
        return None

    def lasting_word_beyond(self, exponent: int) -> tuple[Word, int, int] | None:
        """(word, period, s): some word of every length divisible by s acts as this word, whose period in rounds does
        not divide 2^exponent.
        """
        facts = self.facts
        if facts is None or facts.lasting is None or facts.monoid is None:
            return None
        s, elements = facts.lasting
        for i in sorted(elements):
            p = period(facts.monoid.element(i))
            if 2**exponent % p:
                return facts.monoid.word(i), p, s
        return None

    @property
    def _alphabet(self) -> tuple[str, ...]:
        return () if self.dfa is None else self.dfa.alphabet

    def lasting_letter(self) -> str | None:
        """A letter that, however often repeated, keeps two states apart."""
        if self.dfa is None:
            return next((a for a, p in self.letter_periods.items() if p > 1), None)
        for letter in self.dfa.alphabet:
            image = set(range(len(self.dfa.states)))
            action = self.dfa.action(letter)
            for _ in self.dfa.states:
                image = {action[q] for q in image}
            if len(image) > 1:
                return letter
        return None


def shown(word: Word) -> str:
    """A word for a sentence."""
    letters = [a if len(a) <= LONGEST_LETTER else f"{a[: LONGEST_LETTER - 4]} ..." for a in word[:EVIDENCE_LETTERS]]
    if len(word) > EVIDENCE_LETTERS:
        return f"{' '.join(letters)} ... ({len(word)} letters)"
    return (" " if any(len(a) > 1 for a in letters) else "").join(letters)


def target_of(spec: Spec, claim: ast.Claim) -> Target:
    """The language or group of the claim.  Raises Unclear for what is too large, SpecError for what is wrong."""
    (expr,) = claim.args
    try:
        task = group_of(expr) if claim.kind == "tracks" else language_of(spec, expr)
    except SpecError as error:
        if all(d.code in ("E0504", "E0304") for d in error.diagnostics):
            raise Unclear("; ".join(d.message for d in error.diagnostics)) from error
        raise
    verb = "tracks group" if claim.kind == "tracks" else "recognizes"
    return Target(what=f"{verb} {show(expr)}", task=task)

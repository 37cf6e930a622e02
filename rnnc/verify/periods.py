"""Theorems about periods: what repeating a letter or a word leaves in the states (N1, N1*, N2, N7)."""

from __future__ import annotations

from collections.abc import Iterator

from rnnc.verify.ceiling import Ceiling, no_obstacle, subject
from rnnc.verify.continuity import passes_on
from rnnc.verify.growth import Growth, growth
from rnnc.verify.layers import Layers
from rnnc.verify.results import Condition, Precision
from rnnc.verify.target import Target, shown

GRAZZI_1 = "Grazzi et al. 2025, Theorem 1 (for a letter: from its proof)"
GRAZZI_2 = "Grazzi et al. 2025, Theorem 2 (periods: from its proof)"
STAR_FREE = "Sarrof et al. 2024 (for a word: from the proof of Grazzi et al. 2025, Theorem 1)"
FIXED_ANGLES = "derived (docs/ceilings.md); AC0 by Barrington, Compton, Straubing and Thérien 1992"
METRIC = "Dankowiakowski and Ronca, Metric Automata Theory, Theorem 6"


def periods(layers: Layers, target: Target, copies: int) -> Iterator[Ceiling]:
    by_letter = growth(layers, copies, "letter")
    yield _letter_period(target, by_letter)
    if target.letter_beyond(by_letter.exponent or 0) is None or by_letter.exponent is None:
        yield _word_period(target, growth(layers, copies, "word"), "finite_precision")
    by_length = growth(layers, copies, "long")
    if by_length.turned:
        yield _fixed_angles(target, by_length)


def _letter_period(target: Target, found: Growth) -> Ceiling:
    e = found.exponent or 0
    letter, p, condition = period_of_a_letter(target, e)
    limit = "no period" if e == 0 else f"a period that divides {2**e}"
    return Ceiling(
        theorem="N1" if e == 0 else "N2",
        source=GRAZZI_1 if e == 0 else GRAZZI_2,
        precision="finite_precision",
        reason=f"repeating `{shown((letter,))}` leaves {limit} in the states, and {subject(target)} needs period {p}"
        if condition.holds
        else f"no repeated letter rules {subject(target)} out",
        conditions=(*found.conditions, condition),
        data={"exponent": found.exponent, "letter": letter, "period": p},
    )


def period_of_a_letter(target: Target, e: int) -> tuple[str, int, Condition]:
    """A letter whose period does not divide 2^e, its period, and whether there is one."""
    beyond = target.letter_beyond(e)
    letter, p = beyond or ("", 1)
    some = "a period above 1" if e == 0 else f"a period that does not divide {2**e}"
    have = f"all periods of letters divide {2**e}" if beyond is None else f"`{shown((letter,))}` has period {p}"
    text = f"{subject(target)} gives some letter {some}"
    return letter, p, Condition(text=text, holds=beyond is not None, by=have)


def _word_period(target: Target, found: Growth, precision: Precision) -> Ceiling:
    e = found.exponent or 0
    beyond = target.word_beyond(e) if found.exponent is not None else None
    word, p = beyond or ((), 1)
    text = f"{subject(target)} is not star-free" if e == 0 else f"a word has a period that does not divide {2**e}"
    have = f"`{shown(word)}`, repeated, has period {p}" if beyond else _why_no_word(target, e)
    return Ceiling(
        theorem="N1*" if e == 0 else "N2",
        source=STAR_FREE if precision == "finite_precision" and e == 0 else METRIC if e == 0 else GRAZZI_2,
        precision=precision,
        reason=f"repeating `{shown(word)}` leaves period {2**e} in the states, and {subject(target)} needs {p}"
        if beyond
        else f"no repeated word rules {subject(target)} out",
        conditions=(*found.conditions, Condition(text=text, holds=beyond is not None, by=have)),
        data={"exponent": found.exponent, "word": list(word), "period": p},
    )


def _fixed_angles(target: Target, found: Growth) -> Ceiling:
    """N7: fixed angles give no period to a word that some words of all suitable lengths act as."""
    e = found.exponent or 0
    beyond = target.lasting_word_beyond(e) if found.exponent is not None else None
    word, p, s = beyond or ((), 1, 1)
    lengths = "every length" if s == 1 else f"every length that {s} divides"
    acts = f"of {lengths} there are words that act as `{shown(word)}`"
    return Ceiling(
        theorem="N7",
        source=FIXED_ANGLES,
        precision="finite_precision",
        reason=f"{acts}; repeated, those whose length suits the fixed angles leave "
        f"{'no period' if e == 0 else f'a period that divides {2**e}'} in the states, and {subject(target)} needs {p}"
        if beyond
        else f"{subject(target)} is within reach of fixed angles",
        conditions=(
            *found.conditions,
            Condition(
                text=f"{subject(target)} is not in AC0"
                if e == 0
                else f"some word of {subject(target)} has a period that does not divide {2**e} at all lengths",
                holds=beyond is not None,
                by=f"{acts}, which, repeated, has period {p}" if beyond else _why_not_lasting(target, e),
            ),
        ),
        data={"exponent": found.exponent, "word": list(word), "period": p, "lengths": s},
    )


def _why_not_lasting(target: Target, e: int) -> str:
    if target.facts is None or target.facts.lasting is None:
        why = target.facts.why_unknown if target.facts is not None else "the automaton is too large"
        return f"its words of each length are not known: {why or 'too many'}"
    return f"what its words do at all lengths has {'no period' if e == 0 else f'periods that divide {2**e} only'}"


def _why_no_word(target: Target, e: int) -> str:
    if target.facts is None or target.facts.monoid is None:
        why = target.facts.why_unknown if target.facts is not None else "the automaton is too large"
        return f"the periods of its words are not known: {why}"
    return "its transition monoid is aperiodic" if e == 0 else f"all periods of words divide {2**e}"


def star_free(layers: Layers, target: Target, copies: int) -> Ceiling:
    """N1* under eta_finite: the theorem covers exponent zero, layers over (+, x), and continuous maps between them."""
    found = growth(layers, copies, "word")
    other = next((layer for layer in layers.layers if layer.is_monotone), None)
    if layers.obstacle:
        found = Growth(exponent=None, conditions=(no_obstacle(layers),))
    elif other is not None:
        condition = Condition(text=f"{other.name} is linear over (+, x)", holds=False, by=other.group.semiring)
        found = Growth(exponent=None, conditions=(*found.conditions, condition))
    elif found.exponent:
        condition = Condition(
            text="all products of transitions have real eigenvalues >= 0", holds=False, by="some may be negative"
        )
        found = Growth(exponent=None, conditions=(*found.conditions, condition))
    elif found.exponent is not None and layers.depth * copies > 1:
        condition = passes_on(layers, copies)
        found = Growth(exponent=0 if condition.holds else None, conditions=(*found.conditions, condition))
    return _word_period(target, found, "eta_finite")

"""Targets of elementwise forms whose gates cannot erase: bits that are told by which interval a number lies in.

A bit that letters raise and hold is a number above its initial value (a gate towards 1 counts, one below 1 averages).
The last letters are the digits of a number that every letter shrinks and adds its own to.
A bit that letters also clear is two averages at different rates: after some last set, or some last reset, letters their
possible values are apart although neither average alone tells the two (`rnnc.verify.regions` closes them).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from rnnc.analysis.forms import Elementwise
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.witness.bits import Bit, BitLetter, bit_automata
from rnnc.verify.witness.numbers import HALF, OMEGA, ONE, ZERO, Number
from rnnc.verify.witness.solver import Solver
from rnnc.verify.witness.spread import LONGEST
from rnnc.verify.witness.targets import Proposal, Targets, Wanted, idle, start_of, starting
from rnnc.verify.witness.targets_linear import MOST_BITS, Index, places

LATCH = (
    "a number that is at its start, or above it by some amount or more",
    "derived: from the start, letters only add",
)
DIGITS = ("the last letters as the digits of a number", "derived: images of contractions that are apart")
AVERAGES = ("a bit as two running averages at different rates", "derived: images of contractions that are apart")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What a letter makes of one number: (a, where it goes relative to the start; None: add 1)."""

    hold: Number
    zero: tuple[Number, Number] | None
    one: tuple[Number, Number | None]


NEAR = ONE - 1 / OMEGA  # where exactly 1 would be divided by what vanishes with it


def units(least: Number, most: Number) -> Iterator[tuple[Unit, ...]]:
    """Units that carry one bit, where gates lie between `least` and `most`."""
    middle = (least + most) / 2
    yield (Unit(hold=ONE, zero=None, one=(ONE, None)),)
    yield (Unit(hold=ONE, zero=None, one=(middle, ONE)),)
    yield (Unit(hold=NEAR, zero=None, one=(NEAR, None)),)
    if least <= HALF:
        slow = (least + 2 * most) / 3 if least > ZERO else Fraction(3, 4)
        yield tuple(Unit(hold=ONE, zero=(a, ZERO), one=(HALF, ONE)) for a in (HALF, max(slow, Fraction(3, 4))))


def bits_by_sets(solver: Solver, form: Elementwise, dfa: DFA) -> Iterator[Proposal]:
    """Proposals whose states are closed as sets."""
    if form.b is None:
        return
    least, most = _range(solver, form)
    for carriers in units(least, most):
        able: frozenset[BitLetter] = frozenset({"hold", "one"} | ({"zero"} if carriers[0].zero is not None else set()))
        for bits in bit_automata(dfa, able, 1 if len(carriers) > 1 else MOST_BITS):
            for where in places(solver.shape(solver.cell.state(form.state).node), len(bits) * len(carriers)):
                targets = set_targets(solver, form, bits, carriers, where)
                if targets is not None:
                    what = LATCH if len(carriers) == 1 else AVERAGES
                    yield Proposal(construction=what[0], source=what[1], targets=targets, spreads=True)


def digits(solver: Solver, form: Elementwise, dfa: DFA) -> Iterator[Proposal]:
    """For automata whose state the last few letters tell."""
    least, most = _range(solver, form)
    letters = len(dfa.alphabet)
    if form.b is None or not is_definite(dfa, LONGEST):
        return
    shrink = Fraction(1, 2 * letters)
    if least > shrink or most < shrink:
        return
    start = start_of(solver, form.state)
    for (at,) in places(solver.shape(solver.cell.state(form.state).node), 1):
        begin = ZERO if start.learned else start.at(at)
        if begin is None:
            continue
        w = Wanted(solver)
        for c in range(letters):
            if form.a is not None:
                w.put(form.a, c, at, shrink)
            w.put(form.b, c, at, (ONE - shrink) * (begin + Fraction(c + 1, letters)))
        targets = w.targets | {form.b: idle(w.targets, form.b, solver, ZERO)}
        if form.a is not None:
            targets[form.a] = idle(w.targets, form.a, solver, shrink)
        found = targets | (starting(solver, start, {}) or {})
        yield Proposal(construction=DIGITS[0], source=DIGITS[1], targets=found, spreads=True)


def is_definite(dfa: DFA, length: int) -> bool:
    """Whether all words of this length lead all states to one, each word to its own."""
    images = {frozenset(range(len(dfa.states)))}
    for _ in range(length):
        images = {frozenset(dfa.delta[q][a] for q in image) for image in images for a in range(len(dfa.alphabet))}
    return all(len(image) == 1 for image in images)


def _range(solver: Solver, form: Elementwise) -> tuple[Fraction, Fraction]:
    """Rational ends of the gates, within 0 and 1."""
    if form.a is None:
        return ONE, ONE
    complex_ = solver.cell.nodes[form.a].type.dtype == "complex"
    ends = solver.ranges.modulus(form.a) if complex_ else solver.ranges.real(form.a)
    lo = max(ends.lo, ZERO) if ends.lo is not None else ZERO
    return lo, ONE if ends.hi is None or ends.hi > 1 else ends.hi


def set_targets(
    solver: Solver, form: Elementwise, bits: tuple[Bit, ...], carriers: tuple[Unit, ...], where: tuple[Index, ...]
) -> Targets | None:
    """Targets for bits over the solver's contexts; None where the form or the initial state has no room for them."""
    start = start_of(solver, form.state)
    w = Wanted(solver)
    rows = [(bit, unit) for bit in bits for unit in carriers]
    for (bit, unit), at in zip(rows, where, strict=True):
        begin = ZERO if start.learned else start.at(at)
        if begin is None:
            return None
        for c, letter in enumerate(bit):
            a, b = _coefficients(unit, letter, begin)
            if form.a is not None:
                w.put(form.a, c, at, a)
            elif a != ONE:
                return None
            assert form.b is not None
            w.put(form.b, c, at, b)
    assert form.b is not None
    targets = w.targets | {form.b: idle(w.targets, form.b, solver, ZERO)}
    if form.a is not None:
        targets[form.a] = idle(w.targets, form.a, solver, carriers[0].hold)
    return targets | (starting(solver, start, {}) or {})


def _coefficients(unit: Unit, letter: BitLetter, start: Number) -> tuple[Number, Number]:
    """(a, b) of z -> a z + b."""
    if letter == "hold":
        return unit.hold, ZERO
    found = unit.one if letter == "one" else unit.zero
    assert found is not None
    a, goal = found
    return a, ONE if goal is None else (ONE - a) * (start + goal)

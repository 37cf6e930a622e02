"""The taps of a convolution, and what it reads, for values that are wanted by the letter and the one before it."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import numpy as np

from rnnc.verify.witness.evaluation import NOTHING_BEFORE, Contexts
from rnnc.verify.witness.expressions import Expression, LinearSystem
from rnnc.verify.witness.numbers import ZERO, Number
from rnnc.verify.witness.want import Array, Conflict, Option, Want, empty

TAPS = ((1, 0), (0, 1), (1, 1), (1, -1))  # of the newest value and of the one before it
BIAS = (-1, 0, 0)


def window_taps(w: Want, contexts: Contexts) -> Option:
    """Channel by channel: taps, a bias and one value for each letter.  Conflict where none gives what is wanted."""
    values, taps = empty(w.target.shape), empty((w.target.shape[0], *w.shapes[1]))
    taps[...] = ZERO
    out: Option = [values, taps]
    if len(w.shapes) > 2:
        out.append(empty((w.target.shape[0], *w.shapes[2])))
    for channel in np.ndindex(*w.target.shape[1:]):
        wanted = tuple(w.target[(slice(None), *channel)])
        now, before, bias, by_letter = _channel(wanted, contexts.letters, contexts.past or (), len(out) > 2)
        taps[(slice(None), *channel, -1)] = Fraction(now)
        if w.shapes[1][-1] > 1:
            taps[(slice(None), *channel, -2)] = Fraction(before)
        elif before:
            raise Conflict
        values[(slice(None), *channel)] = [by_letter[a] for a in contexts.letters]
        if len(out) > 2:
            bias_: Array = out[2]
            bias_[(slice(None), *channel)] = bias
    return out


@lru_cache(maxsize=1024)
def _channel(
    wanted: tuple[Number | None, ...], letters: tuple[int, ...], past: tuple[int, ...], biased: bool
) -> tuple[int, int, Number, dict[int, Number]]:
    """(newest tap, the one before it, bias, value of each letter): bias + newest v(letter) + older v(letter before)."""
    for now, before in TAPS:
        system = LinearSystem()
        for t, a, p in zip(wanted, letters, past, strict=True):
            if t is None:
                continue
            terms: dict[tuple[int, int, int], Number] = {BIAS: Fraction(1)} if biased else {}
            for k, letter in ((now, a), (before, p)):
                if letter != NOTHING_BEFORE and k:
                    terms[letter, 0, 0] = terms.get((letter, 0, 0), ZERO) + k
            if not system.add(Expression(ZERO, terms), t):
                break
        else:
            found = system.solution()
            return now, before, found.get(BIAS, ZERO), {a: found.get((a, 0, 0), ZERO) for a in letters}
    raise Conflict

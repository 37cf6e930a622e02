"""Bits: what letters do to automata whose state is told by a few bits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations, product

from rnnc.verify.languages.dfa import DFA

BitLetter = str  # "hold" | "flip" | "zero" | "one"
Bit = tuple[BitLetter, ...]  # what each letter does to one bit
LETTERS: tuple[BitLetter, ...] = ("hold", "zero", "one", "flip")


def act(letter: BitLetter, value: int) -> int:
    match letter:
        case "hold":
            return value
        case "flip":
            return 1 - value
        case "zero":
            return 0
        case _:
            return 1


def determines(bits: tuple[Bit, ...], dfa: DFA) -> bool:
    """Whether the bits, all zero at the start, tell the automaton's state after every word."""
    start = ((0,) * len(bits), dfa.start)
    means = {start[0]: start[1]}
    work = [start]
    while work:
        values, q = work.pop()
        for a in range(len(dfa.alphabet)):
            after = tuple(act(bit[a], v) for bit, v in zip(bits, values, strict=True))
            state = dfa.delta[q][a]
            if after not in means:
                means[after] = state
                work.append((after, state))
            elif means[after] != state:
                return False
    return True


MOST_CHOICES = 4096  # of what the letters do to one bit
MOST_STATES = 12  # of an automaton whose two-block quotients are listed


def bit_automata(dfa: DFA, able: frozenset[BitLetter], most: int) -> Iterator[tuple[Bit, ...]]:
    """Sets of up to `most` bits whose values tell the state, smallest first; `able`: what a letter can do to a bit."""
    permutes = [len({row[a] for row in dfa.delta}) == len(dfa.delta) for a in range(len(dfa.alphabet))]
    kinds = [[k for k in LETTERS if k in able and not (p and k in ("zero", "one"))] for p in permutes]
    if not all(kinds):
        return
    if math.prod(map(len, kinds)) > MOST_CHOICES:
        candidates = [b for b in quotients(dfa) if set(b) <= able]
    else:
        candidates = list(product(*kinds))
    # A bit that nothing raises stays zero.
    useful = [b for b in candidates if "one" in b or "flip" in b]
    for n in range(1, most + 1):
        if len(useful) ** n > 20_000:
            return
        for bits in combinations(useful, n):
            if determines(bits, dfa):
                yield bits


def quotients(dfa: DFA) -> Iterator[Bit]:
    """The bits that are functions of the automaton's state, zero at the start."""
    n = len(dfa.states)
    if n > MOST_STATES:
        return
    others = [q for q in range(n) if q != dfa.start]
    for chosen in range(1, 2 ** len(others)):
        one = {q for k, q in enumerate(others) if chosen >> k & 1}
        bit = []
        for a in range(len(dfa.alphabet)):
            images = tuple({dfa.delta[q][a] in one for q in range(n) if (q in one) == side} for side in (False, True))
            if any(len(image) != 1 for image in images):
                break
            bit.append(_LETTER[images[0] == {True}, images[1] == {True}])
        else:
            yield tuple(bit)


_LETTER: dict[tuple[bool, bool], BitLetter] = {
    (False, False): "zero",
    (True, True): "one",
    (False, True): "hold",
    (True, False): "flip",
}

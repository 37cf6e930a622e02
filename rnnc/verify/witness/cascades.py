"""Automata as cascades of two: a lower one, and an upper one that reads each letter with the lower one's new class.

The upper automaton needs what the lower one was *before* the step.  The letters here permute the states, so that letter
and class after the step tell it, and no updated state is taken for an old one; or they lead all states to one, and then
what was before does not matter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from rnnc.groups import closure
from rnnc.verify.languages.dfa import DFA, explore
from rnnc.verify.witness.actions import Turn, plane_actions
from rnnc.verify.witness.permutations import letters_as_permutations

MOST_STATES = 130  # of an automaton whose congruences are looked for
MOST_JOINS = 400  # of congruences
MOST_GROUP = 2000  # elements of a group that is listed
MOST_LETTERS = 200  # of an upper automaton
MOST_SPLITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """`lower` reads the letters, `upper` reads `paired(letter, lower's state after the step)`."""

    lower: DFA
    upper: DFA
    construction: str
    source: str


def paired(letter: str, state: int) -> str:
    return f"{letter}|{state}"


def splits(dfa: DFA) -> Iterator[Split]:
    """Ways to take an automaton apart whose letters permute its states or reset them, the simplest first."""
    if len(dfa.states) > MOST_STATES or any(1 < len(set(f)) < len(f) for f in _distinct_actions(dfa)):
        return
    if letters_as_permutations(dfa) is not None:
        for turns in plane_actions(dfa):
            yield from _alternating(dfa, turns)
    found = [s for pi in congruences(dfa) if (s := _coset_split(dfa, pi)) is not None]
    yield from sorted(found, key=_effort)[:MOST_SPLITS]


def _effort(split: Split) -> tuple[bool, bool, int]:
    """Commutative parts first (complex diagonals and signs have them), then those with few states below."""
    return (not _commutes(split.lower), not _commutes(split.upper), len(split.lower.states))


def _commutes(dfa: DFA) -> bool:
    actions = _distinct_actions(dfa)
    states = range(len(dfa.states))
    return all(f[g[q]] == g[f[q]] for i, f in enumerate(actions) for g in actions[:i] for q in states)


def _distinct_actions(dfa: DFA) -> list[tuple[int, ...]]:
    return list(dict.fromkeys(zip(*dfa.delta, strict=True)))


def _permutes(action: tuple[int, ...]) -> bool:
    return len(set(action)) == len(action)


# ---------------------------------------------------------------- blocks


def congruences(dfa: DFA) -> list[tuple[int, ...]]:
    """Partitions that every letter respects, each as the least state of the block of every state.

    Those that pairs with the start generate, and what these generate together (within a bound); the trivial ones left
    out.  A letter that resets respects all.
    """
    actions = _generating([f for f in _distinct_actions(dfa) if _permutes(f)])
    if not actions:
        return []
    others = [q for q in range(len(dfa.states)) if q != dfa.start]
    found = dict.fromkeys(_merged(actions, [(dfa.start, q)]) for q in others)
    simple = list(found)
    work = deque(simple)
    joins = 0
    while work and joins < MOST_JOINS:
        partition = work.popleft()
        for other in simple:
            joins += 1
            joined = _merged(actions, [*enumerate(partition), *enumerate(other)])
            if joined not in found:
                found[joined] = None
                work.append(joined)
    return [p for p in found if len(set(p)) > 1]


def _generating(actions: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Some of the permutations that generate the others."""
    chosen: list[tuple[int, ...]] = []
    reached: set[tuple[int, ...]] = set()
    for f in actions:
        if f not in reached:
            chosen.append(f)
            reached = set(closure(chosen, MOST_GROUP) or ())
    return chosen


def _merged(actions: list[tuple[int, ...]], pairs: list[tuple[int, int]]) -> tuple[int, ...]:
    """The finest partition that every action respects with each pair in one block."""
    root = list(range(len(actions[0])))

    def find(x: int) -> int:
        while root[x] != x:
            root[x] = root[root[x]]
            x = root[x]
        return x

    work = list(pairs)
    while work:
        a, b = (find(x) for x in work.pop())
        if a == b:
            continue
        root[max(a, b)] = min(a, b)
        # A pair of representatives is enough: the others' images are merged by their own pairs.
        work.extend((f[a], f[b]) for f in actions)
    return tuple(find(x) for x in range(len(root)))


def _coset_split(dfa: DFA, partition: tuple[int, ...]) -> Split | None:
    """The lower automaton is on the blocks; the upper one on the start's block, to which a word leads every other back.

    A letter that leads from block p to block r does in the upper automaton what (word to p) letter (word to r)^-1 does
    to the start's block.
    """
    blocks = list(dict.fromkeys([partition[dfa.start], *partition]))
    if len(blocks) * len(dfa.alphabet) > MOST_LETTERS:
        return None
    number = {b: i for i, b in enumerate(blocks)}
    base = [q for q, b in enumerate(partition) if b == blocks[0]]
    ways = _ways(dfa, partition, base)
    if ways is None:
        return None
    lower = tuple(tuple(number[partition[r]] for r in dfa.delta[b]) for b in blocks)
    letters: dict[str, tuple[int, ...]] = {}
    for p, row in enumerate(lower):
        for k, r in enumerate(row):
            images = [dfa.delta[q][k] for q in ways[blocks[p]]]
            name = paired(dfa.alphabet[k], r)
            moved = tuple(ways[blocks[r]].index(q) for q in images)
            if letters.setdefault(name, moved) != moved:
                return None
    return Split(
        lower=_pointed(dfa.alphabet, lower, 0),
        upper=_pointed(tuple(letters), tuple(zip(*letters.values(), strict=True)), base.index(dfa.start)),
        construction="layers carry the factors of a subnormal series, each turned by the classes below it",
        source="Krohn and Rhodes 1965; Shakerinava et al.",
    )


def _ways(dfa: DFA, partition: tuple[int, ...], base: Sequence[int]) -> dict[int, list[int]] | None:
    """For each block, the images of the start's block under one word that permutes; None where none leads there."""
    found = {partition[dfa.start]: list(base)}
    work = deque(found)
    actions = [f for f in _distinct_actions(dfa) if _permutes(f)]
    while work:
        here = found[work.popleft()]
        for f in actions:
            there = [f[q] for q in here]
            block = partition[there[0]]
            if block not in found:
                found[block] = there
                work.append(block)
    return found if set(found) == set(partition) else None


def _pointed(alphabet: tuple[str, ...], delta: tuple[tuple[int, ...], ...], start: int) -> DFA:
    """Accepts what leads back to the start: permutations then tell all states apart."""
    return DFA(
        alphabet=alphabet,
        states=tuple(map(str, range(len(delta)))),
        delta=delta,
        start=start,
        accept=frozenset({start}),
    )


# ---------------------------------------------------------------- reflections


def _alternating(dfa: DFA, turns: tuple[Turn, ...]) -> Iterator[Split]:
    """Isometries of the plane by one reflection a letter (Grazzi et al. 2025, Thm 6, and dihedral groups).

    The upper layer holds z, or its mirror image R z while the number of rotations so far is odd.  Then a rotation is
    the reflection R rot, or rot R, and a reflection M is M, or R M R.  The line of R is free.
    """
    if not any(t.turns and not t.mirror for t in turns):
        return
    named = dict(zip(dfa.alphabet, turns, strict=True))
    mirrors = sorted({t.turns for t in turns if t.mirror})
    lines = [Fraction(0), *(m + shift for m in mirrors for shift in (Fraction(1, 4), Fraction(0)))]
    for line in dict.fromkeys(lines):
        yield Split(
            lower=_parity(named),
            upper=_reflecting(named, line),
            construction="layer 1 carries a parity, layer 2 reflects along a line that it picks",
            source="Grazzi et al. 2025, Thm 6",
        )


def _turns(t: Turn) -> bool:
    return bool(t.turns) and not t.mirror


def _parity(turns: dict[str, Turn]) -> DFA:
    """Whether the number of rotations is odd."""
    return DFA(
        alphabet=tuple(turns),
        states=("even", "odd"),
        delta=tuple(tuple(1 - q if _turns(t) else q for t in turns.values()) for q in (0, 1)),
        start=0,
        accept=frozenset({1}),
    )


def _reflecting(turns: dict[str, Turn], line: Fraction) -> DFA:
    """Isometries z -> e(turn) z or e(turn) conj(z) as pairs (mirrored, turn); a letter reflects along its normal."""
    normals: dict[str, Fraction | None] = {}
    for a, t in turns.items():
        for odd in (1, 0):  # after the step
            if _turns(t):
                normals[paired(a, odd)] = line + (-t.turns if odd else t.turns) / 2
            else:
                normals[paired(a, odd)] = None if not t.mirror else 2 * line - t.turns if odd else t.turns

    def step(z: tuple[bool, Fraction], letter: str) -> tuple[bool, Fraction]:
        mirrored, turn = z
        normal = normals[letter]
        return z if normal is None else (not mirrored, (2 * normal + Fraction(1, 2) - turn) % 1)

    start = (False, Fraction(0))
    return explore(tuple(normals), start, step, lambda z: z == start)

"""Deterministic, complete automata: running, minimal form (Hopcroft 1971), Boolean operations, shortest difference.

Letters are strings; a word is a tuple of letters.  States are numbers with a name each; `delta[state][letter index]`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

Word: TypeAlias = tuple[str, ...]
T = TypeVar("T", bound=Hashable)

MAX_TRANSITIONS = 2_000_000  # states times letters: the most that is built
MAX_PRODUCT = 20_000  # states of two languages joined
LONGEST_NAME = 40


class TooLarge(ValueError):
    """An automaton, monoid or group above a bound; the message says which bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DFA:
    """A complete deterministic automaton.

    `alphabet` [L] distinct letters; `states` [S] distinct names; `delta` [S][L] numbers of states; `start` a number;
    `accept` numbers.
    """

    alphabet: tuple[str, ...]
    states: tuple[str, ...]
    delta: tuple[tuple[int, ...], ...]
    start: int
    accept: frozenset[int]

    def __post_init__(self) -> None:
        n = len(self.states)
        assert len(set(self.alphabet)) == len(self.alphabet), "letters are distinct"
        assert len(set(self.states)) == n == len(self.delta), "states are distinct and have one row each"
        assert all(len(row) == len(self.alphabet) and all(0 <= q < n for q in row) for row in self.delta)
        assert 0 <= self.start < n
        assert all(0 <= q < n for q in self.accept)

    def step(self, state: int, letter: str) -> int:
        """The state after one letter.  Raises ValueError for what is no letter."""
        return self.delta[state][self.alphabet.index(letter)]

    def run(self, word: Iterable[str], state: int | None = None) -> int:
        """The state after a word, from the start or from `state`."""
        here = self.start if state is None else state
        for letter in word:
            here = self.step(here, letter)
        return here

    def accepts(self, word: Iterable[str]) -> bool:
        return self.run(word) in self.accept

    def action(self, letter: str) -> tuple[int, ...]:
        """What a letter does to every state: [S] images."""
        column = self.alphabet.index(letter)
        return tuple(row[column] for row in self.delta)


def explore(
    alphabet: tuple[str, ...],
    start: T,
    step: Callable[[T, str], T],
    accepts: Callable[[T], bool],
    *,
    name: Callable[[T], str] = str,
    most: int | None = None,
) -> DFA:
    """The automaton of all values reachable from `start`, numbered breadth first.  Raises TooLarge above `most`."""
    most = MAX_TRANSITIONS // max(1, len(alphabet)) if most is None else most
    index: dict[T, int] = {start: 0}
    values = [start]
    delta: list[tuple[int, ...]] = []
    for value in values:  # grows while it is walked
        row = []
        for letter in alphabet:
            after = step(value, letter)
            if after not in index:
                if len(values) >= most:
                    raise TooLarge(f"more than {most} states")
                index[after] = len(values)
                values.append(after)
            row.append(index[after])
        delta.append(tuple(row))
    return DFA(
        alphabet=alphabet,
        states=_distinct([name(v) for v in values]),
        delta=tuple(delta),
        start=0,
        accept=frozenset(i for i, v in enumerate(values) if accepts(v)),
    )


def _distinct(names: list[str]) -> tuple[str, ...]:
    """Names as they are where they differ, else numbered."""
    return tuple(names) if len(set(names)) == len(names) else tuple(f"q{i}" for i in range(len(names)))


def reachable(dfa: DFA) -> DFA:
    """Without the states that no word reaches; numbered breadth first from the start."""
    return explore(
        dfa.alphabet,
        dfa.start,
        _stepper(dfa),
        lambda q: q in dfa.accept,
        name=dfa.states.__getitem__,
        most=len(dfa.states),
    )


def _stepper(dfa: DFA) -> Callable[[int, str], int]:
    """`dfa.step`, with the letters looked up once."""
    column = {letter: i for i, letter in enumerate(dfa.alphabet)}
    return lambda q, letter: dfa.delta[q][column[letter]]


def minimise(dfa: DFA) -> DFA:
    """The smallest automaton of the same language; a class is called by the name of its first state.

    Hopcroft's algorithm, O(L S log S): states are split until all of a class agree on what follows.
    """
    dfa = reachable(dfa)
    block_of = classes(dfa)
    first: dict[int, int] = {}
    for state, block in enumerate(block_of):
        first.setdefault(block, state)  # breadth-first order: the start's class comes first
    new = {block: i for i, block in enumerate(first)}
    return DFA(
        alphabet=dfa.alphabet,
        states=tuple(dfa.states[q] for q in first.values()),
        delta=tuple(tuple(new[block_of[t]] for t in dfa.delta[q]) for q in first.values()),
        start=new[block_of[dfa.start]],
        accept=frozenset(new[block_of[q]] for q in dfa.accept),
    )


def classes(dfa: DFA) -> list[int]:
    """The class of each state: two states share one iff every word leads both or neither to acceptance."""
    states, letters = range(len(dfa.states)), range(len(dfa.alphabet))
    before: list[list[list[int]]] = [[[] for _ in states] for _ in letters]
    for q in states:
        for a, target in enumerate(dfa.delta[q]):
            before[a][target].append(q)
    blocks = [set(part) for part in (dfa.accept, set(states) - dfa.accept) if part]
    block_of = [0] * len(dfa.states)
    for i, block in enumerate(blocks):
        for q in block:
            block_of[q] = i
    # A pending splitter is a class with a letter; the smaller half of a split class is enough.
    smaller = min(range(len(blocks)), key=lambda i: len(blocks[i]))
    pending = {(smaller, a) for a in letters}
    while pending:
        splitter, a = pending.pop()
        touched: dict[int, set[int]] = {}
        for target in blocks[splitter]:
            for q in before[a][target]:
                touched.setdefault(block_of[q], set()).add(q)
        for i, inside in touched.items():
            if len(inside) == len(blocks[i]):
                continue
            outside = blocks[i] - inside
            new = len(blocks)
            blocks[i] = outside
            blocks.append(inside)
            for q in inside:
                block_of[q] = new
            for b in letters:
                if (i, b) in pending or len(inside) <= len(outside):
                    pending.add((new, b))
                else:
                    pending.add((i, b))
    return block_of


def complement(dfa: DFA) -> DFA:
    """Accepts the other words over the same alphabet."""
    return replace(dfa, accept=frozenset(range(len(dfa.states))) - dfa.accept)


def product(a: DFA, b: DFA, accepts: Callable[[bool, bool], bool]) -> DFA:
    """Runs both; accepts what `accepts` makes of their two answers.  The alphabets must be the same set of letters.

    Raises TooLarge.
    """
    if set(a.alphabet) != set(b.alphabet):
        raise ValueError("the two automata have different alphabets")
    step_a, step_b = _stepper(a), _stepper(b)
    long = max(map(len, (*a.states, *b.states))) > LONGEST_NAME  # names double with each product
    return explore(
        a.alphabet,
        (a.start, b.start),
        lambda pair, letter: (step_a(pair[0], letter), step_b(pair[1], letter)),
        lambda pair: accepts(pair[0] in a.accept, pair[1] in b.accept),
        name=lambda pair: "" if long else f"{a.states[pair[0]]},{b.states[pair[1]]}",
        most=min(MAX_PRODUCT, MAX_TRANSITIONS // max(1, len(a.alphabet))),
    )


def distinguishing_word(a: DFA, b: DFA, *, nonempty: bool = False) -> Word | None:
    """A shortest word that one accepts and the other does not, or None when the languages are equal.

    With `nonempty` the empty word does not count.
    """
    if set(a.alphabet) != set(b.alphabet):
        raise ValueError("the two automata have different alphabets")
    step_a, step_b = _stepper(a), _stepper(b)
    start = (a.start, b.start)
    came: dict[tuple[int, int], tuple[tuple[int, int], str] | None] = {start: None}

    def differ(pair: tuple[int, int]) -> bool:
        return (pair[0] in a.accept) != (pair[1] in b.accept)

    if not nonempty and differ(start):
        return ()
    queue = deque([start])
    while queue:
        pair = queue.popleft()
        for letter in a.alphabet:
            after = (step_a(pair[0], letter), step_b(pair[1], letter))
            if differ(after):  # also when it is the start again: then a nonempty word leads there
                return (*_path(came, pair), letter)
            if after not in came:
                came[after] = (pair, letter)
                queue.append(after)
    return None


def distinguishing(dfa: DFA, p: int, q: int) -> Word | None:
    """A shortest word accepted from exactly one of two states; None where there is none."""
    return distinguishing_word(replace(dfa, start=p), replace(dfa, start=q))


def _path(came: Mapping[tuple[int, int], tuple[tuple[int, int], str] | None], end: tuple[int, int]) -> Word:
    letters: list[str] = []
    step = came[end]
    while step is not None:
        letters.append(step[1])
        step = came[step[0]]
    return tuple(reversed(letters))


def equivalent(a: DFA, b: DFA, *, nonempty: bool = False) -> bool:
    return distinguishing_word(a, b, nonempty=nonempty) is None


def rename(dfa: DFA, alphabet: Sequence[str]) -> DFA:
    """The i-th letter is called alphabet[i]."""
    if len(alphabet) != len(dfa.alphabet):
        raise ValueError(f"{len(dfa.alphabet)} letters cannot be called {len(alphabet)} names")
    return replace(dfa, alphabet=tuple(alphabet))


def reorder(dfa: DFA, alphabet: Sequence[str]) -> DFA:
    """The same letters in another order."""
    columns = [dfa.alphabet.index(letter) for letter in alphabet]
    return replace(dfa, alphabet=tuple(alphabet), delta=tuple(tuple(row[c] for c in columns) for row in dfa.delta))


def without_empty_word(dfa: DFA) -> DFA:
    """The minimal automaton among those with the same *nonempty* words; as written when both answers cost the same.

    A recogniser answers after each letter, so the empty word is no part of any claim.
    """
    as_written = minimise(dfa)
    fresh = len(dfa.states)
    name = next(n for n in ("start", *(f"start{i}" for i in range(fresh + 1))) if n not in dfa.states)
    flipped = DFA(
        alphabet=dfa.alphabet,
        states=(*dfa.states, name),
        delta=(*dfa.delta, dfa.delta[dfa.start]),
        start=fresh,
        accept=dfa.accept if dfa.start in dfa.accept else dfa.accept | {fresh},
    )
    other = minimise(flipped)
    return other if len(other.states) < len(as_written.states) else as_written

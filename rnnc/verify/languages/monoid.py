"""The transition monoid of an automaton: what its words do to its states.

An element is the tuple of images of the states; words act from the left to the right, so the element of u v is
`compose(element(u), element(v))`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rnnc.verify.languages.dfa import DFA, TooLarge, Word

Transformation: TypeAlias = tuple[int, ...]

MAX_ELEMENTS = 20_000
MAX_CELLS = 4_000_000  # elements times states
MAX_WORK = 400_000_000  # entries compared in search of subgroups
MAX_TABLE = 1_000_000  # products of an element and a letter that are listed


@dataclass(frozen=True, slots=True, kw_only=True)
class Monoid:
    """All transformations of the states that words make.

    `images` [M, S]: row 0 is the identity (the empty word), the others in the order in which shortest words find them.
    `parent[i]`, `letter[i]`: element i is parent[i] followed by letter[i].
    """

    alphabet: tuple[str, ...]
    images: NDArray[np.int32] = field(repr=False)
    parent: tuple[int, ...] = field(repr=False)
    letter: tuple[int, ...] = field(repr=False)

    @property
    def order(self) -> int:
        return int(self.images.shape[0])

    def element(self, index: int) -> Transformation:
        return tuple(self.images[index].tolist())

    def word(self, index: int) -> Word:
        """A shortest word of an element."""
        letters: list[str] = []
        while index:
            letters.append(self.alphabet[self.letter[index]])
            index = self.parent[index]
        return tuple(reversed(letters))


def transition_monoid(dfa: DFA, *, most: int = MAX_ELEMENTS) -> Monoid:
    """By breadth-first search from the identity.  Raises TooLarge above `most` elements."""
    size = len(dfa.states)
    letters = [np.array(dfa.action(a), dtype=np.int32) for a in dfa.alphabet]
    identity = np.arange(size, dtype=np.int32)
    most = min(most, max(1, MAX_CELLS // size))
    index = {identity.tobytes(): 0}
    elements, parent, letter = [identity], [0], [0]
    position = 0
    while position < len(elements):
        element = elements[position]
        for a, images in enumerate(letters):
            after = images[element]
            key = after.tobytes()
            if key not in index:
                if len(elements) >= most:
                    raise TooLarge(f"the transition monoid has more than {most} elements")
                index[key] = len(elements)
                elements.append(after)
                parent.append(position)
                letter.append(a)
        position += 1
    return Monoid(alphabet=dfa.alphabet, images=np.stack(elements), parent=tuple(parent), letter=tuple(letter))


def compose(first: Sequence[int], then: Sequence[int]) -> Transformation:
    """`first`, then `then`."""
    return tuple(then[q] for q in first)


def cycles(f: Sequence[int]) -> tuple[int, ...]:
    """The lengths of the cycles of q -> f(q), ascending."""
    seen = [0] * len(f)  # 0, or the number of the walk that came by
    lengths: list[int] = []
    for walk, q in enumerate(range(len(f)), start=1):
        here, at = q, 0
        place: dict[int, int] = {}
        while not seen[here]:
            seen[here], place[here] = walk, at
            here, at = f[here], at + 1
        if seen[here] == walk:
            lengths.append(at - place[here])
    return tuple(sorted(lengths))


def period(f: Sequence[int]) -> int:
    """The least p > 0 with f^(n+p) = f^n for some n: the least common multiple of the cycles' lengths."""
    return math.lcm(*cycles(f))


def rank(f: Sequence[int]) -> int:
    return len(set(f))


def is_permutation(f: Sequence[int]) -> bool:
    return rank(f) == len(f)


def moved(f: Sequence[int]) -> int:
    """How many points f moves."""
    return sum(q != image for q, image in enumerate(f))


def all_periods(monoid: Monoid) -> frozenset[int]:
    """The periods of all elements.  Aperiodic (star-free, Schützenberger 1965) iff this is {1}."""
    found: set[int] = set()
    for row in monoid.images.tolist():
        found.add(period(row))
    return frozenset(found)


def commutes(letters: Iterable[Sequence[int]]) -> bool:
    """Whether the monoid that these letters generate is commutative."""
    listed = list(letters)
    return all(compose(a, b) == compose(b, a) for i, a in enumerate(listed) for b in listed[i + 1 :])


def maximal_subgroups(monoid: Monoid) -> list[tuple[Transformation, ...]]:
    """The maximal subgroups of rank two or more, each as the permutations it makes of an idempotent's image.

    The subgroup around an idempotent e is what e m e does to the image of e where it permutes it.  Idempotents with one
    image generate the same left ideal, so their subgroups are isomorphic: one for each image is enough.  May raise
    TooLarge.
    """
    images = monoid.images
    idempotents = np.flatnonzero((np.take_along_axis(images, images, axis=1) == images).all(axis=1))
    chosen: dict[tuple[int, ...], int] = {}
    for e in idempotents.tolist():
        points = tuple(np.unique(images[e]).tolist())
        if len(points) > 1:
            chosen.setdefault(points, e)
    if sum(map(len, chosen)) * monoid.order > MAX_WORK:
        raise TooLarge("the transition monoid has too many idempotents")
    groups: dict[tuple[Transformation, ...], None] = {}
    for points, e in chosen.items():
        columns = np.array(points)
        local = images[e][images[:, columns]]  # [M, r]: where each element, followed by e, takes the image of e
        permutes = (np.sort(local, axis=1) == columns).all(axis=1)
        numbered = np.unique(np.searchsorted(columns, local[permutes]), axis=0)
        if len(numbered) > 1:
            groups.setdefault(tuple(tuple(row) for row in numbered.tolist()))
    return list(groups)


def lasting_elements(monoid: Monoid, dfa: DFA) -> tuple[int, tuple[int, ...]]:
    """(s, elements): what words of length s do is what words of every multiple of s do (the stable semigroup).

    A language is in AC0 iff these elements are aperiodic (Barrington, Compton, Straubing and Thérien 1992).  Raises
    TooLarge.
    """
    letters = [np.array(dfa.action(a), dtype=np.int32) for a in dfa.alphabet]
    if monoid.order * len(letters) > MAX_TABLE:
        raise TooLarge("the transition monoid has too many products")
    index = {row.tobytes(): i for i, row in enumerate(monoid.images)}
    after = np.array([[index[images[row].tobytes()] for images in letters] for row in monoid.images])  # [M, L]
    here = np.array([0])
    seen: dict[bytes, int] = {}
    sets: list[NDArray[np.int64]] = []
    work = 0
    while here.tobytes() not in seen:
        seen[here.tobytes()] = len(sets)
        sets.append(here)
        work += here.size
        if work > MAX_CELLS:
            raise TooLarge("the sets of words of one length do not come round soon enough")
        here = np.unique(after[here])
    begin = seen[here.tobytes()]
    turn = len(sets) - begin
    s = turn * max(1, -(-begin // turn))
    return s, tuple(sets[begin + (s - begin) % turn].tolist())

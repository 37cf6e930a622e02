"""Automata as points of a vector space that letters map by affine maps: one-hot states, turns, permutations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import combinations, islice, product

from rnnc.verify.languages.dfa import DFA
from rnnc.verify.witness.actions import ICOSAHEDRON, ROTATIONS, Reflection, icosahedral, plane_actions
from rnnc.verify.witness.numbers import ONE, ZERO, Number, cosine, quotient, sine, unity
from rnnc.verify.witness.permutations import (
    Permutation,
    compose,
    elements,
    letters_as_permutations,
    point_actions,
    powers,
)

Vector = tuple[Number, ...]
Matrix = tuple[Vector, ...]

MATRICES = ("the automaton's transition matrices on one-hot states", "Terzic et al. 2025 (PD-SSM), Prop. 2")
POINTS = ("permutation matrices on few points", "Grazzi et al. 2025, Thm 3; Terzic et al. 2025 (PD-SSM)")
CHARACTERS = ("a rotation of the complex plane per cyclic factor", "Shakerinava et al.; rotations by roots of unity")
MOST_CHARACTERS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Representation:
    """v -> maps[letter] v + adds[letter], from `start` on."""

    maps: tuple[Matrix, ...]
    adds: tuple[Vector, ...]
    start: Vector
    construction: str
    source: str

    @property
    def size(self) -> int:
        return len(self.start)

    @property
    def linear(self) -> bool:
        return not any(any(v) for v in self.adds)

    def translated(self, start: Vector) -> Representation:
        """With its start moved there."""
        gap = tuple(x - y for x, y in zip(self.start, start, strict=True))
        adds = tuple(
            tuple(x + y - z for x, y, z in zip(_times(m, gap), add, gap, strict=True))
            for m, add in zip(self.maps, self.adds, strict=True)
        )
        return replace(self, adds=adds, start=start)

    def turned(self, start: Vector) -> Representation | None:
        """In a basis in which its start has these coordinates; None where there is none of a simple form."""
        p = next((i for i in range(self.size) if start[i] and self.start[i]), None)
        if p is None:
            return None
        gap = tuple(x - y for x, y in zip(start, self.start, strict=True))
        there = _shear(gap, p, self.start[p])
        back = _shear(tuple(-x for x in gap), p, start[p])
        if there is None or back is None:
            return None
        maps = tuple(_product(_product(there, m), back) for m in self.maps)
        return replace(self, maps=maps, adds=tuple(_times(there, v) for v in self.adds), start=start)


def _times(m: Matrix, v: Vector) -> Vector:
    return tuple(sum((x * y for x, y in zip(row, v, strict=True)), ZERO) for row in m)


def _product(a: Matrix, b: Matrix) -> Matrix:
    columns = [_times(a, tuple(row[j] for row in b)) for j in range(len(b))]
    return tuple(tuple(c[i] for c in columns) for i in range(len(a)))


def _shear(gap: Vector, p: int, by: Number) -> Matrix | None:
    """I + gap e_p^T / by."""
    scaled = [quotient(x, by) for x in gap]
    known = [x for x in scaled if x is not None]
    if len(known) != len(scaled):
        return None
    n = len(gap)
    return tuple(tuple((ONE if i == j else ZERO) + (known[i] if j == p else ZERO) for j in range(n)) for i in range(n))


def fitted(rep: Representation, start: Vector | None, writes: bool) -> Iterator[Representation]:
    """Forms of it that a recurrence with this initial state (None: any) and with writes or without can have."""
    if start is None:
        yield rep
        if writes:
            yield rep.translated((ZERO,) * rep.size)
        return
    if start == rep.start or (rep.linear and any(start)):
        yield replace(rep, start=start)
    if writes:
        yield rep.translated(start)
    if rep.linear and any(start) and start != rep.start:
        turned = rep.turned(start)
        if turned is not None:
            yield turned


def representations(dfa: DFA, size: int) -> Iterator[Representation]:
    """Those of at most `size` dimensions, over the reals."""
    for moving, resets in movers_and_resets(dfa):
        for rep in _of_group(moving, size):
            yield _with_resets(dfa, moving, rep, resets)
    if len(dfa.states) <= size:
        yield one_hot(dfa)


def _of_group(dfa: DFA, size: int) -> Iterator[Representation]:
    if size >= 2:
        for turns in plane_actions(dfa):
            maps = tuple(_isometry(t.turns, mirror=t.mirror) for t in turns)
            for angle in (Fraction(0), Fraction(1, 8), Fraction(7, 24)):
                yield _linear(maps, (cosine(angle), sine(angle)), ROTATIONS)
    for action in point_actions(dfa):
        if len(action[0]) <= size:
            n = len(action[0])
            yield _linear(tuple(map(_permutation, action)), tuple(Fraction(k + 1) for k in range(n)), POINTS)
    if size >= 3:
        for found in icosahedral(dfa, 2):
            maps = tuple(_reflected(letter) for letter in found.letters)
            yield _linear(maps, found.start, ICOSAHEDRON)


def movers_and_resets(dfa: DFA) -> Iterator[tuple[DFA, dict[int, int]]]:
    """The letters that permute the states as an automaton of their own, and where each other letter leads from every
    state; nothing where some letter does neither, or the former do not reach all states.
    """
    images = [{row[a] for row in dfa.delta} for a in range(len(dfa.alphabet))]
    resets = {a: min(image) for a, image in enumerate(images) if len(image) == 1 and len(dfa.states) > 1}
    moving = [a for a in range(len(dfa.alphabet)) if a not in resets]
    if not moving or any(len(images[a]) < len(dfa.states) for a in moving):
        return
    part = replace(
        dfa,
        alphabet=tuple(dfa.alphabet[a] for a in moving),
        delta=tuple(tuple(row[a] for a in moving) for row in dfa.delta),
    )
    if not resets or len(words_to_states(part)) == len(dfa.states):
        yield part, resets


def words_to_states(dfa: DFA) -> dict[int, tuple[int, ...]]:
    """A word of letters to each state that some lead to."""
    words: dict[int, tuple[int, ...]] = {dfa.start: ()}
    work = [dfa.start]
    for q in work:  # grows while it is walked
        for a in range(len(dfa.alphabet)):
            if dfa.delta[q][a] not in words:
                words[dfa.delta[q][a]] = (*words[q], a)
                work.append(dfa.delta[q][a])
    return words


def _with_resets(dfa: DFA, moving: DFA, rep: Representation, resets: dict[int, int]) -> Representation:
    """A representation of the letters that move, with resets as the zero map and the point they lead to."""
    if not resets:
        return rep
    words = words_to_states(moving)
    zero = (ZERO,) * rep.size
    of = {a: k for k, a in enumerate(moving.alphabet)}
    maps, adds = [], []
    for a, letter in enumerate(dfa.alphabet):
        if letter in of:
            maps.append(rep.maps[of[letter]])
            adds.append(rep.adds[of[letter]])
            continue
        point = rep.start
        for k in words[resets[a]]:
            point = tuple(x + y for x, y in zip(_times(rep.maps[k], point), rep.adds[k], strict=True))
        maps.append((zero,) * rep.size)
        adds.append(point)
    return replace(rep, maps=tuple(maps), adds=tuple(adds))


def _linear(maps: tuple[Matrix, ...], start: Vector, names: tuple[str, str]) -> Representation:
    zero = (ZERO,) * len(start)
    return Representation(maps=maps, adds=(zero,) * len(maps), start=start, construction=names[0], source=names[1])


def _isometry(turns: Fraction, mirror: bool) -> Matrix:
    c, s = (cosine(turns), sine(turns)) if not mirror else (-cosine(2 * turns), -sine(2 * turns))
    return ((c, s if mirror else -s), (s, -c if mirror else c))


def _permutation(p: Permutation) -> Matrix:
    """What was at place i goes to place p[i]."""
    n = len(p)
    return tuple(tuple(ONE if p[j] == i else ZERO for j in range(n)) for i in range(n))


def _reflected(letter: tuple[Reflection, ...]) -> Matrix:
    n = 3
    out: Matrix = tuple(tuple(ONE if i == j else ZERO for j in range(n)) for i in range(n))
    for r in letter:
        mirror = tuple(tuple((ONE if i == j else ZERO) - 2 * r.key[i] * r.key[j] for j in range(n)) for i in range(n))
        out = _product(mirror, out)
    return out


def one_hot(dfa: DFA) -> Representation:
    """The start is the first unit vector."""
    order = [dfa.start, *(q for q in range(len(dfa.states)) if q != dfa.start)]
    maps = tuple(
        tuple(tuple(ONE if dfa.delta[q][a] == p else ZERO for q in order) for p in order)
        for a in range(len(dfa.alphabet))
    )
    return _linear(maps, (ONE, *(ZERO,) * (len(order) - 1)), MATRICES)


# ---------------------------------------------------------------- over the complex numbers, one dimension each


def characters(dfa: DFA) -> Iterator[tuple[Representation, ...]]:
    """Few rotations of the complex plane whose angles tell the state, where the letters that permute it commute; all
    others are resets.
    """
    for moving, resets in movers_and_resets(dfa):
        generators = letters_as_permutations(moving)
        group = None if generators is None else elements(generators)
        if generators is None or group is None or len(group) < 2:
            return
        if any(compose(p, q) != compose(q, p) for p in generators for q in generators):
            return
        found = [c for c in _homomorphisms(generators) if any(c)]
        found.sort(key=lambda turns: (-max(t.denominator for t in turns), turns))
        for count in (1, 2, 3):
            chosen = _separating(found, generators, len(group), count)
            if chosen is not None:
                yield tuple(_with_resets(dfa, moving, _character(turns), resets) for turns in chosen)
                return


def _homomorphisms(generators: tuple[Permutation, ...]) -> list[tuple[Fraction, ...]]:
    """The turns of every letter, consistently: those of letters that generate the group decide the others."""
    basis = _basis(generators)
    orders = [len(powers(generators[k])) for k in basis]
    if math.prod(orders) > MOST_CHARACTERS:
        return []
    chosen = tuple(generators[k] for k in basis)
    found = []
    for turns in product(*([Fraction(k, n) for k in range(n)] for n in orders)):
        to = _images(chosen, [turns])
        if to is not None:
            found.append(tuple(to[g][0] for g in generators))
    return found


def _basis(generators: tuple[Permutation, ...]) -> list[int]:
    """Letters that generate the group, those of large order first."""
    chosen: list[int] = []
    have = {tuple(range(len(generators[0])))}
    for k in sorted(range(len(generators)), key=lambda k: -len(powers(generators[k]))):
        if generators[k] not in have:
            chosen.append(k)
            have = set(elements(tuple(generators[i] for i in chosen)) or ())
    return chosen


def _images(
    generators: tuple[Permutation, ...], several: list[tuple[Fraction, ...]]
) -> dict[Permutation, tuple[Fraction, ...]] | None:
    """The angles of every element, or None where they are not well defined."""
    one = tuple(range(len(generators[0])))
    to = {one: (Fraction(0),) * len(several)}
    work = [one]
    for p in work:  # grows while it is walked
        for k, g in enumerate(generators):
            q = compose(p, g)
            angle = tuple((x + turns[k]) % 1 for x, turns in zip(to[p], several, strict=True))
            if q not in to:
                to[q] = angle
                work.append(q)
            elif to[q] != angle:
                return None
    return to


def _separating(
    found: list[tuple[Fraction, ...]], generators: tuple[Permutation, ...], size: int, count: int
) -> list[tuple[Fraction, ...]] | None:
    for chosen in islice(combinations(found, count), 2000):
        to = _images(generators, list(chosen))
        if to is not None and len(set(to.values())) == size:
            return list(chosen)
    return None


def _character(turns: tuple[Fraction, ...]) -> Representation:
    maps = tuple(((unity(t),),) for t in turns)
    return Representation(
        maps=maps,
        adds=((ZERO,),) * len(turns),
        start=(ONE,),
        construction=CHARACTERS[0],
        source=CHARACTERS[1],
    )

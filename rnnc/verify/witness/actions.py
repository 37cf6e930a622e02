"""What letters do as isometries: turns and mirrors of the plane, the icosahedral group, permutations of coordinates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import product

from rnnc.exact import root
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.witness.numbers import HALF, ONE, ZERO, Number, cosine, sine
from rnnc.verify.witness.permutations import (
    Permutation,
    Swap,
    colourings,
    compose,
    crossing_swaps,
    elements,
    letters_as_permutations,
    point_actions,
    powers,
    swaps,
)

Vector = tuple[Number, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reflection:
    """x -> x - 2 key (key . x - offset) with a unit key, in coordinates whose origin is the start."""

    key: Vector
    offset: Number


Letters = tuple[tuple[Reflection, ...], ...]  # for each letter its reflections, first to last


@dataclass(frozen=True, slots=True, kw_only=True)
class Isometries:
    """Letters as reflections, `start` the point that stands for the start, before it became the origin."""

    letters: Letters
    start: Vector
    construction: str
    source: str


ROTATIONS = ("rotations and reflections of the plane, as products of reflections", "Grazzi et al. 2025, Thms 3 and 6")
SWAPS = (
    "permutations of points, as products of transpositions I - (e_i - e_j)(e_i - e_j)^T",
    "Grazzi et al. 2025, Thm 3",
)
ICOSAHEDRON = (
    "rotations of the icosahedron, each as two reflections in its mirrors",
    "Grazzi et al. 2025, Thm 3; the Coxeter group H3 over Q(sqrt 5)",
)


def isometries(dfa: DFA, steps: int, size: int) -> Iterator[Isometries]:
    """Ways to have every letter as at most `steps` reflections of a space of at most `size` dimensions."""
    if size >= 2:
        for turns in plane_actions(dfa):
            yield from plane_reflections(turns, steps)
    if size >= 3:
        yield from icosahedral(dfa, steps)
    for found in transpositions(dfa, steps):
        if len(found.start) <= size:
            yield found


# ---------------------------------------------------------------- the plane


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """An isometry of the plane: a rotation by `turns`, or, with `mirror`, the reflection whose normal is at `turns`."""

    turns: Fraction
    mirror: bool = False


def plane_actions(dfa: DFA) -> Iterator[tuple[Turn, ...]]:
    """Each letter as a rotation or reflection of the plane, where the automaton's group is cyclic or dihedral."""
    generators = letters_as_permutations(dfa)
    group = None if generators is None else elements(generators)
    if generators is None or group is None or len(group) < 2:
        return
    n = len(group)
    for r in group:
        cycle = powers(r)
        if len(cycle) == n:
            yield tuple(Turn(turns=_centred(Fraction(cycle.index(g), n))) for g in generators)
            return
    if n % 2:
        return
    for r in group:
        found = _dihedral(group, r, generators)
        if found is not None:
            yield found
            return


def _dihedral(group: list[Permutation], r: Permutation, generators: tuple[Permutation, ...]) -> tuple[Turn, ...] | None:
    """With r as the rotation by one step, if the other half of the group are mirrors."""
    cycle, half = powers(r), len(group) // 2
    if len(cycle) != half:
        return None
    s = next(g for g in group if g not in cycle)
    back = cycle[-1] if half > 1 else cycle[0]
    if len(powers(s)) != 2 or compose(compose(s, r), s) != back:
        return None
    # Elements outside are s followed by a power of r: the mirror's normal turns by half as much.
    letters = []
    for g in generators:
        if g in cycle:
            letters.append(Turn(turns=_centred(Fraction(cycle.index(g), half))))
        else:
            j = next(j for j, p in enumerate(cycle) if compose(s, p) == g)
            letters.append(Turn(turns=Fraction(j, 2 * half), mirror=True))
    return tuple(letters)


def _centred(turns: Fraction) -> Fraction:
    """In (-1/2, 1/2]."""
    turns %= 1
    return turns - 1 if turns > Fraction(1, 2) else turns


def plane_reflections(letters: tuple[Turn, ...], steps: int) -> Iterator[Isometries]:
    """Each letter as at most `steps` reflections of the plane, with the start at the origin.

    Keys lie in the positive quadrant where that is possible at all (some cells have no others).
    """
    if any((1 if t.mirror else 2 if t.turns else 0) > steps for t in letters):
        yield from _two_lines(letters, steps)
        return
    mirrors = sorted({t.turns % HALF for t in letters if t.mirror})
    shifts = [-m for m in mirrors] or [Fraction(0)]
    seen: set[tuple[tuple[Fraction, ...], ...]] = set()
    for shift in shifts:
        lists = tuple(tuple(_normals(t, shift)) for t in letters)
        if lists not in seen:
            seen.add(lists)
            yield from _planes(lists)
    yield from _two_lines(letters, steps)


def _planes(lists: tuple[tuple[Fraction, ...], ...]) -> Iterator[Isometries]:
    for start in (Fraction(1, 2), Fraction(5, 8), Fraction(7, 12)):
        yield Isometries(
            letters=tuple(tuple(_plane(turns, start) for turns in normals) for normals in lists),
            start=(cosine(start), sine(start)),
            construction=ROTATIONS[0],
            source=ROTATIONS[1],
        )


def _two_lines(letters: tuple[Turn, ...], steps: int) -> Iterator[Isometries]:
    """All of a dihedral group's elements as alternating products of two reflections s, t whose normals are acute:
    for keys in the positive quadrant.
    """
    mirrors = [t.turns for t in letters if t.mirror]
    if not mirrors:
        return
    order = max(t.turns.denominator * (1 if t.mirror else 2) for t in letters)
    angle = Fraction(1, order)  # between the two normals: st turns by twice as much
    base = mirrors[0] % HALF
    lists = []
    for t in letters:
        word = _alternating(t, base, angle, steps)
        if word is None:
            return
        lists.append(tuple(word))
    yield from _planes(tuple(lists))


def _alternating(t: Turn, base: Fraction, angle: Fraction, steps: int) -> list[Fraction] | None:
    """Normals at 0 and `angle` in turn whose product is t with its normals turned by -base; None above `steps`."""
    want = (t.mirror, (2 * (t.turns - base) if t.mirror else t.turns) % 1)
    for length in range(steps + 1):
        for first in (0, 1):
            normals = [angle * ((first + k) % 2) for k in range(length)]
            mirror, turns = False, Fraction(0)
            for normal in normals:  # z -> -e(2 normal) conj(z): mirrors are e(turns) conj, up to the sign at the end
                mirror, turns = not mirror, (2 * normal - turns) % 1
            # an odd product of reflections with normals a is the reflection with normal turns / 2
            if (mirror, turns) == want:
                return normals
    return None


def _normals(t: Turn, shift: Fraction) -> list[Fraction]:
    if t.mirror:
        return [(t.turns + shift) % HALF]
    if not t.turns:
        return []
    half = abs(t.turns) / 2
    return [Fraction(0), half] if t.turns > 0 else [half, Fraction(0)]


def _plane(turns: Fraction, start: Fraction) -> Reflection:
    """With its centre where the start, at angle `start` on the unit circle, becomes the origin."""
    return Reflection(key=(cosine(turns), sine(turns)), offset=-cosine(turns - start))


# ---------------------------------------------------------------- swaps of coordinates


def transpositions(dfa: DFA, steps: int) -> Iterator[Isometries]:
    """Letters that permute n points by at most `steps` transpositions each (Grazzi Thm 3): swaps of coordinates, also
    with the signs of every other coordinate turned, which makes keys of swaps between them nonnegative.
    """
    for action in point_actions(dfa):
        n = len(action[0])
        lists = [swaps(p) for p in action]
        if all(len(found) <= steps for found in lists):
            yield _swapping(lists, (0,) * n)
        if n > 6 and steps > 4:
            continue  # too many products of swaps
        for colours in colourings(n):
            words = crossing_swaps(colours, steps)
            crossing = [words.get(p) for p in action]
            kept = [found for found in crossing if found is not None]
            if len(kept) == len(crossing):
                yield _swapping(kept, colours)
                break


def _swapping(lists: list[tuple[Swap, ...]], colours: tuple[int, ...]) -> Isometries:
    """Coordinates of colour 1 have their sign turned; the points are at 1, 2, ..., n, those of colour 0 first: offsets
    of swaps between the colours are then positive, as some cells' values are.
    """
    n = len(colours)
    sign = [-ONE if c else ONE for c in colours]
    s = root(HALF)
    order = sorted(range(n), key=lambda k: (colours[k], k))
    start = tuple(sign[k] * (order.index(k) + 1) for k in range(n))

    def reflection(i: int, j: int) -> Reflection:
        key = tuple(s if k == i else -s * sign[i] * sign[j] if k == j else ZERO for k in range(n))
        return Reflection(key=key, offset=-(key[i] * start[i] + key[j] * start[j]))

    return Isometries(
        letters=tuple(tuple(reflection(i, j) for i, j in found) for found in lists),
        start=start,
        construction=SWAPS[0],
        source=SWAPS[1],
    )


# ---------------------------------------------------------------- the icosahedron


def icosahedral(dfa: DFA, steps: int) -> Iterator[Isometries]:
    """A group of 60 elements on 5 points is A5: the rotations of the icosahedron, of which each is two reflections."""
    if steps < 2:
        return
    for action in point_actions(dfa):
        group = elements(action)
        if group is None or len(group) != 60 or len(action[0]) != 5:
            continue
        turned = _as_rotations(action, group)
        if turned is None:
            continue
        start = (ONE, Fraction(2), Fraction(5))
        letters = tuple(tuple(Reflection(key=k, offset=-_dot(k, start)) for k in pair) for pair in turned)
        yield Isometries(letters=letters, start=start, construction=ICOSAHEDRON[0], source=ICOSAHEDRON[1])
        return


@cache
def icosahedral_roots() -> tuple[Vector, ...]:
    """One unit normal of each of the 15 mirrors of the icosahedron."""
    phi = (1 + root(5)) / 2
    found: list[Vector] = [(ONE, ZERO, ZERO), (ZERO, ONE, ZERO), (ZERO, ZERO, ONE)]
    for second, third in product((1, -1), repeat=2):
        base = (phi / 2, second * HALF, third / (2 * phi))
        found += [(base[k % 3], base[(k + 1) % 3], base[(k + 2) % 3]) for k in range(3)]
    return tuple(found)


def _dot(a: Vector, b: Vector) -> Number:
    return sum((x * y for x, y in zip(a, b, strict=True)), ZERO)


@cache
def _mirrors() -> tuple[Permutation, ...]:
    """What each mirror does to the 15 mirrors."""
    roots = icosahedral_roots()

    def image(r: Vector, k: Vector) -> int:
        twice = 2 * _dot(k, r)
        to = tuple(x - twice * y for x, y in zip(r, k, strict=True))
        return next(i for i, s in enumerate(roots) if to in (s, tuple(-x for x in s)))

    return tuple(tuple(image(r, k) for r in roots) for k in roots)


def _as_rotations(action: tuple[Permutation, ...], group: list[Permutation]) -> list[tuple[Vector, ...]] | None:
    """Each letter as a pair of normals (none for the identity): an isomorphism onto the rotations, found by trying
    where two generators of the group go.
    """
    mirrors, roots = _mirrors(), icosahedral_roots()
    rotations: dict[Permutation, tuple[int, int] | None] = {tuple(range(15)): None}
    for i, j in product(range(15), repeat=2):
        if i != j:
            rotations.setdefault(compose(mirrors[i], mirrors[j]), (i, j))
    one = group[0]
    five = next(g for g in group if len(powers(g)) == 5)
    two = next(g for g in group if len(powers(g)) == 2 and len(elements((five, g)) or ()) == 60)
    turn = next(r for r in rotations if len(powers(r)) == 5)
    for image in (turn, compose(turn, turn)):
        for flip in (r for r in rotations if len(powers(r)) == 2):
            to = _extended({five: image, two: flip}, one, tuple(range(15)))
            if to is not None and len(set(to.values())) == 60:
                pairs = [rotations[to[p]] for p in action]
                return [() if pair is None else (roots[pair[0]], roots[pair[1]]) for pair in pairs]
    return None


def _extended(
    images: dict[Permutation, Permutation], one: Permutation, identity: Permutation
) -> dict[Permutation, Permutation] | None:
    """The homomorphism with these images of generators, or None."""
    to = {one: identity}
    work = [one]
    for p in work:  # grows while it is walked
        for g, image in images.items():
            q, r = compose(p, g), compose(to[p], image)
            if q not in to:
                to[q] = r
                work.append(q)
            elif to[q] != r:
                return None
    return to

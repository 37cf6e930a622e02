"""What letters do to an automaton's states, as maps a recurrence can have: bits, rotations, reflections, swaps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations, product

from rnnc.verify.languages.dfa import DFA
from rnnc.verify.witness.numbers import ZERO, Number, cosine, root, sine

Permutation = tuple[int, ...]
BitLetter = str  # "hold" | "flip" | "zero" | "one"
Bit = tuple[BitLetter, ...]  # what each letter does to one bit

MAX_GROUP = 150


# ---------------------------------------------------------------- bits


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


def bit_automata(dfa: DFA, able: frozenset[BitLetter], most: int) -> Iterator[tuple[Bit, ...]]:
    """Sets of up to `most` bits whose values tell the state, smallest first; `able`: what a letter can do to a bit."""
    kinds = [k for k in ("hold", "zero", "one", "flip") if k in able]
    letters = len(dfa.alphabet)
    if not kinds or len(kinds) ** letters > 4096:
        return
    # A bit that nothing raises stays zero.
    useful = [b for b in product(kinds, repeat=letters) if "one" in b or "flip" in b]
    for n in range(1, most + 1):
        if len(useful) ** n > 20_000:
            return
        for bits in combinations(useful, n):
            if determines(bits, dfa):
                yield bits


# ---------------------------------------------------------------- groups


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """An isometry of the plane: a rotation by `turns`, or, with `mirror`, the reflection whose normal is at `turns`."""

    turns: Fraction
    mirror: bool = False


def letters_as_permutations(dfa: DFA) -> tuple[Permutation, ...] | None:
    found = tuple(tuple(row[a] for row in dfa.delta) for a in range(len(dfa.alphabet)))
    return found if all(len(set(p)) == len(p) for p in found) else None


def compose(p: Permutation, q: Permutation) -> Permutation:
    """First p, then q."""
    return tuple(q[i] for i in p)


def elements(generators: tuple[Permutation, ...]) -> list[Permutation] | None:
    """The group, or None above MAX_GROUP elements."""
    one = tuple(range(len(generators[0])))
    found = {one}
    order = [one]
    for p in order:  # grows while it is walked
        for g in generators:
            q = compose(p, g)
            if q not in found:
                if len(found) >= MAX_GROUP:
                    return None
                found.add(q)
                order.append(q)
    return order


def _powers(p: Permutation) -> list[Permutation]:
    one = tuple(range(len(p)))
    out, q = [one], p
    while q != one:
        out.append(q)
        q = compose(q, p)
    return out


def plane_actions(dfa: DFA) -> Iterator[tuple[Turn, ...]]:
    """Each letter as a rotation or reflection of the plane, where the automaton's group is cyclic or dihedral."""
    generators = letters_as_permutations(dfa)
    group = None if generators is None else elements(generators)
    if generators is None or group is None or len(group) < 2:
        return
    n = len(group)
    for r in group:
        powers = _powers(r)
        if len(powers) == n:
            yield tuple(Turn(turns=_centred(Fraction(powers.index(g), n))) for g in generators)
            return
    if n % 2:
        return
    half = n // 2
    for r in group:
        powers = _powers(r)
        if len(powers) != half:
            continue
        s = next(g for g in group if g not in powers)
        back = powers[-1] if half > 1 else powers[0]
        if len(_powers(s)) != 2 or compose(compose(s, r), s) != back:
            continue
        # Elements outside are s followed by a power of r: the mirror's normal turns by half as much.
        letters = []
        for g in generators:
            if g in powers:
                letters.append(Turn(turns=_centred(Fraction(powers.index(g), half))))
            else:
                j = next(j for j, p in enumerate(powers) if compose(s, p) == g)
                letters.append(Turn(turns=Fraction(j, 2 * half), mirror=True))
        yield tuple(letters)
        return


def _centred(turns: Fraction) -> Fraction:
    """In (-1/2, 1/2]."""
    turns %= 1
    return turns - 1 if turns > Fraction(1, 2) else turns


# ---------------------------------------------------------------- reflections


@dataclass(frozen=True, slots=True, kw_only=True)
class Reflection:
    """x -> x - 2 key (key . x - offset) with a unit key."""

    key: tuple[Number, ...]
    offset: Number


def plane_reflections(letters: tuple[Turn, ...], steps: int) -> Iterator[tuple[tuple[Reflection, ...], ...]]:
    """Each letter as at most `steps` reflections of the plane, with the start at the origin.

    Keys lie in the positive quadrant where that is possible at all (some cells have no others).
    """
    if any((1 if t.mirror else 2 if t.turns else 0) > steps for t in letters):
        return
    mirrors = sorted({t.turns % Fraction(1, 2) for t in letters if t.mirror})
    shifts = [-m for m in mirrors] or [Fraction(0)]
    seen: set[tuple[object, ...]] = set()
    for shift in shifts:
        lists = [_normals(t, shift) for t in letters]
        key = tuple(map(tuple, lists))
        if key in seen:
            continue
        seen.add(key)
        for start in (Fraction(1, 2), Fraction(5, 8), Fraction(7, 12)):
            yield tuple(tuple(_plane(turns, start) for turns in normals) for normals in lists)


def _normals(t: Turn, shift: Fraction) -> list[Fraction]:
    if t.mirror:
        return [(t.turns + shift) % Fraction(1, 2)]
    if not t.turns:
        return []
    half = abs(t.turns) / 2
    return [Fraction(0), half] if t.turns > 0 else [half, Fraction(0)]


def _plane(turns: Fraction, start: Fraction) -> Reflection:
    """With its centre where the start, at angle `start` on the unit circle, becomes the origin."""
    return Reflection(key=(cosine(turns), sine(turns)), offset=-cosine(turns - start))


def transpositions(dfa: DFA, steps: int) -> Iterator[tuple[tuple[Reflection, ...], ...]]:
    """Letters that permute n points by at most `steps` transpositions each (Grazzi Thm 3)."""
    for action in point_actions(dfa):
        lists = [_swaps(p) for p in action]
        if all(len(swaps) <= steps for swaps in lists):
            n = len(action[0])
            yield tuple(tuple(_swap(n, i, j) for i, j in swaps) for swaps in lists)


def point_actions(dfa: DFA) -> Iterator[tuple[Permutation, ...]]:
    """The automaton's group on its states, and on the cosets of small subgroups, fewest points first."""
    generators = letters_as_permutations(dfa)
    if generators is None:
        return
    group = elements(generators)
    if group is None:
        return
    found: list[tuple[Permutation, ...]] = []
    if len(generators[0]) <= 8:
        found.append(generators)
    if len(group) <= 24:
        for p, q in combinations(group, 2):
            subgroup = elements((p, q))
            if subgroup is not None and 2 < len(group) // len(subgroup) <= 6:
                found.append(_on_cosets(group, subgroup, generators))
    seen = set()
    for action in sorted(found, key=lambda a: len(a[0])):
        acting = elements(action)
        if action not in seen and acting is not None and len(acting) == len(group):
            seen.add(action)
            yield action


def _on_cosets(
    group: list[Permutation], subgroup: list[Permutation], generators: tuple[Permutation, ...]
) -> tuple[Permutation, ...]:
    cosets: list[frozenset[Permutation]] = []
    for g in group:
        if not any(g in c for c in cosets):
            cosets.append(frozenset(compose(h, g) for h in subgroup))
    return tuple(
        tuple(next(k for k, d in enumerate(cosets) if compose(next(iter(c)), g) in d) for c in cosets)
        for g in generators
    )


def _swaps(p: Permutation) -> list[tuple[int, int]]:
    """The permutation (contents of place i go to place p[i]) as transpositions, first to last."""
    current = list(range(len(p)))  # current[i]: where the contents that began at i are
    out: list[tuple[int, int]] = []
    for i, target in enumerate(p):
        if current[i] != target:
            here = current[i]
            out.append((min(here, target), max(here, target)))
            for j, at in enumerate(current):
                current[j] = target if at == here else here if at == target else at
    return out


def _swap(n: int, i: int, j: int) -> Reflection:
    """Swaps entries i < j of y = x + (0, 1, ..., n - 1)."""
    s = root(Fraction(1, 2))
    key = tuple(s if k == i else -s if k == j else ZERO for k in range(n))
    return Reflection(key=key, offset=s.scaled(Fraction(j - i)))

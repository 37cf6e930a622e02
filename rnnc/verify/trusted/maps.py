"""Maps of a finite set 0, ..., n - 1 to itself, as tuples of images: what words do to an automaton, by brute force.

Independent of `rnnc.verify.languages`; the certificate checker uses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

Map: TypeAlias = tuple[int, ...]
MOST = 10_000  # powers of one map, or maps of one length


class TooMany(ValueError):
    """A bound was met."""


def composed(maps: Iterable[Map], size: int) -> Map:
    """The first map first."""
    f = tuple(range(size))
    for g in maps:
        f = tuple(g[q] for q in f)
    return f


def period(f: Map) -> int:
    """After how many repetitions a map comes back, in the end and at most.  Raises TooMany."""
    seen, g = {f: 0}, f
    while (g := tuple(f[q] for q in g)) not in seen:
        if len(seen) == MOST:
            raise TooMany("a period that is too long")
        seen[g] = len(seen)
    return len(seen) - seen[g]


def lasting(letters: Sequence[Map], f: Map) -> bool:
    """Whether for some s the products of n letters contain f for all n that s divides.  Raises TooMany."""
    sets = [frozenset(letters)]  # the products of 1, 2, ... letters
    while (more := frozenset(tuple(a[q] for q in g) for g in sets[-1] for a in letters)) not in sets:
        if len(sets) == MOST // 10 or len(more) > MOST:
            raise TooMany("too many actions of words")
        sets.append(more)
    first, every = sets.index(more), len(sets) - sets.index(more)
    return f in sets[(first // every + 1) * every - 1]


def lasting_image(f: Map) -> frozenset[int]:
    """What is reached however often a map is repeated."""
    image = frozenset(f)
    while (less := frozenset(f[q] for q in image)) != image:
        image = less
    return image


# ---------------------------------------------------------------- groups of permutations


def generated(maps: Iterable[Map]) -> list[Map]:
    """The identity and all products of permutations.  Raises TooMany."""
    given = list(dict.fromkeys(maps))
    found = [tuple(range(len(given[0])))]
    seen = set(found)
    for f in found:  # grows while it is walked
        for g in given:
            h = tuple(g[q] for q in f)
            if h not in seen:
                if len(found) == MOST:
                    raise TooMany("a group of too many elements")
                seen.add(h)
                found.append(h)
    return found


def inverse(f: Map) -> Map:
    return tuple(sorted(range(len(f)), key=f.__getitem__))


def derived_length(maps: Iterable[Map]) -> int | None:
    """Steps of the derived series of the group that permutations generate; None where it does not get to the identity.

    No subnormal series with abelian factors is shorter.  Raises TooMany.
    """
    term = _few(generated(maps))
    size, length = len(generated(term)), 0
    while size > 1:
        found = {composed((x, y, inverse(x), inverse(y)), len(x)) for x in term for y in term}
        inside = set(generated(found))
        while new := {m for x in found for g in term if (m := composed((inverse(g), x, g), len(x))) not in inside}:
            found = set(_few(generated(found | new)))  # the commutators of generators, and what is conjugate to them
            inside = set(generated(found))
        if len(inside) == size:
            return None
        term, size, length = _few(generated(found)), len(inside), length + 1
    return length


def _few(elements: list[Map]) -> list[Map]:
    """Few elements that generate the same group."""
    chosen, reached = [elements[0]], {elements[0]}
    for e in elements:
        if e not in reached:
            chosen.append(e)
            reached = set(generated(chosen))
    return chosen

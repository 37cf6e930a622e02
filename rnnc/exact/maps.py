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

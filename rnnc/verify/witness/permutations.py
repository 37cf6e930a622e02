"""Automata whose letters permute their states: the group, its actions on few points, and permutations as swaps."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations, islice, product

from rnnc.groups import closure
from rnnc.verify.languages.dfa import DFA

Permutation = tuple[int, ...]
Swap = tuple[int, int]

MAX_GROUP = 150
MOST_POINTS = 8
MOST_PAIRS = 4000  # of elements that are tried as generators of a subgroup


def letters_as_permutations(dfa: DFA) -> tuple[Permutation, ...] | None:
    found = tuple(tuple(row[a] for row in dfa.delta) for a in range(len(dfa.alphabet)))
    return found if all(len(set(p)) == len(p) for p in found) else None


def compose(p: Permutation, q: Permutation) -> Permutation:
    """First p, then q."""
    return tuple([q[i] for i in p])


def inverted(p: Permutation) -> Permutation:
    out = [0] * len(p)
    for i, j in enumerate(p):
        out[j] = i
    return tuple(out)


def elements(generators: tuple[Permutation, ...], most: int = MAX_GROUP) -> list[Permutation] | None:
    """The group, or None above `most` elements."""
    return closure(generators, most)


def powers(p: Permutation) -> list[Permutation]:
    one = tuple(range(len(p)))
    out, q = [one], p
    while q != one:
        out.append(q)
        q = compose(q, p)
    return out


# ---------------------------------------------------------------- actions


def point_actions(dfa: DFA) -> tuple[tuple[Permutation, ...], ...]:
    """The letters on few points such that the group acts faithfully: on the states, or on the cosets of a subgroup;
    fewest points first.
    """
    generators = letters_as_permutations(dfa)
    return () if generators is None else _point_actions(generators)


@lru_cache(maxsize=64)
def _point_actions(generators: tuple[Permutation, ...]) -> tuple[tuple[Permutation, ...], ...]:
    group = elements(generators)
    if group is None or len(group) < 2:
        return ()
    found: list[tuple[Permutation, ...]] = []
    if len(generators[0]) <= MOST_POINTS:
        found.append(generators)
    found += _coset_actions(group, generators)
    return tuple(dict.fromkeys(sorted(found, key=lambda a: len(a[0]))))


def _coset_actions(group: list[Permutation], generators: tuple[Permutation, ...]) -> list[tuple[Permutation, ...]]:
    """Faithful ones on the cosets of subgroups of index 3 to MOST_POINTS that two elements generate, one an index."""
    at = {p: k for k, p in enumerate(group)}
    times = [[at[compose(p, q)] for q in group] for p in group]
    found: dict[int, tuple[Permutation, ...]] = {}
    for pair in islice(combinations(range(len(group)), 2), MOST_PAIRS):
        subgroup = _generated(times, pair, len(group) // 3)
        index = 0 if subgroup is None else len(group) // len(subgroup)
        if subgroup is None or index > MOST_POINTS or index in found:
            continue
        action = on_cosets(group, [group[k] for k in sorted(subgroup)], generators)
        acting = elements(action)
        if acting is not None and len(acting) == len(group):
            found[index] = action
    return list(found.values())


def _generated(times: list[list[int]], pair: tuple[int, int], most: int) -> set[int] | None:
    """The subgroup of two elements, by the group's multiplication table; None above `most` elements."""
    found = {0}  # the group's first element is the identity
    order = [0]
    for p in order:  # grows while it is walked
        for g in pair:
            q = times[p][g]
            if q not in found:
                if len(found) >= most:
                    return None
                found.add(q)
                order.append(q)
    return found


def on_cosets(
    group: list[Permutation], subgroup: list[Permutation], generators: tuple[Permutation, ...]
) -> tuple[Permutation, ...]:
    """The generators on the cosets H g, the subgroup itself first."""
    cosets: list[list[Permutation]] = []
    at: dict[Permutation, int] = {}
    for g in group:
        if g not in at:
            cosets.append([compose(h, g) for h in subgroup])
            at.update(dict.fromkeys(cosets[-1], len(cosets) - 1))
    return tuple(tuple(at[compose(c[0], g)] for c in cosets) for g in generators)


# ---------------------------------------------------------------- swaps


def swaps(p: Permutation) -> tuple[Swap, ...]:
    """The permutation (contents of place i go to place p[i]) as swaps of places, first to last, as few as can be."""
    current = list(range(len(p)))  # current[i]: where the contents that began at i are
    out: list[Swap] = []
    for i, target in enumerate(p):
        if current[i] != target:
            here = current[i]
            out.append((min(here, target), max(here, target)))
            for j, at in enumerate(current):
                current[j] = target if at == here else here if at == target else at
    return tuple(out)


@lru_cache(maxsize=64)
def crossing_swaps(colours: tuple[int, ...], most: int) -> dict[Permutation, tuple[Swap, ...]]:
    """The permutations that are at most `most` swaps of places of different colours, each with fewest swaps."""
    n = len(colours)
    one = tuple(range(n))
    allowed = [(i, j) for i, j in combinations(range(n), 2) if colours[i] != colours[j]]
    found: dict[Permutation, tuple[Swap, ...]] = {one: ()}
    layer = [one]
    for _ in range(most):
        after: list[Permutation] = []
        for q in layer:
            for i, j in allowed:
                r = tuple([j if x == i else i if x == j else x for x in q])
                if r not in found:
                    found[r] = (*found[q], (i, j))
                    after.append(r)
        layer = after
    return found


def colourings(n: int) -> Iterator[tuple[int, ...]]:
    """Of n points in two colours, the first point's being 0: those that differ between neighbours first."""
    alternating = tuple(i % 2 for i in range(n))
    yield alternating
    for rest in product((0, 1), repeat=n - 1):
        if any(rest) and (0, *rest) != alternating:
            yield (0, *rest)

"""Finite groups of permutations, and their multiplication tables, for word problems.

A group is named (`s3`, `a5`, `z6`, `d4`, `q8`), a direct product of named ones (`z2xs3`), or given by permutations that
generate it, in cycle notation: `(0 1 2)(3 4), (0 1)`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Permutation: TypeAlias = tuple[int, ...]

# 7! elements: a table of 25 million entries is the most that is built.
MAX_ORDER = 5040

_NAMED = re.compile(r"^([sazd])\(?(\d+)\)?$")


class UnknownGroup(ValueError):
    """The text names no group; the message says what would."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """`table[a, b]` is the product a b; element 0 is the identity; `generators` are elements that generate it."""

    name: str
    table: NDArray[np.int64]
    generators: tuple[int, ...]

    @property
    def order(self) -> int:
        return int(self.table.shape[0])

    def prefix_products(self, words: NDArray[np.int64]) -> NDArray[np.int64]:
        """words [B, T] of elements -> [B, T], the product of the first t elements, the newest on the left."""
        result = np.empty_like(words)
        value = np.zeros(words.shape[0], dtype=np.int64)
        for t in range(words.shape[1]):
            value = self.table[words[:, t], value]
            result[:, t] = value
        return result


def group(text: str) -> Group:
    """The group that `text` means.  Raises UnknownGroup."""
    name = text.strip().lower().replace(" ", "") if "(" not in text or _NAMED.match(text.strip().lower()) else text
    if name.startswith("("):
        return from_permutations(text.strip(), _parse_cycles(text))
    factors = [_named(part) for part in name.split("x")]
    result = factors[0]
    for factor in factors[1:]:
        result = _direct_product(result, factor)
    return result


def from_permutations(name: str, generators: list[Permutation]) -> Group:
    """The group that permutations of 0..n-1 generate, by closure; raises UnknownGroup above MAX_ORDER elements."""
    elements = closure(generators, MAX_ORDER)
    if elements is None:
        raise UnknownGroup(f"{name} has more than {MAX_ORDER} elements")
    index = {element: i for i, element in enumerate(elements)}
    array = np.array(elements, dtype=np.int64)
    return Group(name=name, table=_table(array), generators=tuple(dict.fromkeys(index[g] for g in generators)))


def closure(generators: Sequence[Permutation], most: int) -> list[Permutation] | None:
    """All products of permutations of one size, the identity first; None when there are more than `most`."""
    identity = tuple(range(len(generators[0])))
    seen = {identity}
    elements = [identity]
    for element in elements:  # grows while it is walked
        for generator in generators:
            image = compose(generator, element)
            if image not in seen:
                if len(elements) == most:
                    return None
                seen.add(image)
                elements.append(image)
    return elements


def _table(elements: NDArray[np.int64]) -> NDArray[np.int64]:
    """elements [order, n] as permutations -> the multiplication table [order, order]."""
    n = elements.shape[1]
    if n <= 15:  # then a permutation's images are the digits of an int64 key
        radix = n ** np.arange(n, dtype=np.int64)
        keys = elements @ radix
        order = np.argsort(keys)
        rows = [np.searchsorted(keys, a[elements] @ radix, sorter=order) for a in elements]
        table: NDArray[np.int64] = order[np.stack(rows)].astype(np.int64)
        return table
    index = {row.tobytes(): i for i, row in enumerate(elements)}
    return np.array([[index[row.tobytes()] for row in a[elements]] for a in elements], dtype=np.int64)


def compose(a: Permutation, b: Permutation) -> Permutation:
    """a after b."""
    return tuple(a[i] for i in b)


def _named(name: str) -> Group:
    if name == "q8":
        return from_permutations("Q(8)", [(1, 2, 3, 0, 5, 6, 7, 4), (4, 7, 6, 5, 2, 1, 0, 3)])
    match = _NAMED.match(name)
    if match is None:
        raise UnknownGroup(
            f"there is no group '{name}': write s3, a5, z6, d4, q8, a product such as z2xs3, "
            "or generators such as '(0 1 2), (0 1)'"
        )
    family, number = match[1], int(match[2])
    if number < 1 or (family == "d" and number < 3):
        raise UnknownGroup(f"there is no group '{name}': the number is too small")
    return from_permutations(f"{family.upper()}({number})", list(standard_generators(family, number)))


def standard_generators(family: str, n: int) -> Iterator[Permutation]:
    """z: the cycle (0 1 ... n-1); d: that and a reflection; s: that and (0 1); a: the 3-cycles (0 1 i)."""
    cycle = (*range(1, n), 0)
    match family:
        case "z":
            yield cycle
        case "d":
            yield cycle
            yield tuple((n - i) % n for i in range(n))
        case "s":
            yield cycle
            if n > 2:
                yield (1, 0, *range(2, n))
        case "a":
            if n < 3:
                yield tuple(range(n))
            for i in range(2, n):
                images = list(range(n))
                images[0], images[1], images[i] = 1, i, 0
                yield tuple(images)
        case _:
            raise AssertionError(f"no family of groups is called {family!r}")


def _direct_product(a: Group, b: Group) -> Group:
    if a.order * b.order > MAX_ORDER:
        raise UnknownGroup(f"{a.name} x {b.name} has more than {MAX_ORDER} elements")
    n = b.order
    pairs = np.array(list(product(range(a.order), range(n))))
    table = a.table[pairs[:, None, 0], pairs[None, :, 0]] * n + b.table[pairs[:, None, 1], pairs[None, :, 1]]
    generators = (*(g * n for g in a.generators), *b.generators)
    return Group(name=f"{a.name} x {b.name}", table=table.astype(np.int64), generators=generators)


def _parse_cycles(text: str) -> list[Permutation]:
    """`(0 1 2)(3 4), (0 1)` -> permutations of one common size."""
    generators: list[list[list[int]]] = []
    for part in re.split(r"(?<=\))\s*[,;]\s*", text.strip()):
        if not re.fullmatch(r"(\(\s*\d+(?:[\s,]+\d+)*\s*\)\s*)+", part):
            raise UnknownGroup(f"'{part}' is not a permutation in cycle notation, such as (0 1 2)(3 4)")
        generators.append([[int(i) for i in re.findall(r"\d+", cycle)] for cycle in re.findall(r"\(([^)]*)\)", part)])
    size = 1 + max(i for cycles in generators for cycle in cycles for i in cycle)
    if size > 64:
        raise UnknownGroup("a permutation may move the points 0 to 63")
    return [from_cycles(cycles, size) for cycles in generators]


def from_cycles(cycles: Sequence[Sequence[int]], size: int) -> Permutation:
    """[[0, 1, 2], [3, 4]] -> images of 0..size-1.  Raises UnknownGroup when cycles share points."""
    images = list(range(size))
    seen: set[int] = set()
    for cycle in cycles:
        if seen & set(cycle) or len(set(cycle)) < len(cycle):
            raise UnknownGroup("the cycles of one permutation must not share points")
        seen |= set(cycle)
        for here, there in zip(cycle, [*cycle[1:], *cycle[:1]]):
            images[here] = there
    return tuple(images)


def cycle_notation(permutation: Permutation) -> str:
    """(1, 2, 0, 4, 3) -> `(0 1 2)(3 4)`; the identity is `()`."""
    seen: set[int] = set()
    text = ""
    for start in range(len(permutation)):
        cycle = []
        here = start
        while here not in seen:
            seen.add(here)
            cycle.append(here)
            here = permutation[here]
        if len(cycle) > 1:
            text += f"({' '.join(map(str, cycle))})"
    return text or "()"

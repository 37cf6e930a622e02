"""Which of many vectors span all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")

# Worked out modulo a prime: a small number of rows may seem dependent that are not, never the other way round.
PRIME = 1_000_003


def independent(items: Iterable[T], row: Callable[[T], Sequence[int]]) -> list[T]:
    """The first items whose rows, all of one length, span (modulo `PRIME`) what all rows span."""
    rows: dict[int, list[int]] = {}  # by pivot
    kept = []
    for item in items:
        rest = list(row(item))
        for pivot, other in rows.items():
            if rest[pivot]:
                factor = rest[pivot]
                rest = [(x - factor * y) % PRIME for x, y in zip(rest, other, strict=True)]
        first = next((j for j, x in enumerate(rest) if x), None)
        if first is not None:
            inverse = pow(rest[first], -1, PRIME)
            rows[first] = [x * inverse % PRIME for x in rest]
            kept.append(item)
    return kept

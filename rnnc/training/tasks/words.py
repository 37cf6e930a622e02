"""State tracking: the word problem of a finite group.  Parity is Z(2); mod(m) is Z(m) with addends 0..m-1.

At each step the model reads an element and answers with the product of all elements so far.  The difficulty of a group
for a recurrence is algebraic: commutative groups need rotations or sign flips, S(5) and A(5) are complete for NC1
(Barrington 1989), which no linear recurrence with a diagonal transition tracks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rnnc.groups import Group
from rnnc.training.tasks.base import Batch, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class WordProblem:
    """`letters` are the elements that words are made of: all of them, or generators only."""

    name: str
    group: Group
    letters: tuple[int, ...]

    features: int = 0
    min_length: int = 2
    fixed_length: int | None = None

    @property
    def vocab(self) -> int:
        return len(self.letters)

    @property
    def classes(self) -> int:
        return self.group.order

    @property
    def chance(self) -> float:
        return 1 / self.group.order

    def batch(self, rng: np.random.Generator, size: int, length: int, split: Split = "train") -> Batch:
        tokens = rng.integers(0, len(self.letters), (size, length), dtype=np.int64)
        words = np.array(self.letters, dtype=np.int64)[tokens]
        targets = self.group.prefix_products(words)
        return Batch(inputs=tokens, targets=targets, scored=np.ones((size, length), dtype=np.bool_))

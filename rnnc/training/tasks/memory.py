"""Memory: associative recall and copying."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rnnc.training.tasks.base import Batch, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """Associative recall: pairs `key value`, then keys again; the answer to each is its value.

    A sequence of length T has T // 3 distinct keys where there are enough, each followed by its value, then queries:
    key tokens, scored, in random order.  (Multi-query form, Arora et al. 2023, section 3.)
    """

    keys: int = 64
    values: int = 64
    name: str = "recall"

    features: int = 0
    min_length: int = 6
    fixed_length: int | None = None

    @property
    def vocab(self) -> int:
        return self.keys + self.values

    @property
    def classes(self) -> int:
        return self.values

    @property
    def chance(self) -> float:
        return 1 / self.values

    def batch(self, rng: np.random.Generator, size: int, length: int, split: Split = "train") -> Batch:
        pairs = min(length // 3, self.keys)
        keys = rng.permuted(np.tile(np.arange(self.keys), (size, 1)), axis=1)[:, :pairs]
        values = rng.integers(0, self.values, (size, pairs))
        queries = rng.integers(0, pairs, (size, length - 2 * pairs))
        inputs = np.empty((size, length), dtype=np.int64)
        inputs[:, 0 : 2 * pairs : 2] = keys
        inputs[:, 1 : 2 * pairs : 2] = values + self.keys
        inputs[:, 2 * pairs :] = np.take_along_axis(keys, queries, axis=1)
        targets = np.zeros((size, length), dtype=np.int64)
        targets[:, 2 * pairs :] = np.take_along_axis(values, queries, axis=1)
        scored = np.zeros((size, length), dtype=np.bool_)
        scored[:, 2 * pairs :] = True
        return Batch(inputs=inputs, targets=targets, scored=scored)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copying:
    """Copying (Arjovsky et al. 2016, section 4.1): symbols, a marker, then blanks, under which they are repeated.

    A sequence of length T holds (T - 1) // 2 symbols; only the repetition is scored.  Tokens: 0 is blank, 1 the marker.
    """

    symbols: int = 8
    name: str = "copying"

    features: int = 0
    min_length: int = 3
    fixed_length: int | None = None

    @property
    def vocab(self) -> int:
        return self.symbols + 2

    @property
    def classes(self) -> int:
        return self.symbols

    @property
    def chance(self) -> float:
        return 1 / self.symbols

    def batch(self, rng: np.random.Generator, size: int, length: int, split: Split = "train") -> Batch:
        count = (length - 1) // 2
        first = length - count  # where the repetition starts; the marker stands just before it
        symbols = rng.integers(0, self.symbols, (size, count))
        inputs = np.zeros((size, length), dtype=np.int64)
        inputs[:, first - 1 - count : first - 1] = symbols + 2
        inputs[:, first - 1] = 1
        targets = np.zeros((size, length), dtype=np.int64)
        targets[:, first:] = symbols
        scored = np.zeros((size, length), dtype=np.bool_)
        scored[:, first:] = True
        return Batch(inputs=inputs, targets=targets, scored=scored)

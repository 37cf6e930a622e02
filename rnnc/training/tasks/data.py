"""Real data: scikit-learn's digits pixel by pixel, and the characters of a text file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rnnc.training.tasks.base import Batch, Split, TaskError


@cache
def _digits() -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Pixels [1797, 64] in [0, 1], labels [1797], and a fixed permutation that splits them 4 : 1."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    return (data.data / 16).astype(np.float32), data.target.astype(np.int64), order


@dataclass(frozen=True, slots=True, kw_only=True)
class Digits:
    """Sequential digits: an 8x8 image of a handwritten digit read one pixel a step; the class after the last one."""

    name: str = "digits"

    vocab: None = None
    features: int = 1
    classes: int = 10
    min_length: int = 64
    fixed_length: int | None = 64

    @property
    def chance(self) -> float:
        _, labels, order = _digits()
        test = labels[order[len(order) * 4 // 5 :]]
        return float(np.bincount(test).max() / len(test))

    def batch(self, rng: np.random.Generator, size: int, length: int, split: Split = "train") -> Batch:
        pixels, labels, order = _digits()
        cut = len(order) * 4 // 5
        part = order[:cut] if split == "train" else order[cut:]
        chosen = rng.choice(part, size, replace=size > len(part))
        inputs = pixels[chosen][:, :, None]
        targets = np.repeat(labels[chosen][:, None], 64, axis=1)
        scored = np.zeros((size, 64), dtype=np.bool_)
        scored[:, -1] = True
        return Batch(inputs=inputs, targets=targets, scored=scored)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Text:
    """Character text: predict the next character; the last tenth of the file is for testing.

    `codes` [N] are the file's characters as positions in `alphabet`.
    """

    alphabet: str
    codes: NDArray[np.int64]
    name: str = "text"

    features: int = 0
    min_length: int = 8
    fixed_length: int | None = None

    @property
    def vocab(self) -> int:
        return len(self.alphabet)

    @property
    def classes(self) -> int:
        return len(self.alphabet)

    @property
    def chance(self) -> float:
        return float(np.bincount(self._part("test")).max() / len(self._part("test")))

    def _part(self, split: Split) -> NDArray[np.int64]:
        cut = len(self.codes) * 9 // 10
        return self.codes[:cut] if split == "train" else self.codes[cut:]

    def batch(self, rng: np.random.Generator, size: int, length: int, split: Split = "train") -> Batch:
        part = self._part(split)
        if len(part) < length + 1:
            raise TaskError(
                f"the text has {len(part)} characters for {split}ing, fewer than one piece of {length + 1}",
                "give a longer text, or smaller --length and --test-lengths",
            )
        starts = rng.integers(0, len(part) - length, size)
        pieces = part[starts[:, None] + np.arange(length + 1)]
        scored = np.ones((size, length), dtype=np.bool_)
        return Batch(inputs=pieces[:, :-1], targets=pieces[:, 1:], scored=scored)


def read_text(path: Path) -> Text:
    """The task of a UTF-8 text file.  Raises TaskError where it cannot be read or holds too little."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TaskError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise TaskError(f"{path} is not UTF-8 text (byte {error.start})") from None
    alphabet = "".join(sorted(set(text)))
    if len(text) < 200 or len(alphabet) < 2:
        raise TaskError(f"{path} has {len(text)} characters; training needs at least 200, and two different ones")
    position = {c: i for i, c in enumerate(alphabet)}
    return Text(alphabet=alphabet, codes=np.array([position[c] for c in text], dtype=np.int64))

"""What a task is: a source of batches, at any length the task has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Split: TypeAlias = Literal["train", "test"]


class TaskError(ValueError):
    """The task cannot be made, or not at this length; message and `help` are for the user."""

    def __init__(self, message: str, help: str = "") -> None:
        super().__init__(message)
        self.help = help


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """`inputs` [B, T] tokens (int64) or [B, T, n] reals (float32); `targets` [B, T] classes; `scored` [B, T] bool."""

    inputs: NDArray[np.int64] | NDArray[np.float32]
    targets: NDArray[np.int64]
    scored: NDArray[np.bool_]


class Task(Protocol):
    """Batches are functions of the generator alone, so that step s of a run is the same after a resume.

    `vocab` is the number of input tokens, or None where the inputs are real vectors of size `features`.
    `chance` is the accuracy of the best constant answer.  `fixed_length` is set where there is only one length.
    """

    @property
    def name(self) -> str: ...
    @property
    def vocab(self) -> int | None: ...
    @property
    def features(self) -> int: ...
    @property
    def classes(self) -> int: ...
    @property
    def chance(self) -> float: ...
    @property
    def min_length(self) -> int: ...
    @property
    def fixed_length(self) -> int | None: ...

    def batch(self, rng: np.random.Generator, size: int, length: int, split: Split = "train") -> Batch: ...

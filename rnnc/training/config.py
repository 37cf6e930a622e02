"""What one training run is made of, and errors about it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, TypeAlias

from rnnc.diagnostics import Diagnostic, SpecError

DTypeName: TypeAlias = Literal["float32", "float64", "bfloat16"]
Hyper: TypeAlias = dict[str, int | bool | float | Fraction]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything that decides the numbers of a run, apart from the cell.

    `train_length` is the longest training sequence; `test_lengths` are for the table.  With `curriculum` the lengths
    grow from the task's shortest to `train_length` over the first half of the steps.  `width` is the size of the
    residual stream that a cell is wrapped in, `layers` how many times (models of the spec bring their own).
    """

    task: str
    text: Path | None = None
    steps: int = 1500
    batch: int = 64
    lr: float = 3e-3
    weight_decay: float = 0.0
    clip: float = 1.0
    warmup: float = 0.05
    seed: int = 0
    train_length: int = 40
    test_lengths: tuple[int, ...] = ()
    test_batch: int = 256
    curriculum: bool = True
    width: int = 64
    layers: int = 1
    device: str = "cpu"
    dtype: DTypeName = "float32"
    log_every: int = 10
    save_every: int = 200

    def lengths(self, fixed: int | None) -> tuple[int, ...]:
        """The lengths to test at: those given, or 1, 2, 4 and 6 times the training length."""
        if fixed is not None:
            return (fixed,)
        return self.test_lengths or tuple(self.train_length * k for k in (1, 2, 4, 6))


def training_error(code: str, message: str, help: str = "", notes: tuple[str, ...] = ()) -> SpecError:
    """An error about a training run as a whole: it has no place in the spec."""
    return SpecError((Diagnostic(code=code, message=message, span=None, help=help, notes=notes),))

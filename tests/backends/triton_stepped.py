"""Steps with products whose matrices do not fit on chip, in Triton's interpreter: products by PyTorch, kernels between.

Sizes are small: `step_by_step` has all heads run as large ones do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rnnc.runtime.gpu.coupled import CoupledRecurrence
from rnnc.runtime.gpu.tuning import Config

SIZES: dict[str, tuple[str, dict[str, int], int, int]] = {  # a cell, its sizes, steps, entries that a program holds
    "LSTM": ("lstm", {"d": 3, "n": 37}, 9, 16),
    "GRU": ("gru", {"d": 3, "n": 17}, 7, 16),
    "RNN": ("rnn", {"d": 2, "n": 3}, 5, 16),
    "sLSTM": ("slstm", {"d": 6, "heads": 3, "dh": 19}, 6, 16),
    "Pendulum": ("pendulum", {"d": 3, "n": 5}, 5, 16),
    "reset first": ("reset first", {"d": 3, "n": 21}, 7, 16),
    "peephole": ("peephole", {"d": 3, "n": 23}, 6, 32),
    "projected": ("projected", {"d": 3, "n": 33, "p": 19}, 7, 16),
    "rounds": ("rounds", {"d": 2, "heads": 3, "n": 17}, 5, 16),
}


@contextmanager
def step_by_step(entries: int = 16) -> Iterator[None]:
    """No matrix fits on chip; programs hold two sequences and so many entries."""
    known, made = CoupledRecurrence.on_chip, CoupledRecurrence.__post_init__

    def prepared(self: Any) -> None:
        made(self)
        self.configs["stepped",] = Config(steps=2, channels=entries)

    CoupledRecurrence.on_chip = lambda self, sizes, dtype: False  # type: ignore[method-assign]
    CoupledRecurrence.__post_init__ = prepared  # type: ignore[method-assign]
    try:
        yield
    finally:
        CoupledRecurrence.on_chip = known  # type: ignore[method-assign]
        CoupledRecurrence.__post_init__ = made  # type: ignore[method-assign]


def cases(is_the_oracle: Callable[..., None]) -> dict[str, Callable[[], None]]:
    def case(file: str, dims: dict[str, int], steps: int, entries: int) -> None:
        with step_by_step(entries):
            is_the_oracle(file, kind="coupled", dims=dims, steps=steps, step=True)

    return {f"{name}, step by step": lambda given=given: case(*given) for name, given in SIZES.items()}

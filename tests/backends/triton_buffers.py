"""Where the buffers that kernels fill come from, in tests: full of no numbers, of zeros, or between two fences."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from rnnc.runtime.gpu import buffers

__all__ = ["fenced", "no_numbers", "poisoned", "take", "taken", "zeros"]

Empty = Callable[[Sequence[int], Tensor, torch.dtype], Tensor]


def no_numbers(shape: Sequence[int], like: Tensor, dtype: torch.dtype) -> Tensor:
    """What is read before it is written is no number, and what is not written, too."""
    return like.new_full(list(shape), float("nan"), dtype=dtype)


def zeros(shape: Sequence[int], like: Tensor, dtype: torch.dtype) -> Tensor:
    """For comparisons of buffers that are not written everywhere."""
    return like.new_zeros(list(shape), dtype=dtype)


def take(empty: Empty) -> None:
    """From now on all buffers come from `empty`."""
    own = buffers.empty
    for name, module in [*sys.modules.items()]:
        if name.startswith("rnnc.runtime.gpu.") and getattr(module, "empty", None) is own:
            module.empty = empty  # type: ignore[attr-defined]


@contextmanager
def taken(empty: Empty) -> Iterator[None]:
    """Inside all buffers come from `empty`."""
    own = buffers.empty
    take(empty)
    try:
        yield
    finally:
        take(own)


@contextmanager
def poisoned() -> Iterator[None]:
    with taken(no_numbers):
        yield


FENCE = 1024  # numbers in front of a buffer and behind it


@contextmanager
def fenced() -> Iterator[None]:
    """Every buffer lies between two stretches of memory that nobody may write; AssertionError where one is."""
    fences: list[tuple[Tensor, list[int]]] = []

    def empty(shape: Sequence[int], like: Tensor, dtype: torch.dtype) -> Tensor:
        count = int(torch.Size(shape).numel())
        whole = like.new_full((count + 2 * FENCE,), 12345.0, dtype=dtype)
        fences.append((whole, [*shape]))
        return whole[FENCE : FENCE + count].view(list(shape))

    with taken(empty):
        yield
    for whole, shape in fences:
        sides = torch.cat([whole[:FENCE], whole[-FENCE:]])
        assert (sides == torch.full((), 12345.0, dtype=whole.dtype)).all(), f"written outside of a buffer {shape}"

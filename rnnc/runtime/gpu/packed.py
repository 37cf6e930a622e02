"""Where the steps of a sequence stand: one row of the inputs each, or all packed in one row behind each other.

Packed sequences are `[1, L, ...]` with `bounds` (int64, N + 1 of them): sequence i is the steps bounds[i] ..
bounds[i + 1] - 1.  States kept every C steps have a row each: sequence i has ceil(length / C) of them, from row
bounds[i] // C + i on, so that no two share one and L // C + N rows are enough; no length is read on the host.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["chunk_table", "rows_kept", "sequence", "sequences"]


@triton.jit
def sequence(bounds_ptr, b, T, BT: tl.constexpr, PACKED: tl.constexpr):
    """Of sequence b: its row of the inputs, its first step there, its length, and the first of its kept states."""
    if PACKED:
        origin = tl.load(bounds_ptr + b)
        length = (tl.load(bounds_ptr + b + 1) - origin).to(tl.int32)
        return b * 0, origin, length, origin // BT + b
    else:
        return b, b * 0, T, b * tl.cdiv(T, BT)


@triton.jit
def sequences(bounds_ptr, b, inside, T, PACKED: tl.constexpr):
    """`sequence` for a column of sequences, those outside the batch without a step; keeps a state for every step."""
    if PACKED:
        origin = tl.load(bounds_ptr + b, mask=inside, other=0)
        length = (tl.load(bounds_ptr + b + 1, mask=inside, other=0) - origin).to(tl.int32)
        return b * 0, origin, length
    else:
        return b, b * 0, tl.where(inside, T, 0)


def rows_kept(batch: int, steps: int, every: int, packed: bool) -> int:
    """Rows for the states kept every so many steps: of `batch` sequences of `steps` steps each, or together."""
    return steps // every + batch if packed else batch * triton.cdiv(steps, every)


def chunk_table(bounds: Tensor, every: int, rows: int) -> Tensor:
    """For each row of kept states its sequence, the first step of its chunk, and how many steps: int64 [rows, 3].

    Rows that no chunk has get no steps.
    """
    sequence = torch.arange(bounds.shape[0] - 1, device=bounds.device)
    first = bounds[:-1] // every + sequence  # the first row of each sequence
    row = torch.arange(rows, device=bounds.device)
    own = (torch.searchsorted(first, row, right=True) - 1).clamp(min=0)
    start = bounds[own] + (row - first[own]) * every
    steps = (bounds[own + 1] - start).clamp(min=0, max=every)
    return torch.stack([own, torch.where(steps > 0, start, 0), steps], 1)

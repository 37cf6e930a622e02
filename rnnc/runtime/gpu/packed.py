"""Where the steps of a sequence stand: one row of the inputs each, or all packed in one row behind each other.

Packed sequences are `[1, L, ...]` with `bounds` (int64, N + 1 of them): sequence i is the steps bounds[i] ..
bounds[i + 1] - 1.  States kept every C steps have a row each: sequence i has ceil(length / C) of them, from row
bounds[i] // C + i on, so that no two share one and L // C + N rows are enough; no length is read on the host.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["Table", "chunk_rows", "chunk_steps", "chunk_table", "rows_kept", "run_steps", "sequence", "sequences"]


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


@triton.jit
def chunk_rows(T, S, C: tl.constexpr, PACKED: tl.constexpr):
    """Chunks of C steps: of one sequence of T steps, or rows for those of S packed ones."""
    return T // C + S if PACKED else tl.cdiv(T, C)


@triton.jit
def chunk_steps(table_ptr, chunk, T, C: tl.constexpr, PACKED: tl.constexpr):
    """The first step of a chunk, and the step behind its sequence or (packed) behind the chunk: see `chunk_table`."""
    if PACKED:
        start = tl.load(table_ptr + 3 * chunk + 1)
        return start, start + tl.load(table_ptr + 3 * chunk + 2)
    else:
        return chunk * C, T + 0 * chunk


@triton.jit
def run_steps(runs_ptr, run, T, SPAN, C: tl.constexpr, EVERY: tl.constexpr, PACKED: tl.constexpr):
    """Of a run of chunks (see `Table`): its first step, the step behind its last, its chunks, and the rows of its first
    chunk and of its first kept state.
    """
    if PACKED:
        start, stop = tl.load(runs_ptr + 4 * run), tl.load(runs_ptr + 4 * run + 1)
        count = tl.cdiv(stop - start, C).to(tl.int32)
        return start, stop, count, tl.load(runs_ptr + 4 * run + 2), tl.load(runs_ptr + 4 * run + 3)
    else:
        first = run * SPAN
        count = tl.minimum(SPAN, tl.cdiv(T, C) - first).to(tl.int32)
        return first * C, T + 0 * run, count, first, first // EVERY


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


class Table(NamedTuple):
    """Where the chunks of packed sequences are, for kernels that walk over them with a state kept every `KEPT` steps.

    `chunks` is their `chunk_table`.  A run is a stretch of one sequence: its first step, the step behind it, the row of
    its first chunk, the row of its first kept state: int64 [runs, 4].  `whole` has the sequences, `parts` what lies
    between two kept states; `ends` [parts] says whose last part that is, -1 where another follows.
    """

    chunks: Tensor
    whole: Tensor
    parts: Tensor
    ends: Tensor

    @classmethod
    def of(cls, bounds: Tensor, total: int, every: int, kept: int) -> Table:
        """For chunks of `every` steps, a multiple of which are `kept`, of `total` packed steps."""
        count = bounds.shape[0] - 1
        sequence = torch.arange(count, device=bounds.device)
        start, stop = bounds[:-1], bounds[1:]
        chunk, slot = start // every + sequence, start // kept + sequence
        slots = rows_kept(count, total, kept, True)
        own, first, steps = chunk_table(bounds, kept, slots).unbind(1)
        end = first + steps
        parts = [first, end, chunk[own] + (first - start[own]) // every, torch.arange(slots, device=bounds.device)]
        return cls(
            chunks=chunk_table(bounds, every, rows_kept(count, total, every, True)),
            whole=torch.stack([start, stop, chunk, slot], 1),
            parts=torch.stack(parts, 1),
            ends=torch.where(end == stop[own], own, -1),
        )

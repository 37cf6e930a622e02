"""A chunk's rows: where they stand in memory, the decays between them, and which of them see which.

`rnnc.runtime.gpu.low_rank_inverse` says what rows are.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import triton
import triton.language as tl

from rnnc.runtime.gpu.math import maximum

__all__ = [
    "ZERO",
    "between",
    "chunk_of",
    "decays",
    "factor",
    "keys_of",
    "numbers",
    "place",
    "reads",
    "rows_of",
    "sees",
    "tile",
    "times",
]

ZERO = tl.constexpr(-100.0)  # the logarithm from where on a decay is zero in float32


@triton.jit
def times(x, y, ACC: tl.constexpr):
    """The product of two tiles in their own precision, added up in float32 (float64)."""
    return tl.dot(x, y, input_precision="ieee").to(ACC)


@triton.jit
def chunk_of(i, L, C: tl.constexpr, table_ptr, PACKED: tl.constexpr):
    """Of a chunk, among all kept: its entry of the batch, its first row there, and the rows from there on."""
    if PACKED:
        return i * 0, tl.load(table_ptr + 3 * i + 1), tl.load(table_ptr + 3 * i + 2).to(tl.int32)
    else:
        chunks = tl.cdiv(L, C)
        first = i % chunks * C
        return i // chunks, first, (L - first).to(tl.int32)


@triton.jit
def keys_of(table_ptr, L, H, E, K: tl.constexpr, N: tl.constexpr, OLD: tl.constexpr, PACKED: tl.constexpr,
            C: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    """What a program has where all chunks go at once: its block of BK keys and its chunk, among all heads' kept ones.

    Of the chunk: head, group, entry of the batch, time step; where its rows and its time steps begin, counted through
    all heads; its rows within the first time step's, those that there are, and those that read.
    """
    i, heads, blocks = tl.program_id(0).to(tl.int64), H * E, tl.cdiv(K, BK)
    block, i = i % blocks, i // blocks
    h = i % heads
    batch, at, left = chunk_of(i // heads, L, C, table_ptr, PACKED)
    ii, kk = tl.arange(0, C), (block * BK).to(tl.int32) + tl.arange(0, BK)
    step, row, in_t = at // N, (at % N).to(tl.int32) + ii, ii < left
    line, here = (batch * L + at) * heads + h, (batch * (L // N) + step) * heads + h
    reading = in_t & (row % N == (0 if OLD else N - 1))
    return block, kk, i, h // E, h % E, batch, step, line, here, row, in_t, reading


@triton.jit
def place(x_ptr, b, hk, he, x_b, x_h, x_e, step, x_t):
    """Where the part of a head `hk` and its group `he` begins at one time step, all in 64 bits."""
    return x_ptr + (b * x_b + hk * x_h + he * x_e + step * x_t)


@triton.jit
def rows_of(row, x_t, x_n, N: tl.constexpr):
    """Offsets of rows, counted from the first of a time step; within a chunk 32 bits do."""
    if N == 1:
        return row * x_t
    else:
        return row // N * x_t + row % N * x_n


@triton.jit
def tile(x, row, x_t, x_n, N: tl.constexpr, column, x_k, mask):
    return tl.load(x + (rows_of(row, x_t, x_n, N)[:, None] + column[None, :] * x_k), mask=mask, other=0.0)


@triton.jit
def numbers(x, row, x_t, x_n, N: tl.constexpr, mask, ACC: tl.constexpr):
    return tl.load(x + rows_of(row, x_t, x_n, N), mask=mask, other=0.0).to(ACC)


@triton.jit
def decays(g, row, g_t, g_n, N: tl.constexpr, R: tl.constexpr, ii, mask, GATE: tl.constexpr, SUM: tl.constexpr):
    """Log decays from the start of the rows given: up to before each row, and up to it; of all of them.

    The rows of a micro-step share its decay; `ii` counts rows from the start of a chunk, which parts no micro-step.
    Differences of such sums are taken, so a gate of zero (-inf) counts as one whose exponential is zero.
    """
    if GATE:
        own = maximum(numbers(g, row, g_t, g_n, N, mask, SUM), ZERO)
        first = own if R == 1 else tl.where(ii % R == 0, own, 0.0)
        after = tl.cumsum(first, 0)
        end = tl.sum(first, 0)
    else:
        own = tl.zeros(row.shape, SUM)
        after = own
        end = tl.sum(own, 0)
    return after - own, after, end


@triton.jit
def factor(log_decay, ACC: tl.constexpr):
    """A decay from a sum, or a difference of sums, of logarithms."""
    return tl.exp(log_decay.to(ACC))


@triton.jit
def between(to_row, to_column, seen, GATE: tl.constexpr, ACC: tl.constexpr):
    """The decay from each column's write to each row's read, zero where the row does not see the column."""
    if GATE:
        return tl.where(seen, factor(tl.where(seen, to_row[:, None] - to_column[None, :], 0.0), ACC), 0.0)
    else:
        return tl.where(seen, 1.0, 0.0).to(ACC)


@triton.jit
def reads(before, after, row, N: tl.constexpr, OLD: tl.constexpr):
    """Which rows read (one a time step), and the log decay up to their read."""
    if OLD:
        return row % N == 0, before
    else:
        return row % N == N - 1, after


@triton.jit
def sees(ii, jj, R: tl.constexpr, STRICT: tl.constexpr):
    """Whether a row sees what another of its chunk writes: strictly that of earlier micro-steps, or of its own too."""
    if STRICT:
        return (ii // R)[:, None] > (jj // R)[None, :]
    else:
        return ii[:, None] >= jj[None, :]

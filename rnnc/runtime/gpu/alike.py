"""One decay a step, of all entries of a state: what the steps of a chunk see of each other, and the decay's gradient.

Its weights need no halves (`rnnc.runtime.gpu.intra`): those of a chunk are one matrix, 2^(sums between), and what comes
from other chunks is scaled row by row.  `alike` so gives numbers a step beside the scores, and `walk` scales its own
results and rows by them: no vector goes through memory scaled.

For the gradient (`rnnc.runtime.gpu.gates` says what of) `walk` leaves sums r . dr and w . dw over each block of its
columns, and `gate_gradient` adds them up from behind.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import triton
import triton.language as tl

from rnnc.runtime.gpu.gates import behind_slot, products
from rnnc.runtime.gpu.intra import LOG2E
from rnnc.runtime.gpu.packed import chunk_rows, chunk_steps, run_steps

__all__ = ["alike", "gate_gradient"]


@triton.jit
def _logs(g_at, g_t, c, left, FIRST: tl.constexpr, C: tl.constexpr, ACC: tl.constexpr):
    """Log decays (base 2) of the steps c + FIRST of a chunk, of which `left` are its sequence's; 0 of all others."""
    other = c + FIRST
    inside = (other >= 0) & (other < C) & (other < left)
    return tl.load(g_at + other * g_t, mask=inside, other=0.0).to(ACC) * LOG2E


@triton.jit(do_not_specialize=["T", "S"])
def alike(
    x_ptr, x_b, x_t, x_h, x_n,
    y_ptr, y_b, y_t, y_h, y_n,
    g_ptr, g_b, g_t, g_h,
    x_extra_ptr, y_extra_ptr,
    scores_ptr,
    read_ptr, write_ptr, total_ptr,
    table_ptr,
    T, H, S,
    N: tl.constexpr, ACC: tl.constexpr, OLD: tl.constexpr, PACKED: tl.constexpr, EXTRA: tl.constexpr, C: tl.constexpr,
    BN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """scores[t, s] = x_t . y_s 2^(g between them) of one chunk of one head, s <= t (s < t where OLD).

    Also the decays from the chunk's start to each read and from behind each write to its end, and the chunk's sum of g
    (base 2).  EXTRA: x and y have one more column [T].
    """
    i = tl.program_id(0).to(tl.int64)
    chunks = chunk_rows(T, S, C, PACKED)
    chunk, head = i % chunks, i // chunks
    b, h = head // H, head % H
    at, stop = chunk_steps(table_ptr, chunk, T, C, PACKED)
    c = tl.arange(0, C)
    in_t = at + c < stop
    shift: tl.constexpr = 1 if OLD else 0  # reads before the step do not see its decay
    g_at = g_ptr + b * g_b + h * g_h + at * g_t
    read = _logs(g_at, g_t, c, stop - at, -shift, C, ACC)
    tl.store(read_ptr + i * C + c, tl.exp2(tl.cumsum(read, 0)))
    after = tl.cumsum(_logs(g_at, g_t, c, stop - at, 1, C, ACC), 0, reverse=True)
    tl.store(write_ptr + i * C + c, tl.exp2(after))
    tl.store(total_ptr + i, tl.sum(_logs(g_at, g_t, c, stop - at, 0, C, ACC), 0))
    x_at, y_at = x_ptr + b * x_b + h * x_h + at * x_t, y_ptr + b * y_b + h * y_h + at * y_t
    product = products(x_at, x_t, x_n, y_at, y_t, y_n, c, in_t, N, ACC, C, BN, PRECISION)
    if EXTRA:
        lone = (b * T + at + c) * H + h
        x_extra = tl.load(x_extra_ptr + lone, mask=in_t, other=0.0).to(ACC)
        y_extra = tl.load(y_extra_ptr + lone, mask=in_t, other=0.0).to(ACC)
        product += x_extra[:, None] * y_extra[None, :]
    between = tl.cumsum(tl.where((c - shift)[:, None] > c[None, :], read[:, None], 0.0), 0)
    scores = tl.where((c - shift)[:, None] >= c[None, :], product * tl.exp2(between), 0.0)
    tl.store(scores_ptr + ((b * T + at) * H + h) * C + (c[:, None] * (H * C) + c[None, :]), scores, mask=in_t[:, None])


@triton.jit
def _summed(sums_ptr, at_chunk, c, in_t, BLOCKS: tl.constexpr, ACC: tl.constexpr, C: tl.constexpr, MOST: tl.constexpr):
    """The sums over all columns of a chunk's steps, [C], from those over BLOCKS blocks of them."""
    block = tl.arange(0, MOST)[:, None]
    mask = (block < BLOCKS) & in_t[None, :]
    return tl.sum(tl.load(sums_ptr + (at_chunk * BLOCKS + block) * C + c[None, :], mask=mask, other=0.0).to(ACC), 0)


@triton.jit(do_not_specialize=["T", "S"])
def gate_gradient(
    read_ptr, written_ptr,
    ends_ptr, end_ptr,
    d_g_ptr,
    runs_ptr, owner_ptr,
    T, H, S,
    N: tl.constexpr, READS: tl.constexpr, WRITES: tl.constexpr, ACC: tl.constexpr, OLD: tl.constexpr,
    PACKED: tl.constexpr, EVERY: tl.constexpr, C: tl.constexpr, KEYS: tl.constexpr, MOST: tl.constexpr,
):  # fmt: skip
    """The gradient of one log decay a step, over EVERY chunks of a head, from the sums r . dr and w . dw over each of
    READS and of WRITES blocks of columns, [B, H, chunks, blocks, C].
    """
    i = tl.program_id(0).to(tl.int64)
    slots, chunks = chunk_rows(T, S, C * EVERY, PACKED), chunk_rows(T, S, C, PACKED)
    slot, head = i % slots, i // slots
    b, h = head // H, head % H
    c, n = tl.arange(0, C), tl.arange(0, KEYS)
    origin, stop, count, first, _ = run_steps(runs_ptr, slot, T, EVERY, C, EVERY, PACKED)
    ahead = behind_slot(ends_ptr, end_ptr, owner_ptr, slot, slots, head, h, H, N, n, n < N, PACKED)
    behind = tl.sum(ahead.to(ACC))
    for step in tl.range(0, count):
        k = count - 1 - step
        at, at_chunk = origin + k * C, head * chunks + first + k
        in_t = at + c < stop
        reads = _summed(read_ptr, at_chunk, c, in_t, READS, ACC, C, MOST)
        change = reads - _summed(written_ptr, at_chunk, c, in_t, WRITES, ACC, C, MOST)
        d_g = behind + tl.cumsum(change, 0, reverse=True)
        tl.store(d_g_ptr + (b * T + at + c) * H + h, d_g - reads if OLD else d_g, mask=in_t)
        behind += tl.sum(change, 0)

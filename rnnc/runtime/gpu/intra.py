"""What the steps of one chunk do to each other under a decay per channel, for all chunks at once.

A write at step s reaches a read at step t > s with the weight 2^(sum of g over s < i <= t) (over s < i < t where reads
come before the step), channel by channel, so the weight cannot be put into one matrix.  The chunk is halved instead:
for blocks of M = 1, 2, 4, ..., C/2 rows every pair of neighbouring blocks is one masked product, reads of the second
block decayed from the border between the two, writes of the first one decayed up to it (secondary chunks, Yang et
al., arXiv:2312.06635, section 4.3, taken to the end).

No sum of logarithms is ever subtracted: sums over blocks of 2M rows come from those of M rows by adding the neighbour's
whole sum.  So a gate of zero (g = -inf) and gates near one in the same chunk keep all their digits, and where g <= 0 no
exponent is positive.

Where all sums of a chunk are small (the usual case), it is one product, measured from its middle: exponents there may
be positive, but not large.  A tile of channels looks at its own sums and takes one way or the other; a gate with a
proven lower bound needs no look: blocks of BASE rows are one product then.

Two kernels: with the decay on the contracted axis (`pairs`) and on the axis that stays (`spread`).  One decay a step
needs no halves (`rnnc.runtime.gpu.alike`).
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import triton
import triton.language as tl

from rnnc.runtime.gpu.packed import chunk_rows, chunk_steps

__all__ = ["beside", "farthest", "from_middle", "grown", "pairs", "spread", "sums"]

LOG2E = tl.constexpr(1.4426950408889634)
NEAR = tl.constexpr(60.0)  # binary orders from the middle of a chunk: two of them and the numbers' own stay in float32


@triton.jit
def beside(total, M: tl.constexpr, C: tl.constexpr, N: tl.constexpr):
    """The sum of the neighbouring block of M rows, for each row; `total` [C, N] has that of its own block."""
    half = tl.arange(0, 2)[None, :, None, None]
    split = tl.reshape(total, [C // (2 * M), 2, M, N])
    first = tl.sum(tl.where(half == 0, split, 0.0), 1)
    second = tl.sum(tl.where(half == 1, split, 0.0), 1)
    return tl.reshape(tl.where(half == 0, tl.expand_dims(second, 1), tl.expand_dims(first, 1)), [C, N])


@triton.jit
def _seen(c, SIZE: tl.constexpr, STRICT: tl.constexpr):
    """The rows and columns of one block of SIZE where the row sees the column."""
    row, column = c[:, None], c[None, :]
    same = row // SIZE == column // SIZE
    return same & (row > column if STRICT else row >= column)


@triton.jit
def _parted(c, M: tl.constexpr):
    """Rows of the second of two neighbouring blocks of M and columns of the first."""
    same = (c // (2 * M))[:, None] == (c // (2 * M))[None, :]
    return same & ((c // M % 2)[:, None] == 1) & ((c // M % 2)[None, :] == 0)


@triton.jit
def sums(g, OLD: tl.constexpr, C: tl.constexpr, N: tl.constexpr, LEVELS: tl.constexpr):
    """Sums of g [C, N] in blocks of 2^LEVELS rows: from the start to the read, from the write to the end, and whole."""
    total, write = g, tl.full([C, N], 0.0, g.dtype)
    read = write if OLD else g
    for level in tl.static_range(LEVELS):
        read, write, total = grown(read, write, total, 1 << level, C, N)
    return read, write, total


@triton.jit
def grown(read, write, total, M: tl.constexpr, C: tl.constexpr, N: tl.constexpr):
    """The sums in blocks of 2M rows from those in blocks of M."""
    second = (tl.arange(0, C) // M % 2 == 1)[:, None]
    other = beside(total, M, C, N)
    return read + tl.where(second, other, 0.0), write + tl.where(second, 0.0, other), total + other


@triton.jit
def from_middle(read, write, g, M: tl.constexpr, OLD: tl.constexpr, C: tl.constexpr):
    """Exponents of reads and of writes from the middle of blocks of 2M rows, given the sums in blocks of M."""
    second = (tl.arange(0, C) // M % 2 == 1)[:, None]
    if OLD:
        return tl.where(second, read, -(write + g)), tl.where(second, -(read + g), write)
    return tl.where(second, read, -write), tl.where(second, -read, write)


@triton.jit
def farthest(read, write, g, OLD: tl.constexpr):
    """The largest of all exponents of `from_middle`; infinite where a gate is zero."""
    before = read + g if OLD else read
    return tl.max(tl.maximum(tl.abs(before), tl.abs(write + g)))


@triton.jit
def _halved(x, y, g, c, OLD: tl.constexpr, STRICT: tl.constexpr, BASE: tl.constexpr, C: tl.constexpr,
            N: tl.constexpr, LEVELS: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """The scores of N channels by halves."""
    read, write, total = sums(g, OLD, C, N, 0)
    scores = tl.full([C, C], 0.0, g.dtype)
    if BASE == 1 and not STRICT:
        scores += tl.where(c[:, None] == c[None, :], tl.sum(x.to(g.dtype) * y.to(g.dtype), 1)[:, None], 0.0)
    for level in tl.static_range(LEVELS):
        if 2 << level >= BASE:
            if (2 << level) == BASE:
                of_read, of_write = from_middle(read, write, g, 1 << level, OLD, C)
                left, right = x * tl.exp2(of_read), y * tl.exp2(of_write)
                seen = _seen(c, BASE, STRICT)
            else:
                weight = tl.exp2(tl.where((c // (1 << level) % 2 == 1)[:, None], read, write))
                left, right = x * weight, y * weight
                seen = _parted(c, 1 << level)
            found = tl.dot(left.to(x.dtype), tl.trans(right.to(x.dtype)), input_precision=PRECISION).to(g.dtype)
            scores += tl.where(seen, found, 0.0)
        read, write, total = grown(read, write, total, 1 << level, C, N)
    return scores


@triton.jit(do_not_specialize=["T", "S"])
def pairs(
    x_ptr, x_b, x_t, x_h, x_n,
    y_ptr, y_b, y_t, y_h, y_n,
    g_ptr, g_b, g_t, g_h, g_n,
    scores_ptr,
    x_scaled_ptr, y_scaled_ptr,
    total_ptr,
    table_ptr,
    T, H, S,
    N: tl.constexpr, ACC: tl.constexpr, OLD: tl.constexpr, STRICT: tl.constexpr, BASE: tl.constexpr,
    LOOK: tl.constexpr, PACKED: tl.constexpr, C: tl.constexpr, BN: tl.constexpr, LEVELS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """scores[t, s] = sum_n x_t y_s 2^(g between them) of one chunk of one head, s <= t (s < t where STRICT).

    Also x decayed from the chunk's start, y decayed to its end, and the chunk's sum of g (base 2).
    """
    i = tl.program_id(0).to(tl.int64)
    chunks = chunk_rows(T, S, C, PACKED)
    chunk, head = i % chunks, i // chunks
    b, h = head // H, head % H
    at, stop = chunk_steps(table_ptr, chunk, T, C, PACKED)
    c = tl.arange(0, C)
    in_t = at + c < stop
    x_at, y_at = x_ptr + b * x_b + h * x_h + at * x_t, y_ptr + b * y_b + h * y_h + at * y_t
    g_at, row = g_ptr + b * g_b + h * g_h + at * g_t, ((b * T + at) * H + h) * N
    scores = tl.full([C, C], 0.0, ACC)
    for column in tl.range(0, N, BN, disable_licm=True):
        n = column + tl.arange(0, BN)
        mask = in_t[:, None] & (n < N)[None, :]
        x = tl.load(x_at + (c[:, None] * x_t + n[None, :] * x_n), mask=mask, other=0.0)
        y = tl.load(y_at + (c[:, None] * y_t + n[None, :] * y_n), mask=mask, other=0.0)
        g = tl.load(g_at + (c[:, None] * g_t + n[None, :] * g_n), mask=mask, other=0.0).to(ACC) * LOG2E
        read, write, total = sums(g, OLD, C, BN, LEVELS - 1)
        near = True if BASE == C else farthest(read, write, g, OLD) <= NEAR if LOOK else False
        if near:
            of_read, of_write = from_middle(read, write, g, C // 2, OLD, C)
            left, right = (x * tl.exp2(of_read)).to(x.dtype), (y * tl.exp2(of_write)).to(x.dtype)
            found = tl.dot(left, tl.trans(right), input_precision=PRECISION).to(ACC)
            scores += tl.where(_seen(c, C, STRICT), found, 0.0)
        else:
            scores += _halved(x, y, g, c, OLD, STRICT, BASE, C, BN, LEVELS, PRECISION)
        read, write, total = grown(read, write, total, C // 2, C, BN)
        place = c[:, None] * (H * N) + n[None, :]
        tl.store(x_scaled_ptr + row + place, x * tl.exp2(read), mask=mask)
        tl.store(y_scaled_ptr + row + place, y * tl.exp2(write), mask=mask)
        tl.store(total_ptr + i * N + n, tl.sum(tl.where((c == 0)[:, None], total, 0.0), 0), mask=n < N)
    tl.store(scores_ptr + ((b * T + at) * H + h) * C + (c[:, None] * (H * C) + c[None, :]), scores, mask=in_t[:, None])


@triton.jit
def _halved_spread(product, z, g, c, OLD: tl.constexpr, BASE: tl.constexpr, C: tl.constexpr,
                   N: tl.constexpr, LEVELS: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """The outputs of N channels by halves."""
    read, write, total = sums(g, OLD, C, N, 0)
    out = tl.full([C, N], 0.0, g.dtype)
    if BASE == 1 and not OLD:
        out += tl.sum(tl.where(c[:, None] == c[None, :], product, 0.0), 1)[:, None] * z
    for level in tl.static_range(LEVELS):
        if 2 << level >= BASE:
            if (2 << level) == BASE:
                of_read, of_write = from_middle(read, write, g, 1 << level, OLD, C)
                here, there = tl.exp2(of_read), tl.exp2(of_write)
                seen = _seen(c, BASE, OLD)
            else:
                here = tl.exp2(tl.where((c // (1 << level) % 2 == 1)[:, None], read, write))
                there = here
                seen = _parted(c, 1 << level)
            part = tl.where(seen, product, 0.0).to(z.dtype)
            out += here * tl.dot(part, (z * there).to(z.dtype), input_precision=PRECISION).to(g.dtype)
        read, write, total = grown(read, write, total, 1 << level, C, N)
    return out


@triton.jit(do_not_specialize=["T", "S"])
def spread(
    x_ptr, x_b, x_t, x_h, x_n,
    y_ptr, y_b, y_t, y_h, y_n,
    z_ptr, z_b, z_t, z_h, z_m,
    g_ptr, g_b, g_t, g_h, g_m,
    out_ptr, z_scaled_ptr,
    total_ptr,
    table_ptr,
    T, H, V, S,
    N: tl.constexpr, ACC: tl.constexpr, OLD: tl.constexpr, BASE: tl.constexpr, LOOK: tl.constexpr,
    PACKED: tl.constexpr, C: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr, LEVELS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """out[t, m] = sum over s of (x_t . y_s) 2^(g[m] between them) z[s, m], BM channels of one chunk of one head.

    Over s <= t (s < t where OLD).  Also z decayed to the chunk's end and the chunk's sum of g (base 2).
    """
    i = tl.program_id(0).to(tl.int64)
    blocks, chunks = tl.cdiv(V, BM), chunk_rows(T, S, C, PACKED)
    m = i % blocks * BM + tl.arange(0, BM)
    chunk, head = i // blocks % chunks, i // blocks // chunks
    b, h = head // H, head % H
    at, stop = chunk_steps(table_ptr, chunk, T, C, PACKED)
    c = tl.arange(0, C)
    in_t = at + c < stop
    mask = in_t[:, None] & (m < V)[None, :]
    x_at, y_at = x_ptr + b * x_b + h * x_h + at * x_t, y_ptr + b * y_b + h * y_h + at * y_t
    product = tl.full([C, C], 0.0, ACC)
    for column in range(0, N, BN):
        n = column + tl.arange(0, BN)
        inner = in_t[:, None] & (n < N)[None, :]
        x = tl.load(x_at + (c[:, None] * x_t + n[None, :] * x_n), mask=inner, other=0.0)
        y = tl.load(y_at + (c[:, None] * y_t + n[None, :] * y_n), mask=inner, other=0.0)
        product += tl.dot(x, tl.trans(y), input_precision=PRECISION).to(ACC)
    z_at, g_at = z_ptr + b * z_b + h * z_h + at * z_t, g_ptr + b * g_b + h * g_h + at * g_t
    z = tl.load(z_at + (c[:, None] * z_t + m[None, :] * z_m), mask=mask, other=0.0)
    g = tl.load(g_at + (c[:, None] * g_t + m[None, :] * g_m), mask=mask, other=0.0).to(ACC) * LOG2E
    read, write, total = sums(g, OLD, C, BM, LEVELS - 1)
    near = True if BASE == C else farthest(read, write, g, OLD) <= NEAR if LOOK else False
    if near:
        of_read, of_write = from_middle(read, write, g, C // 2, OLD, C)
        here, there = tl.exp2(of_read), tl.exp2(of_write)
        part = tl.where(_seen(c, C, OLD), product, 0.0).to(z.dtype)
        out = here * tl.dot(part, (z * there).to(z.dtype), input_precision=PRECISION).to(ACC)
    else:
        out = _halved_spread(product, z, g, c, OLD, BASE, C, BM, LEVELS, PRECISION)
    place = ((b * T + at) * H + h) * V + (c[:, None] * (H * V) + m[None, :])
    tl.store(out_ptr + place, out, mask=mask)
    read, write, total = grown(read, write, total, C // 2, C, BM)
    tl.store(z_scaled_ptr + place, z * tl.exp2(write), mask=mask)
    end = tl.sum(tl.where((c == 0)[:, None], total, 0.0), 0)
    tl.store(total_ptr + (head * chunks + chunk) * V + m, end, mask=m < V)

"""What the steps of one chunk do to each other under a decay per channel, for all chunks at once.

A write at step s reaches a read at step t > s with the weight 2^(sum of g over s < i <= t) (over s < i < t where reads
come before the step), channel by channel, so the weight cannot be put into one matrix.  The chunk is halved instead: for
blocks of M = 1, 2, 4, ..., C/2 rows every pair of neighbouring blocks is one masked product, reads of the second block
decayed from the border between the two, writes of the first one decayed up to it (secondary chunks, Yang et al.,
arXiv:2312.06635, section 4.3, taken to the end).

No sum of logarithms is ever subtracted: sums over blocks of 2M rows come from those of M rows by adding the neighbour's
whole sum.  So a gate of zero (g = -inf) and gates near one in the same chunk keep all their digits, and where g <= 0 no
exponent is positive.  Where the gate has a proven lower bound, blocks of BASE rows are one product, measured from their
middle: exponents there are positive, and bounded.

Two kernels: with the decay on the contracted axis (`pairs`) and on the axis that stays (`spread`).
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["beside", "pairs", "spread"]

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def beside(total, M: tl.constexpr, C: tl.constexpr, N: tl.constexpr):
    """The sum of the neighbouring block of M rows, for each row; `total` [C, N] has that of its own block."""
    half = tl.arange(0, 2)[None, :, None, None]
    split = tl.reshape(total, [C // (2 * M), 2, M, N])
    first = tl.sum(tl.where(half == 0, split, 0.0), 1)
    second = tl.sum(tl.where(half == 1, split, 0.0), 1)
    return tl.reshape(tl.where(half == 0, tl.expand_dims(second, 1), tl.expand_dims(first, 1)), [C, N])


@triton.jit
def _same(c, M: tl.constexpr):
    """Which rows and columns stand in the same block of M."""
    return (c // M)[:, None] == (c // M)[None, :]


@triton.jit
def _exponents(read, write, g, second, MIDDLE: tl.constexpr, OLD: tl.constexpr):
    """Exponents of a read and of a write, from the border between two neighbouring blocks.

    Each row only needs one of them, but for the blocks of BASE rows (MIDDLE), where all rows read and write.
    """
    if MIDDLE:
        of_read = tl.where(second, read, -(write + g) if OLD else -write)
        of_write = tl.where(second, -(read + g) if OLD else -read, write)
        return of_read, of_write
    either = tl.where(second, read, write)
    return either, either


@triton.jit(do_not_specialize=["T"])
def pairs(
    x_ptr, x_b, x_t, x_h, x_n,
    y_ptr, y_b, y_t, y_h, y_n,
    g_ptr, g_b, g_t, g_h, g_n,
    scores_ptr,
    x_scaled_ptr, y_scaled_ptr,
    total_ptr,
    T, H,
    N: tl.constexpr, ACC: tl.constexpr, OLD: tl.constexpr, STRICT: tl.constexpr, BASE: tl.constexpr,
    C: tl.constexpr, BN: tl.constexpr, LEVELS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """scores[t, s] = sum_n x_t y_s 2^(g between them) of one chunk of one head, s <= t (s < t where STRICT).

    Also x decayed from the chunk's start, y decayed to its end, and the chunk's sum of g (base 2).
    """
    i = tl.program_id(0).to(tl.int64)
    chunks = tl.cdiv(T, C)
    chunk, head = i % chunks, i // chunks
    b, h = head // H, head % H
    at = chunk * C
    c = tl.arange(0, C)
    in_t = at + c < T
    x_at, y_at = x_ptr + b * x_b + h * x_h + at * x_t, y_ptr + b * y_b + h * y_h + at * y_t
    g_at, row = g_ptr + b * g_b + h * g_h + at * g_t, ((b * T + at) * H + h) * N
    scores = tl.full([C, C], 0.0, ACC)
    diagonal = tl.full([C], 0.0, ACC)
    for column in range(0, N, BN):
        n = column + tl.arange(0, BN)
        mask = in_t[:, None] & (n < N)[None, :]
        x = tl.load(x_at + (c[:, None] * x_t + n[None, :] * x_n), mask=mask, other=0.0)
        y = tl.load(y_at + (c[:, None] * y_t + n[None, :] * y_n), mask=mask, other=0.0)
        g = tl.load(g_at + (c[:, None] * g_t + n[None, :] * g_n), mask=mask, other=0.0).to(ACC) * LOG2E
        # sums of g over a block of M rows: from its start to the read, from the write to its end, and whole
        total, write = g, tl.full([C, BN], 0.0, ACC)
        read = write if OLD else g
        if BASE == 1 and not STRICT:
            diagonal += tl.sum(x.to(ACC) * y.to(ACC), 1)
        for level in tl.static_range(LEVELS):
            M: tl.constexpr = 1 << level
            second = (c // M % 2 == 1)[:, None]
            if 2 * M >= BASE:
                of_read, of_write = _exponents(read, write, g, second, 2 * M == BASE, OLD)
                left, right = x * tl.exp2(of_read), y * tl.exp2(of_write)
                if 2 * M == BASE:
                    seen = _same(c, BASE) & (c[:, None] > c[None, :] if STRICT else c[:, None] >= c[None, :])
                else:
                    left, right = tl.where(second, left, 0.0), tl.where(second, 0.0, right)
                    seen = _same(c, 2 * M)
                found = tl.dot(left.to(x.dtype), tl.trans(right.to(x.dtype)), input_precision=PRECISION).to(ACC)
                scores += tl.where(seen, found, 0.0)
            other = beside(total, M, C, BN)
            read += tl.where(second, other, 0.0)
            write += tl.where(second, 0.0, other)
            total += other
        place = c[:, None] * (H * N) + n[None, :]
        tl.store(x_scaled_ptr + row + place, x * tl.exp2(read), mask=mask)
        tl.store(y_scaled_ptr + row + place, y * tl.exp2(write), mask=mask)
        tl.store(total_ptr + i * N + n[None, :] + c[:, None] * 0, total, mask=(c == 0)[:, None] & (n < N)[None, :])
    if BASE == 1 and not STRICT:
        scores += tl.where(c[:, None] == c[None, :], diagonal[:, None], 0.0)
    tl.store(scores_ptr + ((b * T + at) * H + h) * C + (c[:, None] * (H * C) + c[None, :]), scores, mask=in_t[:, None])


@triton.jit(do_not_specialize=["T"])
def spread(
    x_ptr, x_b, x_t, x_h, x_n,
    y_ptr, y_b, y_t, y_h, y_n,
    w_ptr, w_b, w_t, w_h, w_m,
    r_ptr, r_b, r_t, r_h, r_m,
    g_ptr, g_b, g_t, g_h, g_m,
    ahead_ptr, back_ptr,
    w_scaled_ptr,
    total_ptr,
    T, H, V,
    N: tl.constexpr, ACC: tl.constexpr, OLD: tl.constexpr, AHEAD: tl.constexpr, BACK: tl.constexpr,
    SCALED: tl.constexpr, BASE: tl.constexpr, C: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr,
    LEVELS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """With P = x y^T and the weights W of BM channels m of one chunk of one head:

        ahead[t, m] = sum over s <= t of P[t, s] W[t, s, m] w[s, m]
        back[s, m]  = sum over t >= s of P[t, s] W[t, s, m] r[t, m]

    and, where SCALED, w decayed to the chunk's end, and the chunk's sum of g (base 2).
    """
    i = tl.program_id(0).to(tl.int64)
    blocks, chunks = tl.cdiv(V, BM), tl.cdiv(T, C)
    m = i % blocks * BM + tl.arange(0, BM)
    chunk, head = i // blocks % chunks, i // blocks // chunks
    b, h = head // H, head % H
    at = chunk * C
    c = tl.arange(0, C)
    in_t = at + c < T
    mask = in_t[:, None] & (m < V)[None, :]
    x_at, y_at = x_ptr + b * x_b + h * x_h + at * x_t, y_ptr + b * y_b + h * y_h + at * y_t
    product = tl.full([C, C], 0.0, ACC)
    for column in range(0, N, BN):
        n = column + tl.arange(0, BN)
        inner = in_t[:, None] & (n < N)[None, :]
        x = tl.load(x_at + (c[:, None] * x_t + n[None, :] * x_n), mask=inner, other=0.0)
        y = tl.load(y_at + (c[:, None] * y_t + n[None, :] * y_n), mask=inner, other=0.0)
        product += tl.dot(x, tl.trans(y), input_precision=PRECISION).to(ACC)
    g_at = g_ptr + b * g_b + h * g_h + at * g_t
    g = tl.load(g_at + (c[:, None] * g_t + m[None, :] * g_m), mask=mask, other=0.0).to(ACC) * LOG2E
    total, write = g, tl.full([C, BM], 0.0, ACC)
    read = write if OLD else g
    own = tl.sum(tl.where(c[:, None] == c[None, :], product, 0.0), 1)[:, None]  # a step's read of its own write
    plain = BASE == 1 and not OLD
    if AHEAD:
        w_at = w_ptr + b * w_b + h * w_h + at * w_t
        w = tl.load(w_at + (c[:, None] * w_t + m[None, :] * w_m), mask=mask, other=0.0)
        ahead = own * w if plain else tl.full([C, BM], 0.0, ACC)
    if BACK:
        r_at = r_ptr + b * r_b + h * r_h + at * r_t
        r = tl.load(r_at + (c[:, None] * r_t + m[None, :] * r_m), mask=mask, other=0.0)
        back = own * r if plain else tl.full([C, BM], 0.0, ACC)
    for level in tl.static_range(LEVELS):
        M: tl.constexpr = 1 << level
        second = (c // M % 2 == 1)[:, None]
        if 2 * M >= BASE:
            of_read, of_write = _exponents(read, write, g, second, 2 * M == BASE, OLD)
            reading, writing = tl.exp2(of_read), tl.exp2(of_write)
            if 2 * M == BASE:
                seen = _same(c, BASE) & (c[:, None] > c[None, :] if OLD else c[:, None] >= c[None, :])
            else:
                reading, writing = tl.where(second, reading, 0.0), tl.where(second, 0.0, writing)
                seen = _same(c, 2 * M) & second & (c // M % 2 == 0)[None, :]
            part = tl.where(seen, product, 0.0).to(x_ptr.dtype.element_ty)
            if AHEAD:
                ahead += reading * tl.dot(part, (w * writing).to(part.dtype), input_precision=PRECISION).to(ACC)
            if BACK:
                back += writing * tl.dot(tl.trans(part), (r * reading).to(part.dtype), input_precision=PRECISION).to(ACC)
        other = beside(total, M, C, BM)
        read += tl.where(second, other, 0.0)
        write += tl.where(second, 0.0, other)
        total += other
    place = ((b * T + at) * H + h) * V + (c[:, None] * (H * V) + m[None, :])
    if AHEAD:
        tl.store(ahead_ptr + place, ahead, mask=mask)
    if BACK:
        tl.store(back_ptr + place, back, mask=mask)
    if SCALED:
        tl.store(w_scaled_ptr + place, w * tl.exp2(write), mask=mask)
        ends = (head * chunks + chunk) * V + m[None, :] + c[:, None] * 0
        tl.store(total_ptr + ends, total, mask=(c == 0)[:, None] & (m < V)[None, :])

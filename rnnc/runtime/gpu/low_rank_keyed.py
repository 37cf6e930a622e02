"""Low-rank transitions with a decay for each key: what the rows of a chunk are to each other, and its gradients.

A product of two rows carries a decay for every key, 2^(sum of g between them), which no factor of either row holds
safely.  As in `rnnc.runtime.gpu.intra`, chunks are halved instead: for M = 1, 2, 4, ..., C/2 rows the second of two
neighbouring blocks is decayed from the border between them and the first one up to it, and no sum of logarithms is
subtracted from another: a gate of zero (g = -inf) is a factor of zero there.  Where all sums of a chunk are small (a
look at run time; or proven, in blocks of BASE rows), one product serves.  Here the rows of a micro-step share its
decay, so blocks begin with R rows; rows b come before their own decay and reads q before it (OLD) or after.

`low_rank_pairs` finds the triangular system M, the scores P of the reads, and q, b and u decayed to the ends of their
chunk.  For the gradients of all of it `low_rank_products` has what goes over the values, `low_rank_keyed_backward` the
rest: one kernel for both would hold five tiles more than there are registers.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import triton
import triton.language as tl

from rnnc.runtime.gpu.intra import LOG2E, NEAR, farthest, from_middle, grown
from rnnc.runtime.gpu.low_rank_backward import store_vectors, value_products
from rnnc.runtime.gpu.low_rank_rows import chunk_of, numbers, place, sees, tile, times

__all__ = ["low_rank_keyed_backward", "low_rank_pairs", "low_rank_products"]


# ---------------------------------------------------------------- decays of a chunk


@triton.jit
def _gates(g, row, g_t, g_n, N: tl.constexpr, FIRST: tl.constexpr, kk, g_k, mask, ACC: tl.constexpr):
    """Log decays (base 2) of rows; FIRST: only the first row of a time step has any."""
    given = mask & (row % N == 0)[:, None] if FIRST else mask
    return tile(g, row, g_t, g_n, N, kk, g_k, given).to(ACC) * LOG2E


@triton.jit
def _sums(g, C: tl.constexpr, BK: tl.constexpr, LEAST: tl.constexpr, LEVELS: tl.constexpr):
    """Sums of g in blocks of 2^LEVELS rows, begun with those of a micro-step (2^LEAST rows): from the block's start to
    before a row, from after it to the block's end, and whole."""
    before = tl.full([C, BK], 0.0, g.dtype)
    after, total = before, g
    for level in tl.static_range(LEAST, LEVELS):
        before, after, total = grown(before, after, total, 1 << level, C, BK)
    return before, after, total


@triton.jit
def _parted(ii, M: tl.constexpr):
    """Rows of the second of two neighbouring blocks of M and columns of the first."""
    same = (ii // (2 * M))[:, None] == (ii // (2 * M))[None, :]
    return same & (ii // M % 2 == 1)[:, None] & (ii // M % 2 == 0)[None, :]


@triton.jit
def _within(ii, SIZE: tl.constexpr):
    return (ii // SIZE)[:, None] == (ii // SIZE)[None, :]


@triton.jit
def _level(before, after, g, ii, M: tl.constexpr, BASE: tl.constexpr, C: tl.constexpr):
    """Weights of rows and of columns in blocks of 2M rows, of which the two halves meet, or, 2M = BASE, all."""
    if 2 * M == BASE:
        to_row, to_column = from_middle(before, after, g, M, True, C)
        return tl.exp2(to_row), tl.exp2(to_column)
    else:
        weight = tl.exp2(tl.where((ii // M % 2 == 1)[:, None], before, after))
        return weight, weight


@triton.jit
def _meeting(ii, M: tl.constexpr, R: tl.constexpr, OLD: tl.constexpr, BASE: tl.constexpr):
    """Which rows see which columns in blocks of 2M rows."""
    if 2 * M == BASE:
        return _within(ii, BASE) & sees(ii, ii, R, OLD)
    else:
        return _parted(ii, M)


# ---------------------------------------------------------------- scores


@triton.jit
def _scores(
    x, u, before, after, g, ii, near, scores, OLD: tl.constexpr, R: tl.constexpr, BASE: tl.constexpr,
    ACC: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, LEAST: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    """What rows x see of columns u, BK keys of them, added to those of other keys; `before` and `after` are sums in
    halves of the chunk."""
    if near:
        to_row, to_column = from_middle(before, after, g, C // 2, True, C)
        rows = (x * tl.exp2(to_row if OLD else to_row + g)).to(u.dtype)
        columns = tl.trans((u * tl.exp2(to_column)).to(u.dtype))
        scores += tl.where(sees(ii, ii, R, OLD), times(rows, columns, ACC), 0.0)
    else:
        scores = _scores_halved(x, u, g, ii, scores, OLD, R, BASE, ACC, C, BK, LEAST, LEVELS)
    return scores


@triton.jit
def _scores_halved(
    x, u, g, ii, scores, OLD: tl.constexpr, R: tl.constexpr, BASE: tl.constexpr, ACC: tl.constexpr, C: tl.constexpr,
    BK: tl.constexpr, LEAST: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    """As `_scores`, by halves."""
    before, after, total = _sums(g, C, BK, LEAST, LEAST)
    if BASE <= R and not OLD:  # what their own micro-step writes
        if R == 1:
            own = tl.sum(x.to(ACC) * u.to(ACC), 1)[:, None]
            scores += tl.where(ii[:, None] == ii[None, :], own, 0.0)
        else:
            scores += tl.where(_within(ii, R) & (ii[:, None] >= ii[None, :]), times(x, tl.trans(u), ACC), 0.0)
    for level in tl.static_range(LEAST, LEVELS):
        if 2 << level >= BASE:
            of_row, of_column = _level(before, after, g, ii, 1 << level, BASE, C)
            of_row = of_row if OLD else of_row * tl.exp2(g)
            rows, columns = (x * of_row).to(u.dtype), tl.trans((u * of_column).to(u.dtype))
            scores += tl.where(_meeting(ii, 1 << level, R, OLD, BASE), times(rows, columns, ACC), 0.0)
        before, after, total = grown(before, after, total, 1 << level, C, BK)
    return scores


@triton.jit(do_not_specialize=["L"])
def low_rank_pairs(
    q_ptr, q_b, q_t, q_n, q_h, q_e, q_k,
    u_ptr, u_b, u_t, u_n, u_h, u_e, u_k,
    b_ptr, b_b, b_t, b_n, b_h, b_e, b_k,
    s_ptr, s_b, s_t, s_n, s_h, s_e,
    c_ptr, c_b, c_t, c_n, c_h, c_e,
    g_ptr, g_b, g_t, g_n, g_h, g_e, g_k,
    table_ptr,
    system_ptr, scores_ptr,
    q_to_ptr, b_to_ptr, u_to_ptr,
    total_ptr,
    L, H, E,
    K: tl.constexpr, N: tl.constexpr, R: tl.constexpr, FIRST: tl.constexpr, TIED: tl.constexpr, OLD: tl.constexpr,
    READS: tl.constexpr, SYSTEM: tl.constexpr, BASE: tl.constexpr, LOOK: tl.constexpr, PACKED: tl.constexpr,
    ACC: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, LEAST: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    """Of one chunk of one head, READS: P [C, C] and q from its start; else M (with SYSTEM), b from its start, u to its
    end, and the sums of its log decays."""
    i, heads = tl.program_id(0).to(tl.int64), H * E
    h = i % heads
    hk, he = h // E, h % E
    batch, at, left = chunk_of(i // heads, L, C, table_ptr, PACKED)
    ii = tl.arange(0, C)
    step, row = at // N, (at % N).to(tl.int32) + ii
    line, here = (batch * L + at) * heads + h, (batch * (L // N) + step) * heads + h
    in_t = ii < left
    reading = in_t & (row % N == (0 if OLD else N - 1))
    q_at = place(q_ptr, batch, hk, he, q_b, q_h, q_e, step, q_t)
    u_at = place(u_ptr, batch, hk, he, u_b, u_h, u_e, step, u_t)
    b_at = place(b_ptr, batch, hk, he, b_b, b_h, b_e, step, b_t)
    g_at = place(g_ptr, batch, hk, he, g_b, g_h, g_e, step, g_t)
    scores = tl.zeros([C, C], ACC)
    for column in tl.range(0, K, BK, disable_licm=True):
        kk = column + tl.arange(0, BK)
        keys, read_keys = in_t[:, None] & (kk < K)[None, :], reading[:, None] & (kk < K)[None, :]
        g = _gates(g_at, row, g_t, g_n, N, FIRST, kk, g_k, keys, ACC)
        u = tile(u_at, row, u_t, u_n, N, kk, u_k, keys)
        half, rest, total = _sums(g, C, BK, LEAST, LEVELS - 1)
        before, after, total = grown(half, rest, total, C // 2, C, BK)
        near = True if BASE == C else farthest(half, rest, g, True) <= NEAR if LOOK else False
        if READS:
            q = tile(q_at, row, q_t, q_n, N, kk, q_k, read_keys)
            scores = _scores(q, u, half, rest, g, ii, near, scores, OLD, R, BASE, ACC, C, BK, LEAST, LEVELS)
            q_key = here * K + ((row // N * (H * E * K))[:, None] + kk[None, :])
            tl.store(q_to_ptr + q_key, q * tl.exp2(before if OLD else before + g), mask=read_keys)
        else:
            b = u if TIED else tile(b_at, row, b_t, b_n, N, kk, b_k, keys)
            if SYSTEM:
                scores = _scores(b, u, half, rest, g, ii, near, scores, True, R, BASE, ACC, C, BK, LEAST, LEVELS)
            key = line * K + ((ii * (H * E * K))[:, None] + kk[None, :])
            tl.store(b_to_ptr + key, b * tl.exp2(before), mask=keys)
            tl.store(u_to_ptr + key, u * tl.exp2(after), mask=keys)
            whole = tl.sum(tl.where((ii == 0)[:, None], total, 0.0), 0)
            tl.store(total_ptr + i * K + kk, whole, mask=kk < K)
    square = i * (C * C) + (ii[:, None] * C + ii[None, :])
    if READS:
        tl.store(scores_ptr + square, scores)
    elif SYSTEM:
        s = numbers(place(s_ptr, batch, hk, he, s_b, s_h, s_e, step, s_t), row, s_t, s_n, N, in_t, ACC)
        c = numbers(place(c_ptr, batch, hk, he, c_b, c_h, c_e, step, c_t), row, c_t, c_n, N, in_t, ACC)
        tl.store(system_ptr + square, scores * c[:, None] * s[None, :])


# ---------------------------------------------------------------- gradients


@triton.jit
def _met(d_scores, seen, x, u, of_row, of_column, d_x, d_u, ACC: tl.constexpr):
    """What rows x get from the columns u that they see, and these from them, by one weight each: added to their
    gradients."""
    d_scores = tl.where(seen, d_scores, 0.0).to(u.dtype)
    d_x += of_row * times(d_scores, (u * of_column).to(u.dtype), ACC)
    d_u += of_column * times(tl.trans(d_scores), (x * of_row).to(u.dtype), ACC)
    return d_x, d_u


@triton.jit
def _spread(
    d_scores, x, u, before, after, g, ii, near, d_x, d_u, OLD: tl.constexpr, R: tl.constexpr, BASE: tl.constexpr,
    ACC: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, LEAST: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    """`_met` for all of a chunk; `before` and `after` are sums in halves of it."""
    if near:
        to_row, to_column = from_middle(before, after, g, C // 2, True, C)
        of_row, of_column = tl.exp2(to_row if OLD else to_row + g), tl.exp2(to_column)
        d_x, d_u = _met(d_scores, sees(ii, ii, R, OLD), x, u, of_row, of_column, d_x, d_u, ACC)
    else:
        d_x, d_u = _spread_halved(d_scores, x, u, g, ii, d_x, d_u, OLD, R, BASE, ACC, C, BK, LEAST, LEVELS)
    return d_x, d_u


@triton.jit
def _spread_halved(
    d_scores, x, u, g, ii, d_x, d_u, OLD: tl.constexpr, R: tl.constexpr, BASE: tl.constexpr, ACC: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, LEAST: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    before, after, total = _sums(g, C, BK, LEAST, LEAST)
    if BASE <= R and not OLD:
        if R == 1:
            own = tl.sum(tl.where(ii[:, None] == ii[None, :], d_scores, 0.0).to(ACC), 1)[:, None]
            d_x, d_u = d_x + own * u, d_u + own * x
        else:
            part = tl.where(_within(ii, R) & (ii[:, None] >= ii[None, :]), d_scores, 0.0).to(u.dtype)
            d_x, d_u = d_x + times(part, u, ACC), d_u + times(tl.trans(part), x, ACC)
    for level in tl.static_range(LEAST, LEVELS):
        if 2 << level >= BASE:
            of_row, of_column = _level(before, after, g, ii, 1 << level, BASE, C)
            of_row = of_row if OLD else of_row * tl.exp2(g)
            seen = _meeting(ii, 1 << level, R, OLD, BASE)
            d_x, d_u = _met(d_scores, seen, x, u, of_row, of_column, d_x, d_u, ACC)
        before, after, total = grown(before, after, total, 1 << level, C, BK)
    return d_x, d_u


@triton.jit(do_not_specialize=["L"])
def low_rank_products(
    table_ptr,
    kept_ptr,
    behind_ptr,
    w_ptr,
    x_ptr,
    d_o_ptr,
    d_scores_ptr, d_system_ptr,
    q_to_ptr, b_to_ptr, u_to_ptr,
    through_ptr,
    L, H, E, V,
    K: tl.constexpr, N: tl.constexpr, OLD: tl.constexpr, PACKED: tl.constexpr, ACC: tl.constexpr, C: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """`value_products` of BK keys of one chunk of one head, written out: the gradients of P and of M (without s and
    c), of q, b and u as decayed to the ends of the chunk, and the sums of S dS over values."""
    i, heads, blocks = tl.program_id(0).to(tl.int64), H * E, tl.cdiv(K, BK)
    block, i = i % blocks, i // blocks
    h = i % heads
    batch, at, left = chunk_of(i // heads, L, C, table_ptr, PACKED)
    ii, kk = tl.arange(0, C), (block * BK).to(tl.int32) + tl.arange(0, BK)
    step, row = at // N, (at % N).to(tl.int32) + ii
    line, here = (batch * L + at) * heads + h, (batch * (L // N) + step) * heads + h
    in_t, in_k = ii < left, kk < K
    reading = in_t & (row % N == (0 if OLD else N - 1))
    d_m, d_p, d_q, d_b, d_u, through = value_products(
        kept_ptr + i * (K * V), behind_ptr + i * (K * V), w_ptr + line * V, x_ptr + line * V, d_o_ptr + here * V,
        kk, in_k, ii, in_t, row, reading, H * E, V, K, N, True, ACC, C, BK, BV, STAGES,
    )  # fmt: skip
    square = i * (C * C) + (ii[:, None] * C + ii[None, :])
    tl.store(d_system_ptr + square, d_m, mask=block == 0)
    tl.store(d_scores_ptr + square, d_p, mask=block == 0)
    store_vectors(
        q_to_ptr + here * K, u_to_ptr + line * K, b_to_ptr + line * K, d_q, d_u, d_b, kk, in_k, ii, in_t, row, reading,
        H * E, K, N, False,
    )  # fmt: skip
    tl.store(through_ptr + i * K + kk, through, mask=in_k)


@triton.jit(do_not_specialize=["L"])
def low_rank_keyed_backward(
    q_ptr, q_b, q_t, q_n, q_h, q_e, q_k,
    u_ptr, u_b, u_t, u_n, u_h, u_e, u_k,
    b_ptr, b_b, b_t, b_n, b_h, b_e, b_k,
    s_ptr, s_b, s_t, s_n, s_h, s_e,
    c_ptr, c_b, c_t, c_n, c_h, c_e,
    g_ptr, g_b, g_t, g_n, g_h, g_e, g_k,
    table_ptr,
    d_scores_ptr, d_system_ptr,
    q_to_ptr, b_to_ptr, u_to_ptr,
    through_ptr,
    d_q_ptr, d_u_ptr, d_b_ptr,
    d_s_ptr, d_c_ptr, d_g_ptr,
    ROWS, L, H, E,
    K: tl.constexpr, N: tl.constexpr, R: tl.constexpr, FIRST: tl.constexpr, TIED: tl.constexpr, OLD: tl.constexpr,
    READS: tl.constexpr, BASE: tl.constexpr, LOOK: tl.constexpr, PACKED: tl.constexpr, ACC: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, LEAST: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    """The gradients of BK keys of one chunk of one head; those of s and c are written for each block, ROWS apart.

    READS: that of q, and what reads add to u's; what `low_rank_products` wrote becomes what rows, the second launch,
    start from: q's and u's gradients in float32, and `through` the gradient of the chunk's decay.
    """
    i, heads, blocks = tl.program_id(0).to(tl.int64), H * E, tl.cdiv(K, BK)
    block, i = i % blocks, i // blocks
    h = i % heads
    hk, he = h // E, h % E
    batch, at, left = chunk_of(i // heads, L, C, table_ptr, PACKED)
    ii, kk = tl.arange(0, C), (block * BK).to(tl.int32) + tl.arange(0, BK)
    step, row = at // N, (at % N).to(tl.int32) + ii
    line, here = (batch * L + at) * heads + h, (batch * (L // N) + step) * heads + h
    in_t, in_k = ii < left, kk < K
    reading = in_t & (row % N == (0 if OLD else N - 1))
    keys, read_keys = in_t[:, None] & in_k[None, :], reading[:, None] & in_k[None, :]
    g_at = place(g_ptr, batch, hk, he, g_b, g_h, g_e, step, g_t)
    g = _gates(g_at, row, g_t, g_n, N, FIRST, kk, g_k, keys, ACC)
    half, rest, total = _sums(g, C, BK, LEAST, LEVELS - 1)
    before, after, total = grown(half, rest, total, C // 2, C, BK)
    near = True if BASE == C else farthest(half, rest, g, True) <= NEAR if LOOK else False
    read_key = here * K + ((row // N * (H * E * K))[:, None] + kk[None, :])
    key = line * K + ((ii * (H * E * K))[:, None] + kk[None, :])
    square = i * (C * C) + (ii[:, None] * C + ii[None, :])
    number = block * ROWS + line + ii * (H * E)
    # u carries s where it is a column, and b carries c where it is a row
    s = numbers(place(s_ptr, batch, hk, he, s_b, s_h, s_e, step, s_t), row, s_t, s_n, N, in_t, ACC)[:, None]
    u = tile(place(u_ptr, batch, hk, he, u_b, u_h, u_e, step, u_t), row, u_t, u_n, N, kk, u_k, keys)
    q = tile(place(q_ptr, batch, hk, he, q_b, q_h, q_e, step, q_t), row, q_t, q_n, N, kk, q_k, read_keys)
    us = (u * s).to(u.dtype)
    d_q = tl.load(q_to_ptr + read_key, mask=read_keys, other=0.0)
    d_u = tl.load(u_to_ptr + key, mask=keys, other=0.0)
    d_end = tl.load(through_ptr + i * K + kk, mask=in_k, other=0.0)
    if READS:
        d_q *= tl.exp2(before if OLD else before + g)
        d_u *= tl.exp2(after)
        whole = tl.sum(tl.where((ii == 0)[:, None], total, 0.0), 0)
        tl.debug_barrier()  # what is written in its place has been read by all threads
        tl.store(through_ptr + i * K + kk, d_end * tl.exp2(whole) + tl.sum(d_u * u * s, 0), mask=in_k)
        d_p = tl.load(d_scores_ptr + square)
        d_q, d_u = _spread(d_p, q, us, half, rest, g, ii, near, d_q, d_u, OLD, R, BASE, ACC, C, BK, LEAST, LEVELS)
        tl.store(d_q_ptr + read_key, d_q, mask=read_keys)
        tl.store(q_to_ptr + read_key, d_q, mask=read_keys)
        tl.store(u_to_ptr + key, d_u, mask=keys)
        return
    c = numbers(place(c_ptr, batch, hk, he, c_b, c_h, c_e, step, c_t), row, c_t, c_n, N, in_t, ACC)[:, None]
    b_at = place(b_ptr, batch, hk, he, b_b, b_h, b_e, step, b_t)
    b = u if TIED else tile(b_at, row, b_t, b_n, N, kk, b_k, keys)
    bc = (b * c).to(u.dtype)
    d_b = tl.load(b_to_ptr + key, mask=keys, other=0.0) * tl.exp2(before)
    d_m = tl.load(d_system_ptr + square)
    d_b, d_u = _spread(d_m, bc, us, half, rest, g, ii, near, d_b, d_u, True, R, BASE, ACC, C, BK, LEAST, LEVELS)
    tl.store(d_s_ptr + number, tl.sum(d_u * u, 1), mask=in_t)
    tl.store(d_c_ptr + number, tl.sum(d_b * b, 1), mask=in_t)
    d_b, d_u = d_b * c, d_u * s
    if TIED:
        tl.store(d_u_ptr + key, d_u + d_b, mask=keys)
    else:
        tl.store(d_u_ptr + key, d_u, mask=keys)
        tl.store(d_b_ptr + key, d_b, mask=keys)
    # a decay is felt by all that is read later of what was written before; that of zero by nothing
    d_read, d_before = d_q * q, d_b * b
    felt = tl.cumsum(d_read + d_before - d_u * u, 0, reverse=True) + d_end[None, :]
    d_g = tl.where((ii % R == 0)[:, None], felt, 0.0) - (d_before + d_read if OLD else d_before)
    d_g = tl.where(g == -float("inf"), 0.0, d_g)
    if FIRST:
        tl.store(d_g_ptr + read_key, d_g, mask=keys & (row % N == 0)[:, None])
    else:
        tl.store(d_g_ptr + key, d_g, mask=keys)

"""Low-rank transitions with a decay for each key: what the rows of a chunk are to each other, and its gradients.

A product of two rows carries a decay for every key: `rnnc.runtime.gpu.exchange` says how that is found.  The rows of a
micro-step share its decay; rows b come before their own decay and reads q before it (OLD) or after.

`low_rank_pairs` finds the triangular system M, the scores P of the reads, and q, b and u decayed to the ends of their
chunk.  For the gradients of all of it `low_rank_products` has what goes over the values, then `low_rank_keyed_reads`
and `low_rank_keyed_rows` the rest: one kernel for all would hold five tiles more than there are registers.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import triton
import triton.language as tl

from rnnc.runtime.gpu.exchange import exchanged, row_sums, scores_of
from rnnc.runtime.gpu.intra import LOG2E, NEAR, farthest, grown
from rnnc.runtime.gpu.low_rank_backward import store_numbers, store_rows, value_products
from rnnc.runtime.gpu.low_rank_rows import chunk_of, keys_of, numbers, place, tile

__all__ = ["low_rank_keyed_reads", "low_rank_keyed_rows", "low_rank_pairs", "low_rank_products"]


# ---------------------------------------------------------------- decays of a chunk


@triton.jit
def _gates(g, row, g_t, g_n, N: tl.constexpr, FIRST: tl.constexpr, kk, g_k, mask, ACC: tl.constexpr):
    """Log decays (base 2) of rows; FIRST: only the first row of a time step has any."""
    given = mask & (row % N == 0)[:, None] if FIRST else mask
    return tile(g, row, g_t, g_n, N, kk, g_k, given).to(ACC) * LOG2E


@triton.jit
def _decays(g_at, row, g_t, g_n, N: tl.constexpr, FIRST: tl.constexpr, kk, g_k, mask, BASE: tl.constexpr,
            LOOK: tl.constexpr, ACC: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, LEAST: tl.constexpr,
            LEVELS: tl.constexpr):  # fmt: skip
    """Log decays of rows; their sums in halves of the chunk, from the start to before a row and from after it to the
    end; the same in all of it, and whole; and whether one product serves."""
    g = _gates(g_at, row, g_t, g_n, N, FIRST, kk, g_k, mask, ACC)
    half, rest, total = row_sums(g, C, BK, LEAST, LEVELS - 1)
    before, after, total = grown(half, rest, total, C // 2, C, BK)
    near = True if BASE == C else farthest(half, rest, g, True) <= NEAR if LOOK else False
    return g, half, rest, before, after, tl.sum(tl.where((tl.arange(0, C) == 0)[:, None], total, 0.0), 0), near


# ---------------------------------------------------------------- scores


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
        g, half, rest, before, after, whole, near = _decays(
            g_at, row, g_t, g_n, N, FIRST, kk, g_k, keys, BASE, LOOK, ACC, C, BK, LEAST, LEVELS
        )
        u = tile(u_at, row, u_t, u_n, N, kk, u_k, keys)
        if READS:
            q = tile(q_at, row, q_t, q_n, N, kk, q_k, read_keys)
            scores = scores_of(q, u, half, rest, g, ii, near, scores, OLD, R, BASE, ACC, C, BK, LEAST, LEVELS)
            q_key = here * K + ((row // N * (H * E * K))[:, None] + kk[None, :])
            tl.store(q_to_ptr + q_key, q * tl.exp2(before if OLD else before + g), mask=read_keys)
        else:
            b = u if TIED else tile(b_at, row, b_t, b_n, N, kk, b_k, keys)
            if SYSTEM:
                scores = scores_of(b, u, half, rest, g, ii, near, scores, True, R, BASE, ACC, C, BK, LEAST, LEVELS)
            key = line * K + ((ii * (H * E * K))[:, None] + kk[None, :])
            tl.store(b_to_ptr + key, b * tl.exp2(before), mask=keys)
            tl.store(u_to_ptr + key, u * tl.exp2(after), mask=keys)
            tl.store(total_ptr + i * K + kk, whole, mask=kk < K)
    square = i * (C * C) + (ii[:, None] * C + ii[None, :])
    if READS:
        tl.store(scores_ptr + square, scores)
    elif SYSTEM:
        s = numbers(place(s_ptr, batch, hk, he, s_b, s_h, s_e, step, s_t), row, s_t, s_n, N, in_t, ACC)
        c = numbers(place(c_ptr, batch, hk, he, c_b, c_h, c_e, step, c_t), row, c_t, c_n, N, in_t, ACC)
        tl.store(system_ptr + square, scores * c[:, None] * s[None, :])


# ---------------------------------------------------------------- gradients


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
    block, kk, i, _, _, _, _, line, here, row, in_t, reading = keys_of(table_ptr, L, H, E, K, N, OLD, PACKED, C, BK)
    ii, in_k = tl.arange(0, C), kk < K
    d_m, d_p, d_q, d_b, d_u, through = value_products(
        kept_ptr + i * (K * V), behind_ptr + i * (K * V), w_ptr + line * V, x_ptr + line * V, d_o_ptr + here * V,
        kk, in_k, ii, in_t, row, reading, H * E, V, N, True, ACC, C, BK, BV, STAGES,
    )  # fmt: skip
    square = i * (C * C) + (ii[:, None] * C + ii[None, :])
    tl.store(d_system_ptr + square, d_m, mask=block == 0)
    tl.store(d_scores_ptr + square, d_p, mask=block == 0)
    read_key = (row // N * (H * E * K))[:, None] + kk[None, :]
    tl.store(q_to_ptr + here * K + read_key, d_q, mask=reading[:, None] & in_k[None, :])
    store_rows(u_to_ptr + line * K, b_to_ptr + line * K, d_u, d_b, kk, in_k, ii, in_t, H * E, K, False)
    tl.store(through_ptr + i * K + kk, through, mask=in_k)


@triton.jit(do_not_specialize=["L"])
def low_rank_keyed_reads(
    q_ptr, q_b, q_t, q_n, q_h, q_e, q_k,
    u_ptr, u_b, u_t, u_n, u_h, u_e, u_k,
    s_ptr, s_b, s_t, s_n, s_h, s_e,
    g_ptr, g_b, g_t, g_n, g_h, g_e, g_k,
    table_ptr,
    d_scores_ptr,
    q_to_ptr, u_to_ptr,
    through_ptr,
    d_q_ptr,
    L, H, E,
    K: tl.constexpr, N: tl.constexpr, R: tl.constexpr, FIRST: tl.constexpr, OLD: tl.constexpr, BASE: tl.constexpr,
    LOOK: tl.constexpr, PACKED: tl.constexpr, ACC: tl.constexpr, C: tl.constexpr, BK: tl.constexpr,
    LEAST: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    """The gradient of BK keys of one chunk's reads, and what reads add to u's.

    What `low_rank_products` wrote becomes what rows start from: the gradients of q and of u (without s) in float32, and
    `through` the gradient of the chunk's decay.
    """
    _, kk, i, hk, he, batch, step, line, here, row, in_t, reading = keys_of(
        table_ptr, L, H, E, K, N, OLD, PACKED, C, BK
    )
    ii, in_k = tl.arange(0, C), kk < K
    keys, read_keys = in_t[:, None] & in_k[None, :], reading[:, None] & in_k[None, :]
    read_key = here * K + ((row // N * (H * E * K))[:, None] + kk[None, :])
    key = line * K + ((ii * (H * E * K))[:, None] + kk[None, :])
    g_at = place(g_ptr, batch, hk, he, g_b, g_h, g_e, step, g_t)
    g, half, rest, before, after, whole, near = _decays(
        g_at, row, g_t, g_n, N, FIRST, kk, g_k, keys, BASE, LOOK, ACC, C, BK, LEAST, LEVELS
    )
    s = numbers(place(s_ptr, batch, hk, he, s_b, s_h, s_e, step, s_t), row, s_t, s_n, N, in_t, ACC)[:, None]
    u = tile(place(u_ptr, batch, hk, he, u_b, u_h, u_e, step, u_t), row, u_t, u_n, N, kk, u_k, keys)
    d_u = tl.load(u_to_ptr + key, mask=keys, other=0.0) * tl.exp2(after)
    us = u * s
    d_end = tl.load(through_ptr + i * K + kk, mask=in_k, other=0.0) * tl.exp2(whole) + tl.sum(d_u * us, 0)
    tl.debug_barrier()  # what is overwritten has been read, whichever thread had it
    tl.store(through_ptr + i * K + kk, d_end, mask=in_k)
    us = us.to(u.dtype)
    d_q = tl.load(q_to_ptr + read_key, mask=read_keys, other=0.0) * tl.exp2(before if OLD else before + g)
    q = tile(place(q_ptr, batch, hk, he, q_b, q_h, q_e, step, q_t), row, q_t, q_n, N, kk, q_k, read_keys)
    d_p = tl.load(d_scores_ptr + i * (C * C) + (ii[:, None] * C + ii[None, :]))
    d_q, d_u = exchanged(d_p, q, us, half, rest, g, ii, near, d_q, d_u, OLD, R, BASE, ACC, C, BK, LEAST, LEVELS, "ieee")
    tl.debug_barrier()
    tl.store(d_q_ptr + read_key, d_q, mask=read_keys)
    tl.store(q_to_ptr + read_key, d_q, mask=read_keys)
    tl.store(u_to_ptr + key, d_u, mask=keys)


@triton.jit(do_not_specialize=["L"])
def low_rank_keyed_rows(
    q_ptr, q_b, q_t, q_n, q_h, q_e, q_k,
    u_ptr, u_b, u_t, u_n, u_h, u_e, u_k,
    b_ptr, b_b, b_t, b_n, b_h, b_e, b_k,
    s_ptr, s_b, s_t, s_n, s_h, s_e,
    c_ptr, c_b, c_t, c_n, c_h, c_e,
    g_ptr, g_b, g_t, g_n, g_h, g_e, g_k,
    table_ptr,
    d_system_ptr,
    q_to_ptr, b_to_ptr, u_to_ptr,
    through_ptr,
    d_u_ptr, d_b_ptr,
    d_s_ptr, d_c_ptr, d_g_ptr,
    ROWS, L, H, E,
    K: tl.constexpr, N: tl.constexpr, R: tl.constexpr, FIRST: tl.constexpr, TIED: tl.constexpr, OLD: tl.constexpr,
    BASE: tl.constexpr, LOOK: tl.constexpr, PACKED: tl.constexpr, ACC: tl.constexpr, C: tl.constexpr,
    BK: tl.constexpr, LEAST: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    """The gradients of BK keys of one chunk's rows, given what reads made of `low_rank_products`' results; those of s
    and c are written for each block of keys, ROWS apart."""
    block, kk, i, hk, he, batch, step, line, here, row, in_t, reading = keys_of(
        table_ptr, L, H, E, K, N, OLD, PACKED, C, BK
    )
    ii, in_k = tl.arange(0, C), kk < K
    keys, read_keys = in_t[:, None] & in_k[None, :], reading[:, None] & in_k[None, :]
    read_key = here * K + ((row // N * (H * E * K))[:, None] + kk[None, :])
    key = line * K + ((ii * (H * E * K))[:, None] + kk[None, :])
    g_at = place(g_ptr, batch, hk, he, g_b, g_h, g_e, step, g_t)
    g, half, rest, before, _, _, near = _decays(
        g_at, row, g_t, g_n, N, FIRST, kk, g_k, keys, BASE, LOOK, ACC, C, BK, LEAST, LEVELS
    )
    # u carries s where it is a column, and b carries c where it is a row
    s = numbers(place(s_ptr, batch, hk, he, s_b, s_h, s_e, step, s_t), row, s_t, s_n, N, in_t, ACC)[:, None]
    c = numbers(place(c_ptr, batch, hk, he, c_b, c_h, c_e, step, c_t), row, c_t, c_n, N, in_t, ACC)[:, None]
    u = tile(place(u_ptr, batch, hk, he, u_b, u_h, u_e, step, u_t), row, u_t, u_n, N, kk, u_k, keys)
    b_at = place(b_ptr, batch, hk, he, b_b, b_h, b_e, step, b_t)
    b = u if TIED else tile(b_at, row, b_t, b_n, N, kk, b_k, keys)
    d_b = tl.load(b_to_ptr + key, mask=keys, other=0.0) * tl.exp2(before)
    d_u = tl.load(u_to_ptr + key, mask=keys, other=0.0)
    d_m = tl.load(d_system_ptr + i * (C * C) + (ii[:, None] * C + ii[None, :]))
    us, bc = (u * s).to(u.dtype), (b * c).to(u.dtype)
    d_b, d_u = exchanged(
        d_m, bc, us, half, rest, g, ii, near, d_b, d_u, True, R, BASE, ACC, C, BK, LEAST, LEVELS, "ieee"
    )
    number = block * ROWS + line
    store_numbers(d_s_ptr + number, d_c_ptr + number, tl.sum(d_u * u, 1), tl.sum(d_b * b, 1), ii, in_t, H * E)
    d_b, d_u = d_b * c, d_u * s
    store_rows(d_u_ptr + line * K, d_b_ptr + line * K, d_u, d_b, kk, in_k, ii, in_t, H * E, K, TIED)
    # a decay is felt by all that is read later of what was written before; that of zero by nothing
    q = tile(place(q_ptr, batch, hk, he, q_b, q_h, q_e, step, q_t), row, q_t, q_n, N, kk, q_k, read_keys)
    d_read, d_before = tl.load(q_to_ptr + read_key, mask=read_keys, other=0.0) * q, d_b * b
    d_end = tl.load(through_ptr + i * K + kk, mask=in_k, other=0.0)
    felt = tl.cumsum(d_read + d_before - d_u * u, 0, reverse=True) + d_end[None, :]
    d_g = tl.where((ii % R == 0)[:, None], felt, 0.0) - (d_before + d_read if OLD else d_before)
    d_g = tl.where(g == -float("inf"), 0.0, d_g)
    if FIRST:
        tl.store(d_g_ptr + read_key, d_g, mask=keys & (row % N == 0)[:, None])
    else:
        tl.store(d_g_ptr + key, d_g, mask=keys)

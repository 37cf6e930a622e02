"""The gradients of a chunk of a diagonal-plus-low-rank recurrence, given the states and gradients at its ends.

All chunks and blocks of keys at once; `low_rank_inverse` says what is computed.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import triton
import triton.language as tl

from rnnc.runtime.gpu.low_rank_rows import (
    ZERO,
    between,
    decays,
    factor,
    keys_of,
    numbers,
    place,
    reads,
    sees,
    tile,
    times,
)

__all__ = ["low_rank_backward", "store_numbers", "store_rows", "value_products"]


@triton.jit
def value_products(
    kept, behind, w_at, x_at, d_o_at, kk, in_k, ii, in_t, row, reading, heads, V,
    N: tl.constexpr, GATE: tl.constexpr, ACC: tl.constexpr, C: tl.constexpr, BK: tl.constexpr,
    BV: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """X W^T and dO W^T [C, C]; dO S^T, X S^T and W dS^T [C, BK]; GATE: the sums of S dS over values, [BK]."""
    d_m = tl.zeros([C, C], ACC)
    d_p = tl.zeros([C, C], ACC)
    d_q = tl.zeros([C, BK], ACC)
    d_b = tl.zeros([C, BK], ACC)
    d_u = tl.zeros([C, BK], ACC)
    through = tl.zeros([BK], ACC)
    for column in tl.range(0, V, BV, num_stages=STAGES, disable_licm=True):
        vv = column + tl.arange(0, BV)
        in_v = vv < V
        values, in_state = in_t[:, None] & in_v[None, :], in_k[:, None] & in_v[None, :]
        state, own = kk[:, None] * V + vv[None, :], (ii * (heads * V))[:, None] + vv[None, :]
        S = tl.load(kept + state, mask=in_state, other=0.0)
        dS = tl.load(behind + state, mask=in_state, other=0.0)
        w = tl.load(w_at + own, mask=values, other=0.0)
        x = tl.load(x_at + own, mask=values, other=0.0)
        read = (row // N * (heads * V))[:, None] + vv[None, :]
        d_o = tl.load(d_o_at + read, mask=reading[:, None] & in_v[None, :], other=0.0)
        d_m += times(x, tl.trans(w), ACC)
        d_p += times(d_o, tl.trans(w), ACC)
        d_q += times(d_o, tl.trans(S), ACC)
        d_b += times(x, tl.trans(S), ACC)
        d_u += times(w, tl.trans(dS), ACC)
        if GATE:
            through += tl.sum(S.to(ACC) * dS.to(ACC), 1)
    return d_m, d_p, d_q, d_b, d_u, through


@triton.jit
def store_rows(d_u_at, d_b_at, d_u, d_b, kk, in_k, ii, in_t, heads, K: tl.constexpr, TIED: tl.constexpr):
    """Writes the gradients of u and b; with TIED, u's has b's in it."""
    key, keys = (ii * (heads * K))[:, None] + kk[None, :], in_t[:, None] & in_k[None, :]
    if TIED:
        tl.store(d_u_at + key, d_u + d_b, mask=keys)
    else:
        tl.store(d_u_at + key, d_u, mask=keys)
        tl.store(d_b_at + key, d_b, mask=keys)


@triton.jit
def store_numbers(d_s_at, d_c_at, d_s, d_c, ii, in_t, heads):
    tl.store(d_s_at + ii * heads, d_s, mask=in_t)
    tl.store(d_c_at + ii * heads, d_c, mask=in_t)


@triton.jit(do_not_specialize=["L"])
def low_rank_backward(
    q_ptr, q_b, q_t, q_n, q_h, q_e, q_k,
    u_ptr, u_b, u_t, u_n, u_h, u_e, u_k,
    b_ptr, b_b, b_t, b_n, b_h, b_e, b_k,
    s_ptr, s_b, s_t, s_n, s_h, s_e,
    c_ptr, c_b, c_t, c_n, c_h, c_e,
    g_ptr, g_b, g_t, g_n, g_h, g_e,
    table_ptr,
    kept_ptr,
    behind_ptr,
    w_ptr,
    x_ptr,
    d_o_ptr,
    d_q_ptr, d_u_ptr, d_b_ptr,
    d_s_ptr, d_c_ptr, d_g_ptr,
    ROWS, L, H, E, V,
    K: tl.constexpr, N: tl.constexpr, R: tl.constexpr, GATE: tl.constexpr, TIED: tl.constexpr, OLD: tl.constexpr,
    PACKED: tl.constexpr, ACC: tl.constexpr, SUM: tl.constexpr, C: tl.constexpr, BK: tl.constexpr,
    BV: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The gradients of BK keys of one chunk of one head, under decays of all keys alike.

    Those of s, c and g are written for each block of keys, ROWS apart.
    """
    block, kk, i, hk, he, b, step, line, here, row, in_t, reading = keys_of(
        table_ptr, L, H, E, K, N, OLD, PACKED, C, BK
    )
    ii, in_k = tl.arange(0, C), kk < K
    d_m, d_p, d_q, d_b, d_u, through = value_products(
        kept_ptr + i * (K * V), behind_ptr + i * (K * V), w_ptr + line * V, x_ptr + line * V, d_o_ptr + here * V,
        kk, in_k, ii, in_t, row, reading, H * E, V, N, GATE, ACC, C, BK, BV, STAGES,
    )  # fmt: skip
    keys, read_keys = in_t[:, None] & in_k[None, :], reading[:, None] & in_k[None, :]
    s = numbers(place(s_ptr, b, hk, he, s_b, s_h, s_e, step, s_t), row, s_t, s_n, N, in_t, ACC)
    g_at = place(g_ptr, b, hk, he, g_b, g_h, g_e, step, g_t)
    before, after, end = decays(g_at, row, g_t, g_n, N, R, ii, in_t, GATE, SUM)
    _, to_read = reads(before, after, row, N, OLD)
    u = tile(place(u_ptr, b, hk, he, u_b, u_h, u_e, step, u_t), row, u_t, u_n, N, kk, u_k, keys)
    d_u *= factor(end - after, ACC)[:, None]
    d_end = tl.sum(through, 0) * factor(end, ACC) + tl.sum(d_u * u.to(ACC) * s[:, None])
    # the reads
    d_p *= between(to_read, after, sees(ii, ii, R, OLD), GATE, ACC)
    q_at = place(q_ptr, b, hk, he, q_b, q_h, q_e, step, q_t)
    q = tile(q_at, row, q_t, q_n, N, kk, q_k, read_keys)
    d_q = d_q * factor(to_read, ACC)[:, None] + times((d_p * s[None, :]).to(u.dtype), u, ACC)
    d_u += times(tl.trans(d_p.to(q.dtype)), q, ACC)
    tl.store(d_q_ptr + here * K + ((row // N * (H * E * K))[:, None] + kk[None, :]), d_q, mask=read_keys)
    d_read = tl.sum(d_q * q.to(ACC), 1)
    # the rows
    c = numbers(place(c_ptr, b, hk, he, c_b, c_h, c_e, step, c_t), row, c_t, c_n, N, in_t, ACC)
    d_m *= between(before, after, sees(ii, ii, R, True), GATE, ACC)
    b_ = u if TIED else tile(place(b_ptr, b, hk, he, b_b, b_h, b_e, step, b_t), row, b_t, b_n, N, kk, b_k, keys)
    d_b = d_b * factor(before, ACC)[:, None] + times((d_m * s[None, :]).to(u.dtype), u, ACC)
    d_u += times(tl.trans((d_m * c[:, None]).to(b_.dtype)), b_, ACC)
    d_c, d_s = tl.sum(d_b * b_.to(ACC), 1), tl.sum(d_u * u.to(ACC), 1)
    store_rows(
        d_u_ptr + line * K, d_b_ptr + line * K, d_u * s[:, None], d_b * c[:, None], kk, in_k, ii, in_t, H * E, K, TIED
    )
    number = block * ROWS + line
    store_numbers(d_s_ptr + number, d_c_ptr + number, d_s, d_c, ii, in_t, H * E)
    if GATE:  # a decay is felt by all that is read later of what was written before; that of zero by nothing
        d_before = d_c * c
        felt = tl.cumsum(d_read + d_before - d_s * s, 0, reverse=True) + d_end
        d_g = tl.where(ii % R == 0, felt, 0.0) - (d_before + d_read if OLD else d_before)
        tl.store(d_g_ptr + number + ii * (H * E), tl.where(after - before > ZERO + 1.0, d_g, 0.0), mask=in_t)

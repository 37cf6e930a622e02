"""Kernels over the chunks of a diagonal-plus-low-rank recurrence; `low_rank_inverse` says what they compute.

`kept` has the state before each chunk, `behind` the gradient of the state after it, `w` the values W of all rows.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import triton
import triton.language as tl

from rnnc.runtime.gpu.low_rank_inverse import between, chunk_of, decays, numbers, place, reads, sees, tile
from rnnc.runtime.gpu.packed import sequence

__all__ = ["low_rank_backward", "low_rank_outputs", "low_rank_walk", "low_rank_walk_back"]


@triton.jit
def _times(x, y, ACC: tl.constexpr):
    return tl.dot(x, y, input_precision="ieee").to(ACC)


@triton.jit(do_not_specialize=["L"])
def low_rank_walk(
    q_ptr, q_b, q_t, q_n, q_h, q_e, q_k,
    u_ptr, u_b, u_t, u_n, u_h, u_e, u_k,
    b_ptr, b_b, b_t, b_n, b_h, b_e, b_k,
    v_ptr, v_b, v_t, v_n, v_h, v_e, v_v,
    s_ptr, s_b, s_t, s_n, s_h, s_e,
    c_ptr, c_b, c_t, c_n, c_h, c_e,
    g_ptr, g_b, g_t, g_n, g_h, g_e,
    bounds_ptr,
    inverse_ptr,
    start_ptr,
    last_ptr,
    kept_ptr,
    w_ptr,
    o_ptr,
    L, H, E, V,
    K: tl.constexpr, N: tl.constexpr, R: tl.constexpr, GATE: tl.constexpr, TIED: tl.constexpr, OLD: tl.constexpr,
    OUTPUTS: tl.constexpr, KEEP: tl.constexpr, PACKED: tl.constexpr, ACC: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """BV columns of one head's state over all chunks; OUTPUTS: writes o; KEEP: writes `kept` and `w`."""
    i, heads = tl.program_id(0).to(tl.int64), (H * E).to(tl.int64)
    blocks = tl.cdiv(V, BV)
    head = i // blocks
    h = head % heads
    hk, he = h // E, h % E
    b, origin, length, chunk = sequence(bounds_ptr, head // heads, L, C, PACKED)
    ii, kk, vv = tl.arange(0, C), tl.arange(0, BK), (i % blocks * BV).to(tl.int32) + tl.arange(0, BV)
    in_k, in_v = kk < K, vv < V
    in_state = in_k[:, None] & in_v[None, :]
    state = kk[:, None] * V + vv[None, :]
    square = ii[:, None] * C + tl.arange(0, C)[None, :]
    S = tl.load(start_ptr + head * (K * V) + state, mask=in_state, other=0.0).to(ACC)
    for first in tl.range(0, length, C, num_stages=STAGES, disable_licm=True):
        in_t, at = ii < length - first, origin + first
        step, row, kept = at // N, (at % N).to(tl.int32) + ii, (chunk + first // C) * heads + h
        line, here = (b * L + at) * heads + h, (b * (L // N) + step) * heads + h
        keys, values = in_t[:, None] & in_k[None, :], in_t[:, None] & in_v[None, :]
        u = tile(place(u_ptr, b, hk, he, u_b, u_h, u_e, step, u_t), row, u_t, u_n, N, kk, u_k, keys)
        b_ = u if TIED else tile(place(b_ptr, b, hk, he, b_b, b_h, b_e, step, b_t), row, b_t, b_n, N, kk, b_k, keys)
        v = tile(place(v_ptr, b, hk, he, v_b, v_h, v_e, step, v_t), row, v_t, v_n, N, vv, v_v, values)
        s = numbers(place(s_ptr, b, hk, he, s_b, s_h, s_e, step, s_t), row, s_t, s_n, N, in_t, ACC)
        c = numbers(place(c_ptr, b, hk, he, c_b, c_h, c_e, step, c_t), row, c_t, c_n, N, in_t, ACC)
        g_at = place(g_ptr, b, hk, he, g_b, g_h, g_e, step, g_t)
        before, after, end = decays(g_at, row, g_t, g_n, N, R, ii, in_t, GATE, ACC)
        inverse = tl.load(inverse_ptr + kept * (C * C) + square)
        held = S.to(u.dtype)
        drive = _times(b_, held, ACC) * (c * tl.exp(before))[:, None] + v
        w = _times(inverse, drive.to(inverse.dtype), ACC)
        if KEEP:
            tl.store(kept_ptr + kept * (K * V) + state, held, mask=in_state)
            tl.store(w_ptr + line * V + ((ii * (H * E * V))[:, None] + vv[None, :]), w, mask=values)
        if OUTPUTS:
            reading, to_read = reads(before, after, row, N, OLD)
            reading = reading & in_t
            q_at = place(q_ptr, b, hk, he, q_b, q_h, q_e, step, q_t)
            q = tile(q_at, row, q_t, q_n, N, kk, q_k, reading[:, None] & in_k[None, :])
            weight = _times(q, tl.trans(u), ACC) * between(to_read, after, sees(ii, ii, R, OLD), GATE, ACC)
            o = _times(q, held, ACC) * tl.exp(to_read)[:, None]
            o += _times(weight.to(q.dtype), (w * s[:, None]).to(q.dtype), ACC)
            o_at = o_ptr + here * V + ((row // N * (H * E * V))[:, None] + vv[None, :])
            tl.store(o_at, o, mask=reading[:, None] & in_v[None, :])
        ended = (w * (s * tl.exp(end - after))[:, None]).to(u.dtype)
        S = S * tl.exp(end) + _times(tl.trans(u), ended, ACC)
    tl.store(last_ptr + head * (K * V) + state, S, mask=in_state)


@triton.jit(do_not_specialize=["L"])
def low_rank_outputs(
    q_ptr, q_b, q_t, q_n, q_h, q_e, q_k,
    u_ptr, u_b, u_t, u_n, u_h, u_e, u_k,
    s_ptr, s_b, s_t, s_n, s_h, s_e,
    g_ptr, g_b, g_t, g_n, g_h, g_e,
    table_ptr,
    kept_ptr,
    w_ptr,
    o_ptr,
    L, H, E, V,
    K: tl.constexpr, N: tl.constexpr, R: tl.constexpr, GATE: tl.constexpr, OLD: tl.constexpr, PACKED: tl.constexpr,
    ACC: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The outputs of one chunk of one head, given the state before it and its values."""
    i, heads = tl.program_id(0).to(tl.int64), (H * E).to(tl.int64)
    h = i % heads
    hk, he = h // E, h % E
    b, at, left = chunk_of(i // heads, L, C, table_ptr, PACKED)
    ii, kk = tl.arange(0, C), tl.arange(0, BK)
    step, row = at // N, (at % N).to(tl.int32) + ii
    line, here = (b * L + at) * heads + h, (b * (L // N) + step) * heads + h
    in_t, in_k = ii < left, kk < K
    s = numbers(place(s_ptr, b, hk, he, s_b, s_h, s_e, step, s_t), row, s_t, s_n, N, in_t, ACC)
    g_at = place(g_ptr, b, hk, he, g_b, g_h, g_e, step, g_t)
    before, after, _ = decays(g_at, row, g_t, g_n, N, R, ii, in_t, GATE, ACC)
    reading, to_read = reads(before, after, row, N, OLD)
    reading = reading & in_t
    q_at = place(q_ptr, b, hk, he, q_b, q_h, q_e, step, q_t)
    q = tile(q_at, row, q_t, q_n, N, kk, q_k, reading[:, None] & in_k[None, :])
    u_at = place(u_ptr, b, hk, he, u_b, u_h, u_e, step, u_t)
    u = tile(u_at, row, u_t, u_n, N, kk, u_k, in_t[:, None] & in_k[None, :])
    weight = _times(q, tl.trans(u), ACC) * between(to_read, after, sees(ii, ii, R, OLD), GATE, ACC)
    weight = (weight * s[None, :]).to(q.dtype)
    for column in tl.range(0, V, BV, num_stages=STAGES, disable_licm=True):
        vv = column + tl.arange(0, BV)
        in_v = vv < V
        state = i * (K * V) + (kk[:, None] * V + vv[None, :])
        S = tl.load(kept_ptr + state, mask=in_k[:, None] & in_v[None, :], other=0.0)
        w_at = w_ptr + line * V + ((ii * (H * E * V))[:, None] + vv[None, :])
        w = tl.load(w_at, mask=in_t[:, None] & in_v[None, :], other=0.0)
        o = _times(q, S, ACC) * tl.exp(to_read)[:, None] + _times(weight, w, ACC)
        o_at = o_ptr + here * V + ((row // N * (H * E * V))[:, None] + vv[None, :])
        tl.store(o_at, o, mask=reading[:, None] & in_v[None, :])


@triton.jit(do_not_specialize=["L"])
def low_rank_walk_back(
    q_ptr, q_b, q_t, q_n, q_h, q_e, q_k,
    u_ptr, u_b, u_t, u_n, u_h, u_e, u_k,
    b_ptr, b_b, b_t, b_n, b_h, b_e, b_k,
    s_ptr, s_b, s_t, s_n, s_h, s_e,
    c_ptr, c_b, c_t, c_n, c_h, c_e,
    g_ptr, g_b, g_t, g_n, g_h, g_e,
    bounds_ptr,
    inverse_ptr,
    d_o_ptr,
    d_last_ptr,
    behind_ptr,
    x_ptr,
    d_start_ptr,
    L, H, E, V,
    K: tl.constexpr, N: tl.constexpr, R: tl.constexpr, GATE: tl.constexpr, TIED: tl.constexpr, OLD: tl.constexpr,
    PACKED: tl.constexpr, ACC: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """The gradient of BV columns of one head's state, from the last chunk to the first; writes `behind`, and x: v's."""
    i, heads = tl.program_id(0).to(tl.int64), (H * E).to(tl.int64)
    blocks = tl.cdiv(V, BV)
    head = i // blocks
    h = head % heads
    hk, he = h // E, h % E
    b, origin, length, chunk = sequence(bounds_ptr, head // heads, L, C, PACKED)
    ii, kk, vv = tl.arange(0, C), tl.arange(0, BK), (i % blocks * BV).to(tl.int32) + tl.arange(0, BV)
    in_k, in_v = kk < K, vv < V
    in_state = in_k[:, None] & in_v[None, :]
    state = kk[:, None] * V + vv[None, :]
    square = ii[:, None] * C + tl.arange(0, C)[None, :]
    dS = tl.load(d_last_ptr + head * (K * V) + state, mask=in_state, other=0.0).to(ACC)
    for back in tl.range(0, tl.cdiv(length, C), num_stages=STAGES, disable_licm=True):
        first = (tl.cdiv(length, C) - 1 - back) * C
        in_t, at = ii < length - first, origin + first
        step, row, kept = at // N, (at % N).to(tl.int32) + ii, (chunk + first // C) * heads + h
        line, here = (b * L + at) * heads + h, (b * (L // N) + step) * heads + h
        keys, values = in_t[:, None] & in_k[None, :], in_t[:, None] & in_v[None, :]
        s = numbers(place(s_ptr, b, hk, he, s_b, s_h, s_e, step, s_t), row, s_t, s_n, N, in_t, ACC)
        c = numbers(place(c_ptr, b, hk, he, c_b, c_h, c_e, step, c_t), row, c_t, c_n, N, in_t, ACC)
        g_at = place(g_ptr, b, hk, he, g_b, g_h, g_e, step, g_t)
        before, after, end = decays(g_at, row, g_t, g_n, N, R, ii, in_t, GATE, ACC)
        reading, to_read = reads(before, after, row, N, OLD)
        reading = reading & in_t
        q_at = place(q_ptr, b, hk, he, q_b, q_h, q_e, step, q_t)
        q = tile(q_at, row, q_t, q_n, N, kk, q_k, reading[:, None] & in_k[None, :])
        u = tile(place(u_ptr, b, hk, he, u_b, u_h, u_e, step, u_t), row, u_t, u_n, N, kk, u_k, keys)
        b_ = u if TIED else tile(place(b_ptr, b, hk, he, b_b, b_h, b_e, step, b_t), row, b_t, b_n, N, kk, b_k, keys)
        d_o_at = d_o_ptr + here * V + ((row // N * (H * E * V))[:, None] + vv[None, :])
        d_o = tl.load(d_o_at, mask=reading[:, None] & in_v[None, :], other=0.0)
        inverse = tl.load(inverse_ptr + kept * (C * C) + square)
        held = dS.to(u.dtype)
        tl.store(behind_ptr + kept * (K * V) + state, held, mask=in_state)
        weight = _times(q, tl.trans(u), ACC) * between(to_read, after, sees(ii, ii, R, OLD), GATE, ACC)
        d_w = _times(tl.trans(weight.to(d_o.dtype)), d_o, ACC)
        d_w = (d_w + _times(u, held, ACC) * tl.exp(end - after)[:, None]) * s[:, None]
        x = _times(tl.trans(inverse), d_w.to(inverse.dtype), ACC)
        tl.store(x_ptr + line * V + ((ii * (H * E * V))[:, None] + vv[None, :]), x, mask=values)
        dS = dS * tl.exp(end) + _times(tl.trans(q), (d_o * tl.exp(to_read)[:, None]).to(q.dtype), ACC)
        dS += _times(tl.trans(b_), (x * (c * tl.exp(before))[:, None]).to(b_.dtype), ACC)
    tl.store(d_start_ptr + head * (K * V) + state, dS, mask=in_state)


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
    PACKED: tl.constexpr, ACC: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """The gradients of BK keys of one chunk of one head, given the states and gradients at its ends.

    Those of s, c and g are written for each block of keys, ROWS apart; with TIED, u's has b's in it.
    """
    i, heads, blocks = tl.program_id(0).to(tl.int64), (H * E).to(tl.int64), tl.cdiv(K, BK)
    block, i = i % blocks, i // blocks
    h = i % heads
    hk, he = h // E, h % E
    b, at, left = chunk_of(i // heads, L, C, table_ptr, PACKED)
    ii, kk = tl.arange(0, C), (block * BK).to(tl.int32) + tl.arange(0, BK)
    step, row = at // N, (at % N).to(tl.int32) + ii
    line, here = (b * L + at) * heads + h, (b * (L // N) + step) * heads + h
    in_t, in_k = ii < left, kk < K
    keys = in_t[:, None] & in_k[None, :]
    s = numbers(place(s_ptr, b, hk, he, s_b, s_h, s_e, step, s_t), row, s_t, s_n, N, in_t, ACC)
    c = numbers(place(c_ptr, b, hk, he, c_b, c_h, c_e, step, c_t), row, c_t, c_n, N, in_t, ACC)
    g_at = place(g_ptr, b, hk, he, g_b, g_h, g_e, step, g_t)
    before, after, end = decays(g_at, row, g_t, g_n, N, R, ii, in_t, GATE, ACC)
    reading, to_read = reads(before, after, row, N, OLD)
    reading = reading & in_t
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
        state = i * (K * V) + (kk[:, None] * V + vv[None, :])
        S = tl.load(kept_ptr + state, mask=in_state, other=0.0)
        dS = tl.load(behind_ptr + state, mask=in_state, other=0.0)
        own = line * V + ((ii * (H * E * V))[:, None] + vv[None, :])
        w = tl.load(w_ptr + own, mask=values, other=0.0)
        x = tl.load(x_ptr + own, mask=values, other=0.0)
        d_o_at = d_o_ptr + here * V + ((row // N * (H * E * V))[:, None] + vv[None, :])
        d_o = tl.load(d_o_at, mask=reading[:, None] & in_v[None, :], other=0.0)
        d_m += _times(x, tl.trans(w), ACC)
        d_p += _times(d_o, tl.trans(w), ACC)
        d_q += _times(d_o, tl.trans(S), ACC)
        d_b += _times(x, tl.trans(S), ACC)
        d_u += _times(w, tl.trans(dS), ACC)
        if GATE:
            through += tl.sum(S.to(ACC) * dS.to(ACC), 1)
    u = tile(place(u_ptr, b, hk, he, u_b, u_h, u_e, step, u_t), row, u_t, u_n, N, kk, u_k, keys)
    d_u *= tl.exp(end - after)[:, None]
    d_end = tl.sum(through, 0) * tl.exp(end) + tl.sum(d_u * u.to(ACC) * s[:, None])
    # the reads
    d_p *= between(to_read, after, sees(ii, ii, R, OLD), GATE, ACC)
    q_at = place(q_ptr, b, hk, he, q_b, q_h, q_e, step, q_t)
    q = tile(q_at, row, q_t, q_n, N, kk, q_k, reading[:, None] & in_k[None, :])
    d_q = d_q * tl.exp(to_read)[:, None] + _times((d_p * s[None, :]).to(u.dtype), u, ACC)
    d_u += _times(tl.trans(d_p.to(q.dtype)), q, ACC)
    d_q_at = d_q_ptr + here * K + ((row // N * (H * E * K))[:, None] + kk[None, :])
    tl.store(d_q_at, d_q, mask=reading[:, None] & in_k[None, :])
    # the rows
    d_m *= between(before, after, sees(ii, ii, R, True), GATE, ACC)
    b_ = u if TIED else tile(place(b_ptr, b, hk, he, b_b, b_h, b_e, step, b_t), row, b_t, b_n, N, kk, b_k, keys)
    d_b = d_b * tl.exp(before)[:, None] + _times((d_m * s[None, :]).to(u.dtype), u, ACC)
    d_u += _times(tl.trans((d_m * c[:, None]).to(b_.dtype)), b_, ACC)
    d_c, d_s = tl.sum(d_b * b_.to(ACC), 1), tl.sum(d_u * u.to(ACC), 1)
    d_b, d_u = d_b * c[:, None], d_u * s[:, None]
    key = line * K + ((ii * (H * E * K))[:, None] + kk[None, :])
    if TIED:
        tl.store(d_u_ptr + key, d_u + d_b, mask=keys)
    else:
        tl.store(d_u_ptr + key, d_u, mask=keys)
        tl.store(d_b_ptr + key, d_b, mask=keys)
    number = block * ROWS + line + ii * (H * E)
    tl.store(d_s_ptr + number, d_s, mask=in_t)
    tl.store(d_c_ptr + number, d_c, mask=in_t)
    if GATE:  # a decay is felt by all that is read later of what was written before
        d_read, d_before = tl.sum(d_q * q.to(ACC), 1), d_c * c
        felt = tl.cumsum(d_read + d_before - d_s * s, 0, reverse=True) + d_end
        own = d_before + d_read if OLD else d_before
        tl.store(d_g_ptr + number, tl.where(ii % R == 0, felt, 0.0) - own, mask=in_t)

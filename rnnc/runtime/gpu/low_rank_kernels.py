"""Kernels from chunk to chunk of a diagonal-plus-low-rank recurrence; `low_rank_inverse` says what they compute.

`kept` has the state before each chunk, `behind` the gradient of the state after it, `w` the values W of all rows.
SCORED: the chunks' scores P are given, by `low_rank_scores` where registers do not hold their products beside a state.
KEYED: they are, with q and b decayed from the chunk's start and u to its end, and sums of log decays (base 2) of each
key; s and c are as ever, and g is none.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import triton
import triton.language as tl

from rnnc.runtime.gpu.low_rank_rows import between, chunk_of, decays, factor, numbers, place, reads, sees, tile, times
from rnnc.runtime.gpu.packed import sequence

__all__ = ["low_rank_outputs", "low_rank_scores", "low_rank_walk", "low_rank_walk_back"]


@triton.jit
def _scores(q, u, to_read, after, ii, scores, square, R: tl.constexpr, OLD: tl.constexpr, GATE: tl.constexpr,
            SCORED: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """P of a chunk: what reads see of writes; SCORED: from memory."""
    if SCORED:
        return tl.load(scores + square).to(ACC)
    else:
        return times(q, tl.trans(u), ACC) * between(to_read, after, sees(ii, ii, R, OLD), GATE, ACC)


@triton.jit
def _faded(S, end, total, kk, in_k, KEYED: tl.constexpr, ACC: tl.constexpr):
    """A state [BK, BV] over all of a chunk."""
    if KEYED:
        return S * tl.exp2(tl.load(total + kk, mask=in_k, other=0.0))[:, None]
    else:
        return S * factor(end, ACC)


@triton.jit(do_not_specialize=["L"])
def low_rank_scores(
    q_ptr, q_b, q_t, q_n, q_h, q_e, q_k,
    u_ptr, u_b, u_t, u_n, u_h, u_e, u_k,
    g_ptr, g_b, g_t, g_n, g_h, g_e,
    table_ptr,
    scores_ptr,
    L, H, E,
    K: tl.constexpr, N: tl.constexpr, R: tl.constexpr, GATE: tl.constexpr, OLD: tl.constexpr, PACKED: tl.constexpr,
    ACC: tl.constexpr, SUM: tl.constexpr, C: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """P of one chunk of one head, under decays of all keys alike."""
    i, heads = tl.program_id(0).to(tl.int64), H * E
    hk, he = i % heads // E, i % E
    b, at, left = chunk_of(i // heads, L, C, table_ptr, PACKED)
    ii = tl.arange(0, C)
    step, row = at // N, (at % N).to(tl.int32) + ii
    in_t = ii < left
    g_at = place(g_ptr, b, hk, he, g_b, g_h, g_e, step, g_t)
    before, after, _ = decays(g_at, row, g_t, g_n, N, R, ii, in_t, GATE, SUM)
    reading, to_read = reads(before, after, row, N, OLD)
    reading = reading & in_t
    q_at = place(q_ptr, b, hk, he, q_b, q_h, q_e, step, q_t)
    u_at = place(u_ptr, b, hk, he, u_b, u_h, u_e, step, u_t)
    P = tl.zeros([C, C], ACC)
    for column in range(0, K, BK):
        kk = column + tl.arange(0, BK)
        q = tile(q_at, row, q_t, q_n, N, kk, q_k, reading[:, None] & (kk < K)[None, :])
        u = tile(u_at, row, u_t, u_n, N, kk, u_k, in_t[:, None] & (kk < K)[None, :])
        P += times(q, tl.trans(u), ACC)
    P *= between(to_read, after, sees(ii, ii, R, OLD), GATE, ACC)
    tl.store(scores_ptr + i * (C * C) + (ii[:, None] * C + ii[None, :]), P)


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
    scores_ptr, total_ptr,
    start_ptr,
    last_ptr,
    kept_ptr,
    w_ptr,
    o_ptr,
    L, H, E, V,
    K: tl.constexpr, N: tl.constexpr, R: tl.constexpr, GATE: tl.constexpr, TIED: tl.constexpr, SCORED: tl.constexpr,
    KEYED: tl.constexpr, OLD: tl.constexpr, OUTPUTS: tl.constexpr, KEEP: tl.constexpr, PACKED: tl.constexpr,
    ACC: tl.constexpr, SUM: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """BV columns of one head's state over all chunks; OUTPUTS: writes o; KEEP: writes `kept` and `w`."""
    i, heads = tl.program_id(0).to(tl.int64), H * E
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
        before, after, end = decays(g_at, row, g_t, g_n, N, R, ii, in_t, GATE, SUM)
        inverse = tl.load(inverse_ptr + kept * (C * C) + square)
        held = S.to(u.dtype)
        drive = times(b_, held, ACC) * (c * factor(before, ACC))[:, None] + v
        w = times(inverse, drive.to(inverse.dtype), ACC)
        if KEEP:
            tl.store(kept_ptr + kept * (K * V) + state, held, mask=in_state)
            tl.store(w_ptr + line * V + ((ii * (H * E * V))[:, None] + vv[None, :]), w, mask=values)
        if OUTPUTS:
            reading, to_read = reads(before, after, row, N, OLD)
            reading = reading & in_t
            q_at = place(q_ptr, b, hk, he, q_b, q_h, q_e, step, q_t)
            q = tile(q_at, row, q_t, q_n, N, kk, q_k, reading[:, None] & in_k[None, :])
            weight = _scores(q, u, to_read, after, ii, scores_ptr + kept * (C * C), square, R, OLD, GATE, SCORED, ACC)
            o = times(q, held, ACC) * factor(to_read, ACC)[:, None]
            o += times(weight.to(q.dtype), (w * s[:, None]).to(q.dtype), ACC)
            o_at = o_ptr + here * V + ((row // N * (H * E * V))[:, None] + vv[None, :])
            tl.store(o_at, o, mask=reading[:, None] & in_v[None, :])
        ended = (w * (s * factor(end - after, ACC))[:, None]).to(u.dtype)
        S = _faded(S, end, total_ptr + kept * K, kk, in_k, KEYED, ACC) + times(tl.trans(u), ended, ACC)
    tl.store(last_ptr + head * (K * V) + state, S, mask=in_state)


@triton.jit(do_not_specialize=["L"])
def low_rank_outputs(
    q_ptr, q_b, q_t, q_n, q_h, q_e, q_k,
    u_ptr, u_b, u_t, u_n, u_h, u_e, u_k,
    s_ptr, s_b, s_t, s_n, s_h, s_e,
    g_ptr, g_b, g_t, g_n, g_h, g_e,
    table_ptr,
    scores_ptr,
    kept_ptr,
    w_ptr,
    o_ptr,
    L, H, E, V,
    K: tl.constexpr, N: tl.constexpr, R: tl.constexpr, GATE: tl.constexpr, SCORED: tl.constexpr, OLD: tl.constexpr,
    PACKED: tl.constexpr, ACC: tl.constexpr, SUM: tl.constexpr, C: tl.constexpr, BK: tl.constexpr,
    BV: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The outputs of one chunk of one head, given the state before it and its values."""
    i, heads = tl.program_id(0).to(tl.int64), H * E
    h = i % heads
    hk, he = h // E, h % E
    b, at, left = chunk_of(i // heads, L, C, table_ptr, PACKED)
    ii, kk = tl.arange(0, C), tl.arange(0, BK)
    step, row = at // N, (at % N).to(tl.int32) + ii
    line, here = (b * L + at) * heads + h, (b * (L // N) + step) * heads + h
    in_t, in_k = ii < left, kk < K
    s = numbers(place(s_ptr, b, hk, he, s_b, s_h, s_e, step, s_t), row, s_t, s_n, N, in_t, ACC)
    g_at = place(g_ptr, b, hk, he, g_b, g_h, g_e, step, g_t)
    before, after, _ = decays(g_at, row, g_t, g_n, N, R, ii, in_t, GATE, SUM)
    reading, to_read = reads(before, after, row, N, OLD)
    reading = reading & in_t
    q_at = place(q_ptr, b, hk, he, q_b, q_h, q_e, step, q_t)
    q = tile(q_at, row, q_t, q_n, N, kk, q_k, reading[:, None] & in_k[None, :])
    u_at = place(u_ptr, b, hk, he, u_b, u_h, u_e, step, u_t)
    u = tile(u_at, row, u_t, u_n, N, kk, u_k, in_t[:, None] & in_k[None, :])
    square = ii[:, None] * C + tl.arange(0, C)[None, :]
    weight = _scores(q, u, to_read, after, ii, scores_ptr + i * (C * C), square, R, OLD, GATE, SCORED, ACC)
    weight = (weight * s[None, :]).to(q.dtype)
    for column in tl.range(0, V, BV, num_stages=STAGES, disable_licm=True):
        vv = column + tl.arange(0, BV)
        in_v = vv < V
        state = i * (K * V) + (kk[:, None] * V + vv[None, :])
        S = tl.load(kept_ptr + state, mask=in_k[:, None] & in_v[None, :], other=0.0)
        w_at = w_ptr + line * V + ((ii * (H * E * V))[:, None] + vv[None, :])
        w = tl.load(w_at, mask=in_t[:, None] & in_v[None, :], other=0.0)
        o = times(q, S, ACC) * factor(to_read, ACC)[:, None] + times(weight, w, ACC)
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
    scores_ptr, total_ptr,
    d_o_ptr,
    d_last_ptr,
    behind_ptr,
    x_ptr,
    d_start_ptr,
    L, H, E, V,
    K: tl.constexpr, N: tl.constexpr, R: tl.constexpr, GATE: tl.constexpr, TIED: tl.constexpr, SCORED: tl.constexpr,
    KEYED: tl.constexpr, OLD: tl.constexpr, PACKED: tl.constexpr, ACC: tl.constexpr, SUM: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The gradient of BV columns of one head's state, from the last chunk to the first; writes `behind`, and x: v's."""
    i, heads = tl.program_id(0).to(tl.int64), H * E
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
        before, after, end = decays(g_at, row, g_t, g_n, N, R, ii, in_t, GATE, SUM)
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
        weight = _scores(q, u, to_read, after, ii, scores_ptr + kept * (C * C), square, R, OLD, GATE, SCORED, ACC)
        d_w = times(tl.trans(weight.to(d_o.dtype)), d_o, ACC)
        d_w = (d_w + times(u, held, ACC) * factor(end - after, ACC)[:, None]) * s[:, None]
        x = times(tl.trans(inverse), d_w.to(inverse.dtype), ACC)
        tl.store(x_ptr + line * V + ((ii * (H * E * V))[:, None] + vv[None, :]), x, mask=values)
        dS = _faded(dS, end, total_ptr + kept * K, kk, in_k, KEYED, ACC)
        dS += times(tl.trans(q), (d_o * factor(to_read, ACC)[:, None]).to(q.dtype), ACC)
        dS += times(tl.trans(b_), (x * (c * factor(before, ACC))[:, None]).to(b_.dtype), ACC)
    tl.store(d_start_ptr + head * (K * V) + state, dS, mask=in_state)

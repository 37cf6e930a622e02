"""Kernels for a matrix state with one decay and one write a step, chunk by chunk:

    S_t = a_t S_{t-1} + k_t v_t^T  [K, V],    o_t = S_t^T q_t  (or S_{t-1}^T q_t),    a_t = exp(g_t)

With G the running sum of g inside a chunk and S its state at the start, the outputs of a chunk are

    o_i = exp(G_i) S^T q_i + sum_{j <= i} exp(G_i - G_j) (q_i . k_j) v_j

(Dao & Gu, arXiv:2405.21060, section 6).  One kernel walks over the chunks with BV columns of a head's state and keeps
the state before each chunk; then all chunks are done at once.  The backward does the same with the gradient of the
state, from behind.  All exponents are of differences that are no larger than zero where g is; products run in the
inputs' dtype and add up in float32.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["decay_backward", "decay_backward_states", "decay_outputs", "decay_states"]


@triton.jit
def _weights(g, c, OLD: tl.constexpr):
    """A chunk's decays: from the start to each read, from each write to the end, of the whole, and [reads, writes]."""
    to_write = tl.cumsum(g, 0)
    to_read = to_write - g if OLD else to_write
    end = tl.sum(g, 0)
    seen = c[:, None] > c[None, :] if OLD else c[:, None] >= c[None, :]
    between = tl.where(seen, tl.exp(tl.where(seen, to_read[:, None] - to_write[None, :], 0.0)), 0.0)
    return tl.exp(to_read), tl.exp(end - to_write), tl.exp(end), between


@triton.jit(do_not_specialize=["T"])
def decay_states(
    k_ptr, k_b, k_t, k_h, k_k,
    v_ptr, v_b, v_t, v_h, v_v,
    g_ptr, g_b, g_t, g_h,
    start_ptr,
    last_ptr,
    kept_ptr,
    T, H, V,
    K: tl.constexpr, ACC: tl.constexpr, OLD: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """BV columns of one head's state over all chunks of C steps; `kept` has the state before each."""
    i = tl.program_id(0).to(tl.int64)
    blocks = tl.cdiv(V, BV)
    head = i // blocks
    b, h = head // H, head % H
    c, kk, vv = tl.arange(0, C), tl.arange(0, BK), i % blocks * BV + tl.arange(0, BV)
    in_k, in_v = kk < K, vv < V
    in_state = in_k[:, None] & in_v[None, :]
    place = kk[:, None] * V + vv[None, :]
    S = tl.load(start_ptr + head * (K * V) + place, mask=in_state, other=0.0).to(ACC)
    for first in range(0, T, C):
        at = tl.cast(first, tl.int64)
        in_t = first + c < T
        tl.store(kept_ptr + (head * tl.cdiv(T, C) + first // C) * (K * V) + place, S, mask=in_state)
        k_at, v_at = k_ptr + b * k_b + h * k_h + at * k_t, v_ptr + b * v_b + h * v_h + at * v_t
        keys, values = in_t[:, None] & in_k[None, :], in_t[:, None] & in_v[None, :]
        k = tl.load(k_at + (c[:, None] * k_t + kk[None, :] * k_k), mask=keys, other=0.0)
        v = tl.load(v_at + (c[:, None] * v_t + vv[None, :] * v_v), mask=values, other=0.0)
        g = tl.load(g_ptr + (b * g_b + h * g_h + at * g_t) + c * g_t, mask=in_t, other=0.0).to(ACC)
        end = tl.sum(g, 0)
        ended = (v * tl.exp(end - tl.cumsum(g, 0))[:, None]).to(k.dtype)
        S = S * tl.exp(end) + tl.dot(tl.trans(k), ended, input_precision="ieee").to(ACC)
    tl.store(last_ptr + head * (K * V) + place, S, mask=in_state)


@triton.jit(do_not_specialize=["T"])
def decay_outputs(
    q_ptr, q_b, q_t, q_h, q_k,
    k_ptr, k_b, k_t, k_h, k_k,
    v_ptr, v_b, v_t, v_h, v_v,
    g_ptr, g_b, g_t, g_h,
    kept_ptr,
    o_ptr,
    T, H, V,
    K: tl.constexpr, ACC: tl.constexpr, OLD: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """The outputs of one chunk of one head, given the state before it."""
    i = tl.program_id(0).to(tl.int64)
    chunks = tl.cdiv(T, C)
    chunk, head = i % chunks, i // chunks
    b, h = head // H, head % H
    c, kk = tl.arange(0, C), tl.arange(0, BK)
    in_t, in_k = chunk * C + c < T, kk < K
    keys = in_t[:, None] & in_k[None, :]
    at = chunk * C
    q_at, k_at = q_ptr + b * q_b + h * q_h + at * q_t, k_ptr + b * k_b + h * k_h + at * k_t
    q = tl.load(q_at + (c[:, None] * q_t + kk[None, :] * q_k), mask=keys, other=0.0)
    k = tl.load(k_at + (c[:, None] * k_t + kk[None, :] * k_k), mask=keys, other=0.0)
    g = tl.load(g_ptr + (b * g_b + h * g_h + at * g_t) + c * g_t, mask=in_t, other=0.0).to(ACC)
    to_read, _, _, between = _weights(g, c, OLD)
    scores = (tl.dot(q, tl.trans(k), input_precision="ieee").to(ACC) * between).to(q.dtype)
    for column in range(0, V, BV):
        vv = column + tl.arange(0, BV)
        in_v = vv < V
        values = in_t[:, None] & in_v[None, :]
        v_at, o_at = v_ptr + b * v_b + h * v_h + at * v_t, o_ptr + ((b * T + at) * H + h) * V
        v = tl.load(v_at + (c[:, None] * v_t + vv[None, :] * v_v), mask=values, other=0.0)
        state = (head * chunks + chunk) * (K * V) + (kk[:, None] * V + vv[None, :])
        S = tl.load(kept_ptr + state, mask=in_k[:, None] & in_v[None, :], other=0.0).to(q.dtype)
        o = tl.dot(q, S, input_precision="ieee").to(ACC) * to_read[:, None]
        o += tl.dot(scores, v, input_precision="ieee").to(ACC)
        tl.store(o_at + (c[:, None] * (H * V) + vv[None, :]), o, mask=values)


@triton.jit(do_not_specialize=["T"])
def decay_backward_states(
    q_ptr, q_b, q_t, q_h, q_k,
    g_ptr, g_b, g_t, g_h,
    d_o_ptr,
    d_last_ptr,
    behind_ptr,
    d_start_ptr,
    T, H, V,
    K: tl.constexpr, ACC: tl.constexpr, OLD: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """The gradient of BV columns of one head's state, from the last chunk to the first; `behind` has it after each."""
    i = tl.program_id(0).to(tl.int64)
    blocks = tl.cdiv(V, BV)
    head = i // blocks
    b, h = head // H, head % H
    c, kk, vv = tl.arange(0, C), tl.arange(0, BK), i % blocks * BV + tl.arange(0, BV)
    in_k, in_v = kk < K, vv < V
    in_state = in_k[:, None] & in_v[None, :]
    place = kk[:, None] * V + vv[None, :]
    dS = tl.load(d_last_ptr + head * (K * V) + place, mask=in_state, other=0.0).to(ACC)
    for back in range(tl.cdiv(T, C)):
        chunk = tl.cdiv(T, C) - 1 - back
        at = tl.cast(chunk * C, tl.int64)
        in_t = chunk * C + c < T
        tl.store(behind_ptr + (head * tl.cdiv(T, C) + chunk) * (K * V) + place, dS, mask=in_state)
        keys, values = in_t[:, None] & in_k[None, :], in_t[:, None] & in_v[None, :]
        q_at = q_ptr + b * q_b + h * q_h + at * q_t
        q = tl.load(q_at + (c[:, None] * q_t + kk[None, :] * q_k), mask=keys, other=0.0)
        g = tl.load(g_ptr + (b * g_b + h * g_h + at * g_t) + c * g_t, mask=in_t, other=0.0).to(ACC)
        d_o_at = d_o_ptr + ((b * T + at) * H + h) * V
        d_o = tl.load(d_o_at + (c[:, None] * (H * V) + vv[None, :]), mask=values, other=0.0)
        to_write = tl.cumsum(g, 0)
        to_read = to_write - g if OLD else to_write
        read = (d_o * tl.exp(to_read)[:, None]).to(q.dtype)
        dS = dS * tl.exp(tl.sum(g, 0)) + tl.dot(tl.trans(q), read, input_precision="ieee").to(ACC)
    tl.store(d_start_ptr + head * (K * V) + place, dS, mask=in_state)


@triton.jit(do_not_specialize=["T"])
def decay_backward(
    q_ptr, q_b, q_t, q_h, q_k,
    k_ptr, k_b, k_t, k_h, k_k,
    v_ptr, v_b, v_t, v_h, v_v,
    g_ptr, g_b, g_t, g_h,
    kept_ptr,
    behind_ptr,
    d_o_ptr,
    d_q_ptr, d_k_ptr, d_v_ptr,
    T, H, V,
    K: tl.constexpr, ACC: tl.constexpr, OLD: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """One chunk of one head, given the state before it and the gradient of the state after it."""
    i = tl.program_id(0).to(tl.int64)
    chunks = tl.cdiv(T, C)
    chunk, head = i % chunks, i // chunks
    b, h = head // H, head % H
    c, kk = tl.arange(0, C), tl.arange(0, BK)
    in_t, in_k = chunk * C + c < T, kk < K
    keys = in_t[:, None] & in_k[None, :]
    at = chunk * C
    q_at, k_at = q_ptr + b * q_b + h * q_h + at * q_t, k_ptr + b * k_b + h * k_h + at * k_t
    q = tl.load(q_at + (c[:, None] * q_t + kk[None, :] * q_k), mask=keys, other=0.0)
    k = tl.load(k_at + (c[:, None] * k_t + kk[None, :] * k_k), mask=keys, other=0.0)
    g = tl.load(g_ptr + (b * g_b + h * g_h + at * g_t) + c * g_t, mask=in_t, other=0.0).to(ACC)
    to_read, to_end, _, between = _weights(g, c, OLD)
    scores = tl.trans((tl.dot(q, tl.trans(k), input_precision="ieee").to(ACC) * between).to(q.dtype))
    d_scores = tl.full([C, C], 0.0, ACC)
    d_q = tl.full([C, BK], 0.0, ACC)
    d_k = tl.full([C, BK], 0.0, ACC)
    for column in range(0, V, BV):
        vv = column + tl.arange(0, BV)
        in_v = vv < V
        values, in_state = in_t[:, None] & in_v[None, :], in_k[:, None] & in_v[None, :]
        state = (head * chunks + chunk) * (K * V) + (kk[:, None] * V + vv[None, :])
        v_at, row = v_ptr + b * v_b + h * v_h + at * v_t, ((b * T + at) * H + h) * V
        v = tl.load(v_at + (c[:, None] * v_t + vv[None, :] * v_v), mask=values, other=0.0)
        d_o = tl.load(d_o_ptr + row + (c[:, None] * (H * V) + vv[None, :]), mask=values, other=0.0)
        S = tl.load(kept_ptr + state, mask=in_state, other=0.0).to(v.dtype)
        dS = tl.load(behind_ptr + state, mask=in_state, other=0.0).to(v.dtype)
        d_scores += tl.dot(d_o, tl.trans(v), input_precision="ieee").to(ACC)
        d_q += tl.dot(d_o, tl.trans(S), input_precision="ieee").to(ACC)
        d_k += tl.dot(v, tl.trans(dS), input_precision="ieee").to(ACC)
        d_v = tl.dot(scores, d_o, input_precision="ieee").to(ACC)
        d_v += tl.dot(k, dS, input_precision="ieee").to(ACC) * to_end[:, None]
        tl.store(d_v_ptr + row + (c[:, None] * (H * V) + vv[None, :]), d_v, mask=values)
    d_scores = (d_scores * between).to(q.dtype)
    d_q = d_q * to_read[:, None] + tl.dot(d_scores, k, input_precision="ieee").to(ACC)
    d_k = d_k * to_end[:, None] + tl.dot(tl.trans(d_scores), q, input_precision="ieee").to(ACC)
    key = ((b * T + at) * H + h) * K + (c[:, None] * (H * K) + kk[None, :])
    tl.store(d_q_ptr + key, d_q, mask=keys)
    tl.store(d_k_ptr + key, d_k, mask=keys)

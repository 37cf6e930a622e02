"""The gradient of the log decays of a chunkwise scan: a sum from behind of what reads and writes say.

With E_t = <dL/dS_t, S_t> along the axis without decay, o_t read off S_t by r_t, and a write w_t,

    E_t = dL/dg_t + w_t dw_t,    E_{t-1} = dL/dg_t + r_{t-1} dr_{t-1},    E_T = <dL/dS_T, S_T> + r_T dr_T

`ends` has E before every EVERY chunks, `end` [B, H, V] the one of the last state: the sum starts anew at each, lest the
rounding of all later steps piles up where the gradient is small.

`channel_gradients` has a decay for each channel: it begins with what other chunks gave the gradients of reads and
writes (in the precision of sums), adds what the steps of a chunk give each other, and writes them in that of the
inputs.  So they go through memory once.  One decay a step: `rnnc.runtime.gpu.alike`.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import triton
import triton.language as tl

from rnnc.runtime.gpu.exchange import exchanged, row_sums
from rnnc.runtime.gpu.intra import LOG2E, NEAR, farthest
from rnnc.runtime.gpu.packed import chunk_rows, run_steps

__all__ = ["behind_slot", "channel_gradients", "products"]


@triton.jit
def behind_slot(ends_ptr, end_ptr, owner_ptr, slot, slots, head, h, H, V, m, in_m, PACKED: tl.constexpr):
    """E behind the chunks of a slot, [BM]."""
    if PACKED:
        owner = tl.load(owner_ptr + slot)
        follows, end = owner < 0, end_ptr + (owner * H + h) * V
    else:
        follows, end = slot + 1 < slots, end_ptr + head * V
    after = tl.where(follows, ends_ptr + (head * slots + slot + 1) * V, end)
    return tl.load(after + m, mask=in_m, other=0.0)


@triton.jit
def _felt(behind, reads, change, OLD: tl.constexpr):
    """The gradient of a chunk's log decays, given E behind it; reads of old states do not feel their own step's."""
    d_g = behind[None, :] + tl.cumsum(change, 0, reverse=True)
    return d_g - reads if OLD else d_g


@triton.jit
def products(x_at, x_t, x_n, y_at, y_t, y_n, c, in_t, N: tl.constexpr, ACC: tl.constexpr, C: tl.constexpr,
             BN: tl.constexpr, PRECISION: tl.constexpr, AHEAD: tl.constexpr = 3):  # fmt: skip
    """x y^T [C, C] of a chunk; AHEAD: the stages of its loads."""
    found = tl.full([C, C], 0.0, ACC)
    for column in tl.range(0, N, BN, num_stages=AHEAD, disable_licm=True):
        n = column + tl.arange(0, BN)
        inner = in_t[:, None] & (n < N)[None, :]
        x = tl.load(x_at + (c[:, None] * x_t + n[None, :] * x_n), mask=inner, other=0.0)
        y = tl.load(y_at + (c[:, None] * y_t + n[None, :] * y_n), mask=inner, other=0.0)
        found += tl.dot(x, tl.trans(y), input_precision=PRECISION).to(ACC)
    return found


@triton.jit(do_not_specialize=["T", "S"])
def channel_gradients(
    x_ptr, x_b, x_t, x_h, x_n,
    y_ptr, y_b, y_t, y_h, y_n,
    r_ptr, r_b, r_t, r_h, r_m,
    w_ptr, w_b, w_t, w_h, w_m,
    g_ptr, g_b, g_t, g_h, g_m,
    d_r_ptr, d_w_ptr,
    ends_ptr, end_ptr,
    d_g_ptr,
    low_r_ptr, low_w_ptr,
    runs_ptr, owner_ptr,
    T, H, V, S,
    N: tl.constexpr, ACC: tl.constexpr, OLD: tl.constexpr, BOTH: tl.constexpr, BASE: tl.constexpr,
    LOOK: tl.constexpr, PACKED: tl.constexpr, EVERY: tl.constexpr, C: tl.constexpr, BN: tl.constexpr,
    BM: tl.constexpr, AHEAD: tl.constexpr, LEVELS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradients of BM channels' log decays, of reads r and of writes w, of EVERY chunks of one head.

    A read t and a write s of a chunk meet with x_t . y_s.  BOTH: the gradients of r and w are what other chunks gave
    (d_r, d_w), and what the chunk itself does, w to r's and r to w's.  Else d_r is complete, and gives to w's.
    """
    i = tl.program_id(0).to(tl.int64)
    blocks, slots = tl.cdiv(V, BM), chunk_rows(T, S, C * EVERY, PACKED)
    m = (i % blocks * BM).to(tl.int32) + tl.arange(0, BM)
    slot, head = i // blocks % slots, i // blocks // slots
    b, h = head // H, head % H
    c, in_m = tl.arange(0, C), m < V
    origin, stop, count, _, _ = run_steps(runs_ptr, slot, T, EVERY, C, EVERY, PACKED)
    behind = behind_slot(ends_ptr, end_ptr, owner_ptr, slot, slots, head, h, H, V, m, in_m, PACKED).to(ACC)
    at = origin + (count - 1) * C
    x_at, y_at = x_ptr + b * x_b + h * x_h + at * x_t, y_ptr + b * y_b + h * y_h + at * y_t
    r_at, w_at = r_ptr + b * r_b + h * r_h + at * r_t, w_ptr + b * w_b + h * w_h + at * w_t
    g_at, row = g_ptr + b * g_b + h * g_h + at * g_t, ((b * T + at) * H + h) * V
    left = (stop - at).to(tl.int32)
    for _ in tl.range(0, count, disable_licm=True):
        in_t = c < left
        mask = in_t[:, None] & in_m[None, :]
        product = products(x_at, x_t, x_n, y_at, y_t, y_n, c, in_t, N, ACC, C, BN, PRECISION, AHEAD)
        place = c[:, None] * (H * V) + m[None, :]
        g = tl.load(g_at + (c[:, None] * g_t + m[None, :] * g_m), mask=mask, other=0.0).to(ACC) * LOG2E
        before, after, _total = row_sums(g, C, BM, 0, LEVELS - 1)
        near = True if BASE == C else farthest(before, after, g, True) <= NEAR if LOOK else False
        r = tl.load(r_at + (c[:, None] * r_t + m[None, :] * r_m), mask=mask, other=0.0)
        w = tl.load(w_at + (c[:, None] * w_t + m[None, :] * w_m), mask=mask, other=0.0)
        read = r if BOTH else tl.load(d_r_ptr + row + place, mask=mask, other=0.0)
        none = tl.full([C, BM], 0.0, ACC)
        d_r, d_w = exchanged(
            product.to(r.dtype), read, w, before, after, g, c, near, none, none,
            OLD, 1, BASE, ACC, C, BM, 0, LEVELS, PRECISION,
        )  # fmt: skip
        d_w += tl.load(d_w_ptr + row + place, mask=mask, other=0.0)
        d_r = d_r + tl.load(d_r_ptr + row + place, mask=mask, other=0.0) if BOTH else read.to(ACC)
        reads = r * d_r
        change = reads - w * d_w
        tl.store(d_g_ptr + row + place, _felt(behind, reads, change, OLD), mask=mask)
        if BOTH:
            tl.store(low_r_ptr + row + place, d_r, mask=mask)
        tl.store(low_w_ptr + row + place, d_w, mask=mask)
        behind += tl.sum(change, 0)
        x_at -= C * x_t
        y_at -= C * y_t
        r_at -= C * r_t
        w_at -= C * w_t
        g_at -= C * g_t
        row -= C * H * V
        left += C

"""The state of a chunkwise scan, from chunk to chunk, without leaving the chip.

`walk` holds BM columns of one head's state [N, M] and goes over the chunks forward or backward: it reads the outputs
off the state and updates it by two products,

    out = x S (+ what the chunk's own steps add),    S <- 2^total S + y^T z

Which of the four passes of a scan this is, only its arguments say.  For outputs o = q S, with the decay on the rows
of S (the keys), the gradients are scans of the same kind: with P = dO v^T,

    o  [T, V]: x = q, y = k, z = v,  forward            dv [T, V]: x = k, y = q, z = dO, backward
    dq [T, K]: x = dO, y = v, z = k, forward            dk [T, K]: x = v, y = dO, z = q, backward

where o and dv decay on the contracted axis of the state and dq and dk on the one that stays; with the decay on the
columns it is the other way round, and one decay for all of the state may be taken to be on either.  A normaliser is
one more column of the state, whose value is a number a step (1, say): COLUMN where values are columns, ROW where they
are rows, which would make the state larger than a power of two if it were treated as the rest.  So no gradient
needs a chunk's state in memory: dq starts from states kept every EVERY chunks, dk and dv from the gradient of the
last state.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import triton
import triton.language as tl

from rnnc.runtime.gpu.intra import LOG2E
from rnnc.runtime.gpu.packed import chunk_rows, run_steps

__all__ = ["walk"]


@triton.jit
def _rows(x_at, x_t, x_n, c, n, mask):
    """The rows of a chunk: [C, N]."""
    return tl.load(x_at + (c[:, None] * x_t + n[None, :] * x_n), mask=mask, other=0.0)


@triton.jit
def _column(x_at, mask):
    """One number of each step: [C, 1]."""
    return tl.load(x_at, mask=mask, other=0.0)[:, None]


@triton.jit
def _read(x, state, row, x_extra_at, fade_at, in_t, ALIKE: tl.constexpr, ROW: tl.constexpr, ACC: tl.constexpr,
          PRECISION: tl.constexpr):  # fmt: skip
    """What x reads off a state."""
    out = tl.dot(x, state.to(x.dtype), input_precision=PRECISION).to(ACC)
    if ROW:
        out += _column(x_extra_at, in_t).to(ACC) * row[None, :]
    return out * tl.load(fade_at)[:, None] if ALIKE else out


@triton.jit
def _faded(out, g_at, g_t, g_m, c, m, in_m, left, REVERSE: tl.constexpr, OLD: tl.constexpr, C: tl.constexpr,
           ACC: tl.constexpr):  # fmt: skip
    """Outputs by the decay on their own axis: from the chunk's start to the read; REVERSE from after the write to the
    end of the chunk, of which `left` steps are its sequence's.
    """
    other = c + (1 if REVERSE else -1 if OLD else 0)
    inside = ((other >= 0) & (other < C) & (other < left))[:, None] & in_m[None, :]
    g = tl.load(g_at + (other[:, None] * g_t + m[None, :] * g_m), mask=inside, other=0.0)
    return out * tl.exp2(tl.cumsum(g.to(ACC) * LOG2E, 0, reverse=REVERSE))


@triton.jit
def _inside(scores_at, z, in_t, REVERSE: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr):
    """What a chunk's own steps add to its outputs."""
    scores = tl.load(scores_at, mask=in_t[:, None], other=0.0)
    scores = tl.trans(scores) if REVERSE else scores
    return tl.dot(scores, z, input_precision=PRECISION).to(ACC)


@triton.jit
def _decay(total_ptr, at, n, m, in_n, in_m, N: tl.constexpr, V, ALIKE: tl.constexpr, ACROSS: tl.constexpr):
    """What a chunk leaves of a state, along one of its axes."""
    if ALIKE:
        return tl.exp2(tl.load(total_ptr + at))
    elif ACROSS:
        return tl.exp2(tl.load(total_ptr + at * V + m, mask=in_m, other=0.0)[None, :])
    else:
        return tl.exp2(tl.load(total_ptr + at * N + n, mask=in_n, other=0.0)[:, None])


@triton.jit
def _meet(other_at, place, last_row, state, row, into, m, in_state, in_m, ROW: tl.constexpr):
    """Writes the sums over the first axis of another state times this one."""
    met = tl.sum(tl.load(other_at + place, mask=in_state, other=0.0).to(state.dtype) * state, 0)
    if ROW:
        met += tl.load(other_at + last_row, mask=in_m, other=0.0).to(state.dtype) * row
    tl.store(into + m, met, mask=in_m)


@triton.jit
def _share(T, V, SPAN, S, RUNS, PACKED: tl.constexpr, COLUMN: tl.constexpr, C: tl.constexpr, EVERY: tl.constexpr,
           BM: tl.constexpr):  # fmt: skip
    """A program's block of columns, span and head, and how many there are of blocks and spans, rows of chunks and rows
    of kept states.
    """
    i = tl.program_id(0).to(tl.int64)
    blocks, chunks = tl.cdiv(V + 1 if COLUMN else V, BM), chunk_rows(T, S, C, PACKED)
    spans, slots = RUNS if PACKED else tl.cdiv(chunks, SPAN), chunk_rows(T, S, C * EVERY, PACKED)
    return (i % blocks).to(tl.int32), i // blocks % spans, i // blocks // spans, blocks, spans, chunks, slots


@triton.jit(do_not_specialize=["T", "SPAN", "S", "RUNS"])
def walk(
    x_ptr, x_b, x_t, x_h, x_n,
    y_ptr, y_b, y_t, y_h, y_n,
    z_ptr, z_b, z_t, z_h, z_m,
    g_ptr, g_b, g_t, g_h, g_m,
    w_ptr, w_b, w_t, w_h, w_m,
    scores_ptr, intra_ptr,
    out_fade_ptr, z_fade_ptr, total_ptr,
    start_ptr, last_ptr,
    kept_ptr, ends_ptr, other_ptr, end_ptr,
    out_ptr, sums_ptr,
    x_extra_ptr, extra_ptr, out_extra_ptr,
    runs_ptr,
    T, H, V, SPAN, S, RUNS, SIZE, S_N, S_M,
    N: tl.constexpr, ACC: tl.constexpr, ALIKE: tl.constexpr, ACROSS: tl.constexpr, ADD: tl.constexpr,
    REVERSE: tl.constexpr, OLD: tl.constexpr, OUT: tl.constexpr, SUMS: tl.constexpr, KEEP: tl.constexpr,
    ENDS: tl.constexpr, LAST: tl.constexpr, EVERY: tl.constexpr, PACKED: tl.constexpr, COLUMN: tl.constexpr,
    ROW: tl.constexpr, C: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr, STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """BM of V columns of one head's state over SPAN chunks of C steps, from the state before them.

    ALIKE: one decay a step; outputs and the rows of z are scaled here, by `out_fade` and `z_fade` [B, H, chunks, C].
    Else the decay is on the contracted axis (x and y are scaled already), or, ACROSS, on the other (z is scaled, the
    outputs are scaled here by g; ADD: `intra` is what the chunk's own steps add, else they are left out).  Where it is
    not ACROSS, `scores` [C, C] are what the steps of a chunk see of each other.

    Without OUT only the state is carried.  SUMS: w times the outputs, summed over columns, [B, H, chunks, blocks, C].
    KEEP stores the state every EVERY chunks, LAST behind all; ENDS writes the sums over n of the states kept by another
    walk times this one's, at the same places, and of that walk's last state (`other`) times this one's first.  PACKED:
    a span is one of RUNS runs of S sequences.

    A state has SIZE entries.  COLUMN: z has one more column, `extra` [T], whose outputs go to `out_extra`.  ROW: x and
    y have one more, `x_extra` and `extra`, for one more row of the state, of which the scores know.
    """
    block, span, head, blocks, spans, chunks, slots = _share(T, V, SPAN, S, RUNS, PACKED, COLUMN, C, EVERY, BM)
    b, h = head // H, head % H
    c, n, m = tl.arange(0, C), tl.arange(0, BN), block * BM + tl.arange(0, BM)
    in_n, in_m = n < N, m < V
    in_state = in_n[:, None] & (m < V + 1 if COLUMN else in_m)[None, :]
    place, last_row = n[:, None] * S_N + m[None, :] * S_M, N * S_N + m * S_M
    start_at = start_ptr + (head * spans + span) * SIZE
    state = tl.load(start_at + place, mask=in_state, other=0.0).to(ACC)
    row = tl.full([BM], 0.0, ACC)
    if ROW:
        row = tl.load(start_at + last_row, mask=in_m, other=0.0).to(ACC)
    if ENDS:
        which = span * H + h if PACKED else head
        if PACKED or span == spans - 1:
            _meet(other_ptr + which * SIZE, place, last_row, state, row, end_ptr + which * V, m, in_state, in_m, ROW)
    origin, stop, count, first, slot = run_steps(runs_ptr, span, T, SPAN, C, EVERY, PACKED)
    for step in tl.range(0, count, num_stages=STAGES, disable_licm=ROW or COLUMN or (ENDS and C > 16)):
        chunk = first + count - 1 - step if REVERSE else first + step
        k = chunk - first
        at, at_chunk, at_kept = origin + k * C, head * chunks + chunk, head * slots + slot + k // EVERY
        in_t = at + c < stop
        inner, outer = in_t[:, None] & in_n[None, :], in_t[:, None] & in_m[None, :]
        if KEEP:
            tl.store(kept_ptr + at_kept * SIZE + place, state, mask=in_state & (k % EVERY == 0))
        y = _rows(y_ptr + b * y_b + h * y_h + at * y_t, y_t, y_n, c, n, inner)
        z = _rows(z_ptr + b * z_b + h * z_h + at * z_t, z_t, z_m, c, m, outer)
        lone = (b * T + at + c) * H + h
        if COLUMN:
            z = tl.where((m == V)[None, :], _column(extra_ptr + lone, in_t), z).to(z.dtype)
        if OUT:
            x = _rows(x_ptr + b * x_b + h * x_h + at * x_t, x_t, x_n, c, n, inner)
            fade_at = out_fade_ptr + at_chunk * C + c
            out = _read(x, state, row, x_extra_ptr + lone, fade_at, in_t, ALIKE, ROW, ACC, PRECISION)
            if ACROSS:
                g_at = g_ptr + b * g_b + h * g_h + at * g_t
                out = _faded(out, g_at, g_t, g_m, c, m, in_m, stop - at, REVERSE, OLD, C, ACC)
            else:
                table = ((b * T + at) * H + h) * C + (c[:, None] * (H * C) + c[None, :])
                out += _inside(scores_ptr + table, z, in_t, REVERSE, ACC, PRECISION)
            place_out = ((b * T + at) * H + h) * V + (c[:, None] * (H * V) + m[None, :])
            if ADD:
                out += tl.load(intra_ptr + place_out, mask=outer, other=0.0)
            tl.store(out_ptr + place_out, out, mask=outer)
            if COLUMN:
                lone_out = tl.broadcast_to(lone[:, None], [C, BM])
                tl.store(out_extra_ptr + lone_out, out, mask=in_t[:, None] & (m == V)[None, :])
            if SUMS:
                w = _rows(w_ptr + b * w_b + h * w_h + at * w_t, w_t, w_m, c, m, outer)
                tl.store(sums_ptr + (at_chunk * blocks + block) * C + c, tl.sum(w.to(ACC) * out, 1))
        scaled = (z * tl.load(z_fade_ptr + at_chunk * C + c)[:, None]).to(z.dtype) if ALIKE else z
        if ROW:
            gain = tl.sum(_column(extra_ptr + lone, in_t).to(ACC) * scaled.to(ACC), 0)
            row = row * tl.exp2(tl.load(total_ptr + at_chunk)) + gain
        left = _decay(total_ptr, at_chunk, n, m, in_n, in_m, N, V, ALIKE, ACROSS)
        state = state * left + tl.dot(tl.trans(y), scaled, input_precision=PRECISION).to(ACC)
        if ENDS:  # noqa: SIM102  (decided when compiled)
            if k % EVERY == 0:
                kept_at, ends_at = kept_ptr + at_kept * SIZE, ends_ptr + at_kept * V
                _meet(kept_at, place, last_row, state, row, ends_at, m, in_state, in_m, ROW)
    if LAST:
        tl.store(last_ptr + (head * spans + span) * SIZE + place, state, mask=in_state)
        if ROW:
            tl.store(last_ptr + (head * spans + span) * SIZE + last_row, row, mask=in_m)

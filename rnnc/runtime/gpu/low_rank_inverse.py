"""Diagonal-plus-low-rank transitions with scalar decays, chunk by chunk: what the kernels do, and the chunks' inverses.

    S <- a S + s u (v + c S^T b)^T  [K, V],    a = exp(g),    o = S^T q   (of the state before or after a time step)

One line above is a *row*; a time step has N of them, and R in a row read the same S (a transition of rank R).  The
delta rule is one row with u = b = k, s = beta and c = -a; Householder products are N rows a step, the decay on the
first; a plain write has c = 0, a low-rank term without a write v = 0.  Rows are numbered through all steps and cut into
chunks of C = 64.  With G the running sum of g inside a chunk, `before` and `after` each row's own, and S the state at
the chunk's start, the values w_i = v_i + c_i S_i^T b_i of a chunk solve a unit lower triangular system

    (I - M) W = V + diag(c e^before) B S,    M_ij = c_i (b_i . u_j) s_j exp(before_i - after_j)   for j before i

(the UT transform of Yang et al., arXiv:2406.06484, section 3.2, and arXiv:2412.06464 with decays, for any rank).  Then

    S' = e^end S + sum_j s_j e^(end - after_j) u_j w_j^T,    o_i = e^at_i S^T q_i + sum_(j seen) P_ij w_j,
    P_ij = (q_i . u_j) s_j exp(at_i - after_j),    at = before where old states are read, after otherwise.

`low_rank_inverse` finds (I - M)^-1 for all chunks at once; `low_rank_walk` goes from chunk to chunk with BV columns of
a head's state, and writes outputs as it goes or leaves them to `low_rank_outputs`.  With X = (I - M)^-T dW the backward
needs no derivative of the inverse: dV = X, dM = X W^T on its triangle, and the rows (c b, X) behave as the reads
(q, dO) do.  `low_rank_walk_back` carries the state's gradient from the last chunk to the first and writes X;
`low_rank_backward` does the rest for all chunks at once (all these in `low_rank_kernels`).

Exponents are of differences no larger than zero where g is; products run in the inputs' dtype and add up in float32;
the inverse is found in float32.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["between", "chunk_of", "decays", "low_rank_inverse", "numbers", "place", "reads", "rows_of", "sees", "tile"]


# ---------------------------------------------------------------- a chunk's numbers


@triton.jit
def chunk_of(i, L, C: tl.constexpr, table_ptr, PACKED: tl.constexpr):
    """Of a chunk, among all kept: its entry of the batch, its first row there, and the rows from there on."""
    if PACKED:
        return i * 0, tl.load(table_ptr + 3 * i + 1), tl.load(table_ptr + 3 * i + 2).to(tl.int32)
    else:
        chunks = tl.cdiv(L, C)
        first = i % chunks * C
        return i // chunks, first, (L - first).to(tl.int32)


@triton.jit
def place(x_ptr, b, hk, he, x_b, x_h, x_e, step, x_t):
    """Where the part of a head `hk` and its group `he` begins at one time step, all in 64 bits."""
    return x_ptr + (b * x_b + hk * x_h + he * x_e + step * x_t)


@triton.jit
def rows_of(row, x_t, x_n, N: tl.constexpr):
    """Offsets of rows, counted from the first of a time step; within a chunk 32 bits do."""
    if N == 1:
        return row * x_t
    else:
        return row // N * x_t + row % N * x_n


@triton.jit
def tile(x, row, x_t, x_n, N: tl.constexpr, column, x_k, mask):
    return tl.load(x + (rows_of(row, x_t, x_n, N)[:, None] + column[None, :] * x_k), mask=mask, other=0.0)


@triton.jit
def numbers(x, row, x_t, x_n, N: tl.constexpr, mask, ACC: tl.constexpr):
    return tl.load(x + rows_of(row, x_t, x_n, N), mask=mask, other=0.0).to(ACC)


@triton.jit
def decays(g, row, g_t, g_n, N: tl.constexpr, R: tl.constexpr, ii, mask, GATE: tl.constexpr, ACC: tl.constexpr):
    """Log decays from the start of the rows given: up to before each row, and up to it; of all of them.

    The rows of a micro-step share its decay; `ii` counts rows from the start of a chunk, which parts no micro-step.
    """
    if GATE:
        own = numbers(g, row, g_t, g_n, N, mask, ACC)
        first = own if R == 1 else tl.where(ii % R == 0, own, 0.0)
        after = tl.cumsum(first, 0)
        end = tl.sum(first, 0)
    else:
        own = tl.zeros(row.shape, ACC)
        after = own
        end = tl.sum(own, 0)
    return after - own, after, end


@triton.jit
def between(to_row, to_column, seen, GATE: tl.constexpr, ACC: tl.constexpr):
    """The decay from each column's write to each row's read, zero where the row does not see the column."""
    if GATE:
        return tl.where(seen, tl.exp(tl.where(seen, to_row[:, None] - to_column[None, :], 0.0)), 0.0)
    else:
        return tl.where(seen, 1.0, 0.0).to(ACC)


@triton.jit
def reads(before, after, row, N: tl.constexpr, OLD: tl.constexpr):
    """Which rows read (one a time step), and the log decay up to their read."""
    if OLD:
        return row % N == 0, before
    else:
        return row % N == N - 1, after


@triton.jit
def sees(ii, jj, R: tl.constexpr, STRICT: tl.constexpr):
    """Whether a row sees what another of its chunk writes: strictly that of earlier micro-steps, or of its own too."""
    if STRICT:
        return (ii // R)[:, None] > (jj // R)[None, :]
    else:
        return ii[:, None] >= jj[None, :]


# ---------------------------------------------------------------- the inverse of a chunk


@triton.jit
def _substituted(X, columns, r, i):
    """Row i of (I - M)^-1 from those above it; `columns` is M transposed."""
    line = tl.sum(tl.where(r[None, :] == i, columns, 0.0), 1)
    found = tl.sum(line[:, None] * X, 0)
    return tl.where(r[:, None] == i, X + found[None, :], X)


@triton.jit
def _times(a, b, ACC: tl.constexpr):
    return tl.dot(a, b, input_precision="ieee").to(ACC)


@triton.jit
def _store_block(out, X, r, I: tl.constexpr, J: tl.constexpr):
    tl.store(out + ((16 * I + r)[:, None] * 64 + (16 * J + r)[None, :]), X)


@triton.jit
def _unit_inverse(
    M00, M10, M11, M20, M21, M22, M30, M31, M32, M33, out, ACC: tl.constexpr
):  # fmt: skip
    """(I - M)^-1 of a strictly lower triangular M [64, 64], given by blocks of 16: substitution row by row inside the
    diagonal blocks, block by block below them.  Never a power of M: those may be large where the inverse is small."""
    r = tl.arange(0, 16)
    eye = tl.where(r[:, None] == r[None, :], 1.0, 0.0).to(ACC)
    X00, X11, X22, X33 = eye, eye, eye, eye
    T00, T11, T22, T33 = tl.trans(M00), tl.trans(M11), tl.trans(M22), tl.trans(M33)
    for i in range(1, 16):
        X00 = _substituted(X00, T00, r, i)
        X11 = _substituted(X11, T11, r, i)
        X22 = _substituted(X22, T22, r, i)
        X33 = _substituted(X33, T33, r, i)
    X10 = _times(_times(X11, M10, ACC), X00, ACC)
    X21 = _times(_times(X22, M21, ACC), X11, ACC)
    X32 = _times(_times(X33, M32, ACC), X22, ACC)
    X20 = _times(X22, _times(M20, X00, ACC) + _times(M21, X10, ACC), ACC)
    X31 = _times(X33, _times(M31, X11, ACC) + _times(M32, X21, ACC), ACC)
    X30 = _times(X33, _times(M30, X00, ACC) + _times(M31, X10, ACC) + _times(M32, X20, ACC), ACC)
    nothing = tl.zeros([16, 16], ACC)
    _store_block(out, X00, r, 0, 0)
    _store_block(out, nothing, r, 0, 1)
    _store_block(out, nothing, r, 0, 2)
    _store_block(out, nothing, r, 0, 3)
    _store_block(out, X10, r, 1, 0)
    _store_block(out, X11, r, 1, 1)
    _store_block(out, nothing, r, 1, 2)
    _store_block(out, nothing, r, 1, 3)
    _store_block(out, X20, r, 2, 0)
    _store_block(out, X21, r, 2, 1)
    _store_block(out, X22, r, 2, 2)
    _store_block(out, nothing, r, 2, 3)
    _store_block(out, X30, r, 3, 0)
    _store_block(out, X31, r, 3, 1)
    _store_block(out, X32, r, 3, 2)
    _store_block(out, X33, r, 3, 3)


@triton.jit
def _weighted(
    M, c, s, before, after, r, I: tl.constexpr, J: tl.constexpr, R: tl.constexpr, GATE: tl.constexpr, ACC: tl.constexpr
):  # fmt: skip
    """A block of M from the products b . u."""
    seen = sees(16 * I + r, 16 * J + r, R, True)
    return M * between(before, after, seen, GATE, ACC) * c[:, None] * s[None, :]


@triton.jit(do_not_specialize=["L"])
def low_rank_inverse(
    u_ptr, u_b, u_t, u_n, u_h, u_e, u_k,
    b_ptr, b_b, b_t, b_n, b_h, b_e, b_k,
    s_ptr, s_b, s_t, s_n, s_h, s_e,
    c_ptr, c_b, c_t, c_n, c_h, c_e,
    g_ptr, g_b, g_t, g_n, g_h, g_e,
    table_ptr,
    inverse_ptr,
    L, H, E,
    K: tl.constexpr, N: tl.constexpr, R: tl.constexpr, GATE: tl.constexpr, TIED: tl.constexpr,
    PACKED: tl.constexpr, ACC: tl.constexpr, C: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """(I - M)^-1 of one chunk of one head; TIED: b is u."""
    i = tl.program_id(0).to(tl.int64)
    heads = (H * E).to(tl.int64)
    h = i % heads
    hk, he = h // E, h % E
    b, first, left = chunk_of(i // heads, L, 64, table_ptr, PACKED)
    step, r, kk = first // N, tl.arange(0, 16), tl.arange(0, BK)
    row0 = (first % N).to(tl.int32) + r
    row1, row2, row3 = row0 + 16, row0 + 32, row0 + 48
    in0, in1, in2, in3 = r < left, r + 16 < left, r + 32 < left, r + 48 < left
    u_at = place(u_ptr, b, hk, he, u_b, u_h, u_e, step, u_t)
    b_at = place(b_ptr, b, hk, he, b_b, b_h, b_e, step, b_t)
    s_at = place(s_ptr, b, hk, he, s_b, s_h, s_e, step, s_t)
    c_at = place(c_ptr, b, hk, he, c_b, c_h, c_e, step, c_t)
    g_at = place(g_ptr, b, hk, he, g_b, g_h, g_e, step, g_t)
    zero = tl.zeros([16, 16], ACC)
    M00, M10, M11, M20, M21, M22, M30, M31, M32, M33 = zero, zero, zero, zero, zero, zero, zero, zero, zero, zero
    for start in range(0, K, BK):
        k = start + kk
        in_k = k < K
        u0 = tile(u_at, row0, u_t, u_n, N, k, u_k, in0[:, None] & in_k[None, :])
        u1 = tile(u_at, row1, u_t, u_n, N, k, u_k, in1[:, None] & in_k[None, :])
        u2 = tile(u_at, row2, u_t, u_n, N, k, u_k, in2[:, None] & in_k[None, :])
        u3 = tile(u_at, row3, u_t, u_n, N, k, u_k, in3[:, None] & in_k[None, :])
        if TIED:
            b0, b1, b2, b3 = u0, u1, u2, u3
        else:
            b0 = tile(b_at, row0, b_t, b_n, N, k, b_k, in0[:, None] & in_k[None, :])
            b1 = tile(b_at, row1, b_t, b_n, N, k, b_k, in1[:, None] & in_k[None, :])
            b2 = tile(b_at, row2, b_t, b_n, N, k, b_k, in2[:, None] & in_k[None, :])
            b3 = tile(b_at, row3, b_t, b_n, N, k, b_k, in3[:, None] & in_k[None, :])
        M00 += _times(b0, tl.trans(u0), ACC)
        M10 += _times(b1, tl.trans(u0), ACC)
        M20 += _times(b2, tl.trans(u0), ACC)
        M30 += _times(b3, tl.trans(u0), ACC)
        M11 += _times(b1, tl.trans(u1), ACC)
        M21 += _times(b2, tl.trans(u1), ACC)
        M31 += _times(b3, tl.trans(u1), ACC)
        M22 += _times(b2, tl.trans(u2), ACC)
        M32 += _times(b3, tl.trans(u2), ACC)
        M33 += _times(b3, tl.trans(u3), ACC)
    s0, c0 = numbers(s_at, row0, s_t, s_n, N, in0, ACC), numbers(c_at, row0, c_t, c_n, N, in0, ACC)
    s1, c1 = numbers(s_at, row1, s_t, s_n, N, in1, ACC), numbers(c_at, row1, c_t, c_n, N, in1, ACC)
    s2, c2 = numbers(s_at, row2, s_t, s_n, N, in2, ACC), numbers(c_at, row2, c_t, c_n, N, in2, ACC)
    s3, c3 = numbers(s_at, row3, s_t, s_n, N, in3, ACC), numbers(c_at, row3, c_t, c_n, N, in3, ACC)
    before0, after0, end0 = decays(g_at, row0, g_t, g_n, N, R, r, in0, GATE, ACC)
    before1, after1, end1 = decays(g_at, row1, g_t, g_n, N, R, r, in1, GATE, ACC)
    before2, after2, end2 = decays(g_at, row2, g_t, g_n, N, R, r, in2, GATE, ACC)
    before3, after3, _ = decays(g_at, row3, g_t, g_n, N, R, r, in3, GATE, ACC)
    before1, after1 = before1 + end0, after1 + end0
    before2, after2 = before2 + (end0 + end1), after2 + (end0 + end1)
    before3, after3 = before3 + (end0 + end1 + end2), after3 + (end0 + end1 + end2)
    _unit_inverse(
        _weighted(M00, c0, s0, before0, after0, r, 0, 0, R, GATE, ACC),
        _weighted(M10, c1, s0, before1, after0, r, 1, 0, R, GATE, ACC),
        _weighted(M11, c1, s1, before1, after1, r, 1, 1, R, GATE, ACC),
        _weighted(M20, c2, s0, before2, after0, r, 2, 0, R, GATE, ACC),
        _weighted(M21, c2, s1, before2, after1, r, 2, 1, R, GATE, ACC),
        _weighted(M22, c2, s2, before2, after2, r, 2, 2, R, GATE, ACC),
        _weighted(M30, c3, s0, before3, after0, r, 3, 0, R, GATE, ACC),
        _weighted(M31, c3, s1, before3, after1, r, 3, 1, R, GATE, ACC),
        _weighted(M32, c3, s2, before3, after2, r, 3, 2, R, GATE, ACC),
        _weighted(M33, c3, s3, before3, after3, r, 3, 3, R, GATE, ACC),
        inverse_ptr + i * (64 * 64),
        ACC,
    )

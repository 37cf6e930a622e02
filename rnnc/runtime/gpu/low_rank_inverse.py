"""Diagonal-plus-low-rank transitions chunk by chunk: what the kernels do, and the chunks' inverses.

    S <- D S + s u (v + c S^T b)^T  [K, V],    D = exp(g),    o = S^T q   (of the state before or after a time step)

One line above is a *row*; a time step has N of them, and R in a row read the same S (a transition of rank R).  The
delta rule is one row with u = b = k, s = beta and c = -a; Householder products are N rows a step, the decay on the
first; a plain write has c = 0, a low-rank term without a write v = 0.  Rows are numbered through all steps and cut into
chunks of C.  With G the running sum of g inside a chunk, `before` and `after` each row's own, and S the state at the
chunk's start, the values w_i = v_i + c_i S_i^T b_i of a chunk solve a unit lower triangular system

    (I - M) W = V + diag(c) B S,    M_ij = c_i s_j (b_i . u_j)    for j before i

(the UT transform of Yang et al., arXiv:2406.06484, section 3.2, and arXiv:2412.06464 with decays, for any rank), where
b_i in B is decayed from the chunk's start, exp(before_i) b_i, and each product carries the decay between its two rows,
exp(before_i - after_j).  Then

    S' = e^end S + sum_j s_j e^(end - after_j) u_j w_j^T,    o_i = e^at_i S^T q_i + sum_(j seen) P_ij s_j w_j,
    P_ij = q_i . u_j exp(at_i - after_j),    at = before where old states are read, after otherwise.

D is one number a row, or one for each key (Kimi's delta attention, arXiv:2510.26692; RWKV-7, arXiv:2503.14456, whose u
and b differ): then the products and the decayed vectors are found first, by `rnnc.runtime.gpu.low_rank_keyed`, and all
else is the same.

`low_rank_inverse` finds (I - M)^-1 for all chunks at once; `low_rank_walk` goes from chunk to chunk with BV columns of
a head's state, and writes outputs as it goes or leaves them to `low_rank_outputs`.  With X = (I - M)^-T dW the backward
needs no derivative of the inverse: dV = X, dM = X W^T on its triangle, and the rows (c b, X) behave as the reads
(q, dO) do.  `low_rank_walk_back` carries the state's gradient from the last chunk to the first and writes X (all these
in `low_rank_kernels`); `low_rank_backward` does the rest for all chunks at once.

Exponents are of differences no larger than zero where g is; products run in the inputs' dtype and add up in float32;
the inverse is found in float32.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# mypy: disable-error-code="assignment"
# ruff: noqa: RUF005  (tuples grow while a kernel is compiled, and Triton has no starred expressions)

from __future__ import annotations

import triton
import triton.language as tl

from rnnc.runtime.gpu.low_rank_rows import between, chunk_of, decays, numbers, place, sees, tile, times

__all__ = ["low_rank_inverse"]

# A lower triangle of blocks of 16 rows is a tuple, row by row: block (I, J) is number I (I + 1) / 2 + J.


@triton.jit
def _substituted(X, columns, r, i):
    """Row i of (I - M)^-1 from those above it; `columns` is M transposed."""
    line = tl.sum(tl.where(r[None, :] == i, columns, 0.0), 1)
    found = tl.sum(line[:, None] * X, 0)
    return tl.where(r[:, None] == i, X + found[None, :], X)


@triton.jit
def _diagonal_inverses(M, r, B: tl.constexpr, ACC: tl.constexpr):
    """(I - M)^-1 of the diagonal blocks, row by row; the blocks do not wait for each other."""
    eye = tl.where(r[:, None] == r[None, :], 1.0, 0.0).to(ACC)
    found, columns = (), ()
    for I in tl.static_range(B):
        found = found + (eye,)
        columns = columns + (tl.trans(M[I * (I + 3) // 2]),)
    for i in range(1, 16):
        new = ()
        for I in tl.static_range(B):
            new = new + (_substituted(found[I], columns[I], r, i),)
        found = new
    return found


@triton.jit
def _unit_inverse(M, r, B: tl.constexpr, ACC: tl.constexpr):
    """(I - M)^-1 of a strictly lower triangular M: substitution row by row inside the diagonal blocks, block by block
    below them.  Never a power of M: those may be large where the inverse is small."""
    diagonal = _diagonal_inverses(M, r, B, ACC)
    X = ()
    for I in tl.static_range(B):
        for J in tl.static_range(I):
            total = times(M[I * (I + 1) // 2 + J], diagonal[J], ACC)
            for through in tl.static_range(J + 1, I):
                left = M[I * (I + 1) // 2 + through]
                total += times(left, X[through * (through + 1) // 2 + J], ACC)
            X = X + (times(diagonal[I], total, ACC),)
        X = X + (diagonal[I],)
    return X


@triton.jit
def _stored(X, out, r, B: tl.constexpr, ACC: tl.constexpr):
    """Writes a lower triangle of blocks, and the zeros above it."""
    for I in tl.static_range(B):
        for J in tl.static_range(B):
            at = out + ((16 * I + r)[:, None] * (16 * B) + (16 * J + r)[None, :])
            if J <= I:
                tl.store(at, X[I * (I + 1) // 2 + J])
            else:
                tl.store(at, tl.zeros([16, 16], ACC))


@triton.jit
def _loaded(x, r, B: tl.constexpr):
    found = ()
    for I in tl.static_range(B):
        for J in tl.static_range(I + 1):
            found = found + (tl.load(x + ((16 * I + r)[:, None] * (16 * B) + (16 * J + r)[None, :])),)
    return found


@triton.jit
def _products(
    u_at, u_t, u_n, u_k, b_at, b_t, b_n, b_k, row, left, r,
    K: tl.constexpr, N: tl.constexpr, TIED: tl.constexpr, B: tl.constexpr, BK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The products b . u of all blocks of rows on the diagonal and below."""
    kk = tl.arange(0, BK)
    M = ()
    for _ in tl.static_range(B * (B + 1) // 2):
        M = M + (tl.zeros([16, 16], ACC),)
    for start in range(0, K, BK):
        k = start + kk
        us, bs, new = (), (), ()
        for I in tl.static_range(B):
            mask = (r + 16 * I < left)[:, None] & (k < K)[None, :]
            u = tile(u_at, row + 16 * I, u_t, u_n, N, k, u_k, mask)
            us = us + (u,)
            bs = bs + (u if TIED else tile(b_at, row + 16 * I, b_t, b_n, N, k, b_k, mask),)
        for I in tl.static_range(B):
            for J in tl.static_range(I + 1):
                new = new + (M[I * (I + 1) // 2 + J] + times(bs[I], tl.trans(us[J]), ACC),)
        M = new
    return M


@triton.jit
def _weighted(
    M, s_at, s_t, s_n, c_at, c_t, c_n, g_at, g_t, g_n, row, left, r,
    N: tl.constexpr, R: tl.constexpr, GATE: tl.constexpr, B: tl.constexpr, ACC: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """The blocks of M from the products b . u."""
    s, c, before, after = (), (), (), ()
    passed = tl.zeros([], SUM)
    for I in tl.static_range(B):
        inside = r + 16 * I < left
        s = s + (numbers(s_at, row + 16 * I, s_t, s_n, N, inside, ACC),)
        c = c + (numbers(c_at, row + 16 * I, c_t, c_n, N, inside, ACC),)
        to_row, to_end, end = decays(g_at, row + 16 * I, g_t, g_n, N, R, r, inside, GATE, SUM)
        before, after = before + (passed + to_row,), after + (passed + to_end,)
        passed += end
    found = ()
    for I in tl.static_range(B):
        for J in tl.static_range(I + 1):
            weight = between(before[I], after[J], sees(16 * I + r, 16 * J + r, R, True), GATE, ACC)
            found = found + (M[I * (I + 1) // 2 + J] * weight * c[I][:, None] * s[J][None, :],)
    return found


@triton.jit(do_not_specialize=["L"])
def low_rank_inverse(
    u_ptr, u_b, u_t, u_n, u_h, u_e, u_k,
    b_ptr, b_b, b_t, b_n, b_h, b_e, b_k,
    s_ptr, s_b, s_t, s_n, s_h, s_e,
    c_ptr, c_b, c_t, c_n, c_h, c_e,
    g_ptr, g_b, g_t, g_n, g_h, g_e,
    table_ptr,
    system_ptr,
    inverse_ptr,
    L, H, E,
    K: tl.constexpr, N: tl.constexpr, R: tl.constexpr, GATE: tl.constexpr, TIED: tl.constexpr, KEYED: tl.constexpr,
    PACKED: tl.constexpr, ACC: tl.constexpr, SUM: tl.constexpr, C: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """(I - M)^-1 of one chunk of one head; TIED: b is u; KEYED: M [C, C] is given."""
    i = tl.program_id(0).to(tl.int64)
    B: tl.constexpr = C // 16
    r = tl.arange(0, 16)
    if KEYED:
        M = _loaded(system_ptr + i * (C * C), r, B)
    else:
        heads = H * E
        hk, he = i % heads // E, i % E
        b, first, left = chunk_of(i // heads, L, C, table_ptr, PACKED)
        step, row = first // N, (first % N).to(tl.int32) + r
        u_at = place(u_ptr, b, hk, he, u_b, u_h, u_e, step, u_t)
        b_at = place(b_ptr, b, hk, he, b_b, b_h, b_e, step, b_t)
        s_at = place(s_ptr, b, hk, he, s_b, s_h, s_e, step, s_t)
        c_at = place(c_ptr, b, hk, he, c_b, c_h, c_e, step, c_t)
        g_at = place(g_ptr, b, hk, he, g_b, g_h, g_e, step, g_t)
        M = _products(u_at, u_t, u_n, u_k, b_at, b_t, b_n, b_k, row, left, r, K, N, TIED, B, BK, ACC)
        M = _weighted(M, s_at, s_t, s_n, c_at, c_t, c_n, g_at, g_t, g_n, row, left, r, N, R, GATE, B, ACC, SUM)
    _stored(_unit_inverse(M, r, B, ACC), inverse_ptr + i * (C * C), r, B, ACC)

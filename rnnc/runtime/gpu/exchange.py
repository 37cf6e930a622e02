"""What the rows of one chunk give each other under a decay for each channel, and what they give back.

A read at one row and a write at an earlier one meet with a weight for each channel, 2^(sum of g between them), which no
factor of either holds safely.  As `rnnc.runtime.gpu.intra` says, chunks are halved instead: for M = 1, 2, 4, ..., C/2
rows the second of two neighbouring blocks is decayed from the border between them and the first one up to it, and no
sum of logarithms is subtracted from another.  Where all sums of a chunk are small (a look at run time; or proven, in
blocks of BASE rows), one product serves.

Here R = 2^LEAST rows share a decay (those of a micro-step), so blocks begin with R rows; rows x read before their own
decay (OLD) or after it, and columns u are written after theirs.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import triton
import triton.language as tl

from rnnc.runtime.gpu.intra import from_middle, grown
from rnnc.runtime.gpu.low_rank_rows import sees, times

__all__ = ["exchanged", "row_sums", "scores_of"]


@triton.jit
def row_sums(g, C: tl.constexpr, BK: tl.constexpr, LEAST: tl.constexpr, LEVELS: tl.constexpr):
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
def scores_of(
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
    """As `scores_of`, by halves."""
    before, after, total = row_sums(g, C, BK, LEAST, LEAST)
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


# ---------------------------------------------------------------- gradients


@triton.jit
def _met(d_scores, seen, x, u, of_row, of_column, d_x, d_u, ACC: tl.constexpr,
         PRECISION: tl.constexpr):  # fmt: skip
    """What rows x get from the columns u that they see, and these from them, by one weight each: added to their
    gradients."""
    d_scores = tl.where(seen, d_scores, 0.0).to(u.dtype)
    d_x += of_row * tl.dot(d_scores, (u * of_column).to(u.dtype), input_precision=PRECISION).to(ACC)
    d_u += of_column * tl.dot(tl.trans(d_scores), (x * of_row).to(u.dtype), input_precision=PRECISION).to(ACC)
    return d_x, d_u


@triton.jit
def exchanged(
    d_scores, x, u, before, after, g, ii, near, d_x, d_u, OLD: tl.constexpr, R: tl.constexpr, BASE: tl.constexpr,
    ACC: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, LEAST: tl.constexpr, LEVELS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """`_met` for all of a chunk; `before` and `after` are sums in halves of it."""
    if near:
        to_row, to_column = from_middle(before, after, g, C // 2, True, C)
        of_row, of_column = tl.exp2(to_row if OLD else to_row + g), tl.exp2(to_column)
        d_x, d_u = _met(d_scores, sees(ii, ii, R, OLD), x, u, of_row, of_column, d_x, d_u, ACC, PRECISION)
    else:
        d_x, d_u = _exchanged_halved(
            d_scores, x, u, g, ii, d_x, d_u, OLD, R, BASE, ACC, C, BK, LEAST, LEVELS, PRECISION
        )
    return d_x, d_u


@triton.jit
def _exchanged_halved(
    d_scores, x, u, g, ii, d_x, d_u, OLD: tl.constexpr, R: tl.constexpr, BASE: tl.constexpr, ACC: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, LEAST: tl.constexpr, LEVELS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """As `exchanged`, by halves."""
    before, after, total = row_sums(g, C, BK, LEAST, LEAST)
    if BASE <= R and not OLD:
        if R == 1:
            own = tl.sum(tl.where(ii[:, None] == ii[None, :], d_scores, 0.0).to(ACC), 1)[:, None]
            d_x, d_u = d_x + own * u, d_u + own * x
        else:
            part = tl.where(_within(ii, R) & (ii[:, None] >= ii[None, :]), d_scores, 0.0).to(u.dtype)
            d_x, d_u = (
                d_x + tl.dot(part, u, input_precision=PRECISION).to(ACC),
                d_u + tl.dot(tl.trans(part), x, input_precision=PRECISION).to(ACC),
            )
    for level in tl.static_range(LEAST, LEVELS):
        if 2 << level >= BASE:
            of_row, of_column = _level(before, after, g, ii, 1 << level, BASE, C)
            of_row = of_row if OLD else of_row * tl.exp2(g)
            seen = _meeting(ii, 1 << level, R, OLD, BASE)
            d_x, d_u = _met(d_scores, seen, x, u, of_row, of_column, d_x, d_u, ACC, PRECISION)
        before, after, total = grown(before, after, total, 1 << level, C, BK)
    return d_x, d_u

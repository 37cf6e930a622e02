"""Newton's method over the steps of one tile, in registers.

    h_t = F(h_{t-1}, x_t).   With a guess g_t of the state before each step of a tile, its value f_t = F(g_t) and slope
    a_t = F'(g_t), the states of  h_t = a_t h_{t-1} + (f_t - a_t g_t)  are the next guess: one scan over the tile
    (DEER, Lim et al. 2024, eq. 5).

A tile is accepted where every residual f_t - h_t and every change of the guess is within the tolerance; what is left
then is the square of that.  The guess before step t is exact after t iterations whatever F is, up to rounding and
overflow, so that a tile is small work even where nothing contracts.  One that is not solved after so many iterations is
taken step by step: `previous` values of F from the state before the tile, as often as it has steps, are the sequential
states bit for bit.
"""

# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl

__all__ = ["NewtonCounts", "previous", "unsolved"]

SINGLE, DOUBLE = tl.constexpr(6.4e-6), tl.constexpr(1.8e-12)  # eps^(3/4), relative to max(1, |h|)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewtonCounts:
    """What a kernel did since it was loaded: tiles of all channels' blocks, iterations of all of them, and how many
    were not solved and taken step by step.
    """

    tiles: int = 0
    iterations: int = 0
    sequential: int = 0


@triton.jit
def unsolved(value, after, following, before, inside):
    """How many entries are not within the tolerance: residuals of the guess, and its change; a NaN is not."""
    tolerance: tl.constexpr = DOUBLE if value.dtype == tl.float64 else SINGLE
    solved = tl.abs(value - after) <= tolerance * tl.maximum(tl.abs(after), 1.0)
    still = tl.abs(following - before) <= tolerance * tl.maximum(tl.abs(before), 1.0)
    return tl.sum(tl.where(inside & ((solved & still) == 0), 1, 0))


@triton.jit
def _behind(x, p, single, y, q, other):
    return y, tl.where(other > 0, x, q), tl.minimum(single, 0.0)


@triton.jit
def previous(x, first, row):
    """The entry one step before each, `first` before the first step (row 0); nothing is computed with."""
    x, first = tl.broadcast_to(x, x.shape), tl.broadcast_to(first, x.shape)
    _, before, _ = tl.associative_scan((x, x, tl.full(x.shape, 1.0, x.dtype)), 0, _behind)
    return tl.where(row == 0, first, before)

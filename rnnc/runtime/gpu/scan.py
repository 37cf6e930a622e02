"""Scans over the first axis of register tiles, and reductions that leave out what lies outside an array.

A tile of steps has the coefficients a_t, b_t of h_t = a_t h_{t-1} + b_t (or of another semiring) and the state `h`
before its first step.  `..._states` gives the state after each step, `..._before` the state before each step: there
an element of the scan also carries the composition of all steps before its own,

    (A, B, P, Q) o (A', B', P', Q') = (A' A, A' B + B', P' A, P' B + Q'),

with (P, Q) = (1, 0) for a single step.  Nothing is divided by, so any coefficient is allowed.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# (a Triton function has tiles for arguments, which Python's types do not describe)

from __future__ import annotations

import triton
import triton.language as tl

from rnnc.runtime.gpu.math import log_add, maximum, minimum

__all__ = [
    "channels",
    "complex_after",
    "complex_before",
    "complex_pass",
    "complex_states",
    "first_row",
    "last_row",
    "linear_after",
    "linear_before",
    "linear_pass",
    "linear_states",
    "log_plus_before",
    "log_plus_pass",
    "log_plus_states",
    "max_over",
    "max_plus_before",
    "max_plus_pass",
    "max_plus_states",
    "min_over",
    "min_plus_before",
    "min_plus_pass",
    "min_plus_states",
    "row",
    "sum_over",
]


@triton.jit
def channels(part, BD: tl.constexpr, beside: tl.constexpr = 2):
    """The channels of a block of BD, for tiles of steps.

    Triton gives a thread as many neighbours of a row as make 16 bytes, and shares out what is left of a warp, and all
    warps, along time, where a scan pays five shuffles or a barrier for each doubling.  Told that no more than two are
    side by side, it lays 64 channels over a warp and keeps the steps of a tile in each thread's registers.

    With inner axes (`beside` 1) a thread has one channel, so that its entries and steps fill the registers.
    """
    found = part * BD + tl.arange(0, BD)
    if beside == 1:
        return tl.multiple_of(found, 1)
    else:
        return tl.max_contiguous(found, 2 if BD > 1 else 1)


@triton.jit
def sum_over(x, inside, axis: tl.constexpr):
    """The sum over an axis, which stays with size 1."""
    return tl.sum(tl.where(inside, x, 0.0), axis, keep_dims=True)


@triton.jit
def max_over(x, inside, axis: tl.constexpr):
    return tl.reduce(tl.where(inside, x, -float("inf")), axis, maximum, keep_dims=True)


@triton.jit
def min_over(x, inside, axis: tl.constexpr):
    return tl.reduce(tl.where(inside, x, float("inf")), axis, minimum, keep_dims=True)


@triton.jit
def row(x, chosen):
    """The one row of a tile for which `chosen` holds.

    Added up as an integer: then the compiler sees that nothing is added, and names registers where a thread has all
    rows; and Triton 3.6 has code for AMD's GPUs whatever rows are made of.
    """
    whole = tl.int64 if x.dtype == tl.float64 else tl.int32
    bits = tl.where(chosen, x.to(whole, bitcast=True), 0)
    return tl.sum(bits, 0, keep_dims=True).to(x.dtype, bitcast=True)


@triton.jit
def last_row(x, count, chosen):
    """The last of a tile's first `count` rows, for which `chosen` holds.  Of a whole tile it is in known registers."""
    if _in_threads(x.shape):
        if count >= x.shape[0]:
            found = _pick(x, x.shape[0] - 1)
        else:
            found = row(x, chosen)
        return found
    else:
        return row(x, chosen)


@triton.jit
def first_row(x):
    """The first row of a tile."""
    if _in_threads(x.shape):
        return _pick(x, 0)
    else:
        return row(x, _rows(x) == 0)


# ---------------------------------------------------------------- rows, one after another


@triton.constexpr_function
def _in_threads(shape):
    """Whether a thread holds all steps of its channels (see `channels`): those that fill a warp, without inner axes."""
    if len(shape) == 2:
        return shape[1] >= 64
    return len(shape) > 2 and shape[-1] * shape[-2] >= 32


@triton.jit
def _rows(x):
    """The numbers of a tile's rows, along its first axis."""
    rows = tl.arange(0, x.shape[0])
    for axis in tl.static_range(1, len(x.shape)):
        rows = tl.expand_dims(rows, axis)
    return rows


@triton.jit
def _pick(x, r: tl.constexpr):
    """Row r."""
    return row(x, _rows(x) == r)


@triton.jit
def _put(x, r: tl.constexpr, value):
    """The tile with another row r."""
    return tl.where(_rows(x) == r, value, x)


@triton.jit
def _states(a, b, h, apply: tl.constexpr, reverse: tl.constexpr):
    """The state after each step, `apply` being what one does to it; with `reverse` the last step comes first."""
    after = b
    for r in tl.static_range(a.shape[0] - 1 if reverse else 0, -1 if reverse else a.shape[0], -1 if reverse else 1):
        h = apply(_pick(a, r), _pick(b, r), h)
        after = _put(after, r, h)
    return after


@triton.jit
def _before(a, b, h, apply: tl.constexpr, reverse: tl.constexpr):
    """The state before each step, in the same order."""
    before = b
    for r in tl.static_range(a.shape[0] - 1 if reverse else 0, -1 if reverse else a.shape[0], -1 if reverse else 1):
        before = _put(before, r, h)
        h = apply(_pick(a, r), _pick(b, r), h)
    return before


@triton.jit
def _complex_rows(a_re, a_im, b_re, b_im, h_re, h_im, before: tl.constexpr, reverse: tl.constexpr):
    """`_states` or `_before` of complex numbers."""
    x_re, x_im = b_re, b_im
    rows: tl.constexpr = a_re.shape[0]
    for r in tl.static_range(rows - 1 if reverse else 0, -1 if reverse else rows, -1 if reverse else 1):
        if before:
            x_re, x_im = _put(x_re, r, h_re), _put(x_im, r, h_im)
        p_re, p_im = _pick(a_re, r), _pick(a_im, r)
        y_re, y_im = _times(p_re, p_im, h_re, h_im)
        h_re = y_re + _pick(b_re, r)
        h_im = y_im + _pick(b_im, r)
        if not before:
            x_re, x_im = _put(x_re, r, h_re), _put(x_im, r, h_im)
    return x_re, x_im


# ---------------------------------------------------------------- (+, x)


@triton.jit
def _linear_step(a, b, h):
    return a * h + b


@triton.jit
def _linear_factor(a, b, p):
    return a * p


@triton.jit
def _linear(a, b, c, d):
    return c * a, c * b + d


@triton.jit
def _linear_with_before(a, b, p, q, c, d, r, s):
    return c * a, c * b + d, r * a, r * b + s


@triton.jit
def linear_states(a, b, h):
    if _in_threads(a.shape):
        return _states(a, b, h, _linear_step, False)
    else:
        a, b = tl.associative_scan((a, b), 0, _linear)
        return a * h + b


@triton.jit
def linear_pass(a, b, h, p, reverse: tl.constexpr):
    """What the steps so far make of h, and their product with p."""
    if _in_threads(a.shape):
        return _states(a, b, h, _linear_step, reverse), _states(a, b, p, _linear_factor, reverse)
    else:
        a, b = tl.associative_scan((a, b), 0, _linear, reverse=reverse)
        return a * h + b, a * p


@triton.jit
def linear_before(a, b, h):
    if _in_threads(a.shape):
        return _before(a, b, h, _linear_step, False)
    else:
        one, zero = tl.full(a.shape, 1.0, a.dtype), tl.full(b.shape, 0.0, b.dtype)
        _, _, p, q = tl.associative_scan((a, b, one, zero), 0, _linear_with_before)
        return p * h + q


@triton.jit
def linear_after(a, b, g):
    """Backward through time: p_{t+1} of p_t = a_t p_{t+1} + b_t for each step; `g` is the one behind the last."""
    if _in_threads(a.shape):
        return _before(a, b, g, _linear_step, True)
    else:
        one, zero = tl.full(a.shape, 1.0, a.dtype), tl.full(b.shape, 0.0, b.dtype)
        _, _, p, q = tl.associative_scan((a, b, one, zero), 0, _linear_with_before, reverse=True)
        return p * g + q


# ---------------------------------------------------------------- complex numbers as pairs


@triton.jit
def _times(a, b, c, d):
    return a * c - b * d, a * d + b * c


@triton.jit
def _complex(a_re, a_im, b_re, b_im, c_re, c_im, d_re, d_im):
    x_re, x_im = _times(c_re, c_im, a_re, a_im)
    y_re, y_im = _times(c_re, c_im, b_re, b_im)
    return x_re, x_im, y_re + d_re, y_im + d_im


@triton.jit
def _complex_with_before(
    a_re, a_im, b_re, b_im, p_re, p_im, q_re, q_im, c_re, c_im, d_re, d_im, r_re, r_im, s_re, s_im
):
    x_re, x_im = _times(c_re, c_im, a_re, a_im)
    y_re, y_im = _times(c_re, c_im, b_re, b_im)
    u_re, u_im = _times(r_re, r_im, a_re, a_im)
    v_re, v_im = _times(r_re, r_im, b_re, b_im)
    return x_re, x_im, y_re + d_re, y_im + d_im, u_re, u_im, v_re + s_re, v_im + s_im


@triton.jit
def complex_states(a_re, a_im, b_re, b_im, h_re, h_im):
    if _in_threads(a_re.shape):
        return _complex_rows(a_re, a_im, b_re, b_im, h_re, h_im, False, False)
    else:
        a_re, a_im, b_re, b_im = tl.associative_scan((a_re, a_im, b_re, b_im), 0, _complex)
        x_re, x_im = _times(a_re, a_im, h_re, h_im)
        return x_re + b_re, x_im + b_im


@triton.jit
def complex_pass(a_re, a_im, b_re, b_im, h_re, h_im, p_re, p_im, reverse: tl.constexpr):
    """`linear_pass` of complex coefficients."""
    if _in_threads(a_re.shape):
        x_re, x_im = _complex_rows(a_re, a_im, b_re, b_im, h_re, h_im, False, reverse)
        zero = tl.full(a_re.shape, 0.0, a_re.dtype)
        y_re, y_im = _complex_rows(a_re, a_im, zero, zero, p_re, p_im, False, reverse)
        return x_re, x_im, y_re, y_im
    else:
        a_re, a_im, b_re, b_im = tl.associative_scan((a_re, a_im, b_re, b_im), 0, _complex, reverse=reverse)
        x_re, x_im = _times(a_re, a_im, h_re, h_im)
        y_re, y_im = _times(a_re, a_im, p_re, p_im)
        return x_re + b_re, x_im + b_im, y_re, y_im


@triton.jit
def complex_before(a_re, a_im, b_re, b_im, h_re, h_im):
    if _in_threads(a_re.shape):
        return _complex_rows(a_re, a_im, b_re, b_im, h_re, h_im, True, False)
    else:
        one, zero = tl.full(a_re.shape, 1.0, a_re.dtype), tl.full(a_re.shape, 0.0, a_re.dtype)
        _, _, _, _, p_re, p_im, q_re, q_im = tl.associative_scan(
            (a_re, a_im, b_re, b_im, one, zero, zero, zero), 0, _complex_with_before
        )
        x_re, x_im = _times(p_re, p_im, h_re, h_im)
        return x_re + q_re, x_im + q_im


@triton.jit
def complex_after(a_re, a_im, b_re, b_im, g_re, g_im):
    """`linear_after` of complex coefficients."""
    if _in_threads(a_re.shape):
        return _complex_rows(a_re, a_im, b_re, b_im, g_re, g_im, True, True)
    else:
        one, zero = tl.full(a_re.shape, 1.0, a_re.dtype), tl.full(a_re.shape, 0.0, a_re.dtype)
        _, _, _, _, p_re, p_im, q_re, q_im = tl.associative_scan(
            (a_re, a_im, b_re, b_im, one, zero, zero, zero), 0, _complex_with_before, reverse=True
        )
        x_re, x_im = _times(p_re, p_im, g_re, g_im)
        return x_re + q_re, x_im + q_im


# ---------------------------------------------------------------- (max, +), (min, +), (logaddexp, +)


@triton.jit
def _max_plus(a, b, c, d):
    return c + a, maximum(c + b, d)


@triton.jit
def _max_plus_with_before(a, b, p, q, c, d, r, s):
    return c + a, maximum(c + b, d), r + a, maximum(r + b, s)


@triton.jit
def max_plus_states(a, b, h):
    a, b = tl.associative_scan((a, b), 0, _max_plus)
    return maximum(a + h, b)


@triton.jit
def max_plus_pass(a, b, h, p, reverse: tl.constexpr):
    """What the steps so far make of h, and their product with p."""
    a, b = tl.associative_scan((a, b), 0, _max_plus, reverse=reverse)
    return maximum(a + h, b), a + p


@triton.jit
def max_plus_before(a, b, h):
    one, zero = tl.full(a.shape, 0.0, a.dtype), tl.full(a.shape, -float("inf"), a.dtype)
    _, _, p, q = tl.associative_scan((a, b, one, zero), 0, _max_plus_with_before)
    return maximum(p + h, q)


@triton.jit
def _min_plus(a, b, c, d):
    return c + a, minimum(c + b, d)


@triton.jit
def _min_plus_with_before(a, b, p, q, c, d, r, s):
    return c + a, minimum(c + b, d), r + a, minimum(r + b, s)


@triton.jit
def min_plus_states(a, b, h):
    a, b = tl.associative_scan((a, b), 0, _min_plus)
    return minimum(a + h, b)


@triton.jit
def min_plus_pass(a, b, h, p, reverse: tl.constexpr):
    """What the steps so far make of h, and their product with p."""
    a, b = tl.associative_scan((a, b), 0, _min_plus, reverse=reverse)
    return minimum(a + h, b), a + p


@triton.jit
def min_plus_before(a, b, h):
    one, zero = tl.full(a.shape, 0.0, a.dtype), tl.full(a.shape, float("inf"), a.dtype)
    _, _, p, q = tl.associative_scan((a, b, one, zero), 0, _min_plus_with_before)
    return minimum(p + h, q)


@triton.jit
def _log_plus(a, b, c, d):
    return c + a, log_add(c + b, d)


@triton.jit
def _log_plus_with_before(a, b, p, q, c, d, r, s):
    return c + a, log_add(c + b, d), r + a, log_add(r + b, s)


@triton.jit
def log_plus_states(a, b, h):
    a, b = tl.associative_scan((a, b), 0, _log_plus)
    return log_add(a + h, b)


@triton.jit
def log_plus_pass(a, b, h, p, reverse: tl.constexpr):
    """What the steps so far make of h, and their product with p."""
    a, b = tl.associative_scan((a, b), 0, _log_plus, reverse=reverse)
    return log_add(a + h, b), a + p


@triton.jit
def log_plus_before(a, b, h):
    one, zero = tl.full(a.shape, 0.0, a.dtype), tl.full(a.shape, -float("inf"), a.dtype)
    _, _, p, q = tl.associative_scan((a, b, one, zero), 0, _log_plus_with_before)
    return log_add(p + h, q)

"""States and gradients between the splits of a scan: one kernel, which walks over the splits.

By PyTorch it would be two or three launches a split: with one sequence of 2048 channels, in 33 splits, more time than
the scan itself takes.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# (a Triton function has tiles for arguments, which Python's types do not describe)

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from rnnc.runtime.gpu.compat import LAUNCH
from rnnc.runtime.gpu.math import log_add, maximum, minimum

__all__ = ["gradients_between", "states_between"]

BLOCK = 128  # entries of a program: programs are few, and each waits for memory
RINGS = ("plus_times", "max_plus", "min_plus", "log_plus")


@triton.jit(do_not_specialize=["SPLITS"])
def _between(
    start_ptr,
    total_ptr,
    factor_ptr,
    found_ptr,
    SPLITS,
    N,
    RING: tl.constexpr,
    PAIRS: tl.constexpr,
    REVERSE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What comes into each split of BLOCK entries: h -> factor (x) h (+) total, from `start` on."""
    program = tl.program_id(0).to(tl.int64)
    blocks = tl.cdiv(N, BLOCK)
    b = program // blocks
    n = program % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = n < N
    acc = total_ptr.dtype.element_ty
    step = 2 if PAIRS else 1
    h = tl.load(start_ptr + (b * N + n) * step, mask=inside, other=0.0).to(acc)
    if PAIRS:
        h_im = tl.load(start_ptr + (b * N + n) * step + 1, mask=inside, other=0.0).to(acc)
    for k in tl.range(0, SPLITS):
        split = SPLITS - 1 - k if REVERSE else k
        place = ((b * SPLITS + split) * N + n) * step
        tl.store(found_ptr + place, h, mask=inside)
        f = tl.load(factor_ptr + place, mask=inside, other=0.0)
        t = tl.load(total_ptr + place, mask=inside, other=0.0)
        if PAIRS:
            tl.store(found_ptr + place + 1, h_im, mask=inside)
            f_im = tl.load(factor_ptr + place + 1, mask=inside, other=0.0)
            t_im = tl.load(total_ptr + place + 1, mask=inside, other=0.0)
            h, h_im = f * h - f_im * h_im + t, f * h_im + f_im * h + t_im
        elif RING == "plus_times":
            h = f * h + t
        elif RING == "max_plus":
            h = maximum(f + h, t)
        elif RING == "min_plus":
            h = minimum(f + h, t)
        else:
            h = log_add(f + h, t)


def states_between(semiring: str, pairs: bool, start: Tensor, total: Tensor, factor: Tensor, found: Tensor) -> Tensor:
    """The state before each split, `[B, splits, ...]`, in `found`: h -> factor (x) h (+) total, from `start` [B, ...].

    With `pairs` the last axis holds real and imaginary parts.  Raises ValueError for a semiring there is not.
    """
    if semiring not in RINGS:
        raise ValueError(f"there is no semiring {semiring!r}")
    return _walked(semiring, pairs, False, start, total, factor, found)


def gradients_between(pairs: bool, last: Tensor, total: Tensor, factor: Tensor, found: Tensor) -> Tensor:
    """The gradient that comes into each split from behind, `[B, splits, ...]`, in `found`; `last` is that of the last
    state.
    """
    return _walked("plus_times", pairs, True, last, total, factor, found)


def _walked(
    semiring: str, pairs: bool, reverse: bool, start: Tensor, total: Tensor, factor: Tensor, found: Tensor
) -> Tensor:
    batch, splits = total.shape[:2]
    entries = total[0, 0].numel() // (2 if pairs else 1)
    grid = (batch * triton.cdiv(entries, BLOCK),)
    arguments = (start.contiguous(), total, factor, found, splits, entries)
    _between[grid](*arguments, RING=semiring, PAIRS=pairs, REVERSE=reverse, BLOCK=BLOCK, num_warps=4, **LAUNCH)
    return found

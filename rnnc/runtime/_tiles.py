"""Running a scan: in which order the steps are done, and in operations of which size.

A step is one operation on B D numbers, and an operation costs 1 to 3 us before it does anything.  Two levels do many
steps in one operation: every chunk of C steps is reduced to one (the product of its coefficients, and its state from
zero), the N = T / C chunks are scanned, and all run at once from their true initial states: 3 C + N operations instead
of T, and three times the arithmetic.  Where one step is large that does not pay, and one pass is made.

PyTorch divides an operation on more than `GRAIN` numbers among its threads and waits for the slowest.  With two threads
that gains at most 1.7 on idle cores, and costs a time slice of the scheduler (8 ms) per operation when another process
uses one of them: a scan of 130 operations became slower than the loop.  So with two threads long sequences are done in
windows whose operations stay below the grain; with more, the gain is worth it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rnnc.runtime._rings import RINGS, Ring
from rnnc.runtime.convolution import convolve_powers, is_bounded

__all__ = ["SMALL", "run_scan"]

GRAIN = 32768  # numbers of an operation up to which PyTorch keeps it on one thread (at::internal::GRAIN_SIZE)
FEW = 24  # steps up to which one pass is always faster
WIDE = 4096  # numbers of one step, for each thread, from which one pass is faster: measured, see docs/performance.md
WINDOW_CHUNK = 32  # steps of a chunk where windows are needed
UNLIMITED = 1 << 62
SMALL = 4  # rows of a matrix up to which it is multiplied entry by entry
POSITIONS = 8  # matrices in a step from which that is faster than their products


def run_scan(name: str, a: Tensor, b: Tensor, h0: Tensor, h: Tensor, *, reverse: bool) -> None:
    """Write all states `[B, T, *S]` into `h`; `reverse` runs from the last step to the first."""
    steps = h.shape[1]
    if name == "convolution":
        if steps and h.numel() and is_bounded(a[0, 0]):
            found = convolve_powers(a[0, 0], b.flip(1) if reverse else b, h0)
            h.copy_(found.flip(1) if reverse else found)
            return
        name = "plus_times"
    if name == "matrix" and a.shape[-1] <= SMALL and a.shape[2:-2].numel() >= POSITIONS and steps:
        p_b, p_h0 = _planar(b), _planar(h0.unsqueeze(1))[:, 0]
        planar = p_b.new_empty(p_b.shape)
        _run(RINGS["planar"], _planar(a), p_b, p_h0, planar, reverse=reverse)
        h.copy_(planar.unflatten(-1, h.shape[2:-2]).movedim((2, 3), (-2, -1)))
        return
    _run(RINGS[name], a, b, h0, h, reverse=reverse)


def _planar(x: Tensor) -> Tensor:
    """Matrices `[B, T, *P, n, m]` as `[B, T, n, m, P]`, the positions contiguous; a static one stays as it is."""
    static = x.stride(0) == 0 and x.stride(1) == 0
    own = x[:1, :1] if static else x
    return own.movedim((-2, -1), (2, 3)).flatten(4).contiguous().expand(*x.shape[:2], -1, -1, -1)


def _run(ring: Ring, a: Tensor, b: Tensor, h0: Tensor, h: Tensor, *, reverse: bool) -> None:
    steps = h.shape[1]
    chunk, window = _tiles(steps, h0)
    for start in range(0, steps, window):
        end = min(start + window, steps)
        first, last = (steps - end, steps - start) if reverse else (start, end)
        here = slice(first, last)
        _window(ring, a[:, here], b[:, here], h0, h[:, here], chunk, reverse=reverse)
        h0 = h[:, first if reverse else last - 1]


def _tiles(steps: int, h0: Tensor) -> tuple[int, int]:
    """Steps of a chunk (1: one pass) and of a window.  3 C + T / C operations are least at C = sqrt(T / 3)."""
    threads = torch.get_num_threads() if h0.device.type == "cpu" else 0
    if steps < FEW or (threads and h0.numel() >= WIDE * max(1, threads - 1)):
        return 1, max(1, steps)
    chunk = round(math.sqrt(steps / 3))
    most = GRAIN // max(1, h0.numel()) if threads == 2 else UNLIMITED  # chunks in one operation
    if steps <= chunk * most:
        return chunk, steps
    return WINDOW_CHUNK, WINDOW_CHUNK * most


def _window(ring: Ring, a: Tensor, b: Tensor, h0: Tensor, h: Tensor, chunk: int, *, reverse: bool) -> None:
    """The steps of one window: what does not fill a chunk first, then all chunks at once."""
    steps = h.shape[1]
    if chunk == 1 or steps < FEW:
        _sequential(ring, a, b, h0, h, reverse=reverse)
        return
    rest = steps % chunk
    first, main = (
        (slice(steps - rest, steps), slice(0, steps - rest)) if reverse else (slice(0, rest), slice(rest, steps))
    )
    if rest:
        _sequential(ring, a[:, first], b[:, first], h0, h[:, first], reverse=reverse)
        h0 = h[:, steps - rest if reverse else rest - 1]
    if rest == steps:
        return
    if not _two_level(ring, a[:, main], b[:, main], h0, h[:, main], chunk, reverse=reverse):
        _sequential(ring, a[:, main], b[:, main], h0, h[:, main], reverse=reverse)


def _ordered(parts: Sequence[Tensor], reverse: bool) -> Sequence[Tensor]:
    return parts[::-1] if reverse else parts


def _sequential(ring: Ring, a: Tensor, b: Tensor, h0: Tensor, h: Tensor, *, reverse: bool) -> None:
    """One step after another, each written in place."""
    previous = h0
    for a_t, b_t, h_t in zip(*(_ordered(x.unbind(1), reverse) for x in (a, b, h)), strict=True):
        ring.step(a_t, previous, b_t, h_t)
        previous = h_t


def _two_level(ring: Ring, a: Tensor, b: Tensor, h0: Tensor, h: Tensor, chunk: int, *, reverse: bool) -> bool:
    """Reduce every chunk to one step, scan the chunks, then run all chunks at once from their true initial states.

    Returns False, with `h` not yet written, when a chunk's product leaves the floating-point range: a state that is
    zero would meet an infinite coefficient.
    """
    a_steps, b_steps, h_steps = (_ordered(x.unflatten(1, (-1, chunk)).unbind(2), reverse) for x in (a, b, h))
    product, reduced = ring.start(a_steps[0], b_steps[0])
    for a_t, b_t in zip(a_steps[1:], b_steps[1:], strict=True):
        ring.step(a_t, reduced, b_t, reduced)
        product = ring.times(a_t, product)
    if ring.checks_overflow and not bool(torch.isfinite(product).all() & torch.isfinite(reduced).all()):
        return False
    entry = torch.empty_like(reduced)  # the state before each chunk, [B, N, *S]
    entries = _ordered(entry.unbind(1), reverse)
    entries[0].copy_(h0)
    chunks = (_ordered(x.unbind(1), reverse)[:-1] for x in (product, reduced))
    across = RINGS[ring.between] if ring.between else ring
    for a_n, b_n, before, after in zip(*chunks, entries, entries[1:], strict=False):
        across.step(a_n, before, b_n, after)
    previous = entry
    for a_t, b_t, h_t in zip(a_steps, b_steps, h_steps, strict=True):
        ring.step(a_t, previous, b_t, h_t)
        previous = h_t
    return True

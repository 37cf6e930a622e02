"""Delta rules and their kin on GPUs: how the steps of `matrix_scan` become rows of `rnnc::low_rank_scan`.

Served: steps that read the state they update (rank-one terms, with or without a write), scalar log decays, one read, a
state [K, V] with K at most 256, in 16-bit types: float32 products have no tensor cores, and blocks of 64 rows no
registers.  `rnnc.runtime.gpu.low_rank_inverse` says what is computed, and how.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rnnc.runtime.chunk import MicroStep, Read, Update, updates_of
from rnnc.runtime.gpu.compat import interpreted
from rnnc.runtime.gpu.low_rank_operator import low_rank_scan
from rnnc.runtime.layout import common_dtype, sequence_length, spread

__all__ = ["scan", "served"]

INTERPRETED = interpreted()  # decided when Triton is imported; traced code cannot ask
LARGEST_KEY = 256
LARGEST_RANK = 16  # rows that read the same state: blocks of 16 rows must not part them
LEAST_DECAY = -100.0  # exp(-100) is zero in float32; a running sum of it stays finite, of -inf it would not


# ---------------------------------------------------------------- from steps to rows


def served(state: Tensor, steps: Sequence[MicroStep], reads: Sequence[Read], vector: bool) -> bool:
    """Whether the kernels here run these steps."""
    if vector or len(reads) != 1 or state.ndim < 3 or state.is_complex() or state.shape[-2] > LARGEST_KEY:
        return False
    if not any(x.b is not None for step in steps for x in updates_of(step)):
        return False
    if any(len(updates_of(step)) > LARGEST_RANK for step in steps):
        return False
    rank = state.ndim - 3
    for step in steps:
        if step.decay is not None or not (step.log_decay is None or is_scalar(step.log_decay, rank)):
            return False
    low = common_dtype(state, reads[0].key, *(x.u for step in steps for x in updates_of(step))).itemsize == 2
    return INTERPRETED or (state.is_cuda and low)


def is_scalar(x: Tensor, rank: int) -> bool:
    """A decay of shape [*P] or [B, T, *P], perhaps with a last axis of size 1."""
    return x.ndim in (0, rank, rank + 2) or x.shape[-1] == 1


def scan(
    state: Tensor,
    steps: Sequence[MicroStep],
    reads: Sequence[Read],
    *,
    length: int | None = None,
    bounds: Tensor | None = None,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """As `rnnc.runtime.matrix_scan`, for steps that are `served`.

    With `bounds` (int64 [S + 1]) S sequences are packed: coefficients are `[1, L, ...]`, `state` has S entries.
    """
    (read,) = reads
    per = tuple(state.shape[1:-2])
    rows, shared = _rows(steps)
    frame = _frame(state, steps, read, rows, length, 1 if bounds is not None else state.shape[0])
    tied = all(row.b is None or row.b is row.u for row in rows)
    u = frame.vectors([row.u for row in rows], frame.keys)
    b = u if tied else frame.vectors([row.b for row in rows], frame.keys)
    v = frame.vectors([row.v for row in rows], frame.values)
    s = frame.scalars([1.0 if row.s is None else row.s for row in rows])
    c = frame.scalars([0.0 if row.b is None else 1.0 if row.c is None else row.c for row in rows])
    g = frame.decays(steps)
    q = frame.sequence(read.key.to(frame.dtype), frame.keys)
    start = state.reshape(state.shape[0], *frame.heads, frame.keys, frame.values)
    o, last, _ = low_rank_scan(q, u, None if tied else b, v, s, c, g, start, bounds, shared, read.when == "old")
    shape = (frame.batch, frame.length, *per, frame.values)
    return (o.reshape(shape),), last.reshape(state.shape).to(frame.dtype)


def _rows(steps: Sequence[MicroStep]) -> tuple[list[Update], int]:
    """The rows of a time step, and how many of them read the same state.

    A row that reads nothing may come after one that does: it is not seen by it.  So only the reading rows of a
    micro-step count, and every micro-step gets as many rows, a power of two, by rows that do nothing.
    """
    every = [updates_of(step) for step in steps]
    most = max(len(x) for x in every)
    reading = max(sum(row.b is not None for row in x) for x in every)
    shared = 1 if reading <= 1 else 1 << (most - 1).bit_length()
    width = most if shared == 1 else shared
    nothing = Update(u=every[0][0].u.new_zeros(()))  # on the device: a copy from the host has no place in a CUDA graph
    return [row for x in every for row in (*x, *[nothing] * (width - len(x)))], shared


class _Frame(NamedTuple):
    """Sizes and dtypes of one problem; two axes of heads, the second of those that may share keys."""

    batch: int
    length: int
    per: tuple[int, ...]
    heads: tuple[int, int]
    keys: int
    values: int
    rows: int
    dtype: torch.dtype
    device: torch.device

    def sequence(self, x: Tensor, *core: int) -> Tensor:
        """[B, T, heads, groups, ...] by views, but for more than two axes of heads that are no view."""
        return spread(x, self.batch, self.length, (*self.per, *core)).reshape(
            self.batch, self.length, *self.heads, *core
        )

    def vectors(self, xs: Sequence[Tensor | None], size: int) -> Tensor:
        """[B, T, rows, heads, groups, size] in one dtype; None is zero."""
        found = []
        for x in xs:
            x = torch.zeros((), device=self.device) if x is None else x
            found.append(self.sequence(x.to(device=self.device, dtype=self.dtype), size))
        return found[0].unsqueeze(2) if len(found) == 1 else torch.stack(found, 2)

    def scalars(self, xs: Sequence[Tensor | float]) -> Tensor:
        """[B, T, rows, heads, groups]."""
        found = []
        for x in xs:
            whole = x if isinstance(x, Tensor) else torch.full((), x, device=self.device)
            found.append(self.sequence(whole))
        return found[0].unsqueeze(2) if len(found) == 1 else torch.stack(found, 2)

    def decays(self, steps: Sequence[MicroStep]) -> Tensor | None:
        """Log decays, every row of a micro-step that reads the state given its own; None where there is no decay."""
        if all(step.log_decay is None for step in steps):
            return None
        width = self.rows // len(steps)
        _, shared = _rows(steps)
        found: list[Tensor | float] = []
        for step in steps:
            g = step.log_decay
            own = 0.0 if g is None else (g if g.ndim in (0, len(self.per), len(self.per) + 2) else g.squeeze(-1))
            rest = [own if shared > 1 else 0.0] * (width - 1)
            found += [own, *rest]
        return self.scalars(found).clamp(min=LEAST_DECAY)


def _frame(
    state: Tensor, steps: Sequence[MicroStep], read: Read, rows: Sequence[Update], length: int | None, batch: int
) -> _Frame:
    core = state.shape[1:]
    per = tuple(core[:-2])
    rank = len(per)
    vectors = [read.key, *(x for row in rows for x in (row.u, row.b, row.v) if x is not None)]
    scalars = [x for row in rows for x in (row.s, row.c) if isinstance(x, Tensor)]
    gates = [step.log_decay for step in steps if step.log_decay is not None]
    flat = [x if x.ndim in (0, rank, rank + 2) else x.squeeze(-1) for x in gates]
    sequences = [x for x in vectors if x.ndim == rank + 3]
    length = sequence_length(rank + 1, sequences, length) if sequences else length
    if length is None or length == 1:
        length = sequence_length(rank, [*scalars, *flat], length)
    heads = (1, 1) if rank == 0 else (per[0], 1) if rank == 1 else (math.prod(per[:-1]), per[-1])
    dtype = common_dtype(state, *vectors, *scalars, *gates)
    return _Frame(batch, length, per, heads, core[-2], core[-1], len(rows), dtype, state.device)

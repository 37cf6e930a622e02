"""Delta rules and their kin on GPUs: how the steps of `matrix_scan` become rows of `rnnc::low_rank_scan`.

Served: steps that read the state they update (rank-one terms, with or without a write), log decays of all keys alike
or of each, any reads of vectors, a state [K, V] with K at most 256 (128 in float32).
`rnnc.runtime.gpu.low_rank_inverse` says what is computed, and how.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rnnc.runtime.chunk import MicroStep, Read, Update, updates_of
from rnnc.runtime.gpu.compat import interpreted
from rnnc.runtime.gpu.low_rank_operator import call_low_rank_scan
from rnnc.runtime.gpu.low_rank_sizes import base_rows, chunk_of
from rnnc.runtime.gpu.padding import multiple, padded, sequence, unpadded
from rnnc.runtime.layout import common_dtype, product_dtype, sequence_length, spread

__all__ = ["scan", "served"]

INTERPRETED = interpreted()  # decided when Triton is imported; traced code cannot ask
LARGEST_KEY = {4: 128}  # by the bytes of a number, else 256: what the registers of one program hold
LARGEST_RANK = 16  # rows that read the same state: blocks of 16 rows must not part them


# ---------------------------------------------------------------- from steps to rows


def served(state: Tensor, steps: Sequence[MicroStep], reads: Sequence[Read], vector: bool) -> bool:
    """Whether the kernels here run these steps."""
    if vector or not reads or state.ndim < 3 or state.is_complex():
        return False
    if not any(x.b is not None for step in steps for x in updates_of(step)):
        return False
    dtype, _ = _dtypes(state, steps, reads)
    if any(len(updates_of(step)) > min(LARGEST_RANK, chunk_of(dtype) // 2) for step in steps):
        return False
    if any(step.decay is not None for step in steps):
        return False
    if state.shape[-2] > LARGEST_KEY.get(dtype.itemsize, 256):
        return False
    return INTERPRETED or (state.is_cuda and dtype.itemsize <= 4)


def _dtypes(state: Tensor, steps: Sequence[MicroStep], reads: Sequence[Read]) -> tuple[torch.dtype, torch.dtype]:
    """Of the products, and of what is returned: what all arguments together promote to."""
    rows = [row for step in steps for row in updates_of(step)]
    numbers = [x for row in rows for x in (row.c, row.s) if isinstance(x, Tensor)]
    vectors = [read.key for read in reads] + [x for row in rows for x in (row.u, row.v, row.b) if x is not None]
    promoted = common_dtype(state, *vectors, *numbers, *(step.log_decay for step in steps))
    return product_dtype(promoted, *vectors), promoted


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
    least: float | None = None,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """As `rnnc.runtime.matrix_scan`, for steps that are `served`; `least` is a proven lower bound of every log decay.

    With `bounds` (int64 [S + 1]) S sequences are packed: coefficients are `[1, L, ...]`, `state` has S entries.  Every
    read is a scan of its own: the last state is the first one's.
    """
    per = tuple(state.shape[1:-2])
    rows, shared = _rows(steps)
    frame = _frame(state, steps, reads, rows, length, 1 if bounds is not None else state.shape[0])
    tied = all(row.b is None or row.b is row.u for row in rows)
    u = frame.vectors([row.u for row in rows], frame.keys)
    b = u if tied else frame.vectors([row.b for row in rows], frame.keys)
    v = frame.vectors([row.v for row in rows], frame.values)
    s = frame.numbers([1.0 if row.s is None else row.s for row in rows])
    c = frame.numbers([0.0 if row.b is None else 1.0 if row.c is None else row.c for row in rows])
    g = frame.decays(steps)
    start = state.to(frame.promoted).reshape(state.shape[0], *frame.heads, frame.keys, frame.values)
    start = padded(start, frame.keys, frame.values)
    base = base_rows(least, frame.dtype) if g is not None and g.ndim == 6 else 1
    found = []
    for read in reads:
        q = frame.sequence(read.key.to(frame.dtype), frame.keys)
        given = (q, u, None if tied else b, v, s, c, g, start, bounds, shared, read.when == "old", base)
        found.append(call_low_rank_scan(*given))
    shape = (frame.batch, frame.length, *per, frame.values)
    last, promoted = unpadded(found[0][1], frame.keys, frame.values), frame.promoted
    outputs = [unpadded(o, frame.values).to(promoted).reshape(shape) for o, _, _ in found]
    return tuple(outputs), last.reshape(state.shape).to(promoted)


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
    """Sizes and dtypes of one problem; two axes of heads, the second of those that may share keys.

    Keys and values are as given; arrays have them up to a multiple of 16.
    """

    batch: int
    length: int
    per: tuple[int, ...]
    heads: tuple[int, int]
    keys: int
    values: int
    rows: int
    dtype: torch.dtype  # of products
    promoted: torch.dtype  # of what is returned
    device: torch.device

    def sequence(self, x: Tensor, size: int) -> Tensor:
        """[B, T, heads, groups, ...] by views, but for sizes to be padded and more than two axes of heads."""
        whole = sequence(x, self.batch, self.length, self.per, size)
        return whole.reshape(self.batch, self.length, *self.heads, multiple(size))

    def vectors(self, xs: Sequence[Tensor | None], size: int) -> Tensor:
        """[B, T, rows, heads, groups, size] in one dtype; None is zero."""
        found = []
        for x in xs:
            x = torch.zeros((), device=self.device) if x is None else x
            found.append(self.sequence(x.to(device=self.device, dtype=self.dtype), size))
        return found[0].unsqueeze(2) if len(found) == 1 else torch.stack(found, 2)

    def numbers(self, xs: Sequence[Tensor | float], size: int | None = None) -> Tensor:
        """[B, T, len(xs), heads, groups] in their own dtypes; with a size one axis more."""
        found = []
        for x in xs:
            exact = torch.float64 if self.dtype == torch.float64 else torch.float32
            whole = x if isinstance(x, Tensor) else torch.full((), x, dtype=exact, device=self.device)
            if size is None:
                own = spread(whole, self.batch, self.length, self.per)
                found.append(own.reshape(self.batch, self.length, *self.heads))
            else:
                found.append(self.sequence(whole, size))
        return found[0].unsqueeze(2) if len(found) == 1 else torch.stack(found, 2)

    def decays(self, steps: Sequence[MicroStep]) -> Tensor | None:
        """Log decays, every row of a micro-step that reads the state given its own; None where there is no decay.

        Those of each key as they are, and of the first micro-step alone where no other has any.
        """
        gates = [step.log_decay for step in steps]
        if all(g is None for g in gates):
            return None
        rank, width, (_, shared) = len(self.per), self.rows // len(steps), _rows(steps)
        keyed = any(g is not None and not is_scalar(g, rank) for g in gates)
        if keyed and shared == 1 and all(g is None for g in gates[1:]):
            gates, width = gates[:1], 1
        found: list[Tensor | float] = []
        for g in gates:
            own = 0.0 if g is None else self._gate(g, keyed)
            found += [own, *[own if shared > 1 else 0.0] * (width - 1)]
        return self.numbers(found, self.keys if keyed else None)

    def _gate(self, g: Tensor, keyed: bool) -> Tensor:
        """A log decay with an axis of keys, or without."""
        if g.ndim in (0, len(self.per), len(self.per) + 2):
            return g.unsqueeze(-1) if keyed else g
        return g if keyed else g.squeeze(-1)


def _frame(
    state: Tensor,
    steps: Sequence[MicroStep],
    reads: Sequence[Read],
    rows: Sequence[Update],
    length: int | None,
    batch: int,
) -> _Frame:
    core = state.shape[1:]
    per = tuple(core[:-2])
    rank = len(per)
    vectors = [*(read.key for read in reads), *(x for row in rows for x in (row.u, row.b, row.v) if x is not None)]
    scalars = [x for row in rows for x in (row.s, row.c) if isinstance(x, Tensor)]
    gates = [step.log_decay for step in steps if step.log_decay is not None]
    flat = [x if x.ndim in (0, rank, rank + 2) else x[..., 0] for x in gates]
    sequences = [x for x in vectors if x.ndim == rank + 3]
    length = sequence_length(rank + 1, sequences, length) if sequences else length
    if length is None or length == 1:
        length = sequence_length(rank, [*scalars, *flat], length)
    heads = (1, 1) if rank == 0 else (per[0], 1) if rank == 1 else (math.prod(per[:-1]), per[-1])
    dtypes = _dtypes(state, steps, reads)
    return _Frame(batch, length, per, heads, core[-2], core[-1], len(rows), *dtypes, state.device)

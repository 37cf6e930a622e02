"""`matrix_scan` of one micro-step without low rank: a decay by its logarithm, any writes, any reads.

The state is linear in its writes and its rows do not mix, so several writes are several scans whose outputs add up, and
keys or values beyond what a program holds are scans of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from rnnc.runtime.chunk import MicroStep, Read
from rnnc.runtime.gpu.compat import interpreted
from rnnc.runtime.gpu.gated import Axis
from rnnc.runtime.gpu.gated_operator import call_gated_scan
from rnnc.runtime.gpu.gated_sizes import base_of, largest
from rnnc.runtime.gpu.padding import multiple, padded, sequence, unpadded
from rnnc.runtime.layout import common_dtype, product_dtype, sequence_length, spread

__all__ = ["scan", "served"]

INTERPRETED = interpreted()  # decided when Triton is imported; traced code cannot ask


def served(state: Tensor, steps: Sequence[MicroStep], reads: Sequence[Read], vector: bool) -> bool:
    """Whether `scan` runs it: a matrix state on a GPU, one micro-step of plain writes, a decay as a logarithm (or
    none).
    """
    if vector or len(steps) != 1 or not reads or state.ndim < 3 or state.is_complex():
        return False
    (step,) = steps
    plain = step.decay is None and not step.low_rank and not step.updates
    if not plain or not step.writes or any(v is None for _, v in step.writes):
        return False
    return state.is_cuda or INTERPRETED


def scan(
    state: Tensor,
    steps: Sequence[MicroStep],
    reads: Sequence[Read],
    *,
    length: int | None = None,
    least: float | None = None,
    across: bool = False,
    bounds: Tensor | None = None,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """See `rnnc.runtime.matrix_scan`.  `least` is a proven lower bound of every log decay.

    `across`: the reads are S key, [B, T, *P, K] for a key [V]: along the other axis of the state than the decay's.
    With `bounds` (int64 [S + 1]) S sequences are packed: coefficients are `[1, L, ...]`, `state` has S entries.
    """
    (step,) = steps
    entries, *per, keys, values = state.shape
    batch = entries if bounds is None else 1
    rank = len(per)
    vectors = [x for pair in step.writes for x in pair if x is not None] + [r.key for r in reads]
    g = state.new_zeros(()) if step.log_decay is None else step.log_decay
    single = g.ndim in (0, rank, rank + 2) or g.shape[-1] == 1
    g = g.unsqueeze(-1) if g.ndim in (0, rank, rank + 2) else g
    length = sequence_length(rank + 1, [*vectors, g], length)
    promoted = common_dtype(state, *vectors, step.log_decay)
    dtype = product_dtype(promoted, *vectors)
    heads = math.prod(per)

    def rows(x: Tensor, core: int, kind: torch.dtype = dtype) -> Tensor:
        """[B, T, heads, core] in one dtype, core a multiple of 16."""
        return sequence(x.to(kind), batch, length, tuple(per), core).reshape(batch, length, heads, multiple(core))

    wide = torch.promote_types(g.dtype, dtype)
    gate = _numbers(g.to(wide), batch, length, per) if single else rows(g, keys, wide)
    writes = [(rows(u, keys), rows(v, values)) for u, v in step.writes if v is not None]
    if across:
        writes = [(v, u) for u, v in writes]
    axis: Axis = "none" if single else "values" if across else "keys"
    start = padded(state.to(promoted).reshape(entries, heads, keys, values), keys, values)
    start = start.mT if across else start
    base = 1 if single else base_of(least, dtype)
    size = keys if across else values
    outputs: list[Tensor] = []
    final = start
    for j, read in enumerate(reads):
        q = rows(read.key, values if across else keys)
        found = [
            _blocks(q, k, v, gate, start if i == 0 else torch.zeros_like(start), read.when == "old", axis, base, bounds)
            for i, (k, v) in enumerate(writes)
        ]
        output = unpadded(_added([o for o, _ in found]), size).reshape(batch, length, *per, size)
        outputs.append(output.to(promoted))
        final = _added([last for _, last in found]) if j == 0 else final
    final = unpadded(final.mT if across else final, keys, values)
    return tuple(outputs), final.reshape(state.shape).to(promoted)


def normalised(
    state: Tensor,
    normaliser: Tensor,
    steps: Sequence[MicroStep],
    reads: Sequence[Read],
    value: Tensor | None,
    *,
    length: int | None = None,
    bounds: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A scan with its normaliser: the read of both, [B, T, *P, V] and [B, T, *P], and their last values.

    Requires: `one_pass` serves them.  `value`: see `rnnc.runtime.gpu.matrix.normalised_scan`.
    """
    (step,), (read,) = steps, reads
    entries, *per, keys, values = state.shape
    (u, v) = step.writes[0]
    assert v is not None
    g = state.new_zeros(()) if step.log_decay is None else step.log_decay
    g = g if g.ndim in (len(per) + 3,) else g.unsqueeze(-1)
    vectors = [u, v, read.key]
    length = sequence_length(len(per) + 1, [*vectors, g], length)
    promoted = common_dtype(state, normaliser, *vectors, step.log_decay, value)
    dtype = product_dtype(promoted, *vectors)
    batch, heads = entries if bounds is None else 1, math.prod(per)

    def rows(x: Tensor, core: int) -> Tensor:
        whole = sequence(x.to(dtype), batch, length, tuple(per), core)
        return whole.reshape(batch, length, heads, multiple(core))

    one = state.new_ones(1) if value is None else value.unsqueeze(-1)
    gate = _numbers(g.to(torch.promote_types(g.dtype, dtype)), batch, length, per)
    number = _numbers(one.to(dtype), batch, length, per).squeeze(-1)
    old = read.when == "old"
    q, k, v = rows(read.key, keys), rows(u, keys), rows(v, values)
    start = padded(state.to(promoted).reshape(entries, heads, keys, values), keys, values)
    column, most = normaliser.to(promoted).reshape(entries, heads, keys), largest(dtype, normaliser=True)
    column = padded(column, keys).unsqueeze(-1)
    whole = torch.cat([start[..., :most], column], -1)  # the column goes with the first block of values
    o, last, _, dots = call_gated_scan(q, k, v[..., :most], gate, whole, old, "none", 1, bounds, number)
    final, norm = last[..., :-1], last[..., -1]
    if v.shape[-1] > most:
        rest, end = _blocks(q, k, v[..., most:], gate, start[..., most:], old, "none", 1, bounds)
        o, final = torch.cat([o, rest], -1), torch.cat([final, end], -1)
    o, final, norm = unpadded(o, values), unpadded(final, keys, values), unpadded(norm, keys)
    outputs = o.to(promoted).reshape(batch, length, *per, values), dots.to(promoted).reshape(batch, length, *per)
    return *outputs, final.reshape(state.shape).to(promoted), norm.reshape(normaliser.shape).to(promoted)


def one_pass(state: Tensor, steps: Sequence[MicroStep], reads: Sequence[Read]) -> bool:
    """Whether `normalised` runs a state: as `served`, with one decay a step, one write, one read, and all keys in one
    block.
    """
    if not served(state, steps, reads, False) or len(reads) != 1 or len(steps[0].writes) != 1:
        return False
    ((u, v),), g, rank = steps[0].writes, steps[0].log_decay, state.ndim - 3
    assert v is not None
    single = g is None or g.ndim in (0, rank, rank + 2) or g.shape[-1] == 1
    promoted = common_dtype(state, u, v, reads[0].key, g)
    return single and state.shape[-2] <= largest(product_dtype(promoted, u, v, reads[0].key))


def _numbers(x: Tensor, batch: int, length: int, per: Sequence[int]) -> Tensor:
    """[B, T, heads, 1], by views where they can be."""
    return spread(x, batch, length, (*per, 1)).reshape(batch, length, math.prod(per), 1)


def _added(xs: Sequence[Tensor]) -> Tensor:
    total = xs[0]
    for x in xs[1:]:
        total = total + x
    return total


def _blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    start: Tensor,
    old: bool,
    axis: Axis,
    base: int,
    bounds: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Blocks of keys and of values one after another: outputs of blocks of keys add up."""
    rows = []
    outputs = []
    most = largest(q.dtype)
    for a in _ranges(k.shape[-1], most):
        columns = []
        for b in _ranges(v.shape[-1], most):
            gate = g[..., a] if axis == "keys" else g[..., b] if axis == "values" else g
            o, last, *_ = call_gated_scan(
                q[..., a], k[..., a], v[..., b], gate, start[:, :, a, b], old, axis, base, bounds
            )
            columns.append((o, last))
        outputs.append(columns[0][0] if len(columns) == 1 else torch.cat([o for o, _ in columns], -1))
        rows.append(columns[0][1] if len(columns) == 1 else torch.cat([last for _, last in columns], -1))
    return _added(outputs), rows[0] if len(rows) == 1 else torch.cat(rows, -2)


def _ranges(size: int, most: int) -> Iterator[slice]:
    for first in range(0, size, most):
        yield slice(first, min(first + most, size))

"""Cumulative decays inside a chunk, for the chunkwise form: none, by logarithms, or by values of any sign.

A chunk has C time steps of M micro-steps each; micro-step (t, j) has the index t M + j.  With d_i the decay of
micro-step i, a column (a write at micro-step s) is seen by a row (a read) at micro-step t with the weight

    prod of d_i for s < i < t  where s < t     (strict rows: they read the state before micro-step t)
    prod of d_i for s < i <= t where s <= t    (inclusive rows: they read the state after it)

and with zero otherwise.  `gram` computes sum_k x_row,k weight_k y_col,k for all rows and columns.

A scalar decay multiplies the plain product x yT by a C x C matrix of weights.  A vector decay has no single
factorisation that is safe: exp(g_t) and exp(-g_s) over- and underflow.  So the chunk is halved again and again: between
the two halves of a block the weight factors at their boundary into (decay from the boundary to the row) x (decay from
the column to the boundary), each a product of decays and never an inverse; only the smallest blocks are done pair by
pair.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

# exp of this is zero in float64 too; sums of 64 such terms keep 1e-11 of absolute precision in float64
LOG_ZERO = -750.0


class Rows(NamedTuple):
    """Vectors x [N, G, C, n, K] of n rows in each time step, row i standing at micro-step `micro[i]`.

    A named tuple, as everything that is made inside a traced function: `torch.compile` has always followed those.
    """

    x: Tensor
    micro: tuple[int, ...]
    inclusive: bool = False


class Decay(Protocol):
    """Weights of one chunk layout; Kd is 1 (one decay for all of K) or K.  `None` results mean one."""

    def from_start(self, rows: Rows) -> Tensor | None:
        """Decay from the chunk's start to each row, [N, G, C, n, Kd]."""

    def to_end(self, columns: Rows) -> Tensor | None:
        """Decay from after each column to the chunk's end, [N, G, C, n, Kd]."""

    def total(self) -> Tensor | None:
        """Decay of the whole chunk, [N, G, Kd]."""

    def gram(self, rows: Rows, columns: Rows) -> Tensor:
        """Weighted products [N, G, C * rows, C * columns], in time-major order."""


def micro_indices(rows: Rows, steps: int, micro_steps: int) -> Tensor:
    """The micro-step t M + j of every row, in time-major order."""
    time = torch.arange(steps, device=rows.x.device).unsqueeze(-1) * micro_steps
    return (time + torch.tensor(rows.micro, device=rows.x.device)).flatten()


def visible(rows: Rows, columns: Rows, steps: int, micro_steps: int) -> Tensor:
    """Which columns a row sees: bool [C * rows, C * columns]."""
    row, column = (micro_indices(r, steps, micro_steps) for r in (rows, columns))
    return row.unsqueeze(-1) >= column if rows.inclusive else row.unsqueeze(-1) > column


def plain_gram(rows: Rows, columns: Rows) -> Tensor:
    return rows.x.flatten(2, 3) @ columns.x.flatten(2, 3).mT


def scaled(x: Tensor, weight: Tensor | None) -> Tensor:
    return x if weight is None else x * weight


class NoDecay(NamedTuple):
    """Every decay is one."""

    steps: int
    micro_steps: int

    def from_start(self, rows: Rows) -> Tensor | None:
        return None

    def to_end(self, columns: Rows) -> Tensor | None:
        return None

    def total(self) -> Tensor | None:
        return None

    def gram(self, rows: Rows, columns: Rows) -> Tensor:
        mask = visible(rows, columns, self.steps, self.micro_steps)
        return torch.where(mask, plain_gram(rows, columns), 0.0)


def _pick(g: Tensor, micro: tuple[int, ...], steps: int, micro_steps: int) -> Tensor:
    """Entries of g [N, G, C * M, Kd] at the rows' micro-steps: [N, G, C, n (or 1 where M = 1), Kd]."""
    g = g.unflatten(2, (steps, micro_steps))
    if micro == tuple(range(micro_steps)) or micro_steps == 1:
        return g
    return g[:, :, :, list(micro)]


def _blocks(x: Tensor, steps: int, size: int) -> Tensor:
    """[N, G, C, n, K] -> [N, G, C / size, size, n, K]."""
    return x.unflatten(2, (steps // size, size))


def _widen(x: Tensor, n: int) -> Tensor:
    """Repeat a row axis of size 1 (axis -2) to n, so that axes can be flattened."""
    return x.expand(*x.shape[:-2], n, x.shape[-1])


def _merge(diagonal: Tensor, cross: Tensor) -> Tensor:
    """Block-diagonal [.., 2m, r, c] and the blocks below each pair's diagonal [.., m, r, c] -> [.., m, 2r, 2c]."""
    even, odd = diagonal.unflatten(2, (cross.shape[2], 2)).unbind(3)
    upper = torch.cat((even, torch.zeros_like(cross)), -1)
    return torch.cat((upper, torch.cat((cross, odd), -1)), -2)


class LogDecay:
    """Decays given by logarithms `log_decay` [N, G, C * M, Kd], accumulated in float64; weights in `dtype`."""

    def __init__(self, log_decay: Tensor, *, steps: int, micro_steps: int, dtype: torch.dtype, base: int) -> None:
        wide = torch.complex128 if log_decay.is_complex() else torch.float64
        g = log_decay.to(wide) if log_decay.is_complex() else log_decay.to(wide).clamp(min=LOG_ZERO)
        self.after = g.cumsum(2)
        self.before = self.after - g
        self.steps = steps
        self.micro_steps = micro_steps
        self.dtype = dtype
        self.base = base
        self._tables: tuple[Tensor, Tensor] | None = None

    def _exp(self, x: Tensor) -> Tensor:
        return x.to(self.dtype).exp()

    def _row_gate(self, rows: Rows) -> Tensor:
        return _pick(self.after if rows.inclusive else self.before, rows.micro, self.steps, self.micro_steps)

    def _column_gate(self, columns: Rows) -> Tensor:
        return _pick(self.after, columns.micro, self.steps, self.micro_steps)

    def from_start(self, rows: Rows) -> Tensor:
        return self._exp(self._row_gate(rows))

    def to_end(self, columns: Rows) -> Tensor:
        return self._exp(self.after[:, :, -1:, None] - self._column_gate(columns))

    def total(self) -> Tensor:
        return self._exp(self.after[:, :, -1])

    def gram(self, rows: Rows, columns: Rows) -> Tensor:
        if self.after.shape[-1] == 1:
            return plain_gram(rows, columns) * self._scalar_weights(rows, columns)
        base = min(self.base, self.steps)
        row_gate, column_gate = self._row_gate(rows), self._column_gate(columns)
        result = self._pairwise(rows, columns, base, row_gate, column_gate)
        size, starts = base, self.before.unflatten(2, (self.steps, self.micro_steps))[:, :, :, 0]
        while size < self.steps:
            # pairs of blocks: rows of the second, columns of the first, both measured from the boundary between them
            at = _blocks(starts, self.steps, 2 * size)[:, :, :, size, None, None]
            x, y = (
                _blocks(rows.x, self.steps, 2 * size)[:, :, :, size:],
                _blocks(columns.x, self.steps, 2 * size)[:, :, :, :size],
            )
            x = x * self._exp(_blocks(row_gate, self.steps, 2 * size)[:, :, :, size:] - at)
            y = y * self._exp(at - _blocks(column_gate, self.steps, 2 * size)[:, :, :, :size])
            result = _merge(result, x.flatten(3, 4) @ y.flatten(3, 4).mT)
            size *= 2
        return result.squeeze(2)

    def _scalar_weights(self, rows: Rows, columns: Rows) -> Tensor:
        """The weights [N, G, C * rows, C * columns]: one table, rows and columns picked by their micro-steps."""
        if self._tables is None:
            self._tables = segment_weights(self.after.squeeze(-1), self.dtype)
        table = self._tables[int(rows.inclusive)]
        if self.micro_steps == 1 and len(rows.micro) == len(columns.micro) == 1:
            return table
        row, column = (micro_indices(r, self.steps, self.micro_steps) for r in (rows, columns))
        return table[:, :, row][..., column]

    def _pairwise(self, rows: Rows, columns: Rows, size: int, row_gate: Tensor, column_gate: Tensor) -> Tensor:
        """Diagonal blocks of `size` steps, pair by pair: [N, G, C / size, size * rows, size * columns]."""
        mask = visible(rows, columns, size, self.micro_steps)
        x, y = (_blocks(r.x, self.steps, size).flatten(3, 4) for r in (rows, columns))
        row = _blocks(_widen(row_gate, len(rows.micro)), self.steps, size).flatten(3, 4)
        column = _blocks(_widen(column_gate, len(columns.micro)), self.steps, size).flatten(3, 4)
        weight = _masked_exp((row.unsqueeze(4) - column.unsqueeze(3)).to(self.dtype), mask.unsqueeze(-1))
        return (x.unsqueeze(4) * y.unsqueeze(3) * weight).sum(-1)


def _masked_exp(x: Tensor, mask: Tensor) -> Tensor:
    """exp where visible, else zero; the hidden entries may be large, so they are masked before the exponential."""
    return torch.where(mask, x, -math.inf).exp()


def segment_weights(after: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What a reader before and what a reader after micro-step i sees of a write at j, both [.., n, n].

    exp(after_{i-1} - after_j) for j < i, and exp(after_i - after_j) for j <= i, else zero: the same table a row lower.
    """
    if torch.compiler.is_compiling():
        return _segment_weights(after, dtype)
    return _SegmentWeights.apply(after, dtype)


def _segment_weights(after: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    n = after.shape[-1]
    hidden = torch.ones(n, n, dtype=torch.bool, device=after.device).triu(1)
    difference = (after.unsqueeze(-1) - after.unsqueeze(-2)).to(dtype)
    inclusive = difference.masked_fill(hidden, -math.inf).exp()
    return torch.nn.functional.pad(inclusive[..., :-1, :], (0, 0, 1, 0)), inclusive


class _SegmentWeights(torch.autograd.Function):
    """`_segment_weights` with one product per table in its backward, where autograd makes many passes, half in
    float64."""

    generate_vmap_rule = True

    @staticmethod
    def forward(after: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return _segment_weights(after, dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, torch.dtype], output: tuple[Tensor, Tensor]) -> None:
        ctx.wide = inputs[0].dtype
        ctx.save_for_backward(*output)
        ctx.save_for_forward(*output)

    @staticmethod
    def backward(ctx: Any, d_before: Tensor, d_after: Tensor) -> tuple[Tensor, None]:
        before, after = (d * w.conj() for d, w in zip((d_before, d_after), ctx.saved_tensors, strict=True))
        # row i of `before` depends on after_{i-1}; its row 0 is zero
        shifted = torch.nn.functional.pad(before.sum(-1)[..., 1:], (0, 1))
        return (after.sum(-1) + shifted - after.sum(-2) - before.sum(-2)).to(ctx.wide), None

    @staticmethod
    def jvp(ctx: Any, d: Tensor, _: None) -> tuple[Tensor, Tensor]:
        before, after = ctx.saved_tensors
        tangent = (d.unsqueeze(-1) - d.unsqueeze(-2)).to(after.dtype)
        shifted = torch.nn.functional.pad(tangent[..., :-1, :], (0, 0, 1, 0))
        return before * shifted, after * tangent


class ValueDecay:
    """Decays given by values [N, G, C * M, Kd] of any sign, zero included, or complex: products only."""

    def __init__(self, decay: Tensor, *, steps: int, micro_steps: int) -> None:
        self.decay = decay
        self.steps = steps
        self.micro_steps = micro_steps
        self._levels = self._accumulate()

    def _accumulate(self) -> dict[int, tuple[Tensor, Tensor, Tensor]]:
        """For every block size: products from the block's start up to before each micro-step [N, G, C/size, size*M,
        Kd], from after it to the block's end, and of the whole block [N, G, C/size, 1, Kd]."""
        parts = self.decay.unflatten(2, (self.steps, self.micro_steps)).unbind(3)
        one = torch.ones_like(parts[0])
        before, after = [one], [one]
        for d in parts[:-1]:
            before.append(before[-1] * d)
        for d in reversed(parts[1:]):
            after.append(after[-1] * d)
        level = (torch.stack(before, 3), torch.stack(after[::-1], 3), (before[-1] * parts[-1]).unsqueeze(3))
        levels, size = {1: level}, 1
        while size < self.steps:
            prefix, suffix, total = (x.unflatten(2, (self.steps // (2 * size), 2)) for x in levels[size])
            first, second = total.unbind(3)
            levels[2 * size] = (
                torch.cat((prefix[:, :, :, 0], prefix[:, :, :, 1] * first), 3),
                torch.cat((suffix[:, :, :, 0] * second, suffix[:, :, :, 1]), 3),
                first * second,
            )
            size *= 2
        return levels

    def _row_weight(self, rows: Rows, size: int) -> Tensor:
        """Decay from the start of the row's block of `size` steps to the row, [N, G, C, n, Kd]."""
        prefix = self._levels[size][0].flatten(2, 3)
        return _pick(prefix * self.decay if rows.inclusive else prefix, rows.micro, self.steps, self.micro_steps)

    def _column_weight(self, columns: Rows, size: int) -> Tensor:
        return _pick(self._levels[size][1].flatten(2, 3), columns.micro, self.steps, self.micro_steps)

    def from_start(self, rows: Rows) -> Tensor:
        return self._row_weight(rows, self.steps)

    def to_end(self, columns: Rows) -> Tensor:
        return self._column_weight(columns, self.steps)

    def total(self) -> Tensor:
        return self._levels[self.steps][2][:, :, 0, 0]

    def gram(self, rows: Rows, columns: Rows) -> Tensor:
        if self.decay.shape[-1] == 1:  # the weights alone, then one product over K
            ones = (Rows(x=_unit(r), micro=r.micro, inclusive=r.inclusive) for r in (rows, columns))
            return plain_gram(rows, columns) * self._halving(*ones)
        return self._halving(rows, columns)

    def _halving(self, rows: Rows, columns: Rows) -> Tensor:
        result = self._one_step(rows, columns)
        size = 1
        while size < self.steps:
            x = _blocks(rows.x * self._row_weight(rows, size), self.steps, 2 * size)[:, :, :, size:]
            y = _blocks(columns.x * self._column_weight(columns, size), self.steps, 2 * size)[:, :, :, :size]
            result = _merge(result, x.flatten(3, 4) @ y.flatten(3, 4).mT)
            size *= 2
        return result.squeeze(2)

    def _one_step(self, rows: Rows, columns: Rows) -> Tensor:
        """Rows and columns of the same time step, [N, G, C, rows, columns]: segment products over its micro-steps."""
        d = self.decay.unflatten(2, (self.steps, self.micro_steps)).unbind(3)
        lines = []
        for i, row in enumerate(rows.micro):
            entries = []
            for k, column in enumerate(columns.micro):
                last = row if rows.inclusive else row - 1
                if last < column:
                    entries.append(torch.zeros_like(rows.x[..., 0, 0]))
                    continue
                product = rows.x[..., i, :] * columns.x[..., k, :]
                for between in d[column + 1 : last + 1]:
                    product = product * between
                entries.append(product.sum(-1))
            lines.append(torch.stack(entries, -1))
        return torch.stack(lines, -2)


def _unit(rows: Rows) -> Tensor:
    return torch.ones_like(rows.x[..., :1])

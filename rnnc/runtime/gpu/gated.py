"""A chunkwise scan of a matrix state with decays: which kernels over all chunks run on what, with which buffers.

Kernels and what they compute: `rnnc.runtime.gpu.alike`, `rnnc.runtime.gpu.intra`, `rnnc.runtime.gpu.gates`.  What goes
from chunk to chunk: `rnnc.runtime.gpu.gated_walk`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
import triton
from torch import Tensor

from rnnc.runtime.gpu.alike import alike, gate_gradient
from rnnc.runtime.gpu.arrange import near
from rnnc.runtime.gpu.buffers import empty
from rnnc.runtime.gpu.gated_sizes import (
    KEPT,
    LONGEST,
    alike_constants,
    channel_constants,
    gate_constants,
    pairs_constants,
    registers_of,
    spread_constants,
    warps_of,
)
from rnnc.runtime.gpu.gated_tuning import Blocks, Work, fastest
from rnnc.runtime.gpu.gates import channel_gradients
from rnnc.runtime.gpu.intra import pairs, spread
from rnnc.runtime.gpu.packed import Table, rows_kept
from rnnc.runtime.gpu.tuner import bucket
from rnnc.runtime.gpu.tuning import machine

__all__ = ["Axis", "Gates", "Scan", "Sums", "strided"]

Axis = Literal["keys", "values", "none"]  # of the state, along which decays differ


def strided(x: Tensor) -> tuple[Any, ...]:
    """A tensor [B, T, H, ...] and its strides."""
    x = near(x, LONGEST)
    return (x, *x.stride())


class Gates(NamedTuple):
    """The sums of each chunk's log decays (base 2), [B, H, chunks, n]; of one decay a step also the decays from a
    chunk's start to each read and from behind each write to its end, [B, H, chunks, C].
    """

    totals: Tensor
    read: Tensor | None = None
    write: Tensor | None = None


class Sums(NamedTuple):
    """Products with their gradients, summed over blocks of columns: the first numbers are [B, H, chunks, blocks, C]."""

    sums: Tensor
    blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """One scan's sizes and gates: log decays [B, T, H, n] for the state's keys or values, or [B, T, H, 1] for all
    of it.

    Packed sequences are one entry of the batch, with `table` of `sequences` of them, made from `bounds`; initial and
    last states, outside of here [S, H, K, V], are then [1, H, S, K, V].  `chunk`: steps of a chunk, which divide KEPT;
    `base`: see `gated_sizes.base_of`, no more than they are.  `tuned`: whether the fastest blocks are taken.
    """

    g: Tensor
    keys: int
    values: int
    dtype: torch.dtype
    old: bool
    axis: Axis
    base: int
    chunk: int
    sequences: int = 0
    bounds: Tensor | None = None
    table: Table | None = None
    tuned: bool = True
    extra: bool = False  # whether states have one more column than values, a normaliser

    @property
    def columns(self) -> int:
        return self.values + int(self.extra)  # a truth value is no term of a symbolic size

    @property
    def batch(self) -> int:
        return int(self.g.shape[0])

    @property
    def steps(self) -> int:
        return int(self.g.shape[1])

    @property
    def heads(self) -> int:
        return int(self.g.shape[2])

    def in_chunks(self, chunk: int, *, tuned: bool = True) -> Scan:
        """The same scan in chunks of so many steps."""
        if chunk == self.chunk:
            return replace(self, tuned=tuned)
        table = None if self.bounds is None else Table.of(self.bounds, self.steps, chunk, KEPT)
        return replace(self, chunk=chunk, base=min(self.base, chunk), table=table, tuned=tuned)

    @property
    def problem(self) -> tuple[Any, ...]:
        """What a measurement of all of it belongs to."""
        sizes = bucket(self.batch), bucket(self.steps), self.heads, self.keys, self.values
        return (*sizes, self.axis, self.old, self.base, bool(self.sequences), self.extra)

    @property
    def chunks(self) -> int:
        return self._rows(self.chunk)

    def _rows(self, every: int) -> int:
        """Stretches of so many steps, of all packed sequences."""
        if self.sequences:
            return rows_kept(self.sequences, self.steps, every, True)
        return triton.cdiv(self.steps, every)

    @property
    def every(self) -> int:
        """Chunks between two kept states."""
        return KEPT // self.chunk

    @property
    def slots(self) -> int:
        return self._rows(KEPT)

    @property
    def accumulator(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return empty((self.batch, *shape), self.g, dtype or self.accumulator)

    @property
    def chunk_table(self) -> Tensor:
        """Any tensor where nothing is packed."""
        return self.g if self.table is None else self.table.chunks

    def alike(self, x: Tensor, y: Tensor, more: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Gates]:
        """Scores [B, T, H, C] under one decay a step, and what a walk needs of it.

        `more` is one more column of x and of y, [B, T, H].
        """
        scores = self.empty(self.steps, self.heads, self.chunk, dtype=self.dtype)
        read, write = (self.empty(self.heads, self.chunks, self.chunk) for _ in "rw")
        totals = self.empty(self.heads, self.chunks, 1)
        extra = more is not None
        constants = alike_constants(x.shape[-1], self.dtype, old=self.old, extra=extra, chunk=self.chunk)
        added = (scores, scores) if more is None else tuple(e.contiguous() for e in more)
        found = scores, read, write, totals, self.chunk_table
        arguments = (*strided(x), *strided(y), *strided(self.g)[:-1], *added, *found)
        self.launch(alike, constants, (*arguments, self.steps, self.heads, self.sequences), self._all_chunks)
        return scores, Gates(totals, read, write)

    def pairs(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Gates]:
        """Scores [B, T, H, C], x from the chunk's start and y to its end, and the chunks' sums."""
        inner = x.shape[-1]
        scores = self.empty(self.steps, self.heads, self.chunk, dtype=self.dtype)
        scaled = [self.empty(self.steps, self.heads, inner, dtype=self.dtype) for _ in "xy"]
        totals = self.empty(self.heads, self.chunks, inner)
        flags: dict[str, Any] = {"old": self.old, "strict": self.old, "base": self.base, "chunk": self.chunk}
        constants = pairs_constants(inner, self.dtype, machine(), **flags)
        arrays = (*strided(x), *strided(y), *strided(self.g), scores, *scaled, totals, self.chunk_table)
        self.launch(pairs, constants, (*arrays, self.steps, self.heads, self.sequences), self._all_chunks)
        return scores, scaled[0], scaled[1], Gates(totals)

    def spread(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Gates]:
        """What a chunk's own steps add to each other's outputs; z to the chunk's end, and the chunks' sums."""
        outer = self.g.shape[-1]
        flags: dict[str, Any] = {"old": self.old, "base": self.base, "chunk": self.chunk}
        constants = spread_constants(x.shape[-1], outer, self.dtype, machine(), **flags)
        out = self.empty(self.steps, self.heads, outer)
        scaled = self.empty(self.steps, self.heads, outer, dtype=self.dtype)
        totals = self.empty(self.heads, self.chunks, outer)
        arrays = (*strided(x), *strided(y), *strided(z), *strided(self.g), out, scaled, totals, self.chunk_table)
        arguments = (*arrays, self.steps, self.heads, outer, self.sequences)
        self.launch(spread, constants, arguments, self._all_chunks, outer=outer)
        return out, scaled, Gates(totals)

    @property
    def _all_chunks(self) -> int:
        return self.batch * self.heads * self.chunks

    def launch(
        self,
        kernel: Any,
        constants: dict[str, Any],
        arguments: tuple[Any, ...],
        runs: int,
        *,
        outer: int = 0,
        chunks: int = 1,
    ) -> Blocks:
        """Launch a kernel in its fastest blocks, which are returned: `runs` over so many chunks each, for blocks of
        `outer` channels (0: it does not share them out).
        """
        packed, warps = self.table is not None, warps_of(kernel.__name__, constants, machine())

        def run(blocks: Blocks) -> None:
            programs = runs * (triton.cdiv(outer, blocks.outer) if outer else 1)
            options = constants | blocks.constants
            options |= registers_of(kernel.__name__, options, machine())
            kernel[programs,](*arguments, **options, PACKED=packed)

        work = Work(
            kernel=kernel.__name__, constants=constants, dtype=self.dtype, outer=outer, runs=runs, chunks=chunks
        )
        chosen = fastest(work, warps, run) if self.tuned else Blocks.of(constants, warps)
        run(chosen)
        return chosen

    def gate_gradient(self, reads: Sums, writes: Sums, ends: Tensor, end: Tensor) -> Tensor:
        """The gradient of one decay a step, from what walks summed up of reads and of writes (with the gradients of
        both), and the sums of <dL/dS, S> for each key before every KEPT steps, [B, H, slots, K], and at the end.
        """
        most = reads.blocks, writes.blocks
        constants = gate_constants(self.keys, self.dtype, old=self.old, chunk=self.chunk, blocks=most)
        found = self.empty(self.steps, self.heads, 1, dtype=self.g.dtype)
        sizes = self.steps, self.heads, self.sequences
        arguments = (reads.sums, writes.sums, ends, end, found, *self._runs(ends), *sizes)
        self.launch(gate_gradient, constants, arguments, self.batch * self.heads * self.slots)
        return found

    def channel_gradients(
        self,
        x: Tensor,
        y: Tensor,
        read: tuple[Tensor, Tensor],
        written: tuple[Tensor, Tensor],
        ends: Tensor,
        end: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of g, and of what is read and written along its axis, given what other chunks gave these; x . y
        is what a read and a write of a chunk are to each other.

        Values that decay are written with their axis and read without a sum: the gradient of a read is complete, and
        returned as it is.
        """
        (r, d_r), (w, d_w) = read, written
        both, outer = self.axis == "keys", self.g.shape[-1]
        flags: dict[str, Any] = {"old": self.old, "both": both, "base": self.base, "chunk": self.chunk}
        constants = channel_constants(x.shape[-1], outer, self.dtype, machine(), **flags)
        found = self.empty(self.steps, self.heads, outer, dtype=self.g.dtype)
        low = [self.empty(*d.shape[1:], dtype=self.dtype) if given else d for d, given in ((d_r, both), (d_w, True))]
        arrays = (*strided(x), *strided(y), *strided(r), *strided(w), *strided(self.g), d_r, d_w)
        sizes = self.steps, self.heads, outer, self.sequences
        arguments = (*arrays, ends, end, found, *low, *self._runs(ends), *sizes)
        self.launch(channel_gradients, constants, arguments, self.batch * self.heads * self.slots, outer=outer)
        return found, low[0], low[1]

    def _runs(self, other: Tensor) -> tuple[Tensor, Tensor]:
        """Of packed sequences; else any tensors."""
        return (other, other) if self.table is None else (self.table.parts, self.table.ends)

"""The passes of a chunkwise scan of a matrix state with decays: which kernels run on what, with which buffers.

Kernels and what they compute: `rnnc.runtime.gpu.intra`, `rnnc.runtime.gpu.walk`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import triton
from torch import Tensor

from rnnc.runtime.gpu import recurrence as launch
from rnnc.runtime.gpu.arrange import near
from rnnc.runtime.gpu.gated_sizes import (
    KEPT,
    LONGEST,
    alike_constants,
    channel_constants,
    gate_constants,
    pairs_constants,
    registers_of,
    spread_constants,
    walk_constants,
    warps_of,
)
from rnnc.runtime.gpu.gated_tuning import Blocks, Work, fastest
from rnnc.runtime.gpu.gates import channel_gradients, gate_gradient
from rnnc.runtime.gpu.intra import alike, pairs, spread
from rnnc.runtime.gpu.packed import Table, rows_kept
from rnnc.runtime.gpu.splits import gradients_between, states_between
from rnnc.runtime.gpu.tuner import bucket
from rnnc.runtime.gpu.tuning import machine, programs_wanted
from rnnc.runtime.gpu.walk import walk

__all__ = ["Axis", "Extra", "Scan"]

Axis = Literal["keys", "values", "none"]  # of the state, along which decays differ


def strided(x: Tensor) -> tuple[Any, ...]:
    """A tensor [B, T, H, ...] and its strides."""
    x = near(x, LONGEST)
    return (x, *x.stride())


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
        return self.values + self.extra

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
        return launch.empty((self.batch, *shape), self.g, dtype or self.accumulator)

    @property
    def chunk_table(self) -> Tensor:
        """Any tensor where nothing is packed."""
        return self.g if self.table is None else self.table.chunks

    def pairs(
        self, x: Tensor, y: Tensor, more: tuple[Tensor, Tensor] | None = None, scaled_more: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scores [B, T, H, C], x from the chunk's start and y to its end, and the chunks' sums [B, H, chunks, N].

        `more` is one more column of x and of y, [B, T, H]; those as x and y are returned are put into `scaled_more`.
        """
        inner = x.shape[-1]
        scores = self.empty(self.steps, self.heads, self.chunk, dtype=self.dtype)
        scaled = [self.empty(self.steps, self.heads, inner, dtype=self.dtype) for _ in "xy"]
        totals = self.empty(self.heads, self.chunks, inner)
        gates = strided(self.g)
        ends: tuple[Any, ...] = ()
        if self.axis == "none":
            constants = alike_constants(inner, self.dtype, old=self.old, extra=more is not None, chunk=self.chunk)
            gates = gates[:-1]
            gates += (x, x) if more is None else tuple(e.contiguous() for e in more)
            ends = (scores, scores) if more is None else tuple(self.empty(self.steps, self.heads) for _ in more)
        else:
            flags: dict[str, Any] = {"old": self.old, "strict": self.old, "base": self.base, "chunk": self.chunk}
            constants = pairs_constants(inner, self.dtype, machine(), **flags)
        sizes = self.steps, self.heads, self.sequences
        arguments = (*strided(x), *strided(y), *gates, scores, *scaled, *ends, totals, self.chunk_table, *sizes)
        self._launch(alike if self.axis == "none" else pairs, constants, arguments, self._all_chunks)
        if scaled_more is not None:
            scaled_more += ends
        return scores, scaled[0], scaled[1], totals

    def spread(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What a chunk's own steps add to each other's outputs; z to the chunk's end, and the chunks' sums."""
        outer = self.g.shape[-1]
        flags: dict[str, Any] = {"old": self.old, "base": self.base, "chunk": self.chunk}
        constants = spread_constants(x.shape[-1], outer, self.dtype, machine(), **flags)
        out = self.empty(self.steps, self.heads, outer)
        scaled = self.empty(self.steps, self.heads, outer, dtype=self.dtype)
        totals = self.empty(self.heads, self.chunks, outer)
        arrays = (*strided(x), *strided(y), *strided(z), *strided(self.g), out, scaled, totals, self.chunk_table)
        arguments = (*arrays, self.steps, self.heads, outer, self.sequences)
        self._launch(spread, constants, arguments, self._all_chunks, outer=outer)
        return out, scaled, totals

    @property
    def _all_chunks(self) -> int:
        return self.batch * self.heads * self.chunks

    def _launch(
        self,
        kernel: Any,
        constants: dict[str, Any],
        arguments: tuple[Any, ...],
        runs: int,
        *,
        outer: int = 0,
        chunks: int = 1,
    ) -> None:
        """Launch a kernel in its fastest blocks: `runs` over so many chunks each, for blocks of `outer` channels (0:
        it does not share them out).
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
        run(fastest(work, warps, run) if self.tuned else Blocks.of(constants, warps))

    def walk(
        self,
        x: Tensor,
        y: Tensor,
        z: Tensor,
        totals: Tensor,
        start: Tensor,
        *,
        inside: Tensor | None,
        out: torch.dtype,
        turned: bool = False,
        reverse: bool = False,
        keep: bool = False,
        ends: tuple[Tensor, Tensor] | None = None,
        extra: Extra | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Outputs [B, T, H, ...], the last state [B, H, K, V], and the states before every KEPT steps (`keep`).

        The state is [K, V] or, `turned`, [V, K] for the kernel: its first axis is the one of x and y.  `inside` is
        what a chunk's own steps do: scores where the decay is on that axis, else what they add, if it is to be added
        here.  A `start` of rank 5 has the states before every KEPT steps, and all of those runs go at once.  `ends` are
        kept states and the sums to be filled, see `rnnc.runtime.gpu.walk`.  `extra` belongs to the column that the
        state has more.
        """
        outer = z.shape[-1]
        outputs = self.empty(self.steps, self.heads, outer, dtype=out)
        kept = self.empty(self.heads, self.slots, self.keys, self.columns) if keep else None
        run = _Walk(self, x, y, z, totals, inside, turned, reverse, extra)
        if start.ndim == 5:
            span, starts = self.every, start
        elif self.table is not None:
            span, starts = 0, start.transpose(0, 1).unsqueeze(0)
        else:
            span = self._span(run.programs)
            starts = run.starts(start, span) if span < self.chunks else start.unsqueeze(2)
        last = run(span, starts.contiguous(), outputs=outputs, kept=kept, ends=ends)
        return outputs, last[0].transpose(0, 1) if self.table is not None else last[:, :, 0 if reverse else -1], kept

    def gate_gradient(
        self, read: tuple[Tensor, Tensor], written: tuple[Tensor, Tensor], ends: Tensor, end: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient of one decay a step from what is read and written (with the gradients of both), and the sums of
        <dL/dS, S> before every KEPT steps, [B, H, slots, 1], and at the end, [B, H, 1]; and the gradients of what is
        read and written in its dtype.
        """
        (r, d_r), (w, d_w) = read, written
        constants = gate_constants(r.shape[-1], self.dtype, old=self.old, chunk=self.chunk)
        found = self.empty(self.steps, self.heads, 1, dtype=self.g.dtype)
        low = [self.empty(*d.shape[1:], dtype=self.dtype) for d in (d_r, d_w)] if constants["LOW"] else [d_r, d_w]
        sizes = self.steps, self.heads, self.sequences
        arguments = (*strided(r), *strided(w), d_r, d_w, ends, end.contiguous(), found, *low, *self._runs(ends), *sizes)
        self._launch(gate_gradient, constants, arguments, self.batch * self.heads * self.slots)
        return found, low[0], low[1]

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
        arguments = (*arrays, ends, end.contiguous(), found, *low, *self._runs(ends), *sizes)
        self._launch(channel_gradients, constants, arguments, self.batch * self.heads * self.slots, outer=outer)
        return found, low[0], low[1]

    def _runs(self, other: Tensor) -> tuple[Tensor, Tensor]:
        """Of packed sequences; else any tensors."""
        return (other, other) if self.table is None else (self.table.parts, self.table.ends)

    def _span(self, programs: int) -> int:
        """Chunks of a program: all of them where each multiprocessor has one, else a multiple of those between two kept
        states, for two programs each: what parts do to a state is found first, which reads a walk's inputs once more.
        """
        processors = max(1, programs_wanted() // 4)
        wanted = 1 if programs >= processors else triton.cdiv(2 * processors, max(1, programs))
        parts = min(self.slots, wanted)
        return self.chunks if parts < 2 else triton.cdiv(self.slots, parts) * self.every


class Extra(NamedTuple):
    """Numbers [B, T, H] of the column that a state has more, contiguous: of x and of y (of z, where values are columns,
    then the first has no meaning), and its outputs (without meaning where values are rows).
    """

    x: Tensor
    value: Tensor
    out: Tensor


@dataclass(frozen=True, slots=True)
class _Walk:
    """One of the passes of a scan, ready to be launched."""

    of: Scan
    x: Tensor
    y: Tensor
    z: Tensor
    totals: Tensor
    inside: Tensor | None
    turned: bool
    reverse: bool
    extra: Extra | None

    def constants(self, **flags: bool) -> dict[str, Any]:
        of = self.of
        inner, outer = self.y.shape[-1], self.z.shape[-1]
        across = of.axis != "none" and (of.axis == "values") != self.turned
        flags |= {"column": of.extra and not self.turned, "row": of.extra and self.turned}
        flags |= {"across": across, "add": across and self.inside is not None, "reverse": self.reverse, "old": of.old}
        return walk_constants(inner, outer, of.dtype, machine(), chunk=of.chunk, **flags)

    @property
    def outer(self) -> int:
        """Columns of a state."""
        return self.z.shape[-1] + int(self.of.extra and not self.turned)

    @property
    def programs(self) -> int:
        """Of one run over all chunks."""
        return self.of.batch * self.of.heads * int(triton.cdiv(self.outer, self.constants()["BM"]))

    def starts(self, start: Tensor, span: int) -> Tensor:
        """The states before (behind) every `span` chunks, [B, H, spans, K, V]: first every span by itself, from
        zero.
        """
        of = self.of
        spans = triton.cdiv(of.chunks, span)
        zero = start.new_zeros((of.batch, of.heads, spans, of.keys, of.columns), dtype=of.accumulator)
        total = self(span, zero)
        totals = self.totals[..., :1] if of.axis == "none" else self.totals
        sums = torch.nn.functional.pad(totals, (0, 0, 0, spans * span - of.chunks))
        factor = sums.unflatten(2, (spans, span)).sum(3).exp2().unsqueeze(-2 if of.axis == "values" else -1)
        between = gradients_between if self.reverse else partial(states_between, "plus_times")
        found = of.empty(of.heads, spans, of.keys, of.columns)
        arguments = [x.flatten(0, 1) for x in (start, total, factor.expand_as(total).contiguous(), found)]
        return between(False, *arguments).view(found.shape)

    def __call__(
        self,
        span: int,
        starts: Tensor,
        *,
        outputs: Tensor | None = None,
        kept: Tensor | None = None,
        ends: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """The state after every span, [B, H, spans, K, V]; packed sequences have as many as `starts`."""
        of = self.of
        runs, spans = self.totals, starts.shape[2]
        if of.table is not None:
            runs = of.table.parts if span else of.table.whole
        last = of.empty(of.heads, spans, of.keys, of.columns)
        constants = self.constants(out=outputs is not None, keep=kept is not None, ends=ends is not None)
        more = self.extra or Extra(last, last, last)
        kept_states, sums = ends or (kept, None)
        inside = last if self.inside is None else self.inside
        arguments = (
            *strided(self.x),
            *strided(self.y),
            *strided(self.z),
            *strided(of.g),
            inside,
            inside,
            self.totals,
            starts,
            last,
            last if kept_states is None else kept_states,
            last if sums is None else sums,
            last if outputs is None else outputs,
            *more,
            runs,
            of.steps,
            of.heads,
            self.z.shape[-1],
            span,
            of.sequences,
            spans,
            of.keys * of.columns,
            *((1, of.columns) if self.turned else (of.columns, 1)),
        )
        chunks = -(-of.chunks // spans)
        of._launch(walk, constants, arguments, of.batch * of.heads * spans, outer=self.outer, chunks=chunks)
        return last

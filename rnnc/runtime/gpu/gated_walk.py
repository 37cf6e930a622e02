"""The passes of a chunkwise scan from chunk to chunk: one kernel (`rnnc.runtime.gpu.walk`), four uses of it.

Few programs (a small batch) first share out the columns of a state more finely, for which all inputs are still read
once, and only then, where that shortens the chain by more than it costs, the steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from rnnc.runtime.gpu.buffers import empty
from rnnc.runtime.gpu.gated import Gates, Scan, Sums, strided
from rnnc.runtime.gpu.gated_sizes import walk_constants
from rnnc.runtime.gpu.splits import gradients_between, states_between
from rnnc.runtime.gpu.tuning import machine, programs_wanted
from rnnc.runtime.gpu.walk import walk

__all__ = ["Ends", "Extra", "Walk"]

FEWEST = 16  # columns of a program
DIVIDING = 14  # chunks that take as long as what dividing the steps launches besides, at a microsecond each


class Extra(NamedTuple):
    """Numbers [B, T, H] of the column that a state has more, contiguous: of x and of y (of z, where values are columns,
    then the first has no meaning), and its outputs (without meaning where values are rows).
    """

    x: Tensor
    value: Tensor
    out: Tensor


class Ends(NamedTuple):
    """States that another walk kept and its last one, and where sums over the first axis of these times this walk's go:
    [B, H, slots, n] and [B, H, n] (packed: [S, H, n]).
    """

    kept: Tensor
    last: Tensor
    sums: Tensor
    end: Tensor

    @classmethod
    def of(cls, of: Scan, kept: Tensor, last: Tensor, size: int) -> Ends:
        end = empty((last.shape[0], of.heads, size), last, of.accumulator)
        return cls(kept, last, of.empty(of.heads, of.slots, size), end)


class Walked(NamedTuple):
    """Outputs [B, T, H, ...], the last state [B, H, K, V], the states before every KEPT steps, sums of outputs."""

    out: Tensor
    last: Tensor
    kept: Tensor | None
    sums: Sums | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """One of the passes of a scan.

    The state is [K, V] or, `turned`, [V, K] for the kernel: its first axis is the one of x and y.  `inside` is what a
    chunk's own steps do: scores where the decay is on that axis, else what they add, if it is to be added here.
    `extra` belongs to the column that the state has more.  `out`: the outputs' dtype.  `keep`: keeps states.
    `beside` [B, T, H, ...]: what outputs are multiplied with and summed up.
    """

    of: Scan
    x: Tensor
    y: Tensor
    z: Tensor
    gates: Gates
    inside: Tensor | None
    out: torch.dtype
    turned: bool = False
    reverse: bool = False
    keep: bool = False
    ends: Ends | None = None
    extra: Extra | None = None
    beside: Tensor | None = None
    processors: int = field(default_factory=lambda: max(1, programs_wanted() // 4))

    def __call__(self, start: Tensor) -> Walked:
        """A `start` of rank 5 has the states before every KEPT steps: all those runs go at once, without `last`."""
        of = self.of
        span, starts, last = self.of.every, start, False
        if start.ndim == 4:
            last = True
            span = 0 if of.table is not None else self.span
            if span and span < of.chunks:
                starts = self.starts(start, span)
            else:
                starts = start.unsqueeze(2) if of.table is None else start.transpose(0, 1).unsqueeze(0)
        outputs = of.empty(of.steps, of.heads, self.z.shape[-1], dtype=self.out)
        kept = of.empty(of.heads, of.slots, of.keys, of.columns) if self.keep else None
        ends, sums = self.run(span, starts.contiguous(), last=last, outputs=outputs, kept=kept)
        final = ends[0].transpose(0, 1) if of.table is not None else ends[:, :, 0 if self.reverse else -1]
        return Walked(outputs, final, kept, sums)

    @property
    def outer(self) -> int:
        """Columns of a state."""
        return self.z.shape[-1] + int(self.of.extra and not self.turned)

    @property
    def span(self) -> int:
        """Chunks of a program: all of them where each multiprocessor has one, else a multiple of those between two kept
        states, for two programs each.  What parts do to a state is found first, which reads a walk's inputs once more
        and launches seven kernels: not where all steps one after another take less.
        """
        of = self.of
        programs = of.batch * of.heads * self.blocks(of.batch * of.heads)
        wanted = 1 if programs >= self.processors else triton.cdiv(2 * self.processors, max(1, programs))
        parts = min(of.slots, wanted)
        span = of.chunks if parts < 2 else triton.cdiv(of.slots, parts) * of.every
        return span if 2 * span + DIVIDING < of.chunks else of.chunks

    def blocks(self, runs: int) -> int:
        """Of columns, where there are so many runs."""
        return int(triton.cdiv(self.outer, self.constants(runs)["BM"]))

    def constants(self, runs: int, **flags: bool) -> dict[str, Any]:
        """Those of the kernel; columns in as small blocks as give each multiprocessor a program."""
        of = self.of
        inner, outer = self.y.shape[-1], self.z.shape[-1]
        across = of.axis != "none" and (of.axis == "values") != self.turned
        flags |= {"column": of.extra and not self.turned, "row": of.extra and self.turned, "alike": of.axis == "none"}
        flags |= {"across": across, "add": across and self.inside is not None, "reverse": self.reverse, "old": of.old}
        columns = 0
        while True:
            found = walk_constants(inner, outer, of.dtype, machine(), chunk=of.chunk, columns=columns, **flags)
            columns = found["BM"] // 2
            if columns < FEWEST or runs * triton.cdiv(self.outer, found["BM"]) >= self.processors:
                return found

    def starts(self, start: Tensor, span: int) -> Tensor:
        """The states before (behind) every `span` chunks, [B, H, spans, K, V]: first every span by itself, from
        zero.
        """
        of = self.of
        spans = triton.cdiv(of.chunks, span)
        zero = start.new_zeros((of.batch, of.heads, spans, of.keys, of.columns), dtype=of.accumulator)
        total, _ = self.run(span, zero)
        sums = torch.nn.functional.pad(self.gates.totals, (0, 0, 0, spans * span - of.chunks))
        factor = sums.unflatten(2, (spans, span)).sum(3).exp2().unsqueeze(-2 if of.axis == "values" else -1)
        between = gradients_between if self.reverse else partial(states_between, "plus_times")
        found = of.empty(of.heads, spans, of.keys, of.columns)
        arguments = [x.flatten(0, 1) for x in (start, total, factor.expand_as(total).contiguous(), found)]
        return between(False, *arguments).view(found.shape)

    def run(
        self,
        span: int,
        starts: Tensor,
        *,
        last: bool = True,
        outputs: Tensor | None = None,
        kept: Tensor | None = None,
    ) -> tuple[Tensor, Sums | None]:
        """The state after every span, [B, H, spans, K, V], where `last`; packed sequences have as many as `starts`."""
        of, out = self.of, outputs is not None
        spans = starts.shape[2]
        runs = self.gates.totals if of.table is None else of.table.parts if span else of.table.whole
        count = of.batch * of.heads * spans
        final = of.empty(of.heads, spans, of.keys, of.columns) if last else starts
        flags = {"out": out, "keep": kept is not None, "ends": out and self.ends is not None, "last": last}
        constants = self.constants(count, **flags, sums=out and self.beside is not None)
        sums = of.empty(of.heads, of.chunks, triton.cdiv(self.outer, FEWEST), of.chunk) if constants["SUMS"] else None
        out_fade, z_fade = (self.gates.write, self.gates.read) if self.reverse else (self.gates.read, self.gates.write)
        ends = self.ends or Ends(starts, starts, starts, starts)

        def given(*tensors: Tensor | None) -> list[Tensor]:
            """Any tensor for one that is not there."""
            return [starts if x is None else x for x in tensors]

        arguments = (
            *(item for x in (self.x, self.y, self.z, of.g) for item in strided(x)),
            *strided(self.z if self.beside is None else self.beside),
            *given(self.inside, self.inside, out_fade, z_fade),
            self.gates.totals,
            starts,
            final,
            ends.kept if kept is None else kept,
            *(ends.sums, ends.last, ends.end),
            *given(outputs, sums),
            *(self.extra or given(None, None, None)),
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
        chosen = of.launch(walk, constants, arguments, count, outer=self.outer, chunks=chunks)
        return final, None if sums is None else Sums(sums, triton.cdiv(self.outer, chosen.outer))

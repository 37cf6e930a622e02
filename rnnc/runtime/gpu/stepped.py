"""Runs a step with products whose matrices do not fit on chip: products by PyTorch, and kernels between them.

All matrices that one vector is multiplied with stand side by side, so a round of products is one call ([B, n] by [n, 4
n] for an LSTM, a batch of them for heads), and a step is as many products and kernels as it has rounds.  Vectors,
results and their gradients are in the dtype of the sequences, states and their gradients in the accumulator's.

What goes from step to step is [heads, slot, batch, entries]: for the backward a slot for every step is kept, so that
the gradients of the matrices are one product over all of them; else two slots change places.

Nothing here waits for the device but the length of the longest packed sequence, and nothing depends on values: a call
may be recorded as a CUDA graph, and then its steps cost their kernels only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rnnc.runtime.gpu.buffers import added_up, divided, empty, gradient_buffers, result_buffers
from rnnc.runtime.gpu.compat import LAUNCH
from rnnc.runtime.gpu.operators import Call, declare
from rnnc.runtime.gpu.problem import Problem
from rnnc.runtime.gpu.tuning import Config, machine, power_of_two, programs_wanted

if TYPE_CHECKING:
    from rnnc.runtime.gpu.coupled import CoupledRecurrence

__all__ = ["Phase", "Side", "call_stepped", "longest"]

ENTRIES = 128  # of a warp's tile: four a thread, one load of them
WIDE = 128  # entries of a vector that a program holds, side by side in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Products (their places) of one vector, in one round.  `kept`: whether the backward reads their results."""

    products: tuple[int, ...]
    round: int
    kept: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A kernel that runs ahead of the round `at`, or behind the last one; the places of the inputs it reads, and those
    of the cell's dims.
    """

    at: int
    kernel: Any
    inputs: tuple[int, ...]
    dims: tuple[int, ...] = ()


def longest(steps: int, bounds: Tensor | None) -> int:
    """Steps of the longest sequence.  Packed ones are read on the host; where that cannot be (in a graph of PyTorch's
    compiler or in one that CUDA records) it is as many as all have together.
    """
    if bounds is None or torch.compiler.is_compiling():
        return steps
    if bounds.is_cuda and torch.cuda.is_current_stream_capturing():
        return steps
    return int(bounds.diff().max()) if bounds.shape[0] > 1 else 0


def block_sizes(of: CoupledRecurrence, size: int, batch: int, heads: int, doubles: bool = False) -> Config:
    """`steps` are sequences a program holds, `channels` entries of their vectors, the longest of which has `size`.

    A program is small: there is one launch for every step, whose time is that of its first loads.
    """
    if of.whole:
        wide = max(16, power_of_two(size))
        rows = max(1, min(power_of_two(batch), 4 * ENTRIES // wide))
        warps = rows * wide // ENTRIES * (2 if doubles else 1)
        return Config(steps=rows, channels=wide, warps=max(1, min(16, warps)))
    wide = max(16, min(WIDE, power_of_two(size)))
    rows = max(1, min(power_of_two(batch), 4 * ENTRIES // wide))
    while rows > 1 and triton.cdiv(batch, rows) * triton.cdiv(size, wide) * heads < programs_wanted():
        rows //= 2
    # Left to itself the assembler stops at few registers, for more programs at once, and spills a little.
    return Config(steps=rows, channels=wide, warps=max(1, rows * wide // ENTRIES), registers=255)


@dataclass(frozen=True, kw_only=True)  # no slots: what is computed is kept
class _Steps:
    """One call: its sizes, the steps of the longest sequence, and the dtypes of products and states."""

    of: CoupledRecurrence
    p: Problem
    steps: int
    low: torch.dtype
    acc: torch.dtype

    @staticmethod
    def of_call(call: Call, inputs: Sequence[Tensor]) -> _Steps:
        """`inputs` end with the matrices."""
        of: Any = call.p.of
        return _Steps(of=of, p=call.p, steps=call.longest, low=inputs[-1].dtype, acc=call.acc)

    @cached_property
    def ends(self) -> list[tuple[int, int]]:
        """The entries of the vector of each product and of its result."""
        return [self.of.ends(x, self.p.sizes) for x in self.of.products]

    def vector(self, side: Side) -> int:
        return self.ends[side.products[0]][0]

    def width(self, side: Side) -> int:
        return sum(self.ends[n][1] for n in side.products)

    def entries(self, k: int) -> int:
        """Of state k."""
        return self.p.sizes[self.of.states[k][-1]]

    def state(self, side: Side) -> int | None:
        return self.of.products[side.products[0]].state

    def slots(self, like: Tensor, slots: int, entries: int, dtype: torch.dtype) -> Tensor:
        return empty([self.p.heads, slots, self.p.batch, entries], like, dtype)

    @cached_property
    def config(self) -> Config:
        size = max(self.p.sizes[x] for x in self.of.axes.inner)
        return self.of.configs.get(("stepped",)) or block_sizes(
            self.of, size, self.p.batch, self.p.heads, self.acc == torch.float64
        )

    # ------------------------------------------------------------ products

    def matrices(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Of each side, [heads, all outs, in]."""
        whole = [w if self.of.axes.grid else w.unsqueeze(0) for w in inputs[len(self.of.inputs) :]]
        return [torch.cat([whole[n] for n in side.products], 1) for side in self.of.sides]

    @property
    def multiply(self) -> Callable[..., Tensor]:
        """[B, i] by [i, o], of each head where there are several."""
        return torch.mm if self.p.heads == 1 else torch.bmm

    def one(self, x: Tensor) -> Tensor:
        """An array [heads, ...] as products take it."""
        return x[0] if self.p.heads == 1 else x

    def each(self, x: Tensor) -> tuple[Tensor, ...]:
        """The slots of an array [heads, slot, ...], as products take them."""
        return x[0].unbind(0) if self.p.heads == 1 else x.unbind(1)

    # ------------------------------------------------------------ kernels

    def launcher(
        self, phase: Phase, inputs: Sequence[Tensor], arrays: Sequence[Any], slots: int, **more: Any
    ) -> Callable[[int], None]:
        """The launch of a kernel for one step."""
        c, p = self.config, self.p
        given = [a for k in phase.inputs for a in p.argument(inputs[k], self.of.inputs[k])]
        last = [slots, *(p.dims[k] for k in phase.dims), p.steps, *([p.heads] if self.of.axes.grid else []), p.batch]
        parts = 1
        constants: dict[str, Any] = {"ACC": tl.float64 if self.acc == torch.float64 else tl.float32, "BB": c.steps}
        for name, label in zip("NMLRJ", self.of.axes.inner):
            size = p.sizes[label]
            constants |= {name: size, f"B{name}": c.channels}
            parts = max(parts, triton.cdiv(size, c.channels))
        constants |= {"PACKED": p.packed, "PARTS": parts, **c.launch("step", machine()), **LAUNCH, **more}
        kernel = phase.kernel[(triton.cdiv(p.batch, c.steps) * parts * p.heads,)]
        return lambda step: kernel(arrays[0], *given, *arrays[1:], step, *last, **constants)


def _kept(c: _Steps, like: Tensor, slots: int) -> list[Tensor]:
    """What the backward reads: results of sides that are kept, vectors of all sides, states read entry by entry."""
    found = [c.slots(like, slots, c.width(s), c.low) for s in c.of.sides if s.kept]
    found += [c.slots(like, slots, c.vector(s), c.low) for s in c.of.sides]
    return found + [c.slots(like, slots, c.entries(k), c.acc) for k in c.of.entries]


def _buffers(call: Call, inputs: Sequence[Tensor], states: Sequence[Tensor]) -> list[Tensor]:
    """Outputs, last states, and what the backward reads (empty where none follows)."""
    c = _Steps.of_call(call, inputs)
    return result_buffers(c.p, inputs, states) + (
        _kept(c, states[0], c.steps + 1) if call.keep else _nothing(c, states[0])
    )


def forward(call: Call, inputs: list[Tensor], states: list[Tensor]) -> list[Tensor]:
    """Outputs, last states, and what the backward reads (empty where none follows); `inputs` end with the matrices."""
    c, keep = _Steps.of_call(call, inputs), call.keep
    of, like, slots = c.of, states[0], c.steps + 1 if keep else 2
    results, kept = result_buffers(c.p, inputs, states), _kept(c, like, slots)
    sides = sum(s.kept for s in of.sides)
    wide, operands, entries = (iter(x) for x in divided(kept, sides, len(of.sides)))
    products = [next(wide) if s.kept else c.slots(like, 2, c.width(s), c.low) for s in of.sides]
    vectors = [*operands]
    held = [next(entries) if k in of.entries else c.slots(like, 2, c.entries(k), c.acc) for k in range(len(states))]
    for k, h in enumerate(states):
        held[k][:, 0].copy_(_by_head(c, h))
    for side, x in zip(of.sides, vectors, strict=True):
        if (own := c.state(side)) is not None:
            x[:, 0].copy_(_by_head(c, states[own]))
    arrays = [call.bounds, *products, *held, *vectors, *results[: len(of.outputs)]]
    phases = {x.at: c.launcher(x, inputs, arrays, slots, KEEP=keep) for x in of.steps}
    calls = [
        (s.round, c.each(x), c.one(w.mT), c.each(y))
        for s, x, w, y in zip(of.sides, vectors, c.matrices(inputs), products, strict=True)
    ]
    rounds, multiply = 1 + max(s.round for s in of.sides), c.multiply
    for step in range(c.steps):
        for at in range(rounds + 1):
            if at in phases:
                phases[at](step)
            for ready, given, w, out in calls:
                if ready == at:
                    multiply(given[step % len(given)], w, out=out[step % len(out)])
    for last, h in zip(results[len(of.outputs) :], held, strict=True):
        last.copy_(_by_sequence(c, h[:, c.steps % h.shape[1]]))
    return results + (kept if keep else _nothing(c, like))


def _nothing(c: _Steps, like: Tensor) -> list[Tensor]:
    return [like.new_empty(0) for _ in range(sum(s.kept for s in c.of.sides) + len(c.of.sides) + len(c.of.entries))]


def _by_head(c: _Steps, x: Tensor) -> Tensor:
    """[B, g, n] --> [g, B, n]."""
    return x.transpose(0, 1) if c.of.axes.grid else x.unsqueeze(0)


def _by_sequence(c: _Steps, x: Tensor) -> Tensor:
    return x.transpose(0, 1) if c.of.axes.grid else x[0]


def backward(
    call: Call, inputs: list[Tensor], kept: list[Tensor], d_outputs: list[Tensor], d_last: list[Tensor]
) -> list[Tensor]:
    """Gradients of the inputs that have one, of the matrices [g, o, i], and of the initial states."""
    c = _Steps.of_call(call, inputs)
    of, p, like, slots = c.of, c.p, d_last[0], c.steps + 1
    wide, vectors, entries = divided(kept, sum(s.kept for s in of.sides), len(of.sides))
    carried = [c.slots(like, 2, c.entries(k), c.acc) for k in range(len(d_last))]
    for x, g in zip(carried, d_last, strict=True):
        x[:, c.steps % 2].copy_(_by_head(c, g))
    back = [empty([p.heads, p.batch, c.vector(s)], like, c.low).zero_() for s in of.sides]
    found = [c.slots(like, slots, c.width(s), c.low) for s in of.sides]
    given = gradient_buffers(p, inputs, like, c.acc)[: len(of.gradients)]
    for place, g in zip(of.gradients, given, strict=True):
        if "b" not in of.inputs[place]:
            g.zero_()  # added to at every step
    outer = [g.contiguous() for g in d_outputs]
    arrays = [call.bounds, *wide, *entries, *carried, *back, *found, *outer, *given]
    phases = {x.at: c.launcher(x, inputs, arrays, slots) for x in of.steps_back}
    calls = [
        (-1 if c.state(s) is not None else s.round, c.each(d), c.one(w), c.one(g))
        for s, d, w, g in zip(of.sides, found, c.matrices(inputs), back, strict=True)
    ]
    rounds, multiply = 1 + max(s.round for s in of.sides), c.multiply
    for step in reversed(range(c.steps)):
        for at in reversed(range(rounds + 1)):
            if at in phases:
                phases[at](step)
            for ready, d, w, g in calls:
                if ready == at - 1:
                    multiply(d[step], w, out=g)
    starts = [x[:, 0] for x in carried]
    for s, g in zip(of.sides, back, strict=True):
        if (k := c.state(s)) is not None:
            starts[k] = starts[k] + g
    first = [_by_sequence(c, x).clone(memory_format=torch.contiguous_format) for x in starts]
    given = added_up(p, [*given, *first], inputs)
    return [*given[: len(of.gradients)], *_of_matrices(c, found, vectors), *given[len(of.gradients) :]]


def _of_matrices(c: _Steps, found: Sequence[Tensor], vectors: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of the matrices: of each side one product over the steps of all sequences."""
    by_product: dict[int, Tensor] = {}
    for side, d, x in zip(c.of.sides, found, vectors, strict=True):
        d, x = (y[:, : c.steps].flatten(1, 2) for y in (d, x))
        whole = (d.mT @ x).split([c.ends[n][1] for n in side.products], 1)
        by_product |= {
            n: (w if c.of.axes.grid else w[0]).clone(memory_format=torch.contiguous_format)
            for n, w in zip(side.products, whole, strict=True)
        }
    return [by_product[n] for n in range(len(c.of.products))]


call_stepped = declare("stepped", forward=forward, results=_buffers, backward=backward)

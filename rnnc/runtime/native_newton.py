"""Newton's method over time by kernels in C (`newton.h`): calls of them as differentiable functions of tensors.

The forward solves for all states, window by window, and leaves a state in 16 for the backward, which is linear: each
segment of time as a map of the gradient behind it, then all segments with theirs.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rnnc.runtime._compat import empty_cpu, traced
from rnnc.runtime.compiled import load_library
from rnnc.runtime.layout import common_dtype, compute_dtype
from rnnc.runtime.native_call import summed
from rnnc.runtime.native_frame import Arranged, Frame, Operand
from rnnc.runtime.newton_report import NewtonReport, between_graphs, refuse_second, refuse_tracing, tolerance

__all__ = ["NativeNewton", "newton_header"]

SMALLEST = 16  # steps between states that are kept, as in newton.h
VECTORS = 4  # that go through a step abreast: a special function waits for itself (docs/cpu.md)
WINDOW = 1 << 18  # bytes of a window's copies for one thread: they stay in the second-level cache
MOST = 1024  # steps of a segment
SMALL = 1 << 14  # numbers of state times steps up to which one thread is faster ...
TEAM = 1 << 18  # ... also where threads share the segments of a block, and wait for each other in every window
WARM = 32  # steps in front of a segment from which its first state is guessed, to begin with
COUNTS = 6


def newton_header() -> str:
    """The C that every kernel of this kind includes behind `vector_math.h`."""
    return Path(__file__).with_name("newton.h").read_text()


@dataclass(frozen=True, kw_only=True)
class NativeNewton:
    """One kernel of a C source: `NAME_solve` and `NAME_pull`.

    `vector`: the label whose channels stand beside each other in vectors, if any.  `gradients`: for each input the
    labels of the parts of its gradient, None where it has none.
    """

    source: str
    name: str
    vector: int | None
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    states: tuple[Operand, ...]
    gradients: tuple[tuple[int, ...] | None, ...]
    calls: dict[Any, _Call] = field(init=False, default_factory=dict, compare=False, repr=False)

    @between_graphs
    def __call__(
        self,
        inputs: Sequence[Tensor],
        states: Sequence[Tensor],
        dims: Sequence[int],
        steps: int,
        report: NewtonReport,
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Outputs [B, T, ...], and the states [B, ...] after the last step; `report` counts what was done.

        `inputs` are [B, T, ...], or [...] where they are static; `states` are the initial ones.  Computed in float32 or
        float64.  Differentiable once, in inputs and states.  Raises RuntimeError under tracers and transforms, since
        the number of iterations depends on the numbers; ValueError for tensors of other sizes than the layer's, and
        TypeError for complex ones.
        """
        tensors = [*inputs, *states]
        if traced(tensors):
            raise refuse_tracing()
        for x in tensors:
            if x.device.type != "cpu":
                raise RuntimeError(
                    f'this module was compiled for the CPU (backend="cpu") and got a tensor on `{x.device}`: move it, '
                    'or compile the spec with backend="torch"'
                )
        if any(x.is_complex() for x in tensors):
            raise TypeError(f"kernel `{self.name}` takes real numbers where it was given complex ones")
        dtype = common_dtype(*(x for x in tensors if x.is_floating_point()))
        working = compute_dtype(dtype)
        if any(x.dtype != working or x.is_neg() for x in tensors):
            tensors = [x.to(working).resolve_neg() for x in tensors]
        call = self.call(tensors, tuple(dims), steps)
        if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
            found = _Solve.apply(call, report, *tensors)
        else:
            found, _ = call.solve(tensors, report, training=False)
        n = len(self.outputs)
        return tuple(y.to(dtype) for y in found[:n]), tuple(e.to(s.dtype) for e, s in zip(found[n:], states))

    def call(self, tensors: Sequence[Tensor], dims: tuple[int, ...], steps: int) -> _Call:
        key = (dims, steps, torch.get_num_threads(), *[(x.dtype, x.shape, x.stride()) for x in tensors])
        found = self.calls.get(key)
        if found is None:
            if len(self.calls) >= 1000:
                self.calls.clear()
            found = self.calls[key] = _Call(kernel=self, tensors=tensors, dims=dims, steps=steps)
        return found

    def library(self, dtype: torch.dtype) -> ctypes.CDLL:
        return load_library(newton_header() + "\n" + self.source, dtype == torch.float64)

    @property
    def key(self) -> str:
        """What tells one kernel from another."""
        return hashlib.sha256(repr([getattr(self, n) for n in FIELDS]).encode()).hexdigest()

    def __reduce__(self) -> Any:
        return _again, tuple(getattr(self, name) for name in FIELDS)


FIELDS = ("source", "name", "vector", "inputs", "outputs", "states", "gradients")


def _again(*values: Any) -> NativeNewton:
    return NativeNewton(**dict(zip(FIELDS, values, strict=True)))


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, report: NewtonReport, *tensors: Tensor) -> tuple[Tensor, ...]:
        found, kept = call.solve(tensors, report, training=True)
        ctx.call, ctx.kept = call, kept
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise refuse_second()
        return (None, None, *ctx.call.pull(ctx.saved_tensors, given, ctx.kept))


class _Call:
    """A kernel with the sizes of one call."""

    def __init__(self, *, kernel: NativeNewton, tensors: Sequence[Tensor], dims: tuple[int, ...], steps: int) -> None:
        self.kernel, self.steps, self.dtype = kernel, steps, tensors[-1].dtype
        self.layouts = [(x.shape, x.stride()) for x in tensors]
        self.batch = tensors[-1].shape[0]
        self.library = kernel.library(self.dtype)
        self.dims = (ctypes.c_int64 * max(1, len(dims)))(*dims)
        labels = {a for o in (*kernel.inputs, *kernel.outputs, *kernel.states) for a in o.axes if a is not None}
        lengths = (ctypes.c_int64 * (max(labels, default=-1) + 2))()
        getattr(self.library, f"{kernel.name}_lengths")(self.dims, lengths)
        self.sizes = {a: lengths[a] for a in labels}
        self._check()
        channels = 1 if kernel.vector is None else self.sizes[kernel.vector]
        self.lanes = lengths[max(labels, default=-1) + 1]
        self.blocks = -(-channels // self.lanes)  # of channels, as newton.h divides them ...
        self.width = -(-channels // max(1, self.blocks))  # ... and the most of one
        self.frame = Arranged.of(self._forward_frame())
        self.adjoints: dict[Any, Arranged] = {}

    def _check(self) -> None:
        k = self.kernel
        for place, (o, (shape, _)) in enumerate(zip((*k.inputs, *k.states), self.layouts, strict=True)):
            lead = () if o.static else (self.batch,) if place >= len(k.inputs) else (self.batch, self.steps)
            if tuple(shape) != (*lead, *self.shape(o)):
                what = "a state" if place >= len(k.inputs) else "an input"
                wanted = (*lead, *self.shape(o))
                raise ValueError(f"kernel `{k.name}` needs {what} of shape {wanted}, not {tuple(shape)}")

    # ------------------------------------------------------------ sizes

    def shape(self, o: Operand) -> list[int]:
        return [1 if a is None else self.sizes[a] for a in o.axes]

    def numbers(self, operands: Sequence[Operand]) -> int:
        """Of a step in one lane."""
        total = 0
        for o in operands:
            one = 1
            for a in o.axes:
                one *= self.sizes[a] if a is not None and a != self.kernel.vector else 1
            total += one
        return total

    def settings(self, numbers: int, warm: int) -> Any:
        """{steps, batch, vectors, most steps of a segment, threads, warm} for copies of so many numbers a step."""
        lanes = VECTORS * self.lanes
        size = WINDOW // (max(1, numbers) * lanes * self.dtype.itemsize) // SMALLEST * SMALLEST
        work = self.batch * self.steps * self.numbers(self.kernel.states) * self.width * self.blocks
        threads = torch.get_num_threads()
        if work <= (SMALL if self.batch * self.blocks >= threads else TEAM):
            threads = 1
        values = (self.steps, self.batch, VECTORS, min(max(size, SMALLEST), MOST), threads, warm)
        return (ctypes.c_int64 * len(values))(*values)

    # ------------------------------------------------------------ running

    def solve(
        self, tensors: Sequence[Tensor], report: NewtonReport, training: bool
    ) -> tuple[list[Tensor], Tensor | None]:
        """Outputs and final states, and the states that `pull` needs."""
        k = self.kernel
        arrays, found = self.frame.arrays(tensors)
        kept = None
        if training:
            places = -(-self.steps // SMALLEST) * self.numbers(k.states) * self.width
            kept = empty_cpu((self.batch * self.blocks * places,), (1,), self.dtype)
        numbers = self.numbers([o for o in (*k.inputs, *k.outputs) if not o.static])
        settings = self.settings(numbers, report.warm)
        counts, largest = self.run("solve", self.frame, arrays, settings, kept)
        windows, walks, damped, shrunk, singly, warm = counts
        report.calls += 1
        report.steps += self.steps
        report.windows += windows
        report.iterations += walks
        report.damped += damped
        report.shrunk += shrunk
        report.warm = warm
        report.residual = max(report.residual, largest[0])
        report.correction = max(report.correction, largest[1])
        if singly:
            report.give_up(singly, "no window of time steps converged")
        return found, kept

    def pull(self, tensors: Sequence[Tensor], given: Sequence[Tensor | None], kept: Tensor) -> list[Tensor | None]:
        """Gradients of inputs and initial states from those of outputs and final states (None: zero)."""
        k = self.kernel
        gradients = self._gradients(given)
        key = tuple((x.shape, x.stride()) for x in gradients)
        frame = self.adjoints.get(key)
        if frame is None:
            frame = self.adjoints[key] = Arranged.of(self._backward_frame(gradients))
        inputs = len(k.inputs)
        arrays, found = frame.arrays([*tensors[:inputs], *gradients])
        moving = [o for o in k.inputs if not o.static]
        numbers = self.numbers([*moving, *moving, *k.outputs, *k.states])
        self.run("pull", frame, arrays, self.settings(numbers, 0), kept)
        written = iter(found)
        totals: list[Tensor | None] = []
        for o, parts in zip(k.inputs, k.gradients, strict=True):
            if parts is None:
                totals.append(None)
                continue
            x = summed(next(written), len(parts))
            totals.append(x.sum(0) if o.static else x)
        return [*totals, *written]

    def run(self, kind: str, frame: Arranged, arrays: Sequence[Tensor], settings: Any, kept: Tensor | None) -> Any:
        counts, found = (ctypes.c_int64 * COUNTS)(), (ctypes.c_double * 2)()
        failed = getattr(self.library, f"{self.kernel.name}_{kind}")(
            frame.addresses(arrays),
            frame.strides,
            self.dims,
            settings,
            ctypes.c_double(tolerance(self.dtype)),
            None if kept is None else ctypes.c_void_p(kept.data_ptr()),
            counts,
            found,
        )
        if failed:
            raise MemoryError(f"no memory for the states of kernel `{self.kernel.name}`")
        return tuple(counts), tuple(found)

    # ------------------------------------------------------------ frames

    def _frame(self) -> Frame:
        return Frame(dtype=self.dtype, narrow=self.dtype, vector=self.kernel.vector)

    def _forward_frame(self) -> Frame:
        k, frame = self.kernel, self._frame()
        for place, (o, (shape, stride)) in enumerate(zip((*k.inputs, *k.states), self.layouts, strict=True)):
            frame.give(shape, stride, o, 0 if o.static else 2 if place < len(k.inputs) else 1)
        for o in k.outputs:
            frame.take((self.batch, self.steps, *self.shape(o)), o, 2)
        for o in k.states:
            frame.take((self.batch, *self.shape(o)), o, 1)
        return frame

    def _backward_frame(self, gradients: Sequence[Tensor]) -> Frame:
        k, frame = self.kernel, self._frame()
        for o, (shape, stride) in zip(k.inputs, self.layouts):
            frame.give(shape, stride, o, 0 if o.static else 2)
        operands = [*((o, 2) for o in k.outputs), *((o, 1) for o in k.states)]
        for x, (o, lead) in zip(gradients, operands, strict=True):
            frame.give(x.shape, x.stride(), o, lead)
        for o, parts in zip(k.inputs, k.gradients, strict=True):
            if parts is not None and o.static:  # one for each sequence, and part, which the kernel adds to
                frame.take((self.batch, *self.shape(o)), o, 1, [self.blocks] * len(parts), zero=True)
            elif parts is not None:
                frame.take((self.batch, self.steps, *self.shape(o)), o, 2)
        for o in k.states:
            frame.take((self.batch, *self.shape(o)), o, 1)
        return frame

    def _gradients(self, given: Sequence[Tensor | None]) -> list[Tensor]:
        """The gradients of outputs and final states; zero where there is none."""
        k, found = self.kernel, []
        for place, (o, g) in enumerate(zip((*k.outputs, *k.states), given, strict=True)):
            lead = (self.batch, self.steps) if place < len(k.outputs) else (self.batch,)
            shape = (*lead, *self.shape(o))
            found.append(
                torch.zeros((), dtype=self.dtype, device="cpu").expand(shape) if g is None else g.resolve_neg()
            )
        return found

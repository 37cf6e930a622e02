"""Native kernels on CPUs as differentiable functions of tensors.

An emitted file holds the C source and, for each kernel, which axes of its arrays are the same.  A call takes tensors
of any strides (copied only where the axis along vector lanes is not contiguous), runs in float32 or float64 (half types
are converted on the way in and out), and has a backward in C; the backward itself is not differentiable.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rnnc.runtime.compiled import load_library

__all__ = ["Native", "Operand"]

SMALL = 16384  # numbers of state times steps up to which one thread is faster


@dataclass(frozen=True, slots=True)
class Operand:
    """An array of a kernel: for each axis behind batch and time its label, None where its size is 1.

    `static`: without batch and time.  `parts`: labels along which the kernel gives parts that are added up here.
    """

    axes: tuple[int | None, ...]
    static: bool = False
    complex: bool = False
    parts: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Native:
    """One kernel of a C source.

    `vector`: the label along vector lanes.  `stored`: for each state the output that holds it at every step, if all
    have one.  `gradients`: for each input the labels of the parts of its gradient, None where it has none.
    """

    source: str
    name: str
    vector: int | None
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    states: tuple[Operand, ...]
    stored: tuple[int, ...]
    gradients: tuple[tuple[int, ...] | None, ...]
    plans: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def __call__(
        self, inputs: Sequence[Tensor], states: Sequence[Tensor], dims: Sequence[int], steps: int | None
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Outputs, and the states after the last step.

        `inputs` are [B, T, ...] (static ones without B and T), `states` [B, ...]; with `steps` None it is a single
        step, and inputs and outputs are [B, ...].  Outputs have the promoted dtype, each state keeps its own.
        """
        if steps is None:
            inputs = [x if o.static else x.unsqueeze(1) for x, o in zip(inputs, self.inputs)]
        tensors = [*inputs, *states]
        dtype = _real_dtype(tensors)
        working = torch.float64 if dtype == torch.float64 else torch.float32
        operands = (*self.inputs, *self.states)
        fitted = [_cast(x, working, o.complex) for x, o in zip(tensors, operands)]
        call = _Call(kernel=self, dims=tuple(dims), steps=1 if steps is None else steps)
        if torch.is_grad_enabled() and any(x.requires_grad for x in fitted):
            found = _Differentiable.apply(call, *fitted)
        else:
            found, _ = call.forward(fitted, training=False)
        n = len(self.outputs)
        outputs = [_cast(y, dtype, o.complex) for y, o in zip(found[:n], self.outputs)]
        finals = [e.to(s.dtype) for e, s in zip(found[n:], states)]
        if steps is None:
            outputs = [y.squeeze(1) for y in outputs]
        return tuple(outputs), tuple(finals)

    @cached_property
    def libraries(self) -> dict[torch.dtype, ctypes.CDLL]:
        return {}

    def library(self, dtype: torch.dtype) -> ctypes.CDLL:
        if dtype not in self.libraries:
            self.libraries[dtype] = load_library(self.source, dtype == torch.float64)
        return self.libraries[dtype]

    def __reduce__(self) -> Any:
        values = (self.name, self.vector, self.inputs, self.outputs, self.states, self.stored, self.gradients)
        return _again, (self.source, *values)


def _again(source: str, *values: Any) -> Native:
    names = ("name", "vector", "inputs", "outputs", "states", "stored", "gradients")
    return Native(source=source, **dict(zip(names, values, strict=True)))


def _real_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    found = torch.bool
    for x in tensors:
        if x.device.type != "cpu":
            raise RuntimeError(
                f'this module was compiled for the CPU (backend="cpu") and got a tensor on `{x.device}`: move it, or '
                'compile the spec with backend="torch"'
            )
        found = torch.promote_types(found, x.dtype.to_real() if x.is_complex() else x.dtype)
    return found if found.is_floating_point else torch.get_default_dtype()


def _cast(x: Tensor, real: torch.dtype, complex_: bool) -> Tensor:
    if not complex_:
        return x.to(real).resolve_neg()
    return x.to(torch.promote_types(real, torch.complex64)).resolve_conj().resolve_neg()


# ---------------------------------------------------------------- one call


@dataclass(slots=True, kw_only=True)
class _Arrays:
    """Pointers and strides of a call, in the order in which the C function takes them."""

    vector: int | None
    pointers: list[int] = field(default_factory=list)
    strides: list[int] = field(default_factory=list)
    alive: list[Tensor] = field(default_factory=list)

    def give(self, x: Tensor, o: Operand, lead: int) -> None:
        """A tensor to read, [*lead, *axes]: copied where the vector axis is not contiguous."""
        if self.vector is not None and self.vector in o.axes:
            at = lead + o.axes.index(self.vector)
            if x.stride(at) != 1 and x.shape[at] > 1:
                x = x.movedim(at, -1).contiguous().movedim(-1, at)
        self._put(x, o, lead, 0)

    def take(
        self, shape: Sequence[int], o: Operand, lead: int, parts: Sequence[int], like: Tensor, zero: bool
    ) -> Tensor:
        """A tensor to write, [*parts, *lead, *axes]."""
        sizes, at = [*parts, *shape], None
        if self.vector is not None and self.vector in o.axes:
            at = len(parts) + lead + o.axes.index(self.vector)
            sizes.append(sizes.pop(at))
        dtype = torch.promote_types(like.dtype, torch.complex64) if o.complex else like.dtype
        x = torch.zeros(sizes, dtype=dtype) if zero else torch.empty(sizes, dtype=dtype)
        x = x if at is None else x.movedim(-1, at)
        self._put(x, o, lead, len(parts))
        return x

    def _put(self, x: Tensor, o: Operand, lead: int, parts: int) -> None:
        self.alive.append(x)
        self.pointers.append(x.data_ptr())
        strides, scale = x.stride(), 2 if o.complex else 1
        used = [*strides[parts : parts + lead]]
        used += [s for s, a in zip(strides[parts + lead :], o.axes, strict=True) if a is not None]
        used += strides[:parts]
        self.strides += [scale * s for s in used]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A kernel with the sizes of one call."""

    kernel: Native
    dims: tuple[int, ...]
    steps: int

    def sizes(self, tensors: Sequence[Tensor]) -> dict[int, int]:
        """The size of each label: the states carry them all."""
        found: dict[int, int] = {}
        for o, x in zip(self.kernel.states, tensors[len(self.kernel.inputs) :]):
            found |= {a: n for a, n in zip(o.axes, x.shape[1:], strict=True) if a is not None}
        return found

    def forward(self, tensors: Sequence[Tensor], training: bool) -> tuple[list[Tensor], Tensor | None]:
        """Outputs and final states, and the checkpoints that `backward` needs."""
        k = self.kernel
        like, batch = _like(tensors), tensors[-1].shape[0]
        sizes, plan = self.sizes(tensors), self.plan(like.dtype, batch)
        arrays = _Arrays(vector=k.vector)
        self._given(arrays, tensors)
        found = []
        for o in k.outputs:
            shape = (batch, self.steps, *_shape(o, sizes))
            found.append(arrays.take(shape, o, 2, self.parts(o.parts, sizes, plan), like, zero=False))
        for o in k.states:
            found.append(arrays.take((batch, *_shape(o, sizes)), o, 1, (), like, zero=False))
        checkpoints = None
        if training and not k.stored:
            chunks = -(-self.steps // plan[4])
            checkpoints = torch.empty(plan[2] * chunks * plan[3], dtype=like.dtype)
        self.run("forward", arrays, like.dtype, plan, checkpoints)
        return [_summed(x, len(o.parts)) for x, o in zip(found, (*k.outputs, *k.states))], checkpoints

    def backward(
        self,
        tensors: Sequence[Tensor],
        held: Sequence[Tensor],
        given: Sequence[Tensor | None],
        checkpoints: Tensor | None,
    ) -> list[Tensor | None]:
        """Gradients of inputs and initial states from those of outputs and final states (None: zero)."""
        k = self.kernel
        like, batch = _like(tensors), tensors[-1].shape[0]
        sizes, plan = self.sizes(tensors), self.plan(like.dtype, batch)
        arrays = _Arrays(vector=k.vector)
        self._given(arrays, tensors)
        for at, x in zip(sorted(set(k.stored)), held):
            arrays.give(x, k.outputs[at], 2)
        for place, o in enumerate((*k.outputs, *k.states)):
            lead = 2 if place < len(k.outputs) else 1
            g = given[place]
            if g is None:
                dtype = torch.promote_types(like.dtype, torch.complex64) if o.complex else like.dtype
                zero = torch.zeros(_shape(o, sizes), dtype=dtype)
                g = zero.expand(*(batch, self.steps)[:lead], *zero.shape)
            arrays.give(g.resolve_conj().resolve_neg(), o, lead)
        found: list[Tensor | None] = []
        for o, parts in zip(k.inputs, k.gradients):
            if parts is None:
                found.append(None)
                continue
            shape = (batch, *(() if o.static else (self.steps,)), *_shape(o, sizes))
            lead = 1 if o.static else 2
            found.append(arrays.take(shape, o, lead, self.parts(parts, sizes, plan), like, zero=o.static))
        start = [arrays.take((batch, *_shape(o, sizes)), o, 1, (), like, zero=False) for o in k.states]
        self.run("backward", arrays, like.dtype, plan, checkpoints)
        return [*(_gradient(x, o, parts) for x, o, parts in zip(found, k.inputs, k.gradients)), *start]

    def _given(self, arrays: _Arrays, tensors: Sequence[Tensor]) -> None:
        k = self.kernel
        for x, o in zip(tensors, (*k.inputs, *k.states)):
            lead = 0 if o.static else 2
            arrays.give(x, o, lead if len(arrays.pointers) < len(k.inputs) else 1)

    def parts(self, labels: Sequence[int], sizes: dict[int, int], plan: Any) -> list[int]:
        return [plan[1] if x == self.kernel.vector else sizes[x] for x in labels]

    def plan(self, dtype: torch.dtype, batch: int) -> Any:
        """Block, blocks, tasks, numbers of state a task, chunk, threads; as a C array."""
        k = self.kernel
        threads = torch.get_num_threads()
        key = (dtype, batch, self.dims, self.steps, threads)
        if key not in k.plans:
            if len(k.plans) > 1000:  # lengths that never come again
                k.plans.clear()
            out = (ctypes.c_int64 * 6)()
            function = getattr(k.library(dtype), f"{k.name}_plan")
            for n in (threads, 1):
                function(self.dims_array(), ctypes.c_int64(batch), ctypes.c_int64(n), out)
                out[5] = n
                if out[2] * out[3] * self.steps > SMALL:
                    break
            k.plans[key] = out
        return k.plans[key]

    def dims_array(self) -> Any:
        return (ctypes.c_int64 * max(1, len(self.dims)))(*self.dims)

    def run(self, kind: str, arrays: _Arrays, dtype: torch.dtype, plan: Any, checkpoints: Tensor | None) -> None:
        k = self.kernel
        pointers = (ctypes.c_void_p * len(arrays.pointers))(*arrays.pointers)
        strides = (ctypes.c_int64 * max(1, len(arrays.strides)))(*arrays.strides)
        function = getattr(k.library(dtype), f"{k.name}_{kind}")
        place = None if checkpoints is None else ctypes.c_void_p(checkpoints.data_ptr())
        failed = function(
            pointers, strides, self.dims_array(), ctypes.c_int64(self.steps), plan, ctypes.c_int64(plan[5]), place
        )
        if failed:
            raise MemoryError(f"no memory for the states of kernel `{k.name}`")


def _like(tensors: Sequence[Tensor]) -> Tensor:
    """A real tensor of the call's dtype."""
    x = tensors[-1]
    return torch.view_as_real(x) if x.is_complex() else x


def _shape(o: Operand, sizes: dict[int, int]) -> list[int]:
    return [1 if a is None else sizes[a] for a in o.axes]


def _summed(x: Tensor, parts: int) -> Tensor:
    """The parts of an array, its first axes, added up."""
    for _ in range(parts):
        x = x[0] if x.shape[0] == 1 else x.sum(0)
    return x


def _gradient(x: Tensor | None, o: Operand, parts: Sequence[int] | None) -> Tensor | None:
    """The gradient of an input from what the kernel wrote: parts added up, and the batch for a static one."""
    if x is None or parts is None:
        return None
    total = _summed(x, len(parts))
    return total.sum(0) if o.static else total


class _Differentiable(torch.autograd.Function):
    """A call with a gradient."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        found, checkpoints = call.forward(tensors, training=True)
        held = [found[k] for k in sorted(set(call.kernel.stored))]
        ctx.call, ctx.checkpoints, ctx.count = call, checkpoints, len(tensors)
        ctx.save_for_backward(*tensors, *held)
        ctx.set_materialize_grads(False)
        return tuple(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        found = ctx.call.backward(saved[: ctx.count], saved[ctx.count :], given, ctx.checkpoints)
        return (None, *found)

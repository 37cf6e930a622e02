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

__all__ = ["Native", "Operand", "Product"]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A learned matrix times a vector inside each step: which input of the kernel it is, and which state or output the
    vector is.  The matrix is [..., out, in], or (`turned`) [..., in, out].
    """

    input: int
    state: int | None
    output: int | None
    turned: bool = False


@dataclass(frozen=True, kw_only=True)
class Native:
    """One kernel of a C source.

    `vector`: the label along vector lanes.  `stored`: for each state the output that holds it at every step, if all
    have one.  `gradients`: for each input the labels of the parts of its gradient, None where it has none.

    With `products` the call gives the matrices instead of the inputs that these are, behind the other inputs, and gets
    the first `wanted` outputs.
    """

    source: str
    name: str
    vector: int | None
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    states: tuple[Operand, ...]
    stored: tuple[int, ...]
    gradients: tuple[tuple[int, ...] | None, ...]
    products: tuple[Product, ...] = ()
    wanted: int | None = None
    plans: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def __call__(
        self, inputs: Sequence[Tensor], states: Sequence[Tensor], dims: Sequence[int], steps: int | None
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Outputs, and the states after the last step.

        `inputs` are [B, T, ...] (static ones without B and T), `states` [B, ...]; with `steps` None it is a single
        step, and inputs and outputs are [B, ...].  Outputs have the promoted dtype, each state keeps its own.
        """
        operands = self.given
        if steps is None:
            inputs = [x if o.static else x.unsqueeze(1) for x, o in zip(inputs, operands)]
        tensors = [*inputs, *states]
        dtype = _real_dtype(tensors)
        working = torch.float64 if dtype == torch.float64 else torch.float32
        fitted = [_cast(x, working, o.complex) for x, o in zip(tensors, operands, strict=True)]
        kind = _CoupledCall if self.products else _Call
        call = kind(kernel=self, dims=tuple(dims), steps=1 if steps is None else steps)
        if torch.is_grad_enabled() and any(x.requires_grad for x in fitted):
            found = _Differentiable.apply(call, *fitted)
        else:
            found, _ = call.forward(fitted, training=False)
        n = len(self.outputs) if self.wanted is None else self.wanted
        outputs = [_cast(y, dtype, o.complex) for y, o in zip(found[:n], self.outputs)]
        finals = [e.to(s.dtype) for e, s in zip(found[n:], states)]
        if steps is None:
            outputs = [y.squeeze(1) for y in outputs]
        return tuple(outputs), tuple(finals)

    @cached_property
    def given(self) -> tuple[Operand, ...]:
        """What a call is given: inputs, matrices, states."""
        products = {p.input for p in self.products}
        inputs = [o for k, o in enumerate(self.inputs) if k not in products]
        matrices = [Operand((), static=True) for _ in self.products]
        return (*inputs, *matrices, *self.states)

    @cached_property
    def libraries(self) -> dict[torch.dtype, ctypes.CDLL]:
        return {}

    def library(self, dtype: torch.dtype) -> ctypes.CDLL:
        if dtype not in self.libraries:
            self.libraries[dtype] = load_library(self.source, dtype == torch.float64)
        return self.libraries[dtype]

    def __reduce__(self) -> Any:
        return _again, tuple(getattr(self, name) for name in FIELDS)


FIELDS = ("source", "name", "vector", "inputs", "outputs", "states", "stored", "gradients", "products", "wanted")


def _again(*values: Any) -> Native:
    return Native(**dict(zip(FIELDS, values, strict=True)))


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
        """The size of each label: the states, which come last, carry them all."""
        found: dict[int, int] = {}
        for o, x in zip(self.kernel.states, tensors[-len(self.kernel.states) :]):
            found |= {a: n for a, n in zip(o.axes, x.shape[1:], strict=True) if a is not None}
        return found

    def forward(self, tensors: Sequence[Tensor], training: bool) -> tuple[list[Tensor], Any]:
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
            self._give_gradient(arrays, given[place], o, 2 if place < len(k.outputs) else 1, sizes, like, batch)
        found = self._take_gradients(arrays, sizes, plan, like, batch)
        start = [arrays.take((batch, *_shape(o, sizes)), o, 1, (), like, zero=False) for o in k.states]
        self.run("backward", arrays, like.dtype, plan, checkpoints)
        return [*(_gradient(x, o, parts) for x, o, parts in zip(found, k.inputs, k.gradients)), *start]

    def _give_gradient(
        self, arrays: _Arrays, g: Tensor | None, o: Operand, lead: int, sizes: dict[int, int], like: Tensor, batch: int
    ) -> None:
        """The gradient of an output or final state; zero where there is none."""
        if g is None:
            dtype = torch.promote_types(like.dtype, torch.complex64) if o.complex else like.dtype
            zero = torch.zeros(_shape(o, sizes), dtype=dtype)
            g = zero.expand(*(batch, self.steps)[:lead], *zero.shape)
        arrays.give(g.resolve_conj().resolve_neg(), o, lead)

    def _take_gradients(
        self, arrays: _Arrays, sizes: dict[int, int], plan: Any, like: Tensor, batch: int
    ) -> list[Tensor | None]:
        """Memory for the gradients of the inputs; None for one that has none."""
        found: list[Tensor | None] = []
        for o, parts in zip(self.kernel.inputs, self.kernel.gradients):
            if parts is None:
                found.append(None)
                continue
            shape = (batch, *(() if o.static else (self.steps,)), *_shape(o, sizes))
            lead = 1 if o.static else 2
            found.append(arrays.take(shape, o, lead, self.parts(parts, sizes, plan), like, zero=o.static))
        return found

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
            out = (ctypes.c_int64 * 8)()
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


def _panels(m: Tensor, columns: int) -> Tensor:
    """[..., k, n] as [..., panels, k, columns], the last panel filled with zeros."""
    n = m.shape[-1]
    whole = torch.nn.functional.pad(m, (0, -n % columns))
    return whole.unflatten(-1, (-1, columns)).transpose(-3, -2).contiguous()


@dataclass(frozen=True, slots=True, kw_only=True)
class _CoupledCall(_Call):
    """A call of a kernel with products: `tensors` are inputs, matrices, states."""

    def _parted(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor | None], list[Tensor], list[Tensor]]:
        """Inputs by their place (None: a product), matrices, states."""
        k = self.kernel
        places = {p.input for p in k.products}
        rest = iter(tensors)
        inputs = [None if i in places else next(rest) for i in range(len(k.inputs))]
        return inputs, [next(rest) for _ in k.products], list(rest)

    def _matrices(self, arrays: _Arrays, matrices: Sequence[Tensor], plan: Any, backward: bool) -> None:
        for p, m in zip(self.kernel.products, matrices):
            panels = _panels(m.detach() if p.turned != backward else m.detach().mT, plan[7])
            arrays.alive.append(panels)
            arrays.pointers.append(panels.data_ptr())
            arrays.strides += panels.stride()[:-3]

    def _rows(
        self, arrays: _Arrays, o: Operand, sizes: dict[int, int], batch: int, like: Tensor, every: bool
    ) -> Tensor:
        """Whole vectors [B, T, ...] that products write to; of one step only unless `every`."""
        shape = _shape(o, sizes)
        n = shape[-1]
        x = like.new_empty(batch, self.steps if every else 1, *shape[:-1], n + (-n % 64))[..., :n]
        arrays._put(x if every else x.expand(-1, self.steps, *shape), o, 2, 0)
        return x

    def forward(self, tensors: Sequence[Tensor], training: bool) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Outputs and final states; then products, vectors and states of all steps, which `backward` needs."""
        k = self.kernel
        like, batch = tensors[-1], tensors[-1].shape[0]
        sizes, plan = self.sizes(tensors), self.plan(like.dtype, batch)
        inputs, matrices, states = self._parted(tensors)
        arrays = _Arrays(vector=k.vector)
        kept: list[Tensor] = []
        for x, o in zip(inputs, k.inputs):
            if x is None:
                kept.append(self._rows(arrays, o, sizes, batch, like, training))
            else:
                arrays.give(x, o, 0 if o.static else 2)
        for x, o in zip(states, k.states):
            arrays.give(x, o, 1)
        found: list[Tensor] = []
        for at, o in enumerate(k.outputs):
            if k.wanted is not None and at >= k.wanted:
                kept.append(self._rows(arrays, o, sizes, batch, like, training))
            else:
                shape = (batch, self.steps, *_shape(o, sizes))
                found.append(arrays.take(shape, o, 2, self.parts(o.parts, sizes, plan), like, zero=False))
        for o in k.states:
            found.append(arrays.take((batch, *_shape(o, sizes)), o, 1, (), like, zero=False))
        for o in k.states:
            shape = (batch, self.steps if training else 1, *_shape(o, sizes))
            kept.append(arrays.take(shape, o, 2, (), like, zero=False))
        self._matrices(arrays, matrices, plan, backward=False)
        self.run("forward", arrays, like.dtype, plan, kept[-1] if training else None)
        outputs = (*k.outputs[: k.wanted], *k.states)
        return [_summed(x, len(o.parts)) for x, o in zip(found, outputs, strict=True)], tuple(kept)

    def backward(
        self, tensors: Sequence[Tensor], held: Sequence[Tensor], given: Sequence[Tensor | None], checkpoints: Any
    ) -> list[Tensor | None]:
        k = self.kernel
        like, batch = tensors[-1], tensors[-1].shape[0]
        sizes, plan = self.sizes(tensors), self.plan(like.dtype, batch)
        inputs, matrices, states = self._parted(tensors)
        arrays = _Arrays(vector=k.vector)
        wanted = len(k.outputs) if k.wanted is None else k.wanted
        kept = iter(checkpoints)
        for x, o in zip(inputs, k.inputs):
            arrays.give(next(kept) if x is None else x, o, 0 if o.static else 2)
        for x, o in zip(states, k.states):
            arrays.give(x, o, 1)
        vectors = {at: next(kept) for at in range(wanted, len(k.outputs))}
        before = list(kept)
        gradients = iter(given)
        for at, o in enumerate(k.outputs):
            if at >= wanted:
                self._rows(arrays, o, sizes, batch, like, every=False)
            else:
                self._give_gradient(arrays, next(gradients), o, 2, sizes, like, batch)
        for o in k.states:
            self._give_gradient(arrays, next(gradients), o, 1, sizes, like, batch)
        found = self._take_gradients(arrays, sizes, plan, like, batch)
        start = [arrays.take((batch, *_shape(o, sizes)), o, 1, (), like, zero=False) for o in k.states]
        for x, o in zip(before, k.states):
            arrays.give(x, o, 2)
        self._matrices(arrays, matrices, plan, backward=True)
        self.run("backward", arrays, like.dtype, plan, None)
        total = [_gradient(x, o, parts) for x, o, parts in zip(found, k.inputs, k.gradients)]
        weights = []
        for p in k.products:
            vector = before[p.state] if p.state is not None else vectors[p.output]  # type: ignore[index]
            out = found[p.input]
            assert out is not None
            weights.append(_outer_products(vector, out) if p.turned else _outer_products(out, vector))
        return [*(total[i] for i, x in enumerate(inputs) if x is not None), *weights, *start]


def _outer_products(a: Tensor, b: Tensor) -> Tensor:
    """sum over batch and time of a b^T: [B, T, *per, n] and [B, T, *per, m] to [*per, n, m]."""
    a, b = a.flatten(0, 1), b.flatten(0, 1)
    return torch.movedim(a, 0, -1) @ torch.movedim(b, 0, -2)


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

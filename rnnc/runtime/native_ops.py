"""C kernels as PyTorch sees them: an autograd function for plain tensors, operators for tracers and transforms.

`rnnc::kernel` and `rnnc::kernel_backward` name a kernel by its key, so that a compiled or exported graph holds no
Python object; importing the emitted module makes the key known.  Their shapes follow from those of the tensors, with
symbolic sizes too.  `vmap` puts the mapped axis into the batch.  The backward of a kernel is C and has no derivative.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rnnc.runtime._compat import operator

if TYPE_CHECKING:
    from rnnc.runtime.native import Native
    from rnnc.runtime.native_call import Call
    from rnnc.runtime.native_frame import Operand

__all__ = ["KERNELS", "Differentiable", "kernel_operator", "run_traced"]

KERNELS: dict[str, Native] = {}
Given = Sequence["Tensor | None"]


def find(key: str) -> Native:
    if key not in KERNELS:
        raise RuntimeError(
            f"the kernel `{key}` of a compiled or exported program is not known in this process: import the emitted "
            "module that it was made from (or compile its spec again) before the program runs"
        )
    return KERNELS[key]


def refuse(name: str) -> RuntimeError:
    return RuntimeError(
        f"the backward of the C kernel `{name}` has no derivative of its own, so it cannot be differentiated twice: "
        'compile the spec with backend="torch", whose scans can'
    )


# ---------------------------------------------------------------- plain tensors


class Differentiable(torch.autograd.Function):
    """A call with a gradient."""

    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        found, checkpoints = call.forward(tensors, training=True)
        held = [found[k] for k in sorted(set(call.kernel.stored))]
        ctx.call, ctx.checkpoints, ctx.count = call, checkpoints, len(tensors)
        ctx.save_for_backward(*tensors, *held)
        ctx.set_materialize_grads(False)
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        tensors, held = saved[: ctx.count], saved[ctx.count :]
        if torch.is_grad_enabled():  # a graph of the backward is wanted
            found = Adjoint.apply(ctx.call, ctx.checkpoints, len(tensors), len(held), *tensors, *held, *given)
            return (None, *found)
        return (None, *ctx.call.backward(tensors, held, given, ctx.checkpoints))


class Adjoint(torch.autograd.Function):
    """The backward of a call as a function in a graph, which says at its own backward that it has none."""

    @staticmethod
    def forward(
        ctx: Any, call: Call, checkpoints: Any, tensors: int, held: int, *rest: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        ctx.name = call.kernel.name
        whole = [x for x in rest[: tensors + held] if x is not None]
        return tuple(call.backward(whole[:tensors], whole[tensors:], rest[tensors + held :], checkpoints))

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise refuse(ctx.name)


# ---------------------------------------------------------------- operators


def _kernel(key: str, tensors: Sequence[Tensor], dims: Sequence[int], steps: int) -> list[Tensor]:
    """Outputs and final states; sequences have an axis of time."""
    call = find(key).call(list(tensors), tuple(dims), steps)
    return call.forward(list(tensors), training=False)[0]


def _kernel_backward(
    key: str, tensors: Sequence[Tensor], held: Sequence[Tensor], given: Given, dims: Sequence[int], steps: int
) -> list[Tensor]:
    """Gradients of the tensors that have one.  What a kernel leaves for its backward has no size that a tracer could
    know: where it leaves something, the forward is run again."""
    kernel = find(key)
    call = kernel.call(list(tensors), tuple(dims), steps)
    checkpoints = None if kernel.stored else call.forward(list(tensors), training=True)[1]
    found = [x for x in call.backward(list(tensors), list(held), list(given), checkpoints) if x is not None]
    memory = [x.untyped_storage().data_ptr() for x in found]
    return [x.clone() if memory.count(m) > 1 else x for x, m in zip(found, memory, strict=True)]  # no two share any


kernel_operator = operator("kernel", "(str key, Tensor[] tensors, SymInt[] dims, SymInt steps) -> Tensor[]", _kernel)
backward_operator = operator(
    "kernel_backward",
    "(str key, Tensor[] tensors, Tensor[] held, Tensor?[] given, SymInt[] dims, SymInt steps) -> Tensor[]",
    _kernel_backward,
)


def _empty(like: Tensor, o: Operand, shape: Sequence[Any]) -> Tensor:
    real = like.dtype.to_real()
    return like.new_empty(shape, dtype=torch.promote_types(real, torch.complex64) if o.complex else real)


def _sizes(kernel: Native, tensors: Sequence[Tensor]) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for o, x in zip(kernel.states, tensors[len(tensors) - len(kernel.states) :]):
        found |= {a: n for a, n in zip(o.axes, x.shape[1:]) if a is not None}
    return found


@kernel_operator.register_fake
def _(key: str, tensors: Sequence[Tensor], dims: Sequence[int], steps: int) -> list[Tensor]:
    kernel = find(key)
    sizes, last = _sizes(kernel, tensors), tensors[-1]

    def core(o: Operand) -> list[Any]:
        return [1 if a is None else sizes[a] for a in o.axes]

    outputs = [_empty(last, o, (last.shape[0], steps, *core(o))) for o in kernel.outputs[: kernel.count]]
    return [*outputs, *(_empty(last, o, (last.shape[0], *core(o))) for o in kernel.states)]


@backward_operator.register_fake
def _(
    key: str, tensors: Sequence[Tensor], held: Sequence[Tensor], given: Given, dims: Sequence[int], steps: int
) -> list[Tensor]:
    return [x.new_empty(x.shape) for x, has in zip(tensors, differentiated(find(key))) if has]


def differentiated(kernel: Native) -> list[bool]:
    """Which of the tensors of a call have a gradient."""
    products = {p.input for p in kernel.products}
    inputs = [parts is not None for k, parts in enumerate(kernel.gradients) if k not in products]
    starts = [True for p in kernel.products if p.start]
    return [*inputs, *starts, *(True for _ in kernel.products), *(True for _ in kernel.states)]


# ---------------------------------------------------------------- their derivatives


def _save(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    key, tensors, dims, steps = inputs
    held = [output[k] for k in sorted(set(find(key).stored))]
    ctx.key, ctx.dims, ctx.steps, ctx.count = key, dims, steps, len(tensors)
    ctx.save_for_backward(*tensors, *held)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, given: list[Tensor | None]) -> tuple[Any, ...]:
    tensors, held = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
    found = iter(backward_operator(ctx.key, tensors, held, given, ctx.dims, ctx.steps))
    whole = [next(found) if has else None for has in differentiated(find(ctx.key))]
    return None, whole, None, None


kernel_operator.register_autograd(_differentiate, setup_context=_save)


def _name(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    ctx.name = find(inputs[0]).name


def _refuse(ctx: Any, *_: Any) -> Any:
    raise refuse(ctx.name)


backward_operator.register_autograd(_refuse, setup_context=_name)


class Transformed(torch.autograd.Function):
    """The operator with the same derivative, as `vmap` and `grad` of `torch.func` want it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(key: str, dims: list[int], steps: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(kernel_operator(key, list(tensors), dims, steps))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        key, dims, steps, *tensors = inputs
        _save(ctx, (key, tensors, dims, steps), list(output))

    @staticmethod
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Any, ...]:
        tensors, held = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        found = iter(
            TransformedAdjoint.apply(ctx.key, ctx.dims, ctx.steps, len(tensors), len(held), *tensors, *held, *given)
        )
        return None, None, None, *(next(found) if has else None for has in differentiated(find(ctx.key)))


class TransformedAdjoint(torch.autograd.Function):
    """The operator of the backward, which says that it has no derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        key: str, dims: list[int], steps: int, tensors: int, held: int, *rest: Tensor | None
    ) -> tuple[Tensor, ...]:
        whole = [x for x in rest[: tensors + held] if x is not None]
        given = list(rest[tensors + held :])
        return tuple(backward_operator(key, whole[:tensors], whole[tensors:], given, dims, steps))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.name = find(inputs[0]).name

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise refuse(ctx.name)


def run_traced(key: str, tensors: list[Tensor], dims: list[int], steps: int) -> list[Tensor]:
    """Outputs and final states, for tracers and transforms; sequences have an axis of time."""
    if torch.compiler.is_compiling():
        return kernel_operator(key, tensors, dims, steps)  # type: ignore[no-any-return]
    return list(Transformed.apply(key, dims, steps, *tensors))


# ---------------------------------------------------------------- vmap


def _front(x: Tensor, axis: int | None, size: int) -> Tensor:
    """The mapped axis first; repeated, without taking memory, where there is none."""
    return x.unsqueeze(0).expand(size, *x.shape) if axis is None else x.movedim(axis, 0)


def _folded(tensors: Sequence[Tensor], axes: Sequence[int | None], static: Sequence[bool], size: int) -> list[Tensor]:
    """The mapped axis as the slow part of the batch; static tensors as they are."""
    found = []
    for x, axis, fixed in zip(tensors, axes, static, strict=True):
        found.append(x if fixed else _front(x, axis, size).flatten(0, 1))
    return found


@kernel_operator.register_vmap
def _(info: Any, in_dims: Any, key: str, tensors: Any, dims: Any, steps: Any) -> tuple[list[Tensor], list[int]]:
    kernel, n = find(key), info.batch_size
    static, axes = [o.static for o in kernel.given], in_dims[1]
    if any(fixed and axis is not None for fixed, axis in zip(static, axes, strict=True)):
        fronts = [_front(x, axis, n) for x, axis in zip(tensors, axes, strict=True)]
        each = [kernel_operator(key, [x[i] for x in fronts], dims, steps) for i in range(n)]
        found = [torch.stack(row) for row in zip(*each, strict=True)]
    else:
        whole = kernel_operator(key, _folded(tensors, axes, static, n), dims, steps)
        found = [y.unflatten(0, (n, y.shape[0] // n)) for y in whole]
    return found, [0] * len(found)


@backward_operator.register_vmap
def _(
    info: Any, in_dims: Any, key: str, tensors: Any, held: Any, given: Any, dims: Any, steps: Any
) -> tuple[list[Tensor], list[int]]:
    kernel, n = find(key), info.batch_size
    static = [o.static for o in kernel.given]
    _, axes, held_axes, given_axes, *_ = in_dims
    if any(static):  # a sum over the batch, which is one sum for each index of the mapped axis

        def at(i: int, xs: Any, where: Any) -> list[Any]:
            return [None if x is None else x if a is None else x.select(a, i) for x, a in zip(xs, where, strict=True)]

        each = [
            backward_operator(key, at(i, tensors, axes), at(i, held, held_axes), at(i, given, given_axes), dims, steps)
            for i in range(n)
        ]
        found = [torch.stack(row) for row in zip(*each, strict=True)]
    else:

        def fold(xs: Any, where: Any) -> list[Any]:
            return [None if x is None else _front(x, a, n).flatten(0, 1) for x, a in zip(xs, where, strict=True)]

        whole = backward_operator(key, fold(tensors, axes), fold(held, held_axes), fold(given, given_axes), dims, steps)
        found = [y.unflatten(0, (n, y.shape[0] // n)) for y in whole]
    return found, [0] * len(found)

"""Operators of `torch.library` under the transforms of `torch.func`.

PyTorch's own operators with a registered derivative cannot be met by `torch.func.grad` and its kin; an
`autograd.Function` with `setup_context` can.  `functional` makes one of the same formulas, for where a transform is
active; everywhere else the operator itself is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = ["functional"]


class _Context:
    """What an operator's formulas keep from forward to backward."""

    saved_tensors: tuple[Tensor | None, ...] = ()

    def set_materialize_grads(self, value: bool) -> None:
        """Transforms fill with zeros what has no gradient, whatever `value` says."""

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        self.saved_tensors = tensors


class _Call:
    """One call: the operator, its formulas, and how its arguments and results are made of tensors."""

    def __init__(self, run: Callable[..., Any], setup: Callable[..., None], derivative: Callable[..., Any]) -> None:
        self.run, self.setup, self.derivative = run, setup, derivative
        self.context = _Context()
        self.results: Any = None

    def flattened(self, arguments: Sequence[Any]) -> list[Tensor]:
        """The tensors among the arguments; the rest stays here."""
        leaves, self.arguments = pytree.tree_flatten(tuple(arguments))
        self.fixed = [None if isinstance(x, Tensor) else x for x in leaves]
        self.places = [k for k, x in enumerate(leaves) if isinstance(x, Tensor)]
        return [leaves[k] for k in self.places]

    def restored(self, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
        leaves = list(self.fixed)
        for k, x in zip(self.places, tensors, strict=True):
            leaves[k] = x
        found: tuple[Any, ...] = pytree.tree_unflatten(leaves, self.arguments)
        return found

    def gradients(self, saved: Sequence[Tensor | None], given: Sequence[Tensor | None]) -> Iterator[Tensor | None]:
        """Of the tensors among the arguments."""
        self.context.saved_tensors = tuple(saved)
        structured = pytree.tree_unflatten(list(given), self.results)
        found = self.derivative(self.context, *([structured] if isinstance(structured, list) else structured))
        by_place: dict[int, Tensor | None] = {}
        _match(found, pytree.tree_unflatten([*range(len(self.fixed))], self.arguments), by_place)
        return (by_place.get(k) for k in self.places)


def _match(gradients: Any, places: Any, found: dict[int, Tensor | None]) -> None:
    """Where an argument is a list, so is its gradient; None stands for one without any."""
    if isinstance(places, (list, tuple)):
        for g, at in zip([None] * len(places) if gradients is None else gradients, places):
            _match(g, at, found)
    else:
        found[places] = gradients


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(call: _Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        found, call.results = pytree.tree_flatten(call.run(*call.restored(tensors)))
        return tuple(found)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        call, *tensors = inputs
        call.setup(call.context, call.restored(tensors), pytree.tree_unflatten(list(output), call.results))
        ctx.save_for_backward(*call.context.saved_tensors)
        call.context.saved_tensors = ()
        ctx.call = call

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        found = _Derivative.apply(ctx.call, len(gradients), *gradients, *ctx.saved_tensors)  # type: ignore[no-untyped-call]
        return None, *found


class _Derivative(torch.autograd.Function):
    """The gradients, as values: kernels have no second derivative."""

    @staticmethod
    def forward(call: _Call, count: int, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(call.gradients(tensors[count:], tensors[:count]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        return

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[None, ...]:
        raise RuntimeError(
            'Triton kernels can be differentiated once: for second derivatives compile the spec with backend="torch"'
        )


def functional(operator: Any, setup: Callable[..., None], derivative: Callable[..., Any]) -> Callable[..., Any]:
    """`operator`, that `torch.func` can differentiate once as well; `setup` and `derivative` as registered with it."""

    def run(*arguments: Any) -> Any:
        if torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active():
            return operator(*arguments)
        call = _Call(run, setup, derivative)
        left = operator._opoverload._schema.arguments[len(arguments) :]
        found = _Function.apply(call, *call.flattened([*arguments, *(a.default_value for a in left)]))  # type: ignore[no-untyped-call]
        return pytree.tree_unflatten(list(found), call.results)

    return run

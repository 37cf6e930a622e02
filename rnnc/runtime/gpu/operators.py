"""One way to declare the PyTorch operators of kernels that go from step to step.

`declare` registers `rnnc::NAME` and `rnnc::NAME_backward` with `torch.library`: `torch.compile` and `torch.export` keep
each as one node, with shapes from fake kernels, and the derivative is the second one.  Their first argument is the key
of a `Recurrence`, which a generated file registers when it is imported; lists of tensors are as its descriptors say.
An operator's file says what is launched and what shapes that gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rnnc.runtime.gpu.arrange import lead_of
from rnnc.runtime.gpu.buffers import accumulator_of, added_up, divided, gradient_buffers
from rnnc.runtime.gpu.functional import functional
from rnnc.runtime.gpu.problem import Problem
from rnnc.runtime.gpu.tuning import Config

if TYPE_CHECKING:
    from rnnc.runtime.gpu.recurrence import Recurrence

__all__ = ["REGISTRY", "Call", "declare"]

REGISTRY: dict[str, Recurrence] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What an operator is told beside its arrays.

    `p` has the kernels and the sizes; `longest` are the steps of the longest sequence; with `bounds` (int64, on the
    device) sequences are packed; `keep`: a backward follows, and reads what the forward has kept; `acc`: the dtype of
    the arithmetic.
    """

    p: Problem
    longest: int
    bounds: Tensor | None
    keep: bool
    acc: torch.dtype

    def fastest(
        self,
        role: str,
        dtypes: Sequence[torch.dtype],
        options: Callable[[], Sequence[Config]],
        run: Callable[[Call], list[Tensor]],
    ) -> list[Tensor]:
        """What `run`, all of a role's work, gives in the configuration that takes it the least time."""
        p = self.p.tuned(role, dtypes, options, lambda q: run(replace(self, p=q)))
        return run(replace(self, p=p))


Forward = Callable[[Call, list[Tensor], list[Tensor]], list[Tensor]]
Backward = Callable[[Call, list[Tensor], list[Tensor], list[Tensor], list[Tensor]], list[Tensor]]


def declare(name: str, *, forward: Forward, results: Forward, backward: Backward) -> Callable[..., list[Tensor]]:
    """The operator `rnnc::name`, as a function of `(key, inputs, states, numbers, steps, longest, bounds)`.

    `forward(call, inputs, states)` launches: outputs, last states, and what is kept; `results` are empty arrays of the
    same shapes and dtypes.  `backward(call, inputs, kept, d_outputs, d_last)` gives the gradients of the inputs that
    have one, of the matrices behind those that the descriptors name, and of the initial states (in the dtype of the
    arithmetic).  `numbers` are the cell's dims and the sizes of labels, see `Recurrence.problem`.
    """

    def run(
        key: str,
        inputs: list[Tensor],
        states: list[Tensor],
        numbers: list[int],
        steps: int,
        longest: int,
        bounds: Tensor | None,
        keep: bool,
    ) -> list[Tensor]:
        call = _call(inputs, states, key, numbers, steps, longest, bounds, keep)
        with torch.cuda.device_of(states[0]):  # Triton launches on the current device, wherever its arguments are
            return forward(call, inputs, states)

    def run_back(
        key: str,
        inputs: list[Tensor],
        kept: list[Tensor],
        d_outputs: list[Tensor],
        d_last: list[Tensor],
        numbers: list[int],
        steps: int,
        longest: int,
        bounds: Tensor | None,
    ) -> list[Tensor]:
        call = _call([*inputs, *kept, *d_outputs], d_last, key, numbers, steps, longest, bounds)
        with torch.cuda.device_of(d_last[0]):
            return backward(call, inputs, kept, d_outputs, d_last)

    operator = torch.library.custom_op(f"rnnc::{name}", run, mutates_args=())
    operator_back = torch.library.custom_op(f"rnnc::{name}_backward", run_back, mutates_args=())

    operator.register_fake(lambda key, xs, states, *told: results(_call(xs, states, key, *told), xs, states))
    operator_back.register_fake(
        lambda key, xs, kept, d_outputs, d_last, *told: _gradients(
            _call([*xs, *kept, *d_outputs], d_last, key, *told), xs, d_last
        )
    )

    def derivative(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
        return _derivative(operator_back, ctx, grads)

    operator.register_autograd(derivative, setup_context=_setup)
    differentiable = functional(operator, _setup, derivative)

    def called(key: str, inputs: list[Tensor], states: list[Tensor], *rest: Any) -> list[Tensor]:
        keep = torch.is_grad_enabled() and any(x.requires_grad for x in (*inputs, *states))
        found: list[Tensor] = differentiable(key, inputs, states, *rest, keep)
        return found

    return called


def _call(
    others: Sequence[Tensor],
    states: Sequence[Tensor],
    key: str,
    numbers: Sequence[int],
    steps: int,
    longest: int,
    bounds: Tensor | None,
    keep: bool = True,
) -> Call:
    """`states`, or their gradients, have the sequences first; `others` begin with the inputs."""
    of = REGISTRY[key]
    itemsize = max((x.dtype.itemsize for x, d in zip(others, of.inputs) if lead_of(d)), default=2)
    p = of.problem(states[0].shape[0], numbers, steps, bounds is not None, itemsize)
    return Call(p=p, longest=longest, bounds=bounds, keep=keep, acc=accumulator_of(*others, *states))


def _gradients(call: Call, inputs: list[Tensor], d_last: list[Tensor]) -> list[Tensor]:
    """Empty arrays of the shapes and dtypes that a backward gives."""
    p, of = call.p, call.p.of
    given, states = divided(added_up(p, gradient_buffers(p, inputs, d_last[0], call.acc), inputs), len(of.gradients))
    matrices = inputs[len(of.inputs) :]
    return [*given, *(torch.empty_like(w, memory_format=torch.contiguous_format) for w in matrices), *states]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    ctx.set_materialize_grads(False)  # what is kept has no gradient: zeros of its size would be written
    key, given, states, *told, _ = inputs
    *ctx.told, bounds = told
    of = REGISTRY[key]
    count = len(of.outputs) + len(states)
    ctx.of = of
    ctx.dtypes = [h.dtype for h in states]
    ctx.shapes = [(y.shape, y.dtype) for y in output[:count]]
    ctx.counts = (len(given), len(output) - count)
    ctx.save_for_backward(*given, *output[count:], *([] if bounds is None else [bounds]))


def _derivative(backward: Callable[..., list[Tensor]], ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
    of, numbers = ctx.of, ctx.told[0]
    inputs, kept, rest = divided(list(ctx.saved_tensors), *ctx.counts)
    like = ctx.saved_tensors[0]
    full = [like.new_zeros(shape, dtype=t) if g is None else g for g, (shape, t) in zip(grads, ctx.shapes)]
    d_outputs, d_last = divided(full, len(of.outputs))
    bounds = rest[0] if rest else None
    found = backward(of.key, inputs, kept, d_outputs, d_last, *ctx.told, bounds)
    given, matrices, states = divided(found, len(of.gradients), len(inputs) - len(of.inputs))
    by_input: list[Tensor | None] = [None] * len(of.inputs)
    for k, g in zip(of.gradients, given, strict=True):
        by_input[k] = g
    start = [g.to(t) for g, t in zip(states, ctx.dtypes, strict=True)]
    no_numbers: list[int] | None = None if numbers else []  # an empty list counts as one of tensors
    return None, [*by_input, *matrices], start, no_numbers, None, None, None, None

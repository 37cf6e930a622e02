"""Runs the kernels of a step with products of learned matrices (LSTM, GRU, sLSTM, ...), and says where they serve.

One program holds whole matrices on chip for all steps, so a head has to be small: `CoupledRecurrence.on_chip` says
whether it is, and larger ones run step by step (`rnnc.runtime.gpu.stepped`).  The operators `rnnc::coupled` and
`rnnc::coupled_backward` are registered like those of `rnnc.runtime.gpu.recurrence`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rnnc.runtime.gpu.arrange import lead_of
from rnnc.runtime.gpu.compat import LAUNCH, interpreted
from rnnc.runtime.gpu.functional import functional
from rnnc.runtime.gpu.problem import Problem
from rnnc.runtime.gpu.recurrence import (
    REGISTRY,
    Recurrence,
    accumulator_of,
    added_up,
    divided,
    empty,
    gradient_buffers,
)
from rnnc.runtime.gpu.stepped import Phase, Side, call_stepped, longest
from rnnc.runtime.gpu.tuner import FEW
from rnnc.runtime.gpu.tuning import ROWS, Config, coupled_config, fast_memory, machine, on_chip
from rnnc.runtime.layout import common_dtype

__all__ = ["CoupledRecurrence", "Product"]

LONGEST = {"amd": 64}  # entries of vectors of several lengths, 128 elsewhere: with longer ones registers spill
LOW = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
}


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def device() -> tuple[int, bool, int]:
    """Of this device: bytes for matrices, whether it multiplies matrices of float64, and LONGEST; a constant when
    traced.
    """
    return fast_memory(), interpreted(), LONGEST.get(machine(), 128)


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A matrix times a vector of the step.

    `weight` names the matrix's axes: labels of outer axes, then "oi" or (transposed) "io".  The vector is the state
    `state` before the step, or the `vector`-th value that the step computes for products.  The result's gradient is the
    one of the `shared`-th input, or else has an array of its own.  `axes`: the result's, as a descriptor.
    """

    weight: str
    axes: str
    state: int | None = None
    vector: int | None = None
    shared: int | None = None
    kept: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CoupledRecurrence(Recurrence):
    """A `Recurrence` whose last inputs are the matrices of `products`.

    `kept` are places of the states whose values before every step the backward reads; `vectors` the descriptors of the
    vectors that a step computes for products.  The rest is of use where matrices do not fit on chip: see `stepped`
    (`entries` are states that the backward reads entry by entry, `whole` says that a kernel sums over vectors).
    """

    products: tuple[Product, ...]
    kept: tuple[int, ...]
    vectors: tuple[str, ...] = ()
    sides: tuple[Side, ...] = ()
    entries: tuple[int, ...] = ()
    steps: tuple[Phase, ...] = ()
    steps_back: tuple[Phase, ...] = ()
    whole: bool = False

    @property
    def labels(self) -> list[str]:
        return sorted({x for d in (*self.states, *(p.axes for p in self.products)) for x in d if x.isupper()})

    def _sizes(self, states: Sequence[Tensor], more: Sequence[Tensor]) -> dict[str, int]:
        """Vectors that are as long as no state are as long as a matrix has rows."""
        found = {p.axes[-1]: w.shape[p.weight.index("o")] for p, w in zip(self.products, more, strict=True)}
        return found | Recurrence._sizes(self, states, more)  # super() knows no class that is made with slots

    def on_chip(self, sizes: Mapping[str, int], dtype: torch.dtype) -> bool:
        """Whether all matrices of a head fit on chip, for vectors of so many entries and products in `dtype`."""
        room, doubles, most = device()
        if len(self.axes.inner) > 1 and max(sizes[x] for x in self.axes.inner) > most:
            return False
        needed = on_chip([self.ends(p, sizes) for p in self.products], dtype.itemsize)
        return needed <= room and (doubles or dtype != torch.float64)

    def ends(self, p: Product, sizes: Mapping[str, int]) -> tuple[int, int]:
        """The entries of what a product multiplies and of its result, given those of the inner labels."""
        vector = self.states[p.state] if p.state is not None else self.vectors[p.vector or 0]
        return sizes[vector[-1]], sizes[p.axes[-1]]

    def config(
        self, role: str, sizes: Mapping[str, int], itemsize: int, machine: str, fast: int | None = None
    ) -> Config:
        """Sizes of blocks for one of the kernels, given the entries of the inner labels, and products of `itemsize`
        bytes.

        `fast`: the bytes on chip that a program may use, by default those of a large GPU.
        """
        streams = sum(bool(lead_of(d)) for d in self.inputs)
        kept = 0
        if role == "backward":
            streams += len(self.outputs)
            kept = len(self.kept) + sum(p.kept for p in self.products)
        size = max(sizes[x] for x in self.axes.inner)
        stage = ROWS * max(16, 1 << (size - 1).bit_length()) * (streams * itemsize + kept * max(4, itemsize))
        matrices = on_chip([self.ends(p, sizes) for p in self.products], itemsize)
        least = min(sizes[x] for x in self.axes.inner)
        return coupled_config(role, size, matrices, max(stage, 1), itemsize, machine, fast, least)

    def blocks(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Compile-time arguments: the entries of vectors, and the powers of two that hold them."""
        found: dict[str, int] = {}
        for name, label in zip("NMLRJ", self.axes.inner):
            found |= {name: sizes[label], f"B{name}": max(16, triton.next_power_of_2(sizes[label]))}
        return found

    def run(
        self, inputs: list[Tensor], states: list[Tensor], numbers: list[int], steps: int, bounds: Tensor | None
    ) -> list[Tensor]:
        count = len(inputs) - len(self.products)
        streams = [x for x, d in zip(inputs[:count], self.inputs) if lead_of(d)]
        low = common_dtype(*(streams or inputs[count:]))
        given = [*inputs[:count], *(w.to(low) for w in inputs[count:])]
        keep = torch.is_grad_enabled() and any(x.requires_grad for x in (*given, *states))
        found: list[Tensor]
        sizes = self.problem(1, numbers, steps, False).sizes
        if self.on_chip(sizes, low):
            found = call_coupled(self.key, given, states, numbers, steps, bounds, keep)
        else:
            most = longest(steps, bounds)
            found = call_stepped(self.key, given, states, numbers, steps, most, bounds, keep)
        return found

    def arrange_more(self, inputs: Sequence[Tensor], sizes: dict[str, int]) -> list[Tensor]:
        return [self._matrix(w, p, sizes) for w, p in zip(inputs, self.products, strict=True)]

    def _matrix(self, w: Tensor, p: Product, sizes: dict[str, int]) -> Tensor:
        """A matrix as [g, o, i] (without g where there is none)."""
        names = list(p.weight)
        for dim in reversed([k for k, a in enumerate(names) if a == "1"]):
            w = w.squeeze(dim)
            names.pop(dim)
        for label in self.axes.grid:
            if label not in names:
                names.insert(0, label)
                w = w.unsqueeze(0)
        order = [*self.axes.grid, "o", "i"]
        w = w.permute([names.index(a) for a in order])
        w = w.expand([sizes[a] if a in self.axes.grid else n for a, n in zip(order, w.shape, strict=True)])
        return w.flatten(0, len(self.axes.grid) - 1) if len(self.axes.grid) > 1 else w


def _config(p: Problem, role: str, low: torch.dtype) -> Config:
    assert isinstance(p.of, CoupledRecurrence)
    return p.chosen or p.of.configs.get(()) or p.of.config(role, p.sizes, low.itemsize, machine(), fast_memory())


def _options(p: Problem, role: str, low: torch.dtype) -> list[Config]:
    """Configurations worth a measurement: how many warps share a step, what is read ahead, and whether the assembler
    may use all registers.
    """
    default = _config(p, role, low)
    others = [replace(default, warps=w) for w in (default.warps // 2, 2 * default.warps)]
    others += [replace(default, stages=s) for s in (1, 2) if s < default.stages]
    if machine() != "amd":
        others.insert(1, replace(default, registers=0 if default.registers else 255))
    return [default, *others][:FEW]


def _launch(p: Problem, role: str, arguments: list[Any], acc: torch.dtype, low: torch.dtype, **more: Any) -> None:
    assert isinstance(p.of, CoupledRecurrence)
    config = _config(p, role, low)
    sizes = [*(p.dims[k] for k in getattr(p.of, f"{role}_dims")), p.steps]
    sizes += [*([p.heads] if p.of.axes.grid else []), p.batch]
    constants: dict[str, Any] = {**p.of.blocks(p.sizes), "BB": config.steps, "PACKED": p.packed}
    constants["STAGES"] = config.stages
    constants |= {"ACC": tl.float64 if acc == torch.float64 else tl.float32, "LOW": LOW[low], **more}
    grid = (triton.cdiv(p.batch, config.steps) * p.heads,)
    getattr(p.of, role)[grid](*arguments, *sizes, **constants, **config.launch(role, machine()), **LAUNCH)


def _weights(of: CoupledRecurrence, inputs: Sequence[Tensor]) -> list[Any]:
    """Matrices [g, o, i] and their strides."""
    return [a for w in inputs[len(of.inputs) :] for a in (w, *w.stride())]


def _problem(
    key: str, batch: int, numbers: Sequence[int], steps: int, packed: bool
) -> tuple[CoupledRecurrence, Problem]:
    of = REGISTRY[key]
    assert isinstance(of, CoupledRecurrence)
    return of, of.problem(batch, numbers, steps, packed)


def _buffers(p: Problem, inputs: Sequence[Tensor], states: Sequence[Tensor], keep: bool) -> list[Tensor]:
    """Outputs and last states; with `keep` the states before every step and the results of products."""
    of, like = p.of, states[0]
    assert isinstance(of, CoupledRecurrence)
    dtype = common_dtype(*(x for x in (*inputs, *states) if x.is_floating_point()))
    acc = accumulator_of(*inputs, *states)
    found = [empty(p.shape(d, p.streams), like, dtype) for d in of.outputs]
    found += [empty(p.shape(d, (p.batch,)), like, h.dtype) for d, h in zip(of.states, states, strict=True)]
    kept = [of.states[k] for k in of.kept] + [x.axes for x in of.products if x.kept]
    return found + [empty(p.shape(d, p.streams) if keep else (0,), like, acc) for d in kept]


@torch.library.custom_op("rnnc::coupled", mutates_args=())
def coupled(
    key: str,
    inputs: list[Tensor],
    states: list[Tensor],
    numbers: list[int],
    steps: int,
    bounds: Tensor | None,
    keep: bool,
) -> list[Tensor]:
    """Outputs, last states, and what the backward reads (empty without `keep`); `inputs` end with the matrices."""
    _, p = _problem(key, states[0].shape[0], numbers, steps, bounds is not None)

    def run(q: Problem) -> list[Tensor]:
        return forward(q, inputs, states, bounds, keep)

    low = inputs[-1].dtype
    with torch.cuda.device_of(states[0]):
        return run(p.tuned(f"forward {keep}", (low,), lambda: _options(p, "forward", low), run))


def forward(p: Problem, inputs: list[Tensor], states: list[Tensor], bounds: Tensor | None, keep: bool) -> list[Tensor]:
    of, found = p.of, _buffers(p, inputs, states, keep)
    assert isinstance(of, CoupledRecurrence)
    acc, low = accumulator_of(*inputs, *states), inputs[-1].dtype
    arguments = [bounds, *p.arguments(inputs[: len(of.inputs)]), *_weights(of, inputs)]
    arguments += [*(h.contiguous() for h in states), *found]
    _launch(p, "forward", arguments, acc, low, KEEP=keep)
    return found


@coupled.register_fake
def _(
    key: str,
    inputs: list[Tensor],
    states: list[Tensor],
    numbers: list[int],
    steps: int,
    bounds: Tensor | None,
    keep: bool,
) -> list[Tensor]:
    _, p = _problem(key, states[0].shape[0], numbers, steps, bounds is not None)
    return _buffers(p, inputs, states, keep)


def _gradients(p: Problem, inputs: Sequence[Tensor], d_last: Sequence[Tensor], acc: torch.dtype) -> list[list[Tensor]]:
    """Buffers: gradients of inputs and initial states, of products, and vectors."""
    of, low = p.of, inputs[-1].dtype
    assert isinstance(of, CoupledRecurrence)
    products = [x.axes for x in of.products if x.shared is None]
    return [
        gradient_buffers(p, inputs, d_last[0], acc),
        *([empty(p.shape(d, p.streams), inputs[-1], low) for d in some] for some in (products, of.vectors)),
    ]


@torch.library.custom_op("rnnc::coupled_backward", mutates_args=())
def coupled_backward(
    key: str,
    inputs: list[Tensor],
    kept: list[Tensor],
    d_outputs: list[Tensor],
    d_last: list[Tensor],
    numbers: list[int],
    steps: int,
    bounds: Tensor | None,
) -> list[Tensor]:
    """Gradients of the inputs that have one, of the matrices [g, o, i], and of the initial states."""
    _, p = _problem(key, d_last[0].shape[0], numbers, steps, bounds is not None)

    def run(q: Problem) -> list[Tensor]:
        return backward(q, inputs, kept, d_outputs, d_last, bounds)

    low = inputs[-1].dtype
    with torch.cuda.device_of(d_last[0]):
        return run(p.tuned("backward", (low,), lambda: _options(p, "backward", low), run))


def backward(
    p: Problem,
    inputs: list[Tensor],
    kept: list[Tensor],
    d_outputs: list[Tensor],
    d_last: list[Tensor],
    bounds: Tensor | None,
) -> list[Tensor]:
    of, acc = p.of, accumulator_of(*inputs, *kept, *d_last)
    assert isinstance(of, CoupledRecurrence)
    found, own, vectors = _gradients(p, inputs, d_last, acc)
    arguments = [bounds, *p.arguments(inputs[: len(of.inputs)]), *_weights(of, inputs), *kept]
    arguments += [g.contiguous() for g in (*d_outputs, *d_last)]
    _launch(p, "backward", [*arguments, *found, *own, *vectors], acc, inputs[-1].dtype)
    given, states = divided(added_up(p, found, inputs), len(of.gradients))
    return [*given, *_weight_gradients(of, given, own, vectors, kept, inputs), *states]


def _weight_gradients(
    of: CoupledRecurrence,
    given: Sequence[Tensor],
    own: Sequence[Tensor],
    vectors: Sequence[Tensor],
    kept: Sequence[Tensor],
    inputs: Sequence[Tensor],
) -> list[Tensor]:
    """sum over batch and time of (the product's gradient) (its vector)^T, one product of matrices each."""
    rest, found = iter(own), []
    for x, w in zip(of.products, inputs[len(of.inputs) :], strict=True):
        d = next(rest) if x.shared is None else given[of.gradients.index(x.shared)]
        v = vectors[x.vector] if x.vector is not None else kept[of.kept.index(x.state or 0)]
        d, v = (y.to(w.dtype).flatten(0, 1) for y in (d, v))
        found.append(d.movedim(0, -1) @ v.movedim(0, -2))
    return found


@coupled_backward.register_fake
def _(
    key: str,
    inputs: list[Tensor],
    kept: list[Tensor],
    d_outputs: list[Tensor],
    d_last: list[Tensor],
    numbers: list[int],
    steps: int,
    bounds: Tensor | None,
) -> list[Tensor]:
    of, p = _problem(key, d_last[0].shape[0], numbers, steps, bounds is not None)
    found, _, _ = _gradients(p, inputs, d_last, accumulator_of(*inputs, *kept, *d_last))
    given, states = divided(added_up(p, found, inputs), len(of.gradients))
    return [
        *given,
        *(torch.empty_like(w, memory_format=torch.contiguous_format) for w in inputs[len(of.inputs) :]),
        *states,
    ]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    key, given, states, numbers, steps, bounds, keep = inputs
    of = REGISTRY[key]
    count = len(of.outputs) + len(states)
    ctx.of, ctx.numbers, ctx.steps, ctx.keep = of, numbers, steps, keep
    ctx.dtypes = [h.dtype for h in states]
    ctx.shapes = [(y.shape, y.dtype) for y in output[:count]]
    ctx.counts = (len(given), len(output) - count)
    ctx.save_for_backward(*given, *output[count:], *([] if bounds is None else [bounds]))


def _derivative(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
    of = ctx.of
    inputs, kept, rest = divided(list(ctx.saved_tensors), *ctx.counts)
    full = [inputs[-1].new_zeros(s, dtype=t) if g is None else g for g, (s, t) in zip(grads, ctx.shapes)]
    d_outputs, d_last = divided(full, len(of.outputs))[0], full[len(of.outputs) : len(ctx.shapes)]
    bounds = rest[0] if rest else None
    found = coupled_backward(of.key, inputs, kept, d_outputs, d_last, ctx.numbers, ctx.steps, bounds)
    given, weights, states = divided(found, len(of.gradients), len(of.products))
    by_input: list[Tensor | None] = [None] * len(of.inputs)
    for k, g in zip(of.gradients, given):
        by_input[k] = g
    start = [g.to(t) for g, t in zip(states, ctx.dtypes, strict=True)]
    return None, [*by_input, *weights], start, None, None, None, None


coupled.register_autograd(_derivative, setup_context=_setup)
call_coupled = functional(coupled, _setup, _derivative)

"""Runs the kernels of a step with products of learned matrices (LSTM, GRU, sLSTM, ...), and says where they serve.

One program holds whole matrices on chip for all steps, so a head has to be small: `CoupledRecurrence.on_chip` says
whether it is, and larger ones run step by step (`rnnc.runtime.gpu.stepped`).
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
from rnnc.runtime.gpu.buffers import added_up, divided, empty, gradient_buffers, result_buffers
from rnnc.runtime.gpu.compat import LAUNCH, interpreted
from rnnc.runtime.gpu.operators import Call, declare
from rnnc.runtime.gpu.problem import Problem
from rnnc.runtime.gpu.recurrence import Recurrence
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
        row = max(16, 1 << (size - 1).bit_length())
        stage = ROWS * row * (streams * itemsize + kept * max(4, itemsize))
        if role == "backward":  # which may read static inputs at every step
            stage += row * 4 * sum(not lead_of(d) for d in self.inputs)
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
        if self.on_chip(self.problem(1, numbers, steps, False).sizes, low):
            return call_coupled(self.key, given, states, numbers, steps, steps, bounds)
        return call_stepped(self.key, given, states, numbers, steps, longest(steps, bounds), bounds)

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


# ---------------------------------------------------------------- the operator


def _coupled(p: Problem) -> CoupledRecurrence:
    assert isinstance(p.of, CoupledRecurrence)
    return p.of


def _config(p: Problem, role: str, low: torch.dtype) -> Config:
    of = _coupled(p)
    return p.chosen or of.configs.get(()) or of.config(role, p.sizes, low.itemsize, machine(), fast_memory())


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


def _launch(call: Call, role: str, low: torch.dtype, arguments: list[Any], **more: Any) -> None:
    p, of = call.p, _coupled(call.p)
    config = _config(p, role, low)
    sizes = [*(p.dims[k] for k in getattr(of, f"{role}_dims")), p.steps]
    sizes += [*([p.heads] if of.axes.grid else []), p.batch]
    constants: dict[str, Any] = {**of.blocks(p.sizes), "BB": config.steps, "PACKED": p.packed}
    constants["STAGES"] = config.stages
    constants |= {"ACC": tl.float64 if call.acc == torch.float64 else tl.float32, "LOW": LOW[low], **more}
    grid = (triton.cdiv(p.batch, config.steps) * p.heads,)
    getattr(of, role)[grid](*arguments, *sizes, **constants, **config.launch(role, machine()), **LAUNCH)


def _given(call: Call, inputs: Sequence[Tensor]) -> list[Any]:
    """What both kernels are given first: inputs, and matrices [g, o, i] with their strides."""
    count = len(call.p.of.inputs)
    weights = [a for w in inputs[count:] for a in (w, *w.stride())]
    return [call.bounds, *call.p.arguments(inputs[:count]), *weights]


def _buffers(call: Call, inputs: Sequence[Tensor], states: Sequence[Tensor]) -> list[Tensor]:
    """Outputs and last states; if they are kept, the states before every step and the results of products."""
    p, of = call.p, _coupled(call.p)
    kept = [of.states[k] for k in of.kept] + [x.axes for x in of.products if x.kept]
    more = [empty(p.shape(d, p.streams) if call.keep else (0,), states[0], call.acc) for d in kept]
    return result_buffers(p, inputs, states) + more


def forward(call: Call, inputs: list[Tensor], states: list[Tensor]) -> list[Tensor]:
    """Outputs, last states, and what the backward reads (empty where none follows); `inputs` end with the matrices."""
    low = inputs[-1].dtype
    return call.fastest(
        f"forward {call.keep}",
        (low,),
        lambda: _options(call.p, "forward", low),
        lambda other: run_forward(other, inputs, states),
    )


def run_forward(call: Call, inputs: list[Tensor], states: list[Tensor]) -> list[Tensor]:
    """`forward`, in the configuration that the call has."""
    found = _buffers(call, inputs, states)
    arguments = [*_given(call, inputs), *(h.contiguous() for h in states), *found]
    _launch(call, "forward", inputs[-1].dtype, arguments, KEEP=call.keep)
    return found


def backward(
    call: Call, inputs: list[Tensor], kept: list[Tensor], d_outputs: list[Tensor], d_last: list[Tensor]
) -> list[Tensor]:
    """Gradients of the inputs that have one, of the matrices [g, o, i], and of the initial states."""
    low = inputs[-1].dtype
    return call.fastest(
        "backward",
        (low,),
        lambda: _options(call.p, "backward", low),
        lambda other: run_backward(other, inputs, kept, d_outputs, d_last),
    )


def run_backward(
    call: Call, inputs: list[Tensor], kept: list[Tensor], d_outputs: list[Tensor], d_last: list[Tensor]
) -> list[Tensor]:
    """`backward`, in the configuration that the call has."""
    p, of, low = call.p, _coupled(call.p), inputs[-1].dtype
    found = gradient_buffers(p, inputs, d_last[0], call.acc)
    products = [x.axes for x in of.products if x.shared is None]
    own, vectors = ([empty(p.shape(d, p.streams), inputs[-1], low) for d in some] for some in (products, of.vectors))
    outer = [g.contiguous() for g in (*d_outputs, *d_last)]
    _launch(call, "backward", low, [*_given(call, inputs), *kept, *outer, *found, *own, *vectors])
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
    low, rest = inputs[-1].dtype, iter(own)
    flat: dict[tuple[int | None, int | None], Tensor] = {}  # each vector once: kept states are in float32
    found = []
    for x in of.products:
        d = next(rest) if x.shared is None else given[of.gradients.index(x.shared)]
        which = x.vector, x.state
        if which not in flat:
            v = vectors[x.vector] if x.vector is not None else kept[of.kept.index(x.state or 0)]
            flat[which] = v.to(low).flatten(0, 1).movedim(0, -2)
        found.append(d.to(low).flatten(0, 1).movedim(0, -1) @ flat[which])
    return found


call_coupled = declare("coupled", forward=forward, results=_buffers, backward=backward)

"""Calls of C kernels with given sizes: memory and pointers for the forward and the backward.

A `Call` is made once for tensors of one layout (shapes, strides, dtypes) and used for all later ones.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from rnnc.runtime._compat import empty_cpu
from rnnc.runtime.native_frame import Arranged, Frame, Operand

if TYPE_CHECKING:
    from rnnc.runtime.native import Native, Product

__all__ = ["Call", "Layout", "layout", "summed"]

SMALL = 2 << 20  # FLOPs of a call, and what is worth as many (`NAME_effort`), up to which one thread is faster
MOST_ARRANGED = 64  # layouts of gradients that one call remembers

Layout: TypeAlias = "tuple[Sequence[int], Sequence[int]]"  # shape and strides


def layout(x: Tensor) -> Layout:
    return x.shape, x.stride()


@dataclass(kw_only=True, eq=False)
class Call:
    """A kernel with the sizes of one call; `layouts` are those of the tensors it gets, `dtype` is the real type and
    `narrow` that of narrow arrays.

    With `single` it is one step, whose sequences have no axis of time.
    """

    kernel: Native
    dtype: torch.dtype
    narrow: torch.dtype
    dims: tuple[int, ...]
    steps: int
    single: bool
    threads: int
    layouts: tuple[Layout, ...]
    batch: int = field(init=False)
    sizes: dict[int, int] = field(init=False)
    plan: Any = field(init=False)
    dims_array: Any = field(init=False)
    functions: dict[str, Any] = field(init=False)
    arranged: dict[Any, Arranged] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError where a tensor has another shape than the C function will take it to have."""
        k = self.kernel
        self.batch = self.layouts[-1][0][0]
        self.dims_array = (ctypes.c_int64 * max(1, len(self.dims)))(*self.dims)
        library = k.library(self.dtype, self.narrow)
        labels = {a for o in (*k.inputs, *k.outputs, *k.states) for a in o.axes if a is not None}
        lengths = (ctypes.c_int64 * (max(labels, default=-1) + 2))()
        getattr(library, f"{k.name}_lengths")(self.dims_array, lengths)
        self.sizes = {a: lengths[a] for a in labels}
        self._check()
        self.functions = {kind: getattr(library, f"{k.name}_{kind}") for kind in ("forward", "backward")}
        self.plan = self._plan(getattr(library, f"{k.name}_plan"), getattr(library, f"{k.name}_effort"))

    def _check(self) -> None:
        k = self.kernel
        operands = (*k.given[: len(self.layouts) - len(k.states)], *k.states)
        matrices = len(self.layouts) - len(k.states) - len(k.products)  # where they begin: they have no labels
        for place, (o, (shape, _)) in enumerate(zip(operands, self.layouts, strict=True)):
            if matrices <= place < matrices + len(k.products):
                what, wanted = "a matrix", self._matrix(k.products[place - matrices])
            elif place >= len(operands) - len(k.states):
                what, wanted = "a state", (self.batch, *self.shape(o))
            else:
                what, wanted = "an input", (*(() if o.static else self.lead()), *self.shape(o))
            if tuple(shape) != wanted:
                raise ValueError(f"kernel `{k.name}` needs {what} of shape {wanted}, not {tuple(shape)}")

    def _matrix(self, p: Product) -> tuple[int, ...]:
        """The shape of a learned matrix: [..., out, in], or turned."""
        k = self.kernel
        *outer, out = self.shape(k.inputs[p.input])
        if p.state is not None:
            vector = k.states[p.state]
        else:
            assert p.output is not None
            vector = k.outputs[p.output]
        n = self.shape(vector)[-1]
        return (*outer, n, out) if p.turned else (*outer, out, n)

    def _plan(self, function: Any, effort: Any) -> Any:
        """Block, blocks, tasks, numbers of state a task, chunk, threads; as a C array."""
        out = (ctypes.c_int64 * 8)()
        effort.restype = ctypes.c_int64
        threads = self.threads if self.batch * self.steps * effort(self.dims_array) > SMALL else 1
        function(self.dims_array, ctypes.c_int64(self.batch), ctypes.c_int64(threads), out)
        out[5] = threads
        return out

    # ------------------------------------------------------------ running

    def forward(self, tensors: Sequence[Tensor], training: bool) -> tuple[list[Tensor], Any]:
        """Outputs and final states, and the checkpoints that `backward` needs."""
        k = self.kernel
        frame = self.arranged.get("forward")
        if frame is None:
            frame = self.arranged["forward"] = Arranged.of(self._forward_frame())
        arrays, found = frame.arrays(tensors)
        checkpoints = None
        if training and not k.stored:
            chunks = -(-self.steps // self.plan[4])
            checkpoints = empty_cpu((self.plan[2] * chunks * self.plan[3],), (1,), self.dtype)
        self.run("forward", frame, arrays, checkpoints)
        if k.summed:
            found = [summed(x, len(o.parts)) for x, o in zip(found, (*k.outputs, *k.states), strict=True)]
        return found, checkpoints

    def backward(
        self,
        tensors: Sequence[Tensor],
        held: Sequence[Tensor],
        given: Sequence[Tensor | None],
        checkpoints: Any,
    ) -> list[Tensor | None]:
        """Gradients of inputs and initial states from those of outputs and final states (None: zero)."""
        k = self.kernel
        gradients = self.gradients(given)
        extra = [*held, *gradients]
        key = ("backward", *map(layout, extra))
        frame = self.arranged.get(key) or self._remember(key, Arranged.of(self._backward_frame(extra)))
        arrays, found = frame.arrays([*tensors, *extra])
        self.run("backward", frame, arrays, checkpoints)
        count = len(found) - len(k.states)
        return [*self._totals(found[:count]), *found[count:]]

    def run(self, kind: str, frame: Arranged, arrays: Sequence[Tensor], checkpoints: Tensor | None) -> None:
        place = None if checkpoints is None else ctypes.c_void_p(checkpoints.data_ptr())
        failed = self.functions[kind](
            frame.addresses(arrays),
            frame.strides,
            self.dims_array,
            ctypes.c_int64(self.steps),
            self.plan,
            ctypes.c_int64(self.plan[5]),
            place,
        )
        if failed:
            raise MemoryError(f"no memory for the states of kernel `{self.kernel.name}`")

    def _remember(self, key: Any, frame: Arranged) -> Arranged:
        if len(self.arranged) > MOST_ARRANGED:
            self.arranged.clear()
        self.arranged[key] = frame
        return frame

    # ------------------------------------------------------------ frames

    def _frame(self) -> Frame:
        return Frame(
            dtype=self.dtype, narrow=self.narrow, vector=self.kernel.vector, dense=self.kernel.dense, single=self.single
        )

    def lead(self) -> tuple[int, ...]:
        """Batch and time of a sequence."""
        return (self.batch,) if self.single else (self.batch, self.steps)

    def shape(self, o: Operand) -> list[int]:
        return [1 if a is None else self.sizes[a] for a in o.axes]

    def parts(self, labels: Sequence[int]) -> list[int]:
        return [self.plan[1] if x == self.kernel.vector else self.sizes[x] for x in labels]

    def _give_all(self, frame: Frame) -> None:
        k = self.kernel
        for place, (o, (shape, stride)) in enumerate(zip((*k.inputs, *k.states), self.layouts, strict=True)):
            frame.give(shape, stride, o, 0 if o.static else 2 if place < len(k.inputs) else 1)

    def _forward_frame(self) -> Frame:
        k, frame = self.kernel, self._frame()
        self._give_all(frame)
        for o in k.outputs:
            frame.take((*self.lead(), *self.shape(o)), o, 2, self.parts(o.parts))
        for o in k.states:
            frame.take((self.batch, *self.shape(o)), o, 1)
        return frame

    def _backward_frame(self, extra: Sequence[Tensor]) -> Frame:
        k, frame = self.kernel, self._frame()
        self._give_all(frame)
        held = sorted(set(k.stored))
        operands = [(k.outputs[at], 2) for at in held] + [(o, 2) for o in k.outputs] + [(o, 1) for o in k.states]
        for x, (o, lead) in zip(extra, operands, strict=True):
            frame.give(x.shape, x.stride(), o, lead)
        self._take_gradients(frame)
        return frame

    def _take_gradients(self, frame: Frame) -> None:
        """Memory for the gradients of the inputs that have one, and of the initial states."""
        k = self.kernel
        for o, parts in zip(k.inputs, k.gradients, strict=True):
            self._take_gradient(frame, o, parts)
        for o in k.states:
            frame.take((self.batch, *self.shape(o)), o, 1)

    def _take_gradient(self, frame: Frame, o: Operand, parts: tuple[int, ...] | None) -> None:
        if parts is not None and o.static:  # one for each sequence, which the kernel adds to
            frame.take((self.batch, *self.shape(o)), o, 1, self.parts(parts), zero=True)
        elif parts is not None:
            frame.take((*self.lead(), *self.shape(o)), o, 2, self.parts(parts))

    def gradients(self, given: Sequence[Tensor | None]) -> list[Tensor]:
        """The gradients of outputs and final states; zero where there is none."""
        k, found = self.kernel, []
        wanted = len(k.outputs) if k.wanted is None else k.wanted
        for place, (o, g) in enumerate(zip((*k.outputs[:wanted], *k.states), given, strict=True)):
            if g is None:
                dtype = self.narrow if o.narrow else self.dtype
                dtype = torch.promote_types(dtype, torch.complex64) if o.complex else dtype
                zero = torch.zeros(self.shape(o), dtype=dtype, device="cpu")
                g = zero.expand(*(self.lead() if place < wanted else (self.batch,)), *zero.shape)
            found.append(g.resolve_conj().resolve_neg())
        return found

    def _totals(self, found: Sequence[Tensor]) -> list[Tensor | None]:
        """The gradients of the inputs: parts added up, and the batch for a static one."""
        written, totals = iter(found), list[Tensor | None]()
        for o, parts in zip(self.kernel.inputs, self.kernel.gradients, strict=True):
            if parts is None:
                totals.append(None)
                continue
            x = summed(next(written), len(parts))
            totals.append(x.sum(0) if o.static else x)
        return totals


def summed(x: Tensor, parts: int) -> Tensor:
    """The parts of an array, its first axes, added up."""
    for _ in range(parts):
        x = x[0] if x.shape[0] == 1 else x.sum(0)
    return x

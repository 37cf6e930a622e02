"""Native kernels on CPUs as differentiable functions of tensors.

An emitted file holds the C source and, for each kernel, which axes of its arrays are the same.  A call takes tensors
of any strides (copied only where the axis along vector lanes is not contiguous), runs in float32 or float64 (half types
are converted on the way in and out), and has a backward in C.  What depends on shapes, strides and dtypes alone is
worked out at the first call with them (`native_call`); tracers see operators (`native_ops`).
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rnnc.runtime._compat import traced
from rnnc.runtime.compiled import NativeError, load_library
from rnnc.runtime.native_call import Call, layout
from rnnc.runtime.native_coupled import CoupledCall
from rnnc.runtime.native_frame import HALF, Operand
from rnnc.runtime.native_ops import KERNELS, Differentiable, run_traced

__all__ = ["Native", "Operand", "Product"]

MOST_CALLS = 1000  # layouts that a kernel remembers; lengths that never come again are forgotten with the others


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A learned matrix times a vector inside each step: which input of the kernel it is, and which state or output the
    vector is.  The matrix is [..., out, in], or (`turned`) [..., in, out].  With `start` the input is the sum of the
    product and a sequence, which the call gives.
    """

    input: int
    state: int | None
    output: int | None
    turned: bool = False
    start: bool = False


@dataclass(frozen=True, kw_only=True)
class Native:
    """One kernel of a C source.

    `vector`: the label along vector lanes.  `stored`: for each state the output that holds it at every step, if all
    have one.  `gradients`: for each input the labels of the parts of its gradient, None where it has none.

    With `products` the call gives what they are added to and the matrices instead of the inputs that these are, behind
    the other inputs, and gets the first `wanted` outputs.

    `dense`: behind batch, time and this many axes, arrays have no gaps (None: they may).
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
    dense: int | None = None
    # What follows from those.  `key`: by which operators find the kernel; `given`: what a call is given (inputs,
    # matrices, states); `sequences`: which of that has an axis of time; `count`: how many outputs a call gives;
    # `summed`: whether some come in parts.
    key: str = field(init=False, compare=False)
    given: tuple[Operand, ...] = field(init=False, compare=False)
    sequences: tuple[bool, ...] = field(init=False, compare=False)
    count: int = field(init=False, compare=False)
    summed: bool = field(init=False, compare=False)
    calls: dict[Any, _Fitted] = field(init=False, default_factory=dict, compare=False, repr=False)
    libraries: dict[torch.dtype, ctypes.CDLL] = field(init=False, default_factory=dict, compare=False, repr=False)
    refused: set[torch.dtype] = field(init=False, default_factory=set, compare=False, repr=False)

    def __post_init__(self) -> None:
        described = "\n".join([self.source, *(repr(getattr(self, name)) for name in FIELDS[1:])])
        products = {p.input for p in self.products}
        inputs = [o for k, o in enumerate(self.inputs) if k not in products]
        inputs += [replace(self.inputs[p.input], narrow=True) for p in self.products if p.start]
        matrices = [Operand((), static=True) for _ in self.products]
        found = {
            "key": f"{self.name}-{hashlib.sha256(described.encode()).hexdigest()[:16]}",
            "given": (*inputs, *matrices, *self.states),
            "sequences": (*(not o.static for o in (*inputs, *matrices)), *(False for _ in self.states)),
            "count": len(self.outputs) if self.wanted is None else self.wanted,
            "summed": any(o.parts for o in self.outputs),
        }
        for name, value in found.items():
            object.__setattr__(self, name, value)
        KERNELS[self.key] = self

    def __call__(
        self, inputs: Sequence[Tensor], states: Sequence[Tensor], dims: Sequence[int], steps: int | None
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Outputs, and the states after the last step.

        `inputs` are [B, T, ...] (static ones without B and T), `states` [B, ...]; with `steps` None it is a single
        step, and inputs and outputs are [B, ...].  Outputs have the promoted dtype, each state keeps its own (one of
        whole numbers gets the outputs').
        """
        tensors = [*inputs, *states]
        if traced(tensors):
            return self._traced(tensors, dims, steps)
        key = (
            dims,
            steps,
            torch.get_num_threads(),
            *[(x.dtype, x.shape, x.stride(), x.is_cpu, x.is_neg(), x.is_conj()) for x in tensors],
        )
        fitted = self.calls.get(key)
        if fitted is None:
            fitted = self._remember(key, tensors, tuple(dims), steps)
        if fitted.casts:
            tensors = [x if cast is None else cast(x) for x, cast in zip(tensors, fitted.casts, strict=True)]
        if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
            found = Differentiable.apply(fitted.call, *tensors)
        else:
            found, _ = fitted.call.forward(tensors, training=False)
        if fitted.ends:
            found = [y if cast is None else cast(y) for y, cast in zip(found, fitted.ends, strict=True)]
        n = self.count
        return tuple(found[:n]), tuple(found[n:])

    # ------------------------------------------------------------ calls

    def call(
        self, tensors: Sequence[Tensor], dims: tuple[int, ...], steps: int | None, narrow: torch.dtype | None = None
    ) -> Call:
        """The call for tensors like these, in the kernel's precision; `narrow` is that of narrow arrays."""
        kind = CoupledCall if self.products else Call
        dtype = _real(tensors[-1].dtype)
        return kind(
            kernel=self,
            dtype=dtype,
            narrow=narrow or dtype,
            dims=dims,
            steps=1 if steps is None else steps,
            single=steps is None,
            threads=torch.get_num_threads(),
            layouts=tuple(map(layout, tensors)),
        )

    def _remember(self, key: Any, tensors: Sequence[Tensor], dims: tuple[int, ...], steps: int | None) -> _Fitted:
        _refuse_complex(self.name, self.given, tensors)
        dtype = _real_dtype(tensors)
        working = _working(dtype)
        narrow = dtype if HALF.get(dtype) and self._takes_half(dtype) else working
        inner = [narrow if o.narrow else working for o in (*self.given, *self.outputs[: self.count], *self.states)]
        casts = [_needed(x, kind, o.complex) for x, o, kind in zip(tensors, self.given, inner)]
        whole = [x if cast is None else cast(x) for x, cast in zip(tensors, casts, strict=True)]
        states = tensors[len(tensors) - len(self.states) :]
        kinds = [*(dtype for _ in range(self.count)), *(_kept(s, dtype) for s in states)]
        operands = (*self.outputs[: self.count], *self.states)
        found_in = inner[len(tensors) :]
        ends = [_back(have, kind, o.complex) for have, kind, o in zip(found_in, kinds, operands, strict=True)]
        found = _Fitted(
            call=self.call(whole, dims, steps, narrow),
            casts=casts if any(c is not None for c in casts) else None,
            ends=ends if any(e is not None for e in ends) else None,
        )
        if len(self.calls) >= MOST_CALLS:
            self.calls.clear()
        self.calls[key] = found
        return found

    def _traced(
        self, tensors: list[Tensor], dims: Sequence[int], steps: int | None
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The same by operators, for tracers and transforms."""
        _refuse_complex(self.name, self.given, tensors)
        dtype = _real_dtype(tensors)
        working = _working(dtype)
        states = tensors[len(tensors) - len(self.states) :]
        fitted = [_cast(x, working, o.complex) for x, o in zip(tensors, self.given, strict=True)]
        if steps is None:
            fitted = [x.unsqueeze(1) if timed else x for x, timed in zip(fitted, self.sequences)]
        found = run_traced(self.key, fitted, list(dims), 1 if steps is None else steps)
        outputs = [_cast(y, dtype, o.complex) for y, o in zip(found[: self.count], self.outputs)]
        if steps is None:
            outputs = [y.squeeze(1) for y in outputs]
        return tuple(outputs), tuple(e.to(_kept(s, e.dtype)) for e, s in zip(found[self.count :], states))

    def library(self, dtype: torch.dtype, narrow: torch.dtype) -> ctypes.CDLL:
        if narrow not in self.libraries:
            self.libraries[narrow] = load_library(self.source, dtype == torch.float64, HALF.get(narrow, 0))
        return self.libraries[narrow]

    def _takes_half(self, dtype: torch.dtype) -> bool:
        """Whether some arrays may be of half precision, and the compiler knows such numbers: else they are cast."""
        if not any(o.narrow for o in (*self.given, *self.outputs)):
            return False
        if dtype not in self.libraries and dtype not in self.refused:
            try:
                self.library(torch.float32, dtype)
            except NativeError:
                self.refused.add(dtype)
        return dtype in self.libraries

    def __reduce__(self) -> Any:
        return _again, tuple(getattr(self, name) for name in FIELDS)


FIELDS = (
    "source",
    "name",
    "vector",
    "inputs",
    "outputs",
    "states",
    "stored",
    "gradients",
    "products",
    "wanted",
    "dense",
)


def _again(*values: Any) -> Native:
    return Native(**dict(zip(FIELDS, values, strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fitted:
    """What a call does for tensors of one layout: changes of dtype before (None: none), the call, those after it."""

    call: Call
    casts: list[Callable[[Tensor], Tensor] | None] | None
    ends: list[Callable[[Tensor], Tensor] | None] | None


# ---------------------------------------------------------------- dtypes


REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}


def _refuse_complex(name: str, operands: Sequence[Operand], tensors: Sequence[Tensor]) -> None:
    """Raises TypeError for complex numbers where real ones are meant: a cast would drop their imaginary parts."""
    if any(x.is_complex() and not o.complex for o, x in zip(operands, tensors, strict=True)):
        raise TypeError(f"kernel `{name}` takes real numbers where it was given complex ones")


def _real(dtype: torch.dtype) -> torch.dtype:
    """The type of the real and imaginary part (`dtype.to_real`, which compilers do not know)."""
    return REAL.get(dtype, dtype)


def _real_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    found = torch.bool
    for x in tensors:
        if x.device.type != "cpu":
            raise RuntimeError(
                f'this module was compiled for the CPU (backend="cpu") and got a tensor on `{x.device}`: move it, or '
                'compile the spec with backend="torch"'
            )
        found = torch.promote_types(found, _real(x.dtype))
    return found if found.is_floating_point else torch.get_default_dtype()


def _working(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _whole(real: torch.dtype, complex_: bool) -> torch.dtype:
    return torch.promote_types(real, torch.complex64) if complex_ else real


def _kept(state: Tensor, dtype: torch.dtype) -> torch.dtype:
    """The dtype that a state has after a call whose results have `dtype`."""
    return state.dtype if state.is_floating_point() or state.is_complex() else dtype


def _cast(x: Tensor, real: torch.dtype, complex_: bool) -> Tensor:
    x = x.to(_whole(real, complex_))
    return x.resolve_conj().resolve_neg() if complex_ else x.resolve_neg()


def _needed(x: Tensor, real: torch.dtype, complex_: bool) -> Callable[[Tensor], Tensor] | None:
    """`_cast`, where it would do anything."""
    if x.dtype == _whole(real, complex_) and not x.is_neg() and not x.is_conj():
        return None
    return lambda y: _cast(y, real, complex_)


def _back(working: torch.dtype, kind: torch.dtype, complex_: bool) -> Callable[[Tensor], Tensor] | None:
    """The change from what the kernel gives to the dtype of a result."""
    wanted = _whole(_real(kind), complex_)
    if wanted == _whole(working, complex_):
        return None
    return lambda y: y.to(wanted)

"""Products of matrices on CPUs, for the projections around native kernels.

PyTorch's own go to the library it was built with, which on some processors reaches half of what they can do (MKL on
AMD).  Here is a register-blocked product in C (`products.h`); it is used where it was measured to be faster on this
machine (`preferred`), for products large enough to pay for the call, and where nothing has to see the operator.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rnnc.runtime._compat import traced
from rnnc.runtime.compiled import NativeError, load_library

__all__ = ["joined", "linear", "linears", "preferred", "product"]

LEAST = 1 << 20  # multiplications from which a call pays
GAIN = 1.25  # by which the product in C must be faster to be taken: otherwise numbers stay PyTorch's
TYPES = (torch.float32, torch.float64)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b as `torch.nn.functional.linear`, for x [..., in], weight [out, in], bias [out]."""
    if not _fits(x, weight, bias) or x.numel() * weight.shape[0] < LEAST or not _served(x, weight, bias):
        return F.linear(x, weight, bias)
    y: Tensor = _Product.apply(x.reshape(-1, x.shape[-1]), weight.T, bias)
    return y.view(*x.shape[:-1], weight.shape[0])


def linears(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
    """`linear` of one x [..., in] with several weights [out_i, in], by one product in each direction."""
    given: Sequence[Tensor | None] = biases or [None for _ in weights]
    fit = all(_fits(x, w, b) for w, b in zip(weights, given, strict=True))
    if not fit or x.numel() * sum(w.shape[0] for w in weights) < LEAST or not _served(x, *weights, *biases):
        return tuple(F.linear(x, w, b) for w, b in zip(weights, given, strict=True))
    found: tuple[Tensor, ...] = _Joined.apply(x, len(weights), *weights, *biases)
    return found


def _fits(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the shapes are those of a product: where not, PyTorch's own says so."""
    if weight.ndim != 2 or not x.ndim or x.shape[-1] != weight.shape[1]:
        return False
    return bias is None or bias.shape == weight.shape[:1]


class _Joined(torch.autograd.Function):
    """Products of one matrix with several, as one product with all of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int, *given: Tensor) -> tuple[Tensor, ...]:
        weights, biases = given[:count], given[count:]
        whole = torch.cat(weights)
        ctx.save_for_backward(x, *weights)
        ctx.sizes, ctx.biased = [w.shape[0] for w in weights], bool(biases)
        y = run(x.reshape(-1, x.shape[-1]), whole.T, torch.cat(biases) if biases else None)
        return _apart(y.view(*x.shape[:-1], whole.shape[0]), ctx.sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        g = joined(gradients).flatten(0, -2)
        into_x = product(g, torch.cat(weights)).view(x.shape) if ctx.needs_input_grad[0] else None
        into_weights: Sequence[Tensor | None] = [None] * len(weights)
        into_biases: Sequence[Tensor | None] = [None] * (len(weights) if ctx.biased else 0)
        if any(ctx.needs_input_grad[2 : 2 + len(weights)]):
            into_weights = product(g.T, x.reshape(-1, x.shape[-1])).split(ctx.sizes)
        if any(ctx.needs_input_grad[2 + len(weights) :]):
            into_biases = g.sum(0).split(ctx.sizes)
        return (into_x, None, *into_weights, *into_biases)


def _apart(y: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """`y.split(sizes, -1)` as tensors of their own on the same memory: autograd lets nobody change one of several
    views in place, and they have no number in common."""
    memory = y.untyped_storage()
    parts = y.split(list(sizes), -1)
    return tuple(y.new_empty(0).set_(memory, p.storage_offset(), p.shape, p.stride()) for p in parts)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """`torch.cat(parts, -1)`; without a copy where they lie side by side and no gradient of it is asked for."""
    first = parts[0]
    if not torch.is_grad_enabled() and not traced(parts):
        at = first.storage_offset()
        for x in parts:
            same = x.untyped_storage().data_ptr() == first.untyped_storage().data_ptr() and x.dtype == first.dtype
            if not same or x.storage_offset() != at or x.stride() != first.stride() or x.shape[:-1] != first.shape[:-1]:
                break
            at += x.shape[-1]
        else:
            if first.stride(-1) == 1:
                size = (*first.shape[:-1], at - first.storage_offset())
                return first.as_strided(size, first.stride(), first.storage_offset())
    return torch.cat(list(parts), -1)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a [m, k] times b [k, n] of any strides, differentiable any times."""
    if not _fits(a, b.T, None) or a.numel() * b.shape[1] < LEAST or not _served(a, b):
        return a @ b
    found: Tensor = _Product.apply(a, b, None)
    return found


def preferred(dtype: torch.dtype) -> bool:
    """Whether the product in C is faster than PyTorch's here; RNNC_PRODUCTS=c or torch decides without measuring."""
    return _preferred(dtype, os.environ.get("RNNC_PRODUCTS", ""))


def _served(*tensors: Tensor | None) -> bool:
    """Whether the kernel takes these: of one dtype that it has, plain memory of the CPU, seen by nobody else."""
    given = [x for x in tensors if x is not None]
    dtype = given[0].dtype
    if dtype not in TYPES or any(x.dtype != dtype or not x.is_cpu or x.is_neg() for x in given):
        return False
    if traced(given) or torch.is_autocast_enabled("cpu"):
        return False
    return preferred(dtype)


class _Product(torch.autograd.Function):
    """a b + bias; b is a weight turned, whose gradient is therefore worked out turned."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(a, b)
        return run(a, b, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        return (
            product(g, b.T) if wanted[0] else None,
            product(g.T, a).T if wanted[1] else None,
            g.sum(0) if wanted[2] else None,
        )


def run(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a b + bias by the kernel.  Raises NativeError where it cannot be built, MemoryError without memory for panels."""
    (m, k), n = a.shape, b.shape[1]
    out = a.new_empty(m, n)
    if 0 in (m, n, k):
        return out.copy_(bias.expand(m, n)) if bias is not None else out.zero_()
    whole = None if bias is None else bias.contiguous()
    start = None if whole is None else ctypes.c_void_p(whole.data_ptr())
    sizes = (ctypes.c_int64 * 8)(m, n, k, *a.stride(), *b.stride(), out.stride(0))
    places = [ctypes.c_void_p(x.data_ptr()) for x in (a, b)]
    threads = ctypes.c_int64(torch.get_num_threads())
    if _function(a.dtype)(sizes, *places, start, ctypes.c_void_p(out.data_ptr()), threads):
        raise MemoryError("no memory for the panels of a product")
    return out


@cache
def _function(dtype: torch.dtype) -> Any:
    source = Path(__file__).with_name("products.h").read_text()
    return load_library(source, dtype == torch.float64).rnnc_product


@cache
def _preferred(dtype: torch.dtype, asked: str) -> bool:
    if asked == "torch":
        return False
    try:
        _function(dtype)
    except NativeError:  # no compiler: PyTorch's product does the same
        return False
    if asked == "c":
        return True
    with torch.no_grad():
        a, b = (torch.ones(256, 256, dtype=dtype, device="cpu") for _ in range(2))
        return _seconds(lambda: run(a, b)) * GAIN < _seconds(lambda: a @ b)


def _seconds(call: Callable[[], object]) -> float:
    """The fastest of some calls."""
    call()
    found = []
    for _ in range(8):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)

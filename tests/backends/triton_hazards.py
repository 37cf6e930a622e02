"""Kernels that do in the interpreter what they say, and on a GPU something else: `triton_sanitiser` names each."""

# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def shifted(x_ptr, y_ptr, N, BARRIER: tl.constexpr, BN: tl.constexpr):
    """y <- x, then y read one place further, as y itself: in a launch of one program a matter of barriers."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    tl.store(y_ptr + n, tl.load(x_ptr + n, mask=n < N), mask=n < N)
    if BARRIER:
        tl.debug_barrier()
    after = tl.load(y_ptr + n + 1, mask=n + 1 < N, other=0.0)
    if BARRIER:
        tl.debug_barrier()
    tl.store(y_ptr + n, after, mask=n < N)


@triton.jit
def in_place(x_ptr, N, BN: tl.constexpr):
    n = tl.arange(0, BN)
    tl.store(x_ptr + n, 2.0 * tl.load(x_ptr + n, mask=n < N), mask=n < N)


@triton.jit
def summed(x_ptr, y_ptr, N, BN: tl.constexpr):
    """Every program writes y[0]."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    tl.store(y_ptr, tl.sum(tl.load(x_ptr + n, mask=n < N, other=0.0), 0))


@triton.jit
def copied(x_ptr, y_ptr, N, BN: tl.constexpr):
    n = tl.arange(0, BN)
    tl.store(y_ptr + n, tl.load(x_ptr + n, mask=n < N), mask=n < N)


def found(kernel, *arguments, programs=1, **constants):
    """What is said of a launch, or "" """
    try:
        with torch.cuda.device_of(arguments[0]):
            kernel[programs,](*arguments, **constants)
    except AssertionError as error:
        return str(error)
    return ""


def check() -> None:
    """Requires: launches are watched."""
    x, y = torch.ones(8), torch.zeros(8)
    assert found(copied, x, y, 8, BN=8) == ""
    assert found(copied, x, torch.zeros(64)[::8], 8, BN=8) == "", "a place of the tensor, if not its own"
    assert "reads 1 places outside" in found(copied, x[:7], y, 8, BN=8)
    assert "writes 1 places outside" in found(copied, x, y[:7], 8, BN=8)
    assert found(shifted, x, y, 8, BARRIER=True, BN=8) == ""
    assert "without a barrier" in found(shifted, x, y, 8, BARRIER=False, BN=8)
    assert "without a barrier" in found(in_place, x, 8, BN=8)
    assert "programs meet" in found(shifted, x, y, 8, BARRIER=True, BN=4, programs=2)
    assert "programs meet" in found(summed, x, y, 8, BN=4, programs=2)
    assert found(summed, x, y, 8, BN=8) == ""

"""Time-invariant recurrences by FFT: h_t = a h_{t-1} + b_t with a static diagonal `a` is the convolution of b with a^t.

All states of such a recurrence cost less as a scan, which the planner chooses; a convolution runs on request.
Powers are taken in float64: in float32 the phase of a^t would be off by t times the rounding error of log a.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rnnc.runtime.layout import compute_dtype, real_dtype

__all__ = ["causal_convolution", "convolve_powers", "is_bounded"]


def powers(a: Tensor, count: int) -> Tensor:
    """a^0, a^1, .., a^(count - 1) along a new first axis in double precision, by doubling; a = 0 is exact."""
    wide = a.to(torch.complex128 if a.is_complex() else torch.float64)
    found, step = torch.ones_like(wide).unsqueeze(0), wide
    while found.shape[0] < count:
        found = torch.cat((found, found * step))
        step = step * step
    return found[:count]


def causal_convolution(x: Tensor, kernel: Tensor) -> Tensor:
    """y_t = sum over s <= t of kernel_{t-s} x_s, for x `[B, T, *S]` and kernel `[T, *S]`, real or complex;
    differentiable.

    The error is relative to the largest output, not to each one: fit for kernels that do not grow.  Half types are
    computed in float32.
    """
    steps = x.shape[1]
    size = 1 << (2 * steps - 1).bit_length()
    dtype = torch.promote_types(x.dtype, kernel.dtype)
    x, kernel = (u.to(compute_dtype(u.dtype)) for u in (x.movedim(1, -1), kernel.movedim(0, -1)))
    if x.is_complex() or kernel.is_complex():
        y = torch.fft.ifft(torch.fft.fft(x, size) * torch.fft.fft(kernel, size))
    else:
        y = torch.fft.irfft(torch.fft.rfft(x, size) * torch.fft.rfft(kernel, size), size)
    return y[..., :steps].movedim(-1, 1).to(dtype)


def convolve_powers(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """All states of h_t = a h_{t-1} + b_t for static `a` `[*S]` with |a| <= 1; h0 enters as a part of the first
    input."""
    first = b[:, :1] + (a * h0).unsqueeze(1)
    return causal_convolution(torch.cat((first, b[:, 1:]), 1), powers(a, b.shape[1]).to(a.dtype))


def is_bounded(a: Tensor) -> bool:
    """Whether |a| <= 1 holds everywhere (up to rounding of the modulus of a complex number)."""
    slack = 4 * torch.finfo(real_dtype(a.dtype)).eps if a.is_complex() else 0.0
    return bool((a.abs() <= 1 + slack).all())

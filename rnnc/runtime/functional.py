"""Functions of one value or of a window of time that generated modules share: norms, causal convolution and
attention."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from rnnc.runtime.layout import compute_dtype

__all__ = ["causal_attention", "causal_conv", "complex_of", "inside", "keeping_complex", "l2norm", "lerp", "rmsnorm"]


def keeping_complex(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`function` of real tensors (a change of dtype or device), of complex ones through their real and imaginary
    parts.  There are no complex numbers of half precision: those stay complex64."""

    def apply(x: Tensor) -> Tensor:
        if not x.is_complex():
            return function(x)
        parts = function(torch.view_as_real(x))
        return torch.view_as_complex(parts.to(compute_dtype(parts.dtype)))

    return apply


def inside(raw: Tensor, name: str, domain: str) -> Tensor:
    """`raw`, found by undoing the map that keeps a parameter in its domain.

    Raises ValueError where a start was outside: there is nothing that the map sends there.
    """
    if not raw.is_meta and not bool(torch.isfinite(raw).all()):
        raise ValueError(f"parameter {name} cannot start as declared: not all of it lies strictly inside {domain}")
    return raw


def complex_of(re: Tensor, im: Tensor | float = 0.0) -> Tensor:
    """re + i im in at least complex64, which has no counterpart of half precision; `im` may be a number."""
    dtype = compute_dtype(re.dtype if isinstance(im, (int, float)) else torch.promote_types(re.dtype, im.dtype))
    im = re.new_full((), im, dtype=dtype) if isinstance(im, (int, float)) else im.to(dtype)
    return torch.complex(*torch.broadcast_tensors(re.to(dtype), im))


def lerp(old: Tensor, new: Tensor, share: Tensor) -> Tensor:
    """old + share * (new - old), elementwise; unlike `torch.lerp` in the dtype that the three promote to."""
    if not old.dtype == new.dtype == share.dtype:
        dtype = torch.promote_types(torch.promote_types(old.dtype, new.dtype), share.dtype)
        old, new, share = old.to(dtype), new.to(dtype), share.to(dtype)
    return torch.lerp(old, new, share)


def _squared(x: Tensor) -> Tensor:
    return x.real.square() + x.imag.square() if x.is_complex() else x.square()


def l2norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """x / sqrt(sum |x|^2 + eps) over the last axis; real or complex, half types computed in float32."""
    wide = x.to(compute_dtype(x.dtype))
    return (wide * torch.rsqrt(_squared(wide).sum(-1, keepdim=True) + eps)).to(x.dtype)


def rmsnorm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """x / sqrt(mean |x|^2 + eps) over the last axis; real or complex, half types computed in float32."""
    wide = x.to(compute_dtype(x.dtype))
    return (wide * torch.rsqrt(_squared(wide).mean(-1, keepdim=True) + eps)).to(x.dtype)


def causal_conv(window: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Depthwise convolution in time: y_t = bias + sum_j weight[..., j] * window_{t + j}.

    `window` is `[B, width - 1 + T, *S]`, the buffer of earlier values (oldest first) in front of the sequence; `weight`
    `[*S, width]`, `bias` `[*S]`.  Returns `[B, T, *S]`.  The next buffer is `window[:, -(width - 1):]`.
    """
    width = weight.shape[-1]
    steps = window.shape[1] - (width - 1)
    if not torch.compiler.is_compiling() and steps < 0:
        raise ValueError(f"a window of {window.shape[1]} steps is shorter than the {width - 1} before the first output")
    if bias is None:
        y = window[:, :steps] * weight[..., 0]
    else:
        y = torch.addcmul(bias, window[:, :steps], weight[..., 0])
    for j in range(1, width):
        y = torch.addcmul(y, window[:, j : j + steps], weight[..., j])
    return y


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(dk)) v over the steps so far.

    `k` `[B, Tk, *P, dk]` and `v` `[B, Tk, *P, dv]` end at the same step as `q` `[B, T, *P, dk]`: query i of T sees the
    keys up to Tk - T + i.  Returns `[B, T, *P, dv]`.
    """
    steps, seen = q.shape[1], k.shape[1]
    if not torch.compiler.is_compiling() and seen < steps:
        raise ValueError(f"{steps} queries cannot end at the same step as {seen} keys")
    visible = torch.ones(steps, seen, dtype=torch.bool, device=q.device).tril(seen - steps)
    q, k, v = (x.movedim(1, -2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible).movedim(-2, 1)

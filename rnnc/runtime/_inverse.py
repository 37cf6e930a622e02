"""The inverse of I + M for strictly lower triangular M, by blocks: what a chunk of rank-one transitions needs.

Solving for many right-hand sides at once spends most of its time in small triangular solves; the inverse costs a sixth
of that on a CPU, is applied by matrix products, and its derivative is two matrix products: dM = -tril(T^H dT T^H, -1).
Halves merge by [[A, 0], [C, B]]^-1 = [[A^-1, 0], [-B^-1 C A^-1, B^-1]]; the smallest blocks are solved by substitution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rnnc.runtime._compat import operator

__all__ = ["unit_lower_inverse"]

BASE = 16  # rows of the blocks solved by substitution: measured on a CPU, 8 and 32 are slower


def unit_lower_inverse(m: Tensor) -> Tensor:
    """(I + tril(M, -1))^-1 for M [..., n, n]; the upper triangle and the diagonal of M are not read."""
    flat = m.flatten(0, -3)
    run = inverse_operator if torch.compiler.is_compiling() else _Inverse.apply
    return run(flat).view(m.shape)


def _inverse_kernel(m: Tensor) -> Tensor:
    batch, n, _ = m.shape
    size = n
    while size > BASE and size % 2 == 0:
        size //= 2
    result = torch.zeros((batch, n, n), dtype=m.dtype, device=m.device)
    eye = torch.eye(size, dtype=m.dtype, device=m.device)
    found = torch.linalg.solve_triangular(_diagonal(m, size), eye, upper=False, unitriangular=True)
    _diagonal(result, size).copy_(found)
    while size < n:
        block = _diagonal(m, 2 * size)[..., size:, :size]
        first, second = found.unflatten(1, (-1, 2)).unbind(2)
        cross = torch.matmul(second, torch.matmul(block, first)).neg_()
        target = _diagonal(result, 2 * size)
        target[..., size:, :size] = cross
        size *= 2
        found = target
    return result


inverse_operator = operator("unit_lower_inverse", "(Tensor m) -> Tensor", _inverse_kernel)


def _diagonal(m: Tensor, size: int) -> Tensor:
    """The diagonal blocks [batch, n / size, size, size], as a view."""
    count = m.shape[-1] // size
    return m.view(m.shape[0], count, size, count, size).diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)


@inverse_operator.register_fake
def _(m: Tensor) -> Tensor:
    return torch.empty(m.shape, dtype=m.dtype, device=m.device)


def _setup(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(output)
    ctx.save_for_forward(output)


def _backward(ctx: Any, d: Tensor) -> Tensor:
    (inverse,) = ctx.saved_tensors
    return (inverse.mH @ d @ inverse.mH).tril(-1).neg()


inverse_operator.register_autograd(_backward, setup_context=_setup)


class _Inverse(torch.autograd.Function):
    @staticmethod
    def forward(m: Tensor) -> Tensor:
        return inverse_operator(m)

    setup_context = staticmethod(_setup)
    backward = staticmethod(_backward)

    @staticmethod
    def jvp(ctx: Any, d: Tensor) -> Tensor:
        (inverse,) = ctx.saved_tensors
        return -inverse @ d.tril(-1) @ inverse

    @staticmethod
    def vmap(info: Any, dims: Sequence[int | None], m: Tensor) -> tuple[Tensor, int]:
        assert dims[0] is not None
        return unit_lower_inverse(m.movedim(dims[0], 0)), 0


inverse_operator.register_vmap(_Inverse.vmap)

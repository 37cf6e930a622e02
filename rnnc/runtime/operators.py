"""Structured matrices from their entries, and matrix functions; batch axes come first everywhere."""

from __future__ import annotations

import torch
from torch import Tensor

from rnnc.runtime.layout import compute_dtype, full_precision

__all__ = [
    "block_diagonal",
    "block_diagonal_transpose",
    "cayley",
    "circulant",
    "circulant_transpose",
    "companion",
    "matrix_exp",
    "rotation_blocks",
    "solve",
]


def block_diagonal(blocks: Tensor) -> Tensor:
    """[..., b, n, n] -> [..., b n, b n] with the blocks along the diagonal."""
    b, n = blocks.shape[-3], blocks.shape[-1]
    eye = torch.eye(b, dtype=blocks.dtype, device=blocks.device)
    # axes (block row, row, block column, column)
    spread = blocks.unsqueeze(-2) * eye.view(b, 1, b, 1)
    return spread.reshape(*blocks.shape[:-3], b * n, b * n)


def block_diagonal_transpose(x: Tensor, n: int) -> Tensor:
    """The diagonal blocks [..., b, n, n] of [..., b n, b n]: the adjoint of `block_diagonal`."""
    blocks = x.unflatten(-1, (-1, n)).unflatten(-3, (-1, n))
    return blocks.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)


def _turn(n: int, device: torch.device) -> Tensor:
    """(i - j) mod n for every place of an n x n matrix."""
    i = torch.arange(n, device=device)
    return (i.unsqueeze(1) - i) % n


def circulant(c: Tensor) -> Tensor:
    """[..., n] -> [..., n, n] with C[i, j] = c[(i - j) mod n]."""
    return c[..., _turn(c.shape[-1], c.device)]


def circulant_transpose(x: Tensor) -> Tensor:
    """Sums along the wrapped diagonals of [..., n, n]: the adjoint of `circulant`."""
    n = x.shape[-1]
    index = _turn(n, x.device).flatten().expand(*x.shape[:-2], n * n)
    zero = torch.zeros((*x.shape[:-2], n), dtype=x.dtype, device=x.device)
    return zero.scatter_add(-1, index, x.flatten(-2))


def companion(c: Tensor) -> Tensor:
    """[..., n] -> [..., n, n] with ones on the first subdiagonal and c as the last column."""
    n = c.shape[-1]
    shift = torch.eye(n, dtype=c.dtype, device=c.device)[:, 1:].expand(*c.shape, n - 1)
    return torch.cat((shift, c.unsqueeze(-1)), -1)


def rotation_blocks(theta: Tensor) -> Tensor:
    """[..., p] angles -> [..., p, 2, 2] matrices [[cos, -sin], [sin, cos]]."""
    cos, sin = torch.cos(theta), torch.sin(theta)
    return torch.stack((torch.stack((cos, -sin), -1), torch.stack((sin, cos), -1)), -2)


def cayley(m: Tensor) -> Tensor:
    """(I + M)^-1 (I - M): orthogonal for a skew-symmetric M."""
    eye = torch.eye(m.shape[-1], dtype=m.dtype, device=m.device)
    return solve(eye + m, eye - m)


def solve(a: Tensor, b: Tensor) -> Tensor:
    """X with A X = B, in at least single precision; the dtype of the operands comes back."""
    dtype = torch.promote_types(a.dtype, b.dtype)
    with full_precision(a.device):
        return torch.linalg.solve(a.to(compute_dtype(dtype)), b.to(compute_dtype(dtype))).to(dtype)


def matrix_exp(m: Tensor) -> Tensor:
    """exp(M), in at least single precision (it is not finite in bfloat16); the dtype of M comes back."""
    with full_precision(m.device):
        # contiguous, because its backward needs that
        return torch.linalg.matrix_exp(m.to(compute_dtype(m.dtype)).contiguous()).to(m.dtype)

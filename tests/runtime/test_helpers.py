"""Small helpers against PyTorch's own functions or their definitions."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from runtime_reference import relative
from torch import Tensor

from rnnc.runtime import (
    block_diagonal,
    block_diagonal_transpose,
    causal_attention,
    causal_conv,
    cayley,
    circulant,
    circulant_transpose,
    companion,
    l2norm,
    rmsnorm,
    rotation_blocks,
)
from rnnc.runtime.convolution import causal_convolution

F64 = torch.float64


@pytest.mark.parametrize("dtype", [F64, torch.complex128])
def test_norms(dtype: torch.dtype) -> None:
    x = torch.randn(2, 5, 6, dtype=dtype)
    assert relative(l2norm(x, eps=0.0), x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)) < 1e-12
    assert relative(rmsnorm(x, eps=0.0), math.sqrt(6) * l2norm(x, eps=0.0)) < 1e-12
    assert l2norm(torch.zeros(3)).isfinite().all()
    if dtype == F64:
        assert relative(rmsnorm(x, eps=0.1), F.rms_norm(x, (6,), eps=0.1)) < 1e-12


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("width", [1, 4])
def test_causal_conv(width: int, bias: bool) -> None:
    x, past = torch.randn(2, 9, 3, dtype=F64), torch.randn(2, width - 1, 3, dtype=F64)
    weight, b = torch.randn(3, width, dtype=F64), torch.randn(3, dtype=F64) if bias else None
    window = torch.cat((past, x), 1)
    expected = F.conv1d(window.mT, weight.unsqueeze(1), b, groups=3).mT
    assert relative(causal_conv(window, weight, b), expected) < 1e-12
    heads = causal_conv(
        window.unsqueeze(2).expand(-1, -1, 2, -1), weight.expand(2, 3, width), None if b is None else b.expand(2, 3)
    )
    assert relative(heads[:, :, 1], expected) < 1e-12


def test_causal_attention_continues_a_sequence() -> None:
    q, k, v = torch.randn(2, 9, 3, 4, dtype=F64), torch.randn(2, 9, 3, 4, dtype=F64), torch.randn(2, 9, 3, 5, dtype=F64)
    scores = torch.einsum("bthd,bshd->bhts", q, k) / 2
    scores = scores.masked_fill(torch.ones(9, 9, dtype=torch.bool).triu(1), -math.inf)
    expected = torch.einsum("bhts,bshd->bthd", scores.softmax(-1), v)
    assert relative(causal_attention(q, k, v), expected) < 1e-12
    assert relative(causal_attention(q[:, 6:], k, v), expected[:, 6:]) < 1e-12


def test_layouts_and_their_adjoints() -> None:
    blocks = torch.randn(2, 3, 2, 2, dtype=F64)
    whole = block_diagonal(blocks)
    assert torch.equal(whole[1], torch.block_diag(*blocks[1]))
    c = torch.randn(2, 5, dtype=F64)
    i, j = torch.meshgrid(torch.arange(5), torch.arange(5), indexing="ij")
    assert torch.equal(circulant(c)[0], c[0][(i - j) % 5])
    x = torch.randn(2, 5, 5, dtype=F64)
    assert relative((circulant(c) * x).sum(), (c * circulant_transpose(x)).sum()) < 1e-12
    y = torch.randn(2, 6, 6, dtype=F64)
    assert relative((whole * y).sum(), (blocks * block_diagonal_transpose(y, 2)).sum()) < 1e-12
    expected = torch.zeros(5, 5, dtype=F64)
    expected[1:, :4] = torch.eye(4)
    expected[:, 4] = c[1]
    assert torch.equal(companion(c)[1], expected)


def test_orthogonal_matrices() -> None:
    m = torch.randn(3, 4, 4, dtype=F64)
    q = cayley(m - m.mT)
    assert relative(q @ q.mT, torch.eye(4, dtype=F64).expand(3, 4, 4)) < 1e-12
    turn = rotation_blocks(torch.tensor([math.pi / 2], dtype=F64))
    assert torch.allclose(turn, torch.tensor([[[0.0, -1.0], [1.0, 0.0]]], dtype=F64))


@pytest.mark.parametrize("length", [1, 2, 63, 500])
@pytest.mark.parametrize("dtype", [F64, torch.complex128, torch.float32, torch.complex64, torch.bfloat16])
def test_causal_convolution(dtype: torch.dtype, length: int) -> None:
    wide = torch.complex128 if dtype.is_complex else F64
    x, kernel = (torch.randn(*s, dtype=wide).to(dtype).to(wide) for s in ((2, length, 3), (length, 3)))
    expected = torch.stack([(kernel[: t + 1].flip(0) * x[:, : t + 1]).sum(1) for t in range(length)], 1)
    found = causal_convolution(x.to(dtype), kernel.to(dtype))
    assert found.dtype == dtype
    assert relative(found, expected) < {wide: 1e-10, torch.bfloat16: 1e-2}.get(dtype, 1e-4)


@pytest.mark.parametrize("norm", [l2norm, rmsnorm])
def test_norms_of_halves_are_computed_in_float32(norm: Callable[..., Tensor]) -> None:
    """Squares of float16 numbers overflow, and the derivative at zero is 1000 or more, its square more than 65504."""
    x = torch.full((4, 100), 300.0, dtype=torch.float16)
    assert relative(norm(x), norm(x.double())) < 1e-3
    zero = torch.zeros(4, 8, dtype=torch.float16, requires_grad=True)
    (gradient,) = torch.autograd.grad(norm(zero).sum(), zero)
    assert gradient.isfinite().all()


def test_windows_that_are_too_short() -> None:
    with pytest.raises(ValueError, match="shorter than the 3"):
        causal_conv(torch.zeros(2, 2, 3), torch.zeros(3, 4))
    q, k = torch.zeros(2, 5, 1, 3), torch.zeros(2, 3, 1, 3)
    with pytest.raises(ValueError, match="5 queries"):
        causal_attention(q, k, k)

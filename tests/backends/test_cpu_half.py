"""C kernels whose long arrays are bfloat16 or float16: what is computed is float32, and rounded once on the way out."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch_support as support
from torch import Tensor

import rnnc
from rnnc.runtime import Native, compiled

pytestmark = pytest.mark.skipif(compiled.compiler() is None, reason="needs a C compiler")

HALVES = [torch.bfloat16, torch.float16]
CELLS = [
    ("lstm", "LSTM"),
    ("gru", "GRU"),
    ("minlstm", "MinLSTM"),
    ("gated_deltanet", "GatedDeltaOp"),
    ("gla", "GLA"),
    ("mamba", "SelectiveScan"),
]
TRIPLE = """
cell Triple(n: dim) {
  input x: real[n]
  state h: real[n] = 0
  state s: real[n] = 0
  h <- 3 * x + 0 * h
  s <- 0.5 * s + x
  output y = h'
  output z = tanh(s')
}
"""


def kernels(layer: Any) -> list[Native]:
    return [v for v in type(layer).step.__globals__.values() if isinstance(v, Native)]


def results(layer: Any, inputs: list[Tensor]) -> list[Tensor]:
    """Outputs and all gradients."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    y, state = layer(*inputs)
    ends = [y, *state.values()]
    rng = torch.Generator().manual_seed(0)
    loss = sum((e.float() * torch.randn(e.shape, generator=rng)).sum() for e in ends)
    wanted = [*inputs, *layer.parameters()]
    return [*ends, *torch.autograd.grad(loss, wanted)]


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize(("name", "cell"), CELLS)
def test_close_to_float32(name: str, cell: str, half: torch.dtype) -> None:
    """Outputs, states and gradients differ from those of float32 by some roundings of the half type."""
    torch.manual_seed(0)
    spec = rnnc.stdlib(name)
    ir = spec.lower(cell)
    dims = support.small_dims(ir)
    layer = rnnc.compile(spec, cell, backend="cpu", strategy="sequential")(**dims).to(half)
    exact = copy.deepcopy(layer).float()
    given = support.random_inputs(ir, dims, np.random.default_rng(0), 3, 37).values()
    inputs = [support.tensor(x, torch.float32).to(half) for x in given]
    found, want = results(layer, inputs), results(exact, [x.float() for x in inputs])
    assert any(half in k.libraries for k in kernels(layer))
    for a, b in zip(found, want, strict=True):
        assert a.dtype == half
        assert float((a.detach().float() - b.detach()).norm() / b.detach().norm()) < 12 * torch.finfo(half).eps


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("n", [1, 5, 16, 33, 131])
def test_rounded_to_the_nearest(half: torch.dtype, n: int) -> None:
    """Bit by bit what PyTorch rounds to: ties, infinities, what is no number, tiny numbers, any number of lanes."""
    layer = rnnc.compile(rnnc.parse(TRIPLE), backend="cpu")(n=n)
    bits = torch.randint(-(2**15), 2**15, (2, 7, n), dtype=torch.int16)
    x = bits.view(half)
    with torch.no_grad():
        (y, _), _ = layer(x)
        (first, _), _ = layer.step(x[:, 0])
    want = (3 * x.float()).to(half)
    torch.testing.assert_close(y, want, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(first, want[:, 0], rtol=0, atol=0, equal_nan=True)


def test_a_compiler_without_such_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half types are then converted before and after the call."""
    layer = rnnc.compile(rnnc.parse(TRIPLE), backend="cpu")(n=9)
    x = torch.randn(2, 7, 9).to(torch.float16)
    with torch.no_grad():
        want = layer(x)[0]
    (*_, kernel) = found = kernels(layer)
    real = compiled.load_library

    def refuse(source: str, double: bool, half: int = 0) -> Any:
        if half:
            raise compiled.NativeError("unknown type name _Float16")
        return real(source, double, half)

    monkeypatch.setattr("rnnc.runtime.native.load_library", refuse)
    for k in found:
        k.libraries.clear()
        k.calls.clear()
    with torch.no_grad():
        for a, b in zip(layer(x)[0], want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)
    assert torch.float16 not in kernel.libraries

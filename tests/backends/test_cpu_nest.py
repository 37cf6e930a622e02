"""Kernels that are nests of loops, as a user meets them: layouts, empty calls, steps with gradients, tracers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch_support as support

import rnnc
import rnnc.spec
from rnnc.runtime import compiled

pytestmark = pytest.mark.skipif(compiled.compiler() is None, reason="needs a C compiler")

NESTS = Path(__file__).parent.parent / "stdlib" / "odd" / "nests.rnn"


def pair(cell: str, dtype: torch.dtype = torch.float64, **dims: int) -> tuple[Any, Any]:
    """A layer of the CPU backend, whose states a nest runs, and one of the torch backend with the same weights."""
    spec = rnnc.spec.load(NESTS)
    torch.manual_seed(0)
    native = rnnc.compile(spec, cell, backend="cpu", strategy="sequential")(**dims, dtype=dtype)
    assert "each a few loops over arrays" in " ".join((type(native).__doc__ or "").split())
    by_torch = rnnc.compile(spec, cell, backend="torch")(**dims, dtype=dtype)
    by_torch.load_state_dict(native.state_dict())
    return native, by_torch


def same(a: Any, b: Any, tolerance: float = 1e-10) -> None:
    support.assert_close(a[0], b[0], tolerance)
    for key, value in support.flat(b[1]).items():
        support.assert_close(support.flat(a[1])[key], value, tolerance)


def test_layouts_and_empty_calls() -> None:
    """Sequences with gaps between steps or numbers, or with time first in memory; no steps, no sequences."""
    native, by_torch = pair("MatrixUnderMatrix", d=6)
    whole = torch.randn(2, 9, 12, dtype=torch.float64)
    for x in (whole[..., :6], whole[..., ::2], whole[..., :6].transpose(0, 1).contiguous().transpose(0, 1)):
        same(native(x), by_torch(x))
    state = {"S": torch.randn(2, 5, 3, dtype=torch.float64).mT}
    same(native(whole[..., :6], state=state), by_torch(whole[..., :6], state=state))
    same(native(whole[:, :0, :6]), by_torch(whole[:, :0, :6]))
    assert native(whole[:0, :, :6])[0].shape[0] == 0
    same(native(whole[..., :6], reverse=True), by_torch(whole[..., :6], reverse=True))


@pytest.mark.parametrize("cell", ["NormalisedHeads", "MatrixUnderMatrix"])
def test_a_step_with_gradients(cell: str) -> None:
    native, by_torch = pair(cell, d=6)
    x = torch.randn(3, 6, dtype=torch.float64)
    found = []
    for layer in (native, by_torch):
        given = x.clone().requires_grad_()
        y, state = layer.step(given)
        loss = (y * y).sum() + sum((s * s).sum() for s in support.flat(state).values())
        found.append(torch.autograd.grad(loss, [given, *layer.parameters()], allow_unused=True))
    for a, b in zip(*found, strict=True):
        if a is None or b is None:  # zero, said so or not
            assert all(g is None or not g.any() for g in (a, b))
            continue
        support.assert_close(a, b)


def test_several_threads_give_the_same() -> None:
    native, _ = pair("DenseHeads", d=8, heads=3)
    x, keep = torch.randn(4, 33, 8, dtype=torch.float64), torch.rand(4, 33) > 0.3
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = native(x, keep)
        torch.set_num_threads(2)
        same(native(x, keep), one, tolerance=1e-13)
    finally:
        torch.set_num_threads(threads)


def test_transforms_see_an_operator() -> None:
    native, by_torch = pair("MixedHeads", d=5)
    x = torch.randn(4, 2, 7, 5, dtype=torch.float64)
    found = torch.vmap(lambda one: native(one)[0])(x)
    support.assert_close(found, torch.vmap(lambda one: by_torch(one)[0])(x))


def test_half_types_are_converted() -> None:
    native, by_torch = pair("MixedHeads", dtype=torch.bfloat16, d=5)
    x = torch.randn(2, 9, 5, dtype=torch.bfloat16)
    y, state = native(x)
    want, _ = by_torch(x)
    assert y.dtype == torch.bfloat16
    assert all(s.dtype == by_torch(x)[1][k].dtype for k, s in state.items())
    torch.testing.assert_close(y, want, rtol=0.05, atol=0.05)

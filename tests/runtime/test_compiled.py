"""torch.compile without graph breaks, and torch.export with a symbolic number of steps, give the eager numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from runtime_reference import relative
from torch import Tensor, nn

from rnnc.runtime import (
    MicroStep,
    Read,
    Update,
    block_scan,
    convolution_scan,
    lerp_scan,
    linear_scan,
    log_plus_scan,
    matrix_scan,
    matrix_states,
    max_plus_scan,
)

B, T, H, K, V = 2, 40, 2, 3, 4


def delta(log_decay: Tensor, k: Tensor, v: Tensor, h0: Tensor) -> Tensor:
    step = MicroStep(log_decay=-log_decay.exp(), updates=(Update(u=k, v=v, b=-0.3 * k),))
    (read,), final = matrix_scan(h0, (step,), (Read(k),))
    return read.sum() + final.sin().sum()


def signed(decay: Tensor, k: Tensor, v: Tensor, h0: Tensor) -> Tensor:
    step = MicroStep(decay=decay.tanh(), low_rank=((0.1 * k, k),), writes=((k, v),))
    return matrix_states(h0, (step, MicroStep(writes=((k, v),)))).sin().sum()


CASES: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "linear": (linear_scan, ((B, T, K), (B, T, K), (B, K))),
    "static": (linear_scan, ((K,), (B, T, K), (B, K))),
    "lerp": (lambda a, b, h: lerp_scan(a.sigmoid(), b, h), ((B, T, K), (B, T, K), (B, K))),
    "convolution": (lambda a, b, h: convolution_scan(a.tanh(), b, h), ((K,), (B, T, K), (B, K))),
    "max_plus": (max_plus_scan, ((B, T, K), (B, T, K), (B, K))),
    "log_plus": (log_plus_scan, ((B, T, K), (B, T, K), (B, K))),
    "block": (block_scan, ((B, T, K, 2, 2), (B, T, K, 2), (B, K, 2))),
    "delta, scalar decay": (delta, ((B, T, H), (B, T, H, K), (B, T, H, V), (B, H, K, V))),
    "delta, vector decay": (delta, ((B, T, H, K), (B, T, H, K), (B, T, H, V), (B, H, K, V))),
    "all states, signed decay": (signed, ((B, T, H, K), (B, T, H, K), (B, T, H, V), (B, H, K, V))),
}


def arguments(shapes: tuple[tuple[int, ...], ...]) -> list[Tensor]:
    return [torch.randn(s, requires_grad=True) for s in shapes]


@pytest.mark.parametrize("name", CASES)
def test_compile(name: str) -> None:
    f, shapes = CASES[name]
    args = arguments(shapes)
    torch.compiler.reset()
    found, expected = torch.compile(f, fullgraph=True, backend="aot_eager")(*args), f(*args)
    assert relative(found, expected) < 1e-5
    pairs = zip(torch.autograd.grad(found.sum(), args), torch.autograd.grad(expected.sum(), args), strict=True)
    assert all(relative(x, y) < 1e-4 for x, y in pairs)


class Wrapped(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, args: list[Tensor]) -> Tensor:
        return CASES[self.name][0](*args)


@pytest.mark.parametrize("name", CASES)
def test_export_with_a_symbolic_length(name: str) -> None:
    shapes = CASES[name][1]
    args = [x.detach() for x in arguments(shapes)]
    steps = torch.export.Dim("steps", min=2, max=4096)
    sizes = [{1: steps} if T in s else None for s in shapes]
    exported = torch.export.export(Wrapped(name), (args,), dynamic_shapes=[sizes], strict=False)
    longer = [torch.randn([3 * n if n == T else n for n in s]).requires_grad_() for s in shapes]
    found, expected = exported.module()(longer), CASES[name][0](*longer)
    assert relative(found, expected) < 1e-5
    pairs = zip(torch.autograd.grad(found.sum(), longer), torch.autograd.grad(expected.sum(), longer), strict=True)
    assert all(relative(x, y) < 1e-4 for x, y in pairs)

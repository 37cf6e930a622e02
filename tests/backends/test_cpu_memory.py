"""What a kernel keeps for its backward: one state in C steps, never one a step."""

from __future__ import annotations

import gc
import math
from typing import Any

import pytest
import torch

import rnnc
from rnnc.runtime import compiled

pytestmark = pytest.mark.skipif(compiled.compiler() is None, reason="needs a C compiler")


def held() -> dict[int, int]:
    """Bytes of all memory that tensors hold, by where it is."""
    gc.collect()
    tensors = [x for x in gc.get_objects() if type(x) in (torch.Tensor, torch.nn.Parameter)]
    return {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}


def kept(layer: Any, inputs: list[torch.Tensor]) -> int:
    """Bytes that a call leaves behind for its backward, inputs and outputs not counted."""
    before = held()
    y, state = layer(*inputs)
    given = {x.untyped_storage().data_ptr() for x in (y, *state.values())}
    after = held()
    found = sum(n for place, n in after.items() if place not in before and place not in given)
    y.sum().backward()
    assert all(x.grad is not None for x in inputs)
    return found


@pytest.mark.parametrize(
    ("file", "cell", "sizes", "axes", "state"),
    [
        ("gated_deltanet", "GatedDeltaOp", {"heads": 2, "dk": 32, "dv": 32}, "hk hk hv h h", 2 * 32 * 32),
        ("gla", "GLAOp", {"heads": 2, "dk": 32, "dv": 32}, "hk hk hv hk", 2 * 32 * 32),
        ("mamba", "SelectiveScan", {"e": 32, "n": 16}, "e e n n", 32 * 16),
    ],
)
def test_is_linear_in_chunks(file: str, cell: str, sizes: dict[str, int], axes: str, state: int) -> None:
    """At most a state in 16 steps, besides what PyTorch keeps of the sequences around the kernel."""
    layer = rnnc.compile(rnnc.stdlib(file), cell, backend="cpu")(**sizes)
    lengths = {"h": sizes.get("heads", 1), "k": sizes.get("dk", 1), "v": sizes.get("dv", 1)}
    lengths |= {"e": sizes.get("e", 1), "n": sizes.get("n", 1)}
    found, around = {}, {}
    for steps in (256, 1024):
        shapes = [(2, steps, *(lengths[a] for a in names)) for names in axes.split()]
        inputs = [torch.sigmoid(torch.randn(s)).neg().detach().requires_grad_() for s in shapes]
        found[steps] = kept(layer, inputs)
        around[steps] = 4 * sum(math.prod(s) for s in shapes)
    every = 4 * 2 * state  # bytes of a state of both sequences
    assert found[1024] <= 1024 / 16 * every + 2 * around[1024] + 4 * every
    assert found[1024] < 1024 * every / 4
    growth = (found[1024] - found[256]) / (1024 - 256)
    assert growth <= every / 16 + 2 * around[1024] / 1024

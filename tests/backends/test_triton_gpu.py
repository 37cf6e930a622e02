"""Generated layers on a GPU, by every kind of kernel: against PyTorch's on the CPU, packed, and in a CUDA graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch_support as support
import triton_newton as newton
from torch import Tensor

import rnnc
import rnnc.spec

pytest.importorskip("triton")

HEADS = {"d": 64, "heads": 2, "dk": 32, "dv": 48}
LAYERS: dict[str, tuple[str | None, dict[str, int], str | None]] = {  # by file: cell, sizes, strategy
    "mingru": (None, {"d": 24, "n": 75}, None),
    "mamba": ("Mamba", {"d": 24, "e": 60, "n": 5, "rank": 3}, None),
    "gla": ("GLA", HEADS, None),
    "gated_deltanet": ("GatedDeltaNet", HEADS, None),
    "lstm": (None, {"d": 24, "n": 37}, None),
    "gru": (None, {"d": 24, "n": 300}, None),  # a head that does not fit on chip
    "heads of entries": (None, {"d": 24, "heads": 3, "n": 25}, "newton"),
}
BOUNDS = (0, 63, 63, 64, 139)


def layers(name: str) -> tuple[Any, Any, Tensor]:
    """The same layer for the GPU and, in float64, for the CPU; a sequence."""
    cell, sizes, strategy = LAYERS[name]
    spec = rnnc.parse(newton.CELLS[name]) if name in newton.CELLS else rnnc.spec.stdlib(name)
    torch.manual_seed(0)
    plain = rnnc.compile(spec, cell, backend="torch")(**sizes, dtype=torch.float64)
    ours = rnnc.compile(spec, cell, backend="triton", strategy=strategy)(**sizes, device="cuda")
    ours.load_state_dict(plain.state_dict())
    return ours, plain, torch.randn(1, BOUNDS[-1], sizes["d"], dtype=torch.float64)


def with_gradients(layer: Any, x: Tensor, **options: Any) -> list[Tensor]:
    x = x.detach().requires_grad_()
    y, final = layer(x, **options)
    loss = y.double().sin().sum() + sum(s.double().square().sum() for s in support.flat(final).values())
    return [y, *support.flat(final).values(), *torch.autograd.grad(loss, [x, *layer.parameters()])]


@pytest.mark.gpu
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("packed", [False, True])
def test_is_the_layer_of_the_cpu(name: str, packed: bool) -> None:
    """Outputs, states and gradients; with `packed` of sequences of different lengths, an empty one among them."""
    ours, plain, x = layers(name)
    bounds = {"cu_seqlens": torch.tensor(BOUNDS)} if packed else {}
    want = with_gradients(plain, x, **bounds)
    got = with_gradients(ours, x.float().cuda(), **{k: v.cuda() for k, v in bounds.items()})
    for a, b in zip(got, want, strict=True):
        assert support.error(a.double(), b.detach()) < 1e-3, support.error(a.double(), b.detach())


@pytest.mark.gpu
@pytest.mark.parametrize("name", LAYERS)
def test_in_a_cuda_graph(name: str) -> None:
    """Recorded once, forward and backward, packed sequences included; replayed with other numbers in their place."""
    ours, _, x = layers(name)
    held, bounds = x.float().cuda(), torch.tensor(BOUNDS, device="cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):  # compiled and tuned outside of the graph
            with_gradients(ours, held, cu_seqlens=bounds)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = with_gradients(ours, held, cu_seqlens=bounds)
    held.copy_(torch.randn_like(held))
    graph.replay()
    want = with_gradients(ours, held, cu_seqlens=bounds)
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["mingru", "mamba", "gla", "gated_deltanet", "lstm", "gru"])
def test_on_another_stream_strided_compiled_and_under_autocast(name: str) -> None:
    """What a training loop may do to a layer; autocast computes in bfloat16."""
    ours, _, x = layers(name)
    x = x.float().cuda()
    want = with_gradients(ours, x)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        aside = with_gradients(ours, x)
    torch.cuda.current_stream().wait_stream(stream)
    strided = with_gradients(ours, x.mT.contiguous().mT)
    compiled = with_gradients(torch.compile(ours, fullgraph=True), x)
    for found in (aside, strided, compiled):
        for a, b in zip(found, want, strict=True):
            assert support.error(a.double(), b.double().detach()) < 1e-5
    with torch.autocast("cuda", torch.bfloat16):
        low = with_gradients(ours, x)
    for a, b in zip(low, want, strict=True):
        assert support.error(a.double(), b.double().detach()) < 5e-2


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["mingru", "gla", "gated_deltanet", "lstm"])
def test_a_state_on_the_cpu_is_named(name: str) -> None:
    ours, _, x = layers(name)
    _, state = ours(x.float().cuda())
    with pytest.raises(RuntimeError, match=r"to one device|same device"):
        ours(x.float().cuda(), state={k: v.cpu() for k, v in state.items()})


@pytest.mark.gpu
def test_on_a_device_that_is_not_the_current_one() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    ours, _, x = layers("mingru")
    want = with_gradients(ours, x.float().cuda())
    found = with_gradients(ours.to("cuda:1"), x.float().to("cuda:1"))
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a.cpu(), b.cpu())

"""Cases of triton_interpreted.py: generated layers under PyTorch's transforms, by every kind of kernel.

For each: `torch.compile` with fullgraph (forward, backward, packed sequences), `torch.export`, autocast, `torch.func`,
and that neither forward nor backward reads a number on the host, which a CUDA graph could not record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch_support as support
import triton_newton as newton
from torch import Tensor

import rnnc.spec
from rnnc.compile import load_source
from rnnc.runtime.gpu.recurrence import Recurrence
from rnnc.runtime.gpu.tuning import Config

HEADS = {"d": 4, "heads": 2, "dk": 3, "dv": 2}
LAYERS: dict[str, tuple[str | None, dict[str, int], str | None]] = {  # by file: cell, sizes, strategy
    "mingru": (None, {"d": 3, "n": 5}, None),
    "mamba": ("Mamba", {"d": 2, "e": 5, "n": 3, "rank": 2}, None),
    "gla": ("GLA", HEADS, None),
    "gated_deltanet": ("GatedDeltaNet", HEADS, None),
    "lstm": (None, {"d": 3, "n": 5}, None),
    "heads of entries": (None, newton.SIZES["heads of entries"], "newton"),
}
READS = ("item", "tolist", "__bool__", "__int__", "__index__", "__float__", "nonzero")


def layer_of(name: str, dtype: torch.dtype = torch.float64) -> tuple[Any, Tensor]:
    """A layer, and a sequence for it."""
    from rnnc.backends.triton.backend import emit

    cell, sizes, strategy = LAYERS[name]
    spec = rnnc.spec.parse(newton.CELLS[name]) if name in newton.CELLS else rnnc.spec.stdlib(name)
    module = load_source(emit(spec.lower(cell), dims=None, strategy=strategy, sources=spec.sources), name)
    for k in vars(module).values():
        if isinstance(k, Recurrence):
            k.configs[()] = Config(steps=4, channels=32 if k.kind == "coupled" else 4, stages=1)
    torch.manual_seed(0)
    net = vars(module)[module.__all__[0]](**sizes, dtype=dtype)
    return net, torch.randn(1, 9, sizes["d"], dtype=dtype, requires_grad=True)


def gradients(y: Tensor, net: Any, x: Tensor) -> list[Tensor]:
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *net.parameters()])]


@contextmanager
def no_host_reads() -> Iterator[None]:
    """No number of a tensor may be asked for, but by the interpreter of Triton's kernels."""
    kept = {name: getattr(Tensor, name) for name in READS}

    def refuse(name: str) -> Callable[..., Any]:
        def read(self: Tensor, *rest: Any) -> Any:
            raise AssertionError(f"Tensor.{name} waits for the device")

        return read

    for name in READS:
        setattr(Tensor, name, refuse(name))
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(Tensor, name, method)


def transformed(name: str) -> None:
    net, x = layer_of(name)
    bounds = torch.tensor([0, 4, 4, 9])
    want = gradients(net(x)[0], net, x)
    packed = gradients(net(x, cu_seqlens=bounds)[0], net, x)
    whole = torch.compile(net, fullgraph=True, backend="aot_eager")
    same(gradients(whole(x)[0], net, x), want)
    same(gradients(whole(x, cu_seqlens=bounds)[0], net, x), packed)
    exported = torch.export.export(net, (x.detach(),)).module()
    same([exported(x.detach())[0]], want[:1])
    parameters = dict(net.named_parameters())

    def loss(given: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(net, given, (x,))[0].square().sum()

    by_parameter, by_input = torch.func.grad(loss, argnums=(0, 1))(parameters, x)
    same([by_input, *by_parameter.values()], want[1:])
    with no_host_reads():
        gradients(net(x)[0], net, x)
    net, x = layer_of(name, torch.float32)
    plain = net(x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        low, _ = net(x)
        low.float().sum().backward()
    assert support.error(low.float(), plain.detach()) < 0.05, support.error(low.float(), plain.detach())
    assert x.grad is not None
    assert x.grad.isfinite().all()


def same(got: list[Tensor], want: list[Tensor]) -> None:
    for a, b in zip(got, want, strict=True):
        assert support.error(a, b.detach()) < 1e-12, support.error(a, b.detach())


CASES: dict[str, Callable[[], None]] = {f"transforms, {name}": (lambda name=name: transformed(name)) for name in LAYERS}

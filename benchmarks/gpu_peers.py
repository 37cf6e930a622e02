"""Hand-written peers of `benchmarks.gpu`, where their packages are installed.

Each maker takes a module's inputs by name (and the module) and returns a function of no arguments that runs the peer on
the same values in the peer's own layout, with the tensors whose gradients it computes, or None where its package is
missing.  Layouts are turned beforehand: that costs the peer nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """`run` gives the outputs; `output` brings them into the layout of ours."""

    run: Callable[[], Tensor]
    leaves: tuple[Tensor, ...]
    output: Callable[[Tensor], Tensor] = lambda y: y


def leaf(x: Tensor) -> Tensor:
    return x.detach().contiguous().requires_grad_()


def fla_simple(x: Inputs, module: nn.Module) -> Peer:
    from fla.ops.simple_gla import chunk_simple_gla

    q, k, v, g = (leaf(x[n]) for n in ("C", "B", "u", "g"))
    return Peer(run=lambda: chunk_simple_gla(q, k, v, g, scale=1.0)[0], leaves=(q, k, v, g))


def fla_gla(x: Inputs, module: nn.Module) -> Peer:
    from fla.ops.gla import chunk_gla

    q, k, v, g = (leaf(x[n]) for n in ("q", "k", "v", "g"))
    return Peer(run=lambda: chunk_gla(q, k, v, g, scale=1.0)[0], leaves=(q, k, v, g))


def fla_delta(x: Inputs, module: nn.Module) -> Peer:
    from fla.ops.delta_rule import chunk_delta_rule

    q, k, v, beta = (leaf(x[n]) for n in ("q", "k", "v", "beta"))
    return Peer(run=lambda: chunk_delta_rule(q, k, v, beta, scale=1.0)[0], leaves=(q, k, v, beta))


def fla_gated_delta(x: Inputs, module: nn.Module) -> Peer:
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    q, k, v, g, beta = (leaf(x[n]) for n in ("q", "k", "v", "g", "beta"))
    return Peer(run=lambda: chunk_gated_delta_rule(q, k, v, g, beta, scale=1.0)[0], leaves=(q, k, v, g, beta))


def fla_product(x: Inputs, module: nn.Module) -> Peer:
    """Two steps of the delta rule for one, the output of the second."""
    from fla.ops.delta_rule import chunk_delta_rule

    def pairs(a: Tensor, b: Tensor) -> Tensor:
        return leaf(torch.stack([a, b], 2).flatten(1, 2))

    q, k, v = pairs(x["q"], x["q"]), pairs(x["k"], x["k2"]), pairs(x["v"], x["v2"])
    beta = pairs(x["beta"], x["beta2"])
    return Peer(run=lambda: chunk_delta_rule(q, k, v, beta, scale=1.0)[0][:, 1::2], leaves=(q, k, v, beta))


def fla_gated_product(x: Inputs, module: nn.Module) -> Peer:
    """The operator for products, which wants a gate: log decays of 0."""
    from fla.ops.gated_delta_product import chunk_gated_delta_product

    def pairs(a: Tensor, b: Tensor) -> Tensor:
        return leaf(torch.stack([a, b], 2).flatten(1, 2))

    q, k, v, beta = leaf(x["q"]), pairs(x["k"], x["k2"]), pairs(x["v"], x["v2"]), pairs(x["beta"], x["beta2"])
    g = torch.zeros_like(x["beta"], dtype=torch.float32)
    run = lambda: chunk_gated_delta_product(q, k, v, g, beta, num_householder=2, scale=1.0)[0]  # noqa: E731
    return Peer(run=run, leaves=(q, k, v, beta))


def fla_kda(x: Inputs, module: nn.Module) -> Peer:
    """Its gates are log decays, `use_gate_in_kernel` being off."""
    from fla.ops.kda import chunk_kda

    q, k, v, g, beta = (leaf(x[n]) for n in ("q", "k", "v", "g", "beta"))
    return Peer(run=lambda: chunk_kda(q, k, v, g, beta, scale=1.0)[0], leaves=(q, k, v, g, beta))


def mamba_ssm(x: Inputs, module: nn.Module) -> Peer:
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    u, dt, b, c = (leaf(x[n].mT) for n in ("u", "dt", "B", "C"))
    a = leaf(-module.A_log.detach().float().exp())  # type: ignore[union-attr,operator]
    return Peer(run=lambda: selective_scan_fn(u, dt, a, b, c), leaves=(u, dt, a, b, c), output=lambda y: y.mT)


def accelerated_scan(x: Inputs, module: nn.Module) -> Peer:
    """Its CUDA kernel, which is compiled when it is imported."""
    from accelerated_scan.warp import scan

    return _scanned(scan, x)


def accelerated_scan_triton(x: Inputs, module: nn.Module) -> Peer:
    from accelerated_scan.triton import scan

    return _scanned(scan, x)


def _scanned(scan: Callable[[Tensor, Tensor], Tensor], x: Inputs) -> Peer:
    a, b = leaf(x["a"].sigmoid().mT), leaf(x["b"].mT)
    return Peer(run=lambda: scan(a, b), leaves=(a, b), output=lambda y: y.mT)


def nn_lstm(x: Inputs, module: nn.Module) -> Peer:
    return _recurrent(nn.LSTM, x["x"], module, ("i", "f", "g", "o"))


def nn_gru(x: Inputs, module: nn.Module) -> Peer:
    """Its update gate weighs the old state, as ours does."""
    return _recurrent(nn.GRU, x["x"], module, ("r", "z", "c"))


def _recurrent(kind: Any, x: Tensor, module: nn.Module, gates: tuple[str, ...]) -> Peer:
    """PyTorch's layer (cuDNN on a GPU) with our weights."""
    given = dict(module.named_parameters())
    n, d = given[f"{gates[0]}_linear_weight"].shape
    net = kind(d, n, batch_first=True, device=x.device, dtype=x.dtype)
    zero = x.new_zeros(n)
    with torch.no_grad():
        net.weight_ih_l0.copy_(torch.cat([given[f"{g}_linear_weight"] for g in gates]))
        net.weight_hh_l0.copy_(torch.cat([given[f"{g}_linear_2_weight"] for g in gates]))
        net.bias_ih_l0.copy_(torch.cat([given[f"{g}_linear_bias"] for g in gates]))
        net.bias_hh_l0.copy_(torch.cat([given.get(f"{g}_linear_2_bias", zero) for g in gates]))
    own = leaf(x)
    return Peer(run=lambda: net(own)[0], leaves=(own, *net.parameters()))


MAKERS: dict[str, Callable[[Inputs, nn.Module], Peer]] = {
    f.__name__: f
    for f in (
        fla_simple,
        fla_gla,
        fla_delta,
        fla_gated_delta,
        fla_product,
        fla_gated_product,
        fla_kda,
        mamba_ssm,
        accelerated_scan,
        accelerated_scan_triton,
        nn_lstm,
        nn_gru,
    )
}


def peer(name: str, x: Inputs, module: nn.Module) -> Peer | None:
    """The peer, or None where its package (or a part of it) is not installed."""
    try:
        return MAKERS[name](x, module)
    except ImportError:
        return None

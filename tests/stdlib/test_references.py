"""Plain step-by-step references in PyTorch float64, written from the papers' equations and nothing else.

Each takes the compiled module's parameters by name and the input x [batch, time, d], and returns y [batch, time, ...].
They share no code with the compiler: a loop over time, one line for each equation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

Params = Mapping[str, Tensor]
Reference = Callable[[Params, Tensor], Tensor]
REFERENCES: dict[str, tuple[Reference, dict[str, object]]] = {}


def reference(cell: str, **sizes: object) -> Callable[[Reference], Reference]:
    """Registers a reference for `cell`, to be compared at these sizes and hyperparameters."""

    def add(f: Reference) -> Reference:
        key = cell if cell not in REFERENCES else f"{cell}:{f.__name__}"
        REFERENCES[key] = (f, sizes)
        return f

    return add


def affine(p: Params, name: str, x: Tensor, suffix: str = "") -> Tensor:
    """W x + b on the last axis; with a weight [heads, out, in], one map a head: [..., heads, out]."""
    weight, bias = p[f"{name}_weight{suffix}"], p.get(f"{name}_bias{suffix}")
    y = torch.einsum("oi,...i->...o", weight, x) if weight.ndim == 2 else torch.einsum("hoi,...i->...ho", weight, x)
    return y if bias is None else y + bias


def affine_scalar(p: Params, name: str, x: Tensor, suffix: str = "") -> Tensor:
    """One number a head: weight [heads, in] -> [..., heads]."""
    bias = p.get(f"{name}_bias{suffix}")
    y = torch.einsum("hi,...i->...h", p[f"{name}_weight{suffix}"], x)
    return y if bias is None else y + bias


def short_conv(p: Params, name: str, x: Tensor, suffix: str = "") -> Tensor:
    """Causal depthwise convolution of x [batch, time, ...] with weights [..., width]."""
    weight, bias = p[f"{name}_weight{suffix}"], p.get(f"{name}_bias{suffix}")
    width = weight.shape[-1]
    y = torch.zeros_like(x)
    for lag in range(width):
        shifted = torch.cat([torch.zeros_like(x[:, :lag]), x[:, : x.shape[1] - lag]], 1)
        y = y + weight[..., width - 1 - lag] * shifted
    return y if bias is None else y + bias


def unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def rms(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    return weight * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def centred(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    y = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    return y if weight is None else weight * y + bias


def matrix_memory(decay: Tensor, k: Tensor, v: Tensor, q: Tensor) -> Tensor:
    """S <- decay * S + k v^T, o = S^T q; decay [batch, time, heads, K or 1]."""
    state = k.new_zeros(k.shape[0], k.shape[2], k.shape[3], v.shape[3])
    out = []
    for t in range(k.shape[1]):
        state = decay[:, t, :, :, None] * state + k[:, t, :, :, None] * v[:, t, :, None, :]
        out.append(torch.einsum("bhkv,bhk->bhv", state, q[:, t]))
    return torch.stack(out, 1)


def elementwise(a: Tensor, b: Tensor) -> Tensor:
    """h <- a h + b from zero; returns all h."""
    h, out = torch.zeros_like(b[:, 0]), []
    for t in range(b.shape[1]):
        h = a[:, t] * h + b[:, t]
        out.append(h)
    return torch.stack(out, 1)


@reference("MinGRU", d=3, n=5)
def mingru(p: Params, x: Tensor) -> Tensor:
    z = torch.sigmoid(affine(p, "z_linear", x))
    return elementwise(1 - z, z * affine(p, "c_linear", x))


@reference("MinLSTM", d=3, n=5)
def minlstm(p: Params, x: Tensor) -> Tensor:
    f, i = torch.sigmoid(affine(p, "balance_linear", x)), torch.sigmoid(affine(p, "balance_linear_2", x))
    return elementwise(f / (f + i), i / (f + i) * affine(p, "c_linear", x))


@reference("LRU", d=3, n=4)
def lru(p: Params, x: Tensor) -> Tensor:
    decay = torch.exp(torch.complex(-torch.exp(p["nu"]), torch.exp(p["theta"])))
    drive = torch.exp(p["log_gamma"]) * (x.cdouble() @ torch.complex(p["B_re"], p["B_im"]).T)
    h = elementwise(decay.expand_as(drive), drive)
    return (h @ torch.complex(p["C_re"], p["C_im"]).T).real + p["D"] * x


@reference("S4D", d=3, n=4)
def s4d(p: Params, x: Tensor) -> Tensor:
    a, dt = torch.complex(-torch.exp(p["log_a"]), p["freq"]), torch.exp(p["log_dt"])
    a_bar = torch.exp(dt * a)
    b_bar = (a_bar - 1) / a * torch.complex(p["B_re"], p["B_im"])
    drive = b_bar * x[..., None]
    h = elementwise(a_bar.expand_as(drive), drive)
    return 2 * (torch.complex(p["C_re"], p["C_im"]) * h).sum(-1).real + p["D"] * x


@reference("S5", d=3, n=4)
def s5(p: Params, x: Tensor) -> Tensor:
    a = torch.complex(-torch.exp(p["log_a"]), p["freq"])
    a_bar = torch.exp(a * torch.exp(p["log_dt"]))
    b_bar = ((a_bar - 1) / a)[:, None] * torch.complex(p["B_re"], p["B_im"])
    drive = x.cdouble() @ b_bar.T
    h = elementwise(a_bar.expand_as(drive), drive)
    return 2 * (h @ torch.complex(p["C_re"], p["C_im"]).T).real + p["D"] * x


def turned(x: Tensor) -> Tensor:
    """Pairs (x[2j], x[2j+1]) turned by position * 10000^(-j / (K/2)); x [batch, time, heads, K]."""
    pairs = x.shape[-1] // 2
    theta = 10000.0 ** (-torch.arange(pairs, dtype=x.dtype) / pairs)
    angle = torch.arange(x.shape[1], dtype=x.dtype)[:, None, None] * theta
    even, odd = x[..., 0::2], x[..., 1::2]
    out = torch.stack([angle.cos() * even - angle.sin() * odd, angle.sin() * even + angle.cos() * odd], -1)
    return out.flatten(-2)


@reference("RetNet", d=8, heads=2)
def retnet(p: Params, x: Tensor) -> Tensor:
    q, v = turned(affine(p, "q_linear", x)), affine(p, "v_linear", x)
    k = turned(affine(p, "k_linear", x)) / q.shape[-1] ** 0.5
    heads = q.shape[2]
    gamma = (1 - 2.0 ** (-5 - torch.arange(heads, dtype=x.dtype)))[:, None].expand(*x.shape[:2], heads, 1)
    o = centred(matrix_memory(gamma, k, v, q)).flatten(2)
    return affine(p, "y_linear", F.silu(affine(p, "swish_linear", x)) * o)


@reference("GLA", d=8, heads=2, rank=3)
def gla(p: Params, x: Tensor) -> Tensor:
    alpha = torch.sigmoid(affine(p, "alpha_linear", affine(p, "low_linear", x))) ** (1 / 16)
    q, k, v = (affine(p, f"{name}_linear", x) for name in "qkv")
    o = matrix_memory(alpha, k, v, q / q.shape[-1] ** 0.5)
    o = centred(o, p["o_layernorm_weight"], p["o_layernorm_bias"]).flatten(2)
    return affine(p, "y_linear", F.silu(affine(p, "swish_linear", x)) * o)


@reference("HGRN", d=4, n=6)
def hgrn(p: Params, x: Tensor) -> Tensor:
    f = 0.5 + 0.5 * torch.sigmoid(affine(p, "f_linear", x))
    h = elementwise(f, (1 - f) * F.silu(affine(p, "c_linear", x)))
    h = centred(h, p["y_layernorm_weight"], p["y_layernorm_bias"])
    return affine(p, "y_linear", h * F.silu(affine(p, "swish_linear", x)))


@reference("HGRNComplex", d=4, n=6, floor=0.25)
def hgrn_complex(p: Params, x: Tensor) -> Tensor:
    f = 0.25 + 0.75 * torch.sigmoid(affine(p, "f_linear", x))
    c = torch.complex(F.silu(affine(p, "c_linear", x)), F.silu(affine(p, "c_linear_2", x)))
    turn = torch.complex(torch.cos(p["theta"]), torch.sin(p["theta"]))
    h = elementwise(f * turn, (1 - f) * c)
    h = centred(torch.cat([h.real, h.imag], -1), p["y_layernorm_weight"], p["y_layernorm_bias"])
    return affine(p, "y_linear", h * F.silu(affine(p, "swish_linear", x)))


@reference("HGRN2", d=8, heads=2)
def hgrn2(p: Params, x: Tensor) -> Tensor:
    f = 0.5 + 0.5 * torch.sigmoid(affine(p, "f_linear", x))
    o = matrix_memory(f, 1 - f, affine(p, "v_linear", x), F.silu(affine(p, "q_linear", x)))
    return affine(p, "y_linear", rms(o.flatten(2), p["y_rmsnorm_weight"]))


def delta_steps(p: Params, x: Tensor, suffixes: tuple[str, ...], reach: float, alpha: Tensor | None = None) -> Tensor:
    """S <- S - beta k (S^T k - v)^T once for each suffix, after an optional decay alpha [batch, time, heads]."""
    q = unit(F.silu(short_conv(p, "q_conv", affine(p, "q_linear", x))))
    micro = []
    for s in suffixes:
        k = unit(F.silu(short_conv(p, "k_conv", affine(p, "k_linear", x, s), s)))
        v = F.silu(short_conv(p, "v_conv", affine(p, "v_linear", x, s), s))
        micro.append((k, v, reach * torch.sigmoid(affine_scalar(p, "beta_linear", x, s))))
    state, out = q.new_zeros(q.shape[0], *q.shape[2:], micro[0][1].shape[-1]), []
    for t in range(x.shape[1]):
        if alpha is not None:
            state = alpha[:, t, :, None, None] * state
        for k, v, beta in micro:
            error = torch.einsum("bhkv,bhk->bhv", state, k[:, t]) - v[:, t]
            state = state - beta[:, t, :, None, None] * k[:, t, :, :, None] * error[:, :, None, :]
        out.append(torch.einsum("bhkv,bhk->bhv", state, q[:, t]))
    return torch.stack(out, 1)


@reference("DeltaNet", d=8, heads=2, reach=2)
def deltanet(p: Params, x: Tensor) -> Tensor:
    o = delta_steps(p, x, ("",), 2.0)
    return affine(p, "y_linear", rms(o, p["o_rmsnorm_weight"]).flatten(2))


@reference("DeltaProduct", d=8, heads=2, steps=3, reach=2)
def deltaproduct(p: Params, x: Tensor) -> Tensor:
    o = delta_steps(p, x, ("_1", "_2", "_3"), 2.0)
    return affine(p, "y_linear", rms(o, p["o_rmsnorm_weight"]).flatten(2))


@reference("DeltaProduct", d=8, heads=2, steps=2, reach=1, gated=True)
def gated_deltaproduct(p: Params, x: Tensor) -> Tensor:
    alpha = torch.exp(-F.softplus(affine_scalar(p, "alpha_linear", x)))
    o = delta_steps(p, x, ("_1", "_2"), 1.0, alpha)
    return affine(p, "y_linear", rms(o, p["o_rmsnorm_weight"]).flatten(2))


@pytest.mark.parametrize("key", sorted(REFERENCES))
def test_the_compiled_cell_computes_the_papers_equations(key: str, stdlib_layer: Any, agree: Any) -> None:
    f, sizes = REFERENCES[key]
    layer = stdlib_layer(key.split(":")[0], **sizes).double()
    torch.manual_seed(7)
    for parameter in layer.parameters():  # away from special starting values such as zero biases
        parameter.data += 0.1 * torch.randn_like(parameter)
    x = torch.randn(2, 37, sizes["d"], dtype=torch.float64)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    copies = {name: value.detach().clone().requires_grad_() for name, value in layer.named_parameters()}
    y, _ = layer(ours)
    expected = f(copies, theirs)
    dy = torch.randn_like(expected)
    y.backward(dy)
    expected.backward(dy)
    agree(y, expected, 1e-10)
    agree(ours.grad, theirs.grad, 1e-10)
    for name, value in layer.named_parameters():
        agree(value.grad, copies[name].grad, 1e-9, name)

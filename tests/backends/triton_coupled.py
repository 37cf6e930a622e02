"""Cases of triton_interpreted.py: steps with products of learned matrices, which are on chip."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import triton_buffers as buffers
from triton_oracle import UNLISTED, is_the_oracle, layer_of, spec_of

from rnnc.runtime.gpu.tuning import Config

CELLS = {  # with products of learned matrices
    "reset first": """cell ResetFirst(d: dim, n: dim) {
  input x: real[d]
  state h: real[n] = 0
  gate r: real[n] in (0, 1) = sigmoid(linear(x) + linear(h))
  gate z: real[n] in (0, 1) = sigmoid(linear(x) + linear(h))
  let c: real[n] = tanh(linear(x) + linear(r * h))
  h <- (1 - z) * h + z * c
  output y: real[n] = h'
}""",
    "peephole": """cell Peephole(d: dim, n: dim) {
  input x: real[d]
  param p: real[n] init normal(0.3)
  param q: real[n] init normal(0.3)
  state h: real[n] = 0
  state c: real[n] = 0
  gate i: real[n] in (0, 1) = sigmoid(linear(x) + linear(h, bias = false) + p * c)
  c <- (1 - i) * c + i * tanh(linear(x) + linear(h, bias = false))
  h <- sigmoid(linear(x) + linear(h, bias = false) + q * c') * tanh(c')
  output y: real[n] = h'
  output mean_c: real = mean(c')
}""",
    "projected": """cell Projected(d: dim, n: dim, p: dim) {
  input x: real[d]
  state h: real[p] = 0
  state c: real[n] = 0
  gate i: real[n] in (0, 1) = sigmoid(linear(x) + linear(h, bias = false))
  gate f: real[n] in (0, 1) = sigmoid(linear(x) + linear(h, bias = false))
  gate g: real[n] in (-1, 1) = tanh(linear(x) + linear(h, bias = false))
  gate o: real[n] in (0, 1) = sigmoid(linear(x) + linear(h, bias = false))
  c <- f * c + i * g
  h <- linear(o * tanh(c'), bias = false)
  output y: real[p] = h'
}""",
    "rounds": """cell Rounds(d: dim, heads: dim, n: dim) {
  input x: real[d]
  param M: real[n, n] init normal(0.4)
  per heads {
    state h: real[n] = 0
    state s: real[n] = 0
    let first: real[n] = s * tanh(linear(h) + linear(x))
    let second: real[n] = h + sigmoid(linear(first) + linear(s))
    s <- 0.5 * s + M.T @ (second * first)
    h <- tanh(0.5 * linear(second) + M @ s)
  }
  output y: real[heads*n] = flatten(h')
}""",
}


def coupled_operators() -> None:
    """Layers with matrices on chip under `torch.compile` (fullgraph) and `torch.export`, and PyTorch's own checks."""
    _, layer, (k,) = layer_of(spec_of("gru"), None, None, Config(steps=4, channels=4))
    torch.manual_seed(0)
    net = layer(d=3, n=5, dtype=torch.float64)
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    y, _ = net(x)
    want = torch.autograd.grad(y.square().sum(), [x, *net.parameters()])
    z, _ = torch.compile(net, fullgraph=True, backend="aot_eager")(x)
    got = torch.autograd.grad(z.square().sum(), [x, *net.parameters()])
    assert torch.equal(y, z)
    assert all(torch.allclose(a, b) for a, b in zip(got, want, strict=True))
    exported = torch.export.export(net, (x.detach(),)).module()
    assert torch.equal(exported(x.detach())[0], y)
    inputs = [torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    inputs.append(torch.randn(5, dtype=torch.float64, requires_grad=True))
    inputs += [torch.randn(5, 5, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    start = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    with buffers.taken(buffers.zeros):  # opcheck compares buffers
        torch.library.opcheck(torch.ops.rnnc.coupled, (k.key, inputs, [start], [3, 5, 5], 4, 4, None, True))


SIZES: dict[str, tuple[str | Path, dict[str, int]]] = {
    "LSTM": ("lstm", {"d": 3, "n": 5}),
    "GRU": ("gru", {"d": 3, "n": 17}),
    "RNN": ("rnn", {"d": 2, "n": 3}),
    "sLSTM": ("slstm", {"d": 6, "heads": 2, "dh": 3}),
    "Pendulum": (UNLISTED / "pendulum.rnn", {"d": 3, "n": 5}),
    "reset first": (CELLS["reset first"], {"d": 3, "n": 5}),
    "peephole": (CELLS["peephole"], {"d": 3, "n": 7}),
    "projected": (CELLS["projected"], {"d": 3, "n": 7, "p": 5}),
    "rounds": (CELLS["rounds"], {"d": 2, "heads": 3, "n": 5}),
}
CASES: dict[str, Callable[[], None]] = {"coupled operators": coupled_operators} | {
    name: partial(is_the_oracle, source, kind="coupled", dims=dims, steps=9, step=True)
    for name, (source, dims) in SIZES.items()
}

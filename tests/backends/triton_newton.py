"""Cases of triton_interpreted.py for nonlinear states by Newton's method."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch_support as support

import rnnc
from rnnc.compile import load_source
from rnnc.runtime.gpu.recurrence import Recurrence
from rnnc.runtime.gpu.tuning import Config

CELLS = {
    "entries": """cell Entries(n: dim) {
  input a: real[n]
  input c: real[n]
  param w: real[n] init normal(1)
  state h: real[n] = 0
  gate z: real[n] in (0, 1) = sigmoid(a + w * h)
  h <- (1 - z) * h + z * tanh(c + 0.5 * h)
  output y: real[n] = h' * a
  output s: real = sum(h * c)
}""",
    "heads of entries": """cell HeadsOfEntries(d: dim, heads: dim, n: dim) {
  input x: real[d]
  per heads {
    state h: real[n] = 0
    h <- tanh(linear(x) + 0.9 * h)
  }
  output y: real[heads*n] = flatten(h')
}""",
    "pairs": """cell Pairs(n: dim) {
  input a: real[n]
  input c: real[n]
  param w: real[n] init normal(1)
  state h: real[n] = 0
  state m: real[n] = 0
  m <- sigmoid(a + w * h) * m + 0.3 * tanh(c - h)
  h <- 0.5 * tanh(m') + 0.2 * sin(h * m)
  output y: real[n] = h' * a + m
}""",
    "hard": """cell Hard(n: dim) {
  input c: real[n]
  param w: real[n] init normal(1)
  state h: real[n] = 0
  h <- tanh(20 * w * h + 3 * c)
  output y: real[n] = h'
}""",
}
SIZES = {"entries": {"n": 5}, "pairs": {"n": 3}, "heads of entries": {"d": 3, "heads": 2, "n": 3}, "hard": {"n": 5}}


def kernel_of(name: str) -> tuple[Any, Any]:
    """The class of a layer that runs by Newton's method, and its kernel."""
    from rnnc.backends.triton.backend import emit

    spec = rnnc.parse(CELLS[name])
    module = load_source(emit(spec.lower(), dims=None, strategy="newton", sources=spec.sources), name)
    (kernel,) = [v for v in vars(module).values() if isinstance(v, Recurrence)]
    return vars(module)[module.__all__[0]], kernel


def counted() -> None:
    """A contraction is solved in a few iterations a tile; a step without one is taken step by step, and counted; both
    give the states of one step after another, packed sequences and an overflow of the slopes included.
    """
    for name, solved in (("heads of entries", True), ("hard", False)):
        layer, kernel = kernel_of(name)
        kernel.configs[()] = Config(steps=16, channels=4)
        torch.manual_seed(0)
        net = layer(**SIZES[name], dtype=torch.float64)
        plain = rnnc.compile(rnnc.parse(CELLS[name]), backend="torch", strategy="sequential")(
            **SIZES[name], dtype=torch.float64
        )
        plain.load_state_dict(net.state_dict())
        x = torch.randn(2, 37, SIZES[name].get("d", 5), dtype=torch.float64)
        want, last = plain(x)
        got, end = net(x)
        assert support.error(got, want.detach()) < 1e-10, (name, support.error(got, want.detach()))
        assert support.error(end["h"], last["h"].detach()) < 1e-10, name
        found = kernel.report()
        assert found.tiles > 0, found
        assert (found.sequential == 0) is solved, (name, found)
        assert not solved or found.iterations <= 8 * found.tiles, found
        bounds = torch.tensor([0, 5, 5, 6, 37])
        parts = [plain(x[:1, a:b])[0] for a, b in itertools.pairwise(bounds.tolist())]
        packed, _ = net(x[:1], cu_seqlens=bounds)
        assert support.error(packed, torch.cat(parts, 1).detach()) < 1e-10, name


CASES: dict[str, Callable[[], None]] = {"counted": counted}

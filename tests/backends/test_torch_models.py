"""Models: stacks of cells, repeated blocks and attention, compared with the oracle and step by step."""

from __future__ import annotations

import copy
import pickle
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch_support as support

import rnnc
from rnnc.diagnostics import SpecError
from rnnc.ir.graph import CellIR
from rnnc.ir.oracle import init_params

CELLS = """
cell Mix(d: dim, n: dim = 4, reach: real = 1) {
  input x: real[d]
  state h: real[n] = 0
  let z = sigmoid(linear[n](x))
  h <- reach * z * h + (1 - z) * linear(x) + 0.1 * conv(linear[n](x), width = 3)
  output y: real[d] = linear(h')
}
cell Dense(d: dim) {
  input x: real[d]
  state h: real[d] = 0
  h <- tanh(linear(x) + linear(h, bias = false))
  output y: real[d] = h'
}
"""
STACK = (
    CELLS
    + """
model Stack(vocab: dim, d: dim = 6, layers: int = 2) {
  input t: token[vocab]
  let h0 = embedding(t, d)
  repeat layers as h from h0 {
    h = h + Mix(d)(rmsnorm(h))
    h = h + Mix(d, reach = 0.5)(h) + 0.1 * h0
    h = h + linear(silu(linear[2*d](layernorm(h))))
  }
  output logits: real[vocab] = linear(Dense(d)(h) + prev(h))
}
"""
)
HYBRID = (
    CELLS
    + """
model Hybrid(vocab: dim, d: dim = 6, heads: dim = 2) {
  input t: token[vocab]
  let h = Mix(d)(embedding(t, d))
  per heads {
    let q: real[d/heads] = linear(h)
    let k: real[d/heads] = linear(h)
    let v: real[d/heads] = linear(h)
    let o = scaled_dot_product_attention(q, k, v)
  }
  output logits: real[vocab] = linear(h + flatten(o))
}
"""
)
SOURCES = {"Stack": STACK, "Hybrid": HYBRID}


@cache
def spec_of(name: str) -> Any:
    return rnnc.parse(SOURCES[name])


@cache
def compiled(name: str, strategy: str | None = None) -> Any:
    return rnnc.compile(spec_of(name), name, strategy=strategy)


@cache
def case(name: str, steps: int, with_state: bool) -> support.Case:
    cell: CellIR = spec_of(name).lower(name)
    dims = cell.dim_values({"vocab": 5})
    rng = np.random.default_rng(steps)
    params = init_params(cell, dims, rng)
    inputs = support.random_inputs(cell, dims, rng, batch=2, steps=steps)
    smooth = name != "Hybrid"  # the oracle has no gradients of attention
    state = None
    if with_state:
        first = support.Case(cell, dims, params, support.random_inputs(cell, dims, rng, 2, 3), differentiable=False)
        state = {k: v + 0.1 * rng.normal(size=v.shape) for k, v in first.final.items()}
    return support.Case(cell, dims, params, inputs, state, differentiable=smooth)


@pytest.mark.parametrize("strategy", [None, "sequential"])
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 21])
@pytest.mark.parametrize("name", list(SOURCES))
def test_is_the_oracle(name: str, steps: int, with_state: bool, strategy: str | None) -> None:
    case(name, steps, with_state).check(compiled(name, strategy))


def test_attention_has_the_gradients_of_the_steps() -> None:
    """The whole sequence and the decoder with its cache of keys and values differentiate to the same."""
    torch.manual_seed(0)
    layer = compiled("Hybrid")(vocab=5, dtype=torch.float64)
    t = torch.randint(0, 5, (2, 7))
    weights = torch.randn(2, 7, 5, dtype=torch.float64)
    (layer(t)[0] * weights).sum().backward()
    want = {k: p.grad.clone() for k, p in layer.named_parameters()}
    layer.zero_grad()
    state, total = None, torch.zeros((), dtype=torch.float64)
    for i in range(7):
        y, state = layer.step(t[:, i], state)
        total = total + (y * weights[:, i]).sum()
    total.backward()
    got = torch.cat([p.grad.flatten() for p in layer.parameters()])  # together: some of them are zero
    support.assert_close(got, torch.cat([g.flatten() for g in want.values()]))


@pytest.mark.parametrize("name", list(SOURCES))
def test_packed_reversed_and_resumed(name: str) -> None:
    layer = compiled(name)(vocab=5, dtype=torch.float64)
    t = torch.randint(0, 5, (1, 9))
    y, final = layer(t, cu_seqlens=torch.tensor([0, 4, 9]), reverse=True)
    for i, (start, end) in enumerate(((0, 4), (4, 9))):
        alone, last = layer(t[:, start:end].flip(1))
        support.assert_close(y[:, start:end], alone.flip(1))
        if name == "Stack":  # caches of attention have the length of each sequence
            for key, value in support.flat(last).items():
                support.assert_close(support.flat(final)[key][i : i + 1], value)
    whole, _ = layer(t)
    first, state = layer(t[:, :4])
    second, _ = layer(t[:, 4:], state)
    support.assert_close(torch.cat([first, second], 1), whole)


@pytest.mark.parametrize("name", list(SOURCES))
def test_copies(name: str) -> None:
    layer = compiled(name)(vocab=5)
    t = torch.randint(0, 5, (2, 6))
    want = layer(t)[0]
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(t)[0], want)
    fresh = compiled(name)(vocab=5)
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(t)[0], want)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # raised inside torch.compile
@pytest.mark.parametrize("name", list(SOURCES))
def test_compile_and_export(name: str) -> None:
    torch._dynamo.reset()
    layer = compiled(name)(vocab=5)
    t = torch.randint(0, 5, (2, 6))
    want = layer(t)[0].detach()
    support.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager_decomp_partition")(t)[0], want, 1e-5)
    support.assert_close(torch.export.export(layer, (t,)).module()(t)[0], want, 1e-5)


def test_layers_are_a_hyperparameter() -> None:
    cls = compiled("Stack")
    assert len(cls(vocab=5, layers=3).h_layers) == 3
    assert sum(1 for line in cls.source.splitlines() if line.startswith("class ")) == 5  # two of Mix, by their reach


def test_a_strategy_legal_nowhere() -> None:
    with pytest.raises(SpecError):
        rnnc.compile(spec_of("Stack"), "Stack", strategy="chunkwise")

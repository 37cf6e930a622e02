"""What the backend makes of a loop, and of gates: fewer operations, the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch_support as support

import rnnc

JOINED = {
    # one product with the weights of three sizes, one map of the input
    "sizes": """cell Sizes(d: dim, n: dim = 6, m: dim = 4) {
  input x: real[d]
  state h: real[n] = 0
  let u: real[n] = linear(x) + linear(h, bias = false)
  let w: real[m] = linear(h, bias = false) + linear(x)
  let v: real[n] = linear(x) + linear(h, bias = false)
  h <- tanh(u) * sigmoid(v) + 0.1 * tanh(linear[n](w))
  output y: real[n] = h'
}""",
    "without biases": """cell Bare(d: dim) {
  input x: real[d]
  state h: real[d] = 0
  let u: real[d] = linear(x, bias = false) + linear(h, bias = false)
  let v: real[d] = linear(x, bias = false) + linear(h, bias = false)
  h <- tanh(u) * sigmoid(v)
  output y: real[d] = h'
}""",
    "one map": """cell One(d: dim) {
  input x: real[d]
  state h: real[d] = 0
  let u: real[d] = tanh(linear(x)) * 0.5
  h <- tanh(u + linear(h, bias = false) + linear(x))
  output y: real[d] = h'
}""",
}
APART = {
    "read twice": "let a: real[d] = linear(h, bias = false)\n  h <- tanh(linear(x) + a) * sigmoid(v) + a",
    "two sources": "h <- tanh(linear(z) + linear(h, bias = false)) * sigmoid(v)",
    "one bias": "h <- tanh(linear(x, bias = false) + linear(h, bias = false)) * sigmoid(v)",
    "read elsewhere": "let w: real[d] = linear(x)\n  h <- tanh(w + linear(h, bias = false)) * sigmoid(v) + w",
}


def check(text: str, cell: str | None = None, strategy: str | None = None) -> str:
    """The source of a spec whose module agrees with the oracle, in doubles and under autocast."""
    spec = rnnc.parse(text)
    ir = spec.lower(cell)
    made = rnnc.compile(spec, cell, strategy=strategy)
    dims = support.small_dims(ir)
    rng = np.random.default_rng(0)
    params = {k: v.detach().numpy() for k, v in made(**dims, dtype=torch.float64).named_parameters()}
    support.Case(ir, dims, params, support.random_inputs(ir, dims, rng, batch=2, steps=11)).check(made)
    layer = made(**dims)
    xs = [support.tensor(x, torch.float32) for x in support.random_inputs(ir, dims, rng, batch=2, steps=11).values()]
    with torch.autocast("cpu", torch.bfloat16):
        y, state = layer(*xs)
    exact, _ = layer(*xs)
    assert (y.float() - exact).norm() < 0.05 * exact.norm()
    assert all(v.dtype == torch.float32 for v in state.values())
    source: str = made.source
    return source


@pytest.mark.parametrize("name", JOINED)
def test_maps_of_the_input_join_those_of_the_state(name: str) -> None:
    source = check(JOINED[name], strategy="sequential")
    loop = source[source.index("    def forward") : source.index("    def step")]
    assert loop.count("torch.addmm(") == 1
    assert loop.count("F.linear(") + loop.count(" @ ") == (2 if name != "without biases" else 1)


@pytest.mark.parametrize("name", APART)
def test_maps_that_cannot_be_joined(name: str) -> None:
    source = check(
        f"""cell Apart(d: dim) {{
  input x: real[d]
  input z: real[d]
  state h: real[d] = 0
  let v: real[d] = linear(x) + linear(h, bias = false)
  {APART[name]}
  output y: real[d] = h' + z
}}"""
    )
    assert "addmm" not in source


WAY = """cell Way(d: dim) {
  input x: real[d]
  state h: real[d] = 0
  gate g: real in (0, 1) = sigmoid(linear(x))
  gate k: real[d] in (0, 1) = sigmoid(linear(x))
  h <- tanh((1 - g) * h + g * linear(x))
  output y: real[d] = k * h' + (1 - k) * x
}"""
GATED = {
    "h <- (1 - g) * h + g * c": "lerp_scan(g, c, ",
    "h <- h * g + c * (1 - g)": "lerp_scan(1 - g, c, ",
    "h <- (1 - g) * h + c * g": "lerp_scan(g, c, ",
    "h <- g * h + (1 - c) * g": "linear_scan(g, (1 - c) * g, ",
    "h <- (1 - g) * h + g": "linear_scan(",
    "h <- max((1 - g) + h, g * c)": "max_plus_scan(1 - g, g * c, ",
}


@pytest.mark.parametrize("update", GATED)
def test_gates_of_a_scan(update: str) -> None:
    source = check(
        f"""cell Gated(d: dim) {{
  input x: real[d]
  state h: real[d] = 0
  gate g: real[d] in (0, 1) = sigmoid(linear(x))
  let c: real[d] = linear(x)
  {update}
  output y: real[d] = h'
}}"""
    )
    assert GATED[update] in source


def test_a_gate_on_the_way() -> None:
    """Between any two values, of two shapes."""
    source = check(WAY)
    assert source.count("lerp(x, h_all, k)") == source.count("lerp(x, h_new, k)") == 1
    assert "tanh(lerp(h, h_in_t, g_t[..., None]))" in source


def test_a_gate_whose_rest_has_a_name() -> None:
    source = check(
        WAY.replace("(1 - k) * x", "rest * x").replace("  h <-", "  gate rest: real[d] in (0, 1) = 1 - k\n  h <-")
    )
    assert "rest * x" in source

"""What a generated `forward` returns: outputs that are states, views or inputs themselves, turned back in time or
not."""

from __future__ import annotations

import pytest
import torch

import rnnc

OUTPUTS = """cell Ends(d: dim) {
  input x: real[d]
  input y: real[d]
  state h: real[d] = 0
  h <- 0.5 * h + x
  state S: real[d, d] = 0
  S <- 0.9 * S + outer(h', y)
  output a: real[d] = h'
  output b: real[d] = h'
  output t: real[d, d] = S'.T
  output u: real[d] = x
  output v: real[d] = y - prev(y)
  output w: real[d] = prev(x, 2)
  output one: real = 1
}"""


def test_state_after_a_reversed_run() -> None:
    """Turning the outputs back leaves the state alone, also where an output is the state's own variable."""
    for strategy in (None, "sequential"):
        layer = rnnc.compile(rnnc.parse(OUTPUTS), strategy=strategy)(d=3).double()
        x, y = torch.randn(2, 2, 7, 3, dtype=torch.float64)
        got, state = layer(x, y, reverse=True)
        want, after = layer(x.flip(1), y.flip(1))
        for g, w in zip(got, want, strict=True):
            torch.testing.assert_close(g, w.flip(1))
        assert state.keys() == after.keys()
        for key, value in after.items():
            torch.testing.assert_close(state[key], value)
        steps, running = [], None
        for t in range(7):
            out, running = layer.step(x[:, t], y[:, t], state=running)
            steps.append(out)
        forward, final = layer(x, y)
        for all_steps, each in zip(forward, zip(*steps, strict=True), strict=True):
            torch.testing.assert_close(all_steps, torch.stack(each, 1))
        for key, value in final.items():
            torch.testing.assert_close(running[key], value)


LATER = """cell Later(k: dim) {
  input x: real[k]
  let key: unit[k] = l2norm(linear(x))
  gate b: real in (0, 1) = sigmoid(linear(x))
  state M: real[k, k] = 0
  M <- M @ (I - b * outer(key, key)) + outer(x, key)
  state W: real[k, k] = 0
  W <- tanh(W + outer(x, key))
  state q: real[k] = 1
  q <- 0.9 * q + EXTRA
  output o = READ
}"""


@pytest.mark.parametrize(
    ("extra", "read"),
    [
        ("x", "M' @ q"),
        ("x", "M' @ q' + W'.T @ prev(q)"),
        ("M' @ x", "M' @ q"),
        ("W.T @ x", "W' @ q'"),
        ("x", "M' @ (W' @ q) + W' @ (M @ x)"),
        ("W' @ x", "W' @ (M' @ x) + M @ (W.T @ q')"),
        ("M @ (W' @ x)", "M' @ (M' @ q)"),
    ],
)
def test_reads_with_states_declared_later(extra: str, read: str) -> None:
    """A matrix state may be read with a state that comes after it, or that is computed from other reads of it."""
    spec = rnnc.parse(LATER.replace("EXTRA", extra).replace("READ", read))
    torch.manual_seed(0)
    chosen = rnnc.compile(spec)(k=3).double()
    with torch.no_grad():
        for p in chosen.parameters():
            p.normal_(0, 0.5)
    x = 0.5 * torch.randn(2, 9, 3, dtype=torch.float64)
    outputs, state = [], None
    for x_t in x.unbind(1):
        o, state = chosen.step(x_t, state=state)
        outputs.append(o)
    loop = rnnc.compile(spec, strategy="sequential")(k=3).double()
    loop.load_state_dict(chosen.state_dict())
    for layer in (chosen, loop):
        y, final = layer(x)
        torch.testing.assert_close(y, torch.stack(outputs, 1))
        assert final.keys() == state.keys()
        for key, value in final.items():
            torch.testing.assert_close(value, state[key])

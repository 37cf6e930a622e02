"""What a generated `forward` returns: outputs that are states, views or inputs themselves, turned back in time or
not."""

from __future__ import annotations

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

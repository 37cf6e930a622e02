"""`grad(loss, S)`: its value against differences of the loss, and the recurrences that it makes."""

from __future__ import annotations

import numpy as np
import pytest
from spec_helpers import errors, lowered, messages, run

from rnnc.analysis.recurrence import analyse_recurrence

# losses of a state S[2, 3], an input x[2] and a parameter W[3, 3]
LOSSES = [
    "0.5 * sum((S.T @ x - W @ S.T @ x)^2)",
    "mean(tanh(S @ W)) + sum(S^2) / 7",
    "sum(abs(S) ^ 3)",  # an L_p objective
    "sum(min(0.5 * S^2, abs(S) - 0.5))",  # Huber
    "-sum(log(softmax(S @ W)) * W[0:2])",
    "sum(layernorm(S) * W[0:2]) + sum(l2norm(S[0]) * W[1])",
    "max(S) * sum(concat(S[0], x) ^ 2)",
    "sum(S) if x[0] > 0 else sum(exp(S))",
    "sum(product j in 1..3 { S[0] * j + W[0] })",
    "squared(S @ S.T)",
    "sum(re(polar(sum(S), x) * complex(x, x)))",
    "sum(S * prev(S)) + sum(prev(x)) * S[1, 2]",
]
TEXT = """\
fn squared(M: real[n, m]) -> real {{ sum(M * M) }}
cell C() {{
  input x: real[2]
  param W: real[3, 3]
  param start: real[2, 3]
  state S: real[2, 3] = start
  S <- S - 0.1 * grad({loss}, S)
  output loss = {loss}
  output g = grad(loss, S)
}}
"""


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_that_of_the_loss(loss: str) -> None:
    cell = lowered(TEXT.format(loss=loss))
    rng = np.random.default_rng(3)
    x, start = rng.normal(size=(1, 2)), rng.normal(size=(2, 3))
    weights = {"W": rng.normal(size=(3, 3)), "start": start}
    out, final = run(cell, {"x": x}, weights)
    for direction in rng.normal(size=(3, 2, 3)):
        h = 1e-6
        above, _ = run(cell, {"x": x}, {**weights, "start": start + h * direction})
        below, _ = run(cell, {"x": x}, {**weights, "start": start - h * direction})
        slope = (above["loss"][0] - below["loss"][0]) / (2 * h)
        np.testing.assert_allclose(np.sum(out["g"][0] * direction), slope, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(final["S"], start - 0.1 * out["g"][0], rtol=1e-12)


DELTA = """\
cell Delta(d: dim, heads: dim = 2, n: int = {rounds}) {{
  input x: real[d]
  per heads {{
    state S: real[4, 3] = 0
    gate alpha: real in (0, 1) = sigmoid(linear(x))
    substep j in 1..n {{
      let k: unit[4] = l2norm(linear(x))
      let v: real[3] = linear(x)
      let eta: real = 2 * sigmoid(linear(x))
      {update}
    }}
    output y = S'.T @ l2norm(linear[4](x))
  }}
}}
"""
BY_HAND = "S <- alpha * S - eta * outer(k, S.T @ k - v)"
BY_GRADIENT = "S <- alpha * S - eta * grad(0.5 * sum((S.T @ k - v)^2), S)"


@pytest.mark.parametrize("rounds", [1, 2])
def test_one_step_of_descent_is_the_delta_rule(rounds: int) -> None:
    """The same numbers and the same normal form as the rule written out."""
    hand, descent = (lowered(DELTA.format(rounds=rounds, update=u)) for u in (BY_HAND, BY_GRADIENT))
    x = np.random.default_rng(0).normal(size=(5, 6))
    (expected, _), (found, _) = run(hand, {"x": x}, d=6), run(descent, {"x": x}, d=6)
    np.testing.assert_allclose(found["y"], expected["y"], rtol=1e-12)
    (group,), (other,) = analyse_recurrence(descent).groups, analyse_recurrence(hand).groups
    assert (group.kind, group.structure, group.rank) == ("affine", "householder_product", rounds)
    assert (group.structure, group.rank, group.jacobian) == (other.structure, other.rank, other.jacobian)


def test_momentum_and_a_function_of_the_loss() -> None:
    cell = lowered(
        """fn objective(S: real[n, m], k: real[n], v: real[m]) -> real { 0.5 * sum((S.T @ k - v)^2) }
fn descend(S: real[n, m], k: real[n], v: real[m], eta: real) -> real[n, m] { S - eta * grad(objective(S, k, v), S) }
cell Titans() {
  input k: real[2]
  input v: real[3]
  state M: real[2, 3] = 0
  state S: real[2, 3] = 0
  M <- 0.9 * M - grad(objective(S, k, v), S)
  S <- descend(S, k, v, 0.1) + M'
  output y = S'
}"""
    )
    rng = np.random.default_rng(1)
    k, v = rng.normal(size=(4, 2)), rng.normal(size=(4, 3))
    out, _ = run(cell, {"k": k, "v": v})
    m = s = np.zeros((2, 3))
    for t in range(4):
        g = np.outer(k[t], s.T @ k[t] - v[t])
        m, s = 0.9 * m - g, s - 0.1 * g + (0.9 * m - g)
        np.testing.assert_allclose(out["y"][t], s, rtol=1e-12)


def test_a_complex_state_moves_downhill() -> None:
    """Of a complex z the gradient of |z - a|^2 is 2 (z - a): minus it leads to a."""
    cell = lowered(
        """cell C() {
  input a: complex
  state z: complex = 0
  z <- z - 0.25 * grad(abs(z - a)^2 + 0 * sum(re(z)), z)
  output y = z'
}"""
    )
    out, _ = run(cell, {"a": np.full(30, 1 + 2j)})
    np.testing.assert_allclose(out["y"][-1], 1 + 2j, rtol=1e-6)


HEAD = """cell C(heads: dim = 2) {
  input x: real[3]
  state S: real[3] = 0
  S <- S + x
  output y = S'
"""
WRONG = {
    "let a = grad(S, S)": ("E0203", 16),
    "let a = grad(sum(S), x)": ("E0204", 24),
    "let a = grad(sum(S), S')": ("E0204", 24),
    "let a = grad(sum(S), S + 1)": ("E0204", 24),
    "let a = grad(sum(x), S)": ("E0204", 16),
    "let a = grad(sum(step(S)), S)": ("E0204", 16),
    "let a = grad(complex(sum(S), 0), S)": ("E0204", 16),
    "let a = grad(sum(S))": ("E0209", 11),
    "let a = grad(unknown, S)": ("E0201", 16),
    "per heads { let a = grad(sum(S) * linear(x), S) }": ("E0207", 28),
    "per heads { state R: real[3] = 0; R <- x }; let a = grad(sum(R), R)": ("E0207", 68),
}


@pytest.mark.parametrize("statement", WRONG)
def test_what_has_no_gradient(statement: str) -> None:
    code, column = WRONG[statement]
    assert errors(f"{HEAD}  {statement}\n}}") == [(code, 6, column)], messages(f"{HEAD}  {statement}\n}}")

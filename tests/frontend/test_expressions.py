"""What expressions mean: each against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from spec_helpers import errors, lowered, run, sound, value

import rnnc

X = np.array([0.3, -1.2, 2.0])
Y = np.array([1.5, 0.25, -0.75])
M = np.array([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0], [2.0, 0.25, 1.0]])


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


ELEMENTWISE = {
    "x + y": X + Y,
    "x - 2 * y": X - 2 * Y,
    "x / y": X / Y,
    "-x^2": -(X**2),
    "2^-1 * x": 0.5 * X,
    "abs(x)^2^0.5": np.abs(X) ** (2**0.5),
    "abs(x)": np.abs(X),
    "exp(x)": np.exp(X),
    "log(abs(x))": np.log(np.abs(X)),
    "sqrt(abs(x))": np.sqrt(np.abs(X)),
    "sign(x)": np.sign(X),
    "sin(x) + cos(y)": np.sin(X) + np.cos(Y),
    "tanh(x)": np.tanh(X),
    "sigmoid(x)": sigmoid(X),
    "logsigmoid(x)": np.log(sigmoid(X)),
    "softplus(x)": np.log1p(np.exp(X)),
    "relu(x)": np.maximum(X, 0),
    "silu(x)": X * sigmoid(X),
    "step(x)": (X > 0).astype(float),
    "min(x, y)": np.minimum(X, Y),
    "max(x, y, 0)": np.maximum(np.maximum(X, Y), 0),
    "max(2, 3) * x": 3 * X,
    "clamp(x, -1, 1)": np.clip(X, -1, 1),
    "logaddexp(x, y)": np.logaddexp(X, Y),
    "x if x > y else y": np.where(X > Y, X, Y),
    "x if x > 0 and not y > 0 or x == y else 0": np.where((X > 0) & ~(Y > 0) | (X == Y), X, 0),
    "(x <= y) + (x >= y) * 2 + (x != y) * 4 + (x < y) * 8": (X <= Y) + (X >= Y) * 2 + (X != Y) * 4 + (X < Y) * 8.0,
    "x if 0 < x < 1 else y": np.where((X > 0) & (X < 1), X, Y),
    "pi * x + e": np.pi * X + np.e,
    "1/3 * x": X / 3,
    "softmax(x)": np.exp(X) / np.exp(X).sum(),
    "l2norm(x, eps = 0)": X / np.linalg.norm(X),
    "l2norm(x)": X / np.sqrt((X**2).sum() + 1e-6),
    "rmsnorm(x)": X / np.sqrt((X**2).mean() + 1e-6),
    "layernorm(x)": (X - X.mean()) / np.sqrt(X.var() + 1e-5),
    "re(complex(x, y))": X,
    "im(conj(complex(x, y)))": -Y,
    "re(polar(x, y))": X * np.cos(Y),
    "abs(complex(x, y))": np.hypot(X, Y),
}


@pytest.mark.parametrize("expression", ELEMENTWISE)
def test_elementwise(expression: str) -> None:
    np.testing.assert_allclose(value(expression, x=X, y=Y), ELEMENTWISE[expression], rtol=1e-12)


REDUCTIONS = {
    "sum(m)": M.sum(),
    "sum(m, axis = 0)": M.sum(0),
    "mean(m, axis = -1)": M.mean(-1),
    "max(m)": M.max(),
    "min(m, axis = 1)": M.min(1),
    "sum(m, axis = [0, 1])": M.sum(),
    "sum(2 * sum(x))": 2 * X.sum(),
}
PRODUCTS = {
    "m @ x": M @ X,
    "x @ m": X @ M,
    "x @ y": X @ Y,
    "m @ m": M @ M,
    "m.T @ x": M.T @ X,
    "dot(x, y)": X @ Y,
    "outer(x, y)": np.outer(X, Y),
    "m * x": M * X,
    "x + m[0]": X + M[0],
}
SHAPES = {
    "x[0:2]": X[0:2],
    "x[1:]": X[1:],
    "x[-1]": X[-1],
    "m[1]": M[1],
    "m[:, 1]": M[:, 1],
    "m[0:2, 1:3]": M[0:2, 1:3],
    "m[2, 0]": M[2, 0],
    "concat(x, y)": np.concatenate([X, Y]),
    "concat(m, m, axis = 1)": np.concatenate([M, M], 1),
    "split(concat(x, y), 2)[1]": Y,
    "split(x, [1, 2])[1]": X[1:],
    "concat(split(m, 3))": M,
    "flatten(m)": M.ravel(),
    "reshape(x, 3, 1)": X[:, None],
    "reshape(m, [1, 9])": M.reshape(1, 9),
    "stack(x, y)": np.stack([X, Y]),
    "[x, y, x]": np.stack([X, Y, X]),
    "[x[0], 2]": np.array([X[0], 2]),
    "[[1, 2], [3, 4]]": np.array([[1.0, 2], [3, 4]]),
    "arange(1, 4) * x": np.arange(1, 4) * X,
    "arange(3)": np.arange(3.0),
    "ones(2, 3)": np.ones((2, 3)),
    "zeros(3) + x": X,
}
C = np.array([[X[(i - j) % 3] for j in range(3)] for i in range(3)])
COMPANION = np.array([[0, 0, X[0]], [1, 0, X[1]], [0, 1, X[2]]])
TURN = np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
BLOCKS = np.kron(np.diag([1.0, 0.0]), [[1, 2], [3, 4]]) + np.kron(np.diag([0.0, 1.0]), np.eye(2))
OPERATORS = {
    "diag(x)": np.diag(X),
    "diag(x) @ y": X * Y,
    "I @ x": X,
    "I - m": np.eye(3) - M,
    "m + 2 * I": M + 2 * np.eye(3),
    "(x[0] * I) @ m": X[0] * M,
    "(2 * I - I / 2) @ x": 1.5 * X,
    "I * m": np.eye(3) * M,
    "(-I).T @ x": -X,
    "I @ I @ x": X,
    "householder(x, 0.5)": np.eye(3) - 0.5 * np.outer(X, X),
    "householder(l2norm(x, eps = 0)) @ x": -X,
    "rotation(0.5)": TURN,
    "rotation([0.5, 0])": np.block([[TURN, np.zeros((2, 2))], [np.zeros((2, 2)), np.eye(2)]]),
    "blockdiag([[1, 2], [3, 4]], [[1, 0], [0, 1]])": BLOCKS,
    "blockdiag([[[1, 2], [3, 4]], [[1, 0], [0, 1]]])": BLOCKS,
    "permutation([1, 2, 0]) @ x": np.array([X[2], X[0], X[1]]),
    "lowrank(reshape(x, 3, 1), reshape(y, 3, 1))": np.outer(X, Y),
    "circulant(x)": C,
    "companion(x)": COMPANION,
    "dense(m)": M,
    "expm(diag(x))": np.diag(np.exp(X)),
    "cayley(diag(x))": np.diag((1 - X) / (1 + X)),
    "zoh(x, 0.1)": np.exp(0.1 * X),
    "zoh(diag(x), 0.1)": np.diag(np.exp(0.1 * X)),
    "product j in 1..2 { j * m }": 2 * M @ M,
    "product j in 1..2 { m + j * I }": (M + np.eye(3)) @ (M + 2 * np.eye(3)),
    "product j in 1..3 { x + j }": (X + 1) * (X + 2) * (X + 3),
    "(product j in 1..2 { I }) @ x": X,
    "sum j in 1..3 { j * x }": 6 * X,
    "sum j in 1..0 { x } + y": Y,
}


@pytest.mark.parametrize("expression", [*REDUCTIONS, *PRODUCTS, *SHAPES, *OPERATORS])
def test_shapes_and_operators(expression: str) -> None:
    expected = (REDUCTIONS | PRODUCTS | SHAPES | OPERATORS)[expression]
    found = value(expression, x=X, y=Y, m=M)
    assert found.shape == np.shape(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


def test_numbers_known_at_compile_time_stay_exact() -> None:
    cell = lowered(
        "cell C(n: dim, k: int = 3) { input x: real[n]\n let third = k / 9\n output y = third * x + (2^10 - 1)^2 }"
    )
    constants = [n.attr("value") for n in cell.nodes if n.op == "const"]
    assert [str(c) for c in constants] == ["1/3", str(1023**2)]


def test_dims_are_numbers() -> None:
    cell = lowered("cell C(n: dim) { input x: real[n]\n output y = x / sqrt(n) + n * x + n^-0.5 + (n + 1) / n }")
    x = np.array([[1.0, 2.0, 3.0, 4.0]])
    out, _ = run(cell, {"x": x}, n=4)
    np.testing.assert_allclose(out["y"], x / 2 + 4 * x + 0.5 + 1.25)


def test_one_hot_and_comparison_of_tokens() -> None:
    cell = lowered("cell C() { input t: token[3]\n output y = one_hot(t) + (1 if t == 2 else 0) }")
    out, _ = run(cell, {"t": [0, 2]})
    np.testing.assert_array_equal(out["y"], [[1, 0, 0], [1, 1, 2]])


def test_equal_expressions_are_one_node() -> None:
    cell = lowered("cell C(n: dim) { input x: real[n]\n output y = tanh(x) * tanh(x)\n output z = tanh(x) }")
    assert [n.op for n in cell.nodes].count("tanh") == 1


def test_functions_are_inlined_for_any_dims() -> None:
    text = """
fn apply(W: real[n, m], x: real[m]) -> real[n] { W @ x }
fn squash(x: real, by: real = 2) -> real { let t = by * tanh(x); t }
fn head(x: real[n]) -> real { sum(x[0:n]) / n }
cell C(d: dim) {
  input x: real[d]
  input s: real
  param W: real[3, d]
  output y = squash(apply(W, x))
  output z = squash(s, by = 3) + squash(s) + head(x)
}"""
    x, s = np.array([[0.5, -1.0]]), np.array([0.7])
    w = np.arange(6.0).reshape(3, 2) / 10
    out, _ = run(lowered(text), {"x": x, "s": s}, {"W": w}, d=2)
    np.testing.assert_allclose(out["y"][0], 2 * np.tanh(w @ x[0]))
    np.testing.assert_allclose(out["z"][0], 5 * np.tanh(0.7) - 0.25)


def test_a_function_sees_only_its_own_file_and_parameters() -> None:
    text = "fn f(a: real) -> real { a + x }\ncell C() { input x: real\n output y = f(x) }"
    assert errors(text) == [("E0201", 1, 29)]


def test_a_choice_between_truth_values_is_one() -> None:
    cell = lowered("""
cell C() {
  input x: real[3]
  input go: bool
  state on: bool = false
  on <- not on if go else on
  output z: bool[3] = x > 0 if on' else true
  output n: real[3] = x if (x > 0 if go else on) else go
}""")
    go = np.array([True, False, True])
    outputs, final = run(cell, {"x": np.stack([X, Y, X]), "go": go})
    on = np.array([True, True, False])
    assert outputs["z"].dtype == bool
    assert (outputs["z"] == np.where(on[:, None], np.stack([X, Y, X]) > 0, True)).all()
    assert not final["on"]
    before = np.array([False, True, True])
    kept = np.where(go[:, None], np.stack([X, Y, X]) > 0, before[:, None])
    assert np.allclose(outputs["n"], np.where(kept, np.stack([X, Y, X]), go[:, None]))


@pytest.mark.parametrize("number", ["1e300 * 1e300", "(1e200)^2", "1e200 * (1e200 * d)"])
def test_numbers_that_no_float_holds_are_refused(number: str) -> None:
    text = (
        f"cell C(d: dim) {{\n  input x: real[d]\n  state h: real[d] = 0\n  h <- {number} * h + x\n  output y = h'\n}}"
    )
    assert [code for code, _, _ in errors(text)] == ["E0313"]


def test_coefficients_that_no_float_holds_are_analysed() -> None:
    """Numbers that are small enough each, and not their product."""
    for update in ("1e300 * (1e300 * h) + x", "h / (1e-200 * 1e-200) + x", "h * d^400 + x"):
        text = f"cell C(d: dim) {{ input x: real[d]; state h: real[d] = 0; h <- {update}\n output y = h' }}"
        assert "affine" in str(rnnc.analyze(sound(text), "C"))

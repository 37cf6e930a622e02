"""The statements of a cell: states, blocks, time, transitions and claims on ranges."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from spec_helpers import errors, lowered, named, params, run

from rnnc.ir import oracle
from rnnc.ir.types import UnitNorm

WHOLE_SPEC = """\
use std.gates { decay }

# Gated DeltaNet.
# With an extended range.
cell GatedDeltaNet(d: dim, heads: dim = 4, dk: dim = 64, dv: dim = 64, reach: real = 2) {
  input x: real[d]
  per heads {
    let q: unit[dk] = l2norm(silu(conv(linear(x), width = 4)))
    let k: unit[dk] = l2norm(silu(conv(linear(x), width = 4)))
    let v: real[dv] = silu(conv(linear(x), width = 4))
    gate beta:  real in (0, 2) = reach * sigmoid(linear(x))
    gate alpha: real in (0, 1) = decay(linear(x))
    state S: real[dk, dv] = 0
    transition A = alpha * (I - beta * outer(k, k))
    S <- A @ S + beta * outer(k, v)
    let o: real[dv] = rmsnorm(S'.T @ q)
  }
  output y: real[d] = linear(flatten(o) * silu(linear(x)))
  expect {
    linear in S
    norm(A) <= 1
  }
}
"""


def test_the_spec_of_the_reference() -> None:
    cell = lowered(WHOLE_SPEC, d=128)
    assert [(p.name, p.default) for p in cell.dims] == [("d", None), ("heads", 4), ("dk", 64), ("dv", 64)]
    assert cell.hyper == (("reach", Fraction(2)),)
    assert cell.doc == "Gated DeltaNet.\nWith an extended range."
    assert params(cell)["q_linear_weight"] == "real[dk, d] per [heads]"
    assert params(cell)["q_conv_weight"] == "real[dk, 4] per [heads]"
    assert params(cell)["beta_linear_weight"] == "real[d] per [heads]"
    assert params(cell)["beta_linear_bias"] == "real per [heads]"
    assert params(cell)["y_linear_2_weight"] == "real[d, dv*heads]"
    assert [(n, cell.nodes[i].name) for n, i in cell.transitions] == [("A", "A")]
    assert {str(r.domain) for r in cell.ranges if cell.nodes[r.node].name == "beta"} == {"(0, 2)"}
    assert {cell.nodes[r.node].name for r in cell.ranges if r.domain == UnitNorm()} == {"q", "k"}
    state = cell.state("S")
    assert str(cell.nodes[state.update].type) == "real[dk, dv] per [heads]"
    assert cell.nodes[state.init].type == cell.nodes[state.update].type
    assert [c.kind for c in cell.expect] == ["linear", "norm"]  # type: ignore[attr-defined]


def test_the_order_of_statements_does_not_matter() -> None:
    text = "cell C(n: dim) {\n  input x: real[n]\n  %s\n}"
    lines = [
        "state h: real[n] = 0",
        "let z: real[n] = sigmoid(linear(x))",
        "h <- (1 - z) * h + z * c",
        "let c: real[n] = tanh(linear(x))",
        "output y = h' + w",
        "let w = h * z",
    ]
    forward, backward = (lowered(text % "\n  ".join(order)) for order in (lines, lines[::-1]))
    assert params(forward) == params(backward)
    x = np.random.default_rng(1).normal(size=(5, 3))
    weights = oracle.init_params(forward, {"n": 3}, np.random.default_rng(2))
    a, _ = run(forward, {"x": x}, weights, n=3)
    b, _ = run(backward, {"x": x}, weights, n=3)
    np.testing.assert_allclose(a["y"], b["y"])


def test_a_bare_state_is_the_value_before_the_step() -> None:
    text = """cell C() {
  input x: real
  state a: real = 1
  state b: real = 0
  a <- a + x
  b <- a' * 10 + a
  output old = a
  output new = a'
  output both = b'
}"""
    out, final = run(lowered(text), {"x": [1.0, 2.0]})
    assert (out["old"].tolist(), out["new"].tolist(), out["both"].tolist()) == ([1, 2], [2, 4], [21, 42])
    assert final["b"] == 42


def test_constants_fill_declared_shapes_and_reals_are_complex() -> None:
    text = """cell C(n: dim) {
  input x: real[n]
  state z: complex[n] = 1
  z <- x
  let half: real[n] = 0.5
  output y = re(z') * half
}"""
    out, final = run(lowered(text), {"x": [[2.0, 4.0]]}, n=2)
    assert out["y"].tolist() == [[1, 2]]
    assert final["z"].dtype == np.complex128


# ---------------------------------------------------------------- blocks


def test_values_of_a_per_block() -> None:
    text = """cell C(h: dim, n: dim) {
  input x: real[n]
  per h {
    input u: real[n]
    state s: real[n] = 0
    s <- s + u
    let inner = dot(s', x)
  }
  per h { let again = inner + 1 }          # the same head's value
  output all: real[h] = inner * 2          # outside: one value per head
  output flat: real[h] = again
  per h { output own: real[n] = u + each(all) }
}"""
    cell = lowered(text)
    x, u = np.ones((1, 2)), np.arange(6.0).reshape(1, 3, 2)
    out, final = run(cell, {"x": x, "u": u}, h=3, n=2)
    assert out["all"].tolist() == [[2, 10, 18]]
    assert out["flat"].tolist() == [[2, 6, 10]]
    np.testing.assert_array_equal(out["own"], u + 2 * np.array([1, 5, 9])[None, :, None])
    assert final["s"].shape == (3, 2)


def test_nested_per_blocks() -> None:
    text = """cell C(a: dim, b: dim) {
  input x: real
  per a {
    param p: real init 1
    per b {
      param w: real init 2
      let v = w * p * x
    }
    let row: real[b] = v
  }
  output grid: real[a, b] = row
  output same: real[a, b] = v
}"""
    out, _ = run(lowered(text), {"x": [3.0]}, a=2, b=3)
    assert out["grid"].tolist() == [[[6.0] * 3] * 2]
    assert out["same"].tolist() == [[[6.0] * 3] * 2]


def test_substep_is_unrolled_with_its_own_parameters() -> None:
    text = """cell C(n: dim, k: int = 2) {
  input x: real[n]
  state s: real[n] = 0
  substep j in 1..k {
    param a: real init 1
    let add = linear(x, bias = false)
    s <- s' * 0 + s if false else a * s + j * add
  }
  output y = s'
}"""
    text = text.replace("s' * 0 + s if false else ", "")
    cell = lowered(text, k=3)
    names = [f"{leaf}_{j}" for j in (1, 2, 3) for leaf in ("a", "add_linear_weight")]
    assert sorted(params(cell)) == sorted(names)
    x = np.array([[1.0, 2.0]])
    weights = {f"add_linear_weight_{j}": j * np.eye(2) for j in (1, 2, 3)} | {f"a_{j}": float(j) for j in (1, 2, 3)}
    out, _ = run(cell, {"x": x}, weights, n=2)
    first = x[0] * 1
    second = 2 * first + 2 * 2 * x[0]
    np.testing.assert_allclose(out["y"][0], 3 * second + 3 * 3 * x[0])


def test_a_later_substep_sees_the_new_state_of_an_earlier_one() -> None:
    text = """cell C() {
  input x: real
  state s: real = 0
  state t: real = 0
  substep j in 1..3 { s <- s + x
    t <- t + s' }
  output y = t'
}"""
    out, final = run(lowered(text), {"x": [1.0, 1.0]})
    assert out["y"].tolist() == [1 + 2 + 3, 6 + 4 + 5 + 6]
    assert final["s"] == 6


@pytest.mark.parametrize(("flag", "expected"), [(True, 5.0), (False, 7.0)])
def test_if_on_hyperparameters(flag: bool, expected: float) -> None:
    text = """cell C(neg: bool = false, k: int = 2) {
  input x: real
  if neg { param w: real init 5
    let a = w * x } else if k == 2 { let a = 7 * x } else { let a = unused_here }
  output y = a if neg or k < 3 else 0
  let unused_here = 1
}"""
    cell = lowered(text, neg=flag)
    out, _ = run(cell, {"x": [1.0]})
    assert out["y"].tolist() == [expected]
    assert bool(cell.params) == flag


# ---------------------------------------------------------------- time


def test_prev_and_conv_of_inputs_are_operations_over_time() -> None:
    text = """cell C(n: dim) {
  input x: real[n]
  output p = prev(x, 2)
  output q = prev(x, init = 7)
  output c = conv(x, width = 2, bias = false)
}"""
    cell = lowered(text)
    assert {n.attr("key") for n in cell.nodes if n.op in ("delay", "conv")} == {"p_prev", "q_prev", "c_conv"}
    x = np.array([[1.0], [2.0], [3.0]])
    out, _ = run(cell, {"x": x}, {"c_conv_weight": [[10.0, 1.0]]}, n=1)
    assert out["p"][:, 0].tolist() == [0, 0, 1]
    assert out["q"][:, 0].tolist() == [7, 1, 2]
    assert out["c"][:, 0].tolist() == [1, 12, 23]


def test_prev_and_conv_of_state_dependent_values_become_hidden_states() -> None:
    text = """cell C() {
  input x: real
  state s: real = 0
  s <- s + x
  output p = prev(s', 2)
  output q = prev(s', init = 5)
  output c = conv(s', width = 3)
}"""
    cell = lowered(text)
    assert not any(n.op in ("delay", "conv") for n in cell.nodes)
    assert [s.name for s in cell.states] == ["s", "p_prev_1", "p_prev_2", "q_prev_1", "c_conv_1", "c_conv_2"]
    out, _ = run(cell, {"x": [1.0, 1, 1, 1]}, {"c_conv_weight": [100.0, 10, 1], "c_conv_bias": 0.5})
    assert out["p"].tolist() == [0, 0, 1, 2]
    assert out["q"].tolist() == [5, 1, 2, 3]
    assert out["c"].tolist() == [1.5, 12.5, 123.5, 234.5]


# ---------------------------------------------------------------- transitions and claims on ranges


def test_a_transition_of_unknown_size_takes_it_from_its_use() -> None:
    body = "state h: real[n] = 0\n transition A = 0.5 * I\n h <- A @ h + x\n output y = h'"
    cell = lowered(f"cell C(n: dim) {{\n input x: real[n]\n {body}\n}}")
    ((name, node),) = cell.transitions
    assert (name, str(cell.nodes[node].type)) == ("A", "real[n, n]")
    out, _ = run(cell, {"x": [[1.0], [1.0]]}, n=1)
    assert out["y"].tolist() == [[1], [1.5]]


def test_declared_domains_are_recorded() -> None:
    text = """cell C(n: dim, reach: real = 2) {
  input x: real[n] in [-1, 1]
  state h: real[n] in (-1, 1) = 0
  h <- tanh(h + x)
  let w: real[n] >= 0 = relu(x)
  output y: real[n] in (0, reach) = reach * sigmoid(x)
}"""
    cell = lowered(text, reach=3)
    assert str(cell.inputs[0].domain) == "[-1, 1]"
    assert str(cell.states[0].domain) == "(-1, 1)"
    assert {cell.nodes[r.node].name: str(r.domain) for r in cell.ranges} == {"w": "[0, inf)", "y": "(0, 3)"}


def test_nodes_have_the_names_and_places_of_the_spec() -> None:
    cell = lowered("cell C(n: dim) {\n  input x: real[n]\n  let a = tanh(x)\n  output y = a + 1\n}")
    assert named(cell, "a").op == "tanh"
    span = named(cell, "y").span
    assert span is not None
    assert span.line == 4


def test_a_unit_value_must_be_possible() -> None:
    start = "cell C(n: dim) {\n  input x: real[n]\n  param p: unit[n]\n  output y = x\n"
    good = ["l2norm(x)", "p", "-p", "l2norm(x) if x[0] > 0 else p", "circulant(x) @ p"]
    for e in good:
        assert errors(f"{start}  let q: unit[n] = {e}\n}}") == []
    for e in ("x", "tanh(x)", "linear(x)", "2 * l2norm(x)", "0.5"):
        assert errors(f"{start}  let q: unit[n] = {e}\n}}") == [("E0204", 5, 20)]


def test_states_of_per_blocks_under_a_substep() -> None:
    text = """cell C(h: dim, n: int = 2) {
  input x: real
  per h { state s: real = 1 }
  substep j in 1..n {
    let total = sum(s)                       # outside of `per`: all heads, after the rounds so far
    per h { if j == 1 { s <- s + x } else { s <- s * total } }
  }
  output y: real[h] = s'
  output old: real[h] = s
}"""
    out, _ = run(lowered(text), {"x": [2.0]}, h=3)
    assert out["y"].tolist() == [[27, 27, 27]]
    assert out["old"].tolist() == [[1, 1, 1]]


def test_names_of_one_branch_in_a_choice_on_the_same_condition() -> None:
    text = """cell C(two: bool = true) {
  input x: real
  if two { state g: real = 0
    g <- g + x }
  output y = (g' if two else x) + 1
}"""
    assert [s.name for s in lowered(text).states] == ["g"]
    assert lowered(text, two=False).states == ()
    assert errors(text.replace("(g' if two else x)", "g'")) == [("E0201", 5, 14)]


def test_linear_inside_an_operator_takes_its_size_from_the_matrix() -> None:
    cell = lowered(
        """cell C(d: dim, p: dim) {
  input x: real[d]
  state r: real[2*p] = 0
  state q: real[2] = 0
  state S: real[4, 5] = 0
  r <- rotation(linear(x)) @ r
  q <- (0.9 * rotation(linear(x))) @ q
  let A = I - diag(linear(x))
  S <- A @ S @ circulant(linear(x)) + outer(linear(x), linear(x)) @ S + householder(linear(x)) @ S
  output y = r'
}"""
    )
    assert {k: v for k, v in params(cell).items() if k.endswith("weight")} == {
        "r_linear_weight": "real[p, d]",
        "q_linear_weight": "real[d]",
        "A_linear_weight": "real[4, d]",
        "S_linear_weight": "real[5, d]",
        "S_linear_2_weight": "real[4, d]",
        "S_linear_3_weight": "real[4, d]",
        "S_linear_4_weight": "real[4, d]",
    }


def test_operators_made_of_each_other_are_a_circle() -> None:
    text = """cell C() {
  input x: real[2]
  let a = b + b
  let b = a * 2
  output y = a @ x
}"""
    assert [code for code, _, _ in errors(text)] == ["E0206"]


def test_a_claim_may_spell_its_operator_out() -> None:
    cell = lowered(
        """cell C(d: dim, heads: dim = 2, r: real = 1/2) {
  input x: real[d]
  per heads {
    let a: real[3] = tanh(linear(x))
    state h: real[3] = 0
    transition A = r * diag(a)
    h <- A @ h + linear(x)
  }
  output y = h'
  expect {
    norm(2 * A) <= 1
    eigenvalues(diag(a)) in (-1, 1)
    norm(A) <= 1
  }
}"""
    )
    assert [(name, str(cell.nodes[n].type)) for name, n in cell.transitions] == [
        ("A", "real[3, 3] per [heads]"),
        ("2 * A", "real[3, 3] per [heads]"),
        ("diag(a)", "real[3, 3] per [heads]"),
    ]


def test_a_constant_scalar_fills_a_shape() -> None:
    cell = lowered(
        """cell C(d: dim) {
  input x: real[d]
  param p: real
  state z: complex[d] = complex(1, 1/2)
  state h: real[d, 2] = 1 / sqrt(2)
  z <- z
  h <- h
  const c: real[d] = 2 * pi
  output y: real[d] = abs(z') + h'[:, 0] + c
}"""
    )
    out, _ = run(cell, {"x": np.zeros((1, 3))}, d=3)
    np.testing.assert_allclose(out["y"], [[1.25**0.5 + 0.5**0.5 + 2 * np.pi] * 3], rtol=1e-12)
    assert errors("cell C(d: dim) {\n input x: real[d]\n param p: real\n let a: real[d] = p\n output y = a\n}") == [
        ("E0203", 4, 19)
    ]

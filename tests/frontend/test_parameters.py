"""Learned maps, the shapes that flow to them, and parameters: their domains and where they start."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from spec_helpers import lowered, params, run

import rnnc
from rnnc.ir import oracle
from rnnc.ir.dims import Dim
from rnnc.ir.domains.concrete import Concrete
from rnnc.ir.evaluate import evaluate
from rnnc.ir.types import Disk, HalfPlane, Interval, UnitNorm


def test_shapes_flow_to_linear() -> None:
    text = """cell C(d: dim, n: dim, m: dim) {
  input x: real[d]
  input t: token[m]
  state h: real[n] = 0
  state S: real[n, m] = 0
  param W: real[m, n]
  let z = sigmoid(linear(x))                        # n, from its use in the update
  h <- (1 - z) * h + z * tanh(linear(x) + linear(h))
  S <- S + linear(x)                                # a matrix
  let a: real = silu(-linear(x)) + 1                # a scalar
  let b = W @ softmax(linear(x))                    # what the matrix needs
  let c: real[m] = max(a * linear(x), clamp(linear(b), 0, 1)) if a > 0 else linear(x)
  let e: real[n] = embedding(t) + linear[n](x, bias = false)
  output e2 = e
  output y: real[d] = linear(c * linear(x)) + linear(sum(S', axis = 1) * prev(linear(x)))
  output rows: real[n, d] = linear(S)
  output lifted: real[d] = linear(a)
}"""
    cell = lowered(text)
    found = params(cell)
    assert found["z_linear_weight"] == "real[n, d]"
    assert found["h_linear_2_weight"] == "real[n, n]"
    assert found["S_linear_weight"] == "real[n, m, d]"
    assert found["a_linear_weight"] == "real[d]"
    assert found["b_linear_weight"] == "real[n, d]"
    assert found["c_linear_weight"] == "real[m, d]"
    assert found["c_linear_3_weight"] == "real[m, d]"
    assert found["y_linear_weight"] == "real[m, d]"
    assert found["rows_linear_weight"] == "real[d, m]"
    assert found["lifted_linear_weight"] == "real[d]"
    assert found["e_embedding_weight"] == "real[m, n]"


def test_linear_is_that_of_pytorch() -> None:
    cell = lowered(
        "cell C(d: dim) {\n input x: real[d]\n output y: real[3] = linear(x)\n output s: real = linear(x)\n}"
    )
    rng = np.random.default_rng(0)
    w, b, x = rng.normal(size=(3, 2)), rng.normal(size=3), rng.normal(size=(1, 2))
    v = rng.normal(size=2)
    weights = {"y_linear_weight": w, "y_linear_bias": b, "s_linear_weight": v, "s_linear_bias": 0.5}
    out, _ = run(cell, {"x": x}, weights, d=2)
    np.testing.assert_allclose(out["y"][0], w @ x[0] + b)
    np.testing.assert_allclose(out["s"][0], v @ x[0] + 0.5)
    init = {p.name: p.init for p in cell.params}
    assert init["y_linear_weight"].kind == init["y_linear_bias"].kind == "fan_in"
    assert init["y_linear_weight"].args == (Dim.of("d"),)


def test_norms_with_learned_weights() -> None:
    cell = lowered(
        "cell C(d: dim) {\n input x: real[d]\n output y = rmsnorm(x, weight = true)\n"
        " output z = layernorm(x, weight = true, eps = 1e-3)\n}"
    )
    kinds = {p.name: p.init.kind for p in cell.params}
    assert kinds == {"y_rmsnorm_weight": "ones", "z_layernorm_weight": "ones", "z_layernorm_bias": "zeros"}
    assert [n.attr("eps") for n in cell.nodes if n.op == "layernorm"] == [Fraction(1, 1000)]


def test_parameters_of_unused_values_are_left_out() -> None:
    cell = lowered(
        "cell C(n: dim) {\n input x: real[n]\n param kept: real\n let a: real[n] = linear(x)\n output y = x\n}"
    )
    assert list(params(cell)) == ["kept"]


# ---------------------------------------------------------------- parameters


def test_domains_are_kept_by_reparameterisation() -> None:
    text = """cell C(n: dim) {
  input x: real[n]
  param a: real[n] in (-1, 3) init 0.5
  param b: real[n] in [2, inf)
  param c: real[n] <= -1
  param u: unit[n]
  param z: complex[n] in disk(2)
  param w: complex[n] in re < -1
  param free: real[n] init normal(0.02)
  output o = a + b + c + u + abs(z) + re(w) + free
}"""
    cell = lowered(text)
    domains = {p.name: p.domain for p in cell.params}
    assert domains == {
        "a_raw": Interval(lo=Fraction(-1), hi=Fraction(3), lo_open=True, hi_open=True),
        "b_raw": Interval(lo=Fraction(2), lo_open=False, hi_open=True),
        "c_raw": Interval(hi=Fraction(-1), lo_open=True, hi_open=False),
        "u_raw": UnitNorm(),
        "z_raw": Disk(radius=Fraction(2)),
        "w_raw": HalfPlane(bound=Fraction(-1)),
        "free": None,
    }
    inits = {p.name: p.init for p in cell.params}
    assert (inits["a_raw"].kind, inits["a_raw"].args) == ("constant", (Fraction(1, 2),))
    assert inits["free"].args == (Fraction(2, 100),)
    raw = np.random.default_rng(0).normal(size=50) * 5
    values = {
        p.node: (raw + 1j * raw[::-1] if str(cell.nodes[p.node].type).startswith("complex") else raw)
        for p in cell.params
    }
    wanted = {p.name: p.constrained for p in cell.params if p.constrained is not None}
    found = evaluate(cell, Concrete(cell, {"n": 50}, values), list(wanted.values()))
    at = {name: found[node] for name, node in wanted.items()}
    assert ((at["a_raw"] > -1) & (at["a_raw"] < 3)).all()
    assert (at["b_raw"] >= 2).all()
    assert (at["c_raw"] <= -1).all()
    assert np.linalg.norm(at["u_raw"]) == pytest.approx(1)
    assert (np.abs(at["z_raw"]) < 2).all()
    assert (at["w_raw"].real < -1).all()


def test_how_parameters_start() -> None:
    text = """cell C(n: dim, k: dim, reach: real = 2) {
  input x: real[n]
  const ramp: real[n] = arange(1, n + 1)
  param a: real[k, n] init log(ramp)
  param b: real[n] init normal(n^-0.5)
  param c: real[n] init uniform(-1, log(reach))
  param d: real[n, n] init orthogonal
  param e: real[n] init ones
  param f: real[n] init 2 * reach
  param g: real[n, k] init normal(2 / sqrt(n))
  param h: real[2] init [1, 2]
  per k { param p: real init 3 }
  output y = b + c + e + f + sum(a) + sum(d) + sum(g) + sum(h) + sum(p)
}"""
    cell = lowered(text)
    inits = {p.name: p.init for p in cell.params}
    assert inits["a"].kind == "value"
    assert inits["b"].args == ((Fraction(1), Dim.of("n"), Fraction(-1, 2)),)
    assert float(inits["c"].args[1]) == pytest.approx(np.log(2))  # type: ignore[arg-type]
    assert inits["d"].kind == "orthogonal"
    assert inits["e"].kind == "ones"
    assert inits["f"].args == (4,)
    assert inits["g"].args == ((Fraction(2), Dim.of("n"), Fraction(-1, 2)),)
    started = oracle.init_params(cell, {"n": 3, "k": 2}, np.random.default_rng(0))
    np.testing.assert_allclose(started["a"], np.log([[1, 2, 3]] * 2))
    np.testing.assert_allclose(started["h"], [1, 2])
    assert started["p"].tolist() == [3, 3]


def test_a_declared_parameter_keeps_its_name_and_no_other_takes_it() -> None:
    """Learned maps, parameters with a domain, those of a block and of rounds, cells that are called."""
    text = """cell Own(d: dim) {
  input x: real[d]
  param a: real[d] in (0, 1)
  param y_linear_weight: real[d]
  param W_1: real
  per d {
    param a_raw: real
    let z = a_raw * sum(x)
  }
  state h: real[d] = 0
  substep j in 1..2 {
    param W: real
    h <- a * h + W * W_1 * x
  }
  output y: real[d] = linear(h' + y_linear_weight) + z
}"""
    cell = rnnc.parse(text).lower("Own")
    names = [p.name for p in cell.params]
    assert len({*names}) == len(names)
    assert {"y_linear_weight", "y_linear_2_weight", "W_1", "W_1_2", "W_2", "a_raw", "a_raw_2"} <= {*names}
    layer = rnnc.compile(rnnc.parse(text), "Own", backend="torch")(d=3)
    assert {*dict(layer.named_parameters())} == {*names}

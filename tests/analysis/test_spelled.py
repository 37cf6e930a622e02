"""Recurrences written in the language, in several ways: the same facts and form types, and forms that compute the
update.
"""

from __future__ import annotations

import numpy as np
import pytest

import rnnc.spec
from rnnc.analysis.forms import BlockLinear, Coupled, Dense, Elementwise, MatrixState
from rnnc.analysis.recurrence import analyse_recurrence

HEAD = """
  input x: real[d]
  let k: unit[K] = l2norm(linear(x))
  let v: real[V] = linear(x)
  gate beta: real in (0, 1) = sigmoid(linear(x))
"""
DELTA_RULE = {
    "operator": "state S: real[K, V] = 0; S <- (I - beta * outer(k, k)) @ S + beta * outer(k, v)",
    "householder": "state S: real[K, V] = 0; S <- householder(k, beta) @ S + outer(beta * k, v)",
    "error": "state S: real[K, V] = 0; S <- S - beta * outer(k, S.T @ k - v)",
    "let": "state S: real[K, V] = 0; let seen = k @ S; S <- S + outer(k, beta * (v - seen))",
    "lowrank": "state S: real[K, V] = 0; let M = I - outer(k, k) * beta; S <- M @ S + outer(k, v) * beta",
    "half and half": "state S: real[K, V] = 0; let e = beta * outer(k, v - S.T @ k); S <- S + e / 2 + 0.5 * e",
    "substep": "state S: real[K, V] = 0; substep j in 1..1 { S <- householder(k, beta) @ S + beta * outer(k, v) }",
    "two parts": "state S: real[K, V] = 0; let R = householder(k, beta) @ S; S <- R + beta * outer(k, v)",
    "through a function": "state S: real[K, V] = 0; S <- erased(S, k, beta) + beta * outer(k, v)",
}
FUNCTION = "fn erased(S: real[K, V], k: real[K], beta: real) -> real[K, V] { S - beta * outer(k, S.T @ k) }"


def group_of(body: str, head: str = HEAD, dims: str = "d: dim, K: dim = 4, V: dim = 3"):
    text = f"{FUNCTION}\ncell C({dims}) {{\n{head}\n  {body}\n}}"
    spec = rnnc.spec.parse(text)
    found = analyse_recurrence(spec.lower("C"))
    return found.groups[-1] if found.groups else None


@pytest.mark.parametrize("spelling", DELTA_RULE)
def test_the_delta_rule(spelling):
    group = group_of(DELTA_RULE[spelling] + "; output y: real[V] = S'.T @ k")
    assert (group.kind, group.structure, group.rank) == ("affine", "householder_product", 1)
    (form,) = group.forms
    assert isinstance(form, MatrixState)
    assert form.side == "left"
    assert form.reads is not None
    assert len(form.steps) == 1


def test_substeps_have_parameters_of_their_own():
    body = """state S: real[K, V] = 0
      substep j in 1..3 { S <- householder(l2norm(linear[K](x)), sigmoid(linear(x))) @ S + outer(linear[K](x), v) }
      output y: real[V] = S'.T @ k"""
    group = group_of(body)
    assert (group.structure, group.rank) == ("householder_product", 3)
    keys = {pair[1] for step in group.forms[0].steps for pair in step.low_rank}
    assert len(keys) == 3


def test_a_product_is_applied_factor_by_factor():
    body = """state S: real[K, V] = 0
      transition A = product j in 1..4 { householder(l2norm(linear[K](x)), 2 * sigmoid(linear(x))) }
      S <- A @ S + outer(k, v)
      output y: real[V] = S'.T @ k"""
    assert [len(s.low_rank) for s in group_of(body).forms[0].steps] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("body", "form", "structure"),
    [
        ("state h: real[K] = 0; h <- beta * h + k", Elementwise, "scalar"),
        ("state h: real[K] = 0; h <- sigmoid(linear(x)) * h + k", Elementwise, "diagonal"),
        ("state h: real[K] = 0; h <- diag(sigmoid(linear[K](x))) @ h + k", Elementwise, "diagonal"),
        ("state h: real[2*V] = 0; h <- rotation(v) @ h + linear(x)", BlockLinear, "orthogonal"),
        ("state h: real[2*V] = 0; h <- beta * (rotation(v) @ h) + linear(x)", BlockLinear, "block_diagonal"),
        ("param c: real[K]; state h: real[K] = 0; h <- circulant(c) @ h + k", Dense, "circulant"),
        ("param c: real[K]; state h: real[K] = 0; h <- companion(c) @ h + k", Dense, "companion"),
        ("param M: real[K, K]; state h: real[K] = 0; h <- cayley(M - M.T) @ h + k", Dense, "orthogonal"),
        ("param M: real[K, K]; state h: real[K] = 0; h <- 2 * (cayley(M - M.T) @ h) + k", Dense, "dense"),
        ("param M: real[K, K]; state h: real[K] = 0; h <- M @ h + k", Dense, "dense"),
        (
            "state S: real[V, K] = 0; S <- S @ (diag(k) - outer(k, k)) + outer(v, k)",
            MatrixState,
            "diagonal_plus_low_rank",
        ),
        (
            "state h: real[K] = 0; h <- (diag(sigmoid(linear[K](x))) + outer(k, k)) @ h + k",
            MatrixState,
            "diagonal_plus_low_rank",
        ),
    ],
)
def test_structures(body, form, structure):
    group = group_of(body + "; output y: real = beta")
    assert group.structure == structure
    assert isinstance(group.forms[0], form)


def test_coupled_states():
    body = """state a: real[K] = 0
      state b: real[K] = 0
      a <- cos(k) * a - sin(k) * b + k
      b <- sin(k) * a + cos(k) * b
      output y: real[K] = a'"""
    assert isinstance(group_of(body).forms[0], Coupled)


def test_a_delay_of_a_state_is_a_group_behind_it():
    body = """state h: real[K] = 0
      let before = prev(h)
      h <- beta * h + k
      output y: real[K] = before"""
    group = group_of(body)
    assert len(group.states) == 1
    assert isinstance(group.forms[0], Elementwise)


@pytest.mark.parametrize(
    "body",
    [
        "state h: real[K] = 0; h <- l2norm(beta * h + k)",
        "state h: real[K] = 0; h <- sigmoid(linear(h)) * h + k",
        "state S: real[K, V] = 0; S <- S + outer(k, v - rmsnorm(S.T @ k))",
        "state S: real[K, V] = 0; S <- S / max(1, sum(S * S)) + outer(k, v)",
        "state h: complex[K] = 0; h <- beta * conj(h) + k",
        "state h: real[K] = 0; h <- abs(h) + k",
        "state h: real[K] = 0; let z = dot(h, k); h <- z * h + k",
    ],
)
def test_near_misses(body):
    group = group_of(body + "; output y: real = beta")
    assert group.kind == "nonlinear"
    assert group.forms == ()
    assert "line" in group.because[0][0]


def test_every_library_cell_computes_what_its_forms_say(reproduces):
    checked = 0
    for name in (
        "deltanet",
        "gated_deltanet",
        "deltaproduct",
        "gla",
        "hgrn2",
        "mamba2",
        "mingru",
        "mlstm",
        "retnet",
        "s5",
    ):
        spec = rnnc.spec.stdlib(name)
        for cell in spec.cells:
            if cell in spec.models:
                continue
            ir = spec.lower(cell)
            if any(n.op in ("conv", "delay") for n in ir.nodes):
                continue  # these have values over time only
            constant = {p.name: 2 for p in ir.dims if p.default is not None and p.default.constant is not None}
            open_ = {p.name: 8 for p in ir.dims if p.default is None}
            reproduces(ir, ir.dim_values(open_ | constant))
            checked += 1
    assert checked >= 8


def test_sizes_do_not_matter_to_the_forms():
    text = "cell C(n: dim) { input x: real[n]; state h: real[n] = 0; h <- 0.5 * h + x; output y: real[n] = h' }"
    found = analyse_recurrence(rnnc.spec.parse(text).lower("C"))
    assert found.groups[0].transition_static
    assert np.isfinite(float(found.cell.nodes[found.groups[0].forms[0].a].attr("value")))

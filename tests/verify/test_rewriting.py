"""Verdicts do not depend on how a cell is written: renamed, reassociated, expanded, with functions or without."""

from __future__ import annotations

import re
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rnnc
from rnnc.verify.engine import verify

FUNCTIONS = """
fn rank_one(M: real[n, m], k: real[n], v: real[m], b: real) -> real[n, m] { M + b * outer(k, v - M.T @ k) }
fn mix(a: real, b: real, t: real) -> real { (1 - t) * a + t * b }
fn wash(a: real) -> real { 1 / (1 + exp(-a)) }
"""

DELTA = (
    "householder({k}, {z}) @ {h} + {z} * outer({k}, {v})",
    "{h} - {z} * outer({k}, {h}.T @ {k}) + {z} * outer({k}, {v})",
    "{h} + {z} * outer({k}, {v} - {h}.T @ {k})",
    "(I - {z} * outer({k}, {k})) @ {h} + outer({z} * {k}, {v})",
    "{z} * outer({k}, {v}) + ({h} - outer({z} * {k}, {k} @ {h}))",
    "rank_one({h}, {k}, {v}, {z})",
)
LEAKY = (
    "(1 - {z}) * {h} + {z} * {v}",
    "{h} + {z} * ({v} - {h})",
    "{h} - {z} * {h} + {z} * {v}",
    "{z} * {v} + {h} * (1 - {z})",
    "sigmoid(-{a}) * {h} + {z} * {v}",
    "mix({h}, {v}, {z})",
    "diag(1 - {z}) @ {h} + {z} * {v}",
)
ROUNDED_OTHERWISE = LEAKY[1:3]  # rounding is part of what a cell is in floating point, and need not be monotone here
GATES = (
    "{reach} * sigmoid({a})",
    "sigmoid({a}) * {reach}",
    "{reach} * (1 - sigmoid(-{a}))",
    "{reach} - {reach} * sigmoid(-{a})",
)

CLAIMS = (
    "linear in {h}",
    "not parallel by convolution",
    "recognizes parity",
    "not recognizes mod(3)",
    "not recognizes mod(4) with layers = 2",
    "not tracks group S(3)",
    "not recognizes flip_flop under eta_finite",
    "not recognizes parity under eta_finite",
    "not tracks group A(5) under log_precision",
)

NAMES = st.permutations(("h", "z", "k", "v", "a", "gamma", "W", "state_of_it", "λ", "x2"))


@cache
def verdicts(text: str) -> tuple[str, ...]:
    spec = rnnc.parse(text)
    found = spec.check()
    assert not found.has_errors, [d.message for d in found.items]
    return tuple(r.verdict for r in verify(spec, search=False).results)


def delta(names: dict[str, str], update: str, gate: str, reach: int) -> str:
    body = """cell {C}(d: dim, n: dim, m: dim) {{
  input {x}: real[d]
  {statements}
  state {h}: real[n, m] = 0
  {h} <- {update}
  output y: real[m] = {h}'.T @ {k}
  expect {{ {claims}; eigenvalues({A}) in [-1, 1]; not eigenvalues({A}) in [0, 1] }}
}}"""
    statements = (
        "let {k}: unit[n] = l2norm(linear({x}))",
        "let {v}: real[m] = linear({x})",
        "let {a}: real = linear({x})",
        "gate {z}: real in (0, {reach}) = " + gate,
        "transition {A} = householder({k}, {z})",
    )
    return _filled(body, names, statements, update, reach)


def leaky(names: dict[str, str], update: str, gate: str) -> str:
    body = """cell {C}(d: dim, n: dim) {{
  input {x}: real[d]
  {statements}
  state {h}: real[n] = 0
  {h} <- {update}
  output y: real[d] = linear({h}')
  expect {{ {claims}; contractive in {h}; stable }}
}}"""
    statements = (
        "let {v}: real[n] = linear({x})",
        "let {a}: real[n] = linear({x})",
        "gate {z}: real[n] in (0, 1) = " + gate,
    )
    return _filled(body, names, statements, update, 1)


def _filled(body: str, names: dict[str, str], statements: tuple[str, ...], update: str, reach: int) -> str:
    fields = {**names, "reach": str(reach)}
    return FUNCTIONS + body.format(
        **fields,
        statements="\n  ".join(statements).format(**fields),
        update=update.format(**fields),
        claims="; ".join(CLAIMS).format(**fields),
    )


def named(order: list[str]) -> dict[str, str]:
    return dict(zip(("h", "z", "k", "v", "a", "A"), order, strict=False)) | {"C": "Cell", "x": "u"}


TURNS = (
    "polar({z}, t) * {h} + {k}",
    "{k} + {h} * polar({z}, t)",
    "{z} * (polar(1, t) * {h}) + {k}",
    "complex({z} * cos(t), sin(t) * {z}) * {h} + {k}",
    "exp(complex(0, t)) * {z} * {h} + {k}",
    "turned({h}, {z}, t) + {k}",
)
TURN_CLAIMS = ("linear in {h}", "not recognizes parity", "not recognizes mod(3)", "not recognizes unary_mod(2)")


def turning(names: dict[str, str], update: str) -> str:
    body = """fn turned(h: complex[n], r: real[n], t: real[n]) -> complex[n] { polar(r, t) * h }
cell {C}(d: dim, n: dim) {
  input {x}: real[d]
  param t: real[n]
  gate {z}: real[n] in (0, 1) = sigmoid(linear({x}))
  let {k}: complex[n] = complex(linear[n]({x}), linear[n]({x}))
  state {h}: complex[n] = 0
  {h} <- UPDATE
  output y: real[n] = re({h}')
  expect { CLAIMS }
}"""
    for key, value in names.items():
        body = body.replace("{" + key + "}", value)
    return body.replace("UPDATE", update.format(**names)).replace("CLAIMS", "; ".join(TURN_CLAIMS).format(**names))


USUAL = {"h": "S", "z": "beta", "k": "k", "v": "v", "a": "a", "A": "A", "C": "Usual", "x": "x"}


@settings(max_examples=15)
@given(order=NAMES, update=st.sampled_from(DELTA), gate=st.sampled_from(GATES), reach=st.sampled_from((1, 2)))
def test_the_delta_rule(order: list[str], update: str, gate: str, reach: int) -> None:
    usual = verdicts(delta(USUAL, DELTA[0], GATES[0], reach))
    assert verdicts(delta(named(order), update, gate, reach)) == usual
    assert usual[-2:] == ("proved", "proved" if reach == 2 else "refuted")


@settings(max_examples=15)
@given(order=NAMES, update=st.sampled_from(LEAKY), gate=st.sampled_from(GATES))
def test_a_leaky_average(order: list[str], update: str, gate: str) -> None:
    usual = verdicts(leaky(USUAL, LEAKY[0], GATES[0]))
    written = leaky(named(order), update, gate)
    assert verdicts(written) == usual


@pytest.mark.parametrize("update", LEAKY)
def test_verdicts_on_floats_are_about_the_update_as_it_is_written(update: str) -> None:
    text = leaky(USUAL, update, GATES[0]).replace("stable }", "stable; not recognizes parity under float32 }")
    assert verdicts(text)[-1] == ("unknown" if update in ROUNDED_OTHERWISE else "proved")


@settings(max_examples=15)
@given(order=NAMES, update=st.sampled_from(TURNS))
def test_a_gated_rotation(order: list[str], update: str) -> None:
    assert verdicts(turning(named(order), update)) == ("proved", "proved", "proved", "unknown")


# ---------------------------------------------------------------- weights are found however a cell is written


def found(text: str, *claims: str) -> list[str]:
    spec = rnnc.parse(re.sub(r"expect \{.*?\}", f"expect {{ {'; '.join(claims)} }}", text))
    assert not spec.check().has_errors
    return [r.verdict for r in verify(spec, budget=20).results]


@pytest.mark.parametrize("update", DELTA)
@pytest.mark.parametrize("gate", GATES)
def test_weights_of_the_delta_rule(update: str, gate: str) -> None:
    text = delta(USUAL, update, gate, 2)
    assert found(text, "recognizes parity", "recognizes flip_flop") == ["proved", "proved"]


@pytest.mark.parametrize("update", LEAKY)
def test_weights_of_a_leaky_average(update: str) -> None:
    assert found(leaky(USUAL, update, GATES[1]), "recognizes flip_flop") == ["proved"]


@pytest.mark.parametrize("update", TURNS)
def test_weights_of_a_gated_rotation(update: str) -> None:
    assert found(turning(USUAL, update), "recognizes unary_mod(3)") == ["proved"]

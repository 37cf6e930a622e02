"""Cells that call cells, and cells called inside `per` blocks, beside the same recurrences written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from spec_helpers import errors, lowered, messages, params, run

from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.ir import oracle
from rnnc.ir.graph import CellIR

LEAKY = """\
cell Leaky(d: dim, k: int = 2) {
  input x: real[d]
  param tau: real[d] in (0, 1) init 0.5
  gate f: real[d] in (0, 1) = sigmoid(linear(x))
  state h: real[d] = 0.5
  h <- f * h + tau * conv(x, width = 3) + prev(x) * 0.1
  output y: real[d] = linear(h')
  output z = prev(h', k)
}
"""
X = np.random.default_rng(5).normal(size=(6, 4))


def weights_of(cell: CellIR, **dims: int) -> dict[str, Any]:
    return oracle.init_params(cell, cell.dim_values(dims), np.random.default_rng(1))


def test_a_called_cell_is_its_recurrence_written_out() -> None:
    called = lowered(
        LEAKY
        + """cell Outer(d: dim) {
  input x: real[d]
  state g: real[d] = 0
  let a = Leaky(d, k = 3)(x)
  let b = Leaky(d)(a[0] + g)
  g <- tanh(a[1] + b[1])
  output y = b[0] + g'
}""",
        "Outer",
        d=4,
    )
    leaky = """\
  param tau{0}: real[d] in (0, 1) init 0.5
  gate f{0}: real[d] in (0, 1) = sigmoid(linear(x{0}))
  state h{0}: real[d] = 0.5
  let c{0} = conv(x{0}, width = 3)
  h{0} <- f{0} * h{0} + tau{0} * c{0} + prev(x{0}) * 0.1
  let y{0}: real[d] = linear(h{0}')
"""
    written = lowered(
        "cell Outer(d: dim) {\n  input x1: real[d]\n  state g: real[d] = 0\n"
        + leaky.format(1)
        + "  let x2: real[d] = y1 + g\n"
        + leaky.format(2)
        + "  g <- tanh(prev(h1', 3) + prev(h2', 2))\n  output y = y2 + g'\n}",
        d=4,
    )
    names = {f"leaky{a}_{old}": new for a, i in (("", 1), ("_2", 2)) for old, new in {
        "tau_raw": f"tau{i}_raw",
        "f_linear_weight": f"f{i}_linear_weight",
        "f_linear_bias": f"f{i}_linear_bias",
        "h_conv_weight": f"c{i}_conv_weight",
        "h_conv_bias": f"c{i}_conv_bias",
        "y_linear_weight": f"y{i}_linear_weight",
        "y_linear_bias": f"y{i}_linear_bias",
    }.items()}  # fmt: skip
    assert set(params(called)) == set(names)
    weights = weights_of(called, d=4)
    out, final = run(called, {"x": X}, weights, d=4)
    expected, theirs = run(written, {"x1": X}, {names[k]: v for k, v in weights.items()}, d=4)
    np.testing.assert_allclose(out["y"], expected["y"], rtol=1e-12)
    np.testing.assert_allclose(final["leaky_h"], theirs["h1"], rtol=1e-12)
    np.testing.assert_allclose(final["leaky_2_h"], theirs["h2"], rtol=1e-12)
    assert {s for g in analyse_recurrence(called).groups for s in g.states} >= {"leaky_h", "leaky_2_h", "g"}


HEADS = """\
cell Heads(d: dim, heads: dim = 2, n: dim = 3) {
  input x: real[d]
  per heads {
    state s: real[n] = 1
    s <- sigmoid(linear(x)) * s + arange(n)
    output o = s'
  }
  output plain: real[d] = 2 * x
}
"""


@pytest.mark.parametrize("keyword", ["cell", "model"])
def test_a_cell_in_a_block_runs_once_for_each_head(keyword: str) -> None:
    """Three heads around a cell that has two of its own; each is compared with the cell alone."""
    cell = lowered(
        HEADS
        + f"""{keyword} M(d: dim, heads: dim = 3) {{
  input x: real[d]
  per heads {{
    let v = Heads(d, n = 4)(x)
    output o = v[0]
    output p = v[1] + x
  }}
}}""",
        "M",
        d=4,
    )
    weights = weights_of(cell, d=4)
    out, _ = run(cell, {"x": X}, weights, d=4)
    alone = lowered(HEADS, d=4, n=4)
    (prefix,) = {k.split("s_linear")[0] for k in weights}
    for h in range(3):
        own = {k.removeprefix(prefix): v[h] for k, v in weights.items()}
        expected, _ = run(alone, {"x": X}, own, d=4, n=4)
        np.testing.assert_allclose(out["o"][:, h], expected["o"], rtol=1e-12)
        np.testing.assert_allclose(out["p"][:, h], 3 * X, rtol=1e-12)


def test_each_round_of_a_substep_has_its_own_cell() -> None:
    cell = lowered(
        """cell Count(step: real = 1) {
  input x: real
  state n: real = 0
  n <- n + step * x
  output y = n'
}
cell Rounds() {
  input x: real
  state s: real = 0
  substep j in 1..3 {
    s <- s + Count(step = j)(x)
  }
  output y = s'
}""",
        "Rounds",
    )
    out, final = run(cell, {"x": np.ones(3)})
    np.testing.assert_array_equal(out["y"], [6, 18, 36])
    assert {k: v.item() for k, v in final.items() if k != "s"} == {"count_1_n": 3, "count_2_n": 6, "count_3_n": 9}


def test_a_gate_must_be_provable_for_the_value_given() -> None:
    """What a cell assumes of its input is not known of what it is called with."""
    inner = """cell Slow(d: dim) {
  input x: real[d] < 0
  gate f: real[d] in (0, 1) = exp(x)
  state h: real[d] = 0
  h <- f * h + 1
  output y = h'
}
"""
    call = "cell C(d: dim) {{\n  input x: real[d]\n  output y = Slow(d)({})\n}}"
    assert errors(inner + call.format("-softplus(x)")) == []
    assert errors(inner + call.format("x")) == [("E0503", 3, 11)]


WRONG = {
    "cell C(d: dim) {\n  input x: real[d]\n  output y = Many(d)(x)\n}": ("E0204", 14),
    "cell C(d: dim) {\n  input x: real[d]\n  output y = C(d)(x)\n}": ("E0206", 14),
    "model C(d: dim, heads: dim) {\n  input x: real[d]\n  per heads { output y = Many(d)(x) }\n}": ("E0207", 26),
    "cell C(d: dim) {\n  input x: real[d]\n  output y = Leaky(d)(sum(x))[0]\n}": ("E0203", 23),
    "cell C(d: dim) {\n  input x: real[d]\n  output y = Leaky(d)(x) + 1\n}": ("E0204", 14),
}


@pytest.mark.parametrize("text", WRONG)
def test_calls_that_are_refused(text: str) -> None:
    many = "model Many(d: dim) {\n  input x: real[d]\n  output y = Leaky(d)(x)[0]\n}\n"
    code, column = WRONG[text]
    line = (LEAKY + many).count("\n") + 3
    assert errors(LEAKY + many + text) == [(code, line, column)], messages(LEAKY + many + text)

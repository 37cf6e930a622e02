"""Models: cells applied to values, `repeat`, attention."""

from __future__ import annotations

import numpy as np
import pytest
from spec_helpers import errors, lowered, params, run

CELLS = """
cell Leak(d: dim, e: dim = 2*d, k: int = 1, keep: real = 0.5) {
  input x: real[d]
  state s: real[d] = 0
  s <- keep * s + k * x
  output y: real[d] = s'
}
cell Heads(h: dim, n: dim) {
  per h { input u: real[n]
    output o: real = sum(u) }
  output both: real[h] = o * 2
}
"""


def test_a_cell_is_called_with_hyperparameters_then_inputs() -> None:
    text = (
        CELLS
        + """
model M(d: dim, n: dim = 3) {
  input x: real[d]
  let a = Leak(d)(x)
  let b = Leak(d, keep = 0, k = 3)(a)
  let c = Leak(d, 5, keep = 0.5)(x = x)
  let o = Heads(h = n, n = d)(linear(x))
  output y: real[d] = a + b + c
  output heads: real[n] = o[0] + o[1]
}"""
    )
    cell = lowered(text, "M")
    calls = [n for n in cell.nodes if n.op == "call"]
    assert [n.attr("key") for n in calls] == ["leak", "leak_2", "leak_3", "heads", "heads"]
    assert [n.attr("output") for n in calls] == [0, 0, 0, 0, 1]
    assert [s.name for s in cell.subcells] == ["Leak", "Leak", "Heads"]  # equal specialisations are one
    assert dict(calls[0].attr("dims"))["e"] == 2 * dict(calls[0].attr("dims"))["d"]  # type: ignore[arg-type, operator]
    assert params(cell)["o_linear_weight"] == "real[n, d, d]"
    x = np.array([[1.0, 2.0], [0.0, 0.0]])
    out, final = run(cell, {"x": x}, d=2)
    a = np.array([[1, 2], [0.5, 1]])
    np.testing.assert_allclose(out["y"], a + 3 * a + a)
    assert set(final) == {"leak.s", "leak_2.s", "leak_3.s"}


def test_repeat_rebinds_the_running_value_in_order() -> None:
    text = (
        CELLS
        + """
model M(d: dim, layers: int = 3, heads: dim = 2) {
  input x: real[d]
  let outside = 2 * x
  repeat layers as h from x {
    let before = h
    h = h + outside
    param w: real init 1
    h = w * (h - before) + Leak(d, keep = 0)(before)
    repeat 2 as g from h { g = g + outside }
    h = g
    if layers > 2 { let z = 0 } else { let z = 1 }
    h = h + z
    per heads { let part: real[d/heads] = linear(h) }
    h = h + 0 * flatten(part)
  }
  output y: real[d] = h
}"""
    )
    cell = lowered(text, "M")
    (node,) = [n for n in cell.nodes if n.op == "repeat"]
    assert (node.attr("count"), node.attr("key"), len(node.args)) == (3, "h_layers", 2)
    body = cell.subcells[0]
    assert [i.name for i in body.inputs] == ["h", "outside"]
    assert list(params(body)) == ["w", "part_linear_weight", "part_linear_bias"]
    out, _ = run(cell, {"x": np.array([[1.0, 1.0]])}, d=2)
    expected = 1.0
    for _ in range(3):
        expected = 2 + expected + 4  # (h + outside - h) + Leak(h), then outside twice
    np.testing.assert_allclose(out["y"], [[expected] * 2])


def test_a_language_model_with_attention() -> None:
    text = """
model LM(vocab: dim, d: dim = 8, layers: int = 2, heads: dim = 2) {
  input t: token[vocab]
  let h0: real[d] = embedding(t)
  repeat layers as h from h0 {
    per heads {
      let q: real[d/heads] = linear(rmsnorm(h))
      let k: real[d/heads] = linear(rmsnorm(h))
      let v: real[d/heads] = linear(rmsnorm(h))
      let o = scaled_dot_product_attention(q, k, v)
    }
    h = h + linear(flatten(o))
    h = h + linear(silu(linear[4*d](rmsnorm(h, weight = true))))
  }
  output logits: real[vocab] = linear(rmsnorm(h))
}"""
    cell = lowered(text, vocab=11)
    out, _ = run(cell, {"t": [1, 2, 3]}, vocab=11)
    assert out["logits"].shape == (3, 11)
    changed, _ = run(cell, {"t": [1, 2, 4]}, vocab=11)
    np.testing.assert_array_equal(out["logits"][:2], changed["logits"][:2])  # causal


@pytest.mark.parametrize(
    ("statement", "code", "column"),
    [
        ("let a = Leak(d)", "E0209", 11),
        ("let a = Leek(d)(x)", "E0201", 11),
        ("let a = tanh(x)(x)", "E0204", 11),
        ("let a = Leak()(x)", "E0303", 11),
        ("let a = Leak(d, dd = 3)(x)", "E0301", 19),
        ("let a = Leak(d, 4, 1, 1, 1)(x)", "E0209", 28),
        ("let a = Leak(d, d = 3)(x)", "E0209", 19),
        ("let a = Leak(0)(x)", "E0302", 16),
        ("let a = Leak(d, k = d)(x)", "E0302", 11),
        ("let a = Leak(d, k = x)(x)", "E0305", 19),
        ("let a = Leak(d)(x, x)", "E0209", 11),
        ("let a = Leak(d)()", "E0209", 11),
        ("let a = Leak(2*d)(x)", "E0203", 21),
        ("let a = Heads(2, d)([x, x]) + 1", "E0204", 11),
        ("per n { let a = Leak(d)(sum(x)) }", "E0203", 27),
        ("state s: real = 0", "E0210", 3),
        ("repeat 0 as h from x { h = h }", "E0302", 10),
        ("repeat x as h from x { h = h }", "E0305", 10),
        ("repeat n as h from x { h = h }", "E0305", 10),
        ("repeat 1/2 as h from x { h = h }", "E0204", 10),
        ("repeat 257 as h from x { h = h }", "E0304", 10),
        ("repeat 2 as h from x { h = sum(h) }", "E0203", 30),
        ("repeat 2 as h from x { x = h }", "E0204", 26),
        ("repeat 2 as h from x { output z = h }", "E0210", 26),
        ("repeat 2 as h from x { h = later\n let later = h }", "E0201", 30),
        ("repeat 2 as h from undefined { h = h + other }", "E0201", 22),
    ],
)
def test_errors_in_models(statement: str, code: str, column: int) -> None:
    found = errors(CELLS + f"model M(d: dim, n: dim = 2) {{\n  input x: real[d]\n  {statement}\n  output y = x\n}}")
    line = CELLS.count("\n") + 3
    assert found[0] == (code, line, column)
    assert len(found) == (2 if "other" in statement else 1)


def test_nothing_contains_itself_and_attention_is_for_models() -> None:
    one = "model {}(d: dim) {{\n  input x: real[d]\n  output y = {}(d)(x)\n}}\n"
    loop = one.format("A", "B") + one.format("B", "A")
    assert {code for code, _, _ in errors(loop)} == {"E0206"}
    attention = "cell C(d: dim) {\n  input x: real[d]\n  output y = scaled_dot_product_attention(x, x, x)\n}"
    assert errors(attention) == [("E0204", 3, 14)]


def test_errors_of_a_called_cell_are_reported_once() -> None:
    inner = "cell A(d: dim) {\n  input x: real[d]\n  output y = x + oops\n}\n"
    text = inner + "model M(d: dim) {\n  input x: real[d]\n  output y = A(d)(A(d)(x))\n}"
    assert errors(text) == [("E0201", 3, 18)]

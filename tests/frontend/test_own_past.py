"""`let a = x + prev(a)`: values that depend on their own past, beside the states they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from spec_helpers import errors, lowered, messages, run

X = np.random.default_rng(2).normal(size=(7, 3))

# what is written --> the same with states
PAIRS = {
    "let a = x + prev(a)": "state s: real[3] = 0\n s <- s + x\n let a = s'",
    "let a = x + 0.5 * prev(a, init = 2)": "state s: real[3] = 2\n s <- 0.5 * s + x\n let a = s'",
    "let a = 0.5 * prev(a, 2, init = 1) + x": (
        "state s: real[3] = 1\n state t: real[3] = 1\n s <- 0.5 * t + x\n t <- s\n let a = s'"
    ),
    "let a: real[3] = b + x\n let b = 0.5 * prev(a)": "state s: real[3] = 0\n s <- 0.5 * s + x\n let a = s'",
    "let b = 0.5 * prev(a)\n let a: real[3] = b + x": "state s: real[3] = 0\n s <- 0.5 * s + x\n let a = s'",
    "state h: real[3] = 0\n let a: real[3] = h' + x\n h <- 0.5 * h + prev(a)": (
        "state h: real[3] = 0\n state s: real[3] = 0\n let a = h' + x\n h <- 0.5 * h + s\n s <- a"
    ),
    "gate g: real[3] in (0, 1) = sigmoid(x + prev(g))\n let a = g": (
        "state s: real[3] = 0\n s <- sigmoid(x + s)\n let a = s'"
    ),
    "let z: complex[3] = complex(0, 0.5) * prev(z) + x\n let a = re(z)": (
        "state s: complex[3] = 0\n s <- complex(0, 0.5) * s + x\n let a = re(s')"
    ),
    "per heads { let z: real[3] = tanh(x + prev(z)) }\n let a = z[1]": (
        "per heads { state s: real[3] = 0; s <- tanh(x + s) }\n let a = s'[1]"
    ),
}
TEXT = "cell C(heads: dim = 2) {{\n input x: real[3]\n {}\n output y: real[3] = a\n}}"


@pytest.mark.parametrize("written", PAIRS)
def test_it_is_a_state(written: str) -> None:
    out, _ = run(lowered(TEXT.format(written)), {"x": X})
    expected, _ = run(lowered(TEXT.format(PAIRS[written])), {"x": X})
    np.testing.assert_allclose(out["y"], expected["y"], rtol=1e-12)


def test_an_output_may_use_its_own_past() -> None:
    out, final = run(lowered("cell C() {\n input x: real\n output y = x + 0.5 * prev(y)\n}"), {"x": np.ones(3)})
    np.testing.assert_array_equal(out["y"], [1, 1.5, 1.75])
    assert list(final) == ["y_prev_1"]


WRONG = {
    "let a = concat(x, stack(prev(a)))": ("E0203", 2),
    "let a = x * prev(x + a)": ("E0206", 23),
    "let a = x + a": ("E0206", 14),
    "let a = sum(x) * (prev(a) + x)": None,
    "let a = complex(x, x) * prev(a)": ("E0203", 2),
    "let a: bool = prev(a) > 0": ("E0204", 16),
    "let a = x + prev(a, 0)": ("E0209", 14),
    "let a = x + prev(a, init = x)": ("E0204", 29),
}


@pytest.mark.parametrize("statement", WRONG)
def test_what_cannot_be(statement: str) -> None:
    text = f"cell C() {{\n input x: real[3]\n {statement}\n output y = x\n}}"
    expected = WRONG[statement]
    assert errors(text) == ([] if expected is None else [(expected[0], 3, expected[1])]), messages(text)


def test_a_model_has_no_states() -> None:
    assert errors("model M() {\n input x: real[3]\n let a = x + prev(a)\n output y = a\n}") == [("E0206", 3, 19)]

"""Structural claims: proofs, counterexamples that can be computed again, and what is missing where neither is found."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import rnnc
from rnnc.ir.oracle import run
from rnnc.ir.types import Interval
from rnnc.verify.bounds import outside
from rnnc.verify.engine import verify
from rnnc.verify.results import ClaimResult

GRU = """
state h: real[n] = 0
gate z: real[n] in (0, 1) = sigmoid(linear(x) + linear(h))
h <- (1 - z) * h + z * tanh(linear(x))
"""
LSTM = """
state h: real[n] = 0
state c: real[n] = 0
c <- sigmoid(linear(x) + linear(h)) * c + linear(x)
h <- tanh(c')
"""
DELTA = """
let k: unit[n] = l2norm(linear(x))
gate b: real in (0, 2) = 2 * sigmoid(linear(x))
state S: real[n, n] = 0
transition A = householder(k, b)
S <- A @ S + outer(k, linear[n](x))
"""
ROTATION = """
state h: real[2] = 0
transition A = [[cos(sum(x)), -sin(sum(x))], [sin(sum(x)), cos(sum(x))]]
h <- A @ h + linear(x)
"""
DECAY = "state h: real[n] = 0\nlet a: real[n] = exp(-softplus(linear(x)))\nh <- a * h + linear(x)"
CONSTANT = "param w: real[n] in (0, 1)\nstate h: real[n] = 0\nh <- w * h + linear(x)"
GROWING = "param W: real[n, n]\nstate h: real[n] = 0\nh <- W @ h + linear(x)"
SUM = "state h: real[n] = 0\nh <- h + linear(x)"
CLOCK = "state t: real = 0\nt <- t + 1"
WINDOW = "state h: real[n] = 0\nh <- h + conv(linear(x), width = 4) - linear(x)"
NEARLY = "state h: real[n] = 0\nh <- (1 - 2^(-60)) * h + linear(x)"
LONG = "state h: real[n] = 0\nh <- 0.5 * prev(h) + 0.25 * h + linear(x)"


def ask(body: str, *claims: str, **hyper: int) -> list[ClaimResult]:
    text = (
        f"cell C(d: dim, n: dim) {{\n input x: real[d]\n {body}\n output y: real[d] = linear(x)\n"
        f" expect {{ {'; '.join(claims)} }}\n}}"
    )
    spec = rnnc.parse(text)
    found = spec.check()
    assert not found.has_errors, [d.message for d in found.items]
    return list(verify(spec, search=False, **hyper).results)


@pytest.mark.parametrize(
    ("body", "claim", "expected"),
    [
        (GRU, "linear in h", "refuted"),
        (GRU, "not linear in h", "proved"),
        (GRU, "not affine in h", "proved"),
        (GRU, "not parallel by scan", "proved"),
        (GRU, "time_invariant", "refuted"),
        (GRU, "parallel by newton", "proved"),
        (LSTM, "linear in c", "proved"),
        (LSTM, "not linear in h", "proved"),
        (DELTA, "affine in S", "proved"),
        (DELTA, "eigenvalues(A) real", "proved"),
        (DELTA, "eigenvalues(A) in [-1, 1]", "proved"),
        (DELTA, "eigenvalues(A) in disk(1)", "proved"),
        (DELTA, "not eigenvalues(A) in [0, 1]", "proved"),
        (DELTA, "eigenvalues(A @ A) in [0, 1]", "unknown"),
        (DELTA, "eigenvalues(A) in re <= 1", "proved"),
        (DELTA, "eigenvalues(A) in re < 0", "refuted"),
        (DELTA, "eigenvalues(0.5 * A) in [-1/2, 1/2]", "proved"),
        (DELTA, "norm(A) <= 1", "proved"),
        (DELTA, "not norm(A) <= 1/2", "proved"),
        (DELTA, "parallel by chunk", "proved"),
        (DELTA, "parallel by convolution", "refuted"),
        (DELTA, "not time_invariant", "proved"),
        (ROTATION, "eigenvalues(A) real", "refuted"),
        (ROTATION, "eigenvalues(A) in [-1, 1]", "refuted"),
        (DECAY, "eigenvalues(a) in (0, 1)", "proved"),
        (DECAY, "eigenvalues(a) in (0, 0.99)", "refuted"),
        (DECAY, "stable", "proved"),
        (DECAY, "contractive in h", "proved"),
        (DECAY, "parallel by scan", "proved"),
        (CONSTANT, "time_invariant", "proved"),
        (CONSTANT, "parallel by convolution", "proved"),
        (GROWING, "stable", "refuted"),
        (GROWING, "contractive in h", "refuted"),
        (GROWING, "time_invariant", "proved"),
        (GROWING, "eigenvalues(W) real", "refuted"),
        (GROWING, "norm(W) <= 100", "refuted"),
        (SUM, "contractive in h", "unknown"),
        (SUM, "stable", "refuted"),
        (CLOCK, "not stable", "proved"),
        (WINDOW, "stable", "refuted"),
        (NEARLY, "stable", "proved"),
        (SUM, "parallel by newton", "proved"),
        (LONG, "stable", "proved"),
        (LONG, "linear in h", "proved"),
        (LONG, "time_invariant", "proved"),
    ],
)
def test_verdict(body: str, claim: str, expected: str) -> None:
    (result,) = ask(body, claim)
    assert result.verdict == expected, result.reason
    assert result.evidence is not None or result.reason.startswith("missing: ")


def test_a_counterexample_can_be_computed_again() -> None:
    """A midpoint that is no midpoint: three rows of the batch, with the first two states' mean in the third."""
    (result,) = ask(GRU, "linear in h")
    assert result.evidence is not None
    at = result.evidence.data["at"]
    spec = rnnc.parse(f"cell C(d: dim, n: dim) {{\n input x: real[d]\n {GRU}\n output y: real[d] = linear(x)\n}}")
    arrays = {key: {k: np.array(v) for k, v in at[key].items()} for key in ("parameters", "inputs", "state")}
    _, after = run(spec.lower(), at["dims"], arrays["parameters"], arrays["inputs"], arrays["state"])
    old, new = arrays["state"]["h"], after["h"]
    assert np.allclose(old[2], (old[0] + old[1]) / 2)
    assert np.abs(new[2] - (new[0] + new[1]) / 2).max() > 1e-3


def test_sizes_that_are_given_are_used() -> None:
    (result,) = ask(GROWING, "norm(W) <= 1", d=3, n=5)
    assert result.evidence is not None
    assert result.evidence.data["at"]["dims"] == {"d": 3, "n": 5}


@pytest.mark.parametrize("matrix", [[[1, 1], [0, 1]], [[1, 1e3], [0, 1]], [[0.5, 1, 0], [0, 0.5, 1], [0, 0, 0.5]]])
def test_rounding_of_defective_matrices_refutes_nothing(matrix: list[list[float]]) -> None:
    noisy = np.array(matrix) + 1e-14 * np.ones((len(matrix), len(matrix)))
    assert outside(noisy, Interval(lo=Fraction(0), hi=Fraction(1))) is None


def test_claims_that_mean_nothing_here_are_unknown() -> None:
    outputs = ask(DELTA, "eigenvalues(k @ S) in [0, 1]", "norm(b + k) <= n", "stable with layers = 2")
    assert [r.verdict for r in outputs] == ["unknown"] * 3


def test_states_of_truth_values_have_no_midpoints_or_differences() -> None:
    cell = """
    cell Flags(d: dim) {
      input m: bool
      input x: real[d]
      state s: bool = false
      state r: bool = false
      state h: real[d] = 0
      s <- m
      r <- (r and m) or s
      h <- (h if s else 0) + x
      output y: real[d] = h'
      expect { linear in r; time_invariant; stable; contractive in r; parallel by scan }
    }
    """
    verdicts = [r.verdict for r in rnnc.verify(rnnc.parse(cell), search=False).results]
    assert verdicts[0] == verdicts[3] == "unknown"
    assert "proved" not in verdicts

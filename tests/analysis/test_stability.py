"""Stability and Lipschitz bounds: what is proved, what is missing, and that no pair of states contradicts a bound."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc.analysis.facts import Spectrum
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.analysis.spectrum import spectrum_of
from rnnc.ir.domains.concrete import Concrete
from rnnc.ir.evaluate import evaluate
from rnnc.ir.graph import CellIR


def cell(body: str) -> CellIR:
    return rnnc.parse(f"cell C() {{ input x: real[3]; {body}; output y: real[3] = h' }}").lower("C")


def spectrum(body: str) -> Spectrum:
    found = analyse_recurrence(cell(body))
    return spectrum_of(found, found.groups[-1])


CONST = "const W: real[3, 3] = [[0.3, 0.2, 0], [-0.1, 0.4, 0.1], [0, 0.3, -0.5]]"
BOUNDED = {
    "echo state": (f"{CONST}; state h: real[3] = 0; h <- tanh(W @ h + linear(x))", True),
    "leaky echo": (f"{CONST}; state h: real[3] = 0; h <- 0.7 * h + 0.3 * tanh(W @ h + x)", True),
    "orthogonal, scaled": ("param M: real[3, 3]; state h: real[3] = 0; h <- tanh(0.9 * cayley(M - M.T) @ h + x)", True),
    "orthogonal": ("param M: real[3, 3]; state h: real[3] = 0; h <- tanh(cayley(M - M.T) @ h + x)", False),
    "entries in a range": ("param W: real[3, 3] in (-0.3, 0.3); state h: real[3] = 0; h <- tanh(W @ h + x)", True),
    "sigmoid": ("param W: real[3, 3] in (-1, 1); state h: real[3] = 0; h <- sigmoid(W @ h + x)", True),
    "self gate": ("state h: real[3] = 0; h <- 0.2 * sigmoid(h + x) * tanh(h) + x", True),
    "softmax": ("state h: real[3] = 0; h <- softmax(h + x)", True),
    "mean": ("state h: real[3] = 0; h <- tanh(0.5 * h - 0.3 * mean(h) + x)", True),
    "sum": ("state h: real[3] = 0; h <- tanh(0.5 * sum(h) + x)", False),
    "concat": ("state h: real[3] = 0; h <- tanh(0.6 * concat(h[1:3], h[0:1]) + x)", True),
    "max": ("state h: real[3] = 0; h <- tanh(0.6 * max(h, -h) + x)", True),
    "two states": (
        "state h: real[3] = 0; state g: real[3] = 0; h <- 0.4 * tanh(h + g); g <- 0.3 * sin(h) + 0.2 * g * sigmoid(x)",
        True,
    ),
    "square": ("state h: real[3] = 0; h <- 0.3 * tanh(h)^2 + x", True),
    "exp": ("state h: real[3] = 0; h <- 0.3 * exp(tanh(h)) + x", True),
    "silu": ("state h: real[3] = 0; h <- 0.5 * silu(h) + 0.3 * gelu(h) + x", True),
    "outer": ("let k: unit[3] = l2norm(x); state h: real[3] = 0; h <- tanh(0.9 * k * dot(k, h)) + x", True),
    "select": ("state h: real[3] = 0; h <- tanh(0.5 * h) if x > 0 else 0.6 * sin(h)", True),
}
UNKNOWN = {
    "free": ("param W: real[3, 3]; state h: real[3] = 0; h <- tanh(W @ h + x)", "`W`"),
    "normalised": ("state h: real[3] = 0; h <- l2norm(h + x)", "l2norm"),
    "product of states": ("state h: real[3] = 0; h <- h * h + x", ""),
    "root": ("state h: real[3] = 0; h <- sqrt(abs(h)) + x", "sqrt"),
}


@pytest.mark.parametrize("what", BOUNDED)
def test_lipschitz_bounds(what: str) -> None:
    """|F(h) - F(g)| <= L |h - g|, near and far, at random and extreme values."""
    body, contracts = BOUNDED[what]
    found = spectrum(body)
    assert found.lipschitz is not None
    assert found.lipschitz.hi is not None
    assert (found.lipschitz.hi < 1) == contracts
    assert worst_ratio(cell(body)) <= float(found.lipschitz.hi) * (1 + 1e-9)


@pytest.mark.parametrize("what", UNKNOWN)
def test_what_is_missing_is_named(what: str) -> None:
    body, missing = UNKNOWN[what]
    found = spectrum(body)
    assert found.lipschitz is None
    assert missing in found.why("lipschitz")


def worst_ratio(ir: CellIR) -> float:
    rng = np.random.default_rng(0)
    worst = 0.0
    for round_ in range(60):
        scale = [0.1, 1.0, 10.0][round_ % 3]
        given = {
            n.id: scale * rng.normal(size=tuple(int(d.evaluate({})) for d in n.type.shape))
            for n in ir.nodes
            if n.op in ("input", "param", "state")
        }
        for distance in (1e-5, 0.3, 5.0):
            moved = dict(given)
            for s in ir.states:
                moved[s.node] = given[s.node] + distance * rng.normal(size=given[s.node].shape)
            worst = max(worst, ratio(ir, given, moved))
    return worst


def ratio(ir: CellIR, given: dict[int, Any], moved: dict[int, Any]) -> float:
    updates = [s.update for s in ir.states]
    first, second = (evaluate(ir, Concrete(ir, {}, v), updates, v) for v in (given, moved))
    top = sum(float(((first[u] - second[u]) ** 2).sum()) for u in updates)
    bottom = sum(float(((given[s.node] - moved[s.node]) ** 2).sum()) for s in ir.states)
    return float(np.sqrt(top / bottom))


STABLE = {
    "leak": ("state h: real[3] = 0; h <- 0.5 * h + x", "proved"),
    "gate": ("state h: real[3] = 0; h <- sigmoid(linear(x)) * h + x", "proved"),
    "closed gate": ("input a: real in [0, 1]; state h: real[3] = 0; h <- a * h + x", "unknown"),
    "accumulator": ("state h: real[3] = 0; h <- h + x", "unknown"),
    "a clock in the gate": (
        "state t: real = 0; t <- t + 1; state h: real[3] = 0; h <- tanh(t) * h + x",
        "unknown",
    ),
    "a gate that jumps": ("state h: real[3] = 0; h <- sigmoid(1 / x) * h + x", "unknown"),
    "an unbounded drive": ("state h: real[3] = 0; h <- 0.5 * h + 1 / x", "unknown"),
    "gru": (
        "let z: real[3] = sigmoid(linear(x) + linear(h)); state h: real[3] = 0; h <- z * h + (1 - z) * tanh(linear(h))",
        "proved",
    ),
    "gru that starts outside": (
        "let z: real[3] = sigmoid(linear(x) + linear(h)); state h: real[3] = 9; h <- z * h + (1 - z) * tanh(linear(h))",
        "proved",
    ),
    "elman": ("state h: real[3] = 0; h <- tanh(linear(h) + x)", "proved"),
    "relu": ("state h: real[3] = 0; h <- relu(linear(h) + x)", "unknown"),
    "contracting relu": ("param W: real[3, 3] in (-0.3, 0.3); state h: real[3] = 0; h <- relu(W @ h + x)", "proved"),
    "defective inside the disk": (
        "const A: real[3, 3] = [[0.9, 5, 0], [0, 0.9, 5], [0, 0, 0.9]]; state h: real[3] = 0; h <- A @ h + x",
        "proved",
    ),
    "rotation": ("state h: real[3] = 0; h <- cayley(dense(W) - dense(W).T) @ h + x; param W: real[3, 3]", "unknown"),
}


@pytest.mark.parametrize("what", STABLE)
def test_stability(what: str) -> None:
    body, expected = STABLE[what]
    found = spectrum(body)
    assert found.stability == expected
    assert found.why("stability")


def test_an_affine_update_has_the_norm_as_its_bound() -> None:
    found = spectrum("state h: real[3] = 0; h <- 0.5 * h + x")
    assert found.lipschitz is not None
    assert found.lipschitz.hi == Fraction(1, 2)


def test_closed_under_products_only_where_it_is_so() -> None:
    """[[a, b], [c, d]] with b c >= 0 has real eigenvalues; of products that holds for nonnegative entries only."""
    pair = "state h: real[3] = 0; state g: real[3] = 0; h <- {a} * h + {b} * g + x; g <- {c} * h + {d} * g"
    gate = "sigmoid(linear(x))"
    mixed = spectrum(pair.format(a="0.5", b=gate, c=f"(0.5 * {gate})", d="(-0.5)"))
    assert mixed.real
    assert mixed.products_real is None
    positive = spectrum(pair.format(a="0.5", b=gate, c=f"(0.5 * {gate})", d="0.5"))
    assert positive.products_real
    assert positive.products_nonnegative is None
    definite = spectrum(pair.format(a="0.5", b=f"(0.5 * {gate})", c=f"(0.5 * {gate})", d="0.5"))
    assert definite.products_nonnegative


@pytest.mark.parametrize(
    ("file", "name", "expected"),
    [
        ("gru", "GRU", "proved"),
        ("rnn", "RNN", "proved"),
        ("lstm", "LSTM", "unknown"),
        ("mamba", "Mamba", "proved"),
        ("lru", "LRU", "proved"),
        ("deltanet", "DeltaNet", "unknown"),
    ],
)
def test_stability_in_the_library(file: str, name: str, expected: str) -> None:
    found = analyse_recurrence(rnnc.stdlib(file).lower(name))
    assert spectrum_of(found, found.groups[-1]).stability == expected


def test_a_state_to_which_nothing_is_added() -> None:
    """Rotations by an angle of the input, and decays that may reach 1, keep it where it started."""
    turn = (
        "cell C(n: dim) { input t: real[n]; state u: real[n] = 1; state w: real[n] = 0;"
        " u <- cos(t) * u - sin(t) * w; w <- sin(t) * u + cos(t) * w; output y: real[n] = u' }"
    )
    decay = (
        "cell C(n: dim) {{ input a: real[n] in [-1, 1]; state h: real[n] = 1; h <- a * h{}; output y: real[n] = h' }}"
    )
    for text, expected in ((turn, "proved"), (decay.format(""), "proved"), (decay.format(" + a"), "unknown")):
        recurrence = analyse_recurrence(rnnc.parse(text).lower("C"))
        assert spectrum_of(recurrence, recurrence.groups[0]).stability == expected

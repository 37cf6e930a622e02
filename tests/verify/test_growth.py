"""Nonlinear states that stay bounded, though no bound of their update or its slope shows it; and those that do not."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from test_forged import forged

from rnnc.ir.oracle import run
from rnnc.spec import parse
from rnnc.verify.certificate import certificate
from rnnc.verify.checking import Reject, check
from rnnc.verify.engine import verify

ONE = "input x: real[4]; state h: real[4] = 0.5; "
GATE = "gate z: real[4] in (0, 1) = sigmoid(linear(x) + linear(h)); "
STAYS = {
    "weights behind a bounded function": "h <- linear(tanh(linear[4](h) + linear(x)))",
    "leaky": "h <- 0.9 * h + 0.1 * linear(tanh(h)) + linear(x)",
    "leaky, rectified": "h <- 0.5 * h + 0.4 * relu(h) + linear(sigmoid(h))",
    "gated": GATE + "h <- (1 - z) * h + z * linear(tanh(h))",
    "gated by one number": "gate z: real in (0, 1) = sigmoid(linear(h)); h <- h + z * (linear(tanh(h)) - h)",
    "rows that are stored": "param K: real[5, 4]; h <- softmax(K @ (h + x)) @ K",
    "the larger": "h <- max(-h, linear(tanh(h)))",
    "a choice": "h <- h if x > 0 else linear(tanh(h))",
    "an average": "h <- mean(h) + 0 * x if x > 0 else min(h, 1)",
    "divided": "h <- h / (2 + h^2) + h / 3 + x",
    "of its own size": "h <- linear(rmsnorm(h)) + 0.3 * silu(h) + 0.3 * gelu(h) + 0.3 * softplus(h)",
    "two states": "state c: real[4] = 0; c <- 0.5 * h + linear(tanh(c)); h <- 0.5 * softplus(c) + 0.4 * max(h, c) + x",
}
GROWS = {  # or may, for some weights, or is not seen not to
    "rectified": "h <- 0.9 * h + 0.2 * relu(h) + linear(tanh(h))",
    "two gates alike": GATE + "h <- z * h + z * linear(tanh(h)) + (1 - z) * h",
    "a step each time": "h <- h + 0.1 * tanh(h) + 0.1 * x",
    "towards something, with more": GATE + "h <- (1 - z) * h + z * linear(tanh(h)) + 0.1 * x",
    "a logarithm": "h <- -logsigmoid(h) * 1.5 + linear(tanh(h))",
    "divided by what vanishes": "h <- tanh(h) / exp(-abs(h)) + x",
    "weights of the state": "h <- linear(tanh(h) + 0.1 * h)",
    "a sum": "h <- 0.5 * sum(h) + linear(tanh(h))",
    "beyond one": "gate z: real[4] in (0, 2) = 2 * sigmoid(linear(h)); h <- (1 - z) * h + z * linear(tanh(h))",
    "a product": "h <- 0.1 * h * h + linear(tanh(h))",
    "a power": "h <- (1 + abs(h))^1.5 - 1",
    "a norm of zeros": "h <- linear(l2norm(h - mean(h), eps = 0))",
    "a norm of a zero input": "h <- 0.5 * h + l2norm(x, eps = 0)",
    "near the edge of a half plane": "input u: complex[4] in re > 0; h <- 0.5 * relu(h) + 1 / re(u)",
    "near the edge, a logarithm": "input u: complex[4] in re < 0; h <- 0.5 * relu(h) + log(-re(u))",
    "near the edge, a decay": "input u: complex[4] in re < 0; h <- exp(re(u)) * h + 1",
}
OTHER_AXES = """input x: real[4]; state h: real[4, 4] = 0.5
gate z: real[4] in (0, 1) = sigmoid(linear(x))
h <- reshape(z, 4, 1) * h + (1 - z) * h + 0.1 * tanh(h)"""  # z of the row, and 1 - z of the column: up to 2 together


def spec(body: str) -> Any:
    text = f"cell C() {{ {body}\n output y = h'\n expect {{ stable }} }}"
    found = parse(text)
    assert not found.check().has_errors, [d.message for d in found.check().items]
    return found


@pytest.mark.parametrize("name", STAYS)
def test_stays_bounded(name: str) -> None:
    """Proved, certified, and bounded at large weights: the second half of a long run is no larger than the first."""
    given = spec(ONE + STAYS[name])
    found = verify(given)
    assert [c.verdict for c in found.results] == ["proved"]
    assert check(json.dumps(certificate(found, given))) == ["C: stable: proved"]
    cell = given.lower("C")
    rng = np.random.default_rng(0)
    for scale in (0.3, 3.0, 30.0):
        params = {
            p.name: scale * rng.normal(size=[int(str(d)) for d in cell.nodes[p.node].type.shape]) for p in cell.params
        }
        x = rng.choice([-1.0, 1.0], size=(3, 400, 4))
        outputs, _ = run(cell, {}, params, {"x": x}, batch=3, steps=400)
        half = np.abs(outputs["y"])
        assert half[:, 200:].max() <= 1.2 * half[:, :200].max() + 1e-9


@pytest.mark.parametrize("body", [*GROWS.values(), OTHER_AXES], ids=[*GROWS, "other axes"])
def test_what_may_grow_is_not_proved(body: str) -> None:
    """Neither by the analysis nor by the checker, to which a certificate by hand says so."""
    body = body if body is OTHER_AXES else ONE + body
    assert [c.verdict for c in verify(spec(body)).results] != ["proved"]
    with pytest.raises(Reject):
        check(forged(f"{body}\noutput y = h'", "stable", "analysis", {}))


@pytest.mark.parametrize(
    "update", ["polar(1, linear(x)) * h + complex(linear(x), 0)", "rotation(linear[2](x)) @ h + linear(x)"]
)
def test_what_turns_may_stand_still(update: str) -> None:
    """With weights of nothing in the transition, and of one beside it, a state adds up what comes in."""
    kind = "complex" if "polar" in update else "real"
    body = f"input x: real[4]; state h: {kind}[4] = 0; h <- {update}"
    given = parse(f"cell C() {{ {body}\n output y = h'\n expect {{ not stable }} }}")
    found = verify(given)
    assert [c.verdict for c in found.results] == ["proved"]
    assert check(json.dumps(certificate(found, given))) == ["C: not stable: proved"]


def test_negative_powers_of_zero_are_no_numbers() -> None:
    for power in ("-2", "-0.5"):
        assert [
            c.verdict
            for c in verify(spec(f"input x: real[4]; state h: real[4] = 0; h <- 0.5 * h + (x^2)^({power})")).results
        ] == ["unknown"]


def test_a_share_of_the_row_and_the_rest_of_the_column_do_not_add_up() -> None:
    """In a certificate by hand, too: z_i cos + (1 - z_j) cos may be 2."""
    body = """input x: real[4]; state h: real[4, 4] = 3; state k: real[4, 1] = 0
k <- 0.5 * k
gate z: real[4] in (0, 1) = sigmoid(linear(x))
let q = grad(sum(z * sum(k, axis = 1)), k) * cos(h) + (1 - z) * cos(h)
h <- q * h"""
    assert [c.verdict for c in verify(spec(body)).results] == ["unknown"]
    with pytest.raises(Reject):
        check(forged(f"{body}\noutput y = h'", "stable", "analysis", {}))

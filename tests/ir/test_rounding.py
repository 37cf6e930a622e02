"""Digits that floating point would lose are kept: by the graph, and in the gradients of compiled cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_cells import DIMS, cells, sample, values

import rnnc
from rnnc.analysis.ranges import Ranges
from rnnc.compile import emit_source
from rnnc.ir.domains.concrete import Concrete
from rnnc.ir.evaluate import evaluate
from rnnc.ir.graph import CellIR
from rnnc.ir.oracle import gradients
from rnnc.ir.rounding import keep_digits
from rnnc.ir.text import print_cell
from rnnc.ir.verify import verify_cell
from rnnc.spec import parse


def lowered(expression: str, names: str = "") -> CellIR:
    text = f"cell C(n: dim) {{ input x: real[n]; input y: real[n]; {names} output z: real[n] = {expression} }}"
    return parse(text).lower("C")


KEPT = {
    "1 - exp(x)": "exp(x)",
    "exp(x) - 1": "exp(x)",
    "1 - exp(x)^2": "exp(2 x)",
    "1 - exp(x) * exp(x)": "exp(2 x)",
    "1 - (exp(x) * sigmoid(y))^3": "exp(3 (x + logsigmoid(y)))",
    "1 - sigmoid(y)^(8 * x)": "exp(8 x logsigmoid(y))",
    "1 - exp(x) / sqrt(exp(y))": "exp(x - y / 2)",
}


@pytest.mark.parametrize("expression", KEPT)
def test_what_is_rewritten(expression: str) -> None:
    """The value is that of the original to float64's precision where that keeps its digits, and to a relative one where
    it does not.
    """
    before = lowered(expression)
    after = keep_digits(before)
    verify_cell(after)
    assert "expm1" in print_cell(after)
    x, y = np.array([0.5, -0.3, -2.0]), np.array([0.4, 1.0, -1.0])

    def at(cell: CellIR, x: Any, y: Any) -> Any:
        given = {i.node: {"x": x, "y": y}[i.name] for i in cell.inputs}
        return evaluate(cell, Concrete(cell, {"n": 3}, given))[cell.outputs[0].node]

    np.testing.assert_allclose(at(after, x, y), at(before, x, y), rtol=1e-12)


@pytest.mark.parametrize("expression", ["1 - sigmoid(x)", "2 - exp(x)", "1 - x", "1 - tanh(x)", "1 - 3 * exp(x)"])
def test_what_is_left(expression: str) -> None:
    assert print_cell(keep_digits(lowered(expression))) == print_cell(lowered(expression))


def test_names_and_the_ranges_of_correlated_values_stay() -> None:
    cell = keep_digits(
        lowered(
            "f * sin(x) + g * cos(x)",
            "let w = -softplus(y); let f = exp(w); let g = 1 - f;",
        )
    )
    by_name = {n.name: n.id for n in cell.nodes if n.name}
    ranges = Ranges.of(cell)
    z = ranges.real(cell.outputs[0].node)
    assert (z.lo, z.hi) == (-1, 1)  # a mixture of two numbers in [-1, 1]
    g = ranges.real(by_name["g"])
    assert (g.lo, g.hi, g.lo_open, g.hi_open) == (0, 1, True, True)


def test_a_point_on_the_unit_circle_is_still_seen() -> None:
    text = (
        "cell C(n: dim) { input x: real[n]; let f = exp(-softplus(x)); state h: complex[n] = 0;"
        " h <- complex(f, sqrt(1 - f^2)) * h + x; output z: real[n] = re(h') }"
    )
    cell = keep_digits(parse(text).lower("C"))
    assert "expm1" in print_cell(cell)
    unit = next(n.id for n in cell.nodes if n.op == "complex")
    found = Ranges.of(cell).modulus(unit)
    assert (found.lo, found.hi) == (1, 1)


@given(cells(), st.integers(0, 2**16))
@settings(max_examples=100, deadline=None)
def test_random_cells_keep_their_values(cell: CellIR, seed: int) -> None:
    after = keep_digits(cell)
    given_ = sample(cell, np.random.default_rng(seed))
    names = {leaf.node: leaf.name for leaf in (*cell.inputs, *cell.params, *cell.states)}
    moved = {leaf.node: leaf.name for leaf in (*after.inputs, *after.params, *after.states)}
    by_name = {names[node]: value for node, value in given_.items()}
    old = values(cell, given_)
    with np.errstate(all="ignore"):
        new = evaluate(after, Concrete(after, DIMS, {node: by_name[name] for node, name in moved.items()}))
    for a, b in zip(cell.outputs, after.outputs, strict=True):
        np.testing.assert_allclose(new[b.node], old[a.node], rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------- compiled


@pytest.mark.parametrize("shift", [-8.0, -25.0, -60.0])
def test_gradients_of_rglru_at_tiny_gates(shift: float) -> None:
    """r = sigmoid(shift + ...) so small that a = exp(-c softplus(Lambda) r) rounds to 1 in float32."""
    import torch

    spec = rnnc.stdlib("rglru")
    dims = {"heads": 2, "w": 3}
    cell = spec.lower("RGLRU")
    torch.manual_seed(0)
    layer = rnnc.compile(spec, "RGLRU")(**dims)
    with torch.no_grad():
        layer.r_linear_bias.fill_(shift)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 2, 3)).astype(np.float32)
    weights = rng.normal(size=(2, 5, 2, 3)).astype(np.float32)
    out, _ = layer(torch.from_numpy(x))
    (out * torch.from_numpy(weights)).sum().backward()

    exact = keep_digits(cell)  # float64 alone would lose the digits of 1 - a^2, too
    params = {k: p.detach().double().numpy() for k, p in layer.named_parameters()}
    found = gradients(exact, dims, params, {"u": x.astype(float)}, {"y": weights.astype(float)})
    for name, p in layer.named_parameters():
        want = found.params[name]
        assert torch.isfinite(p.grad).all()
        error = np.linalg.norm(p.grad.numpy() - want) / max(np.linalg.norm(want), 1e-300)
        assert error < 2e-6, (name, error)


def test_the_emitted_text_says_so() -> None:
    assert "-torch.expm1(2 * " in emit_source(rnnc.stdlib("rglru"), "RGLRU")

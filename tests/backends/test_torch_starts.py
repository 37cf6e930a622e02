"""How parameters start inside complex domains, and what a module refuses when its sizes are known."""

from __future__ import annotations

import re

import pytest
import torch

import rnnc
from rnnc.diagnostics import SpecError
from rnnc.ir.dims import Dim


def started(domain: str, init: str, kind: str = "complex") -> torch.Tensor:
    """The value a parameter of three numbers starts at."""
    read = "w" if kind == "real" else "concat(re(w), im(w))"
    param = f"param w: {kind}[d] {domain} init {init}"
    text = f"cell A(d: dim) {{\n  input x: real\n  {param}\n  output y = {read} + 0 * x\n}}"
    y, _ = rnnc.compile(rnnc.parse(text))(d=3).double()(torch.zeros(1, 1, dtype=torch.float64))
    return y[0, 0].detach() if kind == "real" else torch.complex(*y[0, 0].detach().chunk(2))


@pytest.mark.parametrize(
    ("domain", "init", "want"),
    [
        ("in disk(1)", "complex(0.5, 0.1)", [0.5 + 0.1j] * 3),
        ("in disk(2)", "-1.5", [-1.5] * 3),
        ("in disk(1)", "0.5 * polar(1, arange(d))", [0.5, 0.27015115 + 0.42073549j, -0.20807342 + 0.45464871j]),
        ("in re < 0", "complex(-0.5, arange(d))", [-0.5, -0.5 + 1j, -0.5 + 2j]),
        ("in re <= -0.25", "-1", [-1] * 3),
        ("in re > -2", "complex(-1, 1)", [-1 + 1j] * 3),
        ("in re >= 0.5", "constant(2)", [2] * 3),
    ],
)
def test_complex_parameters_start_as_declared(domain: str, init: str, want: list[complex]) -> None:
    torch.testing.assert_close(started(domain, init).to(torch.complex64), torch.tensor(want, dtype=torch.complex64))


def test_a_start_that_depends_on_sizes_is_checked_when_made() -> None:
    torch.testing.assert_close(started("in (0, 1)", "1/(1 + d)", "real"), torch.full((3,), 0.25, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"parameter w cannot start as declared: .* inside \(0, 1\)"):
        started("in (0, 1)", "arange(d)", "real")


def test_unit_parameters_start_with_norm_one() -> None:
    text = "cell A(d: dim) {\n  input x: real\n  param w: unit[d]\n  output y = sum(w^2) + 0 * x\n}"
    y, _ = rnnc.compile(rnnc.parse(text))(d=5)(torch.zeros(1, 1))
    torch.testing.assert_close(y, torch.ones(1, 1))


@pytest.mark.parametrize(
    ("read", "problem"),
    [
        ("x[5]", "the subscript 5 does not fit an axis of size d: d = 4"),
        ("sum(x[2:6])", "the subscript 2:6 does not fit an axis of size d: d = 4"),
        ("x[-5]", "the subscript d - 5 does not fit an axis of size d: d = 4"),
        ("x[n]", "the subscript n does not fit an axis of size d: d = 4, n = 4"),
        ("sum(x[:-4])", "d - 4 has to be positive, and is not with d = 4"),
    ],
)
def test_subscripts_are_checked_when_sizes_are_known(read: str, problem: str) -> None:
    text = f"cell A(d: dim, n: dim = 4) {{\n  input x: real[d]\n  output y: real = {read}\n}}"
    layer = rnnc.compile(rnnc.parse(text))
    layer(d=9)
    with pytest.raises(ValueError) as caught:
        layer(d=4)
    assert str(caught.value) == problem


def test_a_default_size_is_checked_when_it_is_known() -> None:
    text = "cell A(d: dim, e: dim = 2 - d) {\n  input x: real[d]\n  output y: real[e] = linear(x)\n}"
    layer = rnnc.compile(rnnc.parse(text))
    layer(d=6, e=1)
    with pytest.raises(ValueError, match=re.escape("-d + 2 has to be positive, and is not with d = 6")):
        layer(d=6)


@pytest.mark.parametrize(
    ("size", "least", "negative"),
    [
        (Dim.of("d") - 1, True, False),
        (Dim.of("d") - 2, False, False),
        (Dim.of("d") * Dim.of("n") - Dim.of("d"), True, False),
        (Dim.of("d") / Dim.of("n") - Dim.of("d"), False, False),
        (-Dim.of("d") - 1, False, True),
        (Dim.of("d") - 2 * Dim.of("d"), False, True),
        (-(Dim.of("d") / Dim.of("n")), False, True),
        (Dim.of("n") - Dim.of("d"), False, False),
        (Dim.of(0), True, False),
        (Dim.of("d") * Dim.of("d") + 1 - 2 * Dim.of("d"), True, False),
    ],
)
def test_signs_of_sizes(size: Dim, least: bool, negative: bool) -> None:
    assert size.is_nonnegative() is least
    assert size.is_negative() is negative


def test_a_cell_without_inputs_and_one_without_outputs() -> None:
    silent = "cell A(d: dim) {\n  input x: real[d]\n  state h: real[d] = 0\n  h <- 0.5 * h + x\n}"
    x = torch.ones(2, 4, 3)
    layer = rnnc.compile(rnnc.parse(silent))(d=3)
    y, state = layer(x)
    assert y == ()
    assert layer(x, reverse=True)[0] == layer.step(x[:, 0])[0] == layer(x[:, :0])[0] == ()
    assert state["h"].shape == (2, 3)
    deaf = "cell A(d: dim) {\n  state h: real[d] = 1\n  h <- 0.5 * h\n  output y = h'\n}"
    rnnc.analyze(rnnc.parse(deaf))
    with pytest.raises(SpecError, match="E0604"):
        rnnc.compile(rnnc.parse(deaf))
    with pytest.raises(SpecError, match=r"E0604.*`A` has no input"):
        rnnc.compile(rnnc.parse(f"{deaf}\nmodel M() {{\n  input x: real\n  output y = A(3)()\n}}"), "M")


@pytest.mark.parametrize("sizes", [(0, 5), (2, -1), (3,)])
def test_expected_sizes_are_positive(sizes: tuple[int, ...]) -> None:
    spec = rnnc.parse("cell A(d: dim) {\n  input x: real[d]\n  output y = x\n}")
    with pytest.raises(ValueError, match="both at least 1"):
        rnnc.compile(spec, expect=sizes)  # type: ignore[arg-type]

"""Domains with ends such as 2 pi: how they are rounded, and what proves a gate's range."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from spec_helpers import errors, lowered, messages, run

from rnnc.frontend.irrational import enclose, monomial
from rnnc.ir.builder import Builder
from rnnc.ir.types import Interval

HEAD = "cell C(d: dim, r: real = 2, neg: bool = false) {\n  input x: real[d]\n  state h: real[d] = 0\n  h <- h + x\n"
PI = Fraction("3.1415926535897932384626433832795028841971693993751")


def test_enclosures_are_narrow_and_right() -> None:
    b = Builder()
    pi, two = b.const("pi"), b.const(2)
    for node, value in (
        (pi, PI),
        (b.map("mul", two, pi), 2 * PI),
        (
            b.map("exp", b.map("log", b.map("sqrt", two))),
            Fraction("1.41421356237309504880168872420969807856967187537694"),
        ),
        (b.map("div", b.map("neg", pi), two), -PI / 2),
        (
            b.map("sub", b.map("pow", b.const("e"), two), b.const(7)),
            Fraction("0.38905609893065022723042746057500781318031557055184"),
        ),
    ):
        end = enclose(b.nodes, node)
        assert end is not None
        assert end.low < value < end.high
        assert end.high - end.low < Fraction(1, 10**38)
        assert (end.rounded(up=False), end.rounded(up=True)) == (end.low, end.high)
    assert enclose(b.nodes, b.map("log", b.const(-1))) is None
    assert enclose(b.nodes, b.map("div", pi, b.const(0))) is None


def test_monomials() -> None:
    b = Builder()
    half_pi = b.map("div", b.const("pi"), b.const(2))
    found = monomial(b.nodes, b.map("mul", half_pi, b.map("sqrt", b.const(Fraction(9, 8)))))
    assert found is not None
    assert (found.factor, dict(found.atoms)) == (Fraction(1, 16), {"pi": 1, 72: Fraction(1, 2)})
    same = monomial(b.nodes, b.map("div", half_pi, b.const("pi")))
    assert same is not None
    assert (same.factor, same.atoms) == (Fraction(1, 2), ())
    assert monomial(b.nodes, b.map("add", half_pi, half_pi)) is None


GATES = {
    "gate g: real[d] in (0, 2*pi) = 2 * pi * sigmoid(linear(x))": True,
    "gate g: real[d] in (0, 2*pi) = pi * (sigmoid(linear(x)) + sigmoid(linear(x)))": True,
    "gate g: real[d] in (-pi, pi) = tanh(linear(x)) * pi": True,
    "gate g: real[d] in (-pi, 0) = -pi * sigmoid(linear(x))": True,
    "gate g: real[d] in [0, pi/2) = sigmoid(linear(x)) * pi / 2": True,
    "gate g: real[d] in (0, sqrt(2)) = sqrt(2) * sigmoid(linear(x))": True,
    "gate g: real[d] in (0, r * e) = e * r * sigmoid(linear(x))": True,
    "gate g: real[d] < pi = 3 * sigmoid(linear(x))": True,
    "gate g: real[d] in (0, pi) = sigmoid(linear(x))": True,
    "gate g: real[d] in (0, pi) = 3.15 * sigmoid(linear(x))": False,
    "gate g: real[d] in (0, pi) = 2 * pi * sigmoid(linear(x))": False,
    "gate g: real[d] in (0, pi) = -pi * sigmoid(linear(x))": False,
    # a bound above pi by less than any tolerance one might think of
    "gate g: real[d] in (0, pi) = 3.14159265358979323846264338327950288420 * sigmoid(linear(x))": False,
    "gate g: real[d] in (0, pi) = 3.14159265358979323846264338327950288419 * sigmoid(linear(x))": True,
    "let g: real[d] in [0, sqrt(2)] = sqrt(2) * sigmoid(x)": True,
    "let g: real[d] > pi = sigmoid(x)": False,
}


@pytest.mark.parametrize("statement", GATES)
def test_the_range_of_a_gate(statement: str) -> None:
    text = f"{HEAD}  {statement}\n  output y = g\n}}"
    found = {code for code, _, _ in errors(text)}
    assert found == (set() if GATES[statement] else {"E0503"}), messages(text)


def test_a_parameter_stays_inside() -> None:
    cell = lowered(
        "cell C() {\n  input x: real\n  param t: real[3] in (0, 2*pi) init 3\n  param z: complex[3] in disk(sqrt(2))\n"
        "  output a = t\n  output b = abs(z)\n}"
    )
    (angle, disk) = (p.domain for p in cell.params)
    assert isinstance(angle, Interval)
    assert angle.hi is not None
    assert 0 < 2 * PI - angle.hi < Fraction(1, 10**35)
    assert str(angle) == "(0, 6.28319)"
    assert str(disk) == "disk(1.41421)"
    extreme = {"t_raw": np.full(3, 40.0), "z_raw": np.full(3, 40.0 + 1j)}
    out, _ = run(cell, {"x": np.zeros(1)}, extreme)
    np.testing.assert_allclose(out["a"][0], 2 * np.pi, rtol=1e-15)
    np.testing.assert_allclose(out["b"][0], 2**0.5, rtol=1e-15)


def test_an_assumed_domain_is_not_narrowed() -> None:
    cell = lowered("cell C() {\n  input x: real in [-pi, pi]\n  output y = x\n}")
    domain = cell.inputs[0].domain
    assert isinstance(domain, Interval)
    assert domain.lo is not None
    assert domain.hi is not None
    assert domain.lo < -PI < PI < domain.hi


@pytest.mark.parametrize("end", ["d", "x[0]", "sum(x)", "log(-1)", "pi * d"])
def test_what_is_no_end(end: str) -> None:
    text = f"{HEAD}  let g: real[d] < {end} = x\n  output y = g\n}}"
    assert {code for code, _, _ in errors(text)} <= {"E0305", "E0102"}
    assert errors(text)

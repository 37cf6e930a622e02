"""The traps of the theory that ranges and spectra have to avoid."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc.analysis.constants import constant_facts
from rnnc.analysis.facts import Spectrum
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.analysis.spectrum import spectrum_of


def spectrum(text: str, **hyper: Any) -> Spectrum:
    found = analyse_recurrence(rnnc.parse(text).lower("C", **hyper))
    return spectrum_of(found, found.groups[-1])


PRODUCT = """cell C(d: dim, steps: int = 3, reach: real = 1) {
  input x: real[d]
  state S: real[4, d] = 0
  substep j in 1..steps {
    let k: unit[4] = l2norm(linear(x))
    gate beta: real in (0, reach) = reach * sigmoid(linear(x))
    S <- householder(k, beta) @ S + beta * outer(k, x)
  }
  output y: real[d] = S'.T @ linear[4](x)
}"""


def test_trap_1_three_projections() -> None:
    """n_h = 3 with range [0, 1]: lines at 0, 60, 120 degrees have the product eigenvalue -1/8, so nothing is said."""
    lines = [np.array([np.cos(t), np.sin(t)]) for t in np.deg2rad([0, 60, 120])]
    product = np.linalg.multi_dot([np.outer(v, v) for v in lines])
    assert np.linalg.eigvals(product).real.min() == pytest.approx(-1 / 8)
    three = spectrum(PRODUCT, steps=3)
    assert three.real is None
    assert three.nonnegative is None
    assert three.products_nonnegative is None
    assert "-1/8" in three.why("products_nonnegative")
    assert three.norm_bound == 1


def test_trap_1_two_factors_are_nonnegative_for_one_step_only() -> None:
    two = spectrum(PRODUCT, steps=2)
    assert two.nonnegative
    assert two.products_real is None
    assert two.products_nonnegative is None
    reflecting = spectrum(PRODUCT, steps=2, reach=2)
    assert reflecting.real is None
    assert reflecting.nonnegative is None


def test_trap_1_one_projection_is_not_closed_under_products() -> None:
    one = spectrum(PRODUCT, steps=1)
    assert one.nonnegative
    assert one.products_nonnegative is None
    assert one.commuting is None


RWKV7 = """cell C(d: dim) {
  input x: real[d]
  gate w: real[4] in (0.54, 1) = exp(-exp(-0.5) * sigmoid(linear(x)))
  gate a: real[4] in (0, 1) = sigmoid(linear(x))
  let kappa: unit[4] = l2norm(linear(x))
  state S: real[d, 4] = 0
  S <- S @ (diag(w) - outer(kappa, a * kappa)) + outer(x, linear[4](x))
  output y: real[d] = S' @ linear[4](x)
}"""


def test_trap_3_the_range_of_rwkv_7() -> None:
    """diag(w) - k (a k)^T is similar to a symmetric matrix: real, but down to about -0.455, so N1 does not apply."""
    found = spectrum(RWKV7)
    assert found.real
    assert found.nonnegative is None
    assert found.products_real is None
    assert found.interval is not None
    assert float(found.interval.lo or 0) == pytest.approx(np.exp(-np.exp(-0.5)) - 1, abs=1e-9)
    assert float(found.interval.lo or 0) == pytest.approx(-0.455, abs=1e-3)
    assert found.interval.hi == 1
    # nearly reached: w at its least, a near 1, kappa a unit vector
    least = np.exp(-np.exp(-0.5)) * np.eye(2) - np.outer([1, 0], [0.999, 0])
    assert np.linalg.eigvals(least).real.min() < -0.45


GATED = """cell C(d: dim) {{
  input x: real[d]
  gate a: real[d] in {domain} = {gate}
  state h: real[d] = 0
  h <- a * h + x
  output y: real[d] = h'
}}"""


@pytest.mark.parametrize(
    ("gate", "domain", "ends", "least_tau"),
    [
        ("2 * sigmoid(linear(x)) - 1", "(-1, 1)", ("limit", "limit"), 18.0),
        ("tanh(linear(x))", "(-1, 1)", ("limit", "limit"), 10.0),
        ("sigmoid(linear(x))", "(0, 1)", ("limit", "limit"), 16.6),
    ],
)
def test_trap_9_an_open_end_is_a_limit(gate: str, domain: str, ends: tuple[str, str], least_tau: float) -> None:
    """2 sigmoid - 1 > -1 always: what float32 rounds to is said apart, with the pre-activation that it takes."""
    found = spectrum(GATED.format(gate=gate, domain=domain))
    assert (found.lo_end, found.hi_end) == ends
    assert found.interval is not None
    assert found.interval.lo_open
    assert found.interval.hi_open
    taus = [s.tau for s in found.saturation if s.precision == "float32" and (s.end == "hi" or "2 *" not in gate)]
    assert found.saturation
    for s in found.saturation:
        x = np.float32(s.tau if s.end == "hi" else -s.tau)
        if s.precision == "float32" and "tanh" in gate:
            assert np.tanh(x) == (1 if s.end == "hi" else -1)
    if "2 *" in gate:
        (low,) = [s.tau for s in found.saturation if s.precision == "float32" and s.end == "lo"]
        assert low == pytest.approx(least_tau, abs=0.15)
    else:
        assert min(taus) == pytest.approx(least_tau, abs=0.15)


def test_trap_9_a_closed_domain_is_attained() -> None:
    text = "cell C() { input a: real in [-1, 1]; state h: real = 0; h <- a * h + 1; output y: real = h' }"
    found = spectrum(text)
    assert (found.lo_end, found.hi_end) == ("attained", "attained")
    assert not found.saturation


def rows(*lines: tuple[int | str, ...]) -> tuple[tuple[Fraction, ...], ...]:
    return tuple(tuple(Fraction(v) for v in line) for line in lines)


@pytest.mark.parametrize(
    ("matrix", "real", "diagonalisable"),
    [
        (rows((1, 1), (0, 1)), True, False),  # defective: a computed pair may be complex
        (rows((3, 1), (-1, 1)), True, False),  # a double eigenvalue 2
        (rows((0, -1), (1, 0)), False, True),
        (rows((2, 1), (1, 2)), True, True),
        (rows((0, 0, 1), (1, 0, 0), (0, 1, 0)), False, True),
        (rows((1, 1, 0), (0, 1, 1), (0, 0, 1)), True, False),
        (rows((1, "1/1000000000"), ("-1/1000000000", 1)), False, True),  # a complex pair next to a double eigenvalue
    ],
)
def test_trap_11_defective_matrices(matrix: Any, real: bool, diagonalisable: bool) -> None:
    """No numerical eigensolver says "real" at a defective matrix: the characteristic polynomial does, exactly."""
    found = constant_facts(matrix)
    assert found is not None
    assert found.real is real
    assert found.diagonalisable is diagonalisable
    assert (found.interval is not None) == real


def test_trap_11_a_constant_transition() -> None:
    text = """cell C() {{
      input x: real[2]
      const A: real[2, 2] = [{rows}]
      state h: real[2] = 0
      h <- A @ h + x
      output y: real[2] = h' }}"""
    defective = spectrum(text.format(rows="[3, 1], [-1, 1]"))
    assert defective.real
    assert defective.interval is not None
    assert (defective.interval.lo, defective.interval.hi) == (2, 2)
    assert defective.products_real
    assert defective.products_nonnegative
    assert defective.commuting
    assert defective.diagonalisable is None
    turning = spectrum(text.format(rows="[3, 1], [-2, 1]"))
    assert turning.real is not True
    assert turning.products_real is not True


@pytest.mark.parametrize(
    ("a", "lo", "hi"),
    [
        ("outer(k, k) + 0.99 * householder(k, b) + 0.5 * householder(k, b)", Fraction(-49, 100), Fraction(249, 100)),
        ("0.5 * householder(k, b) - 0.5 * outer(k, k)", -1, Fraction(1, 2)),
    ],
)
def test_sums_of_multiples_of_one_direction_are_symmetric(a: str, lo: Any, hi: Any) -> None:
    """c I + (c_1 + c_2 + ...) k k^T, however it is written."""
    gates = "let k: unit[n] = l2norm(linear(x)); gate b: real in (0, 2) = 2 * sigmoid(linear(x))"
    step = f"state p: real[n] = 0; p <- ({a}) @ p + x; output y: real[n] = p'"
    text = f"cell C(n: dim) {{ input x: real[n]; {gates}; {step} }}"
    recurrence = analyse_recurrence(rnnc.parse(text).lower("C"))
    s = spectrum_of(recurrence, recurrence.groups[0])
    assert s.interval is not None
    assert (s.interval.lo, s.interval.hi) == (lo, hi)

"""Moduli and real parts of the eigenvalues of constant matrices, by exact tests of their characteristic polynomials."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest

import rnnc
from rnnc.analysis.constants import characteristic_polynomial, constant_facts, in_left_half_plane, in_unit_disk
from rnnc.verify.certificate import certificate
from rnnc.verify.checking import check


def matrix(rng: np.random.Generator, n: int, scale: int) -> tuple[tuple[Fraction, ...], ...]:
    return tuple(tuple(Fraction(int(x), scale) for x in row) for row in rng.integers(-6, 7, (n, n)))


def polynomial(*roots: complex) -> tuple[Fraction, ...]:
    return tuple(Fraction(float(c)) for c in np.real(np.poly(roots)))


@pytest.mark.parametrize("seed", range(30))
def test_both_tests_agree_with_floating_point(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = matrix(rng, int(rng.integers(1, 8)), int(rng.integers(4, 16)))
    values = np.linalg.eigvals(np.array(rows, dtype=float))
    p = characteristic_polynomial(rows)
    radius, abscissa = float(np.abs(values).max()), float(values.real.max())
    if abs(radius - 1) > 1e-6:
        assert in_unit_disk(p) == (radius < 1)
    if abs(abscissa) > 1e-6:
        assert in_left_half_plane(p) == (abscissa < 0)
    found = constant_facts(rows)
    assert found is not None
    assert found.radius.hi is not None
    assert found.abscissa.hi is not None
    assert found.abscissa.lo is not None
    near = 1e-3 * (1 + float(found.norm.hi or 0))
    assert -1e-7 <= float(found.radius.hi) - radius <= near
    assert -1e-7 <= float(found.abscissa.hi) - abscissa <= near
    assert float(found.abscissa.lo) <= float(values.real.min()) + 1e-7


@pytest.mark.parametrize(
    ("roots", "disk", "plane"),
    [
        ((1,), False, False),
        ((-1,), False, True),
        ((0,), True, False),
        ((0, 0, 0), True, False),
        ((1j, -1j), False, False),
        ((0.5j, -0.5j), True, False),
        ((0.5 + 0.5j, 0.5 - 0.5j), True, False),
        ((-0.5 + 0.5j, -0.5 - 0.5j, -0.25), True, True),
        ((2, 0.5), False, False),
        ((-2, -0.5), False, True),
        ((-1, -1), False, True),
        ((1, -1), False, False),
    ],
)
def test_ends_are_outside(roots: tuple[complex, ...], disk: bool, plane: bool) -> None:
    assert in_unit_disk(polynomial(*roots)) == disk
    assert in_left_half_plane(polynomial(*roots)) == plane


CELL = """cell C(d: dim) {{
  input x: real[d]
  const A: real[2, 2] = {}
  state h: real[2] = 0
  h <- A @ h + linear(x)
  output y: real[d] = linear(h')
  expect {{ stable }}
}}"""


@pytest.mark.parametrize(
    ("value", "verdict", "certified"),
    [
        ("dense([[0.5, 0.9], [-0.1, 0.5]])", "proved", True),
        ("dense([[0.5, 4], [-0.1, 0.5]])", "proved", True),
        ("dense([[0.5, 4], [-0.25, 0.5]])", "refuted", True),  # moduli above 1
        ("dense([[0, 1], [-1, 0]])", "unknown", False),  # on the circle
        ("dense([[0.5, 100], [0, 0.5]])", "proved", True),
        ("zoh(dense([[0, 1], [-1, -1]]), 0.05)", "proved", False),
        ("zoh(dense([[0, 1], [-1, 8]]), 0.05)", "refuted", True),
        ("zoh(dense([[0, 1], [-2, 0]]), 0.05)", "unknown", False),
    ],
)
def test_stability_of_constant_transitions(value: str, verdict: str, certified: bool) -> None:
    spec = rnnc.parse(CELL.format(value))
    found = rnnc.verify(spec, "C", search=False)
    assert [r.verdict for r in found.results] == [verdict]
    made = certificate(found, spec)
    assert bool(made["claims"]) == certified
    assert len(check(json.dumps(made))) == len(made["claims"])

"""Specs that made a rule say more than is true, or the analysis crash or hang."""

from __future__ import annotations

import time
from fractions import Fraction

import numpy as np
import pytest

from rnnc.analysis.constants import constant_facts
from rnnc.analysis.ranges import Ranges
from rnnc.analysis.report import Report, analyze
from rnnc.analysis.spectrum import Spectrum
from rnnc.ir.builder import Builder
from rnnc.ir.dims import Dim
from rnnc.ir.oracle import run
from rnnc.ir.types import Type
from rnnc.spec import parse


def report(body: str, head: str = "n: dim") -> Report:
    return analyze(parse(f"cell C({head}) {{ {body}; output y: real[n] = h' }}").lower("C"))


def spectrum(body: str) -> Spectrum:
    (group,) = report(body).groups
    return group.spectrum


X = "input x: real[n]; state h: real[n] = 0"


# ---------------------------------------------------------------- claims that went too far


def test_stability_at_the_open_end_of_an_input() -> None:
    """f in (0, 1) may come as near to 1 as it likes: h' = f h + x grows like log t for f = 1 - 1/t."""
    assert spectrum(f"input f: real[n] in (0, 1); {X}; h <- f * h + x").stability != "proved"
    assert spectrum(f"input f: real[n] in [0, 0.9]; {X}; h <- f * h + x").stability == "proved"
    assert spectrum(f"input f: real[n] in (0, 1); {X}; h <- sigmoid(f) * h + x").stability == "proved"


def test_stability_with_an_unbounded_drive() -> None:
    """1 / x of a bounded x."""
    body = "input x: real[n] in {}; state h: real[n] = 0; h <- 0.5 * h + 1 / x"
    assert spectrum(body.format("(0, 1)")).stability != "proved"
    assert spectrum(body.format("[0.1, 1]")).stability == "proved"


@pytest.mark.parametrize("f", ["sqrt(sin(x) - 2)", "sqrt(x)", "log(sin(x))", "tanh(x^0.5)"])
def test_stability_of_what_is_not_a_number(f: str) -> None:
    """The range of a root of negative numbers is empty or a part: no proof that the state stays bounded."""
    assert spectrum(f"{X}; h <- 0.5 * tanh({f}) * h").stability != "proved"
    assert spectrum(f"{X}; h <- tanh({f} + h)").stability != "proved"
    assert spectrum(f"{X}; h <- 0.5 * tanh(sqrt(x^2)) * h").stability == "proved"


def test_sine_of_a_complex_state_is_no_contraction() -> None:
    """|cos z| is not bounded over the complex numbers."""
    body = "input x: real[n]; state h: complex[n] = 0; h <- 0.5 * sin(h) + x"
    text = f"cell C(n: dim) {{ {body}; output y: real[n] = re(h') }}"
    (group,) = analyze(parse(text).lower("C")).groups
    assert group.spectrum.lipschitz is None


def test_a_bound_of_silu_is_not_a_limit() -> None:
    s = spectrum(f"{X}; let f = silu(linear(x)); h <- f * h + x")
    assert s.lo_end == "bound"


def test_a_companion_matrix_of_the_state_has_fixed_ones() -> None:
    (group,) = report(f"{X}; h <- companion(h) @ x").groups
    assert group.group.kind == "affine"


def test_what_is_divided_by_is_read_even_where_the_state_cancels() -> None:
    (group,) = report(f"{X}; h <- x * h / (h - h + 1)").groups
    assert group.group.kind == "nonlinear"


def test_a_gate_and_another_gates_complement_are_no_mixture() -> None:
    """f_i x_ij + (1 - f_j) y_ij is not between x and y."""
    b = Builder()
    n = Dim.of("n")
    u = b.leaf("input", "u", Type(shape=(n,)))
    x = b.map("sin", b.leaf("input", "x", Type(shape=(n, n))))
    f = b.add("sigmoid", u)
    g = b.map("sub", b.const(1), f)
    rows, columns = b.add("expand", g, axes=(-1,)), b.add("expand", g, axes=(-2,))
    first = b.map("mul", b.add("expand", f, axes=(-1,)), x)
    own, other = (b.map("add", first, b.map("mul", c, x)) for c in (rows, columns))
    ranges = Ranges(b.nodes, {})
    assert (ranges.real(own).lo, ranges.real(own).hi) == (-1, 1)
    assert (ranges.real(other).lo, ranges.real(other).hi) == (-2, 2)


def test_numbers_made_of_sizes_have_any_sign() -> None:
    """1 - n is 0 for n = 1 and negative else; n - 1 may be zero."""
    s = spectrum(f"{X}; h <- exp(1 - n) * h + x")
    assert s.interval is not None
    assert (s.interval.lo, s.interval.hi, s.interval.hi_open) == (0, 1, False)
    assert s.stability != "proved"
    assert spectrum(f"{X}; h <- exp(-n) * h + x").stability == "proved"
    cell = parse("cell C(n: dim) { input x: real[n]; output y: real[n] = (1 - n) * x }").lower("C")
    out = run(cell, {"n": 3}, {}, {"x": np.ones((1, 1, 3))})[0]["y"]
    np.testing.assert_array_equal(out, np.full((1, 1, 3), -2.0))


def test_domains_of_complex_inputs() -> None:
    body = "input a: complex[n] in disk(0.5); input x: real[n]; state h: complex[n] = 0; h <- a * h + x"
    text = f"cell C(n: dim) {{ {body}; output y: real[n] = re(h') }}"
    (group,) = analyze(parse(text).lower("C")).groups
    assert group.spectrum.stability == "proved"


# ---------------------------------------------------------------- crashes


def test_a_remedy_that_would_change_a_type() -> None:
    """Dropping `re` of a complex state would put a complex number where a real one has to be."""
    body = "input x: real[n]; state h: complex[n] = 0; h <- 0.5 * h + complex(0.3 * re(h), 0) + x"
    text = f"cell C(n: dim) {{ {body}; output y: real[n] = re(h') }}"
    assert analyze(parse(text).lower("C")).groups


def test_a_gate_of_a_gate_has_no_lone_pre_activation() -> None:
    (group,) = report(
        "input u: real[n]; param L: real[n]; let r = sigmoid(exp(linear(u)));"
        " let a = exp(-softplus(L) * r); state h: real[n] = 0; h <- a * h + u"
    ).groups
    assert group.spectrum.saturation == ()


def test_sizes_that_are_fractions_of_dims() -> None:
    body = "input x: real[d/2]; state h: real[d/2] = 0; h <- sigmoid(x) * h + x; output y: real[d/2] = h'"
    text = f"cell C(d: dim) {{ {body} }}"
    (group,) = analyze(parse(text).lower("C")).groups
    assert {s.end for s in group.spectrum.saturation} == {"lo", "hi"}


# ---------------------------------------------------------------- time and depth


def chain(step: str, times: int, start: str = "x") -> str:
    return "".join(f"let a{i} = {step.format(start if i == 0 else f'a{i - 1}')}; " for i in range(times))


def test_large_constant_matrices() -> None:
    """The characteristic polynomial of 24 by 24 numbers of three digits; its roots took a minute and a half."""
    rng = np.random.default_rng(0)
    rows = tuple(tuple(Fraction(int(v), 1000) for v in row) for row in rng.integers(-999, 999, size=(24, 24)))
    start = time.process_time()
    found = constant_facts(rows)
    assert time.process_time() - start < 10
    a = np.array(rows, dtype=float)
    assert found is not None
    assert found.norm.hi is not None
    assert abs(float(found.norm.hi) - np.linalg.norm(a, 2)) < 1e-9
    assert found.real == bool(np.abs(np.linalg.eigvals(a).imag).max() < 1e-9)
    symmetric = tuple(tuple(rows[i][j] + rows[j][i] for j in range(24)) for i in range(24))
    both = constant_facts(symmetric)
    assert both is not None
    assert both.interval is not None
    values = np.linalg.eigvalsh(a + a.T)
    assert abs(float(both.interval.lo or 0) - values[0]) < 1e-9
    assert abs(float(both.interval.hi or 0) - values[-1]) < 1e-9


LONG = {
    "squares": f"input x: real[n] in [0, 3]; state h: real[n] = 0; {chain('{0} * {0}', 40)} h <- a39 * h + x",
    "powers": f"{X}; let f = 0.5 + 0.4 * sigmoid(x); {chain('{0}^100000', 6, 'f')} h <- a5 * h + x",
    "growing powers": f"input x: real[n] in [0, 1000]; state h: real[n] = 0; {chain('{0}^1000', 3)}"
    " h <- (tanh(a2) + softplus(a2) + log(1 + a2) + sqrt(a2) + a2^0.5 + sigmoid(a2)) * h + x",
    "a deep gate": f"{X}; {chain('tanh({0})', 700)} h <- a699 * h + x",
    "a deep update": f"{X}; {chain('{0} * 0.5 + x', 400, 'h')} h <- a399",
    "a deep nonlinear update": f"{X}; {chain('tanh({0}) + x', 400, 'h')} h <- a399",
    "a long product": f"{X}; let g = sigmoid(x); {chain('{0} * g', 700, 'g')} h <- a699 * h + x",
    "a product of matrices squared": "input k: real[n]; input x: real[n]; state h: real[n, n] = 0;"
    " let m = I - outer(k, k); " + chain("{0} @ {0}", 12, "m").replace("x", "x") + "h <- a11 @ h; let z = h' @ x",
}


@pytest.mark.parametrize("name", LONG)
def test_no_blow_up(name: str) -> None:
    """Each of these took exponential time, or more stack than there is."""
    text = LONG[name]
    out = "z" if "let z" in text else "h'"
    cell = parse(f"cell C(n: dim) {{ {text}; output y: real[n] = {out} }}").lower("C")
    start = time.process_time()
    for g in analyze(cell).groups:
        assert (g.group.kind == "nonlinear") == ("nonlinear" in name)
    assert time.process_time() - start < 20

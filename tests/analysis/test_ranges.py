"""Ranges enclose every value; spectra enclose every eigenvalue, and their ends are right."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rnnc.spec
from rnnc.analysis import intervals as iv
from rnnc.analysis.ranges import Ranges
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.analysis.spectrum import spectrum_of
from rnnc.ir.domains.concrete import Concrete
from rnnc.ir.evaluate import evaluate
from rnnc.ir.types import Interval

UNARY = [
    "neg",
    "exp",
    "sigmoid",
    "silu",
    "gelu",
    "erf",
    "tanh",
    "softplus",
    "logsigmoid",
    "relu",
    "abs",
    "sin",
    "cos",
    "sign",
    "step",
]
BINARY = ["add", "sub", "mul", "max", "min", "logaddexp"]
CONSTANTS = [Fraction(0), Fraction(1), Fraction(-1), Fraction(2), Fraction(1, 2), Fraction(-3, 4)]
EXPRESSIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(UNARY), st.integers(0, 20), st.integers(0, 20)),
        st.tuples(st.sampled_from(BINARY), st.integers(0, 20), st.integers(0, 20)),
        st.tuples(
            st.sampled_from(["const", "square", "root", "half power", "divide", "share", "log", "below"]),
            st.integers(0, 20),
            st.integers(0, 20),
        ),
    ),
    min_size=1,
    max_size=8,
)


def _node(b, nodes, step):
    op, i, j = step
    x, y = nodes[i % len(nodes)], nodes[j % len(nodes)]
    match op:
        case "const":
            return b.const(CONSTANTS[i % len(CONSTANTS)])
        case "square":
            return b.map("pow", x, b.const(2))
        case "root":
            return b.add("sqrt", b.add("sigmoid", x))
        case "half power":
            return b.map("pow", b.add("sigmoid", x), b.const(Fraction(1, 16)))
        case "share":
            positive = b.add("exp", x)
            return b.map("div", positive, b.map("add", b.add("softplus", y), positive))
        case "below":
            return b.map("sub", x, b.map("logaddexp" if i % 2 else "max", x, y))
        case "log":
            return b.add("log", b.add("sigmoid", x))
        case "divide":
            return b.map("div", y, b.map("add", b.const(1), b.add("softplus", x)))
        case _:
            return b.add(op, x) if op in UNARY else b.map(op, x, y)


def contains(interval: Interval, value: float, slack: float = 1e-9) -> bool:
    scale = slack * max(1.0, abs(value))
    low = interval.lo is None or value >= float(interval.lo) - scale
    high = interval.hi is None or value <= float(interval.hi) + scale
    return low and high


@settings(max_examples=150, deadline=None)
@given(steps=EXPRESSIONS, seed=st.integers(0, 10**6), spread=st.sampled_from([0.1, 1.0, 6.0]))
def test_ranges_enclose_values(make, steps, seed, spread):
    m = make()
    nodes = [m.input("x", "n"), m.param("w", "n")]
    for step in steps:
        nodes.append(_node(m.b, nodes, step))
    m.output("y", nodes[-1])
    cell = m.cell()
    rng = np.random.default_rng(seed)
    given_values = {n: spread * rng.normal(size=16) for n in nodes[:2]}
    with np.errstate(all="ignore"):
        values = evaluate(cell, Concrete(cell, {"n": 16}, given_values))
    ranges = Ranges.of(cell)
    for node in nodes:
        for value in np.ravel(values[node]):
            if np.isfinite(value):
                assert contains(ranges.real(node), float(value)), (cell.nodes[node].op, ranges.real(node), value)


@pytest.mark.parametrize(
    ("text", "lo", "hi", "open_"),
    [
        ("sigmoid(x)", 0, 1, (True, True)),
        ("2 * sigmoid(x)", 0, 2, (True, True)),
        ("2 * sigmoid(x) - 1", -1, 1, (True, True)),
        ("1 - sigmoid(x)", 0, 1, (True, True)),
        ("exp(-softplus(x))", 0, 1, (True, True)),
        ("sigmoid(x)^(1/16)", 0, 1, (True, True)),
        ("0.5 + 0.5 * sigmoid(x)", Fraction(1, 2), 1, (True, True)),
        ("clamp(x, -1, 1)", -1, 1, (False, False)),
        ("tanh(x) * sigmoid(x)", -1, 1, (True, True)),
        ("cos(x)", -1, 1, (False, False)),
        ("exp(-8 * softplus(x) * sigmoid(x))", 0, 1, (True, True)),
        ("1 - tanh(x)^2", 0, 1, (True, False)),
        ("exp(x) / (exp(x) + softplus(x))", 0, 1, (True, True)),
        ("log(sigmoid(x))", None, 0, (True, True)),
        ("exp(x - max(x, sin(x)))", 0, 1, (True, False)),
        ("2^(-2 - relu(x))", 0, Fraction(1, 4), (True, False)),
        ("sqrt(1 - sigmoid(x)^2)", 0, 1, (True, True)),
    ],
)
def test_gates(text, lo, hi, open_):
    ir = rnnc.spec.parse(f"cell C() {{ input x: real; output y: real = {text} }}").lower("C")
    found = Ranges.of(ir).real(ir.outputs[0].node)
    assert (found.lo, found.hi, (found.lo_open, found.hi_open)) == (lo, hi, open_)


@settings(max_examples=200, deadline=None)
@given(
    a=st.tuples(st.integers(-6, 6), st.integers(0, 5), st.booleans(), st.booleans()),
    b=st.tuples(st.integers(-6, 6), st.integers(0, 5), st.booleans(), st.booleans()),
    s=st.fractions(0, 1),
    t=st.fractions(0, 1),
)
def test_interval_arithmetic_is_sound(a, b, s, t):
    def interval(spec):
        lo, width, left, right = spec
        return Interval(lo=Fraction(lo), hi=Fraction(lo + width + 1), lo_open=left, hi_open=right)

    def inside(x, w):
        value = x.lo + (x.hi - x.lo) * w
        shrunk = x.lo + (x.hi - x.lo) * (Fraction(1, 1000) + w * Fraction(998, 1000))
        return shrunk if (w == 0 and x.lo_open) or (w == 1 and x.hi_open) else value

    x, y = interval(a), interval(b)
    p, q = inside(x, s), inside(y, t)
    for op, value in ((iv.add, p + q), (iv.sub, p - q), (iv.mul, p * q)):
        assert iv.within(iv.exactly(value), op(x, y))
    assert iv.within(iv.exactly(abs(p)), iv.magnitude(x))
    assert iv.within(iv.exactly(max(p, q)), iv.at_least(x, y))
    if q != 0:
        assert iv.within(iv.exactly(1 / q), iv.reciprocal(y))


# ---------------------------------------------------------------- spectra


def spectrum(text: str, **hyper):
    found = analyse_recurrence(rnnc.spec.parse(text).lower("C", **hyper))
    return spectrum_of(found, found.groups[-1])


REFLECTION = """cell C(d: dim, K: dim = 4, reach: real = 1) {{
  input x: real[d]
  let k = {key}
  let beta: real = reach * sigmoid(linear(x))
  let alpha: real = sigmoid(linear(x))
  state S: real[K, d] = 0
  S <- {transition} @ S + outer(k, x)
  output y: real[d] = S'.T @ k
}}"""


def ends(x: Interval) -> tuple:
    return (x.lo, x.hi, x.lo_open, x.hi_open)


@pytest.mark.parametrize(("reach", "low"), [(1, 0), (2, -1)])
def test_the_reach_of_a_reflection(reach, low):
    text = REFLECTION.format(key="l2norm(linear[K](x))", transition="(I - beta * outer(k, k))")
    assert ends(spectrum(text, reach=reach).interval) == (low, 1, True, False)
    text = REFLECTION.format(key="l2norm(linear[K](x))", transition="(alpha * (I - beta * outer(k, k)))")
    found = spectrum(text, reach=reach)
    assert ends(found.interval) == (low, 1, True, True)
    assert found.real
    assert found.products_real is None


def test_an_unnormalised_key_bounds_nothing():
    found = spectrum(REFLECTION.format(key="linear[K](x)", transition="(I - beta * outer(k, k))"))
    assert found.interval.lo is None
    assert "unit" in found.missing


HOUSEHOLDERS = "(householder(k, beta) @ householder(l2norm(linear[K](x)), beta){})"
THIRD = " @ householder(l2norm(linear[K](x)), beta)"


@pytest.mark.parametrize(("third", "reach"), [("", 2), (THIRD, 1), (THIRD, 2)])
def test_a_product_of_reflections_has_a_norm_but_no_interval(third, reach):
    found = spectrum(REFLECTION.format(key="l2norm(linear[K](x))", transition=HOUSEHOLDERS.format(third)), reach=reach)
    assert found.real is None
    assert found.interval is None
    assert found.norm.hi == 1


def test_two_factors_without_negative_eigenvalues_have_a_real_product():
    found = spectrum(REFLECTION.format(key="l2norm(linear[K](x))", transition=HOUSEHOLDERS.format("")))
    assert found.real
    assert found.nonnegative
    assert (found.interval.lo, found.interval.hi) == (0, 1)
    assert found.products_real is None
    assert found.products_nonnegative is None


def test_diagonal_minus_rank_one_of_different_vectors_stays_unknown():
    found = spectrum(
        REFLECTION.format(key="l2norm(linear[K](x))", transition="(diag(sigmoid(k)) - outer(k, alpha * tanh(k)))")
    )
    assert found.real is None
    assert found.interval is None


def test_complex_diagonal_inside_the_disk_is_stable():
    text = """cell C(n: dim) {
      input x: real[n]
      param nu: real[n]
      param theta: real[n]
      state h: complex[n] = 0
      h <- exp(complex(-exp(nu), exp(theta))) * h + x
      output y: real[n] = re(h') }"""
    found = spectrum(text)
    assert ends(found.modulus) == (0, 1, True, True)
    assert found.stability == "proved"
    assert found.real is None


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), reach=st.sampled_from([1, 2]), gated=st.booleans())
def test_eigenvalues_lie_where_they_are_said_to(seed, reach, gated):
    scale = "alpha * " if gated else ""
    text = REFLECTION.format(key="l2norm(linear[K](x))", transition=f"({scale}(I - beta * outer(k, k)))")
    found = analyse_recurrence(rnnc.spec.parse(text).lower("C", reach=reach))
    interval = spectrum_of(found, found.groups[0]).interval
    rng = np.random.default_rng(seed)
    sizes = {"d": 3, "K": 4}
    given_values = {
        n.id: 4 * rng.normal(size=tuple(d.evaluate(sizes) for d in n.type.shape))
        for n in found.cell.nodes
        if n.op in ("input", "param", "state")
    }
    values = evaluate(found.cell, Concrete(found.cell, sizes, given_values))
    (step,) = found.groups[0].forms[0].steps
    (a, b) = step.low_rank[0]
    decay = 1.0 if step.decay is None else values[step.decay]
    matrix = decay * np.eye(4) + np.outer(values[a], values[b])
    for eigenvalue in np.linalg.eigvals(matrix):
        assert abs(eigenvalue.imag) < 1e-9
        assert contains(interval, float(eigenvalue.real))

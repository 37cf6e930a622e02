"""Exact numbers agree with floats, and decide equality and sign."""

from __future__ import annotations

import cmath
import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnc.exact import I, NotExact, cosine, is_limit, omega, pi, preimage, root, sign, sine, to_float, unity
from rnnc.exact import functions as fn

SMALL = st.fractions(min_value=-3, max_value=3, max_denominator=6)
TURNS = st.fractions(min_value=0, max_value=1, max_denominator=12)


@st.composite
def algebraic(draw: st.DrawFn) -> object:
    total = draw(SMALL)
    for _ in range(draw(st.integers(0, 2))):
        total = total + draw(SMALL) * draw(st.sampled_from([root(2), root(5), root(37), cosine(Fraction(1, 5)), I]))
    return total


@settings(max_examples=60, deadline=None)
@given(algebraic(), algebraic())
def test_arithmetic_agrees_with_floats(x: object, y: object) -> None:
    a, b = complex(x), complex(y)  # type: ignore[arg-type]
    for op in (lambda p, q: p + q, lambda p, q: p - q, lambda p, q: p * q):
        assert abs(complex(op(x, y)) - op(a, b)) < 1e-8
    assert (x == y) == (abs(a - b) < 1e-9)
    if y != 0:
        assert (x / y) * y == x  # type: ignore[operator]
        assert hash((x / y) * y) == hash(x)  # type: ignore[operator]


@settings(max_examples=60, deadline=None)
@given(TURNS, TURNS)
def test_angles(s: Fraction, t: Fraction) -> None:
    assert unity(s) * unity(t) == unity(s + t)
    assert abs(complex(unity(s)) - cmath.exp(2j * math.pi * s)) < 1e-12
    assert cosine(s) ** 2 + sine(s) ** 2 == 1
    assert fn.cos(pi * 2 * s) == cosine(s)


@settings(max_examples=60, deadline=None)
@given(st.fractions(min_value=0, max_value=2000, max_denominator=200))
def test_square_roots(q: Fraction) -> None:
    r = root(q)
    assert r * r == q
    assert sign(r) == (q > 0)
    assert abs(float(r) - math.sqrt(q)) <= 1e-9 * (1 + math.sqrt(q))


def test_signs_close_to_zero_are_decided() -> None:
    near = Fraction(math.isqrt(2 * 10**80), 10**40)
    assert sign(root(2) - near) == 1
    assert sign(root(2) - near - Fraction(1, 10**40)) == -1
    assert sign(root(2) * root(3) - root(6)) == 0


def test_known_identities() -> None:
    assert cosine(Fraction(1, 5)) == (root(5) - 1) / 4
    assert root(3 + 2 * root(2)) == 1 + root(2)
    assert root(1 - cosine(Fraction(1, 7)) ** 2) == sine(Fraction(1, 7))
    assert root(-1) == I
    assert root(Fraction(1000001, 1000000)) ** 2 == Fraction(1000001, 1000000)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["sigmoid", "tanh", "exp", "softplus", "silu", "gelu", "erf"]), st.integers(1, 9))
def test_functions_undo_their_preimages(name: str, tenths: int) -> None:
    y = Fraction(tenths, 10)
    x = preimage(name, y)
    assert fn.UNARY[name](x) == y
    assert fn.UNARY[name](x * 1 + 0) == y
    near = to_float(x)
    again = {"erf": math.erf, "exp": math.exp, "tanh": math.tanh}.get(name)
    if again is not None:
        assert abs(again(near) - tenths / 10) < 1e-9


def test_limits() -> None:
    one = fn.sigmoid(omega)
    assert is_limit(one)
    assert one != 1
    assert one - 1 != 0
    assert (one - 1) * 0 == 0
    assert fn.tanh(-3 * omega) + 1 == fn.exp(-omega)  # both are exponentially small
    assert fn.exp(preimage("exp", omega)) == omega
    assert fn.silu(omega) / omega == fn.sigmoid(omega)
    unit = omega * 3 / fn.sqrt((3 * omega) ** 2 + (4 * omega) ** 2 + Fraction(1, 10**6))
    assert to_float(unit) == pytest.approx(0.6)
    assert is_limit(unit)


def test_what_is_not_exact_is_refused() -> None:
    for attempt in (
        lambda: fn.exp(Fraction(1)),
        lambda: fn.sigmoid(Fraction(1, 3)),
        lambda: fn.exp(omega),
        lambda: fn.step(1 - fn.sigmoid(omega)),  # positive, and zero in the limit
        lambda: 1 / (1 - fn.sigmoid(omega)),
        lambda: fn.cos(Fraction(1)),
        lambda: fn.log(Fraction(0)),
        lambda: Fraction(1) / (root(2) * 0),
    ):
        with pytest.raises((NotExact, ZeroDivisionError)):
            attempt()


@pytest.mark.parametrize("factor", [1, -1])
def test_signs_beyond_floating_point(factor: int) -> None:
    """Coefficients of 400 digits: no float holds them."""
    large = factor * Fraction(10) ** 400
    assert sign(large * root(2) - large) == factor
    assert sign(large - large * root(2)) == -factor

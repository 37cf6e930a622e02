"""Hyperparameters given from outside, and the bounds of the compiler."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from spec_helpers import errors, lowered, params, sound

from rnnc.diagnostics import Diagnostic, SpecError
from rnnc.spec import parse

TEXT = """cell C(d: dim, heads: dim = 4, e: dim = 2*d, k: int = 2, reach: real = 0.5, neg: bool = false, m: int = k+1) {
  input x: real[d]
  per heads { let a: real[d/heads] = linear(x) }
  let b: real[e] = linear(x)
  output y: real[d] = reach * flatten(a) + sum(b) if neg else flatten(a) * k^m
}
"""


def refused(text: str, cell: str | None = None, **hyper: Any) -> Diagnostic:
    with pytest.raises(SpecError) as raised:
        parse(text).lower(cell, **hyper)
    assert len(raised.value.diagnostics) == 1, str(raised.value)
    assert str(raised.value)
    return raised.value.diagnostics[0]


def test_a_cell_is_specialised_on_what_is_no_dim() -> None:
    cell = lowered(TEXT, d=8, k=3, reach=0.1, neg=True)
    assert cell.hyper == (("k", 3), ("reach", Fraction(1, 10)), ("neg", True), ("m", 4))
    assert [(p.name, str(p.default)) for p in cell.dims] == [("d", "None"), ("heads", "4"), ("e", "2*d")]
    assert params(cell)["a_linear_weight"] == "real[d/heads, d] per [heads]"
    assert lowered(TEXT, reach=Fraction(1, 3)).hyper[1] == ("reach", Fraction(1, 3))
    assert lowered(TEXT, reach=2).hyper[1] == ("reach", Fraction(2))


@pytest.mark.parametrize(
    ("hyper", "code"),
    [
        ({"head": 2}, "E0301"),
        ({"d": 0}, "E0302"),
        ({"d": -4}, "E0302"),
        ({"d": 2.5}, "E0302"),
        ({"d": True}, "E0302"),
        ({"d": "8"}, "E0302"),
        ({"d": 10}, "E0302"),  # d/heads is not whole
        ({"d": 2}, "E0302"),  # d/heads is 1/2
        ({"k": 2.5}, "E0302"),
        ({"k": True}, "E0302"),
        ({"k": None}, "E0302"),
        ({"neg": 1}, "E0302"),
        ({"reach": float("nan")}, "E0302"),
        ({"reach": True}, "E0302"),
        ({"d": 2**40}, "E0304"),
    ],
)
def test_wrong_values(hyper: dict[str, Any], code: str) -> None:
    assert refused(TEXT, **hyper).code == code


def test_unknown_hyperparameters_have_a_suggestion() -> None:
    assert refused(TEXT, head=2).help == "did you mean `heads`?"
    assert refused("cell C() { input x: real\n output y = x }", q=2).help == "it has no hyperparameters"


def test_values_without_a_default() -> None:
    text = "cell C(n: dim, k: int, r: real, b: bool) {\n  input x: real[n]\n  output y = r * x^k if b else x\n}"
    sound(text)  # a check takes sample values
    assert lowered(text, k=2, r=1, b=True).hyper == (("k", 2), ("r", 1), ("b", True))
    with pytest.raises(SpecError) as raised:
        parse(text).lower()
    assert [d.code for d in raised.value.diagnostics] == ["E0303"] * 3


def test_defaults_are_checked() -> None:
    assert errors(
        "cell C(n: dim = 0, k: int = 1/2, m: int = n, b: bool = 3, r: real = true) {\n input x: real\n output y = x\n}"
    ) == [
        ("E0302", 1, 17),
        ("E0302", 1, 29),
        ("E0302", 1, 43),
        ("E0302", 1, 56),
        ("E0302", 1, 69),
    ]


def test_which_cell() -> None:
    two = "cell A() { input x: real\n output y = x }\ncell B() { input x: real\n output y = x }\n"
    assert refused(two).code == "E0306"
    assert refused(two, "C").code == "E0306"
    assert "`A`, `B`" in refused(two, "Other").help
    assert parse(two).lower("B").name == "B"
    assert parse(two + "model M(d: dim) { input x: real\n output y = A()(x) }").lower().name == "M"
    assert refused("fn f(x: real) -> real { x }").code == "E0306"


def test_a_spec_with_errors_is_not_lowered() -> None:
    with pytest.raises(SpecError) as raised:
        parse("cell C() {\n input x: real\n output y = x +\n output z = q\n}").lower()
    assert raised.value.diagnostics[0].code.startswith("E01")
    with pytest.raises(SpecError) as raised:
        parse("cell C() {\n input x: real\n output y = p\n output z = q\n}").lower()
    assert [d.code for d in raised.value.diagnostics] == ["E0201", "E0201"]
    assert "output y = p" in str(raised.value)


@pytest.mark.parametrize(
    "body",
    [
        "output y = sum j in 1..300 { x }",
        "output y = sum i in 1..200 { sum j in 1..200 { x^i * j } }",
        "state s: real = 0\n substep i in 1..250 { substep j in 1..250 { s <- s + i * j * x } }\n output y = s'",
    ],
)
def test_unrolling_is_bounded(body: str) -> None:
    assert [code for code, _, _ in errors(f"cell C() {{\n input x: real\n {body}\n}}")] == ["E0304"]


def test_inlining_is_bounded() -> None:
    functions = "".join(f"fn f{i + 1}(x: real) -> real {{ f{i}(f{i}(x)) }}\n" for i in range(40))
    found = errors(f"fn f0(x: real) -> real {{ x + 1 }}\n{functions}cell C() {{ input x: real\n output y = f40(x) }}")
    assert {code for code, _, _ in found} == {"E0304"}


def test_long_chains_of_names() -> None:
    def chain(n: int) -> str:
        lets = "".join(f" let a{i} = a{i + 1} + a{i + 1}\n" for i in range(n))
        return f"cell C(n: dim) {{\n input x: real[n]\n output y: real[n] = a0\n{lets} let a{n} = linear(x)\n}}"

    assert errors(chain(300)) == []
    assert {code for code, _, _ in errors(chain(5000))} <= {"E0304"}


def test_huge_numbers_are_no_trouble() -> None:
    assert (
        errors("cell C(n: dim) {\n input x: real\n output y = x * 2^64^64 + 10^4000 * (n + 1)^60 - (1/3)^500\n}") == []
    )

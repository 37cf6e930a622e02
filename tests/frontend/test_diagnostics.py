"""Each rule of names, types and shapes: the code and place of what breaks it."""

from __future__ import annotations

import pytest
from spec_helpers import errors, messages

from rnnc.diagnostics import SpecError, render
from rnnc.spec import parse

HEAD = """cell C(d: dim, n: dim, heads: dim = 2, k: int = 2, r: real = 1, flag: bool = false) {
  input x: real[d]
  input t: token[n]
  state h: real[n] = 0
  h <- 0.5 * h + linear(x)
  per heads { let q: real[n] = linear(x) }
  output y = h'
"""

# statement on line 8, column 3 -> (code, column)
ONE_ERROR = {
    # names
    "let a = xx": ("E0201", 11),
    "let a = hh'": ("E0201", 11),
    "let a = tanhh(x)": ("E0201", 11),
    "let a = d'": ("E0204", 11),
    "let a = x'": ("E0204", 11),
    "let a = exp": ("E0204", 11),
    "let a = x(3)": ("E0204", 11),
    "let x = 3": ("E0202", 3),
    "let d2 = 3\n  let d2 = 4": ("E0202", 3),
    "input h: real": ("E0202", 3),
    "param y: real": ("E0202", 3),
    "let a = product j in 1..2 { h } + j": ("E0201", 37),
    # shapes
    "let a = x + h": ("E0203", 11),
    "let a = x @ h": ("E0203", 11),
    "let a = 2 @ x": ("E0203", 11),
    "let a = max(x, h)": ("E0203", 11),
    "let a = dot(x, h)": ("E0203", 11),
    "let a = dot(r, h)": ("E0203", 11),
    "let a: real[n] = x": ("E0203", 20),
    "let a: real = x": ("E0203", 17),
    "let a = x.T": ("E0203", 11),
    "let a = outer(x, 1)": ("E0203", 20),
    "let a = [x, h]": ("E0203", 11),
    "let a = concat(x, 1)": ("E0203", 11),
    "let a = reshape(x, n)": ("E0203", 11),
    "let a = split(x, [1, n])": ("E0203", 11),
    "let a = x[d]": ("E0203", 13),
    "let a = x[0, 0]": ("E0203", 11),
    "let a = x[2:1]": ("E0203", 13),
    "let a = expm(outer(x, h))": ("E0203", 11),
    "let a = diag(outer(x, h))": ("E0203", 16),
    "let a = linear[d](outer(x, h))": ("E0203", 11),
    "const c: real[3] = [1, 2]": ("E0203", 22),
    "let a = lowrank(outer(x, h), outer(x, x))": ("E0203", 11),
    "let a = q + x": ("E0203", 11),
    "let a = unit1 + x\n  let unit1: unit = 1": ("E0203", 14),
    # kinds
    "let a = t + 1": ("E0204", 11),
    "let a = sigmoid(complex(1, x))": ("E0204", 11),
    "let a: real[d] = complex(1, x)": ("E0204", 20),
    "let a = complex(1, x) > 0": ("E0204", 11),
    "let a = 1 if x else 0": ("E0204", 16),
    "let a = not x": ("E0204", 11),
    "let a = x / (1 - 1)": ("E0204", 11),
    "let a = embedding(x, 3)": ("E0204", 21),
    "let a = one_hot(x)": ("E0204", 11),
    "let a = split(x, 1)": None,
    "let a = split(concat(x, x), 2) + 1": ("E0204", 11),
    "const c = x": ("E0204", 13),
    "let a = permutation([0, 0])": ("E0204", 23),
    "let a: real[0] = 1": ("E0204", 15),
    "let a: real[k/3] = 1": ("E0204", 15),
    "let a: token = t": ("E0204", 10),
    "param p: token[3]": ("E0204", 12),
    "param p: real in (0, 1) init 1": ("E0204", 32),
    "param p: real in (0, 1) init uniform(0, 1)": None,
    "param p: real in (0, 1) init uniform(0, 2)": ("E0204", 32),
    "param p: real[d] init x": ("E0204", 25),
    "let a: real in (1, 0) = r": ("E0204", 15),
    "let a: complex in (0, 1) = r": ("E0204", 10),
    "let a: real in disk(1) = r": ("E0204", 10),
    "let u: unit[d] = x": ("E0204", 20),
    "state s: real[d] = x\n  s <- s": ("E0204", 22),
    "state s: token[3] = 0\n  s <- s": ("E0204", 12),
    "x <- 1": ("E0204", 3),
    "let a = linear": ("E0204", 11),
    # sizes
    "let a = linear(x)": ("E0205", 11),
    "let a = 2 * silu(linear(x))": ("E0205", 20),
    "let a = r * linear(x) @ x": None,
    "let a = embedding(t)": ("E0205", 11),
    "let a = I": None,
    "output z = I": ("E0205", 14),
    "let a = tanh(I)": ("E0205", 16),
    "transition A = 2 * I": ("E0205", 18),
    # cycles
    "let a = b + 1\n  let b = a": ("E0206", 11),
    "let a = a": ("E0206", 11),
    # per blocks
    "per d2 { let a = 1 }": ("E0201", 7),
    "per x { let a = 1 }": ("E0207", 7),
    "per r { let a = 1 }": None,
    "per flag { let a = 1 }": ("E0207", 7),
    "let a = each(x)": ("E0207", 11),
    "per heads { let a = each(x) }": ("E0207", 28),
    "per heads { state s: real = 0 }\n  s <- 1": ("E0207", 3),
    "state s: real = 0\n  per heads { s <- 1 }": ("E0207", 15),
    # states
    "state s: real = 0": ("E0208", 3),
    "h <- h": ("E0208", 3),
    "substep j in 1..2 { h <- h }": ("E0208", 3),
    "nostate <- h": ("E0201", 3),
    # arguments
    "let a = tanh(x, x)": ("E0209", 11),
    "let a = tanh()": ("E0209", 11),
    "let a = tanh(x, y = 2)": ("E0209", 19),
    "let a = conv(x)": ("E0209", 11),
    "let a = conv(x, width = 0)": ("E0209", 27),
    "let a = conv(x, widht = 3)": ("E0209", 19),
    "let a = conv(x, 3, width = 3)": ("E0209", 22),
    "let a = prev(x, 0)": ("E0209", 11),
    "let a = linear[n](x, bias = 1)": ("E0209", 31),
    "let a = sum(x, axis = 1)": ("E0209", 25),
    "let a = permutation(x)": ("E0209", 23),
    "let a = l2norm(x, eps = -1)": ("E0209", 27),
    "let a = tanh[3](x)": ("E0209", 11),
    "let a = concat()": ("E0209", 11),
    "param p: real init normal(1, 2, 3)": ("E0209", 22),
    # statements that cannot stand here
    "repeat 2 as z from x { }": ("E0210", 3),
    "substep j in 1..2 { input z: real }": ("E0210", 23),
    "substep j in 1..2 { output z = x }": ("E0210", 23),
    "substep j in 1..2 { state z: real = 0 }": ("E0210", 23),
    # known at compile time
    "if x > 0 { let a = 1 }": ("E0305", 6),
    "if d > 2 { let a = 1 }": ("E0305", 6),
    "let a = x[k * r]": None,
    "let a = x[h]": ("E0305", 13),
    "let a = prev(x, d)": ("E0305", 19),
    "let a: real in (0, d) = r": ("E0305", 22),
    "substep j in 1..d { let a = 1 }": ("E0305", 19),
    "let a: real[x] = 1": ("E0305", 15),
    "param p: real init normal(x)": ("E0305", 29),
    "let a = arange(0, h)": ("E0305", 21),
}


@pytest.mark.parametrize("statement", ONE_ERROR)
def test_one_rule(statement: str) -> None:
    expected = ONE_ERROR[statement]
    line = 9 if statement.startswith(("let d2", "per heads { state", "state s: real = 0\n", "let a = unit1")) else 8
    if statement.startswith("let a = b"):
        line = 9
    assert errors(f"{HEAD}  {statement}\n}}") == ([] if expected is None else [(expected[0], line, expected[1])])


def test_the_message_of_the_reference() -> None:
    spec = parse(
        """cell GRU(n: dim, d: dim) {
  input x: real[d]
  let z: real[n] = sigmoid(linear(x))
  state h: real[n] = 0
  h <- z * x
}""",
        "gru.rnn",
    )
    (found,) = spec.check().items
    assert render(found, spec.sources) == (
        "error[E0203]: shapes do not match in `*`\n"
        " --> gru.rnn:5:8\n"
        "  |\n"
        "5 |   h <- z * x\n"
        "  |        ^^^^^ `z: real[n]`, `x: real[d]`\n"
        "  = help: project `x` first, for example `z * linear(x)`"
    )


def test_all_errors_are_reported_and_none_twice() -> None:
    text = """cell C(d: dim, n: dim) {
  input x: real[d]
  state h: real[n] = 0
  let a = oops
  let b = a + a * linear(x)        # a is wrong already: silent
  h <- b + undefined(linear(x)) + x
  let c = x + h
  let e = c @ c
  output y: real[n] = h' + e
  output z: real[d] = h
}"""
    assert errors(text) == [("E0201", 4, 11), ("E0201", 6, 12), ("E0203", 7, 11), ("E0203", 10, 23)]


def test_a_parameter_made_on_the_spot_is_told_where_to_stand() -> None:
    text = "cell C() {\n  input x: real\n  output y = param(3) * x\n}"
    (found,) = parse(text).check().items
    assert found.code == "E0201"
    assert found.help == "declare it in a line of its own, `param NAME: real[n]`, and write its name here"


def test_sets_in_claims_are_read() -> None:
    cell = "cell C(d: dim, r: real = 2) {\n  input x: real[d]\n  let a = sigmoid(x)\n  output y = a\n"
    fine = (
        "eigenvalues(a) in [-r / 2, r]; norm(a) <= sqrt(2) * d; eigenvalues(a) in [-inf, 1]; eigenvalues(a) in disk(pi)"
    )
    assert errors(f"{cell}  expect {{ {fine}; eigenvalues(a) in [1, 1] }}\n}}") == []
    wrong = "eigenvalues(a) in [0, q]\n norm(a) <= rr\n eigenvalues(a) in [1, -1]\n eigenvalues(a) in (1, 1]"
    assert errors(f"{cell}  expect {{\n {wrong}\n  }}\n}}") == [
        ("E0501", 6, 24),
        ("E0501", 7, 13),
        ("E0204", 8, 17),
        ("E0204", 9, 17),
    ]


def test_imaginary_numbers_are_told_how_they_are_written() -> None:
    (found,) = parse("cell C(n: dim) {\n  input x: real[n]\n  output y: complex[n] = 1.5i * x\n}").check().items
    assert (found.code, found.help) == ("E0102", "an imaginary number is written `complex(0, 1.5)`")


def test_two_statements_in_one_line() -> None:
    text = "cell C(n: dim) {\n  input x: real[n] param w: real[n]\n  output y: real[n] = x\n}"
    (found,) = parse(text).check().items
    assert found.help == "statements are separated by a new line or `;`"


def test_names_of_refused_or_broken_statements_are_silent() -> None:
    assert [e[0] for e in errors("cell C() {\n  input x: real\n  let a = (x\n  output y = a + a\n}")] == ["E0103"]
    text = "cell C() {\n  input x: real\n  state s: real = 0\n  s <- s +\n  output y = s'\n}"
    assert [code for code, _, _ in errors(text)] == ["E0102"]
    text = "cell C() {\n  input x: real\n  if x > 0 { let a = 1 } else { let a = 2 }\n  output y = a\n}"
    assert errors(text) == [("E0305", 3, 6)]
    text = "use std.gates { nope }\ncell C() {\n  input x: real\n  output y = nope(x) + nope\n}"
    assert errors(text) == [("E0403", 1, 17)]


def test_branches_that_are_not_taken_are_checked_for_names() -> None:
    text = """cell C(k: int = 1) {
  input x: real
  if k > 5 { let a = x + oops } else { let a = x }
  output y = a + (wrong(x) if k > 5 else later)
  let later = 1
}"""
    assert errors(text) == [("E0201", 3, 26), ("E0201", 4, 19)]


def test_both_values_of_a_bool_are_checked() -> None:
    body = "  input x: real[d]\n  input z: real[n]\n  output y = x + z if flag else x\n"
    assert errors(f"cell C(d: dim, n: dim, flag: bool = false) {{\n{body}}}") == [("E0203", 4, 14)]


def test_functions_are_checked_without_a_call() -> None:
    text = """fn a(x: real[n], W: real[m, n]) -> real[m] { x @ W }
fn b(x: real) -> real { linear(x) }
fn c(x: real[n]) -> real[n] { let y = x
  let y = 2
  y[0] }
fn d(x: real) -> real { e(x) }
fn e(x: real) -> real { d(x) }
fn f(x: real) -> real { x[0:2] }
fn g(v: real, s: real) -> real { householder(v, sum(s)) @ v }
"""
    assert errors(text) == [
        ("E0203", 1, 46),
        ("E0204", 2, 25),
        ("E0202", 4, 3),
        ("E0203", 5, 3),
        ("E0206", 6, 25),
        ("E0206", 7, 25),
    ]


def test_an_empty_cell_does_nothing() -> None:
    assert errors("cell C() {\n  input x: real\n}") == [("E0211", 1, 6)]


def test_suggestions() -> None:
    found = parse(f"{HEAD}  let aa = sigmod(x) + hed + linear[n](x, biass = false)\n}}").check().items
    assert [d.help for d in found] == ["did you mean `sigmoid`?", "did you mean `heads`?", "did you mean `bias`?"]
    assert messages(f"{HEAD}  let aa = headz\n}}") == ["unknown name `headz`"]
    assert parse(f"{HEAD}  let aa = headz\n}}").check().items[0].help == "did you mean `heads`?"


CLAIMS = {  # the part that is wrong
    "linear in S": "S",
    "affine in x": "x",
    "contractive in h": None,
    "eigenvalues(B) in (0, 1)": "B",
    "eigenvalues(A @ B) real": "B",
    "norm(A) <= 1": None,
    "recognizes parity": None,
    "recognizes mod(3)": None,
    "recognizes mod(1)": "mod(1)",
    "recognizes Even": None,
    "recognizes Evn": "Evn",
    "recognizes C": "C",
    "not tracks group S(3) under finite_precision": None,
    "tracks group Q(3)": "Q(3)",
    "tracks group S(0)": "S(0)",
    "parallel by chunk with layers = 2": None,
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_names_in_claims(claim: str) -> None:
    text = f"""cell C(n: dim) {{
  input x: real[n]
  state h: real[n] = 0
  transition A = 0.5 * I
  h <- A @ h + x
  expect {{
    {claim}
  }}
}}
language Even over {{a, b}} = regex "(aa|b)*"
"""
    wrong = CLAIMS[claim]
    assert errors(text) == ([] if wrong is None else [("E0501", 7, 5 + claim.index(wrong))])


def test_automata() -> None:
    text = """automaton A over {0, 1} {
  start even
  even: 0 -> even
  odd: 0 -> odd, 2 -> evn, 1 -> odd
  accept od
}
language L over {a, b} = regex "(abc)*"
language M over {a, b} = Missing
"""
    assert errors(text) == [
        ("E0502", 1, 1),
        ("E0502", 3, 3),
        ("E0502", 4, 3),
        ("E0502", 4, 3),
        ("E0502", 7, 32),
        ("E0501", 8, 26),
    ]


GATES = {
    "gate g: real in (0, 1) = sigmoid(linear(x))": True,
    "gate g: real in (0, 2) = r * 2 * sigmoid(linear(x))": True,
    "gate g: real in (0, 2) = 3 * sigmoid(linear(x))": False,
    "gate g: real in (0, 1) = linear(x)": False,
    "gate g: real in (0, 1) = h[0]": False,
    "gate g: real[n] in [-1, 1] = clamp(h, -1, 1)": True,
    "gate g: real in (0, 1) = 1": False,
    "gate g: real in (0, 1] = 1": True,
    "let g: real in (0, 1) = h[0]": True,  # possible
    "let g: real in (0, 1) = -softplus(h[0])": False,  # impossible
    "gate g: complex in disk(1) = polar(sigmoid(h[0]), h[1])": True,
    "gate g: complex in disk(1) = polar(2 * sigmoid(h[0]), h[1])": False,
    "gate g: complex in re < 0 = complex(-exp(h[0]), h[1])": True,
}


@pytest.mark.parametrize("statement", GATES)
def test_the_range_of_a_gate_must_be_provable(statement: str) -> None:
    column = 3 + statement.index(":") + 2
    assert errors(f"{HEAD}  {statement}\n}}") == ([] if GATES[statement] else [("E0503", 8, column)])


def test_a_range_is_checked_beside_other_errors_but_not_where_they_reach() -> None:
    text = f"""{HEAD}  gate free: real in (0, 1) = linear(x)
  gate fine: real in (0, 1) = sigmoid(linear(x))
  let a = unknown
  gate touched: real in (0, 1) = a * linear(x)
  input w: real in (0, z)
  gate from_w: real in (0, 1) = w
}}"""
    assert errors(text) == [("E0503", 8, 14), ("E0201", 10, 11), ("E0201", 12, 24)]


def test_a_range_is_checked_for_the_hyperparameters_given() -> None:
    spec = parse(f"{HEAD}  gate g: real in (0, 2) = r * sigmoid(linear(x))\n}}")
    assert spec.check().items == []
    spec.lower(r=2)
    with pytest.raises(SpecError) as raised:
        spec.lower(r=3)
    (found,) = raised.value.diagnostics
    assert (found.code, found.label) == ("E0503", "all that is known: the value is in (0, 3)")

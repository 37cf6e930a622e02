"""Certificates by hand that claim what is false: no numbers, states that may be anything, rounding, no values."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rnnc.frontend import ast
from rnnc.ir.text import print_cell
from rnnc.spec import parse
from rnnc.verify.certificate import certificate
from rnnc.verify.checking import Reject, check
from rnnc.verify.claims import text_of
from rnnc.verify.engine import verify
from rnnc.verify.format import FORMAT, decode, encode_spec

LANGUAGES = """
language Seen over {a, b} = regex "[ab]*b[ab]*"
language Last over {a, b} = regex "[ab]*b"
language Every over {a, b} = regex "[ab]*"
"""
UNKNOWN = {"terms": [], "error": 1000000}
SEEN = [[0, 1], [1, 1]]
LAST = [[0, 1], [0, 1]]
PARITY = [[0, 1], [1, 0]]


def atom(kind: str, value: Any, power: int = 1) -> dict[str, Any]:
    return {"terms": [["1", "0", 1, 0, [[kind, value, power]]]], "error": None}


def row(*entries: Any) -> dict[str, Any]:
    return {"shape": [len(entries)], "entries": list(entries)}


def forged(body: str, claim: str, by: str, evidence: Any, dims: str = "") -> str:
    """A certificate of a cell `C` with one claim, which is said to be proved."""
    text = f"{LANGUAGES}cell C({dims}) {{\n{body}\n  expect {{ {claim} }}\n}}\n"
    spec = parse(text)
    assert not spec.check().has_errors, [d.message for d in spec.check().items]
    cell = spec.lower("C")
    (made,) = (x for x in cell.expect if isinstance(x, ast.Claim))
    entry = {"cell": 0, "line": made.span.line, "claim": text_of(spec, made), "verdict": "proved"}
    cells = [{"cell": "C", "given": {}, "graph": print_cell(cell), "facts": []}]
    whole = entry | {"by": by, "evidence": evidence}
    return json.dumps({"format": FORMAT, "spec": encode_spec(spec), "cells": cells, "claims": [whole]})


def closing(delta: Any, letters: Any, states: Any, steps: Any, g: Any, **others: Any) -> dict[str, Any]:
    """A closure of one layer; the letters are `a` and `b`, or `0` and `1`."""
    alphabet = ["0", "1"] if delta is PARITY else ["a", "b"]
    made = {
        "arithmetic": "exact",
        "left_out": [],
        "automaton": {"alphabet": alphabet, "delta": delta, "start": 0, "accept": [1]},
        "letters": {a: {name: row(v) for name, v in x.items()} for a, x in zip(alphabet, letters, strict=True)},
        "tables": [],
        "states": [[{name: row(v) for name, v in s.items()}] for s in states],
        "steps": steps,
        "g": g,
    }
    params = {name: row(v) for name, v in others.pop("params", {}).items()}
    return made | {"layers": [{"sizes": {}, "params": params}]} | others


def rejected(text: str, says: str) -> None:
    with pytest.raises(Reject, match=says):
        check(text)


ONE = "  input x: real[1]\n  state h: real[1] = 1\n  h <- h\n  output y: real[1] = h'"
BITS = [{"x": "0/1"}, {"x": "1/1"}]


def test_what_may_be_anything_is_apart_from_nothing() -> None:
    made = closing(SEEN, BITS, [{"h": "1/1"}, {"h": UNKNOWN}], [[0, 1], [1, 1]], [0, 1])
    rejected(forged(ONE, "recognizes Seen", "closure", made), "are equal in the limit")


def test_a_gate_stays_in_its_range() -> None:
    body = """  input x: real[1]
  param p: real[1]
  param q: real[1]
  gate a: real[1] in (0, 1) = sigmoid(p + q * x)
  state h: real[1] = 0
  h <- a * h + x
  output y: real[1] = h'"""
    hold, flip = atom("sigmoid", "1/1"), atom("sigmoid", "-1/1")
    turn = {"terms": [*flip["terms"], ["-1", "0", 1, 0, hold["terms"][0][4]]], "error": None}
    states = [{"h": "0/1"}, {"h": "1/1"}]
    made = closing(PARITY, BITS, states, [[0, 1], [1, 0]], [0, 1], params={"p": hold, "q": turn})
    rejected(forged(body, "recognizes parity under exact", "closure", made), "stands for no number")


@pytest.mark.parametrize(
    "number",
    [
        atom("tanh", "2/1"),
        atom("sigmoid", "0/1"),
        atom("softplus", "-1/1"),
        atom("log", "-3/1"),
        atom("log", "4/1"),
        atom("pi", "3/1"),
        atom("tanh", atom("sigmoid", "2/1")),
        atom("other", "0/1"),
        atom("pi", "0/1", 10**9),
        {"terms": [["1", "0", 1, float("nan"), []]], "error": None},
        {"terms": [["1", "0", 1, 0.5, []]], "error": None},
        {"terms": [["1", "0", 1, -600_000, []]], "error": None},
        {"terms": [], "error": -600_000},
        {"terms": [], "error": float("nan")},
        "1e999999999",
        "0.5",
        {"terms": [["1", "1e-999999999", 1, 0, []]], "error": None},
        {"terms": [["1e999999999", "0", 1, 0, []]], "error": None},
    ],
    ids=str,
)
def test_what_stands_for_no_number(number: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        decode(number)


def test_closures_are_exact_or_of_float32() -> None:
    body = """  input x: real[1] in [0, 1]
  state h: real[1] = 0
  h <- (1 + 0.0000000009313225746154785 * x) - 1
  output y: real[1] = h'"""
    states = [{"h": "0/1"}, {"h": "0/1"}, {"h": "1/1073741824"}]
    made = closing(LAST, BITS, states, [[1, 2]] * 3, [0, 0, 1], arithmetic="float64")
    rejected(forged(body, "recognizes Last under float32", "closure", made), "no arithmetic of closures")


@pytest.mark.parametrize("sign", [-1, 1])
def test_minus_zero_where_an_update_divides(sign: int) -> None:
    """1 / -0.0 is -inf: a closure that goes on from 0.0 is not that of the machine."""
    body = """  input x: real[1] in [-1, 1]
  state h: real[1] = 0
  h <- max(-1, min(1, 1 / max(h * h, 1))) * (0 * x)
  output y: real[1] = h'"""
    letters = [{"x": "1/1"}, {"x": f"{sign}/1"}]
    states = [{"h": "0/1"}, {"h": "0/1"}]
    made = closing([[0, 0], [0, 0]], letters, states, [[1, 1]] * 2, [0, 0], arithmetic="float32")
    made["automaton"]["accept"] = [0]
    text = forged(body, "recognizes Every under float32", "closure", made)
    if sign < 0:
        rejected(text, "is -0.0")
    else:
        assert check(text)


HIDDEN = """  input x: real[1]
  param p: real[1]
  state c: real[1] = 1
  state h: real[1] = 2
  c <- UPDATE
  h <- p * c * h + (1 - p * c) * x
  output y: real[1] = h'"""


@pytest.mark.parametrize(("update", "fits"), [("1 / x", False), ("log(x)", False), ("1 / (1 + x * x)", True)])
def test_what_is_left_out_has_a_value(update: str, fits: bool) -> None:
    """Zero times 1 / 0 is not zero."""
    states = [{"h": "2/1"}, {"h": "0/1"}, {"h": "1/1"}]
    made = closing(LAST, BITS, states, [[1, 2]] * 3, [0, 0, 1], left_out=["c"], params={"p": "0/1"})
    text = forged(HIDDEN.replace("UPDATE", update), "recognizes Last", "closure", made)
    if fits:
        assert check(text)
    else:
        rejected(text, "may have no value")


def test_weights_are_not_found_where_what_is_left_out_has_no_value() -> None:
    body = HIDDEN.replace("real[1] = 1\n", "real[1] = 1 / p\n").replace("UPDATE", "c")
    spec = parse(f"{LANGUAGES}cell C() {{\n{body}\n  expect {{ recognizes Last }}\n}}\n")
    assert [r.verdict for r in verify(spec).results] == ["unknown"]


@pytest.mark.parametrize(("update", "fits"), [("c + 1", False), ("tanh(c)", True)])
def test_eta_finite_speaks_of_all_states(update: str, fits: bool) -> None:
    """A counter that nothing reads is in no finitely many compact parts."""
    states = [{"h": "2/1"}, {"h": "0/1"}, {"h": "1/1"}]
    made = closing(LAST, BITS, states, [[1, 2]] * 3, [0, 0, 1], left_out=["c"], params={"p": "0/1"})
    text = forged(HIDDEN.replace("UPDATE", update), "recognizes Last under eta_finite", "closure", made)
    if fits:
        assert check(text)
    else:
        rejected(text, "of another precision")


@pytest.mark.parametrize(("slope", "says"), [("0/1", ""), ("1/1000", "leaves its box")])
def test_a_ray_that_is_a_limit(slope: str, says: str) -> None:
    """From the corner of a box nothing shows that g is h / omega."""
    body = """  input x: real[1]
  param p: real[1]
  state h: real[1] = 0
  state g: real[1] = 0
  h <- h + abs(x)
  g <- p * h + x
  output y: real[1] = g'"""
    states = [{"h": "0/1", "g": "0/1"}, {"h": "0/1", "g": "1/1"}]
    regions = [[{"state": "h", "index": 0, "part": "re", "in": ["0/1", None]}]] * 2
    made = closing(LAST, BITS, states, [[0, 1]] * 2, [0, 1], regions=regions, params={"p": slope})
    text = forged(body, "recognizes Last under exact", "closure", made)
    if says:
        rejected(text, says)
    else:
        assert check(text)
    vanishing = {"terms": [["1", "0", 1, -1, []]], "error": None}
    made |= {"layers": [{"sizes": {}, "params": {"p": row(vanishing)}}]}
    rejected(forged(body, "recognizes Last under exact", "closure", made), "of another precision")


def test_what_vanishes_times_what_is_left_out() -> None:
    """With p = omega^-600000 twice nothing is left of a value that is unknown, by orders alone; c may be 1 / p^2."""
    small = {"terms": [["1", "0", 1, -600, []]], "error": None}
    body = HIDDEN.replace("UPDATE", "c").replace("p * c", "p * p * p * p * c")
    states = [{"h": "2/1"}, {"h": "0/1"}, {"h": "1/1"}]
    made = closing(LAST, BITS, states, [[1, 2]] * 3, [0, 0, 1], left_out=["c"], params={"p": small})
    rejected(forged(body, "recognizes Last", "closure", made), "malformed|not what is stated")


@pytest.mark.parametrize(
    ("update", "claim", "number", "states"),
    [
        ("(h + p) - p + x", "not linear in h", f"{2**60}/1", ("0/1", "256/1")),
        ("step((h + p) - p - h) + h", "not linear in h", "1/3", ("0/1", "1/8")),
        ("0.5 * h + p", "not contractive in h", "1000/1", ("0/1", f"1/{2**50}")),
    ],
)
def test_rounding_contradicts_nothing(update: str, claim: str, number: str, states: Any) -> None:
    body = f"  input x: real[1]\n  param p: real[1]\n  state h: real[1] = 0\n  h <- {update}\n  output y: real[1] = h'"
    numbers = {"sizes": {}, "inputs": [{"x": row("0/1")}], "params": {"p": row(number)}, "state": "h", "exact": False}
    if number == "1/3":
        numbers["params"] = {"p": row("6004799503160661/18014398509481984")}
    made = numbers | {"states": [{"h": row(v)} for v in states]}
    rejected(forged(body, claim, "numbers", made), "rounding decides|do not move apart|are in line")


def test_given_values_are_named() -> None:
    body = "input x: real[1]; state h: real[1] = 0; h <- k * h + x; output y: real[1] = h'; expect { linear in h }"
    spec = parse(f"cell C(k: int = 2) {{ {body} }}")
    (line,) = check(json.dumps(certificate(verify(spec, k=3), spec)))
    assert line == "C (k = 3): linear in h: proved"


@pytest.mark.parametrize(("update", "verdict"), [("sin(1 / (h - x))", "unknown"), ("sin(x / (1 + h * h))", "proved")])
def test_stable_states_are_numbers(update: str, verdict: str) -> None:
    body = f"  input x: real[1]\n  state h: real[1] = 0\n  h <- {update}\n  output y: real[1] = h'"
    spec = parse(f"cell C() {{\n{body}\n  expect {{ stable }}\n}}\n")
    assert [r.verdict for r in verify(spec).results] == [verdict]


@pytest.mark.parametrize("number", ["log(p)", "sqrt(p)", "p ^ 0.5", "log(1 + p * p)"])
def test_stable_with_weights_that_make_no_number(number: str) -> None:
    body = f"  input x: real[1]\n  param p: real[1]\n  state h: real[1] = 0\n  h <- 0.5 * h + {number} * x"
    text = forged(f"{body}\n  output y: real[1] = h'", "stable", "analysis", {})
    if "1 +" in number:
        assert check(text)
    else:
        rejected(text, "may be no number")


def test_letters_do_not_grow_in_logarithms() -> None:
    letters = [{"x": "0/1"}, {"x": atom("log", {"terms": [["1", "0", 1, 1, []]], "error": None})}]
    made = closing(SEEN, letters, [{"h": "1/1"}], [[0, 0]], [0])
    rejected(forged(ONE, "recognizes Seen", "closure", made), "letter `b` is not finite")


GATED = """  input x: real[1]
  param p: real[1]
  gate a: real[1] in (0, 1) = sigmoid(p)
  state h: real[1] = 0
  h <- a * h + x
  output y: real[1] = h'"""


@pytest.mark.parametrize("weight", [{"terms": [["1", "0", 1, 1, []]], "error": None}, UNKNOWN])
def test_a_gate_of_one_in_the_limit_is_stable(weight: Any) -> None:
    """With p = omega the state moves by 1 + O(exp(-omega)) in each step, which is not for ever."""
    made = {"sizes": {}, "inputs": [{"x": row("1/1")}], "params": {"p": row(weight)}, "state": "h", "states": []}
    rejected(forged(GATED, "not stable", "numbers", made | {"exact": True}), "is a limit|malformed")


SHIFT = """  input x: real[1]
  state h: real[N] = 0
  h <- concat(x, 2 * h[0:M])
  output y: real[N] = h'"""


def test_what_grows_for_a_while_is_stable() -> None:
    """All eigenvalues of a shift are zero: from step 200 on its state is the same."""
    body = SHIFT.replace("N", "200").replace("M", "199")
    made = {"sizes": {}, "inputs": [{"x": row("1/1")}], "params": {}, "state": "h", "states": [], "exact": False}
    rejected(forged(body, "not stable", "numbers", made), "no such growth")
    short = parse(f"cell C() {{\n{SHIFT.replace('N', '170').replace('M', '169')}\n  expect {{ stable }}\n}}\n")
    assert [r.verdict for r in verify(short).results] == ["unknown"]


@pytest.mark.parametrize("size", [1, 2, 12])
def test_what_grows_for_ever_is_not_stable(size: int) -> None:
    body = f"input x: real[{size}]; param a: real[{size}, {size}]; state h: real[{size}] = 0; h <- a @ h + x"
    spec = parse(f"cell C() {{ {body}; output y: real[{size}] = h'; expect {{ not stable }} }}")
    found = verify(spec)
    assert [r.verdict for r in found.results] == ["proved"]
    assert check(json.dumps(certificate(found, spec))) == ["C: not stable: proved"]

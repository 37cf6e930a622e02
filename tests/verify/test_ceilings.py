"""Ceilings: each theorem where its conditions hold, and silence where one of them does not."""

from __future__ import annotations

import numpy as np
import pytest

import rnnc
from rnnc.verify.engine import verify
from rnnc.verify.results import ClaimResult

HEAD = "cell C(d: dim, n: dim) {{ input x: real[d]\n {body}\n output y: real[d] = linear(x)\n expect {{ {claims} }} }}"


def ask(body: str, *claims: str) -> list[ClaimResult]:
    spec = rnnc.parse(HEAD.format(body=body.replace(";", "\n"), claims="; ".join(claims)))
    found = spec.check()
    assert not found.has_errors, [d.message for d in found.items]
    return list(verify(spec, search=False).results)


def verdict(body: str, *claims: str) -> list[str]:
    return [r.verdict for r in ask(body, *claims)]


DIAGONAL = "gate a: real[n] in (0, 1) = sigmoid(linear(x)); state h: real[n] = 0; h <- a * h + linear(x)"
SIGNED = "gate a: real[n] in (-1, 1) = tanh(linear(x)); state h: real[n] = 0; h <- a * h + linear(x)"
COMPLEX = (
    "gate r: real[n] in (0, 1) = sigmoid(linear(x)); state h: complex[n] = 0; "
    "h <- polar(r, linear[n](x)) * h + complex(linear[n](x), linear[n](x))"
)
ELMAN = "state h: real[n] = 0; h <- tanh(linear(x) + linear(h))"


# ---------------------------------------------------------------- N1, N1*, N2


def test_n1_says_what_it_rests_on() -> None:
    (result,) = ask(DIAGONAL, "not recognizes parity")
    assert (result.verdict, result.precision) == ("proved", "finite_precision")
    assert result.evidence is not None
    assert result.evidence.kind == "theorem"
    assert "Grazzi" in result.evidence.source
    assert result.evidence.data["theorem"] == "N1"
    assert (result.evidence.data["letter"], result.evidence.data["period"]) == ("1", 2)
    assert len(result.evidence.conditions) == 3
    assert all(c.holds and c.by for c in result.evidence.conditions)


def test_a_refuted_claim_has_the_same_evidence() -> None:
    yes, no = ask(DIAGONAL, "recognizes parity", "not recognizes parity")
    assert (yes.verdict, no.verdict) == ("refuted", "proved")
    assert yes.evidence == no.evidence


def test_n1_leaves_star_free_languages() -> None:
    claims = ("not recognizes flip_flop", "not recognizes alternating", "not recognizes dyck(1, 2)")
    assert verdict(DIAGONAL, *claims) == ["unknown"] * 3


def test_words_decide_where_letters_do_not() -> None:
    """Counting `ab` mod 2: each letter alone has period 1, the word `ab` has 2."""
    claims = "not recognizes Blocks; not recognizes Blocks with layers = 5"
    cell = HEAD.format(body=DIAGONAL.replace(";", chr(10)), claims=claims)
    text = f'language Blocks over {{a, b}} = regex "((ab)(ab))*"\n{cell}'
    for result in verify(rnnc.parse(text), search=False).results:
        assert result.verdict == "proved"
        assert result.evidence is not None
        assert result.evidence.data["theorem"] == "N1*"
        assert sorted(result.evidence.data["word"]) == ["a", "b"]


def test_n2_counts_layers() -> None:
    claims = [f"not recognizes mod({m}) with layers = {k}" for m in (2, 3, 4, 8) for k in (1, 2, 3)]
    expected = ["unknown"] * 3 + ["proved"] * 3 + ["proved", "unknown", "unknown"] + ["proved", "proved", "unknown"]
    assert verdict(SIGNED, *claims) == expected


OTHER_MODELS = ("exact", "log_precision", "float32")
FIXED_REAL = [
    "state h: real[n] = 0; h <- 0.5 * prev(h) + linear(x)",  # two steps long: period 2
    "state h: real[n] = 0; state g: real[n] = 0; h <- g + linear(x); g <- h",  # a swap
    "state h: real[2] = 0; h <- permutation([1, 0]) @ h + linear(x)",
]
FIXED = [
    "state h: real[n] = 0; h <- 0.5 * prev(h, 2) + linear(x)",
    "param W: real[n, n]; state h: real[n] = 0; h <- W @ h + linear(x)",
    "param t: real[n]; state h: complex[n] = 1; h <- polar(1, t) * h + complex(linear[n](x), 1)",
    "param t: real[n]; gate r: real[n] in (0, 1) = sigmoid(linear(x)); state h: complex[n] = 1; "
    "h <- polar(r, t) * h + complex(linear[n](conv(x, width = 3)), 1)",
    "param t: real[n]; state h: complex[n] = 1; h <- exp(complex(linear[n](x), t)) * h + 1",
]


CLOCKED = "gate a: real[n] in (0, 1) = sigmoid(linear(x)); state t: real = 0; t <- t + 0.3; state h: real[n] = 0; "


@pytest.mark.parametrize(
    "drive",
    [
        "cos(t) * linear(x)",
        "sin(2 * t - 1) * cos(t / 3) * linear(x) + linear[n](x)",
        "cos(t') * linear(x) - linear(x) * sin(t + t)",
    ],
)
def test_n7_rotary_positions(drive: str) -> None:
    body = f"{CLOCKED}h <- a * h + {drive}"
    claims = (
        "not recognizes parity",
        "not tracks group S(3)",
        "not recognizes unary_mod(2)",
        "not recognizes flip_flop",
    )
    assert verdict(body, *claims) == ["proved", "proved", "unknown", "unknown"]
    assert verdict(body, "not recognizes parity with layers = 2") == ["unknown"]


@pytest.mark.parametrize("body", FIXED_REAL + FIXED)
def test_n7_fixed_angles_tell_positions_and_not_contents(body: str) -> None:
    claims = ("not recognizes parity", "not recognizes mod(3)", "not tracks group Z(2)", "not tracks group S(3)")
    assert verdict(body, *claims) == ["proved"] * 4
    unary = [f"not {c}" for c in ("recognizes unary_mod(2)", "tracks group Z(2, letters = generators)")]
    assert verdict(body, *unary, "not recognizes unary_mod(3)") == [
        "unknown",
        "unknown",
        "proved" if body in FIXED_REAL else "unknown",
    ]
    others = ("recognizes flip_flop", "recognizes alternating", *(f"recognizes parity under {p}" for p in OTHER_MODELS))
    assert set(verdict(body, *others)) == {"unknown"}


def test_n7_says_what_it_rests_on() -> None:
    (result,) = ask(FIXED[1], "not recognizes mod(3)")
    assert result.evidence is not None
    data = result.evidence.data
    assert (data["theorem"], data["word"], data["period"], data["lengths"]) == ("N7", ["1"], 3, 2)
    assert "AC0" in result.evidence.conditions[-1].text


@pytest.mark.parametrize("body", FIXED)
def test_n7_is_about_the_top_layer(body: str) -> None:
    """A turn by an irrational angle never comes round: what reads it sees no period."""
    (result,) = ask(body, "not recognizes parity with layers = 2")
    assert result.verdict == "unknown"
    assert result.evidence is not None
    assert any("N7" in c.text and "rational parts" in c.text for c in result.evidence.conditions)


@pytest.mark.parametrize("body", FIXED_REAL)
def test_n7_real_eigenvalues_stay_below(body: str) -> None:
    claims = ("not recognizes parity with layers = 3", "not recognizes unary_mod(2)")
    assert verdict(body, *claims) == ["proved", "unknown"]


def test_n7_real_eigenvalues_serve_in_every_layer() -> None:
    """Negative eigenvalues that the input does not choose, and gates that are not negative, do not add up to parity."""
    body = (
        "param a: real[n] in (-1, 1); state g: real[n] = 0; g <- a * g + linear(x); "
        "gate z: real[n] in (0, 1) = sigmoid(linear(g')); state h: real[n] = 0; h <- z * h + linear(g)"
    )
    claims = [f"not recognizes {name} with layers = {k}" for name in ("parity", "mod(3)") for k in (1, 3)]
    assert verdict(body, *claims) == ["proved"] * 4
    assert verdict(body, "not recognizes unary_mod(2)") == ["unknown"]
    assert verdict(body.replace("sigmoid", "tanh").replace("(0, 1)", "(-1, 1)"), "not recognizes parity") == ["unknown"]


@pytest.mark.parametrize(
    "body",
    [
        "param t: real[n]; state g: complex[n] = 0; g <- polar(1, t) * g + linear[n](x); "
        "gate z: real[n] in (0, 1) = sigmoid(linear(re(g'))); state h: real[n] = 0; h <- z * h + linear(x)",
        "state h: complex[n] = 0; h <- polar(1, linear[n](x)) * h + linear[n](x)",
        "param t: real[n]; state h: complex[n] = 0; h <- polar(tanh(linear[n](x)), t) * h + linear[n](x)",
        "param t: real[n]; state h: complex[n] = 0; h <- exp(linear[n](x) * complex(-1, t)) * h + linear[n](x)",
        "param W: real[n, n]; state h: real[n] = 0; h <- sigmoid(linear(x)) * (W @ h) + linear(x)",
        "state t: real = 0; t <- t + 1; state h: complex[n] = 0; h <- polar(1, t) * h + linear[n](x)",
        *(f"{CLOCKED}h <- a * h + {b}" for b in ("t * linear(x)", "sigmoid(cos(t) * linear(x))", "cos(t * sum(x))")),
        *(f"{CLOCKED}h <- a * h + {b}" for b in ("cos(t * t)", "linear(x) / (2 + cos(t))", "linear(x) * step(cos(t))")),
        f"{CLOCKED}h <- a * cos(t)^2 * h + linear(x)",
        f"{CLOCKED}h <- a * h + cos(t) * linear(x); state g: real[n] = 0; g <- a * g + h'",
        "param W: real[n, n]; state h: real[n] = 0; h <- W @ h + linear(x) * h",
    ],
)
def test_n7_needs_fixed_angles(body: str) -> None:
    assert verdict(body, "not recognizes parity") == ["unknown"]


@pytest.mark.parametrize(
    "body",
    [
        "state h: real[4] = 0; h <- concat(h[1:4], h[0:1]) + linear(x)",  # a shift register in a ring
        "state S: real[n, n] = 0; S <- S.T + linear[n, n](x)",
        "state h: complex[n] = 0; h <- 0.5 * conj(h) + linear[n](x)",
        "gate a: real[n] in (-0.1, 0.9) = sigmoid(linear(x)) - 0.1; state h: real[n] = 0; h <- a * h + linear(x)",
        "state g: real[n] = 0; g <- 0.5 * g + linear(x); state h: real[n] = 0; h <- (1 - g) * h + linear(x)",
        "state h: real[n] = 0; h <- abs(h) - linear(x)",
        "state h: real[n] = 0; h <- max(-h, linear(x))",
        "gate a: real[n] in (-1, 1) = tanh(linear(x)); state h: real[n] = 0; h <- max(a * h, linear(x))",
        ELMAN,
    ],
)
def test_parity_stays_open(body: str) -> None:
    """In each of these the state can change sign, or remember it, under a repeated letter."""
    assert verdict(body, "not recognizes parity") == ["unknown"]


@pytest.mark.parametrize(
    "body",
    [
        "let u = conv(x, width = 4); gate a: real[n] in (0, 1) = sigmoid(linear(u)); state h: real[n] = 0; "
        "h <- a * h + linear(prev(x, 3))",
        "state m: real[n] = 0; m <- max(m + linear(x), linear[n](x)); state h: real[n] = 0; "
        "h <- exp(-softplus(m)) * h + m'",
        "state h: complex[n] = 0; h <- sigmoid(linear[n](x)) * h + complex(linear[n](x), linear[n](x))",
    ],
)
def test_windows_stabilisers_and_complex_drives_do_not_help(body: str) -> None:
    assert verdict(body, "not recognizes parity") == ["proved"]


# ---------------------------------------------------------------- N3, N3k


def test_n3_one_complex_diagonal_layer() -> None:
    claims = ("not tracks group S(3)", "not tracks group D(4)", "not tracks group Z(6)", "not tracks group A(5)")
    assert verdict(COMPLEX, *claims) == ["proved", "proved", "unknown", "proved"]


def test_n3k_counts_layers() -> None:
    claims = [f"not tracks group {g} with layers = {k}" for g in ("S(3)", "S(4)", "A(5)") for k in (1, 2, 3)]
    assert verdict(COMPLEX, *claims) == [
        *("proved", "unknown", "unknown"),
        *("proved", "proved", "unknown"),
        *("proved", "proved", "proved"),
    ]


@pytest.mark.parametrize(
    ("read", "drive", "expected"),
    [
        ("re(h')", "x", ["proved", "proved"]),
        ("re(h)", "x", ["proved", "unknown"]),  # the next copy reads the state before the step
        ("re(h') + re(h)", "x", ["proved", "unknown"]),
        ("re(h')", "prev(x)", ["proved", "unknown"]),  # the next copy looks back at the one below
        ("re(h')", "conv(x, width = 2)", ["proved", "unknown"]),
    ],
)
def test_n3k_counts_copies_that_read_the_same_step(read: str, drive: str, expected: list[str]) -> None:
    spec = rnnc.parse(f"""
cell C(d: dim, n: dim) {{
  input x: real[d]
  state h: complex[n] = 0
  h <- polar(1, linear[n](x)) * h + complex(linear[n]({drive}), 0)
  output y: real[n] = {read}
  expect {{ not tracks group S(4); not tracks group S(4) with layers = 2 }}
}}
""")
    assert not spec.check().has_errors, [d.message for d in spec.check().items]
    assert [r.verdict for r in verify(spec, search=False).results] == expected


@pytest.mark.parametrize(
    "update",
    [
        "u <- cos(t) * u - sin(t) * w + x[0]; w <- sin(t) * u + cos(t) * w",
        "u <- r * cos(t) * u - r * sin(t) * w; w <- r * sin(t) * u + r * cos(t) * w + x[0]",
    ],
)
def test_n3_coupled_states_that_turn_as_complex_numbers(update: str) -> None:
    body = f"let t: real = linear(x); let r: real = linear(x); state u: real = 1; state w: real = 0; {update}"
    claims = ("not tracks group S(3)", "not tracks group Z(6)", "not recognizes parity")
    assert verdict(body, *claims) == ["proved", "unknown", "unknown"]
    mirrored = body.replace("w <- sin(t)", "w <- -sin(t)").replace("w <- r * sin(t)", "w <- -r * sin(t)")
    assert verdict(mirrored.replace("- sin(t) * w", "+ cos(t) * w"), claims[0]) == ["unknown"]


def test_n3_needs_diagonals() -> None:
    body = (
        "let k: unit[n] = l2norm(linear(x)); let j: unit[n] = l2norm(linear(x)); state S: real[n, n] = 0; "
        "S <- householder(j, 2) @ householder(k, 2) @ S + linear[n, n](x)"
    )
    assert verdict(body, "not tracks group S(3)") == ["unknown"]


# ---------------------------------------------------------------- N4


def test_n4_rests_on_a_conjecture() -> None:
    no, yes = ask(COMPLEX, "not tracks group A(5) under log_precision", "tracks group S(5) under log_precision")
    assert no.verdict == "proved_conditional"
    assert "TC0 != NC1" in no.reason
    assert yes.verdict == "unknown"  # refuted only if the conjecture holds


def test_n4_is_silent_on_solvable_groups_and_dense_gates() -> None:
    assert verdict(COMPLEX, "not tracks group S(4) under log_precision") == ["unknown"]
    dense = "state h: real[n] = 0; let W = linear[n, n](x); h <- W @ h + linear(x)"
    assert verdict(dense, "not tracks group A(5) under log_precision") == ["unknown"]
    fixed = "param W: real[n, n]; state h: real[n] = 0; h <- W @ h + linear(x)"
    assert verdict(fixed, "not tracks group A(5) under log_precision") == ["proved_conditional"]


# ---------------------------------------------------------------- N5, N6 and the models


def test_n5_is_about_floats() -> None:
    claims = ("not recognizes parity under float32", "not recognizes mod(3) under float16")
    assert verdict(DIAGONAL, *claims) == ["proved", "proved"]
    assert verdict(SIGNED, *claims) == ["unknown", "unknown"]
    rounded = "gate a: real[n] = 1 - l2norm(linear[n](x))^2; state h: real[n] = 0; h <- a * h + linear(x)"
    assert verdict(rounded, claims[0]) == ["unknown"]  # rounding may take 1 - k^2 below zero


def test_n5_reads_the_update_as_it_is_written() -> None:
    """Around 2^24 float32 knows even numbers only: h + (2^24 + x) - h - ... is 0 and 1 by turns, though 1 - b >= 0."""
    gate = "gate b: real[n] in (0, 1) = sigmoid(linear(x)); let u: real[n] = linear(x); let v: real[n] = linear(x); "
    plain = gate + "state h: real[n] = 0; h <- (1 - b) * h + (u + v)"
    drifts = gate + "state h: real[n] = 0; h <- h + u - b * h + v"
    assert verdict(plain, "not recognizes parity under float32") == ["proved"]
    assert verdict(drifts, "not recognizes parity under float32") == ["unknown"]
    assert verdict(drifts, "not recognizes parity") == ["proved"]
    h, seen = np.float32(0), []
    u, v, b = np.float32(2**24), np.float32(1 - 2**24), np.float32(1)  # sigmoid(20) is 1
    for _ in range(6):
        h = h + u - b * h + v
        seen.append(int(h))
    assert seen == [1, 0, 1, 0, 1, 0]


def test_n6_finitely_many_states_do_not_count() -> None:
    assert verdict(ELMAN, "not recognizes dyck(1) under float32") == ["proved"]
    assert verdict(ELMAN, "not recognizes dyck(1)") == ["proved"]
    counter = "state h: real[n] = 0; h <- h + linear(x)"
    assert verdict(counter, "not recognizes dyck(1)") == ["unknown"]


@pytest.mark.parametrize("precision", ["exact", "log_precision"])
def test_no_verdict_moves_to_another_model(precision: str) -> None:
    """With unbounded numbers a counter and a decoder do parity: N1 says nothing."""
    assert verdict(DIAGONAL, f"not recognizes parity under {precision}") == ["unknown"]


def test_a_claim_may_be_too_large() -> None:
    (result,) = ask(COMPLEX, "not tracks group S(12)")
    assert result.verdict == "proved"  # the group's series needs no automaton


# ---------------------------------------------------------------- models


MODEL = """
use std.mingru {{ MinGRU }}
use std.lru {{ LRU }}
model Stack(vocab: dim, d: dim) {{
  input t: token[vocab]
  let h0: real[d] = embedding(t, d)
  repeat 2 as h from h0 {{
    {body}
  }}
  output y: real[d] = linear(h)
  expect {{ {claims} }}
}}
"""
ATTEND = "h = h + scaled_dot_product_attention(linear[d](h), linear[d](h), linear[d](rmsnorm(h)))"
GATE = "h = h + MinGRU(d)(rmsnorm(h))"
TURN = "h = h + LRU(d)(h)"


def ask_model(body: str, *claims: str) -> list[str]:
    spec = rnnc.parse(MODEL.format(body=body, claims="; ".join(claims)))
    assert not spec.check().has_errors, [d.message for d in spec.check().items]
    return [r.verdict for r in verify(spec, search=False).results]


@pytest.mark.parametrize("body", [GATE, ATTEND, f"{ATTEND}; {GATE}", f"{GATE}; {ATTEND}"])
def test_models_are_cascades_and_attention_adds_no_period(body: str) -> None:
    claims = ("not recognizes parity", "not recognizes mod(3)", "not recognizes flip_flop")
    assert ask_model(body.replace("; ", "\n    "), *claims) == ["proved", "proved", "unknown"]


def test_attention_is_no_state_of_fixed_size() -> None:
    claims = ("not recognizes parity under float32", "not recognizes dyck(1) under float32", "not recognizes parity")
    assert ask_model(f"{TURN}\n    {ATTEND}", *claims) == ["unknown"] * 3
    parity = ("not recognizes parity", "not recognizes parity under eta_finite")
    assert ask_model(ATTEND, *parity) == ["proved", "unknown"]
    assert ask_model(ATTEND, "not tracks group S(5) under log_precision") == ["proved_conditional"]
    assert ask_model(ATTEND, "not tracks group S(4) under log_precision") == ["unknown"]


def test_attention_over_turning_states_is_not_periodic() -> None:
    body = MODEL.replace("repeat 2", "repeat 1")
    for part, expected in ((f"{ATTEND}\n    {TURN}", "proved"), (f"{TURN}\n    {ATTEND}", "unknown")):
        spec = rnnc.parse(body.format(body=part, claims="not recognizes parity"))
        assert [r.verdict for r in verify(spec, search=False).results] == [expected]


def test_contraction_needs_continuity_between_layers() -> None:
    """Two states that approach one point from two sides can be told apart by a step: then nothing is forgotten."""
    lower = "state g: real[n] = 0; g <- 0.5 * g + linear(x); gate a: real[n] in (0, 1) = sigmoid({read}); "
    upper = "state h: real[n] = 0; h <- a * h + linear(x)"
    claim = "not recognizes flip_flop under eta_finite"
    assert verdict(lower.format(read="g'") + upper, claim) == ["proved"]
    for read in ("step(g')", "1 / g'", "l2norm(g', eps = 0)"):
        assert verdict(lower.format(read=read) + upper, claim) == ["unknown"]


def test_star_freeness_needs_continuity_between_layers() -> None:
    """h = 2^-n fades into one component, and cos(pi log2 h) goes on counting mod 2 for the layer above."""
    lower = "state h: real[n] = 1; gate a: real[n] in (0, 1) = sigmoid(linear(x)); h <- a * h; "
    upper = "state g: real[n] = 1; g <- cos({read}) + 0.5 * g"
    claim = "not recognizes parity under eta_finite"
    assert verdict(lower + upper.format(read="4 * h'"), claim) == ["proved"]
    assert verdict(lower + upper.format(read="4 * log(h')"), claim, "not recognizes parity") == ["unknown", "proved"]


@pytest.mark.parametrize("language", ["parity", "flip_flop"])
def test_maps_between_copies_may_jump(language: str) -> None:
    """A sign between two copies holds a bit however small the state below gets: under eta_finite nothing is proved."""
    claim = f"not recognizes {language} under eta_finite"
    body = "state h: real[n] = 0; gate a: real[n] in (0, 1) = sigmoid(linear(x)); h <- a * h + linear(x)"
    assert verdict(body, claim, f"{claim} with layers = 2") == ["proved", "unknown"]


def test_jumps_of_inputs_and_of_the_readout_repeat_exactly() -> None:
    lower = "state h: real[n] = 1; gate a: real[n] in (0, 1) = sigmoid(l2norm(linear(x), eps = 0)); h <- a * h; "
    upper = "state g: real[n] = 1; g <- 0.5 * g + h'; let r: real[n] = l2norm(g', eps = 0)"
    assert verdict(lower + upper, "not recognizes parity under eta_finite") == ["proved"]

"""The twelve traps of the theory: places where a plausible verdict would be wrong.

Traps 7 and 8 (cascades fed with updated states, perturbed witnesses), 10 (arithmetic with precedence) and 11 (defective
matrices) have their tests beside the parts that they belong to.
"""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import rnnc
from rnnc.stdlib import entries
from rnnc.verify.engine import Engine, standard_targets
from rnnc.verify.results import ClaimResult
from rnnc.verify.structural import Subject
from rnnc.verify.trusted.matrices import characteristic, real_roots

GATED = """
cell Cell(d: dim, n: dim) {{
  input x: real[d]
  gate a: real[n] in {gate}
  state h: real[n] = 0
  h <- {update}
  output y: real[d] = {read}
  expect {{ {claims} }}
}}
"""


def gated(
    claims: str, gate: str = "(0, 1) = sigmoid(linear(x))", update: str = "a * h + linear(x)", read: str = ""
) -> str:
    return GATED.format(gate=gate, update=update, read=read or "linear(h')", claims=claims)


def only(found: list[ClaimResult]) -> ClaimResult:
    (result,) = found
    return result


def stdlib_claim(name: str, claim: str, **hyper: object) -> ClaimResult:
    """One more claim about the first cell of a file of the standard library, answered without searching for weights."""
    spec = rnnc.stdlib(name)
    text = spec.text.replace("expect {", "expect {\n    " + claim, 1)
    found = rnnc.verify(rnnc.parse(text), spec.cells[0], search=False, **hyper).results
    return next(r for r in found if r.claim == claim)


# ---------------------------------------------------------------- 1


def test_trap_1_three_factors_in_0_1_have_negative_products() -> None:
    lines = [np.array([np.cos(t), np.sin(t)]) for t in np.radians([0, 60, 120])]
    product = np.linalg.multi_dot([np.outer(v, v) for v in lines])
    assert np.isclose(np.linalg.eigvals(product).real.min(), -1 / 8)
    assert stdlib_claim("deltaproduct", "not recognizes parity", reach=1, steps=2).verdict == "proved"
    three = stdlib_claim("deltaproduct", "not recognizes parity", reach=1, steps=3)
    assert three.verdict == "unknown"
    assert "-1/8" in three.reason


# ---------------------------------------------------------------- 2


@pytest.mark.parametrize("name", ["mamba", "mingru"])
def test_trap_2_a_gate_of_one_is_a_limit(name: str) -> None:
    assert stdlib_claim(name, "not recognizes flip_flop").verdict == "unknown"  # star-free: no theorem forbids it
    never = stdlib_claim(name, "not recognizes flip_flop under eta_finite")
    assert never.verdict == "proved"
    assert never.precision == "eta_finite"


def test_trap_2_a_closed_gate_holds(verdicts) -> None:  # type: ignore[no-untyped-def]
    closed = gated("not recognizes flip_flop under eta_finite", gate="[0, 1] = min(max(linear(x), 0), 1)")
    assert only(verdicts(closed)).verdict == "unknown"


# ---------------------------------------------------------------- 3

RWKV7 = """
cell RWKV7(d: dim, heads: dim = 2, n: dim = 4) {
  input x: real[d]
  per heads {
    gate w: real[n] in (0.5, 1) = exp(-0.606 * sigmoid(linear(x)))
    let kappa: unit[n] = l2norm(linear(x))
    gate a: real[n] in (0, 1) = sigmoid(linear(x))
    let k: real[n] = linear(x)
    let v: real[n] = linear(x)
    let q: real[n] = linear(x)
    state S: real[n, n] = 0
    transition A = diag(w) - outer(kappa, a * kappa)
    S <- S @ A + outer(v, k)
    let o = S' @ q
  }
  output y: real[d] = linear(flatten(o))
  expect {
    eigenvalues(A) in [0, 1]
    not recognizes parity
  }
}
"""


def test_trap_3_rwkv7_reaches_below_zero(verdicts) -> None:  # type: ignore[no-untyped-def]
    spectrum, parity = verdicts(RWKV7)
    assert spectrum.verdict == "refuted"
    assert spectrum.evidence.kind == "counterexample"
    assert -0.46 < spectrum.evidence.data["eigenvalue"][0] < 0
    assert parity.verdict == "unknown"


# ---------------------------------------------------------------- 4


def test_trap_4_one_layer_of_reflections_cannot_count_mod_3() -> None:
    one = stdlib_claim("deltanet", "not recognizes mod(3)", reach=2)
    assert one.verdict == "proved"
    assert one.evidence is not None
    assert one.evidence.data["theorem"] == "N2"
    assert stdlib_claim("deltanet", "not recognizes mod(3) with layers = 2", reach=2).verdict == "unknown"


def test_trap_4_real_diagonals_never_count_mod_3(verdicts) -> None:  # type: ignore[no-untyped-def]
    claims = "not recognizes mod(3) with layers = 9; not recognizes mod(4); not recognizes mod(4) with layers = 2"
    three, four, four_deep = verdicts(gated(claims, gate="(-1, 1) = tanh(linear(x))"))
    assert (three.verdict, four.verdict, four_deep.verdict) == ("proved", "proved", "unknown")


# ---------------------------------------------------------------- 5

CLOCK = """
cell Clock(d: dim, n: dim) {{
  input x: real[d]
  state t: real = {start}
  t <- {tick}
  state h: real[n] = 0
  h <- sigmoid(linear(x)) * h + {read} * linear(x)
  output y: real[d] = linear(h')
  expect {{
    not recognizes unary_mod(2)
    not recognizes parity
  }}
}}
"""


@pytest.mark.parametrize(("start", "tick"), [("0", "t + 1"), ("1", "-t")])
def test_trap_5_a_clock_voids_arguments_about_repetition(start: str, tick: str, verdicts) -> None:  # type: ignore[no-untyped-def]
    for read in ("step(cos(pi * t))", "exp(cos(pi * t))", "t^2"):
        for result in verdicts(CLOCK.format(start=start, tick=tick, read=read)):
            assert result.verdict == "unknown"
            assert "clock" in result.reason


def test_trap_5_a_clock_that_turns_what_is_written_tells_positions_alone(verdicts) -> None:  # type: ignore[no-untyped-def]
    unary, parity = verdicts(CLOCK.format(start="0", tick="t + 1", read="cos(pi * t)"))
    assert (unary.verdict, parity.verdict) == ("unknown", "proved")
    assert "N7" in parity.reason


def test_trap_5_what_fades_is_no_clock(verdicts) -> None:  # type: ignore[no-untyped-def]
    assert all(r.verdict == "proved" for r in verdicts(CLOCK.format(start="1", tick="t / 2", read="t")))


def test_trap_5_retnet_counts_positions() -> None:
    found = stdlib_claim("retnet", "not recognizes unary_mod(2)")
    assert found.verdict == "unknown"
    assert "`t` is a clock" in found.reason
    assert stdlib_claim("retnet", "not recognizes parity").verdict == "proved"


# ---------------------------------------------------------------- 6


def test_trap_6_normalisation_inside_the_update_is_nonlinear(verdicts) -> None:  # type: ignore[no-untyped-def]
    inside = gated("not recognizes parity; linear in h", update="rmsnorm(a * h + linear(x))")
    parity, linear = verdicts(inside)
    assert (parity.verdict, linear.verdict) == ("unknown", "refuted")
    behind = gated("not recognizes parity; linear in h", read="linear(rmsnorm(h') * sigmoid(linear(x)))")
    assert [r.verdict for r in verdicts(behind)] == ["proved", "proved"]


# ---------------------------------------------------------------- 9


@pytest.mark.parametrize("precision", ["exact", "eta_finite"])
def test_trap_9_an_open_range_does_not_attain_minus_one(precision: str, verdicts) -> None:  # type: ignore[no-untyped-def]
    text = gated(
        f"recognizes parity under {precision}", gate="(-1, 1) = 2 * sigmoid(linear(x)) - 1", update="a * h + linear(x)"
    )
    assert only(verdicts(text, search=True)).verdict != "proved"


# ---------------------------------------------------------------- 12


@pytest.mark.parametrize("name", [e.name for e in entries()])
def test_trap_12_nothing_is_recognised_without_weights(name: str) -> None:
    """However expressive a cell is on bounded sets of sequences: a positive verdict is a witness."""
    spec = rnnc.stdlib(name)
    engine = Engine(Subject(cell=spec.lower(spec.cells[0])), budget=0)
    assert all(engine.decide(target).verdict != "proved" for target in standard_targets())


# ---------------------------------------------------------------- all of them


def test_every_trap_has_a_test() -> None:
    folder = Path(__file__).parents[1]
    texts = [path.read_text(encoding="utf-8") for path in folder.rglob("test_*.py")]
    found = {int(n) for text in texts for n in re.findall(r"def test_trap_(\d+)", text)}
    assert found >= set(range(1, 13)), f"no test for the traps {sorted(set(range(1, 13)) - found)}"


def test_products_of_rwkv7_transitions_are_not_bounded() -> None:
    """Each has real eigenvalues of at most 1, and two of them a product with one above 1.2 (docs/ceilings.md)."""

    def transition(w: Fraction, k: tuple[int, int], a: tuple[Fraction, Fraction]) -> list[list[Fraction]]:
        n = k[0] ** 2 + k[1] ** 2
        return [[w * (i == j) - Fraction(k[i] * k[j], n) * a[j] for j in range(2)] for i in range(2)]

    for zero in (Fraction(0), Fraction(1, 100)):  # at the ends of the domains, and inside
        one = 1 - zero
        a, b = transition(one, (5, 12), (one, zero)), transition(one, (12, 5), (zero, one))
        product = [[sum((a[i][k] * b[k][j] for k in range(2)), Fraction(0)) for j in range(2)] for i in range(2)]
        found = real_roots(characteristic(product))
        assert found is not None
        assert found.hi > Fraction(6, 5)
        assert all(r is not None and r.hi <= 1 for r in map(real_roots, map(characteristic, (a, b))))


def test_a_negative_zero_is_no_other_number() -> None:
    """A gate of -0.0 turns 0.0 round; a layer that divides by that state would see it, so N5 says nothing of it."""
    states = "input x: real; state h: real = 0; h <- relu(x) * h; state g: real = 0"
    claim = "expect { not recognizes parity under float32 }"
    verdicts = []
    for read in ("h", "1 / h"):
        spec = rnnc.parse(f"cell C() {{ {states}; g <- relu(x) * g + {read}; output y: real = g'; {claim} }}")
        verdicts.append(rnnc.verify(spec, "C", search=False).results[0].verdict)
    assert verdicts == ["proved", "unknown"]

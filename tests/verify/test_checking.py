"""What the certificate checker derives by itself holds in numbers: ranges, spectra, values of operations, periods."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from op_examples import EXAMPLES, Example
from random_cells import build, sample
from random_cells import values as values_at
from test_exact_domain import arguments, floats

import rnnc
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.exact import NotExact, root
from rnnc.exact.asymptotic import NUMBERS
from rnnc.frontend import ast
from rnnc.frontend.patterns import read_pattern
from rnnc.ir.graph import CellIR
from rnnc.ir.ops import OPS
from rnnc.ir.types import Interval
from rnnc.ir.unfold import inline_calls
from rnnc.stdlib import FOLDER
from rnnc.verify.languages.regex import regex_dfa
from rnnc.verify.probing import Prober, dims_for
from rnnc.verify.spectra import Samples, sample_spectrum
from rnnc.verify.target import target_of
from rnnc.verify.trusted.automata import minimal, of_expression, same_language
from rnnc.verify.trusted.cells import Cell, Reject
from rnnc.verify.trusted.languages import task_of
from rnnc.verify.trusted.maps import composed, derived_length, lasting, period
from rnnc.verify.trusted.matrices import characteristic, real_roots
from rnnc.verify.trusted.operations import Interpreter, inside
from rnnc.verify.trusted.ranges import Range, Ranges
from rnnc.verify.trusted.transitions import Transition, Transitions

FILES = [*sorted(FOLDER.glob("*.rnn")), *sorted((Path(__file__).parent.parent / "stdlib" / "odd").glob("*.rnn"))]
MOST_NODES = 130  # of a cell that is run here


def within(values: Any, found: Range, slack: float) -> bool:
    """Closed ends and rounding: floating point may saturate."""
    array = np.asarray(values)
    array = array[np.isfinite(array)]
    return not array.size or bool(array.min() >= float(found.lo) - slack and array.max() <= float(found.hi) + slack)


# ---------------------------------------------------------------- ranges


def check_ranges(cell: CellIR, value: dict[int, Any]) -> int:
    ranges, seen = Ranges(cell), 0
    for n in cell.nodes:
        array = np.asarray(value.get(n.id, ()))
        if n.type.dtype not in ("real", "complex") or not array.size or not np.abs(array).max() < 1e12:
            continue
        near = [np.abs(np.asarray(value[a])).max(initial=1) for a in n.args if a in value]
        slack = 1e-9 * float(max(1, np.abs(array).max(), *near))
        assert within(array.real, ranges.of(n.id), slack), (n.op, n.name, ranges.of(n.id))
        assert within(np.abs(array), ranges.of(n.id, size=True), slack), (n.op, n.name)
        seen += ranges.of(n.id) != ranges.of(0) and np.isfinite(float(ranges.of(n.id).hi))
    return seen


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_ranges_of_whole_cells(path: Path) -> None:
    spec = rnnc.load(path)
    for name in spec.cells[:2]:
        cell = inline_calls(spec.lower(name))
        dims = dims_for(cell, {})
        if dims is None or any(n.op == "attention" for n in cell.nodes) or len(cell.nodes) > MOST_NODES:
            continue
        prober = Prober(cell, dims)
        for p in prober.points(4, batch=3):
            nodes = [n.id for n in cell.nodes if n.type.dtype in ("real", "complex") and n.type.rank < 3]
            value = {i: prober.values(i, p) for i in nodes[:: 1 + len(nodes) // 30]}
            check_ranges(cell, value)


def test_ranges_of_random_graphs() -> None:
    seen = 0
    for seed in range(120):
        cell = build(Random(seed), 5 + seed % 25)
        for scale in (1.0, 8.0):
            given = {i: scale * v if v.dtype.kind in "fc" else v for i, v in _sampled(cell, seed).items()}
            with np.errstate(all="ignore"):
                seen += check_ranges(cell, values_at(cell, given))
    assert seen > 300


def _sampled(cell: CellIR, seed: int) -> dict[int, Any]:
    return {i: np.asarray(v) for i, v in sample(cell, np.random.default_rng(seed)).items()}


# ---------------------------------------------------------------- spectra


def outside(samples: Samples, s: Transition) -> bool:
    """Whether an eigenvalue or a norm lies beyond what was found."""
    values, size = samples.eigenvalues, 1e-6 * max(1.0, float(np.abs(samples.norms).max(initial=1)))
    beyond = s.eigenvalues is not None and values.size and not within(values.real, s.eigenvalues, size)
    if beyond or (s.eigenvalues is not None and np.abs(values.imag).max(initial=0) > 100 * size):
        return True
    return not within(samples.norms, Range(0, s.norm.hi, False, False), size)


def check_spectra(cell: CellIR) -> int:
    """Of every group of states; how many were known."""
    known, c = 0, Cell(cell, {})
    for group in analyse_recurrence(cell).groups:
        try:
            s = c.transition(tuple(sorted(group.states)))
        except Reject:
            continue
        assert group.kind != "nonlinear", group.states
        samples = sample_spectrum(cell, group, weights=4, inputs=6)
        assert samples is None or not outside(samples, s), (cell.name, group.states, s)
        known += samples is not None and s.eigenvalues is not None
    return known


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_spectra_of_whole_cells(path: Path) -> None:
    spec = rnnc.load(path)
    for name in spec.cells[:2]:
        cell = inline_calls(spec.lower(name))
        if len(cell.nodes) <= MOST_NODES:
            check_spectra(cell)


PARTS = """
  gate alpha: real in (0, 1) = sigmoid(linear(x))
  gate beta: real in (0, 2) = 2 * sigmoid(linear(x))
  gate w: real[3] in (0, 1) = sigmoid(linear(x))
  gate t: real[3] in (-1, 1) = tanh(linear(x))
  let k: unit[3] = l2norm(linear(x))
  let l: unit[3] = l2norm(silu(linear(x)))
  let u: real[3] = linear(x)
  param M: real[3, 3]
"""
FACTORS = [
    "I", "diag(w)", "diag(t)", "diag(1 - w)", "householder(k, beta)", "householder(l, alpha)", "outer(k, k)",
    "outer(k, w * k)", "outer(u, u)", "(diag(w) - alpha * outer(k, k))", "(diag(w) - beta * outer(k, w * k))", "M",
    "(M + M.T)", "outer(t * k, t * k)", "outer(k, l)", "(2 * I - diag(t))",
]  # fmt: skip


def moved_by(update: str) -> CellIR:
    return rnnc.parse(
        f"cell C() {{ input x: real[4] {PARTS} state p: real[3] = 0; p <- {update}; output y: real[3] = p' }}"
    ).lower("C")


SCALES = ["alpha", "-alpha", "0.5", "(1 - beta)", "(beta - 1)", "1", "-1"]


@pytest.mark.parametrize("part", range(4))
def test_spectra_of_random_transitions(part: int) -> None:
    known = 0
    for seed in range(20 * part, 20 * part + 20):
        rng = Random(seed)
        parts = [f"{rng.choice(SCALES)} * {rng.choice(FACTORS)}" for _ in range(1 + seed % 3)]
        matrix = " + ".join(parts) if seed % 2 else " @ ".join(f"({p})" for p in parts)
        known += check_spectra(moved_by(f"({matrix}) @ p + x[0:3]"))
    assert known >= 5


def test_a_product_of_symmetric_matrices_is_not_symmetric() -> None:
    cell = moved_by("(householder(k, 1) @ householder(l, 1)) @ p")
    s = Transitions(cell, Ranges(cell)).by_terms((cell.states[0].node,), (cell.states[0].update,))
    assert s.eigenvalues is None
    assert s.low_rank


@pytest.mark.parametrize(
    "update",
    ["tanh(p)", "p * p", "p / (1 + p)", "l2norm(p)", "max(p, 0)", "p * sum(p)", "u / p", "relu(M @ p)", "exp(p) * w"],
)
def test_nonlinear_updates_have_no_form(update: str) -> None:
    c = Cell(moved_by(update), {})
    assert "plus_times" not in c.semirings(("p",))
    with pytest.raises(Reject):
        c.transition(("p",))


CLOCKED = """cell C(n: dim = 2) {{
  input x: real[n]
  state t: real = 0
  t <- t + {step}
  param w: real[n]
  state h: real[n] = 0
  h <- {gate} * h + {write}
  output y: real[n] = h'
}}"""


@pytest.mark.parametrize(
    ("step", "gate", "write", "rotary"),
    [
        ("1", "0.5", "cos(t * w) * x", True),
        ("1", "0.5", "(cos(t' * w + 1) * sin(2 * t * w) - x) / 3", True),
        ("1", "0.5", "x", True),
        ("1", "0.5", "tanh(cos(t * w)) * x", False),
        ("1", "0.5", "cos(t * x)", False),
        ("1", "0.5", "cos(t * t * w)", False),
        ("1", "0.5", "t * x", False),
        ("1", "0.5", "x / (2 + cos(t * w))", False),
        ("1", "cos(t * w)", "x", False),
        ("sum(x)", "0.5", "cos(t * w) * x", False),
        ("t", "0.5", "cos(t * w) * x", False),
    ],
)
def test_clocks_that_only_turn_what_is_written(step: str, gate: str, write: str, rotary: bool) -> None:
    cell = rnnc.parse(CLOCKED.format(step=step, gate=gate, write=write)).lower("C")
    assert Cell(cell, {}).rotary("t") == rotary


@pytest.mark.parametrize(
    ("number", "turns"),
    [
        ("polar(sigmoid(linear(x)), p)", True),
        ("sigmoid(linear(x)) * complex(p, p)", True),
        ("polar(tanh(linear(x)), p)", False),
        ("polar(sigmoid(p), linear(x))", False),
        ("tanh(linear(x)) * complex(p, p)", False),
        ("polar(sigmoid(linear(x)), p) + complex(p, p)", False),
    ],
)
def test_angles_that_do_not_vary(number: str, turns: bool) -> None:
    text = f"""cell C(n: dim = 2) {{
      input x: real[n]
      param p: real[n]
      state h: complex[n] = 0
      h <- ({number}) * h + x
      output y: real[n] = re(h')
    }}"""
    c = Cell(rnnc.parse(text).lower("C"), {})
    s = c.transition(("h",))
    assert (s.single and all(map(c.turns, s.nodes))) == turns


# ---------------------------------------------------------------- operations

PLAIN = [e for e in EXAMPLES if OPS[e.op].category not in ("time", "model")]
WITHOUT = {"expm", "expm1", "cayley", "solve", "layout_transpose"}  # closures with these are not certified


@pytest.mark.parametrize("e", PLAIN, ids=str)
def test_exact_operations_agree_with_floating_point(e: Example) -> None:
    if e.op in WITHOUT:
        return
    given = arguments(e)
    nodes = {name: n.id for n in e.cell.nodes for name in [n.name] if name in given}
    found = {}
    for kind in ("exact", "float64"):
        m = Interpreter(e.cell, dict(e.dims), kind)
        m.given = {i: given[name] if kind == "exact" else _as_floats(given[name], e, i) for name, i in nodes.items()}
        try:
            found[kind] = m.evaluate([e.node])[e.node]
        except (NotExact, TypeError, AttributeError):
            assert kind == "exact"  # no exact value here
            return
    assert all(isinstance(v, NUMBERS) for v in np.asarray(found["exact"]).reshape(-1).tolist())
    np.testing.assert_allclose(floats(np.asarray(found["exact"])), found["float64"], rtol=1e-9, atol=1e-9)


def _as_floats(value: Any, e: Example, node: int) -> Any:
    array = floats(np.asarray(value))
    return array.real if array.dtype.kind == "c" and e.cell.nodes[node].type.dtype == "real" else array


def test_most_operations_are_exact_somewhere() -> None:
    exact = set()
    for e in PLAIN:
        given = arguments(e)
        m = Interpreter(e.cell, dict(e.dims), "exact")
        m.given = {n.id: given[n.name] for n in e.cell.nodes if n.name in given}
        try:
            m.evaluate([e.node])
        except (NotExact, TypeError, AttributeError):
            continue
        exact.add(e.op)
    assert {e.op for e in PLAIN} - exact == WITHOUT


def test_domains_with_rounded_ends() -> None:
    """An end such as sqrt(2) is a fraction that lies a little outside; what is as near to it is not let in."""
    end = Fraction(math.isqrt(2 * 10**80) + 1, 10**40)
    beside = Interval(lo=Fraction(0), hi=end)

    def lets_in(domain: Interval, x: Any) -> bool:
        return inside(domain, np.array([x], dtype=object))

    assert not lets_in(beside, end)
    assert not lets_in(beside, root(2))
    assert lets_in(beside, Fraction(7, 5))
    assert lets_in(Interval(lo=Fraction(0), hi=Fraction(1)), Fraction(1))
    assert not lets_in(Interval(lo=Fraction(0), hi=Fraction(1), hi_open=True), Fraction(1))
    assert lets_in(Interval(lo=Fraction(0), hi=Fraction(1)), root(2) / 2)


# ---------------------------------------------------------------- words


def test_periods_and_lasting_actions_by_brute_force() -> None:
    rng = Random(0)
    for _ in range(25):
        states = rng.randrange(2, 5)
        delta = tuple(tuple(rng.randrange(states) for _ in "ab") for _ in range(states))
        letters = dict(zip("ab", zip(*delta)))

        def action(word: Any, letters: Any = letters, states: int = states) -> tuple[int, ...]:
            return composed((letters[a] for a in word), states)

        for word in ("a", "b", "ab", "aab"):
            f = action(word)
            steps = [action(word * n) for n in range(40, 60)]
            p = period(f)
            assert all(steps[i] == steps[i + p] for i in range(6))
            assert not any(steps[0] == steps[d] for d in range(1, p))
            by_length = [{action(w) for w in product("ab", repeat=n)} for n in range(1, 9)]
            some = any(all(f in by_length[m * s - 1] for m in range(1, 8 // s + 1)) for s in range(1, 5))
            assert not lasting(list(letters.values()), f) or some or len(by_length[-1]) > 8
            assert lasting(list(letters.values()), f) or not all(f in actions for actions in by_length)


# ---------------------------------------------------------------- languages

DECLARED = """
automaton Dial over {next, reset} {
  start zero
  zero: next -> one, reset -> zero
  one: next -> two, reset -> zero
  two: next -> zero, reset -> zero
  accept zero
}
language Even over {a, b} = regex "([ab][ab])*"
language Words over {push, pop} = regex "push (push | pop+)?* pop"
language G over {x, y} = group(S(4))
language Other over {y, x} = G
language Joined over {u, v} = parity and not mod(3)
language Either over {p, q} = Joined or Even
language Open over {o, c} = dyck(1)
"""
NAMED = (
    "recognizes parity; recognizes mod(6); recognizes unary_mod(4); recognizes flip_flop; recognizes alternating",
    "recognizes dyck(2, 3); recognizes dyck(5, 2); recognizes arithmetic(5); recognizes left_arithmetic(4)",
    "recognizes Dial; recognizes Even; recognizes Words; recognizes G; recognizes Other; recognizes Joined",
    "recognizes Either; recognizes Open; recognizes dyck(3); tracks group S(4); tracks group D(5); tracks group A(4)",
    "tracks group S(5, letters = swaps); tracks group S(3) * Z(2); tracks group A(4, letters = generators)",
    "tracks group generated([[0, 1, 2]], [[0, 1], [2, 3]]); tracks group generated([[0, 1]], [[1, 3]], letters = all)",
)


def test_languages_are_those_that_the_verifier_finds() -> None:
    """Worked out twice, by code that shares nothing: the same letters, the same words, as many states."""
    body = "input x: real; state h: real = 0; h <- x; output y: real = h'"
    spec = rnnc.parse(f"{DECLARED}cell C() {{ {body}; expect {{ {'; '.join(NAMED)} }} }}")
    assert spec.check().items == [], [d.message for d in spec.check().items]
    assert spec._module is not None
    claims = [c for c in spec.lower("C").expect if isinstance(c, ast.Claim)]
    for claim in claims:
        task, target = task_of(claim, spec._module.scope), target_of(spec, claim)
        own, dfa = task.automaton(), target.dfa
        if dfa is None:
            assert own is None, target.what
            assert not task.actions
            continue
        assert own.letters == dfa.alphabet
        assert same_language(own, dfa.delta, dfa.start, dfa.accept), target.what
        assert len(own.delta) == len(dfa.states)
        wrong = frozenset(range(len(dfa.states))) - dfa.accept
        assert not same_language(own, dfa.delta, dfa.start, wrong)
        assert {a: period(f) for a, f in task.actions.items()} == dict(target.letter_periods)
        if target.group is not None:
            assert derived_length(task.actions.values()) == target.group.derived_length


def test_expressions_by_derivatives() -> None:
    rng = Random(3)

    def pattern(depth: int) -> str:
        if depth == 0:
            return rng.choice(["a", "b", "[ab]", "()"])
        parts = [pattern(depth - 1) for _ in range(rng.randint(1, 3))]
        return rng.choice(["(" + "|".join(parts) + ")", "".join(parts), f"({parts[0]}){rng.choice('*+?')}"])

    for _ in range(60):
        text = pattern(rng.randint(1, 3))
        own = minimal(of_expression(read_pattern(text, "ab"), "ab"))
        dfa = regex_dfa(text, "ab")
        assert same_language(own, dfa.delta, dfa.start, dfa.accept), text
        assert len(own.delta) == len(dfa.states), text


def test_eigenvalues_of_rational_matrices() -> None:
    rng, real = Random(1), 0
    for _ in range(300):
        n = rng.randint(1, 4)
        a = [[Fraction(rng.randint(-3, 3), rng.choice([1, 2, 3])) for _ in range(n)] for _ in range(n)]
        a = [[a[min(i, j)][max(i, j)] for j in range(n)] for i in range(n)] if rng.random() < 0.5 else a
        found, values = real_roots(characteristic(a)), np.linalg.eigvals(np.array(a, dtype=float))
        if found is None:
            assert np.abs(values.imag).max() > 1e-9 or np.diff(np.sort(values.real)).min() < 1e-3
            continue
        real += 1
        assert np.abs(values.imag).max() < 1e-4
        assert abs(float(found.lo) - values.real.min()) < 1e-4
        assert abs(float(found.hi) - values.real.max()) < 1e-4
    assert real > 100

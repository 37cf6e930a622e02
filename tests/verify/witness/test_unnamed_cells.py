"""Cells that are in no library: what is known to be true is found, with weights that close; what is false is not."""

from __future__ import annotations

import time
from fractions import Fraction
from functools import cache

import numpy as np
import pytest

import rnnc
from rnnc.exact import Number, pi, root
from rnnc.frontend import ast
from rnnc.verify.closure import Closure, close
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.target import target_of
from rnnc.verify.witness import Witness, find_witness
from rnnc.verify.witness.domains import holds
from rnnc.verify.witness.silent import silenced, unknown_states

SECONDS = 10.0  # for one claim

LANGUAGES = """
language SeenB over {a, b} = regex "[ab]*b[ab]*"
automaton Mod3Reset over {i, r, h} {
  start q0
  q0: i -> q1, r -> q0, h -> q0
  q1: i -> q2, r -> q0, h -> q1
  q2: i -> q0, r -> q0, h -> q2
  accept q0
}
"""

# name -> (body, true claims, false claims)
CELLS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    # the initial value is not zero, and nothing is written
    "Sign(d: dim, n: dim = d)": (
        """
  input x: real[d]
  state h: real[n] = 1
  h <- diag(tanh(linear(x))) @ h
  output y: real[n] = h'
""",
        ("recognizes parity",),
        ("recognizes mod(3)", "recognizes mod(4)", "recognizes flip_flop"),
    ),
    "LearnedStart(d: dim, n: dim = d, heads: dim = 2)": (
        """
  input x: real[d]
  per heads {
    param s: real[n]
    state h: real[n] = s
    h <- tanh(linear(x)) * h
  }
  output y: real[heads*n] = flatten(h')
""",
        ("recognizes parity",),
        ("recognizes mod(3)",),
    ),
    # complex diagonals
    "Turn(d: dim, n: dim = d)": (
        """
  input x: real[d]
  state h: complex[n] = 1
  h <- polar(1, linear(x)) * h
  output y: real[n] = re(h')
""",
        ("recognizes parity", "recognizes mod(5)", "recognizes mod(6)", "tracks group Z(7)"),
        ("tracks group S(3)", "recognizes flip_flop"),
    ),
    "Damped(d: dim, n: dim = d)": (
        """
  input x: real[d]
  gate r: real[n] in (0, 1) = sigmoid(linear(x))
  state h: complex[n] = 0
  h <- polar(r, linear(x)) * h + complex(linear(x), linear(x))
  output y: real[n] = re(h')
""",
        ("recognizes mod(3)", "recognizes flip_flop", "recognizes Mod3Reset"),
        ("tracks group S(3)",),
    ),
    "Exponential(d: dim, n: dim = d)": (
        """
  input x: real[d]
  state h: complex[n] = 0
  h <- exp(complex(-softplus(linear(x)), linear(x))) * h + complex(linear(x), linear(x))
  output y: real[n] = re(h')
""",
        ("recognizes mod(3)", "recognizes parity"),
        (),
    ),
    # two states, coupled position by position
    "Coupled(d: dim, n: dim = d)": (
        """
  input x: real[d]
  let t: real[n] = linear(x)
  state p: real[n] = 1
  state q: real[n] = 0
  p <- cos(t) * p - sin(t) * q
  q <- sin(t) * p + cos(t) * q
  output y: real[n] = p' + q'
""",
        ("recognizes parity", "recognizes mod(3)", "recognizes mod(4)"),
        ("tracks group S(3)",),
    ),
    "Plane(d: dim, n: dim = d)": (
        """
  input x: real[d]
  state p: real[n] = 1
  state q: real[n] = 0
  p <- linear(x) * p + linear(x) * q
  q <- linear(x) * p + linear(x) * q
  output y: real[n] = p' + q'
""",
        ("recognizes mod(3)", "tracks group S(3)", "recognizes flip_flop"),
        (),
    ),
    # a product of reflections that acts from the right
    "RightProduct(d: dim, k: dim = 3, m: dim = 2)": (
        """
  input x: real[d]
  state S: real[m, k] = 0
  substep j in 1..2 {
    let u: unit[k] = l2norm(linear(x))
    gate b: real in (0, 2) = 2 * sigmoid(linear(x))
    S <- S @ householder(u, b) + outer(linear[m](x), u)
  }
  output y: real[m] = S' @ linear[k](x)
""",
        ("recognizes mod(5)", "tracks group S(3, letters = generators)"),
        (),
    ),
    # reflections of the identity, nothing is written
    "Group(d: dim, n: dim = 5)": (
        """
  input x: real[d]
  state S: real[n, n] = I
  S <- householder(l2norm(linear[n](x)), 2 * sigmoid(linear(x))) @ householder(l2norm(linear[n](x)), 2) @ S
  output y: real[n] = S' @ linear[n](x)
""",
        ("recognizes mod(3)",),
        (),
    ),
    # permutation matrices from softmax, with signs
    "Columns(d: dim, n: dim = 4)": (
        """
  input x: real[d]
  let P: real[n, n] = softmax(reshape(linear[n*n](x), n, n)).T
  gate g: real[n] in (-1, 1) = tanh(linear(x))
  state h: real[n] = 0
  h <- P @ (g * h) + linear(x)
  output y: real[n] = h'
""",
        ("recognizes mod(4)", "recognizes alternating", "tracks group S(3, letters = generators)"),
        (),
    ),
    "Circulant(d: dim, n: dim = 5)": (
        """
  input x: real[d]
  state h: real[n] = 0
  h <- circulant(softmax(linear[n](x))) @ h + linear(x)
  output y: real[n] = h'
""",
        ("recognizes mod(5)",),
        (),
    ),
    "Blocks(d: dim, p: dim = 2)": (
        """
  input x: real[d]
  state h: real[2*p] = 0
  h <- blockdiag(rotation(linear[p](x))) @ h + linear(x)
  output y: real[2*p] = h'
""",
        ("recognizes mod(3)",),
        (),
    ),
    # matrices made by other means
    "Orthogonal(d: dim, n: dim = 3)": (
        """
  input x: real[d]
  state h: real[n] = 0
  let M: real[n, n] = reshape(linear[n*n](x), n, n)
  h <- cayley(M - M.T) @ h + linear(x)
  output y: real[n] = h'
""",
        ("recognizes mod(3)", "recognizes mod(5)"),
        (),
    ),
    "Turned(d: dim)": (
        """
  input x: real[d]
  state h: real[2] = 1
  let M: real[2, 2] = reshape(linear[4](x), 2, 2)
  h <- expm(M - M.T) @ h
  output y: real[2] = h'
""",
        ("recognizes mod(3)", "recognizes parity"),
        (),
    ),
    "LowRank(d: dim, n: dim = 4)": (
        """
  input x: real[d]
  state h: real[n] = 1
  h <- h + lowrank(reshape(linear[2*n](x), n, 2), reshape(linear[2*n](x), n, 2)) @ h
  output y: real[n] = h'
""",
        ("recognizes mod(3)",),
        (),
    ),
    "Companion(d: dim, n: dim = 3)": (
        """
  input x: real[d]
  state h: real[n] = 0
  h <- companion(linear[n](x)) @ h + linear(x)
  output y: real[n] = h'
""",
        (),
        ("tracks group S(4)",),
    ),
    # over (max, +)
    "Tropical(d: dim, n: dim = d)": (
        """
  input x: real[d]
  state m: real[n] = 0
  m <- max(linear(x) + m, linear(x))
  output y: real[n] = m'
""",
        ("recognizes flip_flop", "recognizes SeenB"),
        ("recognizes parity",),
    ),
    # thresholds
    "Rectified(d: dim, n: dim = 12)": (
        """
  input x: real[d]
  param h0: real[n]
  state h: real[n] = h0
  h <- relu(linear(x) + linear(h, bias = false))
  output y: real[n] = h'
""",
        ("recognizes alternating", "recognizes mod(4)", "recognizes Mod3Reset"),
        (),
    ),
    "Scaled(d: dim, n: dim = 8)": (
        """
  input x: real[d]
  state h: real[n] = 0
  h <- 0.9 * tanh(linear(h) + linear(x))
  output y: real[n] = h'
""",
        ("recognizes parity",),
        (),
    ),
    "Steps(d: dim, n: dim = 12)": (
        """
  input x: real[d]
  state h: real[n] = 0
  h <- step(linear(h) + linear(x))
  output y: real[n] = h'
""",
        ("recognizes parity", "recognizes mod(3)"),
        (),
    ),
    "Signs(d: dim, n: dim = 12)": (
        """
  input x: real[d]
  state h: real[n] = 0
  h <- sign(linear(h) + linear(x))
  output y: real[n] = h'
""",
        ("recognizes parity",),
        (),
    ),
    "Clipped(d: dim, n: dim = 12)": (
        """
  input x: real[d]
  state h: real[n] = 0
  h <- clamp(linear(h) + linear(x), 0, 1)
  output y: real[n] = h'
""",
        ("recognizes alternating",),
        (),
    ),
    "MinimalGated(d: dim, n: dim = 12)": (
        """
  input x: real[d]
  state h: real[n] = 0
  gate f: real[n] in (0, 1) = sigmoid(linear(concat(x, h)))
  h <- (1 - f) * h + f * tanh(linear(concat(x, f * h)))
  output y: real[n] = h'
""",
        ("recognizes parity", "recognizes mod(3)"),
        (),
    ),
    # inputs of other kinds
    "Scalars()": (
        """
  input a: real in [-1, 1]
  input b: real in [0, 1]
  state h: real = 0
  h <- a * h + b
  output y: real = h'
""",
        ("recognizes parity", "recognizes flip_flop"),
        ("recognizes mod(3)",),
    ),
    "Tokens(v: dim = 4, n: dim = 4)": (
        """
  input t: token[v]
  let e: real[2*n] = embedding(t, 2*n)
  state h: real[n] = 0
  h <- tanh(e[0:n]) * h + e[n:2*n]
  output y: real[n] = h'
""",
        ("recognizes parity", "recognizes flip_flop"),
        (),
    ),
    "Inside(d: dim, n: dim = d)": (
        """
  input x: real[d] in (0, 1)
  state h: real[n] = 0
  gate a: real[n] in (-1, 1) = 1 - 2 * sigmoid(linear(x))
  h <- a * h + (1 - a) / 2
  output y: real[n] = h'
""",
        ("recognizes parity",),
        (),
    ),
    "Window(d: dim, n: dim = d)": (
        """
  input x: real[d]
  state h: real[n] = 0
  let u: real[n] = linear(x) + linear(prev(x))
  h <- sigmoid(linear(u)) * h + linear(u)
  output y: real[n] = h'
""",
        ("recognizes flip_flop",),
        ("recognizes parity",),
    ),
    # an earlier state enters the gate
    "Cascade(d: dim, n: dim = d)": (
        """
  input x: real[d]
  state u: real[n] = 0
  u <- sigmoid(linear(x)) * u + linear(x)
  state h: real[n] = 0
  h <- tanh(linear(u) + linear(x)) * h + linear(x)
  output y: real[n] = h'
""",
        ("recognizes parity", "recognizes flip_flop"),
        (),
    ),
    # one number is added to both coordinates
    "OneDrive(d: dim)": (
        """
  input x: real[d]
  let A: real[2, 2] = reshape(linear[4](x), 2, 2)
  state h: real[2] = 0
  h <- A @ h + sum(x)
  output y = h'
""",
        ("recognizes parity",),
        (),
    ),
    "Triangular(d: dim)": (
        """
  input x: real[d]
  gate p: real[2] in (0, 1) = sigmoid(linear(x))
  state h: real[2] = 0
  h <- [[p[0], 1], [0, p[1]]] @ h + sum(x)
  output y = h'
""",
        (),
        ("recognizes parity",),
    ),
    "Squared(d: dim, n: dim = d)": (
        """
  input x: real[d]
  state h: real[n] = 0
  h <- tanh(linear(x))^2 * h + linear(x)
  output y: real[n] = h'
""",
        ("recognizes flip_flop",),
        ("recognizes parity",),
    ),
}
POSITIVE = [(head, claim) for head, (_, true, _) in CELLS.items() for claim in true]
NEGATIVE = [(head, claim) for head, (_, _, false) in CELLS.items() for claim in false]


@cache
def search(head: str, claim: str, seconds: float) -> Witness | None:
    body = CELLS[head][0]
    spec = rnnc.parse(f"{LANGUAGES}\ncell {head} {{{body}  expect {{ {claim} }}\n}}")
    cell = spec.lower(head.split("(")[0])
    (asked,) = cell.expect
    assert isinstance(asked, ast.Claim)
    dfa = target_of(spec, asked).dfa
    assert dfa is not None
    return find_witness(cell, dfa, budget=seconds)


@pytest.mark.parametrize(("head", "claim"), POSITIVE, ids=lambda s: s.split("(")[0] if "dim" in s else s)
def test_known_truths_are_found(head: str, claim: str) -> None:
    begun = time.monotonic()
    w = search(head, claim, SECONDS)
    assert time.monotonic() - begun < SECONDS
    assert w is not None
    again = close(w.cell, w.dims, w.params, w.letters, w.dfa)
    assert isinstance(again, Closure)
    assert again.g == w.closure.g


@pytest.mark.parametrize(("head", "claim"), NEGATIVE, ids=lambda s: s.split("(")[0] if "dim" in s else s)
def test_known_falsehoods_are_not(head: str, claim: str) -> None:
    assert search(head, claim, 1.0) is None


def test_the_search_is_deterministic() -> None:
    for head, claim in (POSITIVE[0], POSITIVE[5], POSITIVE[-1]):
        first = search(head, claim, SECONDS)
        search.cache_clear()
        second = search(head, claim, SECONDS)
        assert first is not None
        assert second is not None
        assert first.to_json() == second.to_json()


SILENT = """
cell Clocked(d: dim, n: dim = d) {
  input x: real[d]
  state t: real = 0
  t <- t + 1
  state h: real[n] = 0
  h <- tanh(linear(x)) * h + linear(x)
  output y: real[n] = h' + t
}
cell Peephole(d: dim, n: dim = 12) {
  input x: real[d]
  state c: real[n] = 0
  state h: real[n] = 0
  gate i: real[n] in (0, 1) = sigmoid(linear(x) + linear(c))
  gate f: real[n] in (0, 1) = sigmoid(linear(x) + linear(c))
  c <- f * c + i * tanh(linear(x) + linear(h))
  gate o: real[n] in (0, 1) = sigmoid(linear(x) + linear(c'))
  h <- o * tanh(c')
  output y: real[n] = h'
}
cell Read(d: dim, n: dim = d) {
  input x: real[d]
  state t: real = 0
  t <- t + 1
  state h: real[n] = 0
  h <- tanh(linear(x)) * h + linear(x) + t
  output y: real[n] = h'
}
"""
PARITY = DFA(alphabet=("0", "1"), states=("even", "odd"), delta=((0, 1), (1, 0)), start=0, accept=frozenset({1}))


@pytest.mark.parametrize(("name", "silent"), [("Clocked", ("t",)), ("Peephole", ("h",))])
def test_states_that_nothing_reads_are_left_out(name: str, silent: tuple[str, ...]) -> None:
    """`t` has infinitely many values, `tanh(c')` no exact one."""
    w = find_witness(rnnc.parse(SILENT).lower(name), PARITY, budget=SECONDS)
    assert w is not None
    assert w.silent == silent
    assert silent[0] in w.reason


def test_a_state_that_is_read_is_not_left_out() -> None:
    cell = rnnc.parse(SILENT).lower("Read")
    assert find_witness(cell, PARITY, budget=1.0) is None
    hidden = frozenset({"t"})
    dims = {"d": 2, "n": 2}
    params = {
        p.name: np.zeros([d.evaluate(dims) for d in cell.nodes[p.node].type.shape], dtype=int) for p in cell.params
    }
    letters = {a: {"x": [0, 0], **unknown_states(cell, dims, hidden)} for a in PARITY.alphabet}
    closed = close(silenced(cell, hidden), dims, params, letters, PARITY)
    assert not isinstance(closed, Closure)
    assert closed.kind == "not_exact"


@pytest.mark.parametrize(
    ("domain", "angle", "inside"),
    [
        ("in (0, pi/2)", pi / 2, False),
        ("in (0, 2)", pi / 2, True),
        ("in (0, 2^0.5)", root(2), False),
        ("in [0, 1]", Fraction(1), True),
        ("in [0, 1)", Fraction(1), False),
    ],
)
def test_letters_lie_inside_of_their_domains(domain: str, angle: Number, inside: bool) -> None:
    """Ends that are irrational are rounded outward in the domain: a letter there is refused."""
    text = f"cell C() {{ input x: real {domain}; state h: real = 0; h <- x * h; output y: real = h' }}"
    (declared,) = rnnc.parse(text).lower("C").inputs
    assert holds(declared.domain, angle) == inside

"""Specs and certificates that the tests of the checker share."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import rnnc
from rnnc.verify.certificate import certificate
from rnnc.verify.closure import Closure, close
from rnnc.verify.engine import CellResults, Verification, verify
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.results import ClaimResult, Evidence, Precision

SPECS = """
automaton Last over {0, 1} {
  start a
  a: 0 -> a, 1 -> b
  b: 0 -> a, 1 -> b
  accept b
}
automaton Pairs over {r, s} {
  start even
  even: r -> even, s -> even_s
  even_s: r -> odd, s -> even_s
  odd: r -> odd, s -> odd_s
  odd_s: r -> even, s -> odd_s
  accept odd, odd_s
}
language SeenB over {a, b} = regex "[ab]*b[ab]*"
cell Closed(n: dim = 1) {
  input a: real[n] in [-1, 1]
  input b: real[n]
  state h: real[n] = 0
  h <- a * h + b
  output y: real[n] = h'
  expect { recognizes parity; eigenvalues(a) in [-1, 1]; not recognizes mod(3); recognizes parity under float32 }
}
cell Open(n: dim = 1) {
  input x: real[2]
  gate a: real[n] in (-1, 1) = 2*sigmoid(linear(x)) - 1
  state h: real[n] = 0
  h <- a * h + linear(x)
  output y: real[n] = h'
  expect { recognizes parity; recognizes parity under eta_finite; recognizes parity under float32; linear in h }
}
cell Turn() {
  input theta: real[1]
  state h: real[2] = 1
  h <- rotation(theta) @ h
  output y: real[2] = h'
  expect { recognizes mod(5); linear in h }
}
cell Reflections() {
  input v: real[2]
  state h: real[2] = 1
  h <- h - 2 * outer(v, v) @ h
  output y: real = sum(h')
  expect { recognizes parity }
}
cell Short() {
  input x: real[2]
  state h: real[2] = 0
  h <- silu(conv(x, width = 4))
  output y: real[2] = h'
  expect { recognizes Last }
}
cell Memory() {
  input a: real in [-1, 1]
  input b: real
  state h: real = 0
  h <- a * h + b
  output old: real = h
  output new: real = h'
  expect { recognizes Pairs with layers = 2 }
}
cell Squashed(n: dim = 2) {
  input x: real[n]
  state h: real[n] = 0
  h <- tanh(linear(h) + linear(x))
  output y: real[n] = h'
  expect { not linear in h; not parallel by scan; parallel by newton }
}
cell Delta(n: dim = 2) {
  input x: real[n]
  let k: unit[n] = l2norm(linear(x))
  gate b: real in (0, 1) = sigmoid(linear(x))
  gate d: real in (0, 1) = sigmoid(linear(x))
  state S: real[n, n] = 0
  transition A = d * (I - b * outer(k, k))
  S <- A @ S + outer(k, linear[n](x))
  output y: real[n] = S' @ k
  expect {
    linear in S; parallel by chunk; eigenvalues(A) in (0, 1); norm(A) <= 1
    not recognizes parity; not recognizes mod(3) with layers = 2; contractive in S; stable
  }
}
cell Fade(n: dim = 1) {
  input x: real[2]
  gate a: real[n] in (0, 1) = sigmoid(linear(x))
  state h: real[n] = 0
  h <- a * h + linear(x)
  output y: real[n] = h'
  expect {
    not recognizes parity; not recognizes parity under eta_finite; not recognizes flip_flop under eta_finite
    not recognizes parity under float32; not recognizes dyck(1) under float32
    not tracks group S(3, letters = generators); not tracks group S(5) with layers = 2
    not tracks group A(5) under log_precision
    not time_invariant; not eigenvalues(a) in [0, 1/2]; not norm(a) <= 1/2; contractive in h; stable
  }
}
cell Counter() {
  input x: real
  state h: real = 0
  h <- h + x
  output y: real = h'
  expect { not stable; not contractive in h }
}
cell Doubled() {
  input x: real
  state h: real = 0
  h <- 2 * h + x
  output y: real = h'
  expect { not stable; not contractive in h }
}
cell Coupled(n: dim = 2) {
  input x: real[n]
  let w: real[n] = sigmoid(linear(x))
  state h: real[n] = 0
  state g: real[n] = 0
  h <- w * h + (1 - w) * g + x
  g <- (1 - w) * h + w * g
  output y: real[n] = h'
  expect { not recognizes mod(3); linear in h }
}
cell Bounded(n: dim = 2) {
  input x: real[n]
  state h: real[n] = 0
  h <- tanh(h * linear(x) + linear(x))
  output y: real[n] = h'
  expect { not recognizes dyck(1); stable; not linear in h }
}
cell Beside(n: dim = 1) {
  input a: real[n] in [-1, 1]
  input b: real[n]
  state h: real[n] = 0
  state t: real = 0
  t <- t + 1
  h <- a * h + b + (0 * t)
  param w: real
  output y: real[n] = h' + w * t
  expect { recognizes parity }
}
cell Latch(n: dim = 1) {
  input x: real[2]
  state h: real[n] = 0
  h <- h + linear(x)
  output y: real[n] = h'
  expect { recognizes SeenB; recognizes SeenB under eta_finite }
}
cell Average(n: dim = 1) {
  input x: real[2]
  gate f: real[n] in (0.25, 1) = 0.25 + 0.75 * sigmoid(linear(x))
  state h: real[n] = -1
  h <- f * h + (1 - f) * tanh(linear(x))
  output y: real[n] = h'
  expect { recognizes SeenB }
}
cell Swing(n: dim = 1) {
  input x: real[2]
  gate r: real[n] in (0, 1) = sigmoid(linear(x))
  state h: complex[n] = 0
  h <- polar(r, linear(x)) * h + linear(x)
  output y: real[n] = re(h')
  expect { not tracks group S(3); not tracks group S(5) with layers = 2; not tracks group S(5) under log_precision }
}
cell Fixed(n: dim = 2) {
  input x: real[n]
  param t: real[n]
  param r: real[n]
  state h: complex[n] = 0
  transition A = polar(sigmoid(r), t)
  h <- A * h + x
  output y: real[n] = re(h')
  expect { time_invariant; stable; not recognizes parity; parallel by convolution; eigenvalues(A) in disk(1) }
}
"""
SPEC = rnnc.parse(SPECS, "specs.rnn")


@cache
def _made(cell: str) -> str:
    return json.dumps(certificate(verify(SPEC, cell), SPEC))


def made(cell: str) -> dict[str, Any]:
    """The certificate of one of the cells above."""
    found: dict[str, Any] = json.loads(_made(cell))
    return found


def of_closure(cell: str, closure: object, dfa: DFA, precision: Precision = "finite_precision") -> dict[str, Any]:
    """A certificate of the first claim of a cell, by this closure."""
    assert isinstance(closure, Closure), closure
    ir = SPEC.lower(cell)
    claim: Any = ir.expect[0]
    text = SPEC.text[claim.span.start : claim.span.end]
    result = ClaimResult(
        claim=text,
        line=claim.span.line,
        verdict="proved",
        precision=precision,
        reason="",
        evidence=Evidence(kind="witness", proof=(closure, dfa)),
    )
    results = CellResults(cell=cell, hyper={}, results=(result,))
    return certificate(Verification(file="specs.rnn", cells=(results,)), SPEC)


def closing(cell: str, params: Any, letters: Any, dfa: DFA) -> dict[str, Any]:
    """As `of_closure`, of the closure of these weights."""
    return of_closure(cell, close(SPEC.lower(cell), {}, params, letters, dfa), dfa)


def leaves(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything in a JSON document that is no list or dictionary with something in it."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    empty = True
    for key, value in items:
        empty = False
        yield from leaves(value, (*path, key))
    if empty:
        yield path


def nested(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything in a JSON document."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield (*path, key)
        yield from nested(value, (*path, key))


def at(data: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        data = data[key]
    return data


def changed(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at a path."""
    found = copy.deepcopy(data)
    at(found, path[:-1])[path[-1]] = value
    return found

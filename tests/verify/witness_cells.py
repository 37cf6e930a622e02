"""Small cells and automata that the closure and certificate tests share."""

from __future__ import annotations

from typing import Any

import rnnc
from rnnc.exact import omega
from rnnc.ir.graph import CellIR
from rnnc.verify.languages.dfa import DFA

TEXT = """
cell Open(n: dim = 1) {
  input x: real[2]
  gate a: real[n] in (-1, 1) = 2*sigmoid(linear(x)) - 1
  state h: real[n] = 0
  h <- a * h + linear(x)
  output y: real[n] = h'
}
cell Closed(n: dim = 1) {
  input a: real[n] in [-1, 1]
  input b: real[n]
  state h: real[n] = 0
  h <- a * h + b
  output y: real[n] = h'
}
cell Memory() {
  input a: real in [-1, 1]
  input b: real
  state h: real = 0
  h <- a * h + b
  output old: real = h
  output new: real = h'
}
cell Reflections() {
  input v: real[2]
  state h: real[2] = 1
  h <- h - 2 * outer(v, v) @ h
  output y: real = sum(h')
}
cell Turn() {
  input theta: real[1]
  state h: real[2] = 1
  h <- rotation(theta) @ h
  output y: real[2] = h'
}
cell Counter() {
  input x: real
  state n: real = 0
  n <- n + x
  output y: real = n'
}
cell Short() {
  input x: real[2]
  state h: real[2] = 0
  h <- silu(conv(x, width = 4))
  output y: real[2] = h'
}
cell Dense(n: dim = 3) {
  input x: real[2]
  param W: real[n, n, 2]
  state h: real[n] = 1
  h <- (reshape(reshape(W, [n*n, 2]) @ x, [n, n])) @ h
  output y: real[n] = h'
}
"""
SPEC = rnnc.parse(TEXT)

PARITY = DFA(alphabet=("0", "1"), states=("even", "odd"), delta=((0, 1), (1, 0)), start=0, accept=frozenset({1}))


def modulo(m: int) -> DFA:
    """Counting the letter 1 mod m."""
    return DFA(
        alphabet=("0", "1"),
        states=tuple(map(str, range(m))),
        delta=tuple((q, (q + 1) % m) for q in range(m)),
        start=0,
        accept=frozenset({0}),
    )


def cell(name: str, **hyper: Any) -> CellIR:
    return SPEC.lower(name, **hyper)


ONE_HOT = {"0": {"x": [1, 0]}, "1": {"x": [0, 1]}}
OPEN_PARITY = {
    "a_linear_weight": [[omega, -omega]],
    "a_linear_bias": [0],
    "h_linear_weight": [[0, 1]],
    "h_linear_bias": [0],
}
CLOSED_PARITY = {"0": {"a": [1], "b": [0]}, "1": {"a": [-1], "b": [1]}}

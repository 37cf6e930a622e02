"""Nonlinear cells whose Jacobians have each of the patterns that Newton's method works with."""

from __future__ import annotations

import benchmarks.cells

DIAGONAL_GRU = benchmarks.cells.DIAGONAL_GRU.replace("normal(0.3)", "normal(0.5)")

# two states that meet position by position, and an output that reads a gate
DIAGONAL_LSTM = """
cell DiagonalLSTM(d: dim, n: dim = d) {
  input x: real[d]
  state h: real[n] = 0
  state c: real[n] = 0
  param u: real[n] init normal(0.5)
  param p: real[n] init normal(0.5)
  gate i: real[n] in (0, 1) = sigmoid(linear(x) + u * h + p * c)
  gate f: real[n] in (0, 1) = sigmoid(linear(x) + u * h)
  gate o: real[n] in (0, 1) = sigmoid(linear(x) + u * h + p * c')
  c <- f * c + i * tanh(linear(x) + p * h)
  h <- o * tanh(c')
  output y: real[n] = h' + o
}
"""

# a matrix state, entry by entry, with gates of the rows
SQUASHED_MATRIX = """
cell Squashed(d: dim, k: dim = 2, v: dim = 3) {
  input x: real[d]
  state S: real[k, v] = 0
  let key: real[k] = linear(x)
  let value: real[v] = linear(x)
  S <- tanh(diag(sigmoid(key)) @ S + outer(key, value))
  output y: real[v] = S'.T @ key
}
"""

# a vector that is mixed inside: blocks of all its entries
SMALL_GRU = """
cell SmallGRU(d: dim, n: dim = 3) {
  input x: real[d]
  state h: real[n] = 0
  gate z: real[n] in (0, 1) = sigmoid(linear(x) + linear(h))
  h <- (1 - z) * tanh(linear(x) + linear(h)) + z * h
  output y: real[n] = h'
}
"""

# integrate and fire: the gradient of an output that reaches no state, beside one that does
FIRES = """
cell Fires(d: dim, n: dim = d) {
  input x: real[d]
  state u: real[n] = 0
  state s: real[n] = 0
  u <- 0.9 * u + linear(x) - s
  s <- step(u' - 1)
  output spikes: real[n] = s'
  output potential: real[n] = tanh(u')
}
"""

# heads that are mixed inside and not with each other
HEADS = """
cell Heads(d: dim, heads: dim = 2, dh: dim = 3) {
  input x: real[d]
  per heads {
    state h: real[dh] = 0
    h <- tanh(linear(x) + linear(h))
  }
  output y: real[heads * dh] = flatten(h')
}
"""

# states of different shapes, and an earlier linear group
UNEQUAL = """
cell Unequal(d: dim, n: dim = 2) {
  input x: real[d]
  state m: real[n] = 0
  state h: real[n] = 0
  state s: real = 0
  m <- 0.9 * m + linear(x)
  h <- tanh(linear(x) + m' * s + linear(h))
  s <- 0.5 * tanh(s + sum(h')) + 0.1
  output y: real[n] = h' * s
}
"""

CELLS = {
    "diagonal": DIAGONAL_GRU,
    "coupled": DIAGONAL_LSTM,
    "matrix": SQUASHED_MATRIX,
    "dense": SMALL_GRU,
    "heads": HEADS,
    "fires": FIRES,
    "unequal": UNEQUAL,
}

"""Cells that more than one benchmark measures, or that tests use too."""

from __future__ import annotations

DECAY = """
cell Decay(n: dim) {
  input a: real[n] in (0, 1)
  input b: real[n]
  state h: real[n] = 0
  h <- a * h + b
  output y: real[n] = h'
}
"""
ROTATION = """
cell Rotation(n: dim) {
  input r: real[n] in (0, 1)
  input angle: real[n]
  input x: real[n]
  state u: real[n] = 0
  state v: real[n] = 0
  u <- r * (cos(angle) * u - sin(angle) * v) + x
  v <- r * (sin(angle) * u + cos(angle) * v)
  output y: real[n] = u' + v'
}
"""
PEEPHOLE = """
cell Peephole(d: dim, n: dim = d) {
  input x: real[d]
  state h: real[n] = 0
  state c: real[n] = 0
  param wi: real[n] init normal(0.1)
  param wf: real[n] init normal(0.1)
  param wo: real[n] init normal(0.1)
  gate i: real[n] in (0, 1) = sigmoid(linear(x) + linear(h, bias = false) + wi * c)
  gate f: real[n] in (0, 1) = sigmoid(linear(x) + linear(h, bias = false) + wf * c)
  gate g: real[n] in (-1, 1) = tanh(linear(x) + linear(h, bias = false))
  c <- f * c + i * g
  gate o: real[n] in (0, 1) = sigmoid(linear(x) + linear(h, bias = false) + wo * c')
  h <- o * tanh(c')
  output y: real[n] = h'
}
"""

DIAGONAL_GRU = """
cell DiagonalGRU(d: dim, n: dim = d) {
  input x: real[d]
  state h: real[n] = 0
  param u_r: real[n] init normal(0.3)
  param u_z: real[n] init normal(0.3)
  param u_c: real[n] init normal(0.3)
  gate r: real[n] in (0, 1) = sigmoid(linear(x) + u_r * h)
  gate z: real[n] in (0, 1) = sigmoid(linear(x) + u_z * h)
  gate c: real[n] in (-1, 1) = tanh(linear(x) + r * u_c * h)
  h <- (1 - z) * c + z * h
  output y: real[n] = h'
}
"""

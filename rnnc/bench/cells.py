"""What a calibration measures: cells whose groups have every structure that strategies differ on.

They compute nothing beside their group: what PyTorch runs around it, for every strategy alike, would count as the time
of the group, and draw the strategies together.
"""

from __future__ import annotations

CELLS = """
cell Decay(n: dim) {
  input a: real[n] in (0, 1)
  input b: real[n]
  state h: real[n] = 0
  h <- a * h + b
  output y: real[n] = h'
}

cell Pair(n: dim) {
  input a: real[n] in (0, 1)
  input b: real[n]
  state u: real[n] = 0
  state v: real[n] = 0
  u <- a * (cos(b) * u - sin(b) * v) + b
  v <- a * (sin(b) * u + cos(b) * v)
  output y: real[n] = u' + v'
}

cell Dense(n: dim) {
  input b: real[n]
  param W: real[n, n] init normal(0.1)
  state h: real[n] = 0
  h <- W @ h + b
  output y: real[n] = h'
}

cell Delta(n: dim) {
  input k: unit[n]
  input b: real[n]
  input q: real[n]
  state S: real[n, n] = 0
  S <- S - outer(k, S.T @ k) + outer(k, b)
  output y: real[n] = S'.T @ q
}

cell GatedDelta(n: dim) {
  input k: unit[n]
  input b: real[n]
  input q: real[n]
  input g: real <= 0
  input beta: real in (0, 1)
  state S: real[n, n] = 0
  S <- exp(g) * (I - beta * outer(k, k)) @ S + beta * outer(k, b)
  output y: real[n] = S'.T @ q
}

cell Headed(n: dim, heads: dim = 4) {
  per heads {
    input k: unit[n]
    input b: real[n]
    input q: real[n]
    input g: real <= 0
    input beta: real in (0, 1)
    state S: real[n, n] = 0
    S <- exp(g) * (I - beta * outer(k, k)) @ S + beta * outer(k, b)
    output y: real[n] = S'.T @ q
  }
}

cell Written(n: dim) {
  input a: real[n] in (0, 1)
  input b: real[n]
  state S: real[n, n] = 0
  S <- diag(a) @ S + outer(a, b)
  output y: real[n] = S'.T @ a
}

cell Keyed(n: dim) {
  input k: real[n]
  input b: real[n]
  input q: real[n]
  input g: real[n] <= 0
  state S: real[n, n] = 0
  S <- diag(exp(g)) @ S + outer(k, b)
  output y: real[n] = S'.T @ q
}

cell Twice(n: dim) {
  input k: unit[n]
  input l: unit[n]
  input b: real[n]
  input q: real[n]
  input g: real[n] <= 0
  input beta: real in (0, 1)
  state S: real[n, n] = 0
  S <- (I - beta * outer(l, l)) @ (diag(exp(g)) @ (I - beta * outer(k, k)) @ S) + beta * outer(l, b)
  output y: real[n] = S'.T @ q
}

cell Entrywise(n: dim) {
  input a: real[n] in (0, 1)
  input b: real[n]
  param u: real[n] init normal(0.3)
  param v: real[n] init normal(0.3)
  gate z: real[n] in (0, 1) = sigmoid(a + u * h)
  state h: real[n] = 0
  h <- (1 - z) * tanh(b + v * h) + z * h
  output y: real[n] = h'
}

cell Normed(n: dim) {
  input a: real[n] in (0, 1)
  input b: real[n]
  state h: real[n] = 0
  h <- l2norm(a * h + b)
  output y: real[n] = h'
}

cell Mixed(n: dim) {
  input b: real[n]
  state h: real[n] = 0
  h <- tanh(linear(h) + b)
  output y: real[n] = h'
}
"""

# cell, then batch, time and n: from where a loop is best to where it is far behind
SHAPES: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("Decay", (1, 16, 32)),
    ("Decay", (2, 256, 64)),
    ("Decay", (4, 64, 256)),
    ("Decay", (2, 2048, 64)),
    ("Decay", (4, 1024, 256)),
    ("Decay", (4, 1024, 1024)),
    ("Pair", (1, 16, 32)),
    ("Pair", (2, 256, 32)),
    ("Pair", (2, 1024, 64)),
    ("Pair", (4, 512, 256)),
    ("Dense", (2, 64, 8)),
    ("Dense", (2, 512, 16)),
    ("Dense", (4, 256, 64)),
    ("Delta", (1, 32, 16)),
    ("Delta", (2, 256, 32)),
    ("Delta", (2, 512, 64)),
    ("Delta", (8, 256, 64)),
    ("Delta", (1, 512, 128)),
    ("Delta", (1, 256, 256)),
    ("GatedDelta", (2, 256, 32)),
    ("GatedDelta", (8, 1024, 64)),
    ("GatedDelta", (2, 512, 128)),
    ("Headed", (2, 256, 32)),
    ("Headed", (1, 512, 64)),
    ("Headed", (1, 1024, 128)),
    ("Headed", (4, 1024, 64)),
    ("Written", (1, 32, 16)),
    ("Written", (2, 256, 32)),
    ("Written", (2, 512, 64)),
    ("Written", (1, 256, 256)),
    ("Keyed", (2, 256, 32)),
    ("Keyed", (2, 512, 64)),
    ("Keyed", (1, 512, 128)),
    ("Twice", (2, 256, 32)),
    ("Twice", (1, 512, 64)),
    ("Twice", (1, 256, 128)),
    ("Entrywise", (1, 32, 16)),
    ("Entrywise", (1, 1024, 16)),
    ("Entrywise", (4, 512, 64)),
    ("Entrywise", (8, 256, 512)),
    ("Entrywise", (1, 8192, 4)),
    ("Entrywise", (1, 4096, 12)),
    ("Entrywise", (1, 4096, 24)),
    ("Entrywise", (4, 256, 8)),
    ("Entrywise", (4, 8192, 16)),
    ("Normed", (2, 256, 16)),
    ("Normed", (4, 128, 128)),
    ("Mixed", (1, 512, 4)),
    ("Mixed", (2, 256, 16)),
)

GPU_SHAPES: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("Decay", (1, 16, 256)),
    ("Decay", (8, 64, 1024)),
    ("Decay", (1, 8192, 64)),
    ("Decay", (1, 8192, 2048)),
    ("Decay", (8, 4096, 2048)),
    ("Pair", (8, 256, 256)),
    ("Pair", (8, 2048, 1024)),
    ("Dense", (8, 256, 16)),
    ("Dense", (1, 2048, 64)),
    ("Delta", (8, 32, 64)),
    ("Delta", (8, 2048, 64)),
    ("Headed", (1, 512, 64)),
    ("Headed", (8, 2048, 64)),
    ("Headed", (8, 4096, 128)),
    ("Written", (8, 64, 32)),
    ("Written", (8, 2048, 16)),
    ("Written", (8, 2048, 64)),
    ("Written", (1, 8192, 128)),
    ("Entrywise", (1, 4096, 16)),
    ("Entrywise", (8, 512, 1024)),
    ("Entrywise", (1, 8192, 512)),
    ("Normed", (8, 512, 64)),
    ("Mixed", (16, 512, 64)),
    ("Mixed", (64, 256, 32)),
)

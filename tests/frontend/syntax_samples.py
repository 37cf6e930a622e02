"""Valid specs that together use every construct of the language, and all specs of the source tree."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

EVERYTHING = """\
# every construct
use std.gates { decay, rated_decay }
use "./mine.rnn" { Foo }

fn leaky(x: real[n], eps: real = 1e-6) -> real[n] {
  let y = x * 2; let z = y
  -z
}

cell Everything(d: dim, heads: dim = 4, k: int = 2, reach: real = 2, neg: bool = false) {  # a cell
  input x: real[d]
  input t: token[d]

  per heads {
    let q: unit[d/heads] = l2norm(silu(conv(linear(x), width = 4)))
    gate beta:  real in (0, 2) = reach * sigmoid(linear(x))   # a trailing comment
    gate alpha: real in [0, inf) = decay(linear[d](x, bias = false))
    param w: complex[d] in re < 0 init normal(0.02)
    param v: complex[d] in disk(1)
    param u: real >= 0 init (ones(1))
    const R: real[2,2] = [[0, 1], [1, 0]]
    state S: real[d, d] = 0
    state z: complex = 0
    transition A = alpha * (I - beta * outer(q, q))
    z <- 0.5 * z
    substep j in 1..k { S <- product i in 1..j { householder(q, 2) } @ S }
    output o: real[d] = rmsnorm(S'.T @ q) + S[:, 0:2] + q[j]
  }
  if neg and not d > 3 or k == 2 {
    let a = 1
  }
  # between
  else if neg { let b = -2^-x } else {
    let c = 1 if 0 < x <= 1 else -x^2^3
    # last
  }

  let long = leaky(x,
    # alone inside
    0.5,  # behind
    eps = 1/3
  ) +
    1
    * 2
  output y: real[d] in (-1, 1] = linear(flatten(S))

  expect {
    linear in S
    affine in S
    time_invariant
    eigenvalues(A) in (-1, 1)
    eigenvalues(A) real
    eigenvalues(A) in disk(1)
    norm(A) <= 1
    stable
    contractive in z
    parallel by chunk
    recognizes parity
    not recognizes mod(3) under finite_precision
    tracks group S(3) with layers = 2
  }
}

automaton Parity over {0, 1} {
  start even
  even: 0 -> even, 1 -> odd
  odd:  0 -> odd,  1 -> even
  accept odd
}
language EvenPairs over {a, b} = regex "(a[ab]*a|b[ab]*b)?\\"\\\\"

model CharLM(vocab: dim, d: dim = 128, layers: int = 2) {
  input t: token[vocab]
  let h0 = embedding(t, d)
  repeat layers as h from h0 {
    h = h + GatedDeltaNet(d, reach = 2)(rmsnorm(h))
  }
  output logits: real[vocab] = linear(rmsnorm(h))
}

cell δelta(η: real = 1) {
  input x: real
  state ψ: real = 0
  ψ <- η * ψ + x
  output y = ψ'
}

task Learn { length = 40; kind = "parity" }
"""


def spec_files() -> list[Path]:
    """Every spec of the source tree."""
    return sorted(p for folder in ("stdlib", "examples", "tests") for p in (ROOT / folder).rglob("*.rnn"))


def valid_texts() -> dict[str, str]:
    """Name -> text: `EVERYTHING` and the specs of the standard library and the examples."""
    files = [p for p in spec_files() if p.relative_to(ROOT).parts[0] != "tests"]
    return {"everything": EVERYTHING} | {str(p.relative_to(ROOT)): p.read_text(encoding="utf-8") for p in files}

"""Cells of triton_interpreted.py whose states are read under other labels than they are written under, and cells none
of whose axes can be shared out among programs.
"""

from __future__ import annotations

HEAD = "input x: real[d]\n  "
OWN = {  # a body each, of a cell with dims d, n and m
    "dense": HEAD + "let A: real[n, n] = 0.3 * tanh(reshape(linear[n*n](x), n, n))\n  state h: real[n] = 0\n"
    "  h <- A @ h + linear(x)\n  output y: real[n] = h' * h",
    "dense in heads": HEAD + "per n {\n    let A: real[m, m] = 0.3 * tanh(reshape(linear[m*m](x), m, m))\n"
    "    state h: real[m] = 0\n    h <- A @ h + linear(x)\n  }\n  output y: real[n*m] = flatten(h')",
    "dense matrix": HEAD + "let A: real[n, n] = 0.3 * tanh(reshape(linear[n*n](x), n, n))\n"
    "  state S: real[n, m] = 0\n  S <- A @ S + outer(linear[n](x), linear[m](x))\n"
    "  output y: real[m] = S'.T @ linear[n](x)",
    "permuted": HEAD + "let P: real[n, n] = softmax(reshape(linear[n*n](x), n, n)).T\n"
    "  gate a: real[n] in (0, 1) = sigmoid(linear(x))\n  state h: real[n] = 0\n"
    "  h <- P @ (a * h) + linear(x)\n  output y: real[n] = h'",
    "complex blocks": HEAD + "param w: complex[n, n] init normal(0.2)\n  state z: complex[n] = complex(1, 0)\n"
    "  z <- sigmoid(linear[n](x)) * (w @ z) + complex(linear[n](x), 0.1)\n  output y: real[n] = abs(z')",
    "nonlinear dense": HEAD + "let A: real[n, n] = 0.5 * tanh(reshape(linear[n*n](x), n, n))\n  state h: real[n] = 0\n"
    "  h <- tanh(A @ h + A.T @ (h * h) + linear(x))\n  output y: real[n] = h'",
    "two sides": HEAD + "let A: real[n, n] = 0.3 * tanh(reshape(linear[n*n](x), n, n))\n"
    "  param R: real[m, m] init normal(0.4)\n  state S: real[n, m] = 0\n"
    "  S <- A @ S @ R + outer(linear[n](x), linear[m](x))\n  output y: real[m] = S'.T @ linear[n](x)",
    "symmetrised": HEAD + "state S: real[n, n] = 0\n"
    "  S <- 0.4 * S + 0.4 * S.T + outer(linear[n](x), linear[n](x))\n  output y: real[n] = S' @ linear[n](x)",
    "square": HEAD + "state S: real[n, n] = 0\n  S <- 0.1 * S @ S + 0.3 * outer(linear[n](x), linear[n](x))\n"
    "  output y: real[n] = S' @ linear[n](x)",
    "vector reflection": HEAD + "let k: unit[n] = l2norm(linear[n](x))\n  state h: real[n] = 0\n"
    "  h <- (I - 2 * outer(k, k)) @ h + linear(x)\n  output y: real[n] = h'",
    "blocks of a matrix": HEAD + "let M: real[n, 2, 2] = 0.3 * tanh(reshape(linear[n*4](x), n, 2, 2))\n"
    "  state S: real[n*2, m] = 0\n  S <- blockdiag(M) @ S + outer(linear[n*2](x), linear[m](x))\n"
    "  output y: real[m] = S'.T @ linear[n*2](x)",
    "scalars": HEAD + "state c: real = 0\n  state s: real = 0\n  c <- sigmoid(linear(x)) * c + linear(x)\n"
    "  s <- max(s - 0.1, linear(x))\n  output y: real[n] = (c' + s) * linear(x)",
    "mean field": HEAD + "state h: real[n] = 0\n  h <- tanh(0.9 * h - 0.3 * mean(h) + linear(x))\n"
    "  output y: real[n] = h'",
}
STDLIB = {  # of tests/stdlib/odd
    "Rotor": "rotor",
    "Cycler": "cycler",
    "Blocks": "blocks",
    "Tokens": "tokens",
    "Reflections": "reflections",
    "Normalised": "normalised",
    "NormalisedHeads": "nests",
    "InAndOut": "cascades",
    "SizedOperators": "sized_operators",
    "FixedBlocksPerHead": "found_by_fuzzing",
}
SLOW = (
    "blocks of a matrix",
    "symmetrised",
    "vector reflection",
    "SizedOperators",
    "FixedBlocksPerHead",
    "Blocks",
    "NormalisedHeads",
)
SCANNED = ("scalars",)  # cells whose kernels are scans
CHIPPED = ("FixedBlocksPerHead",)  # and those with a product with a fixed matrix
CASES = (*OWN, *STDLIB)


def cell(name: str) -> str:
    return f"cell Own(d: dim, n: dim, m: dim) {{\n  {OWN[name]}\n}}\n"

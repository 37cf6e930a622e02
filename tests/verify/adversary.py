"""Random cells without functions that round, and random weights and letters of them, in exact numbers.

Gates are inputs of the cell, so that every value inside a declared domain, its ends included, can be a letter.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from random import Random
from typing import Any

import numpy as np

import rnnc
from rnnc.exact import root
from rnnc.ir.graph import CellIR
from rnnc.ir.types import Interval, UnitNorm
from rnnc.verify.machines import Between, ExactLayer, FloatLayer, Stack, Values

INPUTS = """
  input x: real[2]
  input a: real[2] in [0, 1]
  input s: real[2] in [-1, 1]
  input z: real in [0, 2]
  input w: real in [0, 1]
  input u: unit[2]
  input v: unit[2]
  param W: real[2, 2]
  param c: real[2]
"""
GATES = ["a", "s", "w", "(1 - a)", "0.5", "-0.5", "1", "z", "(1 - z)", "a * s", "s * s", "max(s, 0)"]
DRIVES = ["x", "c * x", "a * x", "prev(x)", "x - prev(x)", "x + c", "0", "c"]
LINEAR = [
    "{g} * {h} + {d}",
    "(1 - a) * {h} + a * ({d})",
    "{h} - {g} * {h} + {d}",
    "{h} - w * outer(u, u) @ {h} + {d}",
    "householder(u, z) @ {h} + {d}",
    "householder(u, w) @ (householder(v, w) @ {h}) + {d}",
    "householder(u, 2) @ (householder(v, 2) @ {h}) + {d}",
    "permutation([1, 0]) @ {h} + {d}",
    "W @ {h} + {d}",
    "w * (W @ {h}) + {d}",
    "rotation(c[0:1]) @ {h} + {d}",
    "{d} + 0.5 * prev({h})",
    "{g} * (permutation([1, 0]) @ {h}) + {d}",
    "{h} + {d}",
    "-{h} + {d}",
]
OTHER = [
    "max({h} + {d}, c)",
    "min({h} + {d}, x)",
    "max(a * {h}, x)",
    "max(s * {h}, x)",
    "relu({d} - {h})",
    "abs({h} - a)",
    "max({d} - {h}, 0)",
    "step({h} + {d})",
    "min(max({h} + {d}, 0), 1)",
]
READS = ["{p}'", "{p}", "a * {p}'", "step({p}')", "step({p})", "prev({p}', 1)"]
FROM_BELOW = [
    "{r} * {h} + {d}",
    "(2 * {r} - 1) * {h} + {d}",
    "(1 - {r}) * {h} + {r} * x",
    "a * {h} + {r}",
    "-{h} + {r}",
]
COUPLED = [
    "h <- a * h - s * g + x; g <- s * h + a * g",
    "h <- w * h + (1 - w) * g + x; g <- (1 - w) * h + w * g",
    "h <- g + x; g <- a * h",
    "h <- a * h + x; g <- s * g + h'",
    "h <- (1 - a) * h + a * g + x; g <- a * h + (1 - a) * g",
    "h <- -g + x; g <- w * h + c",
    "h <- W[0, 0] * h + W[0, 1] * g + x; g <- W[1, 0] * h + W[1, 1] * g",
    "h <- max(h + x, g); g <- min(g + c, h)",
    "h <- (a if w > 0.5 else s) * h + x; g <- (g if w > 0.5 else x)",
]
MATRICES = [
    "S <- diag({g}) @ S + outer(u, x)",
    "S <- S @ diag({g}) + outer(x, x)",
    "S <- householder(u, z) @ S + outer(u, x)",
    "S <- S @ householder(u, z) + outer(x, c)",
    "S <- householder(u, w) @ S @ householder(v, w) + W",
    "S <- S.T + outer(x, c)",
    "S <- diag(a) @ S @ diag(s) + outer(x, x)",
    "S <- W @ S + outer(x, c)",
    "S <- (diag(a) - w * outer(u, a * u)) @ S + outer(x, c)",
    "S <- a[0] * S + outer(x, c)",
]
COMPLEX = [
    "k <- a * k + complex(x, c)",
    "k <- complex(0.6, 0.8) * k + x",
    "k <- complex(0, 1) * (a * k) + x",
    "k <- complex(a, s) * k + x",
    "k <- conj(k) + complex(x, c)",
    "k <- complex(0, s) * k + x",
    "k <- complex(c, x) * k + 1",
]
CLOCKS = ["t <- 1 - t", "t <- t + 1", "t <- t + 0.5", "t <- t - 1", "t <- 0.5 * t", "t <- -t"]


def random_cell(rng: Random) -> str:
    """A spec of one cell `C` with one or two states, and perhaps a clock; claims stand for CLAIMS."""
    if rng.random() < 0.35:
        return spec_of(*_of_another_kind(rng))
    states, updates = [f"state h: real[2] = {rng.choice(('0', '0', '1'))}"], []
    drive, gate = rng.choice(DRIVES), rng.choice(GATES)
    kind = rng.random()
    form = rng.choice(LINEAR if kind < 0.75 else OTHER)
    updates.append("h <- " + form.format(h="h", g=gate, d=drive))
    if rng.random() < 0.4:
        states.append("state g: real[2] = 0")
        read = rng.choice(READS).format(p="h")
        updates.append("g <- " + rng.choice(FROM_BELOW).format(h="g", r=read, d=rng.choice(DRIVES)))
    if rng.random() < 0.25:
        states.append(f"state t: real[2] = {rng.choice(('0', '1'))}")
        updates.append(rng.choice(CLOCKS))
        if rng.random() < 0.6:
            updates[0] += rng.choice(
                (" + t", " + cos(pi * t) * x", " + cos(pi / 2 * t) * sin(pi * t) * x", " * cos(pi * t)")
            )
    return spec_of([*states, *updates], "h'")


def spec_of(body: list[str], shown: str) -> str:
    lines = "\n  ".join(body)
    return f"cell C() {{{INPUTS}  {lines}\n  output y: real[2] = {shown}\n  expect {{ CLAIMS }}\n}}\n"


def _of_another_kind(rng: Random) -> tuple[list[str], str]:
    """Coupled states, matrices and complex numbers; and what the output shows."""
    match rng.randrange(3):
        case 0:
            start = rng.choice(("0", "1"))
            both = [f"state h: real[2] = {start}", "state g: real[2] = 0"]
            return [*both, *rng.choice(COUPLED).split("; ")], "h'"
        case 1:
            update = rng.choice(MATRICES).format(g=rng.choice(("a", "s", "(1 - a)", "a * s")))
            return ["state S: real[2, 2] = 0", update], "S'[0, :]"
        case _:
            return [f"state k: complex[2] = {rng.choice(('0', '1'))}", rng.choice(COMPLEX)], "re(k')"


# ---------------------------------------------------------------- weights and letters

REALS = [Fraction(n, 2) for n in (-2, -2, -1, 0, 0, 0, 1, 2, 2, 4)]
# For float32: 2^24 + 1 rounds to 2^24, and so on; beside each other they show what rounding does.
EDGES = [*map(Fraction, (0, 0, 1, -1, 2**24, 2**24 + 2, -(2**24), 1 - 2**24, 3 * 2**125, -(3 * 2**125)))]
EDGES += [Fraction(1, 2**24), Fraction(1, 2**140), Fraction(1, 3), Fraction(-1, 3)]
HALF = root(3) / 2
UNITS: list[tuple[Any, Any]] = [
    (Fraction(1), Fraction(0)),
    (Fraction(0), Fraction(1)),
    (Fraction(3, 5), Fraction(4, 5)),
    (Fraction(1, 2), HALF),
    (Fraction(-1, 2), HALF),
    (root(2) / 2, root(2) / 2),
]


def _values(rng: Random, shape: tuple[int, ...], domain: object, reals: list[Fraction] = REALS) -> Any:
    if isinstance(domain, UnitNorm):
        return np.array(rng.choice(UNITS), dtype=object)
    lo, hi = (domain.lo, domain.hi) if isinstance(domain, Interval) else (None, None)
    if lo is None or hi is None:
        choices = reals
    else:
        choices = [lo, hi, hi, (lo + hi) / 2]
    out = np.empty(shape, dtype=object)
    for at in np.ndindex(*shape):
        out[at] = rng.choice(choices)
    return out


def machines(cell: CellIR, letters: tuple[str, ...], rng: Random, count: int, layers: int = 1) -> Iterator[Stack]:
    """The cell (or a stack of copies, with any map between) with random weights and letters."""
    shapes = {n.id: tuple(d.evaluate({}) for d in n.type.shape) for n in cell.nodes}

    def inputs() -> dict[str, Any]:
        return {i.name: _values(rng, shapes[i.node], i.domain) for i in cell.inputs}

    for _ in range(count):
        stack = [
            ExactLayer(cell, {}, {p.name: _values(rng, shapes[p.node], None) for p in cell.params})
            for _ in range(layers)
        ]
        stack[-1].no_output = "not asked for"
        given = {a: inputs() for a in letters}
        if rng.random() < 0.5:  # letters that differ little
            first = given[letters[0]]
            for a in letters[1:]:
                given[a] = {n: v if rng.random() < 0.4 else first[n] for n, v in given[a].items()}
        yield Stack(stack, given, [_any_map([inputs() for _ in range(4)], rng) for _ in range(layers - 1)])


def rounded_machines(cell: CellIR, letters: tuple[str, ...], rng: Random, count: int) -> Iterator[Stack]:
    """The cell in float32, with weights and letters where rounding shows."""
    shapes = {n.id: tuple(d.evaluate({}) for d in n.type.shape) for n in cell.nodes}
    for _ in range(count):
        params = {p.name: _values(rng, shapes[p.node], None, EDGES) for p in cell.params}
        given = {a: {i.name: _values(rng, shapes[i.node], i.domain, EDGES) for i in cell.inputs} for a in letters}
        yield Stack([FloatLayer(cell, {}, params)], given)


def _any_map(values: list[dict[str, Any]], rng: Random) -> Between:
    """Each letter and output of the layers below leads to one of the values (a stack remembers to which)."""
    return lambda letter, outputs: rng.choice(values)


class Known:
    """A machine whose steps are worked out once, with the letters of another alphabet in their order."""

    no_output = ""

    def __init__(self, machine: Stack, steps: dict[tuple[Any, str], Any], renamed: dict[str, str]) -> None:
        self.machine, self.steps, self.renamed = machine, steps, renamed

    @property
    def letters(self) -> tuple[str, ...]:
        return tuple(self.renamed)

    def start(self) -> tuple[Values, ...]:
        return self.machine.start()

    def step(self, state: Any, letter: str) -> tuple[Any, None]:
        key = (state, self.renamed[letter])
        if key not in self.steps:
            self.steps[key] = self.machine.step(state, key[1])[0]
        return self.steps[key], None

    def core(self, values: Any) -> Any:
        return self.machine.core(values)

    def is_limit(self, values: Any) -> bool:
        return self.machine.is_limit(values)


def lowered(text: str, claims: tuple[str, ...]) -> tuple[rnnc.Spec, CellIR] | None:
    """None for what the front end refuses."""
    spec = rnnc.parse(text.replace("CLAIMS", "; ".join(claims)))
    return None if spec.check().has_errors else (spec, spec.lower("C"))

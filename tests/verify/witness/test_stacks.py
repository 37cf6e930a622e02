"""Witnesses in several layers: cascades that close, saved whole, and run as a stack by the torch backend."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import rnnc
from rnnc.verify.closure import Closure, close_machine
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.languages.language import group_of, language_of
from rnnc.verify.machines import ExactLayer, Stack
from rnnc.verify.witness import Witness, find_witness
from rnnc.verify.witness.cascades import Split, congruences, paired, splits

TEXT = """
cell Reflect(d: dim, n: dim) {
  input x: real[d]
  let k: unit[n] = l2norm(linear(x))
  gate b: real in (0, 2) = 2 * sigmoid(linear(x))
  state S: real[n, n] = 0
  S <- householder(k, b) @ S + b * outer(k, linear[n](x))
  output y: real[n] = S'[:, 0]
}
cell Signs(n: dim) {
  input a: real[n] in [-1, 1]
  input b: real[n]
  state h: real[n] = 0
  h <- a * h + b
  output y: real[n] = h'
}
cell Turn(d: dim, n: dim) {
  input x: real[d]
  gate r: real[n] in (0, 1) = sigmoid(linear(x))
  state h: complex[n] = 0
  h <- polar(r, linear[n](x)) * h + complex(linear[n](x), linear[n](x))
  output y: real[2*n] = concat(re(h'), im(h'))
}
cell Ask() {
  input x: real
  state s: real = 0
  s <- x
  output y: real = s'
  expect { CLAIM }
}
"""


@cache
def dfa_of(claim: str) -> DFA:
    spec = rnnc.parse(TEXT.replace("CLAIM", claim))
    assert spec.check().items == []
    (asked,) = spec.lower("Ask").expect
    task = group_of(asked.args[0]) if claim.startswith("tracks") else language_of(spec, asked.args[0])
    assert task.dfa is not None
    return task.dfa


@cache
def witness(cell: str, claim: str, layers: int = 2) -> Witness:
    found = find_witness(rnnc.parse(TEXT.replace("CLAIM", "")).lower(cell), dfa_of(claim), layers=layers, budget=20)
    assert found is not None
    return found


CLAIMS = (
    "recognizes mod(3)",
    "recognizes mod(5)",
    "tracks group S(3, letters = generators)",
    "tracks group D(4, letters = generators)",
)


# ---------------------------------------------------------------- cascades


@pytest.mark.parametrize("claim", [*CLAIMS, "tracks group S(3)", "tracks group S(4, letters = generators)"])
def test_splits_simulate(claim: str) -> None:
    """Run together, the two parts of every split tell the automaton's state after any word."""
    dfa = dfa_of(claim)
    found = list(splits(dfa))
    assert found
    for split in found:
        _check_simulates(split, dfa)
        lower = split.lower  # the class after a step and the letter tell the one before
        assert all(len(set(lower.action(a))) == len(lower.states) for a in lower.alphabet)


def with_reset(dfa: DFA) -> DFA:
    """One more letter, which leads back to the start."""
    return replace(dfa, alphabet=(*dfa.alphabet, "reset"), delta=tuple((*row, dfa.start) for row in dfa.delta))


@pytest.mark.parametrize("claim", ["recognizes mod(4)", "tracks group S(3, letters = generators)"])
def test_a_letter_that_resets_everything_needs_no_class_before(claim: str) -> None:
    dfa = with_reset(dfa_of(claim))
    found = list(splits(dfa))
    assert found
    for split in found:
        _check_simulates(split, dfa)


def _check_simulates(split: Split, dfa: DFA) -> None:
    start = (split.lower.start, split.upper.start)
    meaning, work = {start: dfa.start}, [start]
    while work:
        below, above = here = work.pop()
        for letter in dfa.alphabet:
            lower = split.lower.step(below, letter)
            after = (lower, split.upper.step(above, paired(letter, lower)))
            state = dfa.step(meaning[here], letter)
            if after not in meaning:
                work.append(after)
            assert meaning.setdefault(after, state) == state


def test_congruences_of_a_cyclic_group_are_its_divisors() -> None:
    sizes = {len(set(p)) for p in congruences(dfa_of("recognizes mod(12)"))}
    assert sizes == {2, 3, 4, 6}
    assert list(congruences(dfa_of("recognizes mod(7)"))) == []


def test_automata_that_forget_are_not_taken_apart() -> None:
    assert list(splits(dfa_of("recognizes flip_flop"))) == []
    assert list(splits(dfa_of("recognizes alternating"))) == []


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize("claim", CLAIMS)
def test_one_reflection_a_step_in_two_layers(claim: str) -> None:
    w = witness("Reflect", claim)
    assert w.layers == 2
    assert w.status in ("saturation", "limit")  # in float32 rotations drift, but for a few angles
    assert set(w.closure.g) == set(range(len(dfa_of(claim).states)))
    assert "in 2 layers" in w.reason
    assert json.dumps(w.to_json())


def test_signs_in_two_layers_reach_groups_that_do_not_commute() -> None:
    """D(4) over the four-group: the signs of the upper layer are chosen by the lower one."""
    cell = rnnc.parse(TEXT.replace("CLAIM", "")).lower("Signs")
    assert find_witness(cell, dfa_of("tracks group D(4, letters = generators)"), layers=1, budget=2) is None
    found = witness("Signs", "tracks group D(4, letters = generators)")
    assert (found.layers, found.status) == (2, "attained")


def test_more_layers_reach_longer_series() -> None:
    """D(8), of order 16, has no series of two with factors that signs have, but one of three."""
    found = witness("Signs", "tracks group D(8, letters = generators)", layers=3)
    assert (found.layers, found.status) == (3, "attained")
    assert isinstance(found.closure.machine, Stack)
    assert all(name.startswith(("0.", "1.")) for _, seen in found.closure.machine.tables[1] for name, _, _ in seen)


def test_complex_diagonals_in_two_layers_turn_and_reset() -> None:
    """Signs below, thirds of a turn above (theory of N3k); one more letter resets both layers."""
    group = "tracks group S(3, letters = generators)"
    assert witness("Turn", group).layers == 2
    cell = rnnc.parse(TEXT.replace("CLAIM", "")).lower("Turn")
    found = find_witness(cell, with_reset(dfa_of(group)), layers=2, budget=20)
    assert found is not None
    assert found.layers == 2


def test_a_perturbed_layer_does_not_close() -> None:
    w = witness("Reflect", "recognizes mod(3)")
    machine = w.closure.machine
    assert isinstance(machine, Stack)
    top = w.stack[1]
    bent = top.params["k_linear_weight"].copy()
    bent *= Fraction(1001, 1000)  # the angle between the two lines
    for params, closes in ((top.params, True), (top.params | {"k_linear_weight": bent}, False)):
        layers = [ExactLayer(p.cell, p.dims, p.params) for p in (w.stack[0], replace(top, params=params))]
        stack = Stack(layers, machine.inputs, [lambda *key: machine.tables[0][key]])
        assert isinstance(close_machine(stack, dfa_of("recognizes mod(3)"), 40), Closure) == closes


# ---------------------------------------------------------------- as a stack of modules


class Modules:
    """A saved stack: compiled layers with their weights, and the tables between them, read at the nearest row."""

    def __init__(self, path: Path, cell: str, layers: int) -> None:
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            told = file.metadata()
        self.letters = {
            a: {n: torch.tensor(v) for n, v in given.items()} for a, given in json.loads(told["letters"]).items()
        }
        module = rnnc.compile(rnnc.parse(TEXT.replace("CLAIM", "")), cell)
        self.layers = []
        for k, dims in enumerate(json.loads(told["dims"])):
            layer = module(**dims)
            prefix = f"layers.{k}."
            layer.load_state_dict({n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)})
            self.layers.append(layer)
        assert len(self.layers) == layers
        self.tables = [
            {n.removeprefix(f"maps.{k}."): v for n, v in tensors.items() if n.startswith(f"maps.{k}.")}
            for k in range(1, layers)
        ]

    def run(self, word: list[str]) -> Any:
        """The states of all layers after the word, one number after the other."""
        inputs = [self.letters[a] for a in word]
        finals, seen = [], []
        for k, layer in enumerate(self.layers):
            y, final = layer(**{n: torch.stack([i[n] for i in inputs])[None].float() for n in inputs[0]})
            finals += [final[s].reshape(-1) for s in sorted(final)]
            seen.append(y[0])
            if k + 1 < len(self.layers):
                inputs = [self._map(k, a, [s[t] for s in seen]) for t, a in enumerate(word)]
        return torch.cat(finals).detach().numpy()

    def _map(self, k: int, letter: str, seen: list[Any]) -> dict[str, Any]:
        table = self.tables[k]
        names = ["below.y"] if len(seen) == 1 else [f"below.{j}.y" for j in range(len(seen))]
        gap = sum((table[n] - s).reshape(len(table[n]), -1).abs().sum(dim=1) for n, s in zip(names, seen, strict=True))
        gap = gap + 1e9 * (table["letter"] != list(self.letters).index(letter))
        row = int(gap.argmin())
        return {n.removeprefix("above."): v[row] for n, v in table.items() if n.startswith("above.")}


@pytest.mark.parametrize(
    ("cell", "claim"),
    [
        ("Reflect", "recognizes mod(3)"),
        ("Reflect", "tracks group S(3, letters = generators)"),
        ("Signs", "tracks group D(4, letters = generators)"),
    ],
)
def test_a_saved_stack_runs_as_modules(tmp_path: Path, cell: str, claim: str) -> None:
    """The final states of the modules, on words up to length 100, are those of the automaton's state."""
    w, dfa = witness(cell, claim), dfa_of(claim)
    assert w.layers == 2
    w.to_safetensors(tmp_path / "stack.safetensors")
    modules = Modules(tmp_path / "stack.safetensors", cell, w.layers)
    rng = random.Random(0)
    where: dict[int, list[Any]] = {}
    for length in [*range(1, 16), 60] * 2:
        word = [rng.choice(dfa.alphabet) for _ in range(length)]
        where.setdefault(dfa.run(word), []).append(modules.run(word))
    assert set(where) == set(range(len(dfa.states)))
    points = [(q, p) for q, found in where.items() for p in found]
    for q, p in points:
        near = [r for r, other in points if np.abs(p - other).max() < 1e-3]
        assert set(near) == {q}

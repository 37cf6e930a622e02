"""Witnesses: found where they exist, never where a ceiling forbids them, closed exactly, and right when run."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import rnnc.spec as specs
from rnnc.compile import compile as compile_cell
from rnnc.verify.closure import Closure, close
from rnnc.verify.languages.dfa import DFA, explore
from rnnc.verify.machines import float_array, thaw
from rnnc.verify.witness import Witness, find_witness


def mod(m: int) -> DFA:
    """The number of ones is 1 modulo m."""
    delta = tuple((i, (i + 1) % m) for i in range(m))
    return DFA(
        alphabet=("0", "1"), states=tuple(f"q{i}" for i in range(m)), delta=delta, start=0, accept=frozenset({1})
    )


FLIP_FLOP = DFA(
    alphabet=("hold", "set", "reset"),
    states=("off", "on"),
    delta=((0, 1, 0), (1, 1, 0)),
    start=0,
    accept=frozenset({1}),
)
# Contains "aa": no letter permutes the states.
TWICE = DFA(alphabet=("a", "b"), states=("", "a", "aa"), delta=((1, 0), (2, 0), (2, 2)), start=0, accept=frozenset({2}))
# Products in S3 of a swap s and a cycle r.
S3 = DFA(
    alphabet=("s", "r"),
    states=("e", "r", "rr", "s", "sr", "srr"),
    delta=((3, 1), (4, 2), (5, 0), (0, 5), (1, 3), (2, 4)),
    start=0,
    accept=frozenset({0}),
)

# Counts modulo 3 with a letter that starts again at 2; products in S3 with a letter that leads to a swap.
TURN_RESET = DFA(
    alphabet=("i", "r", "h"),
    states=("0", "1", "2"),
    delta=((1, 2, 0), (2, 2, 1), (0, 2, 2)),
    start=0,
    accept=frozenset({1}),
)
S3_RESET = explore(
    ("s", "r", "x"),
    (0, 1, 2),
    lambda p, a: (1, 0, 2) if a == "x" else tuple((1, 0, 2)[i] if a == "s" else (i + 1) % 3 for i in p),
    lambda p: p == (0, 1, 2),
)

# Products in S5 of a swap and a cycle, on the 120 elements.
S5 = explore(
    ("s", "r"),
    (0, 1, 2, 3, 4),
    lambda p, a: tuple((1, 0, 2, 3, 4)[i] if a == "s" else (i + 1) % 5 for i in p),
    lambda p: p == (0, 1, 2, 3, 4),
)

FOUND = [
    ("deltanet", "DeltaNet", {"reach": 2}, mod(2), "saturation"),
    ("gated_deltanet", "GatedDeltaNet", {"reach": 2}, mod(2), "saturation"),
    ("deltaproduct", "DeltaProduct", {}, mod(3), "saturation"),
    ("deltaproduct", "DeltaProduct", {}, S3, "saturation"),
    ("deltaproduct", "DeltaProduct", {}, TURN_RESET, "saturation"),
    ("deltaproduct", "DeltaProduct", {}, S3_RESET, "saturation"),
    ("rnn", "RNN", {"rectified": True}, mod(3), "attained"),
    ("rnn", "RNN", {"rectified": True}, TWICE, "attained"),
    ("rnn", "RNN", {}, mod(2), "saturation"),
    ("lstm", "LSTM", {}, mod(2), "saturation"),
    ("gru", "GRU", {}, mod(2), "saturation"),
    ("mingru", "MinGRU", {}, FLIP_FLOP, "saturation"),
    ("minlstm", "MinLSTM", {}, FLIP_FLOP, "saturation"),
    ("deltanet", "DeltaOp", {}, mod(2), "attained"),
    ("deltanet", "DeltaNet", {}, FLIP_FLOP, "saturation"),
    ("gla", "GLA", {}, FLIP_FLOP, "saturation"),
    ("mamba", "Mamba", {}, FLIP_FLOP, "saturation"),
    ("mlstm", "mLSTM", {}, FLIP_FLOP, "saturation"),
    ("slstm", "sLSTM", {}, mod(3), "saturation"),
    ("slstm", "sLSTM", {}, TWICE, "saturation"),
]


def witness(file: str, cell: str, hyper: dict[str, object], dfa: DFA, budget: float = 15.0) -> Witness | None:
    return find_witness(specs.stdlib(file).lower(cell, **hyper), dfa, budget=budget)


@pytest.mark.parametrize(("file", "cell", "hyper", "dfa", "status"), FOUND)
def test_found_and_closed(file: str, cell: str, hyper: dict[str, object], dfa: DFA, status: str) -> None:
    w = witness(file, cell, hyper, dfa)
    assert w is not None
    assert w.status == status
    again = close(w.cell, w.dims, w.params, w.letters, dfa)
    assert isinstance(again, Closure)
    assert again.states == w.closure.states


@pytest.mark.slow
def test_a_large_group_in_a_rectified_network() -> None:
    """120 elements, tracked by where four of five points are."""
    w = witness("rnn", "RNN", {"rectified": True}, S5, budget=60)
    assert w is not None
    assert w.status == "attained"
    assert len(w.closure.states) == 241


@pytest.mark.parametrize(
    ("file", "cell", "hyper"),
    [
        ("deltanet", "DeltaNet", {"reach": 1}),
        ("mamba", "Mamba", {}),
        ("mingru", "MinGRU", {}),
        ("lru", "LRU", {}),
        ("hgrn", "HGRN", {}),
    ],
)
def test_no_parity_under_a_ceiling(file: str, cell: str, hyper: dict[str, object]) -> None:
    """N1: nonnegative spectra for every input (LRU: a transition that no input selects)."""
    assert witness(file, cell, hyper, mod(2), budget=1.0) is None


def test_a_square_of_a_layer_is_inverted() -> None:
    """Both arguments of the product are one node."""
    text = """
cell Squares(d: dim, n: dim = 2) {
  input x: real[d]
  let a: real[n] = linear(x)
  state h: real[n] = 0
  h <- a * a * h + linear(x)
  output y: real[n] = h'
}
"""
    cell = specs.parse(text).lower()
    found = find_witness(cell, FLIP_FLOP, budget=15.0)
    assert found is not None
    assert found.status == "attained"
    assert find_witness(cell, mod(2), budget=1.0) is None  # no square is negative


def test_one_reflection_does_not_count_to_three() -> None:
    """Trap 4."""
    assert witness("deltanet", "DeltaNet", {"reach": 2}, mod(3), budget=1.0) is None


def test_two_layers_count_to_three() -> None:
    """Trap 4, and Grazzi Thm 6: one reflection a step, the second layer picks it by the first."""
    w = find_witness(specs.stdlib("deltanet").lower("DeltaNet", reach=2), mod(3), layers=2, budget=20)
    assert w is not None
    assert w.layers == 2
    assert w.status != "attained"


def test_perturbed_witness_fails() -> None:
    """Trap 8: an eigenvalue of -0.999 instead of -1 does not close."""
    w = witness("deltanet", "DeltaOp", {}, mod(2))
    assert w is not None
    letters = {a: dict(given) for a, given in w.letters.items()}
    beta = letters["1"]["beta"]
    assert (beta != 0).any()
    letters["1"]["beta"] = np.where(beta == 2, Fraction(1999, 1000), beta)
    assert not close(w.cell, w.dims, w.params, letters, w.dfa, 50)


def test_open_range_is_not_attained() -> None:
    """Trap 9: 2 sigmoid(x) < 2 always."""
    w = witness("deltanet", "DeltaNet", {"reach": 2}, mod(2))
    assert w is not None
    assert not w.closure.attained
    assert "in the limit" in w.reason


UNNAMED = """
cell Erase(d: dim, rows: dim = 2, cols: dim = 3) {
  input x: real[d]
  let a: unit[cols] = l2norm(linear(x))
  gate b: real in (-1, 1) = tanh(linear(x))
  state S: real[rows, cols] = 0
  S <- S @ (I - (1 - b) * outer(a, a)) + outer(linear[rows](x), a)
  output y: real[rows] = S' @ a
}
cell Signed(d: dim, n: dim = 3) {
  input x: real[d]
  gate f: real[n] in (-1, 1) = 2 * sigmoid(linear(x)) - 1
  state h: real[n] = 0
  h <- f * h + linear(x)
  output y: real[n] = h'
}
cell Table(d: dim, n: dim = 4) {
  input x: real[d]
  state h: real[n] = 0
  h <- reshape(linear[n*n](x), n, n) @ h + linear(x)
  output y: real[n] = h'
}
cell Threshold(d: dim, n: dim = d) {
  input x: real[d]
  state m: real[n] = 0
  m <- sigmoid(linear(m) + linear(x))
  output y: real[n] = m'
}
"""


@pytest.mark.parametrize(
    ("cell", "dfa"),
    [
        ("Erase", mod(2)),
        ("Signed", mod(2)),
        ("Signed", FLIP_FLOP),
        ("Table", mod(4)),
        ("Table", TWICE),
        ("Threshold", mod(2)),
    ],
)
def test_cells_nobody_has_named(cell: str, dfa: DFA) -> None:
    w = find_witness(specs.parse(UNNAMED).lower(cell), dfa, budget=10)
    assert w is not None
    assert set(w.closure.g) == set(range(len(dfa.states)))


@pytest.mark.parametrize(
    ("file", "cell", "hyper", "dfa"),
    [
        ("deltanet", "DeltaNet", {"reach": 2}, mod(2)),
        ("deltaproduct", "DeltaProduct", {}, mod(3)),
        ("deltaproduct", "DeltaProduct", {}, S3_RESET),
        ("rnn", "RNN", {"rectified": True}, mod(3)),
        ("lstm", "LSTM", {}, mod(2)),
        ("mingru", "MinGRU", {}, FLIP_FLOP),
    ],
)
def test_saved_weights_classify_words(tmp_path: Path, file: str, cell: str, hyper: dict[str, object], dfa: DFA) -> None:
    """The compiled module with the saved weights, read at the nearest of the closure's states, on words up to 200."""
    w = witness(file, cell, hyper, dfa)
    assert w is not None
    path = tmp_path / "witness.safetensors"
    w.to_safetensors(path)
    module = compile_cell(specs.stdlib(file), cell, strategy="sequential" if cell in ("RNN", "LSTM") else None, **hyper)
    layer = module(**w.dims)
    layer.load_state_dict(load_file(path))
    states = _states(w)
    rng = random.Random(0)
    for length in (1, 7, 40, 200):
        word = [rng.choice(dfa.alphabet) for _ in range(length)]
        inputs = {
            name: torch.tensor(np.stack([w.inputs(a)[name] for a in word])[None]) for name in w.letters[dfa.alphabet[0]]
        }
        with torch.no_grad():
            _, final = layer(**inputs)
        found = np.concatenate([final[s.name].numpy().reshape(-1) for s in w.cell.states])
        gaps = np.abs(states - found[None]).max(axis=1)
        assert w.closure.g[int(gaps.argmin())] == dfa.run(word)


def _states(w: Witness) -> np.ndarray:
    """The closure's states as floats, [state, entries of the cell's own states]."""
    rows = []
    for (values,) in w.closure.states:
        arrays = thaw(values)
        rows.append(np.concatenate([float_array(arrays[s.name], w.tau or 1.0).reshape(-1) for s in w.cell.states]))
    return np.array(rows)


def test_json_is_plain() -> None:
    import json

    w = witness("rnn", "RNN", {"rectified": True}, mod(2))
    assert w is not None
    text = json.dumps(w.to_json())
    assert "drive_linear_bias" in text

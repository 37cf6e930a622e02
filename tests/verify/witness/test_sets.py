"""Witnesses whose states are infinitely many (closed as sets), and those that see windows of letters."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import rnnc.spec as specs
from rnnc.compile import compile as compile_cell
from rnnc.exact import Number, omega, preimage, to_float
from rnnc.ir.unfold import inline_calls
from rnnc.verify.closure import Closure
from rnnc.verify.engine import verify
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.machines import ExactLayer, Stack, thaw
from rnnc.verify.regions import Boxes, Region, apart, close_regions, inside
from rnnc.verify.witness import Witness, find_witness
from rnnc.verify.witness.spread import close_sets
from rnnc.verify.witness.windows import determines, window_bits, windows_of

SEEN = DFA(alphabet=("a", "b"), states=("no", "yes"), delta=((0, 1), (1, 1)), start=0, accept=frozenset({1}))
FLIP_FLOP = DFA(
    alphabet=("hold", "set", "reset"),
    states=("off", "on"),
    delta=((0, 1, 0), (1, 1, 0)),
    start=0,
    accept=frozenset({1}),
)
ALTERNATING = DFA(
    alphabet=("a", "b"), states=("", "a", "bad"), delta=((1, 2), (2, 0), (2, 2)), start=0, accept=frozenset({0})
)
ENDS_IN_AB = DFA(
    alphabet=("a", "b"), states=("", "a", "ab"), delta=((1, 0), (1, 2), (1, 0)), start=0, accept=frozenset({2})
)
TWICE = DFA(alphabet=("a", "b"), states=("", "a", "aa"), delta=((1, 0), (2, 0), (2, 2)), start=0, accept=frozenset({2}))
OWN = """
cell Count(d: dim, n: dim = d) {
  input x: real[d]
  state h: real[n] = 0
  h <- h + linear(x)
  output y: real[n] = h'
}
cell Average(d: dim, n: dim = d) {
  input x: real[d]
  gate f: real[n] in (0.25, 1) = 0.25 + 0.75 * sigmoid(linear(x))
  state h: real[n] = -1
  h <- f * h + (1 - f) * tanh(linear(x))
  output y: real[n] = h'
}
cell Shift(d: dim, n: dim = d) {
  input x: real[d]
  let u: real[d] = conv(linear(x), width = 3)
  gate f: real[n] in (0, 1) = sigmoid(linear(u))
  state h: real[n] = 0
  h <- f * h + (1 - f) * linear(u)
  output y: real[d] = linear(h')
}
"""
SETS = [
    ("hgrn", "HGRN", SEEN, 2),
    ("hgrn", "HGRN", FLIP_FLOP, 32),
    ("hgrn", "HGRNComplex", SEEN, 2),
    ("hgrn2", "HGRN2", SEEN, 2),
    ("lru", "LRU", SEEN, 2),
    ("s4d", "S4D", SEEN, 2),
    ("s5", "S5", SEEN, 2),
    ("mamba2", "Mamba2", ALTERNATING, 6),
    ("mingru", "MinGRU", ENDS_IN_AB, 7),
    ("gla", "GLA", ENDS_IN_AB, 7),
]
WINDOWS = [
    ("rglru", "Hawk", ALTERNATING, "saturation"),
    pytest.param("mamba", "Mamba", ALTERNATING, "saturation", marks=pytest.mark.slow),
    ("", "Shift", ALTERNATING, "saturation"),
    ("", "Shift", TWICE, "saturation"),
]


def spec_of(file: str) -> specs.Spec:
    return specs.stdlib(file) if file else specs.parse(OWN)


@cache
def found(file: str, cell: str, dfa: DFA) -> Witness:
    w = find_witness(spec_of(file).lower(cell), dfa, budget=60)
    assert w is not None
    return w


def again(w: Witness, regions: tuple[Region, ...], params: dict[str, object] | None = None) -> bool:
    layer = ExactLayer(w.cell, w.dims, params or w.params)
    free = sorted({place[0] for r in w.closure.regions for place, _ in r.spans})
    return isinstance(close_regions(layer, w.letters, w.dfa, free, regions, w.closure.steps), Closure)


@pytest.mark.parametrize(("file", "cell", "dfa", "count"), SETS)
def test_sets_of_states_close(file: str, cell: str, dfa: DFA, count: int) -> None:
    w = found(file, cell, dfa)
    assert w.status == ("attained" if dfa == ENDS_IN_AB else "limit")
    assert len(w.closure.regions) == len(w.closure.states) == count
    assert f"{count} sets of states" in w.reason
    assert again(w, w.closure.regions)


@pytest.mark.parametrize(("file", "cell", "dfa"), [("hgrn", "HGRN", SEEN), ("hgrn", "HGRN", FLIP_FLOP)])
def test_narrower_sets_do_not_close(file: str, cell: str, dfa: DFA) -> None:
    """Any interval that is a little shorter, at either end."""
    w = found(file, cell, dfa)
    wide = [(k, place) for k, r in enumerate(w.closure.regions) for place, (lo, hi) in r.spans if lo != hi]
    assert wide
    for k, place in wide[:: max(1, len(wide) // 3)]:
        for end in (0, 1):
            ends = dict(w.closure.regions[k].spans)
            lo, hi = ends[place]
            assert lo is not None
            assert hi is not None
            gap = (hi - lo) / 1000
            ends[place] = (lo + gap, hi) if end == 0 else (lo, hi - gap)
            tampered = list(w.closure.regions)
            tampered[k] = Region(point=tampered[k].point, spans=tuple(ends.items()))
            assert not again(w, tuple(tampered))


@pytest.mark.parametrize(("file", "cell"), [("hgrn", "HGRN"), ("hgrn", "HGRNComplex"), ("hgrn2", "HGRN2")])
def test_perturbed_weights_do_not_close(file: str, cell: str) -> None:
    """A gate of 0.999 and not towards 1: what is held fades."""
    w = found(file, cell, SEEN)
    near = preimage("sigmoid", Fraction(999, 1000))
    params = {name: np.array(value) for name, value in w.params.items()}
    changed = 0
    for value in params.values():
        flat = value.reshape(-1)
        for i, x in enumerate(flat):
            if x == omega:
                flat[i] = near
                changed += 1
    assert changed
    assert not again(w, w.closure.regions, params)


@pytest.mark.parametrize(("file", "cell"), [("lru", "LRU"), ("s4d", "S4D"), ("s5", "S5")])
def test_perturbed_letters_do_not_close(file: str, cell: str) -> None:
    """An `a` that adds a thousandth, too."""
    w = found(file, cell, SEEN)
    letters = {a: {n: np.array(v) for n, v in given.items()} for a, given in w.letters.items()}
    letters["a"]["x"] = np.array(letters["a"]["x"]) + np.array(letters["b"]["x"]) / 1000
    assert not again(replace(w, letters=letters), w.closure.regions)


def test_sets_of_different_meaning_are_apart() -> None:
    w = found("hgrn", "HGRN", FLIP_FLOP)
    regions, g = w.closure.regions, w.closure.g
    assert set(g) == {0, 1}
    assert all(apart(a, b) for a, p in zip(regions, g, strict=True) for b, q in zip(regions, g, strict=True) if p != q)
    assert not apart(regions[0], regions[0])
    wrong = tuple(replace(r, spans=(*r.spans[:-1], (r.spans[-1][0], (None, None)))) for r in regions)
    assert not again(w, wrong)


def test_rays_and_corners() -> None:
    """A region that is unbounded has to be mapped into unbounded ones, also where its corner is."""
    w = found("", "Count", SEEN)
    assert w.closure.attained
    assert not w.closure.bounded
    layer = ExactLayer(w.cell, w.dims, w.params)
    boxes = Boxes(layer, w.letters, w.closure.regions)
    assert boxes.leads(1, "b", 1)
    assert not boxes.leads(1, "b", 0)
    (place, (lo, hi)), *rest = w.closure.regions[1].spans
    assert hi is None
    assert lo is not None
    short = replace(w.closure.regions[1], spans=((place, (lo, lo + 5)), *rest))
    assert not Boxes(layer, w.letters, (w.closure.regions[0], short)).leads(1, "b", 1)
    from_far = replace(w.closure.regions[1], spans=((place, (lo + 5, hi)), *rest))
    assert not Boxes(layer, w.letters, (w.closure.regions[0], from_far)).leads(0, "b", 1)


def test_updates_that_are_not_affine_are_refused() -> None:
    text = "cell Square() { input x: real; state h: real = 0; h <- h * h + x; output y: real = h' }"
    cell = inline_calls(specs.parse(text).lower("Square"))
    letters = {a: {"x": np.array(Fraction(k), dtype=object)} for k, a in enumerate("ab")}
    layer = ExactLayer(cell, {}, {})
    point = layer.start()
    line = Region(point=point, spans=((("h", 0, "re"), (None, None)),))
    assert not close_regions(layer, letters, SEEN, ["h"], [line], [[0, 0]])
    assert not close_regions(layer, letters, SEEN, [], [line], [[0, 0]])


def test_a_start_other_than_zero() -> None:
    w = found("", "Average", FLIP_FLOP)
    assert w.closure.bounded
    starts = [x for _, _, row in w.closure.regions[0].point for x in row]
    assert Fraction(-1) in starts


@pytest.mark.parametrize(("model", "verdict"), [("finite_precision", "proved"), ("exact", "proved")])
def test_models_that_sets_serve(model: str, verdict: str) -> None:
    assert _verdict("Count", f"recognizes SeenB under {model}") == verdict


def test_compact_sets_serve_separated_components() -> None:
    w = found("mingru", "MinGRU", ENDS_IN_AB)
    assert w.closure.attained
    assert w.closure.bounded


@pytest.mark.parametrize("claim", ["Count|eta_finite", "Count|log_precision", "Count|float32", "Average|exact"])
def test_models_of_which_sets_say_nothing(claim: str) -> None:
    """Unbounded sets are not compact, formats round each operation, and a gate of 1 is only a limit."""
    cell, model = claim.split("|")
    assert _verdict(cell, f"recognizes SeenB under {model}") == "unknown"


def _verdict(cell: str, claim: str) -> str:
    text = OWN.replace("output y: real[n] = h'\n}", f"output y: real[n] = h'\n  expect {{ {claim} }}\n}}")
    spec = specs.parse('language SeenB over {a, b} = regex "[ab]*b[ab]*"\n' + text)
    return verify(spec, cell).results[0].verdict


OPEN = """
cell Open(n: dim) {
  input a: real[n]
  input b: real[n]
  state h: real[n] = 0
  h <- a * h + b
  output y: real[n] = h'
}
"""


@pytest.mark.parametrize("seed", range(30))
def test_words_stay_in_their_sets(seed: int) -> None:
    """Random affine letters: whatever closes contains every word's state, and says of it what the automaton says."""
    rng = random.Random(seed)
    cell = specs.parse(OPEN).lower("Open")
    dfa, goals = rng.choice([(SEEN, (None, 1)), (FLIP_FLOP, (None, 1, 0)), (ENDS_IN_AB, (0, 1)), (TWICE, (1, 0))])
    letters = {}
    for letter, goal in zip(dfa.alphabet, goals, strict=True):
        rates = [Fraction(rng.choice([-1, 1, 1, 2, 2, 3]), 4) if goal is not None else Fraction(1) for _ in range(2)]
        aims = [Fraction(rng.choice([goal or 0, goal or 0, 2]), 2) for _ in range(2)]
        writes = [(1 - a) * c for a, c in zip(rates, aims, strict=True)]
        letters[letter] = {"a": np.array(rates, dtype=object), "b": np.array(writes, dtype=object)}
    closed = close_sets(cell, {"n": 2}, {}, letters, dfa, ["h"])
    if not isinstance(closed, Closure):
        assert closed.reason
        return
    for _ in range(60):
        h, k = [Fraction(0), Fraction(0)], 0
        word = [rng.choice(dfa.alphabet) for _ in range(rng.randint(1, 25))]
        for x in word:
            h = [a * v + b for a, v, b in zip(letters[x]["a"], h, letters[x]["b"], strict=True)]
            k = closed.steps[k][dfa.alphabet.index(x)]
        assert closed.g[k] == dfa.run(word)
        assert inside((("h", (2,), tuple(h)),), closed.regions[k])


def test_random_letters_close_now_and_then() -> None:
    """The test above is not empty: some of its letters do close."""
    cell = specs.parse(OPEN).lower("Open")
    one, zero = np.array([Fraction(1)] * 2, dtype=object), np.array([Fraction(0)] * 2, dtype=object)
    half = one / 2
    letters = {"a": {"a": one, "b": zero}, "b": {"a": half, "b": half}}
    assert isinstance(close_sets(cell, {"n": 2}, {}, letters, SEEN, ["h"]), Closure)
    letters["a"] = {"a": half, "b": zero}
    assert not isinstance(close_sets(cell, {"n": 2}, {}, letters, SEEN, ["h"]), Closure)


# ---------------------------------------------------------------- windows


@pytest.mark.parametrize(("file", "cell", "dfa", "status"), WINDOWS)
def test_windows_close(file: str, cell: str, dfa: DFA, status: str) -> None:
    w = found(file, cell, dfa)
    assert w.status == status
    assert not w.closure.regions


def test_window_bits_tell_the_state() -> None:
    for dfa in (ALTERNATING, ENDS_IN_AB):
        windows = windows_of(dfa)
        bits = next(window_bits(dfa, windows))
        assert determines(tuple(b.bit for b in bits), windows, dfa)
        for b in bits:
            assert all(0 <= s <= 2 for s in b.score)
    parity = DFA(alphabet=("a", "b"), states=("0", "1"), delta=((0, 1), (1, 0)), start=0, accept=frozenset({1}))
    assert next(window_bits(parity, windows_of(parity)), None) is None


# ---------------------------------------------------------------- in PyTorch

RUN = [*(row[:3] for row in SETS), ("rglru", "Hawk", ALTERNATING), ("", "Shift", TWICE)]
SLOW_LIMIT = {"S4D", "S5"}  # 1 - 1/omega: omega must not be lost in float32


@pytest.mark.parametrize(("file", "cell", "dfa"), RUN)
def test_saved_weights_run_there(tmp_path: Path, file: str, cell: str, dfa: DFA) -> None:
    """After each of some words the state lies where the closure says, and that tells what the automaton says."""
    w = found(file, cell, dfa)
    tau = 1e4 if cell in SLOW_LIMIT else None
    w.to_safetensors(tmp_path / "w.safetensors", tau)
    layer = compile_cell(spec_of(file), cell, strategy="sequential")(**w.dims)
    layer.load_state_dict(load_file(tmp_path / "w.safetensors"))
    rng = random.Random(1)
    for length in (1, 2, 5, 17, 40):
        word = [rng.choice(dfa.alphabet) for _ in range(length)]
        k = 0
        for a in word:
            k = w.closure.steps[k][dfa.alphabet.index(a)]
        assert w.closure.g[k] == dfa.run(word)
        inputs = {n: torch.tensor(np.stack([w.inputs(a, tau)[n] for a in word])[None]) for n in w.letters[word[0]]}
        with torch.no_grad():
            _, final = layer(**inputs)
        for s in w.cell.states:
            assert _off(w, k, s.name, final[s.name].numpy().reshape(-1)) < 2e-2, (cell, s.name, word)


def _off(w: Witness, k: int, state: str, seen: np.ndarray) -> float:
    """How far numbers of a state are from those of the closure's state (or set of states) k."""
    assert isinstance(w.closure.machine, Stack)
    (values,) = w.closure.states[k]
    point = thaw(values)[state].reshape(-1)
    spans = dict(w.closure.regions[k].spans) if w.closure.regions else {}
    gaps = [0.0]
    for i, x in enumerate(seen):
        for part, number in (("re", x.real), ("im", x.imag)):
            at = complex(to_float(point[i], 1e6))
            own: Number = Fraction(at.real if part == "re" else at.imag)
            lo, hi = spans.get((state, i, part), (own, own))
            low = -np.inf if lo is None else complex(to_float(lo)).real
            high = np.inf if hi is None else complex(to_float(hi)).real
            gaps.append(max(low - number, number - high, 0.0) / (1 + abs(number)))
    return max(gaps)

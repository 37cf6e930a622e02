"""Closures of witnesses by hand; what does not close says why."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from witness_cells import CLOSED_PARITY, ONE_HOT, OPEN_PARITY, PARITY, cell, modulo

from rnnc.exact import NotExact, cosine, omega, pi, preimage, root, sine, to_float
from rnnc.ir.domains.exact import ExactCell, exact_step
from rnnc.ir.oracle import run
from rnnc.verify.closure import Closure, Conflict, close, close_machine
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.machines import ExactLayer, Stack, Values, thaw


def test_parity_in_the_limit() -> None:
    found = close(cell("Open"), {}, OPEN_PARITY, ONE_HOT, PARITY)
    assert isinstance(found, Closure)
    assert not found.attained
    assert found.readout.through == "outputs"


def test_parity_attained_on_a_closed_range() -> None:
    found = close(cell("Closed"), {}, {}, CLOSED_PARITY, PARITY)
    assert isinstance(found, Closure)
    assert found.attained
    assert len(found.states) == 2
    assert found.g == (0, 1)


def test_saturation_in_float32_closes_and_too_little_does_not() -> None:
    saturated = close(cell("Open"), {}, OPEN_PARITY, ONE_HOT, PARITY, arithmetic="float32", tau=20.0)
    assert isinstance(saturated, Closure)
    assert saturated.attained
    assert saturated.tau == 20.0
    assert not close(cell("Open"), {}, OPEN_PARITY, ONE_HOT, PARITY, budget=300, arithmetic="float32", tau=4.0)


def test_trap_8_a_perturbed_witness_fails() -> None:
    letters = CLOSED_PARITY | {"1": {"a": [Fraction(-999, 1000)], "b": [1]}}
    found = close(cell("Closed"), {}, {}, letters, PARITY, budget=100)
    assert isinstance(found, Conflict)
    assert found.kind == "budget"
    weights = OPEN_PARITY | {"a_linear_weight": [[omega, preimage("sigmoid", Fraction(1, 2000))]]}
    assert not close(cell("Open"), {}, weights, ONE_HOT, PARITY, budget=100)


def test_trap_9_an_open_range_is_never_attained() -> None:
    """2 sigmoid(x) - 1 = -1 has no solution: the value is one in the limit, and says so."""
    assert preimage("sigmoid", 0) == -omega
    found = close(cell("Open"), {}, OPEN_PARITY, ONE_HOT, PARITY)
    assert isinstance(found, Closure)
    assert not found.attained


def test_conflict_names_the_words() -> None:
    letters = CLOSED_PARITY | {"1": {"a": [1], "b": [0]}}  # nothing ever changes
    found = close(cell("Closed"), {}, {}, letters, PARITY)
    assert isinstance(found, Conflict)
    assert found.kind == "conflict"
    assert found.words is not None
    assert found.suffix is not None
    a, b = (PARITY.accepts((*w, *found.suffix)) for w in found.words)
    assert a != b


def test_counters_do_not_close() -> None:
    found = close(cell("Counter"), {}, {}, {"0": {"x": 0}, "1": {"x": 1}}, PARITY, budget=50)
    assert isinstance(found, Conflict)
    assert found.kind == "budget"
    assert "50 states" in found.reason


@pytest.mark.parametrize("m", [3, 5, 8])
def test_mod_m_by_rotation(m: int) -> None:
    found = close(cell("Turn"), {}, {}, {"0": {"theta": [0]}, "1": {"theta": [pi * 2 / m]}}, modulo(m))
    assert isinstance(found, Closure)
    assert found.attained
    assert len(found.states) == m
    wrong = close(cell("Turn"), {}, {}, {"0": {"theta": [0]}, "1": {"theta": [pi * 2 / (m + 1)]}}, modulo(m))
    assert isinstance(wrong, Conflict)


def test_a_dihedral_group_by_reflections() -> None:
    """Two reflections whose lines meet at 36 degrees generate the dihedral group of order 10."""
    vectors = {"s": [0, 1], "t": [-sine(Fraction(1, 10)), cosine(Fraction(1, 10))]}
    machine = Stack([ExactLayer(cell("Reflections"), {}, {})], {k: {"v": v} for k, v in vectors.items()})
    points = {machine.start(): 0}
    rows: list[tuple[int, ...]] = []
    work = [machine.start()]
    for state in work:
        row = []
        for letter in "st":
            after, _ = machine.step(state, letter)
            if after not in points:
                points[after] = len(points)
                work.append(after)
            row.append(points[after])
        rows.append(tuple(row))
    assert len(points) == 10
    dfa = DFA(alphabet=("s", "t"), states=tuple(map(str, range(10))), delta=tuple(rows), start=0, accept=frozenset({0}))
    assert isinstance(close_machine(machine, dfa), Closure)


def _cascade(fed: str) -> Stack:
    """Layer 1 remembers whether the last letter was s.  Layer 2 flips where r meets what it is told of that."""
    first = {"r": {"a": 0, "b": 0}, "s": {"a": 0, "b": 1}}
    flip, hold = {"a": -1, "b": 1}, {"a": 1, "b": 0}

    def between(letter: str, output: Values) -> dict[str, int]:
        return flip if letter == "r" and thaw(output)[fed] == 1 else hold

    layer = ExactLayer(cell("Memory"), {}, {})
    return Stack([layer, layer], first, [between])


COUNT_SR = DFA(  # how often "sr" occurred, mod 2; the states are (parity, whether the last letter was s)
    alphabet=("r", "s"),
    states=("0", "0s", "1", "1s"),
    delta=((0, 1), (2, 1), (2, 3), (0, 3)),
    start=0,
    accept=frozenset({2, 3}),
)


def test_trap_7_a_cascade_needs_the_previous_state() -> None:
    right = close_machine(_cascade("old"), COUNT_SR)
    assert isinstance(right, Closure)
    assert len(right.states) == 4
    assert right.readout.through == "outputs"
    wrong = close_machine(_cascade("new"), COUNT_SR)
    assert isinstance(wrong, Conflict)
    assert wrong.kind == "conflict"


def test_taps_of_weight_zero_do_not_multiply_the_states() -> None:
    weights = {"h_conv_weight": [[0, 0, 0, 1]] * 2, "h_conv_bias": [0, 0]}
    last = DFA(alphabet=("0", "1"), states=("a", "b"), delta=((0, 1), (0, 1)), start=0, accept=frozenset({1}))
    letters = {"0": {"x": [omega, 0]}, "1": {"x": [0, omega]}}
    found = close(cell("Short"), {}, weights, letters, last)
    assert isinstance(found, Closure)
    assert len(found.states) == 3
    used = weights | {"h_conv_weight": [[0, 1, 0, 1]] * 2}
    assert len(close(cell("Short"), {}, used, letters, last).states) > 3  # type: ignore[union-attr]


def test_not_exact_says_where() -> None:
    found = close(cell("Open"), {}, OPEN_PARITY | {"a_linear_bias": [1]}, ONE_HOT | {"0": {"x": [0, 0]}}, PARITY)
    assert isinstance(found, Conflict)
    assert found.kind == "not_exact"
    assert "sigmoid" in found.reason


def test_equal_outputs_leave_the_readout_to_the_state() -> None:
    letters = {"0": {"theta": [0]}, "1": {"theta": [pi]}}
    found = close(cell("Turn"), {}, {}, letters, PARITY)
    assert isinstance(found, Closure)
    assert found.readout.through == "outputs"
    reflected = {"0": {"v": [0, 0]}, "1": {"v": [root(2) / 2, -root(2) / 2]}}  # fixes (1, 1): no closure
    assert not close(cell("Reflections"), {}, {}, reflected, PARITY)


def test_exact_steps_agree_with_the_oracle() -> None:
    """The same closed cell, exact and in float64, over a random word."""
    rng = np.random.default_rng(0)
    dense = cell("Dense")
    w = rng.integers(-2, 3, size=(3, 3, 2))
    word = rng.integers(-2, 3, size=(6, 2))
    machine = ExactCell(dense, {}, {"W": w})
    state = machine.start()
    for x in word:
        state = machine.step({"x": x}, state)
    _, final = run(dense, {}, {"W": w.astype(float)}, {"x": word[None].astype(float)})
    np.testing.assert_allclose([to_float(v) for v in state["h"]], final["h"][0])
    outputs, after = exact_step(dense, {}, {"W": w}, {"x": word[0]})
    assert list(outputs["y"]) == list(after["h"])


def test_wrong_shapes_and_missing_values() -> None:
    with pytest.raises(ValueError, match="shape"):
        ExactCell(cell("Dense"), {}, {"W": [1, 2]})
    with pytest.raises(ValueError, match="no value"):
        ExactCell(cell("Dense"), {}, {})
    assert issubclass(NotExact, ArithmeticError)

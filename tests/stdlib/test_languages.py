"""The automata of std/languages.rnn are what their names say."""

from __future__ import annotations

from itertools import product

import pytest

from rnnc.frontend import ast
from rnnc.frontend.parse import parse_text
from rnnc.stdlib import FOLDER


@pytest.fixture(scope="module")
def automata() -> dict[str, ast.AutomatonDecl]:
    path = FOLDER / "std" / "languages.rnn"
    module, diagnostics = parse_text(path.read_text(encoding="utf-8"), str(path))
    assert module is not None
    assert not diagnostics.items
    return {item.name: item for item in module.items if isinstance(item, ast.AutomatonDecl)}


def run(automaton: ast.AutomatonDecl, word: tuple[str, ...]) -> str:
    arrows = {row.state: dict(row.arrows) for row in automaton.rows}
    state = automaton.start
    for letter in word:
        state = arrows[state][letter]
    return state


def test_every_automaton_is_complete(automata: dict[str, ast.AutomatonDecl]) -> None:
    for automaton in automata.values():
        states = {row.state for row in automaton.rows}
        assert automaton.start in states
        assert set(automaton.accept) <= states
        for row in automaton.rows:
            assert [letter for letter, _ in row.arrows] == list(automaton.alphabet), automaton.name
            assert {target for _, target in row.arrows} <= states, automaton.name


@pytest.mark.parametrize(("name", "modulus", "accepted"), [("Parity", 2, 1), ("Mod3", 3, 0), ("UnaryMod3", 3, 0)])
def test_counters(name: str, modulus: int, accepted: int, automata: dict[str, ast.AutomatonDecl]) -> None:
    automaton = automata[name]
    for length in range(7):
        for word in product(automaton.alphabet, repeat=length):
            assert (run(automaton, word) in automaton.accept) == (word.count("1") % modulus == accepted)


def test_s3_is_the_group_of_permutations_of_three_points(automata: dict[str, ast.AutomatonDecl]) -> None:
    generators = {"s": (1, 0, 2), "r": (1, 2, 0)}
    for length in range(7):
        for word in product("sr", repeat=length):
            points = (0, 1, 2)
            for letter in word:
                points = tuple(generators[letter][p] for p in points)  # where each point has gone so far
            assert run(automata["S3"], word) == "p" + "".join(map(str, points))


def test_flip_flop_remembers_the_last_write(automata: dict[str, ast.AutomatonDecl]) -> None:
    for word in product(("w0", "w1", "i"), repeat=5):
        writes = [letter for letter in word if letter != "i"]
        assert run(automata["FlipFlop"], word) == ("on" if writes and writes[-1] == "w1" else "off")

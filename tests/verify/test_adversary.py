"""An adversary against the ceilings: random cells, and for everything that is called impossible a search for weights.

A closure in exact numbers, of letters inside the declared domains, disproves "not recognizes" under every precision
model in which states with finitely many values are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import product
from random import Random

import pytest
from adversary import Known, lowered, machines, random_cell, rounded_machines, spec_of

import rnnc
from rnnc.frontend import ast
from rnnc.frontend.scope import Scope
from rnnc.verify.checking.theorems import THEOREMS, excluded
from rnnc.verify.closure import Closure, close_machine
from rnnc.verify.engine import Engine
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.machines import Arithmetic, Stack
from rnnc.verify.structural import Subject
from rnnc.verify.target import Target, target_of
from rnnc.verify.trusted.cells import Cell, Reject
from rnnc.verify.trusted.languages import Task, task_of
from rnnc.verify.trusted.maps import TooMany

LANGUAGES = """
language Even over {a, b} = regex "([ab][ab])*"
language SeenB over {a, b} = regex "[ab]*b[ab]*"
language EndsA over {a, b} = regex "[ab]*a"
language Third over {a, b} = regex "(b*ab*ab*a)*b*"
language OddBlocks over {a, b} = regex "(a|b(bb)*a)*(bb)*"
"""
TWO = (
    *("recognizes parity", "recognizes mod(3)", "recognizes mod(4)", "recognizes alternating", "recognizes Even"),
    *("recognizes SeenB", "recognizes EndsA", "recognizes Third", "recognizes OddBlocks"),
    *("tracks group S(3, letters = generators)", "tracks group Z(2)", "tracks group D(4, letters = generators)"),
)
ONE = ("recognizes unary_mod(2)", "recognizes unary_mod(3)", "recognizes unary_mod(4)")
CLAIMS = (*TWO, *ONE)
MODELS = ("finite_precision", "eta_finite", "exact", "log_precision")
MOST = 16  # states of a machine


@cache
def spec_of_claims() -> rnnc.Spec:
    body = "state s: real = 0; s <- s; output y: real = s'"
    spec = rnnc.parse(f"{LANGUAGES}\ncell Ask() {{ {body}; expect {{ {'; '.join(CLAIMS)} }} }}")
    assert spec.check().items == [], [d.message for d in spec.check().items]
    return spec


def asked() -> tuple[ast.Claim, ...]:
    return tuple(c for c in spec_of_claims().lower("Ask").expect if isinstance(c, ast.Claim))


def scope() -> Scope:
    module = spec_of_claims()._module
    assert module is not None
    return module.scope


@cache
def targets() -> tuple[Target, ...]:
    return tuple(target_of(spec_of_claims(), c) for c in asked())


def dfa_of(target: Target) -> DFA:
    assert target.dfa is not None
    return target.dfa


def attack(seed: int, draws: int, found: Counter[str], layers: int = 1) -> None:
    """All claims about one random cell, then random weights against what was called impossible."""
    rng = Random(seed)
    text = random_cell(rng)
    given = lowered(text, ("stable",))
    if given is None:
        found["refused"] += 1
        return
    found["cells"] += 1
    engine = Engine(Subject(cell=given[1]), budget=0)
    no: dict[str, list[str]] = {}
    for target in targets():
        for model in MODELS:
            result = engine.decide(target, precision=model, copies=layers)  # type: ignore[arg-type]
            assert result.verdict in ("refuted", "unknown")
            if result.verdict == "refuted":
                no.setdefault(target.what, []).append(f"{model}: {result.reason}")
    found["impossible"] += len(no)
    for letters in (("p", "q"), ("p",)):
        for machine in machines(given[1], letters, rng, draws, layers):
            for target in done_by(machine, "exact"):
                found["closed"] += 1
                assert target.what not in no, f"seed {seed}: {target.what} can be done: {no[target.what]}\n{text}"


def done_by(machine: Stack, arithmetic: Arithmetic) -> Iterator[Target]:
    """What the machine does: the targets with as many letters for which its states close."""
    steps: dict[tuple[object, str], object] = {}
    for target in targets():
        dfa = dfa_of(target)
        if len(dfa.alphabet) == len(machine.letters):
            known = Known(machine, steps, dict(zip(dfa.alphabet, machine.letters, strict=True)))
            if isinstance(close_machine(known, dfa, MOST, arithmetic, seconds=1), Closure):  # type: ignore[arg-type]
                yield target


@pytest.mark.parametrize("part", range(3))
def test_no_random_weights_do_what_is_called_impossible(part: int) -> None:
    found: Counter[str] = Counter()
    for seed in range(12 * part, 12 * part + 12):
        attack(seed, 8, found)
    assert found["refused"] == 0
    assert found["impossible"] > 20  # the ceilings say something
    assert found["closed"] > 8  # and the weights do something


def test_no_random_stack_does_what_is_called_impossible() -> None:
    found: Counter[str] = Counter()
    for seed in range(100, 114):
        attack(seed, 8, found, layers=2)
    assert found["impossible"] > 5
    assert found["closed"] > 3


def attack_in_float32(seed: int, draws: int, found: Counter[str]) -> None:
    """As `attack`, of what is called impossible in float32, by running it in float32."""
    rng = Random(seed)
    text = random_cell(rng)
    given = lowered(text, ("stable",))
    assert given is not None
    engine = Engine(Subject(cell=given[1]), budget=0)
    results = {t.what: engine.decide(t, precision="float32") for t in targets()}
    no = {what: r.reason for what, r in results.items() if r.verdict == "refuted"}
    found["impossible"] += len(no)
    for letters in (("p", "q"), ("p",)):
        for machine in rounded_machines(given[1], letters, rng, draws if no else 1):
            for target in done_by(machine, "float32"):
                found["closed"] += 1
                assert target.what not in no, f"seed {seed}: {target.what} can be done: {no[target.what]}\n{text}"


def test_no_rounding_does_what_is_called_impossible() -> None:
    found: Counter[str] = Counter()
    for seed in range(40):
        attack_in_float32(seed, 6, found)
    assert found["impossible"] > 20
    assert found["closed"] > 8


def called_impossible(c: Cell, task: Task, model: str, layers: int) -> Iterator[str]:
    """The theorems by which the certificate checker, asked with all short words, excludes a language."""
    words: list[list[str]] = [[], *([a] for a in task.actions), *map(list, product(task.actions, repeat=2))]
    for name, theorems in THEOREMS.items():
        for word in words if any(model in t.models for t in theorems) else ():
            for assuming in {t.assuming for t in theorems}:
                try:
                    excluded(c, layers, model, task.actions, {"theorem": name, "word": word, "assuming": assuming})
                except (Reject, TooMany, KeyError):  # what is malformed is rejected
                    continue
                yield f"{name} by {word}"


def attack_the_checker(seed: int, draws: int, found: Counter[str], layers: int = 1) -> None:
    """As `attack`, of what the checker accepts from a certificate that says anything."""
    rng = Random(seed)
    text = random_cell(rng)
    given = lowered(text, ("stable",))
    assert given is not None
    c, no = Cell(given[1], {}), dict[str, list[str]]()
    for claim, target in zip(asked(), targets(), strict=True):
        for model in ("finite_precision", "eta_finite", "log_precision"):
            why = list(called_impossible(c, task_of(claim, scope()), model, layers))
            if why:
                no.setdefault(target.what, []).append(f"{model}: {why}")
    found["impossible"] += len(no)
    for letters in (("p", "q"), ("p",)):
        for machine in machines(given[1], letters, rng, draws if no else 0, layers):
            for target in done_by(machine, "exact"):
                found["closed"] += 1
                assert target.what not in no, f"seed {seed}: {target.what} can be done: {no[target.what]}\n{text}"


@pytest.mark.parametrize("layers", [1, 2])
def test_the_checker_excludes_nothing_that_weights_do(layers: int) -> None:
    found: Counter[str] = Counter()
    for seed in range(200, 218):
        attack_the_checker(seed, 8, found, layers)
    assert found["impossible"] > 20
    assert found["closed"] > 3


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_the_checker_excludes_nothing_at_length(part: int) -> None:
    found: Counter[str] = Counter()
    for seed in range(3000 + 40 * part, 3040 + 40 * part):
        attack_the_checker(seed, 40, found, 1 + seed % 2)


@pytest.mark.slow
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("part", range(20))
def test_no_random_weights_at_length(part: int, layers: int) -> None:
    found: Counter[str] = Counter()
    for seed in range(1000 + 25 * part, 1025 + 25 * part):
        attack(seed, 60, found, layers)
    assert found["closed"] > 10


def test_the_adversary_is_able() -> None:
    """Random weights of a signed gate do what it can do; so they would have shown a theorem that is wrong about it."""
    body = ["state h: real[2] = 0", "h <- s * h + x"]
    given = lowered(spec_of(body, "h'"), ("stable",))
    assert given is not None
    done = {t.what for machine in machines(given[1], ("p", "q"), Random(1), 150) for t in done_by(machine, "exact")}
    assert {"recognizes parity", "recognizes Even", "recognizes EndsA", "tracks group Z(2)"} <= done
    assert not {t for t in done if "mod(3)" in t or "S(3" in t or "D(4" in t}

"""Witnesses in two layers: counting with one reflection a step (Grazzi et al. 2025, Thm 6).

Layer 1 carries the parity of the counting letters; layer 2 reflects on each of them, along a line that depends on the
letter and on layer 1's class after the step.  Two reflections make a rotation, so that an even number of them is the
count.  Layer 1's class is read from its outputs; as each counting letter flips it, the class before is known too, and
no updated state is taken for an old one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from rnnc.exact import NotExact
from rnnc.ir.graph import CellIR
from rnnc.verify.closure import Closure, close_machine
from rnnc.verify.languages.dfa import DFA, explore
from rnnc.verify.machines import ExactLayer, Stack
from rnnc.verify.witness.actions import plane_actions

if TYPE_CHECKING:
    from rnnc.verify.witness.witness import Witness

Search = Callable[[DFA, dict[str, int], float], "Witness | None"]


def in_two_layers(cell: CellIR, dfa: DFA, dims: dict[str, int], end: float, search: Search) -> Witness | None:
    """`search(automaton, dims, seconds)` finds witnesses in one layer; `end` is a time of time.monotonic()."""
    for turns in plane_actions(dfa):
        if any(t.mirror for t in turns):
            continue
        amounts = dict(zip(dfa.alphabet, (t.turns for t in turns), strict=True))
        second = search(_alternating(amounts), dims, (end - time.monotonic()) / 2)
        if second is None:
            continue
        first = search(_parity(amounts), dict(second.dims), end - time.monotonic())
        if first is None or first.closure.readout.through != "outputs":
            continue
        found = _stacked(cell, dfa, first, second)
        if found is not None:
            return found
    return None


def _parity(amounts: dict[str, Fraction]) -> DFA:
    """Whether the number of counting letters is odd."""
    return DFA(
        alphabet=tuple(amounts),
        states=("even", "odd"),
        delta=tuple(tuple(1 - q if k else q for k in amounts.values()) for q in (0, 1)),
        start=0,
        accept=frozenset({1}),
    )


def _alternating(amounts: dict[str, Fraction]) -> DFA:
    """Layer 2's automaton: isometries z -> e(turn) z or e(turn) conj(z) as pairs (mirrored, turn)."""
    normals = {f"{a}|{c}": (k if c else -k) / 2 if k else None for a, k in amounts.items() for c in (1, 0)}

    def step(z: tuple[bool, Fraction], letter: str) -> tuple[bool, Fraction]:
        mirrored, turn = z
        normal = normals[letter]
        return z if normal is None else (not mirrored, (2 * normal + Fraction(1, 2) - turn) % 1)

    start = (False, Fraction(0))
    return explore(tuple(normals), start, step, lambda z: z == start)


def _stacked(cell: CellIR, dfa: DFA, first: Witness, second: Witness) -> Witness | None:
    classes = _classes(first)
    if classes is None:
        return None

    def between(letter: str, output: Any) -> Any:
        return second.letters[f"{letter}|{classes[output]}"]

    layers = [ExactLayer(cell, w.dims, w.params) for w in (first, second)]
    closed = close_machine(Stack(layers, first.letters, [between]), dfa)
    if not isinstance(closed, Closure):
        return None
    return replace(
        second,
        dfa=dfa,
        closure=closed,
        construction="layer 1 carries a parity, layer 2 reflects along a line that it picks",
        source="Grazzi et al. 2025, Thm 6",
        status="attained" if closed.attained else "limit",
        tau=None,
        readout="the outputs" if closed.readout.through == "outputs" else f"the state ({closed.readout.reason})",
        first=first,
    )


def _classes(first: Witness) -> dict[Hashable, int] | None:
    """Layer 1's class by its output; None where an output does not tell it."""
    machine = first.closure.machine
    if machine is None:
        return None
    found: dict[Hashable, int] = {}
    for state, row in zip(first.closure.states, first.closure.steps, strict=True):
        for letter, after in zip(first.closure.letters, row, strict=True):
            try:
                _, output = machine.step(state, letter)
            except NotExact:
                return None
            if (
                output is None
                or found.setdefault(machine.core(output), first.closure.g[after]) != first.closure.g[after]
            ):
                return None
    return found

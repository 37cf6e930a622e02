"""Cells whose update is not linear: the automaton in one-hot units, each a threshold of sums (a ReLU automaton).

Unit (q, s) is on after a step iff the automaton was in q before it and the letter was s.  What is wanted of a unit's
update is a conjunction of two conditions, so before its saturated (or rectified) function the sum of both conditions is
wanted less a threshold: 2 (c1 + c2) - 3 times omega, or c1 + c2 - 1 (`hints`; Merrill 2019-20; Weiss et al. 2018).
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from rnnc.ir.graph import CellIR, NodeId, State
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.witness.numbers import ONE, ZERO, Number
from rnnc.verify.witness.rules import Array, empty
from rnnc.verify.witness.solver import Contexts
from rnnc.verify.witness.targets import Proposal

AUTOMATON = (
    "one unit for each state and letter, on after a step that read that letter in that state",
    "Merrill 2019; Weiss, Goldberg & Yahav 2018; ReLU automata",
)
HALF = Number(Fraction(1, 2))
VALUES = ((ONE, ZERO), (ONE, -ONE), (HALF, ZERO), (HALF, -HALF))


def units_needed(dfa: DFA) -> int:
    """At least three, so that -1, 1 patterns and zero are affinely independent."""
    return max(3, len(dfa.states) * len(dfa.alphabet))


def automata(
    cell: CellIR, states: tuple[State, ...], shapes: dict[NodeId, tuple[int, ...]], dfa: DFA
) -> Iterator[tuple[Proposal, Contexts]]:
    """For each state that may carry the units and each pair of values for on and off."""
    units = [(q, a) for q in range(len(dfa.states)) for a in range(len(dfa.alphabet))]
    for s in states:
        shape = shapes[s.node]
        if not shape or shape[-1] < units_needed(dfa):
            continue
        for on, off in VALUES:
            yield _proposal(cell, s, shape, dfa, units, (on, off))


def _proposal(
    cell: CellIR,
    s: State,
    shape: tuple[int, ...],
    dfa: DFA,
    units: list[tuple[int, int]],
    values: tuple[Number, Number],
) -> tuple[Proposal, Contexts]:
    on, off = values
    letters = range(len(dfa.alphabet))
    reached = [u for u in units if u[0] in _reachable(dfa)]
    # A configuration: nothing read yet (all units zero), or which unit is on; with the automaton's state it stands for.
    configurations: list[tuple[int | None, int]] = [(None, dfa.start)]
    configurations += [(units.index((q, a)), dfa.delta[q][a]) for q, a in reached]
    contexts = [(c, a) for c in configurations for a in letters]
    before = empty((len(contexts), *shape))
    after = empty((len(contexts), *shape))
    hints = np.zeros((len(contexts), *shape), dtype=int)
    block = (0,) * (len(shape) - 1)
    for i, ((unit, state), letter) in enumerate(contexts):
        for j in range(shape[-1]):
            before[(i, *block, j)] = ZERO if unit is None else on if j == unit else off
            true = (units[j][0] == state) + (units[j][1] == letter) if j < len(units) else 0
            hints[(i, *block, j)] = true
            after[(i, *block, j)] = on if true == 2 else off
    return (
        Proposal(construction=AUTOMATON[0], source=AUTOMATON[1], targets={s.update: after}),
        Contexts(letters=tuple(a for _, a in contexts), states={s.node: _zeros_elsewhere(before)}, hints=hints),
    )


def _zeros_elsewhere(before: Array) -> Array:
    """Other blocks are left unknown: no weight may read them."""
    return before


def _reachable(dfa: DFA) -> set[int]:
    seen, work = {dfa.start}, [dfa.start]
    while work:
        for q in dfa.delta[work.pop()]:
            if q not in seen:
                seen.add(q)
                work.append(q)
    return seen

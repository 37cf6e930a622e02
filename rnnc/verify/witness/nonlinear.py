"""Cells whose update is not linear: the automaton in one-hot units, each a threshold of sums (a ReLU automaton).

A component is a function of the automaton's state that letters map to itself: the state, or where one point of a
permutation group is.  Unit (component, p, q) is on after a step iff the component was p and the letter leads p to q.
What is wanted of a unit's update is a conjunction of two conditions, so before its saturated (or rectified) function
the sum of both conditions is wanted less a threshold: 2 (c1 + c2) - 3 times omega, or c1 + c2 - 1 (`hints`; Merrill
2019-20; Weiss et al. 2018).  Other states of the group are not read, or are pinned to their initial values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, islice, product
from typing import Literal

import numpy as np

from rnnc.ir.graph import CellIR, NodeId, State
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.witness.evaluation import Contexts
from rnnc.verify.witness.numbers import HALF, ONE, ZERO, Number
from rnnc.verify.witness.permutations import compose, point_actions
from rnnc.verify.witness.solver import Solver
from rnnc.verify.witness.spans import independent
from rnnc.verify.witness.targets import Proposal, Start, Targets, start_of, starting
from rnnc.verify.witness.want import VIEWS, Array, empty

AUTOMATON = (
    "one unit for each step from state to state, on after a step that made it",
    "Merrill 2019; Weiss, Goldberg & Yahav 2018; ReLU automata",
)
VALUES = ((ONE, ZERO), (ONE, -ONE), (HALF, ZERO), (HALF, -HALF))
MOST_PINNED = 3
MOST_TRANSITIONS = 2000  # of the automaton: a closure has a state for each, and steps by every letter

Spread = Literal["sparse", "values", "states"]
SPREADS: tuple[Spread, ...] = ("sparse", "values", "states")

Component = tuple[int, ...]  # the value for each of the automaton's states
Configuration = tuple[tuple[int, ...] | None, int]  # the units that are on (None: initially), the automaton's state


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """(component, value before, value after) of each unit; `components` tell the automaton's state.

    `leads[component, value before, letter]` is the value after.
    """

    components: tuple[Component, ...]
    units: tuple[tuple[int, int, int], ...]
    leads: Mapping[tuple[int, int, int], int]


def units_of(dfa: DFA) -> Units:
    """The states of an automaton, or of a permutation group where its points are, but for the last: what is less."""
    found = [_units(dfa, (tuple(range(len(dfa.states))),))]
    found += [_units(dfa, points_of(dfa, action)) for action in islice(point_actions(dfa), 1)]
    return min(found, key=lambda u: len(u.units))


def _units(dfa: DFA, components: tuple[Component, ...]) -> Units:
    leads = {
        (i, c[q], a): c[dfa.delta[q][a]]
        for i, c in enumerate(components)
        for q in sorted(_reachable(dfa))
        for a in range(len(dfa.alphabet))
    }
    units = dict.fromkeys((i, p, after) for (i, p, _), after in leads.items())
    return Units(components=components, units=tuple(sorted(units)), leads=leads)


def points_of(dfa: DFA, action: tuple[tuple[int, ...], ...]) -> tuple[Component, ...]:
    """Where each point goes, by the state that the word leads to."""
    n = len(action[0])
    where = {dfa.start: tuple(range(n))}
    work = [dfa.start]
    for q in work:  # grows while it is walked
        for a, r in enumerate(dfa.delta[q]):
            if r not in where:
                where[r] = compose(where[q], action[a])
                work.append(r)
    return tuple(tuple(where.get(q, (0,) * n)[i] for q in range(len(dfa.states))) for i in range(n - 1))


def units_needed(dfa: DFA) -> int:
    """At least three, so that -1, 1 patterns and zero are affinely independent."""
    return max(3, len(units_of(dfa).units))


def automata(cell: CellIR, states: tuple[State, ...], solver: Solver, dfa: DFA) -> Iterator[tuple[Proposal, Contexts]]:
    """For each set of states that are pinned, each state that may carry the units, and each pair of values."""
    if len(dfa.states) * len(dfa.alphabet) > MOST_TRANSITIONS:
        return
    units = units_of(dfa)
    pinnable = [t for t in states if _is_known(start_of(solver, t.name))]
    for pinned, spread in product(_pins(cell, pinnable), SPREADS):
        starts = [(t, start_of(solver, t.name)) for t in pinned]
        for s in states:
            shape = solver.shape(s.node)
            if s not in pinned and shape and shape[-1] >= max(3, len(units.units)):
                for values in (*VALUES, *_ends(solver, s)):
                    yield _proposal(solver, s, dfa, units, values, starts, spread)


def _ends(solver: Solver, s: State) -> Iterator[tuple[Number, Number]]:
    """On and off at the ends of the proven range of the state's update."""
    interval = solver.ranges.real(s.update)
    if interval.hi is not None and interval.hi > 0 and interval.hi not in (1, HALF):
        yield interval.hi, ZERO
        if interval.lo is not None and interval.lo < 0:
            yield interval.hi, interval.lo


def _is_known(start: Start) -> bool:
    return not start.learned and all(x is not None for x in start.values.reshape(-1))


def _pins(cell: CellIR, states: list[State]) -> Iterator[tuple[State, ...]]:
    """Which states to pin: first those that no gate or weight of zero can silence."""
    first = tuple(t for t in states if _is_loud(cell, t.node))
    yield first
    for count in range(min(len(states), MOST_PINNED) + 1):
        for chosen in combinations(states, count):
            if chosen != first:
                yield chosen


def _is_loud(cell: CellIR, node: NodeId) -> bool:
    """Whether something other than a product reads it."""
    for n in cell.nodes:
        if node in n.args and (n.op not in ("mul", "einsum") and (n.op not in VIEWS or _is_loud(cell, n.id))):
            return True
    return False


def _configurations(dfa: DFA, units: Units) -> list[Configuration]:
    """What may be before a step: nothing read yet (None: the initial state), or the units that are on; and the
    automaton's state.
    """
    found: list[Configuration] = [(None, dfa.start)]
    index = {u: j for j, u in enumerate(units.units)}
    for q in sorted(_reachable(dfa)):
        for a in range(len(dfa.alphabet)):
            on = tuple(index[i, c[q], units.leads[i, c[q], a]] for i, c in enumerate(units.components))
            found.append((on, dfa.delta[q][a]))
    return found


def _contexts(dfa: DFA, units: Units, spread: Spread) -> list[tuple[Configuration, int]]:
    """Configurations and letters: configurations that span all before one letter, and some before others.

    "sparse": the initial one before every letter, and each unit on once; "values": some in which every component has
    all its values before every letter; "states": one of each state before every letter.
    """
    configurations = _configurations(dfa, units)
    spanning = _spanning(configurations, len(units.units))
    several: list[Configuration] = [configurations[0]]
    seen: set[tuple[int, ...]] = set()
    letters = range(len(dfa.alphabet))
    found: list[tuple[Configuration, int]] = []
    for on, q in configurations[1:]:
        if spread == "sparse":
            for a in letters:
                steps = {(i, c[q], units.leads[i, c[q], a]) for i, c in enumerate(units.components)}
                found += [((on, q), a)] if not steps <= seen else []
                seen |= steps
            continue
        values = {(-1, q)} if spread == "states" else {(i, c[q]) for i, c in enumerate(units.components)}
        if not values <= seen:
            seen |= values
            several.append((on, q))
    return list(dict.fromkeys([(c, 0) for c in spanning] + [(c, a) for c in several for a in letters] + found))


def _spanning(configurations: list[Configuration], count: int) -> list[Configuration]:
    """Those whose patterns of units span all: what is affine in the units is right on all if it is right on these."""

    def row(c: Configuration) -> list[int]:
        on = set(c[0] or ())
        return [1, *(int(j in on) for j in range(count))]

    return independent(configurations, row)


def _proposal(
    solver: Solver,
    s: State,
    dfa: DFA,
    units: Units,
    values: tuple[Number, Number],
    pinned: list[tuple[State, Start]],
    spread: Spread,
) -> tuple[Proposal, Contexts]:
    on, off = values
    shape = solver.shape(s.node)
    contexts = _contexts(dfa, units, spread)
    start = start_of(solver, s.name)
    before, after = empty((len(contexts), *shape)), empty((len(contexts), *shape))
    hints = np.zeros((len(contexts), *shape), dtype=int)
    for k, ((carried, state), letter) in enumerate(contexts):
        for j in range(shape[-1]):
            true = _conditions(units, j, state, letter)
            for block in _blocks(solver, s):
                at = (*block, j)
                initial = ZERO if start.learned else start.at(at)
                before[(k, *at)] = initial if carried is None else on if j in carried else off
                hints[(k, *at)] = true
                after[(k, *at)] = on if true == 2 else off
    targets: Targets = {s.update: after}
    for node, target in (starting(solver, start, {}) or {}).items():
        targets[node] = np.repeat(target[:1], len(contexts), axis=0)
    known: dict[NodeId, Array] = {s.node: before}
    for t, value in pinned:
        constant = empty((len(contexts), *solver.shape(t.node)))
        constant[...] = value.values
        known[t.node] = constant
        targets[t.update] = constant
    return (
        Proposal(construction=AUTOMATON[0], source=AUTOMATON[1], targets=targets),
        Contexts(letters=tuple(a for _, a in contexts), states=known, hints={shape: hints}),
    )


def _conditions(units: Units, j: int, state: int, letter: int) -> int:
    """How many of unit j's two conditions hold."""
    if j >= len(units.units):
        return 0
    i, p, after = units.units[j]
    return (units.components[i][state] == p) + (units.leads.get((i, p, letter)) == after)


def _blocks(solver: Solver, s: State) -> list[tuple[int, ...]]:
    """Every block of the per axes does the same; of further axes the first entry."""
    per = solver.site(s.node).per
    rest = len(solver.shape(s.node)) - len(per) - 1
    return [(*at, *(0,) * rest) for at in np.ndindex(*per)]


def _reachable(dfa: DFA) -> set[int]:
    seen, work = {dfa.start}, [dfa.start]
    while work:
        for q in dfa.delta[work.pop()]:
            if q not in seen:
                seen.add(q)
                work.append(q)
    return seen

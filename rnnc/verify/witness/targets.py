"""What is wanted of the coefficients of a normal form, letter by letter, for it to simulate an automaton."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from rnnc.ir.graph import NodeId
from rnnc.verify.witness.evaluation import Branch
from rnnc.verify.witness.numbers import ZERO, Number
from rnnc.verify.witness.solver import Solver
from rnnc.verify.witness.want import Array, empty

Targets = dict[NodeId, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """Coefficients that would simulate the automaton, if the cell can have them.

    `spreads`: words lead to infinitely many states, which are closed as sets.
    """

    construction: str
    source: str
    targets: Targets = field(default_factory=dict)
    spreads: bool = False


class Wanted:
    """Collects targets of nodes, [letter, *per, *shape]."""

    def __init__(self, solver: Solver) -> None:
        self.solver = solver
        self.targets: Targets = {}

    def _array(self, node: NodeId) -> Array:
        if node not in self.targets:
            self.targets[node] = self.solver.unwanted(node)
        return self.targets[node]

    def put(self, node: NodeId, letter: int, index: tuple[int, ...], value: Number) -> None:
        """Wants `value` at a state index [*per, *shape], or where the node broadcasts to it."""
        array = self._array(node)
        shape = array.shape[1:]
        kept = index[len(index) - len(shape) :] if shape else ()
        array[(letter, *(0 if n == 1 else i for i, n in zip(kept, shape, strict=True)))] = value

    def fill(self, node: NodeId, letter: int, block: tuple[int, ...], vector: tuple[Number, ...]) -> None:
        """Wants a whole vector (padded with zeros) in one block of the per axes."""
        array = self._array(node)
        row = array[(letter, *block[: array.ndim - 2])] if array.ndim > 2 else array[letter]
        if array.ndim == 1:
            array[letter] = vector[0]
            return
        row[...] = ZERO
        for i, x in enumerate(vector[: row.shape[-1]]):
            row[i] = x


# ---------------------------------------------------------------- initial states


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The initial value of a state, [*per, *shape]; None where it is learned (or not exact): `learned` says which."""

    node: NodeId
    values: Array
    learned: bool

    def at(self, index: tuple[int, ...]) -> Number | None:
        found: Number | None = self.values[index]
        return found

    def vector(self, places: list[tuple[int, ...]]) -> tuple[Number, ...] | None:
        """At some places; None where one is not known."""
        found = [self.values[at] for at in places]
        known = [x for x in found if x is not None]
        return tuple(known) if len(known) == len(found) else None


def start_of(solver: Solver, state: str) -> Start:
    s = solver.cell.state(state)
    values = np.broadcast_to(solver.known(Branch(), s.init)[0], solver.shape(s.node))
    return Start(node=s.init, values=values, learned=solver.has_param[s.init])


def starting(solver: Solver, start: Start, chosen: dict[tuple[int, ...], Number]) -> Targets | None:
    """Targets that give a learned state these initial values, and zero elsewhere; None where it is not learned."""
    if not start.learned:
        return None
    shape = solver.shape(start.node)
    full = empty(start.values.shape)
    for index, value in chosen.items():
        full[index] = value
    if shape != full.shape:
        return None
    full[full == None] = ZERO  # noqa: E711
    target = solver.unwanted(start.node)
    target[...] = full
    return {start.node: target}


def idle(targets: Targets, node: NodeId, solver: Solver, value: Number) -> Array:
    """The units that carry nothing get this coefficient."""
    out = targets[node].copy() if node in targets else solver.unwanted(node)
    out[out == None] = value  # noqa: E711
    return out

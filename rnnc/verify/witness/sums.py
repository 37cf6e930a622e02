"""Direct sums: weights for the pieces of an automaton, side by side in one larger cell.

Every axis of the larger cell is as long as the pieces' axes together, or as long as each of them.  Along axes of the
first kind parameters are block diagonal, and letters, states and what has one such axis are concatenated.  So no piece
reads another one's state, if the cell's operations keep to that; `rnnc.verify.blocks` proves it, or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from rnnc.exact import NotExact
from rnnc.ir.dims import DimError
from rnnc.ir.domains.exact import shape_of
from rnnc.ir.graph import CellIR, NodeId
from rnnc.verify.blocks import Block, close_blocks
from rnnc.verify.closure import Closure
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.machines import ExactLayer
from rnnc.verify.witness.domains import into_domain
from rnnc.verify.witness.instance import letter_inputs, parameters
from rnnc.verify.witness.nonlinear import units_needed
from rnnc.verify.witness.numbers import ZERO
from rnnc.verify.witness.pieces import Action, actions, combined, pieces, renamed, spanning
from rnnc.verify.witness.sizes import candidate_dims
from rnnc.verify.witness.solver import Branch, Clock, Solver

Arrays = dict[str, Any]
Attempts = Callable[[DFA, dict[str, int]], "Iterator[tuple[Solver, Branch, str]]"]
CONSTRUCTION = "a part of the state for each of {} factors, with "
SOURCE = "derived: a direct sum of cells goes through the product of their automata"
MOST_WAYS, MOST_LAYOUTS, MOST_ATTEMPTS = 2, 6, 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """Weights of a small cell for one piece, and the inputs that stand for what a letter does to it."""

    piece: DFA
    params: Arrays
    letters: Mapping[Action, Arrays]
    construction: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectSum:
    """Weights of the larger cell, what stands for its letters, and the blocks of its state with their automata."""

    dims: dict[str, int]
    params: Arrays
    letters: dict[str, Arrays]
    closure: Closure
    construction: str


def direct_sums(
    cell: CellIR, dfa: DFA, given: Mapping[str, int], clock: Clock, attempts: Attempts, smaller: bool
) -> Iterator[DirectSum]:
    """Those that close.  `smaller`: only where each piece is half of the whole at most."""
    for way in islice(pieces(dfa), MOST_WAYS):
        spoken = [_spoken(piece) for piece in way]
        largest = max(spoken, key=units_needed)
        if len(way) < 2 or (smaller and 2 * units_needed(largest) > units_needed(dfa)):
            continue
        for small, large in islice(_layouts(cell, largest, given, len(way)), MOST_LAYOUTS):
            clock.check()
            solved = _all_solved(cell, way, spoken, small, clock, attempts)
            found = None if solved is None else _joined(cell, dfa, way, solved, _Axes(cell, small, large), clock)
            if found is not None:
                yield found


def _spoken(piece: DFA) -> DFA:
    """The piece with a letter for each thing that its letters do, or for some that span these."""
    base = spanning(actions(piece))
    letters = tuple(map(str, range(len(base))))
    return DFA(
        alphabet=letters,
        states=piece.states,
        delta=tuple(zip(*base, strict=True)),
        start=piece.start,
        accept=piece.accept,
    )


def _layouts(
    cell: CellIR, piece: DFA, given: Mapping[str, int], count: int
) -> Iterator[tuple[dict[str, int], dict[str, int]]]:
    """Sizes of a small cell and of the larger one: heads that a default gives are shared out, or stay in each piece."""
    free = [p.name for p in cell.dims if p.name not in given and p.default is None]
    if not free:
        return
    per = {name for n in cell.nodes for d in n.type.per for name in d.names}
    shared = {
        p.name: int(p.default.constant) // count
        for p in cell.dims
        if p.name in per and p.name not in given and p.default is not None
        and p.default.constant is not None and p.default.constant % count == 0
    }  # fmt: skip
    for heads in ([shared] if shared else []) + [{}]:
        for small in candidate_dims(cell, piece, {**given, **heads}):
            try:
                yield small, cell.dim_values({**given, **{name: count * small[name] for name in free}})
            except DimError:
                continue


# ---------------------------------------------------------------- small cells


def _all_solved(
    cell: CellIR, way: Sequence[DFA], spoken: Sequence[DFA], small: dict[str, int], clock: Clock, attempts: Attempts
) -> list[Solved] | None:
    """Weights for each piece; those of an earlier one where only names of states and letters differ."""
    found: list[Solved] = []
    for piece, alike in zip(way, spoken, strict=True):
        known = next((s for s in found if renamed(piece, s.piece) is not None), None)
        solved = known or _solved(cell, piece, alike, small, clock, attempts)
        if solved is None:
            return None
        found.append(solved)
    return found


def _solved(
    cell: CellIR, piece: DFA, spoken: DFA, small: dict[str, int], clock: Clock, attempts: Attempts
) -> Solved | None:
    for solver, branch, construction in islice(attempts(spoken, small), MOST_ATTEMPTS):
        letters = letter_inputs(cell, solver, branch, spoken)
        if letters is None or solver.tokens:
            continue
        try:
            params = parameters(cell, solver, branch)
            layer = ExactLayer(cell, small, params)
            whole = {n: tuple(range(x.size)) for n, x in layer.body.start().items()}
        except NotExact:
            continue
        closed = close_blocks(layer, letters, spoken, [Block(entries=whole, automaton=spoken)], clock.left)
        if isinstance(closed, Closure):
            base = dict(zip(actions(spoken), letters.values(), strict=True))
            told = {a: _extended(a, base) for a in dict.fromkeys(actions(piece))}
            if all(x is not None for x in told.values()):
                made = {a: x for a, x in told.items() if x is not None}
                return Solved(piece=piece, params=params, letters=made, construction=construction)
    return None


def _extended(action: Action, base: Mapping[Action, Arrays]) -> Arrays | None:
    """The inputs of a letter: as it is combined from the base's letters, so are they."""
    if action in base:
        return base[action]
    weights = combined(action, list(base))
    if weights is None:
        return None
    rows = list(base.values())
    used = [(c, row) for c, row in zip(weights, rows, strict=True) if c]
    return {name: sum((row[name] * c for c, row in used), rows[0][name] * ZERO) for name in rows[0]}


# ---------------------------------------------------------------- the larger cell


class _Axes:
    """Which axes of a small cell's arrays are laid end to end in the larger one."""

    def __init__(self, cell: CellIR, small: Mapping[str, int], large: Mapping[str, int]) -> None:
        self.cell, self.small, self.large = cell, dict(small), dict(large)

    def place(self, cell: CellIR, node: NodeId, k: int, count: int) -> tuple[slice, ...] | None:
        """Where the k-th of `count` pieces stands; None where the sizes do not fit."""
        own, whole = (shape_of(cell, node, cell.dim_values(d)) for d in (self.small, self.large))
        out = []
        for n, m in zip(own, whole, strict=True):
            if m not in (n, count * n):
                return None
            out.append(slice(None) if m == n else slice(k * n, (k + 1) * n))
        return tuple(out)

    def joined(self, node: NodeId, rows: Sequence[Any]) -> Any:
        """The arrays of all pieces as one; None where the sizes do not fit, or they have to be one and are not."""
        shape = shape_of(self.cell, node, self.large)
        out = np.full(shape, ZERO, dtype=object)
        for k, row in enumerate(rows):
            at = self.place(self.cell, node, k, len(rows))
            if at is None or (all(x == slice(None) for x in at) and (np.asarray(row) != np.asarray(rows[0])).any()):
                return None
            out[at] = row
        return out


def _joined(
    cell: CellIR, dfa: DFA, way: Sequence[DFA], solved: Sequence[Solved], axes: _Axes, clock: Clock
) -> DirectSum | None:
    params = {p.name: axes.joined(p.node, [s.params[p.name] for s in solved]) for p in cell.params}
    says: list[list[Arrays]] = []
    for piece, s in zip(way, solved, strict=True):
        names = None if piece is s.piece else renamed(piece, s.piece)
        says.append([s.letters[a] for a in (actions(piece) if names is None else names.letters)])
    letters = {
        a: {i.name: axes.joined(i.node, [row[k][i.name] for row in says]) for i in cell.inputs}
        for k, a in enumerate(dfa.alphabet)
    }
    if any(x is None for row in (params, *letters.values()) for x in row.values()):
        return None
    if not all(into_domain(row[i.name], i.domain) for i in cell.inputs for row in letters.values()):
        return None
    try:
        layer = ExactLayer(cell, axes.large, params)
    except NotExact:
        return None
    blocks = []
    for k, piece in enumerate(way):
        entries = {}
        for state in layer.body.cell.states:
            at = axes.place(layer.body.cell, state.node, k, len(way))
            if at is None:
                return None
            shape = shape_of(layer.body.cell, state.node, layer.body.dims)
            entries[state.name] = tuple(np.arange(int(np.prod(shape))).reshape(shape)[at].reshape(-1).tolist())
        blocks.append(Block(entries=entries, automaton=piece))
    closed = close_blocks(layer, letters, dfa, blocks, clock.left)
    if not isinstance(closed, Closure):
        return None
    construction = CONSTRUCTION.format(len(way)) + solved[0].construction
    return DirectSum(dims=axes.large, params=params, letters=letters, closure=closed, construction=construction)

"""The pattern of a group's Jacobian d update / d state, read off the sparsity domain."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rnnc.ir.dims import ONE, Dim
from rnnc.ir.domains.sparsity import Digit, Sparsity, Term, full_shape
from rnnc.ir.evaluate import evaluate
from rnnc.ir.graph import CellIR

Kind = Literal["zero", "diagonal", "low_rank", "block_diagonal", "dense"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Jacobian:
    """`kind` diagonal: an entry of an update reads only the entries of the states at its own position.

    block_diagonal: it reads only entries of its own block, of `block` entries per state.  low_rank: diagonal, plus
    rank at most `rank` (a number) within each such block.  In a group of several states of one shape all this holds
    for each pair of them.
    """

    kind: Kind
    rank: int | None = None
    block: Dim = ONE


def jacobian(cell: CellIR, states: Iterable[str]) -> Jacobian:
    """The pattern proved for a group of states.  States of different shapes have no common positions: if they couple,
    it is dense.
    """
    names = tuple(states)
    updates = {s.name: s.update for s in cell.states if s.name in names}
    values = evaluate(cell, Sparsity(cell, names), updates.values())
    shapes = {s.name: full_shape(cell.nodes[s.node].type) for s in cell.states if s.name in names}
    coupled = [(name, term) for name, node in updates.items() for term in values[node]]
    if not coupled:
        return Jacobian(kind="zero")
    if any(shapes[term.state] != shapes[name] for name, term in coupled):
        return Jacobian(kind="dense")
    whole = _size(shapes[names[0]])
    parts = [p for p in (_in_place(term) for _, term in coupled) if _size(p.tied_sizes) != whole]
    if not parts:
        return Jacobian(kind="diagonal")
    common = frozenset.intersection(*(p.tied for p in parts))
    block = whole / _size(size for _, _, size in common)
    rank = sum((p.rank for p in parts), Dim.of(0)).constant
    if rank is not None and all(p.tied == common for p in parts) and (block.constant is None or rank < block.constant):
        return Jacobian(kind="low_rank", rank=int(rank), block=block)
    return Jacobian(kind="block_diagonal", block=block) if common else Jacobian(kind="dense", block=block)


def _size(sizes: Iterable[Dim]) -> Dim:
    total = ONE
    for d in sizes:
        total = total * d
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class _InPlace:
    """`tied`: the digits (axis, stride, size) of a position that must be equal; `rank`: over all other digits."""

    tied: frozenset[tuple[int, Dim, Dim]]
    rank: Dim

    @property
    def tied_sizes(self) -> list[Dim]:
        return [size for _, _, size in self.tied]


def _in_place(term: Term) -> _InPlace:
    tied: set[tuple[int, Dim, Dim]] = set()
    rank = term.count
    for i, axis in enumerate(term.axes):
        stride = ONE
        for slot in reversed(axis):
            if slot.digit == Digit(i, stride):
                tied.add((i, stride, slot.size))
            elif slot.carrier or slot.digit is not None:
                rank = rank * slot.size
            stride = stride * slot.size
    return _InPlace(tied=frozenset(tied), rank=rank)


__all__ = ["Jacobian", "Kind", "jacobian"]

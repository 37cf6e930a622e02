"""What depends on what in a cell: which states a value is computed from, and what each part of a function needs."""

from __future__ import annotations

from collections.abc import Iterable

from rnnc.ir.domains.dependence import dependences
from rnnc.ir.graph import CellIR, NodeId


def state_dependence(cell: CellIR) -> list[frozenset[str]]:
    """For each node the states it reads, directly or through other nodes (not through time)."""
    found = dependences(cell)
    return [found[n.id].states for n in cell.nodes]


def closure(cell: CellIR, roots: Iterable[NodeId], known: Iterable[NodeId] = ()) -> set[NodeId]:
    """`roots` and what they are computed from, without what is in `known` and what only it needs."""
    stop = set(known)
    seen: set[NodeId] = set()
    work = [r for r in roots if r not in stop]
    while work:
        i = work.pop()
        if i in seen:
            continue
        seen.add(i)
        work.extend(a for a in cell.nodes[i].args if a not in stop)
    return seen


def count_uses(cell: CellIR, nodes: Iterable[NodeId], roots: Iterable[NodeId]) -> dict[NodeId, int]:
    """How often each node is read by `nodes`; a root is read once more."""
    uses: dict[NodeId, int] = {}
    for i in nodes:
        for a in cell.nodes[i].args:
            uses[a] = uses.get(a, 0) + 1
    for r in roots:
        uses[r] = uses.get(r, 0) + 1
    return uses

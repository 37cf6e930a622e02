"""The order in which groups run when a whole sequence is computed at once.

A group that hands out reads of its state (`S'.T @ q`) needs what these reads are taken with, besides what its update
needs: `q` may be another state, declared later.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import replace

from rnnc.analysis.forms import MatrixState
from rnnc.backends.torch.strategies import Choice, coefficients
from rnnc.ir.graph import CellIR, NodeId, ancestors

Needs = dict[int, set[int]]  # of each choice, by its place: the places of those that run before it


def in_order(
    cell: CellIR, choices: tuple[Choice, ...], loop_reads: Mapping[int, set[NodeId]]
) -> tuple[tuple[Choice, ...], dict[int, set[NodeId]]]:
    """The choices in an order in which each finds what it needs, and the reads that loops compute, by group index.

    Where two groups would wait for each other's reads, the later one gives its states as a whole instead.
    """
    place = {s: i for i, c in enumerate(choices) for s in c.group.states}
    needs: Needs = {i: _places(cell, _before(cell, c), place) - {i} for i, c in enumerate(choices)}
    kept, reads = list(choices), {k: set(v) for k, v in loop_reads.items()}
    for i, c in enumerate(choices):
        form = c.form
        if isinstance(form, MatrixState) and form.reads and c.kernel is None:
            own = cell.state(form.state).node
            keys = [n for n in coefficients(cell, form) if own not in ancestors(cell, [n])]
            alone = len(keys) == len(coefficients(cell, form))
            wanted = needs | {i: needs[i] | _places(cell, keys, place) - {i}}
            if alone and _sorted(wanted) is not None:
                needs = wanted
            else:
                kept[i] = replace(c, form=replace(form, reads=None, whole_because=form.reads[0].node))
        elif reads.get(c.group.index):
            wanted = needs | {i: needs[i] | _places(cell, reads[c.group.index], place) - {i}}
            if _sorted(wanted) is not None:
                needs = wanted
            else:
                reads[c.group.index] = set()
    order = _sorted(needs)
    assert order is not None, "groups of states depend on each other in no circle"
    return tuple(kept[i] for i in order), reads


def _before(cell: CellIR, choice: Choice) -> Iterable[NodeId]:
    """What has to be known before a group runs."""
    if choice.kernel is not None:
        return choice.kernel.inputs
    return [cell.state(s).update for s in choice.group.states]


def _places(cell: CellIR, nodes: Iterable[NodeId], place: Mapping[str, int]) -> set[int]:
    """The choices whose states the nodes are computed from."""
    seen = ancestors(cell, list(nodes))
    return {place[s.name] for s in cell.states if s.node in seen}


def _sorted(needs: Needs) -> list[int] | None:
    """Topological order, the first declared first among free choices; None where there is a circle."""
    waiting = {i: set(n) for i, n in needs.items()}
    ready = [i for i, n in waiting.items() if not n]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for j, n in waiting.items():
            if i in n:
                n.remove(i)
                if not n:
                    heapq.heappush(ready, j)
    return order if len(order) == len(needs) else None

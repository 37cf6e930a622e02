"""Which states depend on each other: strongly connected components, in an order in which they can be computed."""

from __future__ import annotations

from rnnc.ir.graph import CellIR, ancestors


def state_groups(cell: CellIR) -> tuple[tuple[str, ...], ...]:
    """Groups of states in topological order; inside a group, and among free choices, in the order of the spec.

    A state depends on another if its update is computed from that state's old value.  Reading a new value `T'` is
    reading what that is computed from: `M <- f(M); S <- g(S, M')` are two groups, and so are `B <- h(A'); A <- g(B)`,
    where B feeds itself and A follows from it.
    """
    below = {}  # what a state depends on, directly and then through others
    for s in cell.states:
        seen = ancestors(cell, [s.update])
        below[s.name] = {t.name for t in cell.states if t.node in seen}
    for through in below:
        for name, reads in below.items():
            if through in reads:
                below[name] = reads | below[through]
    found: list[tuple[str, ...]] = []
    left = list(below)
    while left:
        done = below.keys() - set(left)
        for name in left:
            group = tuple(t for t in left if t == name or (t in below[name] and name in below[t]))
            if below[name] <= done | set(group):
                break
        found.append(group)
        left = [t for t in left if t not in group]
    return tuple(found)

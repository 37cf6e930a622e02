"""Which states depend on each other: strongly connected components, in an order in which they can be computed."""

from __future__ import annotations

from rnnc.ir.graph import CellIR, ancestors


def state_groups(cell: CellIR) -> tuple[tuple[str, ...], ...]:
    """Groups of states in topological order; inside a group, and among free choices, in the order of the spec.

    A state depends on another if its update is computed from that state's old value, or (through `S'`) from its new
    one.
    """
    import networkx as nx

    graph: nx.DiGraph[str] = nx.DiGraph()
    rank = {s.name: i for i, s in enumerate(cell.states)}
    graph.add_nodes_from(rank)
    updates = {s.update: s.name for s in reversed(cell.states)}
    for s in cell.states:
        others = frozenset(u for u in updates if u != s.update)
        seen = ancestors(cell, [s.update], others)
        for t in cell.states:
            if t.node in seen or (t.name != s.name and t.update in seen and t.update != s.update):
                graph.add_edge(t.name, s.name)
    condensed = nx.condensation(graph)
    members = {c: sorted(condensed.nodes[c]["members"], key=rank.__getitem__) for c in condensed}
    order = nx.lexicographical_topological_sort(condensed, key=lambda c: rank[members[c][0]])
    return tuple(tuple(members[c]) for c in order)


def earlier_states(groups: tuple[tuple[str, ...], ...], index: int) -> frozenset[str]:
    return frozenset(name for group in groups[:index] for name in group)

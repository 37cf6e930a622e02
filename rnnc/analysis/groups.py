"""Which states depend on each other: strongly connected components, in an order in which they can be computed."""

from __future__ import annotations

from rnnc.ir.graph import CellIR, ancestors


def state_groups(cell: CellIR) -> tuple[tuple[str, ...], ...]:
    """Groups of states in topological order; inside a group, and among free choices, in the order of the spec.

    A state depends on another if its update is computed from that state's old value.  Reading a new value `T'` is
    reading what that is computed from: `M <- f(M); S <- g(S, M')` are two groups, and so are `B <- h(A'); A <- g(B)`,
    where B feeds itself and A follows from it.
    """
    if len(cell.states) < 2:
        return tuple((s.name,) for s in cell.states)
    import networkx as nx  # a third of a second, which most cells can do without

    graph: nx.DiGraph[str] = nx.DiGraph()
    rank = {s.name: i for i, s in enumerate(cell.states)}
    graph.add_nodes_from(rank)
    for s in cell.states:
        seen = ancestors(cell, [s.update])
        graph.add_edges_from((t.name, s.name) for t in cell.states if t.node in seen)
    condensed = nx.condensation(graph)
    members = {c: sorted(condensed.nodes[c]["members"], key=rank.__getitem__) for c in condensed}
    order = nx.lexicographical_topological_sort(condensed, key=lambda c: rank[members[c][0]])
    return tuple(tuple(members[c]) for c in order)

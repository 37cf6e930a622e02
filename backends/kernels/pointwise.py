"""Updates rewritten by their normal forms, where that makes them pointwise.

`diag(a) @ S` reads the state under another label than it writes; `a * S` does not.  A matrix that is a decay plus
something of low rank becomes vectors: `alpha * (I - beta * outer(k, k)) @ S` costs K V instead of K K V.
"""

from __future__ import annotations

from dataclasses import replace

from rnnc.analysis.forms import Coupled, Elementwise, Group, Recurrence
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.backends.kernels.region import find_region
from rnnc.backends.kernels.slices import slices_down
from rnnc.backends.kernels.sums import biases_first
from rnnc.backends.torch.cheap import cheap_step, replaced
from rnnc.ir.builder import Builder
from rnnc.ir.graph import NodeId, ancestors

ADD = {"plus_times": "add", "max_plus": "max", "min_plus": "min", "log_plus": "logaddexp"}


def pointwise(recurrence: Recurrence) -> Recurrence:
    """The recurrence of an equal cell whose updates are pointwise wherever a normal form makes them so.

    before: S <- diag(a) @ S + outer(k, v)      -->  after: S <- a[:, None] * S + outer(k, v)
    """
    cell = slices_down(biases_first(recurrence.cell))
    found = recurrence if cell is recurrence.cell else analyse_recurrence(cell)
    cell = cheap_step(found.cell, found.groups)
    found = found if cell is found.cell else analyse_recurrence(cell)
    b = Builder.of(found.cell)
    moved: dict[NodeId, NodeId] = {}
    for group in found.groups:
        if group.forms and find_region(found.cell, group) is None:
            moved |= _by_form(b, found, group)
    return analyse_recurrence(replaced(found.cell, b.nodes, moved)) if moved else found


def _by_form(b: Builder, recurrence: Recurrence, group: Group) -> dict[NodeId, NodeId]:
    """New updates from a form that is pointwise by itself; none where the group has no such form."""
    states = {s.name: s for s in recurrence.cell.states}
    for form in group.forms:
        match form:
            case Elementwise():
                rows = {form.state: ([(form.a, form.state)], form.b)}
            case Coupled():
                rows = {s: (list(zip(row, form.states)), c) for s, row, c in zip(form.states, form.a, form.b)}
            case _:
                continue
        if group.semiring != "plus_times" and any(a is None for terms, _ in rows.values() for a, _ in terms):
            continue  # None is the semiring's one there, and its zero nowhere
        new = {}
        for name, (terms, c) in rows.items():
            node = _row(b, group, [(a, states[s].node) for a, s in terms], c, isinstance(form, Coupled))
            if node is None or b.type(node) != b.type(states[name].node):
                return {}
            old = b.nodes[states[name].update]
            if node >= len(recurrence.cell.nodes):
                b.nodes[node] = replace(b.nodes[node], name=b.nodes[node].name or old.name, span=old.span)
            new[states[name].update] = node
        nodes = replace(recurrence.cell, nodes=tuple(b.nodes))
        return {} if ancestors(nodes, new.values()) & new.keys() else new  # a state set anew: its `b` is its update
    return {}


def _row(
    b: Builder, group: Group, terms: list[tuple[NodeId | None, NodeId]], c: NodeId | None, coupled: bool
) -> NodeId | None:
    """sum_j a_j h_j + c in the group's semiring; a missing factor is one, in a coupled form it is zero."""
    times = "mul" if group.semiring == "plus_times" else "add"
    total: NodeId | None = c
    for a, h in terms:
        if a is None and coupled:
            continue
        term = h if a is None else b.map(times, a, h)
        total = term if total is None else b.map(ADD[group.semiring], term, total)
    return total

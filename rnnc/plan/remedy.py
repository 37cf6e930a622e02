"""What would make an illegal strategy legal: the state taken out of a gate, or a nonlinearity dropped.

A remedy is tried before it is named: the cell is changed that way, analysed again, and the strategies that are legal
then are asked for.  `h <- sigmoid(x + h) * h + x --> h <- sigmoid(x + 0) * h + x`, which scans.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from rnnc.analysis.forms import Group
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.ir.builder import Builder
from rnnc.ir.graph import CellIR, NodeId, ancestors
from rnnc.ir.ops import OPS

MOST_ROUNDS = 6  # what is nonlinear may only show when something before it is not any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """`text` says what to change; `groups` are the groups of the changed cell that still carry a state, all linear."""

    text: str
    cell: CellIR
    groups: tuple[Group, ...]


def remedies(cell: CellIR, group: Group) -> tuple[Remedy, ...]:
    """Changes that make a nonlinear group linear, the smallest first; none where no simple one does."""
    if group.kind != "nonlinear" or not group.because:
        return ()
    names = " and ".join(f"`{n}`" for n in group.states)
    then = f"the update is then linear in {names}"
    found = []
    without = _tried(cell, group, _without_states)
    if without is not None:
        found.append(Remedy(text=f"take {without[3]} out of {without[2]}: {then}", cell=without[0], groups=without[1]))
    dropped = _tried(cell, group, _argument)
    if dropped is not None:
        found.append(Remedy(text=f"drop the nonlinearity of {dropped[2]}: {then}", cell=dropped[0], groups=dropped[1]))
    return tuple(found)


Go = Callable[[NodeId], NodeId]
Change = Callable[[Builder, CellIR, Group, NodeId, Go], "NodeId | None"]


def _tried(cell: CellIR, group: Group, change: Change) -> tuple[CellIR, tuple[Group, ...], str, str] | None:
    """The cell with what makes it nonlinear changed, what is left of the group, and the names of what was changed and
    of the states in it; None unless that is linear in a form and still reads a state.
    """
    targets: list[str] = []
    entering: list[str] = []
    now, nonlinear = cell, [group]
    for _ in range(MOST_ROUNDS):
        reasons = tuple(dict.fromkeys(node for g in nonlinear for _, node in g.because))
        cone = ancestors(now, reasons)
        entering += [f"`{n}`" for n in group.states if now.state(n).node in cone and f"`{n}`" not in entering]
        targets += [t for r in reasons if (t := _target(now, r)) not in targets]
        changed = _rewritten(now, group, change, frozenset(reasons))
        if changed is None:
            return None
        recurrence = analyse_recurrence(changed)
        now = recurrence.cell
        groups = [g for g in recurrence.groups if set(g.states) & set(group.states)]
        nonlinear = [g for g in groups if g.kind == "nonlinear"]
        if not nonlinear:
            carrying = tuple(g for g in groups if any(_carries(now, name) for name in g.states))
            fine = carrying and all(g.forms for g in carrying)
            return (now, carrying, _listed(targets), _listed(entering)) if fine else None
    return None


def _listed(names: list[str]) -> str:
    return " and ".join(p for p in (", ".join(names[:-1]), names[-1]) if p)


def _carries(cell: CellIR, name: str) -> bool:
    """Whether the update of a state reads its old value at all."""
    s = cell.state(name)
    return s.node in ancestors(cell, [s.update])


def _rewritten(cell: CellIR, group: Group, change: Change, reasons: frozenset[NodeId]) -> CellIR | None:
    """The cell with every reason's node changed; old nodes stay in front.  None where one cannot be."""
    b = Builder.of(cell)
    new: dict[NodeId, NodeId] = {}
    failed = False

    def go(node: NodeId) -> NodeId:
        nonlocal failed
        if node not in new:
            n = cell.nodes[node]
            if node in reasons:
                changed = change(b, cell, group, node, go)
                failed = failed or changed is None
                new[node] = node if changed is None else changed
            else:
                new[node] = _rebuilt(b, cell, node, tuple(go(a) for a in n.args))
        return new[node]

    states = tuple(replace(s, update=go(s.update)) for s in cell.states)
    outputs = tuple(replace(o, node=go(o.node)) for o in cell.outputs)
    if failed:
        return None
    return replace(cell, nodes=tuple(b.nodes), states=states, outputs=outputs, transitions=(), ranges=())


def _rebuilt(b: Builder, cell: CellIR, node: NodeId, args: tuple[NodeId, ...]) -> NodeId:
    """The node with other arguments, under its name."""
    n = cell.nodes[node]
    attrs: dict[str, Any] = dict(n.attrs)
    return node if args == n.args else b.add(n.op, *args, name=n.name, **attrs)


def _without_states(b: Builder, cell: CellIR, group: Group, node: NodeId, go: Go) -> NodeId:
    """The node computed with zero for the group's states."""
    states = {cell.state(n).node for n in group.states}
    done: dict[NodeId, NodeId] = {}

    def zeroed(i: NodeId) -> NodeId:
        if i not in done:
            n = cell.nodes[i]
            zero = i in states
            done[i] = (
                b.broadcast_to(b.const(0, replace(n.type, shape=(), per=())), n.type.shape, n.type.per)
                if zero
                else _rebuilt(b, cell, i, tuple(zeroed(a) for a in n.args))
            )
        return done[i]

    return zeroed(node)


def _argument(b: Builder, cell: CellIR, group: Group, node: NodeId, go: Go) -> NodeId | None:
    """The argument of an elementwise function of one."""
    n = cell.nodes[node]
    return go(n.args[0]) if len(n.args) == 1 and OPS[n.op].category == "elementwise" else None


def _target(cell: CellIR, node: NodeId) -> str:
    """The named value that a node is or goes into; the operation and its line where that is an update."""
    updates = {s.update for s in cell.states}
    reach = {node}
    for n in cell.nodes[node:]:
        if n.id == node or reach & set(n.args):
            reach.add(n.id)
            if n.id in updates:
                break
            if n.name:
                return f"`{n.name}`"
    n = cell.nodes[node]
    return f"`{n.op}`" + (f" in line {n.span.line}" if n.span is not None else "")

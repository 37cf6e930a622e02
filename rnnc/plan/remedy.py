"""What would make an illegal strategy legal: the state taken out of a gate, or a nonlinearity dropped.

A remedy is tried before it is named: the cell is changed that way, analysed again, and the strategies that are legal
then are asked for.  `h <- sigmoid(x + h) * h + x --> h <- sigmoid(x + 0) * h + x`, which scans.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from rnnc.analysis.forms import Group
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.ir.builder import Builder
from rnnc.ir.evaluate import Domain, Walk
from rnnc.ir.graph import CellIR, Node, NodeId, ancestors
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
    without = _tried(cell, group, "zero")
    if without is not None:
        found.append(Remedy(text=f"take {without[3]} out of {without[2]}: {then}", cell=without[0], groups=without[1]))
    dropped = _tried(cell, group, "drop")
    if dropped is not None:
        found.append(Remedy(text=f"drop the nonlinearity of {dropped[2]}: {then}", cell=dropped[0], groups=dropped[1]))
    return tuple(found)


Change = Literal["zero", "drop"]


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
    new = Walk(cell.nodes, _Changed(b, cell, group, change, reasons))
    try:
        states = tuple(replace(s, update=new[s.update]) for s in cell.states)
        outputs = tuple(replace(o, node=new[o.node]) for o in cell.outputs)
    except _Unchangeable:
        return None
    return replace(cell, nodes=tuple(b.nodes), states=states, outputs=outputs, transitions=(), ranges=())


class _Unchangeable(Exception):
    """A nonlinearity that is no function of one argument."""


class _Copied(Domain[NodeId]):
    """The node that takes a node's place: itself, unless something below it changed."""

    def __init__(self, b: Builder) -> None:
        self.b = b

    def leaf(self, node: Node) -> NodeId:
        return node.id

    def apply(self, node: Node, args: tuple[NodeId, ...]) -> NodeId:
        attrs: dict[str, Any] = dict(node.attrs)
        return node.id if args == node.args else self.b.add(node.op, *args, name=node.name, **attrs)


class _Zeroed(_Copied):
    """Zero for the group's states."""

    def __init__(self, b: Builder, states: frozenset[NodeId]) -> None:
        super().__init__(b)
        self.states = states

    def leaf(self, node: Node) -> NodeId:
        t = node.type
        if node.id not in self.states:
            return node.id
        return self.b.broadcast_to(self.b.const(0, replace(t, shape=(), per=())), t.shape, t.per)


class _Changed(_Copied):
    """The reasons computed without the states, or replaced by their one argument."""

    def __init__(self, b: Builder, cell: CellIR, group: Group, change: Change, reasons: frozenset[NodeId]) -> None:
        super().__init__(b)
        self.change, self.reasons = change, reasons
        self.zeroed = Walk(cell.nodes, _Zeroed(b, frozenset(cell.state(n).node for n in group.states)))

    def is_leaf(self, node: Node) -> bool:
        return not node.args or (self.change == "zero" and node.id in self.reasons)

    def leaf(self, node: Node) -> NodeId:
        return self.zeroed[node.id] if node.id in self.reasons else node.id

    def apply(self, node: Node, args: tuple[NodeId, ...]) -> NodeId:
        if node.id not in self.reasons:
            return super().apply(node, args)
        if len(args) != 1 or OPS[node.op].category != "elementwise" or self.b.type(args[0]) != node.type:
            raise _Unchangeable
        return args[0]


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

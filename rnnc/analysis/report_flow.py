"""Which inputs, groups of states and outputs read each other directly: the boxes and arrows of a report's drawing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rnnc.analysis.forms import Group, Recurrence
from rnnc.ir.domains.dependence import Dependence, Dependences, Reach
from rnnc.ir.evaluate import evaluate
from rnnc.ir.graph import CellIR, NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """`kind`: "input", "group" or "output"; `lines` of text; `line` in the source, 0 where there is none."""

    name: str
    kind: str
    column: int
    lines: tuple[str, ...]
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """`delayed`: only values of earlier steps are read."""

    source: str
    target: str
    label: str = ""
    delayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]


def flow_of(recurrence: Recurrence, transitions: tuple[str, ...] = ()) -> Flow:
    """Direct reading only: what goes through another group's states is an arrow to that group.

    `transitions`: the spec's name for each group's transition, "" where it has none.
    """
    cell = recurrence.cell
    groups = recurrence.groups
    of_state = {s: g.index for g in groups for s in g.states}
    edges: list[Edge] = []
    reads: dict[int, set[int]] = {}
    for g, name in zip(groups, transitions or ("",) * len(groups), strict=True):
        found = _direct(cell, [cell.state(s).update for s in g.states], set(g.states))
        edges += _edges(found, f"group {g.index}", of_state)
        reads[g.index] = {of_state[s] for s in found.states | found.updated} - {g.index}
        edges.append(Edge(source=f"group {g.index}", target=f"group {g.index}", label=name, delayed=True))
    column: dict[int, int] = {}
    for g in groups:  # in topological order
        column[g.index] = 1 + max((column[i] for i in reads[g.index] if i in column), default=0)
    last = 1 + max(column.values(), default=0)
    boxes = [Box(name=i.name, kind="input", column=0, lines=_leaf(cell, i.name, i.node)) for i in cell.inputs]
    boxes += [_group_box(cell, g, column[g.index]) for g in groups]
    for o in cell.outputs:
        edges += _edges(_direct(cell, [o.node], set()), f"output {o.name}", of_state)
        lines = _leaf(cell, o.name, o.node)
        boxes.append(Box(name=f"output {o.name}", kind="output", column=last, lines=lines, line=_line(cell, o.node)))
    return Flow(boxes=tuple(boxes), edges=tuple(edges))


def _line(cell: CellIR, node: NodeId) -> int:
    span = cell.nodes[node].span
    return 0 if span is None else span.line


def _leaf(cell: CellIR, name: str, node: NodeId) -> tuple[str, ...]:
    return (name, str(cell.nodes[node].type))


def _group_box(cell: CellIR, g: Group, column: int) -> Box:
    kind = g.kind if g.kind == "nonlinear" else f"{g.kind}, {g.structure.replace('_', ' ')}"
    line = next((s.span.line for s in cell.states if s.name in g.states and s.span is not None), 0)
    return Box(name=f"group {g.index}", kind="group", column=column, lines=(", ".join(g.states), kind), line=line)


def _direct(cell: CellIR, roots: list[NodeId], own: set[str]) -> Dependence:
    """What `roots` read, not past the new values of states that are not `own`."""
    domain = Dependences(cell)
    stop = {
        s.update: Dependence(updated=frozenset({s.name}))
        for s in cell.states
        if s.name not in own and s.update not in (s.node, *roots)
    }
    values = evaluate(cell, domain, roots, stop)
    total = values[roots[0]]
    for root in roots[1:]:
        total = total.join(values[root])
    return total


def _edges(found: Dependence, target: str, of_state: dict[str, int]) -> Iterable[Edge]:
    for name, reach in found.inputs:
        yield Edge(source=name, target=target, label=_reach(reach), delayed=reach.least > 0)
    for index in sorted(set(of_state.values())):
        new = sorted(s for s in found.updated if of_state[s] == index)
        old = sorted(s for s in found.states if of_state[s] == index)
        if f"group {index}" == target or not new + old:
            continue
        label = ", ".join([*(f"{s}′" for s in new), *old])
        yield Edge(source=f"group {index}", target=target, label=label, delayed=not new)


def _reach(reach: Reach) -> str:
    match (reach.least, reach.most):
        case (0, 0):
            return ""
        case (0, None):
            return "all steps so far"
        case (least, None):
            return f"{least} or more steps ago"
        case (0, most):
            return f"last {most + 1} steps" if most is not None else ""
        case (least, most) if least == most:
            return f"{least} step{'s' if least > 1 else ''} ago"
        case (least, most):
            return f"{least} to {most} steps ago"

"""Copying a graph node by node while changing some of it: what passes are written with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from rnnc.ir.builder import Builder
from rnnc.ir.dims import Dim
from rnnc.ir.graph import CellIR, Init, Node, NodeId, ancestors
from rnnc.ir.types import Type

Rule = Callable[[Builder, Node, tuple[NodeId, ...]], NodeId | None]


def copy_node(b: Builder, node: Node, args: tuple[NodeId, ...]) -> NodeId:
    """`node` in `b` with new arguments, its name and span kept."""
    previous, b.span = b.span, node.span
    new = b.add(node.op, *args, name=node.name, **dict(node.attrs))
    b.span = previous
    return new


def roots(cell: CellIR) -> tuple[NodeId, ...]:
    """All nodes that something outside the graph refers to."""
    found = [i.node for i in cell.inputs]
    for p in cell.params:
        found += [p.node, *(n for n in (p.constrained, p.init.node) if n is not None)]
    for s in cell.states:
        found += [s.node, s.init, s.update]
    found += [o.node for o in cell.outputs]
    found += [n for _, n in cell.transitions]
    found += [r.node for r in cell.ranges]
    return tuple(found)


def remap(cell: CellIR, nodes: tuple[Node, ...], at: Mapping[NodeId, NodeId]) -> CellIR:
    """`cell` over new nodes, every reference of its tables moved by `at`."""

    def moved(init: Init) -> Init:
        return init if init.node is None else replace(init, node=at[init.node])

    return replace(
        cell,
        nodes=nodes,
        inputs=tuple(replace(i, node=at[i.node]) for i in cell.inputs),
        params=tuple(
            replace(
                p, node=at[p.node], init=moved(p.init), constrained=None if p.constrained is None else at[p.constrained]
            )
            for p in cell.params
        ),
        states=tuple(replace(s, node=at[s.node], init=at[s.init], update=at[s.update]) for s in cell.states),
        outputs=tuple(replace(o, node=at[o.node]) for o in cell.outputs),
        transitions=tuple((name, at[n]) for name, n in cell.transitions),
        ranges=tuple(replace(r, node=at[r.node]) for r in cell.ranges),
    )


def rebuild(cell: CellIR, rule: Rule, *, keep_dead: bool = False) -> tuple[CellIR, Builder, dict[NodeId, NodeId]]:
    """The cell with each node replaced by what `rule(builder, node, new_args)` gives (None: a copy).

    Ensures: nodes no root needs are gone unless `keep_dead`; the map from old to new ids.
    """
    b = Builder()
    live = None if keep_dead else ancestors(cell, roots(cell))
    at: dict[NodeId, NodeId] = {}
    for node in cell.nodes:
        if live is not None and node.id not in live:
            continue
        args = tuple(at[a] for a in node.args)
        b.span = node.span
        new = rule(b, node, args)
        at[node.id] = copy_node(b, node, args) if new is None else new
    b.span = None
    return remap(cell, tuple(b.nodes), at), b, at


def drop_dead(cell: CellIR) -> CellIR:
    """Removes the nodes that nothing refers to."""
    return rebuild(cell, lambda b, node, args: None)[0]


def substitute_dims(value: Any, env: Mapping[str, Dim | int]) -> Any:
    """An attribute, type or initial value with dims replaced."""
    match value:
        case Dim():
            return value.substitute(env)
        case Type():
            return replace(
                value,
                shape=substitute_dims(value.shape, env),
                per=substitute_dims(value.per, env),
                vocab=substitute_dims(value.vocab, env),
            )
        case tuple():
            return tuple(substitute_dims(v, env) for v in value)
        case _:
            return value

"""The finished cell: the graph without nodes that nothing depends on."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TypeAlias

from rnnc.frontend.lowering import Lowering
from rnnc.frontend.scope import Context
from rnnc.frontend.values import Tensor
from rnnc.ir.graph import CellIR, Init, Output, Param, State

Hyper: TypeAlias = "tuple[tuple[str, Fraction | int | bool], ...]"


def finish(c: Lowering, outputs: list[Output], file: str, doc: str = "", hyper: Hyper = ()) -> CellIR:
    """The finished cell: only nodes that something depends on, renumbered.  Requires that no error was found."""
    states = [
        State(name=s.name, node=s.node, init=_known(s.init), update=_known(s.update), domain=s.domain, span=s.span)
        for s in c.states.values()
    ]
    cell = CellIR(
        name=c.name,
        dims=c.dims,
        hyper=hyper,
        nodes=tuple(c.b.nodes),
        inputs=tuple(c.inputs),
        params=tuple(c.params),
        states=tuple(states),
        outputs=tuple(outputs),
        transitions=tuple(c.transitions),
        ranges=tuple(c.ranges),
        expect=tuple(c.expect),
        subcells=tuple(c.subcells),
        doc=doc,
        file=file,
    )
    return prune(cell, c.declared_params)


def outputs_of(context: Context) -> list[Output]:
    """The outputs of a cell, in the order declared."""
    bound = [b for b in context.scope.bindings.values() if b.kind == "output"]
    return [Output(name=b.name, node=b.value.node) for b in bound if isinstance(b.value, Tensor)]


def _known(node: int | None) -> int:
    assert node is not None, "a cell with errors is not finished"
    return node


def prune(cell: CellIR, declared: set[int]) -> CellIR:
    """The cell without nodes that nothing depends on.

    cell with dead nodes --> cell.nodes[i].id == i, every node is needed by a root
    """
    roots = [i.node for i in cell.inputs] + [o.node for o in cell.outputs] + [r.node for r in cell.ranges]
    roots += [n for s in cell.states for n in (s.node, s.init, s.update)] + [n for _, n in cell.transitions]
    roots += sorted(declared)
    live = _reach(cell, roots)
    params = [p for p in cell.params if p.node in live]
    live |= _reach(cell, [n for p in params for n in (p.node, p.constrained, p.init.node) if n is not None])
    kept = [n for n in cell.nodes if n.id in live]
    new = {n.id: i for i, n in enumerate(kept)}

    def renumbered(init: Init) -> Init:
        return init if init.node is None else replace(init, node=new[init.node])

    return replace(
        cell,
        nodes=tuple(replace(n, id=new[n.id], args=tuple(new[a] for a in n.args)) for n in kept),
        inputs=tuple(replace(i, node=new[i.node]) for i in cell.inputs),
        params=tuple(
            Param(
                name=p.name,
                node=new[p.node],
                init=renumbered(p.init),
                domain=p.domain,
                constrained=None if p.constrained is None else new[p.constrained],
            )
            for p in params
        ),
        states=tuple(replace(s, node=new[s.node], init=new[s.init], update=new[s.update]) for s in cell.states),
        outputs=tuple(replace(o, node=new[o.node]) for o in cell.outputs),
        transitions=tuple((name, new[n]) for name, n in cell.transitions),
        ranges=tuple(replace(r, node=new[r.node]) for r in cell.ranges),
    )


def _reach(cell: CellIR, roots: list[int]) -> set[int]:
    seen: set[int] = set()
    work = list(roots)
    while work:
        i = work.pop()
        if i not in seen:
            seen.add(i)
            work.extend(cell.nodes[i].args)
    return seen

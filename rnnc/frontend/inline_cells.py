"""A cell called by a cell, or inside a `per` block: its nodes, parameters and states copied into the caller's graph.

y = Leaky(d)(x) in a cell      -->  the nodes of Leaky with x for its input; its state h is `leaky_h` of the caller
inside `per heads`             -->  the same, every parameter and state with the axis `heads` in front
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rnnc.diagnostics import Span
from rnnc.frontend.finish import finish
from rnnc.frontend.lowering import Lowering, StateInfo
from rnnc.frontend.maps import conv_nodes, delay_nodes
from rnnc.frontend.scope import Binding
from rnnc.frontend.values import Tensor
from rnnc.ir.dims import Dim
from rnnc.ir.graph import CellIR, Init, Input, Node, NodeId, Output, Param, RangeClaim
from rnnc.ir.rewrite import substitute_dims

Env = Mapping[str, Dim]
Axes = tuple[Dim, ...]


def inline_cell(
    c: Lowering, cell: CellIR, env: Env, args: Sequence[NodeId], *, prefix: str, per: Axes, span: Span
) -> list[NodeId]:
    """The outputs of `cell`, whose nodes are appended to `c`.

    Requires: no call in `cell`; `args` are in the `per` block, with the axes of the cell's own blocks in their shape.
    Ensures: so are the outputs.  `env` gives the cell's dims in the caller's; names begin with `prefix`.
    """
    copy = _Copy(c, cell, env, prefix, per, span)
    for given, arg in zip(cell.inputs, args, strict=True):
        own = cell.nodes[given.node].type.per
        lifted = c.b.lift(arg, per)
        copy.at[given.node] = c.b.add("split_per", lifted, n=len(own)) if own else lifted
    copy.run()
    return [copy.outside(o.node) for o in cell.outputs]


class _Copy:
    """One copy of a cell; `at` maps its nodes to the caller's."""

    def __init__(self, c: Lowering, cell: CellIR, env: Env, prefix: str, per: Axes, span: Span) -> None:
        self.c, self.cell, self.env, self.prefix, self.per, self.span = c, cell, env, prefix, per, span
        self.at: dict[NodeId, NodeId] = {}

    def run(self) -> None:
        outer_span = self.c.b.span
        for node in self.cell.nodes:
            self.c.count(self.span)
            if node.id not in self.at:
                self.c.b.span = node.span or self.span
                self.at[node.id] = self._node(node)
                if node.name and node.args:
                    self.c.name_node(self.at[node.id], self._named(node.name), node.span)
        self.c.b.span = outer_span
        self._tables()

    def outside(self, node: NodeId) -> NodeId:
        """A node as the caller sees it: the axes of the cell's own `per` blocks in front of its shape."""
        own = self.cell.nodes[node].type.per
        new = self.c.b.lift(self.at[node], (*self.per, *substitute_dims(own, self.env)))
        return self.c.b.add("merge", new, n=len(own)) if own else new

    def _named(self, name: str) -> str:
        return f"{self.prefix}_{name}" if self.prefix else name

    def _node(self, node: Node) -> NodeId:
        b = self.c.b
        attrs: dict[str, Any] = {key: substitute_dims(value, self.env) for key, value in node.attrs}
        match node.op:
            case "param" | "state":
                type_ = substitute_dims(node.type, self.env)
                name = self.c.unique(self._named(node.name))
                return b.leaf(node.op, name, replace(type_, per=(*self.per, *type_.per)))
            case "dim":
                return self.c.number(attrs["value"])
            case "lift":
                return b.lift(self.at[node.args[0]], (*self.per, *attrs["per"]))
        args = self._aligned(tuple(self.at[a] for a in node.args))
        if node.op in ("delay", "conv"):
            key = self.c.unique(self._named(str(node.attr("key"))))
            make = delay_nodes if node.op == "delay" else conv_nodes
            return make(self.c, args, int(attrs["n" if node.op == "delay" else "width"]), key, self.span)
        return b.add(node.op, *args, **attrs)

    def _aligned(self, args: tuple[NodeId, ...]) -> tuple[NodeId, ...]:
        """Operands that were outside of any block, next to ones that have the caller's axes now."""
        b = self.c.b
        per = max((b.type(a).per for a in args), key=len, default=())
        return tuple(b.lift(a, per) if len(b.type(a).per) < len(per) else a for a in args)

    def _tables(self) -> None:
        c, at = self.c, self.at
        for p in self.cell.params:
            init = Init(
                kind=p.init.kind,
                args=substitute_dims(p.init.args, self.env),
                node=None if p.init.node is None else at[p.init.node],
            )
            constrained = None if p.constrained is None else at[p.constrained]
            name = c.b.nodes[at[p.node]].name
            c.params.append(Param(name=name, node=at[p.node], init=init, domain=p.domain, constrained=constrained))
        for s in self.cell.states:
            node = at[s.node]
            type_, name = c.b.type(node), c.b.nodes[node].name
            binding = Binding(name, "state", self.span, status="done", value=Tensor(node), owner=c, node=node)
            first, update = (c.b.broadcast_to(at[n], type_.shape, type_.per) for n in (s.init, s.update))
            info = StateInfo(name=name, binding=binding, type=type_, node=node, init=first, update=update)
            info.domain, info.span = s.domain, s.span
            c.states[name] = info
        for r in self.cell.ranges:
            c.ranges.append(RangeClaim(node=at[r.node], domain=r.domain, required=r.required, span=r.span))


def in_blocks(c: Lowering, cell: CellIR, env: Env, per: Axes, span: Span) -> CellIR:
    """A cell whose inputs, parameters, states and outputs have the axes `per` in front, in the dims of the caller."""
    body = Lowering(library=c.library, diagnostics=c.diagnostics, keyword="cell", name=cell.name, dims=c.dims)
    args: list[NodeId] = []
    for given in cell.inputs:
        type_ = substitute_dims(cell.nodes[given.node].type, env)
        node = body.b.leaf("input", given.name, replace(type_, per=per, shape=(*type_.per, *type_.shape)))
        body.names_used.add(given.name)
        body.inputs.append(Input(name=given.name, node=node, domain=given.domain))
        args.append(node)
    found = inline_cell(body, cell, env, args, prefix="", per=per, span=span)
    outputs = [Output(name=o.name, node=node) for o, node in zip(cell.outputs, found, strict=True)]
    return finish(body, outputs, cell.file, cell.doc, cell.hyper)

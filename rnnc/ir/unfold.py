"""Rewrites that leave only plain nodes and states: calls of subcells are inlined, time operations become states.

Both keep what the cell computes.  Names: a call with key K gives its parameters and states the names `K.<name>`, the
i-th round of a repeat `K.<i>.<name>`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

from rnnc.ir.builder import Builder
from rnnc.ir.dims import Dim
from rnnc.ir.graph import CellIR, Init, Node, NodeId, Param, RangeClaim, State
from rnnc.ir.rewrite import copy_node, rebuild, remap, substitute_dims
from rnnc.ir.types import Type

# ---------------------------------------------------------------- calls


class _Inliner:
    """Copies subcells into one growing graph."""

    def __init__(self) -> None:
        self.builder = Builder()
        self.params: list[Param] = []
        self.states: list[State] = []
        self.ranges: list[RangeClaim] = []
        self.instances: dict[str, list[NodeId]] = {}  # key -> the outputs of that instance

    def refit(self, node: NodeId, type_: Type) -> NodeId:
        """`node` with its per axes and core axes divided as in `type_`; the same numbers in memory."""
        b = self.builder
        have = b.type(node)
        if have.per != type_.per and not b.is_free_scalar(node):
            node = b.add("merge", node, n=len(have.per)) if have.per else node
            node = b.add("split_per", node, n=len(type_.per)) if type_.per else node
            assert b.type(node).shape == type_.shape, f"a call's `{have}` does not fit `{type_}`"
        return node

    def expand(
        self, cell: CellIR, prefix: str, env: Mapping[str, Dim | int], given: Mapping[NodeId, NodeId]
    ) -> dict[int, int]:
        """Copies `cell`'s nodes; `given` are the nodes its inputs stand for.  Returns the map of ids."""
        at: dict[NodeId, NodeId] = dict(given)
        for node in cell.nodes:
            if node.id not in at:
                at[node.id] = self.one(cell, node, prefix, env, tuple(at[a] for a in node.args))
        for p in cell.params:
            init = Init(
                kind=p.init.kind,
                args=substitute_dims(p.init.args, env),
                node=None if p.init.node is None else at[p.init.node],
            )
            fixed = None if p.constrained is None else at[p.constrained]
            self.params.append(replace(p, name=prefix + p.name, node=at[p.node], init=init, constrained=fixed))
        for s in cell.states:
            self.states.append(replace(s, name=prefix + s.name, node=at[s.node], init=at[s.init], update=at[s.update]))
        self.ranges += [replace(r, node=at[r.node]) for r in cell.ranges]
        return at

    def one(
        self, cell: CellIR, node: Node, prefix: str, env: Mapping[str, Dim | int], args: tuple[NodeId, ...]
    ) -> NodeId:
        attrs: dict[str, Any] = {key: substitute_dims(value, env) for key, value in node.attrs}
        if "key" in attrs:
            attrs["key"] = prefix + attrs["key"]
        match node.op:
            case "call":
                outputs = self.instance(cell.subcells[attrs["cell"]], attrs["key"], attrs["dims"], args)
                return self.refit(outputs[attrs.get("output", 0)], attrs["type"])
            case "repeat":
                running = args[0]
                for i in range(int(attrs["count"])):
                    body = cell.subcells[attrs["cell"]]
                    (running,) = self.instance(body, f"{attrs['key']}.{i}", attrs["dims"], (running, *args[1:]))
                return self.refit(running, attrs["type"])
            case _:
                leaf = node.op in ("param", "state", "input")
                changed = replace(node, attrs=tuple(attrs.items()), name=prefix + node.name if leaf else node.name)
                return copy_node(self.builder, changed, args)

    def instance(self, sub: CellIR, key: str, dims: Any, args: tuple[NodeId, ...]) -> list[NodeId]:
        """The outputs of the subcell with this key, built at its first call."""
        if key not in self.instances:
            env: dict[str, Dim | int] = dict(dims)
            for p in sub.dims:
                if p.name not in env and p.default is not None:
                    env[p.name] = p.default.substitute(env)
            given = {
                i.node: self.refit(arg, substitute_dims(sub.nodes[i.node].type, env))
                for i, arg in zip(sub.inputs, args, strict=True)
            }
            at = self.expand(sub, f"{key}.", env, given)
            self.instances[key] = [at[o.node] for o in sub.outputs]
        return self.instances[key]


def inline_calls(cell: CellIR) -> CellIR:
    """`call` and `repeat` nodes replaced by the nodes of their subcells.

    Requires: nothing.  Ensures: no `call` or `repeat`, no subcells.
    before: y = call(x, cell=0, key="mix")      -->  after: the nodes of subcell 0 with x for its input; its parameter
    W is "mix.W"
    """
    if not any(n.op in ("call", "repeat") for n in cell.nodes):
        return cell
    inliner = _Inliner()
    at = inliner.expand(cell, "", {}, {})
    flat = remap(cell, tuple(inliner.builder.nodes), at)
    return replace(
        flat,
        params=tuple(inliner.params),
        states=tuple(inliner.states),
        ranges=tuple(inliner.ranges),
        subcells=(),
    )


# ---------------------------------------------------------------- time


def _buffer(b: Builder, key: str, length: int, value: NodeId, init: NodeId | None) -> State:
    """A state that holds the last `length` values, oldest first, in a leading core axis."""
    t = b.type(value)
    type_ = Type(dtype=t.dtype, shape=(Dim.of(length), *t.shape), per=t.per, vocab=t.vocab)
    node = b.leaf("state", key, type_)
    newest = b.add("expand", b.broadcast_to(value, t.shape, t.per), axes=(-t.rank - 1,))
    update = newest
    if length > 1:
        kept = b.add("slice", node, axis=-t.rank - 1, start=Dim.of(1), stop=Dim.of(length))
        update = b.add("concat", kept, newest, axis=-t.rank - 1)
    if init is None:
        first = b.const(Fraction(0), type_)
    else:
        row = b.add("expand", b.broadcast_to(init, t.shape, t.per), axes=(-t.rank - 1,))
        first = b.add("broadcast", row, shape=type_.shape)
    return State(name=key, node=node, init=first, update=update)


def _delay(b: Builder, node: Node, args: tuple[NodeId, ...]) -> tuple[NodeId, State]:
    key, n = str(node.attr("key")), int(node.attr("n", 1))  # type: ignore[arg-type]
    state = _buffer(b, key, n, args[0], args[1] if len(args) > 1 else None)
    rank = node.type.rank
    oldest = b.add("slice", state.node, axis=-rank - 1, start=Dim.of(0), stop=Dim.of(1))
    return b.add("reshape", oldest, shape=node.type.shape, name=node.name), state


def _conv(b: Builder, node: Node, args: tuple[NodeId, ...]) -> tuple[NodeId, State | None]:
    x, w = args[0], args[1]
    width = int(Dim.of(node.attr("width")).constant or 0)  # type: ignore[arg-type]
    t = node.type
    window = b.add("expand", x, axes=(-t.rank - 1,))
    state = None
    if width > 1:
        state = _buffer(b, str(node.attr("key")), width - 1, x, None)
        window = b.add("concat", state.node, window, axis=-t.rank - 1)
    labels = "abcdefgh"[: t.rank]
    out = b.einsum(f"z{labels},{labels}z->{labels}", window, w)
    return (b.map("add", out, args[2]) if len(args) > 2 else out), state


def unfold_time(cell: CellIR) -> tuple[CellIR, frozenset[str]]:
    """`delay` and `conv` as states that hold the values they look back at; also the names of those states.

    Ensures: no node of category "time".  In a state dict a buffer is [batch, n, *per, *shape]; as a state its core
    shape is [n, *shape], so `per` comes first.
    before: y = delay(x, n=2, key="p")      -->  after: state p[2, ...] = 0;  y = p[0];  p <- concat(p[1:2], x)
    """
    found: list[State] = []

    def rule(b: Builder, node: Node, args: tuple[NodeId, ...]) -> NodeId | None:
        match node.op:
            case "delay":
                out, state = _delay(b, node, args)
                found.append(state)
                return out
            case "conv":
                out, buffer = _conv(b, node, args)
                if buffer is not None:
                    found.append(buffer)
                return out
            case _:
                return None

    new, _, _ = rebuild(cell, rule)
    return replace(new, states=(*new.states, *found)), frozenset(s.name for s in found)

"""What a value is computed from: inputs (and how long ago), parameters, states before the step, states after it."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass

from rnnc.ir.evaluate import Domain, evaluate
from rnnc.ir.graph import CellIR, Node, NodeId
from rnnc.ir.ops import OPS


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How many steps ago a stream is read: `least` to `most` (None: any number)."""

    least: int = 0
    most: int | None = 0

    def join(self, other: Reach) -> Reach:
        most = None if self.most is None or other.most is None else max(self.most, other.most)
        return Reach(least=min(self.least, other.least), most=most)

    def later(self, least: int, most: int | None) -> Reach:
        return Reach(least=self.least + least, most=None if self.most is None or most is None else self.most + most)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependence:
    """Sound from above: what is not named here has no influence.

    `states` are read at their value before the step; `updated` are the states whose value after the step (the node of
    their update) is read.  `hidden`: passes through the memory of a called subcell or of attention.
    """

    inputs: tuple[tuple[str, Reach], ...] = ()
    params: frozenset[str] = frozenset()
    states: frozenset[str] = frozenset()
    updated: frozenset[str] = frozenset()
    hidden: bool = False

    @property
    def static(self) -> bool:
        """Made of parameters and constants only: the same at every step and for every sequence."""
        return not (self.inputs or self.states or self.hidden)

    @property
    def state_free(self) -> bool:
        """Computable for all steps at once."""
        return not self.states

    def join(self, other: Dependence) -> Dependence:
        inputs = dict(self.inputs)
        for name, reach in other.inputs:
            inputs[name] = inputs[name].join(reach) if name in inputs else reach
        return Dependence(
            inputs=tuple(sorted(inputs.items(), key=lambda kv: kv[0])),
            params=self.params | other.params,
            states=self.states | other.states,
            updated=self.updated | other.updated,
            hidden=self.hidden or other.hidden,
        )

    def later(self, least: int, most: int | None) -> Dependence:
        return Dependence(
            inputs=tuple((name, reach.later(least, most)) for name, reach in self.inputs),
            params=self.params,
            states=self.states,
            updated=self.updated,
            hidden=self.hidden,
        )


class Dependences(Domain[Dependence]):
    """The dependence domain."""

    def __init__(self, cell: CellIR) -> None:
        self.names = {i.node: i.name for i in cell.inputs} | {p.node: p.name for p in cell.params}
        self.names |= {s.node: s.name for s in cell.states}
        self.updates: dict[NodeId, frozenset[str]] = {}
        for s in cell.states:
            self.updates[s.update] = self.updates.get(s.update, frozenset()) | {s.name}

    def leaf(self, node: Node) -> Dependence:
        name = self.names.get(node.id, node.name)
        match node.op:
            case "input":
                found = Dependence(inputs=((name, Reach()),))
            case "param":
                found = Dependence(params=frozenset({name}))
            case "state":
                found = Dependence(states=frozenset({name}))
            case _:
                found = Dependence()
        return self._mark(node, found)

    def apply(self, node: Node, args: tuple[Dependence, ...]) -> Dependence:
        first = args[0]
        match node.op:
            case "delay":
                n = int(node.attr("n", 1))  # type: ignore[arg-type]
                first = first.later(n, n)
            case "conv":
                first = first.later(0, int(node.attr("width")) - 1)  # type: ignore[arg-type]
        for other in args[1:]:
            first = first.join(other)
        if OPS[node.op].category == "model":
            first = Dependence(
                inputs=tuple((name, Reach(least=r.least, most=None)) for name, r in first.inputs),
                params=first.params,
                states=first.states,
                updated=first.updated,
                hidden=True,
            )
        elif OPS[node.op].category == "time" and first.static:
            first = Dependence(
                params=first.params, hidden=True
            )  # a constant's past is not the constant before the start
        return self._mark(node, first)

    def _mark(self, node: Node, found: Dependence) -> Dependence:
        names = self.updates.get(node.id)
        return found if names is None else found.join(Dependence(updated=names))


class DependsOn(Domain[bool]):
    """Whether a value is computed from one of `sources`, or is one."""

    def __init__(self, sources: Container[NodeId]) -> None:
        self.sources = sources

    def is_leaf(self, node: Node) -> bool:
        return not node.args or node.id in self.sources

    def leaf(self, node: Node) -> bool:
        return node.id in self.sources

    def apply(self, node: Node, args: tuple[bool, ...]) -> bool:
        return any(args)


def dependences(cell: CellIR, nodes: Iterable[NodeId] | None = None) -> dict[NodeId, Dependence]:
    """What `nodes` (all when None) are computed from."""
    return evaluate(cell, Dependences(cell), nodes)

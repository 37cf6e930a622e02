"""Updates that are affine over another semiring: h' = max_j(a_j + h_j, b), elementwise.

A value is a mapping from state names to the state-free node added to that state (None: nothing), and a state-free node
`b` (None: the semiring's zero).  The rules are those of the semiring: its addition (max, min, logaddexp) joins, `+`
shifts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rnnc.ir.builder import Builder
from rnnc.ir.domains.dependence import DependsOn
from rnnc.ir.evaluate import Domain, Walk
from rnnc.ir.graph import Node, NodeId
from rnnc.ir.ops import OPS
from rnnc.ir.types import Type

Tropical: TypeAlias = Literal["max_plus", "min_plus", "log_plus"]
TROPICAL: tuple[Tropical, ...] = ("max_plus", "min_plus", "log_plus")
ADDITION = {op.adds_in: name for name, op in OPS.items() if op.adds_in is not None}


@dataclass(frozen=True, slots=True)
class Shifted:
    """See the module's docstring; `states` holds None for a state taken as it is."""

    states: tuple[tuple[str, NodeId | None], ...]
    b: NodeId | None = None


class Affinity(Domain[Shifted | None]):
    """The domain, over a builder's growing graph: None where a value is not affine over the semiring."""

    def __init__(self, b: Builder, semiring: Tropical, atoms: Mapping[NodeId, str], type_: Type) -> None:
        self.b, self.semiring, self.atoms, self.type = b, semiring, atoms, type_
        self.join_op = ADDITION[semiring]
        self._moved = Walk(b.nodes, DependsOn(atoms.keys()))
        self._values = Walk(b.nodes, self)

    def value(self, node: NodeId) -> Shifted | None:
        return self._values[node]

    def is_leaf(self, node: Node) -> bool:
        return node.id in self.atoms or not self._moved[node.id]

    def leaf(self, node: Node) -> Shifted | None:
        return Shifted(((self.atoms[node.id], None),)) if node.id in self.atoms else Shifted((), node.id)

    def apply(self, node: Node, args: tuple[Shifted | None, ...]) -> Shifted | None:
        known = [v for v in args if v is not None]
        if node.type != self.type or len(known) < len(args):
            return None
        if node.op == self.join_op:
            return self._join(known[0], known[1])
        match node.op:
            case "relu" if self.semiring == "max_plus":
                return self._join(known[0], Shifted((), self.b.const(0)))
            case "softplus" if self.semiring == "log_plus":
                return self._join(known[0], Shifted((), self.b.const(0)))
            case "add":
                free = next((v for v in known if not v.states), None)
                moved = next((v for v in known if v.states), None)
                return None if free is None or moved is None or free.b is None else self._shift(moved, "add", free.b)
            case "sub" if not known[1].states and known[1].b is not None:
                return self._shift(known[0], "sub", known[1].b)
        return None

    def _shift(self, v: Shifted, op: str, by: NodeId) -> Shifted:
        def moved(node: NodeId | None) -> NodeId:
            if node is not None:
                return self.b.map(op, node, by)
            return by if op == "add" else self.b.map("neg", by)

        return Shifted(tuple((s, moved(a)) for s, a in v.states), None if v.b is None else self.b.map(op, v.b, by))

    def _join(self, x: Shifted, y: Shifted) -> Shifted:
        total = dict(x.states)
        for name, a in y.states:
            if name not in total:
                total[name] = a
            elif total[name] != a:
                zero = self.b.const(0)
                left, right = total[name], a
                total[name] = self.b.map(self.join_op, zero if left is None else left, zero if right is None else right)
        b = y.b if x.b is None else x.b if y.b is None else self.b.map(self.join_op, x.b, y.b)
        return Shifted(tuple(total.items()), b)

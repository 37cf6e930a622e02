"""The examples of every op with each subset of their arguments made states, shared by tests of the abstract domains."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from op_examples import EXAMPLES, Example

from rnnc.ir.dims import Dim
from rnnc.ir.domains.concrete import Concrete
from rnnc.ir.evaluate import evaluate
from rnnc.ir.graph import CellIR, NodeId, State
from rnnc.ir.ops import OPS
from rnnc.ir.types import Type

PLAIN = [e for e in EXAMPLES if OPS[e.op].category not in ("time", "model")]


@dataclass(frozen=True)
class WithStates:
    """An example's cell with some arguments turned into states (which keep their values where they stand)."""

    e: Example
    chosen: tuple[int, ...]
    cell: CellIR

    def __str__(self) -> str:
        return f"{self.e} in {self.chosen}"

    def given(self, arrays: dict[str, Any]) -> dict[NodeId, Any]:
        nodes = {leaf.name: leaf.node for leaf in (*self.e.cell.inputs, *self.e.cell.params)}
        return {nodes[k]: v for k, v in arrays.items()}

    def value(self, arrays: dict[str, Any]) -> Any:
        domain = Concrete(self.cell, self.e.dims, self.given(arrays))
        with np.errstate(all="ignore"):
            return evaluate(self.cell, domain, [self.e.node])[self.e.node]


def with_states(e: Example, chosen: tuple[int, ...]) -> WithStates:
    """Turns the arguments `chosen` into state leaves."""
    nodes = list(e.cell.nodes)
    states = []
    for k in chosen:
        old = next(n for n in nodes if n.name == f"x{k}")
        nodes[old.id] = replace(old, op="state")
        states.append(State(name=f"x{k}", node=old.id, init=old.id, update=old.id))
    inputs = tuple(i for i in e.cell.inputs if nodes[i.node].op == "input")
    params = tuple(p for p in e.cell.params if nodes[p.node].op == "param")
    return WithStates(
        e, chosen, replace(e.cell, nodes=tuple(nodes), states=tuple(states), inputs=inputs, params=params)
    )


CASES = [
    with_states(e, chosen)
    for e in PLAIN
    for n in range(1, len(e.args) + 1)
    for chosen in itertools.combinations(range(len(e.args)), n)
    if all(e.args[k].type.dtype in ("real", "complex") for k in chosen)
]


def with_sizes(cell: CellIR, dims: dict[str, int]) -> CellIR:
    """The cell with numbers for its dims."""

    def known(value: Any) -> Any:
        match value:
            case Dim():
                return value.substitute(dims)
            case Type():
                return replace(value, shape=known(value.shape), per=known(value.per))
            case tuple():
                return tuple(known(v) for v in value)
            case _:
                return value

    nodes = (replace(n, type=known(n.type), attrs=known(n.attrs)) for n in cell.nodes)
    return replace(cell, dims=(), nodes=tuple(nodes))

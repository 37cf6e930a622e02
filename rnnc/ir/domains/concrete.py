"""Values are NumPy arrays: float64, complex128, bool, and int64 for tokens.

An array is `[*lead, *per, *shape]`: `lead` is empty for a static value, [batch] for one step, [batch, time] for a
sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from rnnc.ir.dims import Dim
from rnnc.ir.evaluate import Domain
from rnnc.ir.graph import CellIR, Node, NodeId
from rnnc.ir.ops import OPS
from rnnc.ir.ops.table import Site
from rnnc.ir.types import nearest

Array = Any  # np.ndarray of one of the four dtypes


def resolve(value: Any, dims: Mapping[str, int]) -> Any:
    """An attribute with its dims as ints and its exact numbers as floats."""
    match value:
        case Dim():
            return value.evaluate(dims)
        case Fraction():
            return nearest(value)
        case tuple():
            return tuple(resolve(v, dims) for v in value)
        case _:
            return value


def numbers(node: Node, dims: Mapping[str, int], resolve: Callable[..., Any]) -> dict[str, Any]:
    """A node's attributes, resolved; what a `dim` node holds is a number, which need not be a size (`1 - n`)."""
    if node.op == "dim":
        return {"value": Dim.of(node.attr("value")).number(dims)}  # type: ignore[arg-type]
    return {key: resolve(value, dims) for key, value in node.attrs}


def site_of(cell: CellIR, node: Node, dims: Mapping[str, int]) -> Site:
    return Site(
        attrs=numbers(node, dims, resolve),
        types=tuple(cell.nodes[a].type for a in node.args),
        per=resolve(node.type.per, dims),
        shape=resolve(node.type.shape, dims),
    )


class Concrete(Domain[Array]):
    """`given` holds the values of inputs, parameters and states by node; `dims` a number for every dim."""

    def __init__(self, cell: CellIR, dims: Mapping[str, int], given: Mapping[NodeId, Array]) -> None:
        self.cell = cell
        self.dims = dims
        self.given: dict[NodeId, Array] = dict(given)
        self._sites: dict[NodeId, Site] = {}

    def site(self, node: Node) -> Site:
        found = self._sites.get(node.id)
        if found is None:
            found = self._sites[node.id] = site_of(self.cell, node, self.dims)
        return found

    def leaf(self, node: Node) -> Array:
        if node.id in self.given:
            return self.given[node.id]
        value = OPS[node.op].value
        if value is None:
            raise KeyError(f"no value given for {node.op} `{node.name}`")
        return value(np, self.site(node))

    def apply(self, node: Node, args: tuple[Array, ...]) -> Array:
        value = OPS[node.op].value
        if value is None:
            raise ValueError(f"`{node.op}` has a value over time only; unfold the cell first (rnnc.ir.unfold)")
        return value(np, self.site(node), *args)

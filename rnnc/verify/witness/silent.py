"""States that nothing reads once the weights are chosen: what they hold need not be exact, or of finitely many values.

`silenced(cell, states)` is the cell without them: where their old value stood is an input of which nothing is known.
Zero times that is zero; everything else that reads it has no exact value, so a closure of what is left proves that
nothing does.  That takes for granted that they have a value (`partial`): zero times 1 / 0 is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from rnnc.analysis.ranges import Ranges
from rnnc.exact.asymptotic import unknown
from rnnc.ir.domains.exact import shape_of
from rnnc.ir.graph import CellIR, Input, Node, ancestors
from rnnc.ir.types import Interval


def silenced(cell: CellIR, states: frozenset[str]) -> CellIR:
    """The cell without these states."""
    gone = {s.node: s.name for s in cell.states if s.name in states}
    nodes = tuple(replace(n, op="input") if n.id in gone else n for n in cell.nodes)
    inputs = (*cell.inputs, *(Input(name=name, node=node) for node, name in gone.items()))
    return replace(cell, nodes=nodes, inputs=inputs, states=tuple(s for s in cell.states if s.node not in gone))


def partial(cell: CellIR, states: frozenset[str]) -> bool:
    """Whether the values of these states may be undefined: quotients, roots and logarithms beside their domains."""
    ranges = Ranges.of(cell)
    roots = [i for s in cell.states if s.name in states for i in (s.init, s.update)]
    return any(_undefined(cell.nodes[i], ranges) for i in ancestors(cell, roots))


def _undefined(n: Node, ranges: Ranges) -> bool:
    match n.op:
        case "div" | "log" | "pow" | "sqrt":
            inner = ranges.real(n.args[n.op == "div"])
            positive = inner.lo is not None and (inner.lo > 0 or (inner.lo == 0 and inner.lo_open))
            negative = inner.hi is not None and (inner.hi < 0 or (inner.hi == 0 and inner.hi_open))
            power = ranges.real(n.args[1]) if n.op == "pow" else Interval()
            whole = power.lo == power.hi and power.lo in (1, 2, 3, 4)
            root = n.op == "sqrt" and inner.lo is not None and inner.lo >= 0
            return n.type.dtype != "real" or not (positive or whole or root or (n.op == "div" and negative))
        case "l2norm" | "rmsnorm" | "layernorm":
            return not n.attr("eps")
    return n.op in ("solve", "cayley")


def unbounded(cell: CellIR, states: frozenset[str]) -> bool:
    """Whether the values of these states may have no bound: else each is an update in a bounded range."""
    ranges = Ranges.of(cell)
    found = [ranges.modulus(s.update) for s in cell.states if s.name in states]
    return any(r.lo is None or r.hi is None for r in found)


def unknown_states(cell: CellIR, dims: Mapping[str, int], states: frozenset[str]) -> dict[str, Any]:
    """The values of the inputs that stand for them."""
    out = {}
    for s in cell.states:
        if s.name in states:
            shape = shape_of(cell, s.node, cell.dim_values(dims))
            out[s.name] = np.empty(shape, dtype=object)
            out[s.name].fill(unknown())
    return out

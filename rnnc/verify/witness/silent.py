"""States that nothing reads once the weights are chosen: what they hold need not be exact, or of finitely many values.

`silenced(cell, states)` is the cell without them: where their old value stood is an input of which nothing is known.
Zero times that is zero; everything else that reads it has no exact value, so a closure of what is left proves that
nothing does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from rnnc.exact.asymptotic import unknown
from rnnc.ir.domains.exact import shape_of
from rnnc.ir.graph import CellIR, Input


def silenced(cell: CellIR, states: frozenset[str]) -> CellIR:
    """The cell without these states."""
    gone = {s.node: s.name for s in cell.states if s.name in states}
    nodes = tuple(replace(n, op="input") if n.id in gone else n for n in cell.nodes)
    inputs = (*cell.inputs, *(Input(name=name, node=node) for node, name in gone.items()))
    return replace(cell, nodes=nodes, inputs=inputs, states=tuple(s for s in cell.states if s.node not in gone))


def unknown_states(cell: CellIR, dims: Mapping[str, int], states: frozenset[str]) -> dict[str, Any]:
    """The values of the inputs that stand for them."""
    out = {}
    for s in cell.states:
        if s.name in states:
            shape = shape_of(cell, s.node, cell.dim_values(dims))
            out[s.name] = np.empty(shape, dtype=object)
            out[s.name].fill(unknown())
    return out

"""Whether layers pass on continuous functions of their states: what the theorems under `eta_finite` speak of.

A state that converges stays in one compact component, and is never cast.  A map that jumps (or swings ever faster) at
the limit tells its values apart all the same: `sign(h)` holds a bit as h fades, and `cos(pi log2(h))` counts mod 2.
"""

from __future__ import annotations

from rnnc.ir.graph import Node, ancestors
from rnnc.verify.layers import Layers
from rnnc.verify.results import Condition

_COMPARISONS = frozenset({"step", "sign", "lt", "le", "eq", "ne", "select", "real", "take", "one_hot"})
_JUMPS = _COMPARISONS | {"div", "log", "pow", "solve", "cayley"}
_NORMS = frozenset({"l2norm", "rmsnorm", "layernorm"})


def passes_on(layers: Layers, copies: int) -> Condition:
    """Of several layers: the maps between copies of a cell are any maps, so nothing is known of those."""
    jump = _jump(layers)
    if jump is not None:
        by = f"`{jump.name or jump.op}` need not be"
    elif copies > 1:
        by = "the maps between copies of the cell are any maps"
    else:
        by = "so are all operations on varying values"
    return Condition(text="what layers pass on is continuous", holds=jump is None and copies == 1, by=by)


def _jump(layers: Layers) -> Node | None:
    """An operation, on a way from states to updates, that need not be continuous everywhere.

    What is computed from inputs alone may jump: under a repeated word it repeats exactly.
    """
    cell = layers.recurrence.cell
    varying: set[int] = set()
    for n in (cell.nodes[i] for i in sorted(ancestors(cell, [s.update for s in cell.states]))):
        if n.op == "state" or any(a in varying for a in n.args):
            varying.add(n.id)
            if n.op == "div" and n.args[1] not in varying:
                continue
            if n.op in _JUMPS or (n.op in _NORMS and not n.attr("eps")):
                return n
    return None

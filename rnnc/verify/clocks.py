"""Clocks that only turn what is written: rotary positions.

A counter t <- t + c, of which the layers know nothing but cos and sin of multiples of it, and these only in products
with what they write, adds fixed angles to a recurrence and nothing else: b(t) is a sum of e^(i m t) times functions of
the input.  With e^(i m t) as further states, the recurrence is one without a clock (docs/ceilings.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from rnnc.analysis.ranges import VIEWS
from rnnc.ir.graph import CellIR, Node, NodeId, ancestors, is_static
from rnnc.verify.layers import Layer, Layers

# How a value depends on the clock: not at all, a fixed multiple of it plus a fixed number, a polynomial in its cosines
# and sines, or otherwise.
Kind = Literal["free", "clock", "turned", "other"]
_TURNS = frozenset({"cos", "sin", "rotation_blocks"})
_LINEAR = frozenset({"einsum", "sum", "layout", "mul", "add", "sub", "neg", "complex", "concat"}) | VIEWS


def only_turns(layers: Layers, clock: Layer) -> bool:
    """Whether all other layers read the clock in what they write alone, and there in its cosines and sines."""
    cell = layers.recurrence.cell
    if len(clock.group.states) != 1:
        return False
    state = cell.state(clock.group.states[0])
    update = cell.nodes[state.update]
    if update.op != "add" or state.node not in update.args or not is_static(cell.nodes, _others(update, state.node)):
        return False
    others = [layer for layer in layers.layers if layer is not clock]
    if any(clock.group.index in layer.gate_reads for layer in others):
        return False
    roots = [cell.state(s).update for layer in others for s in layer.group.states]
    kinds = _kinds(cell, roots, {state.node, state.update})
    return all(kinds[r] in ("free", "turned") for r in roots)


def _others(n: Node, state: NodeId) -> list[NodeId]:
    rest = list(n.args)
    rest.remove(state)
    return rest


def _kinds(cell: CellIR, roots: Iterable[NodeId], clock: set[NodeId]) -> dict[NodeId, Kind]:
    kinds: dict[NodeId, Kind] = {}
    for i in sorted(ancestors(cell, roots)):  # arguments come first
        kinds[i] = "clock" if i in clock else _kind(cell, cell.nodes[i], kinds)
    return kinds


def _kind(cell: CellIR, n: Node, kinds: dict[NodeId, Kind]) -> Kind:
    args = [kinds[a] for a in n.args]
    if all(k == "free" for k in args):
        return "free"
    if "other" in args:
        return "other"
    if "clock" not in args:
        if n.op in _LINEAR or (n.op == "div" and args[1] == "free"):
            return "turned"
        return "other"
    if n.op in _TURNS:
        return "turned"
    if n.op == "polar":
        return "turned" if args[0] in ("free", "turned") and args[1] == "clock" else "other"
    rest = [a for a, k in zip(n.args, args, strict=True) if k != "clock"]
    fixed = is_static(cell.nodes, rest) and all(kinds[a] == "free" for a in rest)
    if n.op in VIEWS or n.op == "neg":
        return "clock"
    if n.op in ("add", "sub") and fixed:
        return "clock"
    if fixed and ((n.op == "mul" and len(rest) == 1) or (n.op == "div" and args[1] == "free")):
        return "clock"
    return "other"

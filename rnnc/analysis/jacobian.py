"""The sparsity of a nonlinear update's Jacobian, proved by structure: which positions a position reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from rnnc.ir.builder import Builder
from rnnc.ir.graph import NodeId
from rnnc.ir.ops import OPS
from rnnc.ir.types import Type

Pattern = Literal["diagonal", "block_diagonal", "dense"]


def jacobian_pattern(b: Builder, states: Mapping[NodeId, str], updates: Iterable[NodeId]) -> Pattern:
    """Diagonal: every position of the one state reads its own position only.  Block-diagonal: several states, coupled
    position by position (blocks of one entry per state).  Dense otherwise.
    """
    types = {b.type(s) for s in states}
    if len(types) != 1 or not all(_position_wise(b, u, states, next(iter(types)), {}) for u in updates):
        return "dense"
    return "diagonal" if len(states) == 1 else "block_diagonal"


def _position_wise(
    b: Builder, node: NodeId, states: Mapping[NodeId, str], type_: Type, known: dict[NodeId, bool | None]
) -> bool:
    """Whether `node` depends on the states position by position (or not at all)."""
    return _reading(b, node, states, type_, known) is not False


def _reading(
    b: Builder, node: NodeId, states: Mapping[NodeId, str], type_: Type, known: dict[NodeId, bool | None]
) -> bool | None:
    """None: independent of the states; True: position by position; False: mixes positions."""
    if node in known:
        return known[node]
    n = b.nodes[node]
    result: bool | None
    if node in states:
        result = True
    else:
        args = [_reading(b, a, states, type_, known) for a in n.args]
        if all(a is None for a in args):
            result = None
        else:
            same = n.type.shape == type_.shape and n.type.per == type_.per
            operands = all(
                b.type(a).shape == type_.shape for a, how in zip(n.args, args, strict=True) if how is not None
            )
            result = False not in args and OPS[n.op].category == "elementwise" and same and operands
    known[node] = result
    return result

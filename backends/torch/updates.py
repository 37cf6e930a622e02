"""Low-rank terms and writes of one direction as one update: S += u (v + c S^T b)^T costs half of two separate terms."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from rnnc.analysis.forms import MicroStep
from rnnc.ir.graph import CellIR, NodeId

Pair = tuple[NodeId, NodeId]
Write = tuple[NodeId, NodeId | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedUpdate:
    """S += u (v + c S^T b)^T with c = +-product of the scalars `factors`."""

    u: NodeId
    v: NodeId | None
    b: NodeId
    factors: tuple[NodeId, ...]
    negative: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """A vector as +-(product of scalars) times a vector that is no product."""

    negative: bool
    factors: tuple[NodeId, ...]
    base: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """+-product of scalars."""

    negative: bool
    factors: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FactoredUpdate:
    """S += write u (v + read S^T b)^T, no scalar left in the vectors: a delta rule's u and b are one node."""

    u: NodeId
    v: NodeId | None
    b: NodeId
    read: Scale
    write: Scale

    @property
    def nodes(self) -> list[NodeId | None]:
        return [self.u, self.v, self.b, *self.read.factors, *self.write.factors]


def factored(cell: CellIR, update: FusedUpdate) -> FactoredUpdate:
    """before: u = beta k, v, b = k, c = -alpha      -->  after: u = b = k, read = -alpha, write = beta"""
    u, b = scaled(cell, update.u), scaled(cell, update.b)
    read = Scale(negative=update.negative != b.negative, factors=(*update.factors, *b.factors))
    return FactoredUpdate(
        u=u.base, v=update.v, b=b.base, read=read, write=Scale(negative=u.negative, factors=u.factors)
    )


def fused_updates(cell: CellIR, step: MicroStep) -> tuple[list[FusedUpdate], list[Pair], list[Write]]:
    """The terms of a micro-step that share a direction, and the others.

    before: low_rank (-alpha beta k, k), write (beta k, v)      -->  after: update u = beta k, v, b = k, c = -alpha
    """
    found: list[FusedUpdate] = []
    low_rank = list(step.low_rank)
    left: list[Write] = []
    for u, v in step.writes:
        match = next((m for a, b in low_rank if (m := fuse(cell, a, b, u, v)) is not None), None)
        if match is None:
            left.append((u, v))
            continue
        update, pair = match
        found.append(update)
        low_rank.remove(pair)
    return found, low_rank, left


def fuse(cell: CellIR, a: NodeId, b: NodeId, u: NodeId, v: NodeId | None) -> tuple[FusedUpdate, Pair] | None:
    """a = c u for a product c of scalars, if it can be seen."""
    whole, part = scaled(cell, a), scaled(cell, u)
    if whole.base != part.base:
        return None
    rest = list(whole.factors)
    for factor in part.factors:
        if factor not in rest:
            return None
        rest.remove(factor)
    negative = whole.negative != part.negative
    return FusedUpdate(u=u, v=v, b=b, factors=tuple(rest), negative=negative), (a, b)


def scaled(cell: CellIR, node: NodeId) -> Scaled:
    """`node`, a vector, with its scalar factors taken out."""
    n = cell.nodes[node]
    if n.op == "neg":
        inner = scaled(cell, n.args[0])
        return Scaled(negative=not inner.negative, factors=inner.factors, base=inner.base)
    if n.op == "mul":
        for scalar, vector in (n.args, n.args[::-1]):
            at = as_scalar(cell, scalar)
            if at is None or cell.nodes[vector].type.rank != n.type.rank:
                continue
            negative, factors = product(cell, at)
            inner = scaled(cell, vector)
            return Scaled(negative=negative != inner.negative, factors=(*factors, *inner.factors), base=inner.base)
    return Scaled(negative=False, factors=(), base=node)


def as_scalar(cell: CellIR, node: NodeId) -> NodeId | None:
    """The rank-0 value behind a node whose core axes have all size 1."""
    n = cell.nodes[node]
    while n.op in ("expand", "broadcast") and n.op == "expand":
        n = cell.nodes[n.args[0]]
    return n.id if n.type.rank == 0 else None


def product(cell: CellIR, node: NodeId) -> tuple[bool, tuple[NodeId, ...]]:
    """A scalar as its sign and its factors."""
    n = cell.nodes[node]
    if n.op == "neg":
        negative, factors = product(cell, n.args[0])
        return not negative, factors
    if n.op == "mul" and all(cell.nodes[a].type.rank == 0 for a in n.args) and not n.name:
        (s, a), (t, b) = (product(cell, x) for x in n.args)
        return s != t, (*a, *b)
    if n.op == "const" and n.attr("value") in (Fraction(-1), Fraction(1)):
        return n.attr("value") == Fraction(-1), ()
    return False, (node,)

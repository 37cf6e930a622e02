"""Which matrices are a diagonal plus a low rank, by how they are computed."""

from __future__ import annotations

from dataclasses import dataclass

from rnnc.ir.dims import ONE
from rnnc.ir.evaluate import Domain
from rnnc.ir.graph import CellIR, Node, NodeId
from rnnc.ir.types import Type


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagonalPlus:
    """A matrix [n, m] that is a diagonal one (if `diagonal`, else zero) plus one of rank at most `rank`."""

    diagonal: bool
    rank: int


class Matrices(Domain[DiagonalPlus | None]):
    """The domain: None is any value."""

    def __init__(self, cell: CellIR) -> None:
        self.cell = cell

    def leaf(self, node: Node) -> DiagonalPlus | None:
        return DiagonalPlus(diagonal=True, rank=0) if node.op == "eye" else None

    def apply(self, node: Node, args: tuple[DiagonalPlus | None, ...]) -> DiagonalPlus | None:
        first = args[0]
        match node.op:
            case "layout" if node.attr("kind") == "diag":
                return DiagonalPlus(diagonal=True, rank=0)
            case "neg" | "conj" | "lift":
                return first
            case "transpose":
                return first if node.type.rank == 2 else None
            case "add" | "sub":
                return self._sum(node, args)
            case "mul" | "div":
                return self._scaled(node, args)
            case "einsum":
                return self._product(node, args)
            case _:
                return None

    def _type(self, node: NodeId) -> Type:
        return self.cell.nodes[node].type

    def _sum(self, node: Node, args: tuple[DiagonalPlus | None, ...]) -> DiagonalPlus | None:
        a, b = args
        if a is None or b is None or any(self._type(x).shape != node.type.shape for x in node.args):
            return None
        return DiagonalPlus(diagonal=a.diagonal or b.diagonal, rank=a.rank + b.rank)

    def _scaled(self, node: Node, args: tuple[DiagonalPlus | None, ...]) -> DiagonalPlus | None:
        """Rows or columns scaled: a factor that is constant along one of the two axes."""
        for k, (found, other) in enumerate(zip(args, reversed(node.args))):
            shape = self._type(other).shape
            whole = found is not None and self._type(node.args[k]).shape == node.type.shape
            if whole and (k == 0 or node.op == "mul") and (not shape or ONE in shape):
                return found
        return None

    def _product(self, node: Node, args: tuple[DiagonalPlus | None, ...]) -> DiagonalPlus | None:
        a, b = args
        match node.attr("spec"):
            case "i,j->ij":
                return DiagonalPlus(diagonal=False, rank=1)
            case "ij,jk->ik" if a is not None and b is not None:
                if not a.diagonal or not b.diagonal:
                    return DiagonalPlus(diagonal=False, rank=a.rank if not a.diagonal else b.rank)
                return DiagonalPlus(diagonal=True, rank=a.rank + b.rank)
            case _:
                return None

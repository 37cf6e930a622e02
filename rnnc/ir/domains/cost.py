"""What one step costs, per sequence: symbolic in the dims."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rnnc.ir.dims import ONE, Dim
from rnnc.ir.evaluate import Domain, evaluate
from rnnc.ir.graph import CellIR, Node, NodeId
from rnnc.ir.ops import OPS
from rnnc.ir.types import Type

NONE = Dim.of(0)
BYTES = {"real": 4, "complex": 8, "bool": 1, "token": 8}
COPIES_NOTHING = frozenset({"lift", "merge", "split_per", "expand", "broadcast", "reshape", "transpose", "slice"})
MATRIX_PRODUCTS = {"expm": 20, "cayley": 2, "solve": 1}  # work of a function of a matrix, in products of its size


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one node: floating-point operations (complex ones count four), calls of exp, log, ..., and bytes of
    arguments read and result written if nothing is fused (reals of 4 bytes)."""

    flops: Dim = NONE
    special: Dim = NONE
    bytes: Dim = NONE

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            flops=self.flops + other.flops, special=self.special + other.special, bytes=self.bytes + other.bytes
        )


def elements(t: Type) -> Dim:
    total = ONE
    for d in (*t.per, *t.shape):
        total = total * d
    return total


def size_in_bytes(t: Type) -> Dim:
    return elements(t) * BYTES[t.dtype]


class Costs(Domain[Cost]):
    """The cost domain: each node's own cost (sum them for a graph's)."""

    def __init__(self, cell: CellIR) -> None:
        self.cell = cell

    def leaf(self, node: Node) -> Cost:
        return Cost()

    def apply(self, node: Node, args: tuple[Cost, ...]) -> Cost:
        types = [self.cell.nodes[a].type for a in node.args]
        op = OPS[node.op]
        weight = 4 if node.type.dtype == "complex" or any(t.dtype == "complex" for t in types) else 1
        over = elements(types[0] if op.category == "reduction" else node.type)
        moved = NONE if node.op in COPIES_NOTHING else sum((size_in_bytes(t) for t in types), size_in_bytes(node.type))
        flops = self._products(node, types) + over * op.flops
        return Cost(flops=flops * weight, special=over * op.special, bytes=moved)

    def _products(self, node: Node, types: list[Type]) -> Dim:
        """Multiplications and additions of contractions."""
        match node.op:
            case "einsum":
                inputs, output = str(node.attr("spec")).split("->")
                sizes = {
                    x: d for labels, t in zip(inputs.split(","), types, strict=True) for x, d in zip(labels, t.shape)
                }
                total = elements(Type(shape=(*sizes.values(), *node.type.per)))
                return total * (2 if set(sizes) - set(output) else 1)
            case "conv":
                return elements(types[1]) * 2
            case "expm" | "cayley" | "solve":
                n = types[0].shape[0]
                columns = n if node.op != "solve" else n + types[1].shape[1]
                return elements(Type(shape=(n, n), per=node.type.per)) * columns * 2 * MATRIX_PRODUCTS[node.op]
            case "attention":
                return (elements(types[0]) + elements(types[2])) * 2  # for each earlier step
            case _:
                return NONE


def costs(cell: CellIR, nodes: Iterable[NodeId] | None = None) -> dict[NodeId, Cost]:
    """The cost of each node that `nodes` (all when None) need; calls and repeats count nothing: inline them first."""
    return evaluate(cell, Costs(cell), nodes)


def total(cell: CellIR, nodes: Iterable[NodeId] | None = None) -> Cost:
    return sum(costs(cell, nodes).values(), Cost())

"""The values of a whole single step as C expressions, at the place where they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from rnnc.backends.cpu.single import axes, only_units
from rnnc.backends.cpu.single_places import ZERO, Index, Place, Text, numbers, strides_text, vector
from rnnc.backends.cpu.text import INFIX, LOGICAL, dim_c, number_c
from rnnc.ir.dims import ONE, Dim
from rnnc.ir.graph import CellIR, Node, NodeId


@dataclass(slots=True, kw_only=True)
class Values:
    """The graph of a step, and where values are that have memory: all others are computed where they are read."""

    cell: CellIR
    flattened: bool = False  # all axes are one, along the lanes
    places: dict[NodeId, Place] = field(default_factory=dict)

    @property
    def nodes(self) -> tuple[Node, ...]:
        return self.cell.nodes

    def read(self, i: NodeId, index: Sequence[Index]) -> Text:
        """The value of a node at an index."""
        node = self.nodes[i]
        if i in self.places:
            found = self.places[i].load(self.fit(i, index))
            return found if node.type.dtype != "bool" else (f"({vector(found)} != 0)", "M")
        sizes = axes(node)
        index = self.fit(i, index)
        match node.op:
            case "const":
                value = node.attr("value")
                if isinstance(value, bool):
                    return f"splat_mask({int(value)})", "M"
                assert isinstance(value, Fraction | int | str)
                return number_c(Fraction(value) if isinstance(value, int) else value), "T"
            case "dim":
                return f"(T)({dim_c(Dim.of(node.attr('value')))})", "T"  # type: ignore[arg-type]
            case "re" | "im":
                return self.places[node.args[0]].part(int(node.op == "im")).load(index)
            case "arange":
                start = dim_c(Dim.of(node.attr("start")))  # type: ignore[arg-type]
                return numbers(Index(f"{start} + {index[0].text}", index[0].lane))
            case "eye":
                return self.equal(*map(numbers, index))
            case "one_hot":
                token = f"(T)({self.places[node.args[0]].pointer}[b])"
                return self.equal((token, "T"), numbers(index[-1]))
            case "merge" | "split_per":
                return self.read(node.args[0], index)
            case "lift":
                return self.read(node.args[0], index[len(sizes) - len(axes(self.nodes[node.args[0]])) :])
            case "broadcast":
                return self.read(node.args[0], self.broadcast(node, index))
            case "expand":
                new = {len(sizes) + int(a) for a in node.attr("axes")}  # type: ignore[union-attr,arg-type]
                return self.read(node.args[0], [x for k, x in enumerate(index) if k not in new])
            case "transpose":
                n = len(node.type.per)
                back = [ZERO] * node.type.rank
                for to, of in enumerate(node.attr("perm")):  # type: ignore[arg-type]
                    back[int(of)] = index[n + to]  # type: ignore[arg-type]
                return self.read(node.args[0], [*index[:n], *back])
            case "slice":
                k = len(sizes) + int(node.attr("axis"))  # type: ignore[arg-type]
                start = dim_c(Dim.of(node.attr("start")))  # type: ignore[arg-type]
                moved = index[k] if start == "0" else Index(f"{index[k].text} + {start}", index[k].lane)
                return self.read(node.args[0], [*index[:k], moved, *index[k + 1 :]])
            case "reshape":
                return self.reshaped(node, index)
            case "einsum":
                return self.outer(node, index)
            case "take":
                return self.read(node.args[0], [Index(f"{self.places[node.args[1]].pointer}[b]"), *index])
        return self.pointwise(node, [self.read(a, index) for a in node.args])

    def equal(self, a: Text, b: Text) -> Text:
        """1 where two numbers are the same, else 0."""
        return f"pick({vector(a)} == {vector(b)}, splat(1), splat(0))", "V"

    def fit(self, i: NodeId, index: Sequence[Index]) -> list[Index]:
        """The index of a broadcast operand: none for a number, 0 along axes of size 1."""
        sizes = axes(self.nodes[i])
        if self.flattened and sizes:
            return list(index)
        if len(sizes) != len(index):
            assert not sizes, "elementwise operands have one rank, or none"
            return []
        return [ZERO if d == ONE else x for d, x in zip(sizes, index)]

    def broadcast(self, node: Node, index: Sequence[Index]) -> list[Index]:
        have = self.nodes[node.args[0]].type
        n = len(node.type.per)
        return [*index[: len(have.per)], *index[n + node.type.rank - have.rank :]]

    def reshaped(self, node: Node, index: Sequence[Index]) -> Text:
        """An entry of the argument's memory, which has no gaps; or where axes of size 1 came or went, of itself."""
        if only_units(self.nodes[node.args[0]], node):
            left = iter([x for x, d in zip(index, axes(node), strict=True) if d != ONE])
            return self.read(node.args[0], [ZERO if d == ONE else next(left) for d in axes(self.nodes[node.args[0]])])
        place = self.places[node.args[0]]
        return replace(place, strides=strides_text(axes(node))).load(index)

    def outer(self, node: Node, index: Sequence[Index]) -> Text:
        inputs, output = str(node.attr("spec")).split("->")
        n = len(node.type.per)
        at = dict(zip(output, index[n:], strict=True))
        factors = [
            self.read(a, [*index[:n], *(at[x] for x in labels)]) for a, labels in zip(node.args, inputs.split(","))
        ]
        return self.pointwise(node, factors, "mul")

    def pointwise(self, node: Node, args: list[Text], op: str = "") -> Text:
        op = op or node.op
        kinds = {k for _, k in args}
        if op in INFIX:
            compares = node.type.dtype == "bool"
            if compares and kinds == {"T"}:
                args[0] = (vector(args[0]), "V")
            return f"({args[0][0]} {INFIX[op]} {args[1][0]})", "M" if compares else "T" if kinds == {"T"} else "V"
        match op:
            case "neg":
                return f"(-{args[0][0]})", args[0][1]
            case "not":
                return f"(~{args[0][0]})", "M"
            case "and" | "or":
                return f"({args[0][0]} {LOGICAL[op]} {args[1][0]})", "M"
            case "real":
                return f"pick({args[0][0]}, splat(1), splat(0))", "V"
            case "select":
                return f"pick({args[0][0]}, {vector(args[1])}, {vector(args[2])})", "V"
        return f"v_{op}({', '.join(vector(a) for a in args)})", "V"

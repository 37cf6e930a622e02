"""Builds a `CellIR`'s nodes: infers types, aligns operands, and shares equal nodes."""

from __future__ import annotations

from fractions import Fraction

from rnnc.diagnostics import Span
from rnnc.ir.dims import ONE, Dim
from rnnc.ir.graph import Attr, CellIR, Node, NodeId
from rnnc.ir.ops import OPS, OpTypeError
from rnnc.ir.types import DType, Type

UNSHARED = frozenset({"input", "param", "state", "delay", "conv", "attention", "call", "repeat"})


class Builder:
    """Appends nodes in topological order.  Pure nodes with equal op, arguments and attributes are built once.

    Start from an existing cell with `Builder.of(cell)`; `nodes` is the growing list.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._shared: dict[tuple[object, ...], NodeId] = {}
        self.span: Span | None = None  # given to nodes built from here on

    @staticmethod
    def of(cell: CellIR) -> Builder:
        b = Builder()
        b.nodes = list(cell.nodes)
        for n in cell.nodes:
            if n.op not in UNSHARED:
                b._shared.setdefault((n.op, n.args, n.attrs, n.type), n.id)
        return b

    def type(self, node: NodeId) -> Type:
        return self.nodes[node].type

    def add(self, op: str, *args: NodeId, name: str = "", **attrs: Attr) -> NodeId:
        """One node, its operands taken as they are.  Raises OpTypeError when they do not fit."""
        type_ = OPS[op].infer(attrs, tuple(self.nodes[a].type for a in args))
        items = tuple(sorted(attrs.items()))
        key = (op, args, items, type_)
        if op not in UNSHARED and not name and key in self._shared:
            return self._shared[key]
        node = Node(id=len(self.nodes), op=op, args=args, attrs=items, type=type_, name=name, span=self.span)
        self.nodes.append(node)
        if op not in UNSHARED:
            self._shared.setdefault(key, node.id)
        return node.id

    # ------------------------------------------------------------ leaves

    def const(self, value: Fraction | int | bool | str | tuple[Attr, ...], type_: Type | None = None) -> NodeId:
        """An exact constant: a number, a nested tuple of numbers, a truth value, or "pi" / "e"."""
        if isinstance(value, bool):
            return self.add("const", value=value, type=type_ or Type(dtype="bool"))  # type: ignore[arg-type]
        if isinstance(value, int):
            value = Fraction(value)
        return self.add("const", value=value, type=type_ or Type())  # type: ignore[arg-type]

    def dim(self, value: Dim) -> NodeId:
        """A dimension as a real number; a constant where it is known."""
        known = value.constant
        return self.const(known) if known is not None else self.add("dim", value=value)

    # ------------------------------------------------------------ alignment

    def is_free_scalar(self, node: NodeId) -> bool:
        """A rank-0 constant, which fits operands of any rank and any per block as it is."""
        n = self.nodes[node]
        return n.op in ("const", "dim") and n.type.rank == 0 and not n.type.per

    def lift(self, node: NodeId, per: tuple[Dim, ...]) -> NodeId:
        """`node` inside the per block with axes `per`; its own must be the outer ones of them."""
        have = self.type(node).per
        if have == per or self.is_free_scalar(node):
            return node
        if have != per[: len(have)]:
            raise OpTypeError("a value of one `per` block is used in another", "E0207")
        if not have:
            return self.add("lift", node, per=per)
        # New axes go inside those there are: bring the old ones into the shape, lift, and swap.
        n, extra = len(have), per[len(have) :]
        t = self.type(node)
        merged = self.add("merge", node, n=n)
        spread = self.add("expand", merged, axes=tuple(range(-t.rank - len(extra), -t.rank)))
        full = self.add("broadcast", spread, shape=(*have, *extra, *t.shape))
        return self.add("split_per", full, n=len(per))

    def expand_to_rank(self, node: NodeId, rank: int) -> NodeId:
        """`node` with size-1 core axes in front, up to `rank`: NumPy's alignment made explicit."""
        have = self.type(node).rank
        if have >= rank or self.is_free_scalar(node):
            return node
        return self.add("expand", node, axes=tuple(range(-rank, -have)))

    def align(self, *nodes: NodeId) -> tuple[NodeId, ...]:
        """The same values with one `per` and one rank."""
        per = max((self.type(n).per for n in nodes), key=len)
        lifted = [self.lift(n, per) for n in nodes]
        rank = max(self.type(n).rank for n in lifted)
        return tuple(self.expand_to_rank(n, rank) for n in lifted)

    def map(self, op: str, *args: NodeId, name: str = "") -> NodeId:
        """An elementwise op with NumPy broadcasting of its operands."""
        return self.add(op, *self.align(*args), name=name)

    def einsum(self, spec: str, a: NodeId, b: NodeId, name: str = "") -> NodeId:
        per = max(self.type(a).per, self.type(b).per, key=len)
        return self.add("einsum", self.lift(a, per), self.lift(b, per), spec=spec, name=name)

    def broadcast_to(self, node: NodeId, shape: tuple[Dim, ...], per: tuple[Dim, ...] | None = None) -> NodeId:
        """`node` with exactly this core shape and these per axes (also of a free scalar)."""
        t = self.type(node)
        if per is not None and t.per != per:
            node = self.add("lift", node, per=per) if not t.per else self.lift(node, per)
        return node if t.shape == shape else self.add("broadcast", node, shape=shape)

    # ------------------------------------------------------------ common shorthands

    def matmul(self, a: NodeId, b: NodeId) -> NodeId:
        """`a @ b`: matrix-matrix, matrix-vector, vector-matrix, or dot."""
        specs = {(2, 2): "ij,jk->ik", (2, 1): "ij,j->i", (1, 2): "i,ij->j", (1, 1): "i,i->"}
        ranks = (self.type(a).rank, self.type(b).rank)
        if ranks not in specs:
            raise OpTypeError(f"`@` needs matrices or vectors, not `{self.type(a)}` and `{self.type(b)}`")
        return self.einsum(specs[ranks], a, b)

    def outer(self, u: NodeId, v: NodeId) -> NodeId:
        return self.einsum("i,j->ij", u, v)

    def transpose(self, a: NodeId) -> NodeId:
        if self.type(a).rank != 2:
            raise OpTypeError(f"`.T` needs a matrix, not `{self.type(a)}`")
        return self.add("transpose", a, perm=(1, 0))

    def leaf(self, op: str, name: str, type_: Type) -> NodeId:
        return self.add(op, name=name, type=type_)  # type: ignore[arg-type]


def dtype_of(builder: Builder, node: NodeId) -> DType:
    return builder.type(node).dtype


__all__ = ["ONE", "Builder", "dtype_of"]

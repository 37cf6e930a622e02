"""A step's complex values as pairs of real ones: after it, complex are only leaves and what is handed back.

    before: h <- lam * h + x (complex)      -->  after: re(h), im(h) are read; h <- complex(a re(h) - b im(h) + x, ...)

A leaf is read by `re` and `im` alone, and a result that is complex is a `complex` of two real values, which nothing
else reads: in memory both are pairs of neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, TypeAlias

from rnnc.ir.builder import Builder
from rnnc.ir.graph import CellIR, Node, NodeId, ancestors
from rnnc.ir.rewrite import copy_node

Pair: TypeAlias = "tuple[NodeId, NodeId | None]"  # real and imaginary part (None: zero)

LINEAR = frozenset(
    {"lift", "merge", "split_per", "expand", "broadcast", "transpose", "slice", "reshape", "sum", "mean"}
)  # done to both parts alike
LEAVES = frozenset({"input", "param", "state"})


def in_pairs(cell: CellIR) -> CellIR | None:
    """The cell without complex values inside; None where an operation on them has no such form.

    Requires: plain nodes and states.  Ensures: outputs and updates are what they were; initial values, starts of
    parameters and claims, which a step has no use for, are gone.
    """
    if all(n.type.dtype != "complex" for n in cell.nodes):
        return cell
    live = ancestors(cell, [*(o.node for o in cell.outputs), *(s.update for s in cell.states)])
    leaves = [*(i.node for i in cell.inputs), *(p.node for p in cell.params), *(s.node for s in cell.states)]
    live |= {*leaves}
    pairs = _Pairs()
    for node in cell.nodes:
        if node.id in live and not pairs.add(cell, node):
            return None
    b, at = pairs.builder, pairs.at

    def packed(i: NodeId) -> NodeId:
        re, im = at[i]
        if cell.nodes[i].type.dtype != "complex" or cell.nodes[i].op in LEAVES:
            return pairs.leaves.get(i, re)
        return b.add("complex", re, pairs.zero(re) if im is None else im)

    outputs = tuple(replace(o, node=packed(o.node)) for o in cell.outputs)
    updates = [packed(s.update) for s in cell.states]
    held = {i: pairs.leaves.get(i, at[i][0]) for i in leaves}
    return replace(
        cell,
        nodes=tuple(b.nodes),
        inputs=tuple(replace(i, node=held[i.node]) for i in cell.inputs),
        params=tuple(replace(p, node=held[p.node], init=type(p.init)(), constrained=None) for p in cell.params),
        states=tuple(
            replace(s, node=held[s.node], init=u, update=u) for s, u in zip(cell.states, updates, strict=True)
        ),
        outputs=outputs,
        transitions=(),
        ranges=(),
    )


@dataclass(slots=True)
class _Pairs:
    builder: Builder = field(default_factory=Builder)
    at: dict[NodeId, Pair] = field(default_factory=dict)
    leaves: dict[NodeId, NodeId] = field(default_factory=dict)  # complex ones as they are

    def add(self, cell: CellIR, node: Node) -> bool:
        """Whether it could be done."""
        b, args = self.builder, [self.at[a] for a in node.args]
        attrs: dict[str, Any] = dict(node.attrs)
        dtypes = {cell.nodes[a].type.dtype for a in node.args} | {node.type.dtype}
        if "complex" not in dtypes:
            self.at[node.id] = copy_node(b, node, tuple(re for re, _ in args)), None
            return True
        if node.op in LEAVES:
            leaf = self.leaves[node.id] = copy_node(b, node, ())
            self.at[node.id] = b.add("re", leaf), b.add("im", leaf)
        elif node.op == "const":
            value: Any = node.attr("value")
            re, im = value if isinstance(value, tuple) else (value, Fraction(0))
            if isinstance(re, tuple) or isinstance(im, tuple):
                return False
            kind = replace(node.type, dtype="real")
            self.at[node.id] = b.const(re, kind), b.const(im, kind)
        elif node.op in LINEAR:
            (x,) = args
            parts = [None if p is None else b.add(node.op, p, **attrs) for p in x]
            assert parts[0] is not None
            self.at[node.id] = parts[0], parts[1]
        elif node.op == "concat":
            imags = [self.zero(re) if im is None else im for re, im in args]
            whole = [b.add("concat", *xs, **attrs) for xs in ([re for re, _ in args], imags)]
            self.at[node.id] = whole[0], whole[1]
        elif node.op in RULES:
            self.at[node.id] = RULES[node.op](self, node, args)
        else:
            return False
        return True

    # ------------------------------------------------------------ arithmetic

    def map(self, op: str, *args: NodeId) -> NodeId:
        return self.builder.map(op, *args)

    def zero(self, like: NodeId) -> NodeId:
        return self.builder.const(Fraction(0), replace(self.builder.type(like), dtype="real"))

    def imag(self, z: Pair) -> NodeId:
        return self.zero(z[0]) if z[1] is None else z[1]

    def product(self, a: Pair, b: Pair, times: Callable[[NodeId, NodeId], NodeId]) -> Pair:
        """The four products of the parts, or two where one factor is real."""
        if b[1] is None:
            return times(a[0], b[0]), None if a[1] is None else times(a[1], b[0])
        if a[1] is None:
            return times(a[0], b[0]), times(a[0], b[1])
        re = self.map("sub", times(a[0], b[0]), times(a[1], b[1]))
        return re, self.map("add", times(a[0], b[1]), times(a[1], b[0]))

    def mul(self, node: Node, args: list[Pair]) -> Pair:
        return self.product(args[0], args[1], lambda x, y: self.map("mul", x, y))

    def einsum(self, node: Node, args: list[Pair]) -> Pair:
        spec = str(node.attr("spec"))
        return self.product(args[0], args[1], lambda x, y: self.builder.einsum(spec, x, y))

    def both(self, node: Node, args: list[Pair]) -> Pair:
        """add, sub, neg."""
        if all(im is None for _, im in args):
            return self.map(node.op, *(re for re, _ in args)), None
        return self.map(node.op, *(re for re, _ in args)), self.map(node.op, *(self.imag(z) for z in args))

    def conj(self, node: Node, args: list[Pair]) -> Pair:
        re, im = args[0]
        return re, None if im is None else self.map("neg", im)

    def norm2(self, z: Pair) -> NodeId:
        squares = [self.map("mul", x, x) for x in z if x is not None]
        return squares[0] if len(squares) == 1 else self.map("add", *squares)

    def div(self, node: Node, args: list[Pair]) -> Pair:
        a, b = args
        if b[1] is not None:
            a, below = self.mul(node, [a, self.conj(node, [b])]), self.norm2(b)
        else:
            below = b[0]
        return self.map("div", a[0], below), None if a[1] is None else self.map("div", a[1], below)

    def polar(self, node: Node, args: list[Pair]) -> Pair:
        radius, angle = args[0][0], args[1][0]
        return self.map("mul", radius, self.map("cos", angle)), self.map("mul", radius, self.map("sin", angle))

    def exp(self, node: Node, args: list[Pair]) -> Pair:
        re, im = args[0]
        radius = self.map("exp", re)
        return (radius, None) if im is None else self.polar(node, [(radius, None), (im, None)])

    def norm(self, node: Node, args: list[Pair]) -> Pair:
        """l2norm and rmsnorm over the last axis."""
        (z,), b = args, self.builder
        total = b.add("sum" if node.op == "l2norm" else "mean", self.norm2(z), axes=(-1,))
        shifted = self.map("add", total, b.const(Fraction(str(node.attr("eps")))))
        below = b.add("expand", self.map("sqrt", shifted), axes=(-1,))
        return self.map("div", z[0], below), None if z[1] is None else self.map("div", z[1], below)

    def join(self, node: Node, args: list[Pair]) -> Pair:
        """complex(x, y), whose parts are broadcast against each other."""
        t = node.type
        re, im = (self.builder.broadcast_to(x, t.shape, t.per) for x, _ in args)
        return re, im

    def equal(self, node: Node, args: list[Pair]) -> Pair:
        a, b = args
        same = self.map("and", self.map("eq", a[0], b[0]), self.map("eq", self.imag(a), self.imag(b)))
        return (same if node.op == "eq" else self.map("not", same)), None

    def select(self, node: Node, args: list[Pair]) -> Pair:
        c, a, b = args
        return self.map("select", c[0], a[0], b[0]), self.map("select", c[0], self.imag(a), self.imag(b))


RULES: Mapping[str, Callable[[_Pairs, Node, list[Pair]], Pair]] = {
    "add": _Pairs.both,
    "sub": _Pairs.both,
    "neg": _Pairs.both,
    "mul": _Pairs.mul,
    "div": _Pairs.div,
    "einsum": _Pairs.einsum,
    "conj": _Pairs.conj,
    "exp": _Pairs.exp,
    "polar": _Pairs.polar,
    "complex": _Pairs.join,
    "abs": lambda p, node, args: (p.map("sqrt", p.norm2(args[0])), None),
    "re": lambda p, node, args: (args[0][0], None),
    "im": lambda p, node, args: (p.imag(args[0]), None),
    "l2norm": _Pairs.norm,
    "rmsnorm": _Pairs.norm,
    "eq": _Pairs.equal,
    "ne": _Pairs.equal,
    "select": _Pairs.select,
}

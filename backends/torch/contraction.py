"""code(torch): contractions, printed as what a person would write: `F.linear`, `@`, `*`, a sum, or an einsum."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rnnc.backends.torch.context import Context, core
from rnnc.backends.torch.elementwise import one_field
from rnnc.backends.torch.expr import ATOM, MUL, UNARY, Expr, call, new_axes, tuple_text
from rnnc.ir.graph import Node
from rnnc.ir.types import Type


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """One factor: its expression, its type and the labels of its core axes."""

    e: Expr
    type: Type
    labels: str

    def small_per(self, i: int) -> bool:
        """Whether the i-th per axis has size 1 where the type says more (or is absent)."""
        return -(len(self.type.per) + self.type.rank) + i in self.e.small

    @property
    def shared(self) -> bool:
        """The same static tensor for all per axes: nothing stands in front of its core axes."""
        return self.e.static and self.e.absent == len(self.type.per)

    @property
    def per_parameter(self) -> bool:
        """A static tensor with all its per axes there."""
        per = len(self.type.per)
        return self.e.static and per > 0 and not any(self.small_per(i) for i in range(per))


def einsum(c: Context, node: Node, args: list[Expr]) -> Expr:
    inputs, out = str(node.attr("spec")).split("->")
    if set(inputs.replace(",", "")) - set(out):  # a sum of products: of one dtype
        args = one_field(c, node, node.args, args)
    a, b = (
        Operand(e=c.whole(e, c.type(n), core(c.type(n))), type=c.type(n), labels=labels)
        for e, n, labels in zip(args, node.args, inputs.split(","))
    )
    return fully_per(c, node, a, b, out) or placed(
        pairwise(a, b, out) or contracted(a, b, out) or general(a, b, out), node, a, b
    )


def placed(e: Expr, node: Node, a: Operand, b: Operand) -> Expr:
    """What is known of the value: a per axis is small where it is in both factors."""
    static = a.e.static and b.e.static
    rank, per = node.type.rank, len(node.type.per)
    small = frozenset(-rank - per + i for i in range(per) if a.small_per(i) and b.small_per(i))
    return replace(e, static=static, low=True, small=small, absent=min(a.e.absent, b.e.absent) if static else 0)


# ---------------------------------------------------------------- learned maps


def fully_per(c: Context, node: Node, a: Operand, b: Operand, out: str) -> Expr | None:
    """Products of a parameter with a vector: one matmul, also for all heads at once."""
    for w, x in ((a, b), (b, a)):
        if len(x.labels) != 1 or not w.e.static or x.e.static or x.labels not in w.labels:
            continue
        if len(w.labels) == 1:
            return scalar_map(c, node, w, x)
        if len(w.labels) == 2 and out == w.labels.replace(x.labels, ""):
            return linear_map(c, node, w, x, transposed=w.labels[0] == x.labels)
    return None


def linear_map(c: Context, node: Node, w: Operand, x: Operand, transposed: bool) -> Expr | None:
    """W x, for W [*per, o, i], or W^T x for W [*per, i, o] (`transposed`)."""
    per = len(w.type.per)
    if w.shared:
        keep = _per_small(x, node)
        if transposed:
            return Expr(text=f"{x.e.at(MUL)} @ {w.e.at(UNARY)}", prec=MUL, low=True, small=keep)
        if w.e.flipped is not None:
            return Expr(text=f"{x.e.at(MUL)} @ {w.e.flipped.at(UNARY)}", prec=MUL, low=True, small=keep)
        return _linear(c, x.e.text, w.e.text, lambda bias: bias.text if bias.absent == per else None, "", keep)
    if not w.per_parameter or x.e.unlifted is None:
        return None
    weight = w.e if not transposed else replace(w.e, text=f"{w.e.atom}.mT", prec=ATOM)
    sizes = tuple_text([c.dim(d) for d in (*w.type.per, node.type.shape[0])])
    bias = lambda e: f"{e.atom}.flatten()" if e.absent == 0 else None  # noqa: E731
    return _linear(
        c, x.e.unlifted.text, f"{weight.atom}.flatten(0, {per})", bias, f".unflatten(-1, {sizes})", frozenset()
    )


def scalar_map(c: Context, node: Node, w: Operand, x: Operand) -> Expr | None:
    """w . x for w [*per, i]: the per axes are the outputs of one matmul."""
    per = len(w.type.per)
    if w.shared:
        return Expr(text=f"{x.e.at(MUL)} @ {w.e.at(UNARY)}", prec=MUL, low=True, small=_per_small(x, node))
    if not w.per_parameter or x.e.unlifted is None:
        return None
    if per == 1:
        return _linear(c, x.e.unlifted.text, w.e.text, lambda e: e.text if e.absent == 0 else None, "", frozenset())
    sizes = tuple_text([c.dim(d) for d in w.type.per])
    bias = lambda e: f"{e.atom}.flatten()" if e.absent == 0 else None  # noqa: E731
    weight = f"{w.e.atom}.flatten(0, {per - 1})"
    return _linear(c, x.e.unlifted.text, weight, bias, f".unflatten(-1, {sizes})", frozenset())


def _per_small(x: Operand, node: Node) -> frozenset[int]:
    total = len(node.type.per) + node.type.rank
    return frozenset(-total + i for i in range(len(node.type.per)) if x.small_per(i))


def _linear(c: Context, x: str, w: str, bias_text, tail: str, small: frozenset[int]) -> Expr:  # type: ignore[no-untyped-def]
    """`F.linear` (or the runtime's `linear`), and how it takes a bias that is added to it."""
    native = c.native and c.lead == 2
    name = c.use("linear") if native else f"{c.use('F')}.linear"

    def made(bias: str) -> Expr:
        arguments = (x, w, bias)
        text = f"{name}({', '.join(a for a in arguments if a)}){tail}"
        return Expr(text=text, low=True, small=small, projection=arguments if native and not tail else None)

    def with_bias(bias: Expr) -> Expr | None:
        text = bias_text(bias)
        return None if text is None else made(text)

    return replace(made(""), add_bias=with_bias)


# ---------------------------------------------------------------- products of values


def pairwise(a: Operand, b: Operand, out: str) -> Expr | None:
    """Nothing is summed: an elementwise product of the factors with new axes (an outer product)."""
    if set(a.labels + b.labels) != set(out) or not (_in_order(a.labels, out) and _in_order(b.labels, out)):
        return None
    left, right = (
        new_axes(x.e, len(out), tuple(i - len(out) for i, label in enumerate(out) if label not in x.labels))
        for x in (a, b)
    )
    return Expr(text=f"{left.at(MUL)} * {right.at(UNARY)}", prec=MUL)


def _in_order(labels: str, out: str) -> bool:
    places = [out.index(x) for x in labels]
    return places == sorted(set(places))


def contracted(a: Operand, b: Operand, out: str) -> Expr | None:
    """One axis is summed: a dot, a matrix times a vector, or a product of matrices."""
    if len(set(a.labels)) < len(a.labels) or len(set(b.labels)) < len(b.labels):
        return None
    summed = [x for x in a.labels if x in b.labels and x not in out]
    if a.labels == b.labels and summed and _in_order(out, a.labels) and set(out) <= set(a.labels):
        axes = [str(i - len(a.labels)) for i, x in enumerate(a.labels) if x not in out]
        if len(a.labels) == 1 and (a.shared or b.shared):
            return Expr(text=f"{a.e.at(MUL)} @ {b.e.at(UNARY)}", prec=MUL)
        return Expr(text=f"({a.e.at(MUL)} * {b.e.at(UNARY)}).sum({axes[0] if len(axes) == 1 else tuple_text(axes)})")
    if len(summed) != 1 or set(a.labels + b.labels) != {*out, *summed}:
        return None
    (k,) = summed
    ranks = len(a.labels), len(b.labels)
    if ranks in ((2, 1), (1, 2)) and len(out) == 1:
        m, v = (a, b) if ranks == (2, 1) else (b, a)
        if m.per_parameter and not v.e.static:
            return None  # an einsum batches over the heads; a matmul would copy W for each element of the batch
        matrix = m.e if m.labels[1] == k else transposed(m.e)
        return Expr(text=f"({matrix.at(MUL)} @ {new_axes(v.e, 2, (-1,)).text}).squeeze(-1)")
    if ranks == (2, 2) and len(out) == 2:
        first, second = (a, b) if out[0] in a.labels else (b, a)
        if (first.per_parameter and not second.e.static) or (second.per_parameter and not first.e.static):
            return None
        left = first.e if first.labels == out[0] + k else transposed(first.e)
        right = second.e if second.labels == k + out[1] else transposed(second.e)
        return Expr(text=f"{left.at(MUL)} @ {right.at(UNARY)}", prec=MUL)
    return None


def transposed(e: Expr) -> Expr:
    if e.flipped is not None:
        return e.flipped
    return replace(e, text=f"{e.atom}.mT", prec=ATOM, base="", index=(), unlifted=None, flipped=e, add_bias=None)


def general(a: Operand, b: Operand, out: str) -> Expr:
    """An einsum; the per axes get labels of their own when one factor is a per parameter, so that they are a batch."""
    free = iter(x for x in "hgpqrstuvwxyzabcdefijklmno" if x not in a.labels + b.labels)
    per = ""
    if not (a.e.absent or b.e.absent):
        per = "".join(next(free) for _ in a.type.per)
    spec = f"...{per}{a.labels},...{per}{b.labels}->...{per}{out}"
    return Expr(text=call("torch.einsum", f'"{spec}"', a.e.text, b.e.text))

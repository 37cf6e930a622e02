"""What each op does to the labels of a sum of monomials.

Every rule takes the argument's terms and gives the result's; `out` lists the axes of `[*per, *shape]`.  An axis is `()`
exactly where its size is 1.  Rules raise NotRepresentable where the result is no small sum of monomials.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from rnnc.analysis.monomials import (
    Axes,
    Axis,
    Factor,
    Labels,
    Monomial,
    NotRepresentable,
    Sum,
    Unifier,
    collect,
    elementwise_product,
    labels_of,
    product,
    renamed,
    rewrite,
)
from rnnc.ir.builder import Builder
from rnnc.ir.dims import Dim
from rnnc.ir.graph import Node
from rnnc.ir.types import Type

MOST_PRODUCTS = 512  # of terms, in one product of two sums: those of more rarely come to few terms again
VIEWS = frozenset({"lift", "merge", "split_per", "expand", "broadcast", "reshape", "transpose"})


def attr_int(node: Node, key: str) -> int:
    """An attribute that is a whole number."""
    value = node.attr(key)
    assert isinstance(value, int), f"`{key}` of {node.op}"
    return value


def attr_ints(node: Node, key: str) -> tuple[int, ...]:
    value = node.attr(key)
    assert isinstance(value, tuple), f"`{key}` of {node.op}"
    return tuple(v for v in value if isinstance(v, int))


@dataclass(frozen=True, slots=True)
class Context:
    builder: Builder
    labels: Labels

    def type(self, node: int) -> Type:
        return self.builder.nodes[node].type


def full_shape(t: Type) -> tuple[Dim, ...]:
    return (*t.per, *t.shape)


def spread(m: Monomial, t: Type, ctx: Context) -> Monomial:
    """`m` broadcast to type `t`: fresh labels where an axis of size 1 grows."""
    shape = full_shape(t)
    out = ((),) * (len(shape) - len(m.out)) + m.out
    return replace(m, out=tuple(a or ctx.labels.axis(d) for a, d in zip(out, shape, strict=True)))


def add(terms: Sum, more: Sum, t: Type, ctx: Context) -> Sum:
    return collect(spread(m, t, ctx) for m in terms + more)


def scale(terms: Sum, by: Fraction) -> Sum:
    return tuple(m.scaled(by) for m in terms if by != 0)


def multiply(a: Sum, b: Sum, t: Type, ctx: Context) -> Sum:
    """Elementwise product; at most one of the sums has states."""
    _bounded(a, b)
    rank = len(full_shape(t))
    found = []
    for x in a:
        for y in b:
            left, right = (replace(m, out=((),) * (rank - len(m.out)) + m.out) for m in (x, renamed(y, ctx.labels)))
            found.append(spread(elementwise_product(left, right, ctx.labels), t, ctx))
    return collect(found)


def summed(m: Monomial, gone: Axes, out: Axes, ctx: Context) -> Monomial:
    """`m` with the axes `gone` summed over; a label that nothing carries counts as its size."""
    result = replace(m, out=out)
    for label in sorted(labels_of(gone) - labels_of(out) - result.used):
        result = times_dim(result, ctx.labels.sizes[label], ctx)
    return result


def times_dim(m: Monomial, size: Dim, ctx: Context, *, inverse: bool = False) -> Monomial:
    known = size.constant
    if known is not None:
        return m.scaled(1 / known if inverse else known)
    node = ctx.builder.dim(size)
    if inverse:
        node = ctx.builder.map("div", ctx.builder.const(1), node)
    return replace(m, factors=(*m.factors, Factor(node, ())))


def _bounded(a: Sum, b: Sum) -> None:
    if len(a) * len(b) > MOST_PRODUCTS:
        raise NotRepresentable(f"a product of sums of {len(a)} and {len(b)} terms")


def contract(spec: str, a: Sum, b: Sum, per: int, ctx: Context) -> Sum:
    """einsum over core axes; the `per` axes in front are a batch."""
    _bounded(a, b)
    inputs, output = spec.split("->")
    left, right = inputs.split(",")
    found = []
    for x in a:
        for y in b:
            y = renamed(y, ctx.labels)
            axes: dict[str, list[Axis]] = {}
            for letters, m in ((left, x), (right, y)):
                head = len(m.out) - len(letters)
                names = [f"per{per - head + i}" for i in range(head)] + list(letters)
                for name, axis in zip(names, m.out, strict=True):
                    axes.setdefault(name, []).append(axis)
            pairs = [(have[0], other) for have in axes.values() for other in have[1:]]
            names = [f"per{i}" for i in range(per)] + list(output)
            unifier = Unifier(ctx.labels)
            for p, q in pairs:
                unifier.equate(p, q)
            out = tuple(axes[n][0] if n in axes else () for n in names)
            gone = tuple(unifier.resolve(axis) for n, have in axes.items() if n not in names for axis in have)
            joined = product(x, y, pairs, out, ctx.labels)
            found.append(summed(joined, gone, joined.out, ctx))
    return collect(found)


def view(node: Node, terms: Sum, ctx: Context) -> Sum:
    """lift, merge, split_per, expand, broadcast, reshape, transpose."""
    return tuple(_view(node, m, ctx) for m in terms)


def _view(node: Node, m: Monomial, ctx: Context) -> Monomial:
    source = ctx.type(node.args[0])
    per, core = m.out[: len(source.per)], m.out[len(source.per) :]
    match node.op:
        case "lift":
            added = len(node.type.per) - len(source.per)
            return replace(m, out=ctx.labels.axes(node.type.per[:added]) + m.out)
        case "merge" | "split_per":
            return m
        case "expand":
            axes = list(core)
            added_axes = attr_ints(node, "axes")
            for axis in added_axes:
                axes.insert(len(core) + len(added_axes) + axis, ())
            return replace(m, out=per + tuple(axes))
        case "broadcast":
            grown = node.type.rank - source.rank
            return spread(replace(m, out=per + ((),) * grown + core), node.type, ctx)
        case "transpose":
            return replace(m, out=per + tuple(core[p] for p in attr_ints(node, "perm")))
        case "reshape":
            fresh = ctx.labels.axes(node.type.shape)
            unifier = Unifier(ctx.labels)
            unifier.equate(tuple(x for a in core for x in a), tuple(x for a in fresh for x in a))
            return rewrite(replace(m, out=per + fresh), unifier.of_label)
    raise AssertionError(node.op)


def reduce(node: Node, terms: Sum, ctx: Context) -> Sum:
    """sum, mean."""
    found = []
    for m in terms:
        gone_at = {len(m.out) + a for a in attr_ints(node, "axes")}
        out = tuple(a for i, a in enumerate(m.out) if i not in gone_at)
        gone = tuple(m.out[i] for i in sorted(gone_at))
        result = summed(m, gone, out, ctx)
        if node.op == "mean":
            for axis in gone:
                result = times_dim(result, ctx.labels.size(axis), ctx, inverse=True)
        found.append(result)
    return collect(found)


def layout(node: Node, terms: Sum, ctx: Context) -> Sum:
    """diag and blockdiag: repeated labels; the others have no form as monomials."""
    per = len(node.type.per)
    match node.attr("kind"):
        case "diag":
            return tuple(replace(m, out=m.out[:per] + (m.out[per],) * 2) for m in terms)
        case "blockdiag":
            return tuple(
                replace(m, out=(*m.out[:per], m.out[per] + m.out[per + 1], m.out[per] + m.out[per + 2])) for m in terms
            )
        case kind:
            raise NotRepresentable(f"`{kind}` of the state")


def slice_(node: Node, terms: Sum, ctx: Context) -> Sum:
    """A slice along an axis made of whole parts of one size: the part's number is contracted with a one-hot vector."""
    start, stop = Dim.of(node.attr("start")), Dim.of(node.attr("stop"))  # type: ignore[arg-type]
    found = []
    for m in terms:
        at = len(m.out) + attr_int(node, "axis")
        size, width = ctx.labels.size(m.out[at]), stop - start
        if width == size:
            found.append(m)
            continue
        count, number = _whole(size, width), _whole(start, width)
        if count is None or number is None:
            raise NotRepresentable("a slice that is not one of several equal parts")
        part, inside = (ctx.labels.fresh(Dim.of(count)),), ctx.labels.axis(width)
        unifier = Unifier(ctx.labels)
        unifier.equate(m.out[at], part + inside)
        one_hot = Factor(_one_hot(number, count, ctx), (part,))
        picked = replace(m, factors=(*m.factors, one_hot), out=(*m.out[:at], inside, *m.out[at + 1 :]))
        found.append(rewrite(picked, unifier.of_label))
    return collect(found)


def concat(node: Node, parts: tuple[Sum, ...], ctx: Context) -> Sum:
    """Equal parts side by side: each times a one-hot vector along the part's number."""
    axis = attr_int(node, "axis")
    types = [ctx.type(a) for a in node.args]
    if any(t.shape[axis] != types[0].shape[axis] for t in types):
        raise NotRepresentable("parts of different sizes are joined")
    found = []
    for number, terms in enumerate(parts):
        for m in terms:
            at = len(m.out) + axis
            part = (ctx.labels.fresh(Dim.of(len(parts))),) if len(parts) > 1 else ()
            one_hot = (Factor(_one_hot(number, len(parts), ctx), (part,)),) if part else ()
            found.append(replace(m, factors=m.factors + one_hot, out=(*m.out[:at], part + m.out[at], *m.out[at + 1 :])))
    return collect(found)


def _whole(size: Dim, width: Dim) -> int | None:
    """size / width if that is a known whole number."""
    if len(width.terms) != 1:
        return 1 if size == width else 0 if size == Dim.of(0) else None
    ratio = (size / width).constant
    return int(ratio) if ratio is not None and ratio.denominator == 1 else None


def _one_hot(number: int, count: int, ctx: Context) -> int:
    value = tuple(Fraction(int(i == number)) for i in range(count))
    return ctx.builder.const(value, Type(shape=(Dim.of(count),)))

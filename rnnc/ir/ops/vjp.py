"""Derivatives: for each op, the gradient with respect to its arguments, built as nodes.

`rule(b, node, g, wanted)` gets the gradient `g` of a real loss with respect to the node's value (for a complex value
PyTorch's convention: the conjugate of dL/dz, so that z - lr * g descends).  For holomorphic f the argument's gradient
is g * conj(f'(x)).  A rule may return a gradient that is broadcast against its argument, or complex for a real one: the
caller sums and takes the real part.  Points of choice follow PyTorch: relu'(0) = 0, abs'(0) = 0, ties of max(a, b)
and of a maximum over axes share the gradient evenly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeAlias

from rnnc.ir.dims import Dim
from rnnc.ir.types import Type

if TYPE_CHECKING:
    from rnnc.ir.builder import Builder
    from rnnc.ir.graph import Node, NodeId

Grads: TypeAlias = "tuple[NodeId | None, ...]"
Wanted = tuple[bool, ...]


# ---------------------------------------------------------------- helpers


def conj_of(b: Builder, x: NodeId) -> NodeId:
    return b.map("conj", x) if b.type(x).dtype == "complex" else x


def _times(b: Builder, g: NodeId, *factors: NodeId) -> NodeId:
    for f in factors:
        g = b.map("mul", g, conj_of(b, f))
    return g


def _one_minus(b: Builder, x: NodeId) -> NodeId:
    return b.map("sub", b.const(1), x)


def _unary(slope: Callable[[Builder, NodeId, NodeId], NodeId]) -> Callable[..., Grads]:
    """The rule of y = f(x) from `slope(b, x, y)` = f'(x)."""

    def rule(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
        return (_times(b, g, slope(b, node.args[0], node.id)),)

    return rule


def _keep_axes(b: Builder, reduced: NodeId, axes: tuple[int, ...], type_: Type) -> NodeId:
    """A reduced value with its axes back as size 1."""
    return b.add("expand", reduced, axes=tuple(sorted(axes))) if axes else reduced


# ---------------------------------------------------------------- elementwise: slopes

exp = _unary(lambda b, x, y: y)
expm1 = _unary(lambda b, x, y: b.map("add", y, b.const(1)))
log = _unary(lambda b, x, y: b.map("div", b.const(1), x))
sqrt = _unary(lambda b, x, y: b.map("div", b.const(Fraction(1, 2)), y))
sin = _unary(lambda b, x, y: b.map("cos", x))
cos = _unary(lambda b, x, y: b.map("neg", b.map("sin", x)))
tanh = _unary(lambda b, x, y: _one_minus(b, b.map("mul", y, y)))
relu = _unary(lambda b, x, y: b.map("step", x))
sigmoid = _unary(lambda b, x, y: b.map("mul", y, _one_minus(b, y)))
softplus = _unary(lambda b, x, y: b.map("sigmoid", x))
logsigmoid = _unary(lambda b, x, y: b.map("sigmoid", b.map("neg", x)))


@_unary
def silu(b: Builder, x: NodeId, y: NodeId) -> NodeId:
    s = b.map("sigmoid", x)
    return b.map("mul", s, b.map("add", b.const(1), b.map("mul", x, _one_minus(b, s))))


def _gauss(b: Builder, x: NodeId, scale: Fraction, power: Fraction) -> NodeId:
    """sqrt(scale / pi) exp(-power x^2)."""
    height = b.map("sqrt", b.map("div", b.const(scale), b.const("pi")))
    return b.map("mul", height, b.map("exp", b.map("mul", b.const(-power), b.map("mul", x, x))))


erf = _unary(lambda b, x, y: _gauss(b, x, Fraction(4), Fraction(1)))


@_unary
def gelu(b: Builder, x: NodeId, y: NodeId) -> NodeId:
    """Phi(x) + x phi(x)."""
    half = b.const(Fraction(1, 2))
    cdf = b.map("mul", half, b.map("add", b.const(1), b.map("erf", b.map("mul", x, b.map("sqrt", half)))))
    return b.map("add", cdf, b.map("mul", x, _gauss(b, x, Fraction(1, 2), Fraction(1, 2))))


def abs_(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    """g x / |x|, and 0 at 0."""
    x = node.args[0]
    if b.type(x).dtype == "real":
        return (b.map("mul", g, b.map("sign", x)),)
    size = b.map("select", b.map("eq", node.id, b.const(0)), b.const(1), node.id)
    return (b.map("mul", g, b.map("div", x, size)),)


def neg(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    return (b.map("neg", g),)


def conj(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    return (conj_of(b, g),)


def re(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    return (g,)


def im(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    return (b.map("complex", b.const(0), g),)


# ---------------------------------------------------------------- elementwise: several arguments


def add(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    return (g, g)


def sub(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    return (g, b.map("neg", g) if wanted[1] else None)


def mul(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    x, y = node.args
    return (_times(b, g, y) if wanted[0] else None, _times(b, g, x) if wanted[1] else None)


def div(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    down = b.map("div", g, conj_of(b, node.args[1]))
    return (down, b.map("neg", _times(b, down, node.id)) if wanted[1] else None)


def pow_(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    """n x^(n-1) and y log x; where the power is 0, and where x^n with x = 0 has no logarithm, the slope is 0."""
    x, n = node.args
    zero = b.const(0)
    dx = dn = None
    if wanted[0]:
        known = b.nodes[n].attr("value") if b.nodes[n].op == "const" else None
        if isinstance(known, Fraction):
            less = b.const(known - 1)
            dx = _times(b, g, n, b.map("pow", x, less) if known not in (1, 2) else (x if known == 2 else b.const(1)))
            dx = None if known == 0 else dx
        else:
            slope = b.map("mul", n, b.map("pow", x, b.map("sub", n, b.const(1))))
            dx = (
                _times(b, g, b.map("select", b.map("eq", n, zero), zero, slope))
                if b.type(n).dtype == "real"
                else _times(b, g, slope)
            )
    if wanted[1]:
        if b.type(x).dtype == "real":
            at_zero = b.map("eq", x, zero)
            safe = b.map("select", at_zero, b.const(1), x)
            dn = b.map("select", at_zero, zero, _times(b, g, node.id, b.map("log", safe)))
        else:
            dn = _times(b, g, node.id, b.map("log", x))
    return (dx, dn)


def max_(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    x, y = node.args
    tied = b.map("eq", x, y)
    half = b.map("mul", g, b.const(Fraction(1, 2)))

    def share(loser: NodeId, winner: NodeId) -> NodeId:
        won = b.map("select", b.map("lt", loser, winner), g, b.const(0))
        return b.map("select", tied, half, won)

    return (share(y, x) if wanted[0] else None, share(x, y) if wanted[1] else None)


def min_(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    x, y = node.args
    second, first = max_(b, replace(node, args=(y, x)), g, (wanted[0], wanted[1]))
    return (second, first)


def logaddexp(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    x, y = node.args
    return (
        b.map("mul", g, b.map("sigmoid", b.map("sub", x, y))) if wanted[0] else None,
        b.map("mul", g, b.map("sigmoid", b.map("sub", y, x))) if wanted[1] else None,
    )


def select(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    c = node.args[0]
    zero = b.const(0)
    return (
        None,
        b.map("select", c, g, zero) if wanted[1] else None,
        b.map("select", c, zero, g) if wanted[2] else None,
    )


def polar(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    """re(g conj(e^(i theta))) and re(g conj(i y)) = im(g conj(y))."""
    turn = b.map("polar", b.const(1), node.args[1])
    return (
        b.map("re", _times(b, g, turn)) if wanted[0] else None,
        b.map("im", _times(b, g, node.id)) if wanted[1] else None,
    )


def complex_(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    return (b.map("re", g), b.map("im", g) if wanted[1] else None)


# ---------------------------------------------------------------- views


def lift(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    """Sums over the new (outermost) per axes."""
    arg = b.type(node.args[0])
    inner = len(arg.per)
    new = len(node.type.per) - inner
    flat = b.add("merge", g, n=new + inner)
    rank = arg.rank + inner
    total = b.add("sum", flat, axes=tuple(range(-rank - new, -rank)))
    return (b.add("split_per", total, n=inner) if inner else total,)


def merge(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    return (b.add("split_per", g, n=node.attr("n")),)  # type: ignore[arg-type]


def split_per(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    return (b.add("merge", g, n=node.attr("n")),)  # type: ignore[arg-type]


def broadcast(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    """The caller sums over what was broadcast."""
    return (g,)


def reshape(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    return (b.add("reshape", g, shape=b.type(node.args[0]).shape),)


def transpose(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    perm: Any = node.attr("perm")
    return (b.add("transpose", g, perm=tuple(perm.index(i) for i in range(len(perm)))),)


def slice_(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    """g with zeros before and after it."""
    axis: Any = node.attr("axis")
    start, stop = Dim.of(node.attr("start")), Dim.of(node.attr("stop"))  # type: ignore[arg-type]
    whole = b.type(node.args[0])
    parts = []
    for size, part in ((start, None), (stop - start, g), (whole.shape[axis] - stop, None)):
        shape = list(whole.shape)
        shape[axis] = size
        if part is not None:
            parts.append(part)
        elif size != 0:
            parts.append(b.const(Fraction(0), Type(dtype=b.type(g).dtype, shape=tuple(shape), per=whole.per)))
    return (b.add("concat", *parts, axis=axis) if len(parts) > 1 else g,)


def concat(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    axis: Any = node.attr("axis")
    at = Dim.of(0)
    grads: list[NodeId | None] = []
    for arg, want in zip(node.args, wanted, strict=True):
        end = at + b.type(arg).shape[axis]
        grads.append(b.add("slice", g, axis=axis, start=at, stop=end) if want else None)
        at = end
    return tuple(grads)


# ---------------------------------------------------------------- contraction, reductions


def einsum(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    """d/da of "a,b->o" is "o,b->a" with b conjugated; an axis of a that stands nowhere else is broadcast."""
    inputs, output = str(node.attr("spec")).split("->")
    labels = inputs.split(",")

    def one(i: int) -> NodeId:
        other = conj_of(b, node.args[1 - i])
        found = "".join(x for x in labels[i] if x in output or x in labels[1 - i])
        grad = b.einsum(f"{output},{labels[1 - i]}->{found}", g, other)
        if found == labels[i]:
            return grad
        missing = tuple(k - len(labels[i]) for k, x in enumerate(labels[i]) if x not in found)
        return b.add("broadcast", b.add("expand", grad, axes=missing), shape=b.type(node.args[i]).shape)

    return (one(0) if wanted[0] else None, one(1) if wanted[1] else None)


def sum_(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    axes: Any = node.attr("axes")
    arg = b.type(node.args[0])
    return (b.broadcast_to(_keep_axes(b, g, axes, arg), arg.shape),)


def mean(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    axes: Any = node.attr("axes")
    count = Dim.of(1)
    for axis in axes:
        count = count * b.type(node.args[0]).shape[axis]
    (spread,) = sum_(b, node, b.map("div", g, b.dim(count)), wanted)
    return (spread,)


def extremum(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    """amax and amin: shared evenly among the places that attain it."""
    axes: Any = node.attr("axes")
    x = node.args[0]
    arg = b.type(x)
    hit = b.add("real", b.map("eq", x, _keep_axes(b, node.id, axes, arg)))
    share = b.map("div", g, b.add("sum", hit, axes=axes))
    return (b.map("mul", hit, _keep_axes(b, share, axes, arg)),)

"""Derivatives of structured operators and of norms; the conventions are those of `rnnc.ir.ops.vjp`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from rnnc.ir.dims import Dim
from rnnc.ir.ops.vjp import Grads, Wanted, conj_of
from rnnc.ir.types import Type

if TYPE_CHECKING:
    from rnnc.ir.builder import Builder
    from rnnc.ir.graph import Node, NodeId


def _like(b: Builder, value: int, x: NodeId) -> NodeId:
    """A constant of x's type."""
    return b.const(Fraction(value), replace(b.type(x), vocab=None))


def _conj_transpose(b: Builder, m: NodeId) -> NodeId:
    return conj_of(b, b.transpose(m))


# ---------------------------------------------------------------- structured


def layout(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    return (b.add("layout_transpose", g, kind=node.attr("kind"), shape=b.type(node.args[0]).shape),)  # type: ignore[arg-type]


def layout_transpose(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    """The adjoint's adjoint; a companion's fixed ones belong to the layout, not to its linear part."""
    kind: Any = node.attr("kind")
    if kind != "companion":
        return (b.add("layout", g, kind=kind),)
    n = node.type.shape[0]
    blank = b.const(Fraction(0), Type(shape=(n, n - 1), per=node.type.per))
    return (b.add("concat", blank, b.add("expand", g, axes=(-1,)), axis=-1),)


def rotation_blocks(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    """d rotation(theta) / d theta is rotation(theta + pi/2)."""
    quarter = b.map("div", b.const("pi"), b.const(2))
    slope = b.add("rotation_blocks", b.map("add", node.args[0], quarter))
    return (b.add("sum", b.map("mul", g, slope), axes=(-2, -1)),)


def expm(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    """The Frechet derivative at A^H in direction g: the upper right block of exp [[A^H, g], [0, A^H]] (Higham 2008,
    3.16).
    """
    a = _conj_transpose(b, node.args[0])
    n = node.type.shape[0]
    top = b.add("concat", a, g, axis=-1)
    bottom = b.add("concat", _like(b, 0, a), a, axis=-1)
    whole = b.add("expm", b.add("concat", top, bottom, axis=-2))
    rows = b.add("slice", whole, axis=-2, start=Dim.of(0), stop=n)
    return (b.add("slice", rows, axis=-1, start=n, stop=n * 2),)


def cayley(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    """C = (I + M)^-1 (I - M): dC = -(I + M)^-1 dM (I + C)."""
    eye = b.add("eye", n=node.type.shape[0])
    left = _conj_transpose(b, b.map("add", eye, node.args[0]))
    right = _conj_transpose(b, b.map("add", eye, node.id))
    return (b.map("neg", b.matmul(b.add("solve", left, g), right)),)


def solve(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    """X = A^-1 B: dB is A^-H g and dA is -dB X^H."""
    back = b.add("solve", _conj_transpose(b, node.args[0]), g)
    return (b.map("neg", b.matmul(back, _conj_transpose(b, node.id))) if wanted[0] else None, back)


def take(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    rows = "abcdefgh"[: b.type(node.args[0]).rank - 1]
    return (b.einsum(f"z,{rows}->z{rows}", b.add("one_hot", node.args[1]), g), None)


# ---------------------------------------------------------------- norms over the last axis


def _sum_last(b: Builder, x: NodeId) -> NodeId:
    return b.add("expand", b.add("sum", x, axes=(-1,)), axes=(-1,))


def _mean_last(b: Builder, x: NodeId) -> NodeId:
    return b.add("expand", b.add("mean", x, axes=(-1,)), axes=(-1,))


def softmax(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    inner = _sum_last(b, b.map("mul", g, node.id))
    return (b.map("mul", node.id, b.map("sub", g, inner)),)


def _square_size(b: Builder, x: NodeId) -> NodeId:
    return b.map("mul", x, x) if b.type(x).dtype == "real" else b.map("re", b.map("mul", x, conj_of(b, x)))


def _norm(reduce: Callable[[Builder, NodeId], NodeId]) -> Callable[..., Grads]:
    """y = x / n, n = sqrt(reduce |x|^2 + eps): the gradient is (g - y reduce(re(conj(y) g))) / n."""

    def rule(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
        x, eps = node.args[0], b.const(node.attr("eps"))  # type: ignore[arg-type]
        size = b.map("sqrt", b.map("add", reduce(b, _square_size(b, x)), eps))
        along = b.map("mul", g, conj_of(b, node.id))
        inner = reduce(b, b.map("re", along) if b.type(along).dtype == "complex" else along)
        return (b.map("div", b.map("sub", g, b.map("mul", node.id, inner)), size),)

    return rule


l2norm = _norm(_sum_last)
rmsnorm = _norm(_mean_last)


def layernorm(b: Builder, node: Node, g: NodeId, wanted: Wanted) -> Grads:
    x, eps = node.args[0], b.const(node.attr("eps"))  # type: ignore[arg-type]
    centred = b.map("sub", x, _mean_last(b, x))
    size = b.map("sqrt", b.map("add", _mean_last(b, b.map("mul", centred, centred)), eps))
    inner = _mean_last(b, b.map("mul", g, node.id))
    flat = b.map("sub", b.map("sub", g, _mean_last(b, g)), b.map("mul", node.id, inner))
    return (b.map("div", flat, size),)

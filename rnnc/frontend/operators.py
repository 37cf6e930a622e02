"""Structured operators, usable wherever a matrix is: `diag`, `householder`, `rotation`, `permutation`, `zoh`, ..."""

from __future__ import annotations

from fractions import Fraction

from rnnc.frontend import ast
from rnnc.frontend.calls import Bound, Function, Run, define
from rnnc.frontend.expressions import arithmetic, evaluate, known_integer, number_node, shape_mismatch
from rnnc.frontend.functions import argument_node, argument_nodes, vector
from rnnc.frontend.lowering import Lowering
from rnnc.frontend.matmul import matmul_nodes
from rnnc.frontend.sequences import stack
from rnnc.frontend.values import ERROR, ErrorValue, Shape, Tensor, Value
from rnnc.ir.dims import ONE, Dim
from rnnc.ir.types import Type


def _size_of_square(bound: Bound) -> Shape | None:
    """The size of a square matrix, where one is expected."""
    return bound.want[:1] if bound.want is not None and len(bound.want) == 2 else None


def _layout(kind: str) -> Run:
    def run(c: Lowering, bound: Bound) -> Value:
        node = argument_node(c, bound, "v", _size_of_square(bound))
        if node is None or not vector(c, bound, "v", node):
            return ERROR
        return c.build(bound.call.span, kind, lambda: c.b.add("layout", node, kind=kind))

    return run


def _householder(c: Lowering, bound: Bound) -> Value:
    """householder(k, beta) = I - beta k k^T."""
    k = argument_node(c, bound, "k", _size_of_square(bound))
    beta = argument_node(c, bound, "beta", ()) if bound.get("beta") is not None else c.b.const(2)
    if k is None or beta is None or not vector(c, bound, "k", k):
        return ERROR
    if c.b.type(beta).rank != 0:
        return c.error(
            "E0203",
            "the strength of a `householder` is a scalar",
            bound["beta"].span,
            label=c.described(bound["beta"], Tensor(beta)),
        )
    n = c.b.type(k).shape[0]
    return c.build(
        bound.call.span,
        "householder",
        lambda: c.b.map("sub", c.b.add("eye", n=n), c.b.map("mul", beta, c.b.outer(k, k))),
    )


def _rotation(c: Lowering, bound: Bound) -> Value:
    """rotation(theta[p]): 2 x 2 rotations along the diagonal; one angle gives one rotation."""
    size = _size_of_square(bound)
    half = None if size is None else size[0] / 2
    node = argument_node(c, bound, "theta", None if half is None else () if half == ONE else (half,))
    if node is None:
        return ERROR
    theta = c.b.add("reshape", node, shape=(ONE,)) if c.b.type(node).rank == 0 else node
    return c.build(
        bound.call.span,
        "rotation",
        lambda: c.b.add("layout", c.b.add("rotation_blocks", theta), kind="blockdiag"),
    )


def _blockdiag(c: Lowering, bound: Bound) -> Value:
    """blockdiag(M[b, n, n]), or blockdiag(M1, M2, ...) of square matrices of one size."""
    nodes = [number_node(c, evaluate(c, a, bound.context), a, "blockdiag") for a in bound.args]
    found = [n for n in nodes if n is not None]
    if len(found) < len(nodes):
        return ERROR
    if len(found) == 1 and c.b.type(found[0]).rank == 3:
        blocks = found[0]
    elif len({c.b.type(n).shape for n in found}) > 1 or c.b.type(found[0]).rank != 2:
        return c.error("E0203", "`blockdiag` needs square blocks of one size", bound.call.span)
    else:
        blocks = stack(c, found)
    return c.build(bound.call.span, "blockdiag", lambda: c.b.add("layout", blocks, kind="blockdiag"))


def _permutation(c: Lowering, bound: Bound) -> Value:
    """permutation([p0, p1, ...]): the matrix that sends basis vector j to basis vector p_j."""
    expr = bound["p"]
    if not isinstance(expr, ast.ListExpr):
        return c.error("E0209", "`permutation` needs a list such as `[1, 2, 0]`", expr.span)
    images = [known_integer(c, item, bound.context, "an entry of a permutation") for item in expr.items]
    if any(k is None for k in images):
        return ERROR
    n = len(images)
    if sorted(k for k in images if k is not None) != list(range(n)):
        return c.error("E0204", f"this is no permutation of 0, ..., {n - 1}", expr.span)
    zero, one = Fraction(0), Fraction(1)
    rows = tuple(tuple(one if images[j] == i else zero for j in range(n)) for i in range(n))
    return Tensor(c.b.const(rows, Type(shape=(Dim.of(n), Dim.of(n)))))


def _lowrank(c: Lowering, bound: Bound) -> Value:
    """lowrank(U[n, r], V[m, r]) = U V^T."""
    nodes = argument_nodes(c, bound, "u", "v")
    if nodes is None:
        return ERROR
    u, v = nodes
    parts = (bound["u"], bound["v"])
    if c.b.type(u).rank != 2 or c.b.type(v).rank != 2 or c.b.type(u).shape[1] != c.b.type(v).shape[1]:
        return shape_mismatch(c, "lowrank", (Tensor(u), Tensor(v)), bound.call, parts)
    return matmul_nodes(c, u, c.b.transpose(v), bound.call, parts)


def _dense(c: Lowering, bound: Bound) -> Value:
    node = argument_node(c, bound, "m", bound.want)
    return ERROR if node is None else Tensor(node)


def _matrix_function(op: str) -> Run:
    def run(c: Lowering, bound: Bound) -> Value:
        node = argument_node(c, bound, "m", bound.want)
        return ERROR if node is None else c.build(bound.call.span, op, lambda: c.b.add(op, node))

    return run


def _zoh(c: Lowering, bound: Bound) -> Value:
    """zoh(A, dt) = exp(dt A): the matrix exponential of a matrix, elementwise for a vector (a diagonal A)."""
    exprs = (bound["a"], bound["dt"])
    values = [evaluate(c, e, bound.context) for e in exprs]
    if any(isinstance(v, ErrorValue) for v in values):
        return ERROR
    a = number_node(c, values[0], exprs[0], "zoh")
    if a is None:
        return ERROR
    inner = c.b.nodes[a]
    diagonal = inner.op == "layout" and inner.attr("kind") == "diag"
    source = inner.args[0] if diagonal else a
    scaled = arithmetic(c, "*", values[1], Tensor(source), bound.call, (exprs[1], exprs[0]), None)
    if not isinstance(scaled, Tensor):
        return ERROR
    if diagonal:
        return c.build(bound.call.span, "zoh", lambda: c.b.add("layout", c.b.map("exp", scaled.node), kind="diag"))
    op = "expm" if c.b.type(a).rank == 2 else "exp"
    return c.build(bound.call.span, "zoh", lambda: c.b.add(op, scaled.node))


def _define_all() -> None:
    for name in ("diag", "circulant", "companion"):
        define(Function(name=name, run=_layout(name), params=("v",), shape_of=("v",)))
    define(Function(name="householder", run=_householder, params=("k", "beta"), shape_of=("k",)))
    define(Function(name="rotation", run=_rotation, params=("theta",), shape_of=("theta",)))
    define(Function(name="blockdiag", run=_blockdiag, many=True))
    define(Function(name="permutation", run=_permutation, params=("p",)))
    define(Function(name="lowrank", run=_lowrank, params=("u", "v"), required=2))
    define(Function(name="dense", run=_dense, params=("m",), shape_of=("m",)))
    for name in ("expm", "cayley"):
        define(Function(name=name, run=_matrix_function(name), params=("m",), shape_of=("m",)))
    define(Function(name="zoh", run=_zoh, params=("a", "dt"), required=2))


_define_all()

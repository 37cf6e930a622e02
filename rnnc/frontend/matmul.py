"""`a @ b`: the sizes that one side gives the other, and the identity."""

from __future__ import annotations

from collections.abc import Sequence

from rnnc.frontend import ast
from rnnc.frontend.expressions import arithmetic, evaluate, needs_shape, number_node, shape_mismatch
from rnnc.frontend.lowering import Lowering
from rnnc.frontend.scope import Context
from rnnc.frontend.values import ERROR, ErrorValue, Identity, Shape, Tensor, Value
from rnnc.ir.dims import Dim
from rnnc.ir.graph import NodeId


def matmul(c: Lowering, expr: ast.Binary, context: Context, want: Shape | None) -> Value:
    """`a @ b`; `I @ b` is `b`.  A `linear` on one side takes the size the other side needs."""
    parts = (expr.left, expr.right)
    values: list[Value] = [ERROR, ERROR]
    first = 1 if needs_shape(c, expr.left, context) else 0
    values[first] = evaluate(c, parts[first], context)
    known = c.shape(values[first])
    inner = _matmul_want(c, parts[1 - first], known, want, left_known=first == 0, context=context) if known else None
    with c.sizes_unknown(because=isinstance(values[first], ErrorValue)):
        values[1 - first] = evaluate(c, parts[1 - first], context, inner)
    left, right = values
    if isinstance(left, ErrorValue) or isinstance(right, ErrorValue):
        return ERROR
    if isinstance(left, Identity) or isinstance(right, Identity):
        identity, other = (left, right) if isinstance(left, Identity) else (right, left)
        assert isinstance(identity, Identity)
        if isinstance(other, Identity):
            scale = arithmetic(c, "*", identity.scale, other.scale, expr, parts, None)
            return Identity(scale) if isinstance(scale, (Dim, Tensor)) else ERROR
        size = c.shape(other)
        if size and len(size) <= 2:
            part = parts[0] if identity is left else parts[1]
            if isinstance(part, ast.Name):
                c.sizes_of_identity.setdefault(part.id, size[0] if identity is left else size[-1])
            return arithmetic(c, "*", identity.scale, other, expr, parts, None)
    a, b = (number_node(c, v, p, "@", want) for v, p in zip(values, parts, strict=True))
    if a is None or b is None:
        return ERROR
    return matmul_nodes(c, a, b, expr, parts)


def _matmul_want(
    c: Lowering, expr: ast.Expr, known: Shape, want: Shape | None, *, left_known: bool, context: Context
) -> Shape:
    """The shape that one side of `@` should have next to one of shape `known`: a vector, unless it makes a matrix."""
    shared = known[-1] if left_known else known[0]
    if not _makes_matrix(expr, context):
        return (shared,)
    if want is None or len(want) != len(known):
        return (shared, shared)
    return (shared, want[-1]) if left_known else (want[0], shared)


MATRIX_FUNCTIONS = frozenset(
    {"diag", "outer", "householder", "rotation", "circulant", "companion", "dense", "cayley", "expm"}
)


def _makes_matrix(expr: ast.Expr, context: Context) -> bool:
    """Whether an expression is a structured operator (or made of one) by its form alone."""
    match expr:
        case ast.Call(callee=ast.Name(id=name)):
            return name in MATRIX_FUNCTIONS
        case ast.Unary():
            return _makes_matrix(expr.operand, context)
        case ast.Binary(op="+" | "-" | "*" | "/"):
            return _makes_matrix(expr.left, context) or _makes_matrix(expr.right, context)
        case ast.Name(primed=False):
            binding = context.scope.lookup(expr.id)
            if binding is None or binding.status != "todo" or not isinstance(binding.decl, ast.LetDecl):
                return False
            if binding.makes_matrix is None:
                binding.makes_matrix = False  # a cycle ends here; it is reported when the value is needed
                binding.makes_matrix = _makes_matrix(binding.decl.value, binding.context or context)
            return binding.makes_matrix
        case _:
            return False


def matmul_nodes(c: Lowering, a: NodeId, b: NodeId, at: ast.Expr, parts: Sequence[ast.Expr]) -> Value:
    sa, sb = c.b.type(a).shape, c.b.type(b).shape
    if not (1 <= len(sa) <= 2 and 1 <= len(sb) <= 2):
        described = ", ".join(c.described(p, Tensor(n)) for p, n in zip(parts, (a, b), strict=True))
        help_ = "use `*` to scale" if not sa or not sb else ""
        return c.error("E0203", "`@` needs matrices or vectors", at.span, label=described, help=help_)
    if sa[-1] != sb[0]:
        return shape_mismatch(c, "@", (Tensor(a), Tensor(b)), at, parts)
    return c.build(at.span, "@", lambda: c.b.matmul(a, b))

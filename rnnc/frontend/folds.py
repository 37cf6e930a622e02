"""`product` and `sum` over a range, and the rounds of what is unrolled."""

from __future__ import annotations

from rnnc.frontend import ast
from rnnc.frontend.expressions import arithmetic, evaluate, known_integer
from rnnc.frontend.lowering import MAX_UNROLL, Lowering, TooLarge
from rnnc.frontend.matmul import matmul_nodes
from rnnc.frontend.scope import Binding, Context, Scope
from rnnc.frontend.values import ERROR, ErrorValue, Identity, Shape, Tensor, Value
from rnnc.ir.dims import Dim


def fold(c: Lowering, expr: ast.Fold, context: Context, want: Shape | None) -> Value:
    """`product j in 1..n { e }` is e_1 @ e_2 @ ... @ e_n for matrices, `*` otherwise; `sum` adds."""
    indices = unrolled(c, expr.lo, expr.hi, context)
    if indices is None:
        return ERROR
    product = expr.kind == "product"
    total: Value = Dim.of(1 if product else 0)
    parts = (expr.body, expr.body)
    for position, j in enumerate(indices):
        inner = indexed(context, expr.index, j, expr)
        term = evaluate(c, expr.body, inner, want)
        if isinstance(term, ErrorValue):
            return ERROR
        if position == 0:
            total = term
        elif not product:
            total = arithmetic(c, "+", total, term, expr, parts, want)
        else:
            total = _times(c, total, term, expr, parts, want)
    return total


def _times(
    c: Lowering, a: Value, b: Value, expr: ast.Fold, parts: tuple[ast.Expr, ast.Expr], want: Shape | None
) -> Value:
    sa, sb = c.shape(a), c.shape(b)
    if isinstance(a, Tensor) and isinstance(b, Tensor) and len(sa or ()) == 2 and len(sb or ()) == 2:
        return matmul_nodes(c, a.node, b.node, expr, parts)
    if isinstance(a, Identity) and isinstance(b, Identity):
        scale = arithmetic(c, "*", a.scale, b.scale, expr, parts, None)
        return Identity(scale) if isinstance(scale, (Dim, Tensor)) else ERROR
    if isinstance(a, Identity) and len(sb or ()) == 2:
        return arithmetic(c, "*", a.scale, b, expr, parts, want)
    if isinstance(b, Identity) and len(sa or ()) == 2:
        return arithmetic(c, "*", a, b.scale, expr, parts, want)
    return arithmetic(c, "*", a, b, expr, parts, want)


def indexed(context: Context, name: str, j: int, at: ast.Located) -> Context:
    """The context of one round of a `product`, `sum` or `substep`."""
    scope = Scope(context.scope)
    scope.bindings[name] = Binding(name, "hyper", at.span, value=Dim.of(j), status="done")
    return Context(
        scope=scope,
        per=context.per,
        binding=context.binding,
        suffix=f"{context.suffix}_{j}",
        pure=context.pure,
    )


def unrolled(c: Lowering, lo: ast.Expr, hi: ast.Expr, context: Context) -> range | None:
    """The rounds of `j in lo..hi`, both ends included."""
    first = known_integer(c, lo, context, "the first index")
    last = known_integer(c, hi, context, "the last index")
    if first is None or last is None:
        return None
    if last - first + 1 > MAX_UNROLL:
        raise TooLarge(f"{last - first + 1} rounds are too many to unroll (at most {MAX_UNROLL})", lo.span.to(hi.span))
    return range(first, last + 1)

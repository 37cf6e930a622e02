"""Parts of values and values of parts: subscripts, slices and lists."""

from __future__ import annotations

from collections.abc import Sequence

from rnnc.frontend import ast
from rnnc.frontend.expressions import evaluate, known_integer, known_number, number_node
from rnnc.frontend.lowering import Lowering
from rnnc.frontend.scope import Context
from rnnc.frontend.values import ERROR, ErrorValue, Pieces, Tensor, Value, shape_text
from rnnc.ir.dims import Dim
from rnnc.ir.graph import NodeId
from rnnc.ir.types import Type


def subscript(c: Lowering, expr: ast.Subscript, context: Context) -> Value:
    value = evaluate(c, expr.value, context)
    if isinstance(value, ErrorValue):
        return ERROR
    if isinstance(value, Pieces):
        return _piece(c, expr, value, context)
    node = c.to_node(value, expr.value.span)
    if node is None:
        return ERROR
    rank = c.b.type(node).rank
    if len(expr.slices) > rank:
        what = "a scalar" if rank == 0 else f"a value with {rank} {'axis' if rank == 1 else 'axes'}"
        return c.error(
            "E0203", f"{len(expr.slices)} subscripts for {what}", expr.span, label=c.described(expr.value, value)
        )
    dropped: list[int] = []
    for i, part in enumerate(expr.slices):
        size = c.b.type(node).shape[i]
        bounds = _bounds(c, part, size, context)
        if bounds is None:
            return ERROR
        if bounds != (Dim.of(0), size) or part.single:
            axis = i - rank
            node = c.b.add("slice", node, axis=axis, start=bounds[0], stop=bounds[1])
        if part.single:
            dropped.append(i)
    if dropped:
        shape = tuple(d for i, d in enumerate(c.b.type(node).shape) if i not in dropped)
        node = c.b.add("reshape", node, shape=shape)
    return Tensor(node)


def _bounds(c: Lowering, part: ast.Slice, size: Dim, context: Context) -> tuple[Dim, Dim] | None:
    """Start and stop of one subscript; negative numbers count from the end."""
    ends: list[Dim] = []
    for end, default in ((part.lo, Dim.of(0)), (part.hi, size)):
        if end is None:
            ends.append(default)
            continue
        value = known_number(c, end, context, "a subscript")
        if value is None:
            return None
        if value.constant is not None and value.constant.denominator != 1:
            c.error("E0204", "a subscript is a whole number", end.span)
            return None
        ends.append(size + value if value.constant is not None and value.constant < 0 else value)
    if part.single:
        ends[1] = ends[0] + 1
    start, stop = ends
    if start.is_negative() or (size - stop).is_negative() or (start - stop).is_nonnegative():
        shown = f"{start}" if part.single else f"{start}:{stop}"
        c.error("E0203", f"the subscript `{shown}` does not fit an axis of size `{size}`", part.span)
        return None
    return start, stop


def _piece(c: Lowering, expr: ast.Subscript, value: Pieces, context: Context) -> Value:
    if len(expr.slices) == 1 and expr.slices[0].single and expr.slices[0].lo is not None:
        k = known_integer(c, expr.slices[0].lo, context, "a subscript")
        if k is None:
            return ERROR
        if -len(value.items) <= k < len(value.items):
            return value.items[k]
        return c.error("E0203", f"there are {len(value.items)} values, numbered from 0", expr.span)
    return c.error("E0204", "several values are picked one at a time: `name[0]`", expr.span)


def list_of(c: Lowering, expr: ast.ListExpr, context: Context) -> Value:
    """`[a, b]`: exact when every element is, else the elements joined along a new first axis."""
    values = [evaluate(c, item, context) for item in expr.items]
    if any(isinstance(v, ErrorValue) for v in values):
        return ERROR
    nodes = [number_node(c, v, item, "[...]") for v, item in zip(values, expr.items, strict=True)]
    found = [n for n in nodes if n is not None]
    if len(found) < len(nodes):
        return ERROR
    shapes = {c.b.type(n).shape for n in found}
    if len(shapes) > 1:
        first, second = sorted(shapes, key=lambda s: [str(d) for d in s])[:2]
        return c.error(
            "E0203",
            "the elements of a list have one shape",
            expr.span,
            label=f"{shape_text(first)} and {shape_text(second)}",
        )
    shape = (Dim.of(len(found)), *next(iter(shapes)))
    constants = [c.b.nodes[n] for n in found]
    if all(n.op == "const" and not isinstance(n.attr("value"), (str, bool)) for n in constants):
        literal = tuple(n.attr("value") for n in constants)
        return Tensor(c.b.const(literal, Type(shape=shape)))  # type: ignore[arg-type]
    return c.build(expr.span, "[...]", lambda: stack(c, found))


def stack(c: Lowering, nodes: Sequence[NodeId]) -> NodeId:
    """Nodes of one shape joined along a new first axis."""
    per = max((c.b.type(n).per for n in nodes), key=len)
    rank = c.b.type(nodes[0]).rank
    rows = []
    for n in nodes:
        full = c.b.broadcast_to(n, c.b.type(n).shape, per)
        rows.append(c.b.add("expand", full, axes=(-rank - 1,)))
    return c.b.add("concat", *rows, axis=-rank - 1)

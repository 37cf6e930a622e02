"""Expressions to graph nodes: operators, conditions, names, and the flow of expected shapes.

`evaluate(c, expr, context, want)` lowers one expression.  `want` is the core shape its surroundings expect, if known:
it flows down through shape-preserving functions and elementwise operators to learned maps, whose output size it gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from rnnc.frontend import ast
from rnnc.frontend.lowering import Lowering
from rnnc.frontend.numbers import compare_exact, fold_exact, negate_exact
from rnnc.frontend.scope import Context
from rnnc.frontend.values import ERROR, ErrorValue, Identity, Shape, Tensor, Value
from rnnc.ir.dims import Dim
from rnnc.ir.graph import NodeId
from rnnc.ir.ops import OpTypeError
from rnnc.ir.ops.table import broadcast_dims

CONSTANTS = ("pi", "e", "I")
ARITHMETIC = {"+": "add", "-": "sub", "*": "mul", "/": "div", "^": "pow"}
COMPARISONS = {"<": "lt", "<=": "le", "==": "eq", "!=": "ne", ">": "lt", ">=": "le"}


def evaluate(c: Lowering, expr: ast.Expr, context: Context, want: Shape | None = None) -> Value:
    """The value of `expr`; what is wrong with it is reported and gives ERROR."""
    c.count(expr.span)
    outer_span, c.b.span = c.b.span, expr.span
    try:
        return _evaluate(c, expr, context, want)
    finally:
        c.b.span = outer_span


def _evaluate(c: Lowering, expr: ast.Expr, context: Context, want: Shape | None) -> Value:
    match expr:
        case ast.Number():
            return Dim.of(expr.value)
        case ast.Bool():
            return expr.value
        case ast.String():
            return expr.value
        case ast.Name():
            return _name(c, expr, context, want)
        case ast.Unary():
            return _unary(c, expr, context, want)
        case ast.Binary(op="@"):
            from rnnc.frontend.matmul import matmul

            return matmul(c, expr, context, want)
        case ast.Binary(op="and" | "or"):
            return _logical(c, expr, context, want)
        case ast.Binary():
            return _elementwise(c, expr, context, want)
        case ast.IfElse():
            return _if_else(c, expr, context, want)
        case ast.Call():
            from rnnc.frontend.calls import call  # calls evaluate their arguments

            return call(c, expr, context, want)
        case ast.Attribute():
            return _attribute(c, expr, context)
        case ast.Subscript():
            from rnnc.frontend.sequences import subscript

            return subscript(c, expr, context)
        case ast.ListExpr():
            from rnnc.frontend.sequences import list_of

            return list_of(c, expr, context)
        case ast.Fold():
            from rnnc.frontend.folds import fold

            return fold(c, expr, context, want)
    raise AssertionError(expr)  # unreachable: the cases above are all of them


# ---------------------------------------------------------------- expected shapes


def needs_shape(c: Lowering, expr: ast.Expr, context: Context) -> bool:
    """Whether the value's shape may have to come from its surroundings (a `linear` without a size is inside)."""
    from rnnc.frontend.calls import call_needs_shape

    match expr:
        case ast.Call():
            return call_needs_shape(c, expr, context)
        case ast.Unary():
            return needs_shape(c, expr.operand, context)
        case ast.Binary(op="+" | "-" | "*" | "/" | "^" | "<" | "<=" | ">" | ">=" | "==" | "!="):
            return needs_shape(c, expr.left, context) or needs_shape(c, expr.right, context)
        case ast.IfElse():
            return needs_shape(c, expr.then, context) or needs_shape(c, expr.orelse, context)
        case ast.Fold():
            return needs_shape(c, expr.body, context)
        case ast.Name(primed=False):
            binding = context.scope.lookup(expr.id)
            if (
                binding is None
                or binding.status != "todo"
                or not isinstance(binding.decl, (ast.LetDecl, ast.OutputDecl))
            ):
                return False
            if binding.decl.type is not None or binding.context is None:
                return False
            if binding.needs_shape is None:
                binding.needs_shape = False  # a cycle ends here; it is reported when the value is needed
                binding.needs_shape = needs_shape(c, binding.decl.value, binding.context)
            return binding.needs_shape
        case _:
            return False


def operands(
    c: Lowering, exprs: Sequence[ast.Expr], context: Context, want: Shape | None, wants: Sequence[Shape | None] = ()
) -> list[Value]:
    """The operands of an elementwise operation: those of known shape first, which then give the others theirs."""
    values: list[Value] = [ERROR] * len(exprs)
    hungry = [i for i, e in enumerate(exprs) if needs_shape(c, e, context)]
    for i, e in enumerate(exprs):
        if i not in hungry:
            values[i] = evaluate(c, e, context, want)
    target = want
    for value in values:
        target = _joint_want(c.shape(value), target)
    wrong = target is None and any(isinstance(v, ErrorValue) for i, v in enumerate(values) if i not in hungry)
    for i in hungry:
        with c.sizes_unknown(because=wrong):
            values[i] = evaluate(c, exprs[i], context, target)
        if target is None:
            target = _joint_want(c.shape(values[i]), None)
    return values


def _joint_want(known: Shape | None, want: Shape | None) -> Shape | None:
    """The shape an operand next to one of shape `known` should have, when the result should have shape `want`."""
    if not known:
        return want
    if want is None:
        return known
    try:
        return want if broadcast_dims(known, want) == want else known
    except OpTypeError:
        return known


# ---------------------------------------------------------------- names


def _name(c: Lowering, expr: ast.Name, context: Context, want: Shape | None) -> Value:
    from rnnc.frontend.bindings import constant, read, unknown_name

    if expr.primed:
        return _primed(c, expr, context)
    for scope in context.scope.chain():
        if expr.id in scope.running:
            return _state_value(c, expr, scope.running[expr.id], context)
        if expr.id in scope.bindings:
            return read(c, scope.bindings[expr.id], expr, context, want)
    if expr.id in CONSTANTS:
        return constant(c, expr.id)
    return unknown_name(c, expr, context)


def _state_value(c: Lowering, expr: ast.Name, value: Value, context: Context) -> Value:
    """A state's running or new value as it is seen from here: it belongs to the `per` block of the state."""
    from rnnc.frontend.bindings import seen_from

    state = context.scope.lookup(expr.id)
    return value if state is None else seen_from(c, state, value, context)


def _primed(c: Lowering, expr: ast.Name, context: Context) -> Value:
    from rnnc.frontend.bindings import read, unknown_name

    update = context.scope.lookup(expr.id + "'")
    value = ERROR if update is None else read(c, update, expr, context, None)
    if not isinstance(value, ErrorValue):
        return _state_value(c, expr, value, context)
    binding = context.scope.lookup(expr.id)
    if binding is None:
        return unknown_name(c, expr, context)
    if isinstance(binding.value, ErrorValue):
        return ERROR
    if binding.kind == "state":
        return read(
            c, binding, expr, context, None
        )  # what is wrong with the update is reported there; the type is known
    return c.error(
        "E0204",
        f"`{expr.id}` is not a state, so it has no new value `{expr.id}'`",
        expr.span,
        help=f"write `{expr.id}`; only states change from step to step",
    )


# ---------------------------------------------------------------- operators


def _unary(c: Lowering, expr: ast.Unary, context: Context, want: Shape | None) -> Value:
    value = evaluate(c, expr.operand, context, want)
    if isinstance(value, ErrorValue):
        return ERROR
    if expr.op == "not":
        if isinstance(value, bool):
            return not value
        node = c.to_node(value, expr.operand.span)
        return ERROR if node is None else c.build(expr.span, "not", lambda: c.b.map("not", node))
    if expr.op == "+":
        return value
    return negate(c, value, expr)


def negate(c: Lowering, value: Value, expr: ast.Expr) -> Value:
    match value:
        case Dim():
            return negate_exact(value)
        case Identity(scale):
            inner = negate(c, scale, expr)
            return Identity(inner) if isinstance(inner, (Dim, Tensor)) else ERROR
        case _:
            node = number_node(c, value, expr, "-")
            if node is None:
                return ERROR
            result = c.build(expr.span, "-", lambda: c.b.map("neg", node))
            if isinstance(result, Tensor) and node in c.unit_nodes:
                c.unit_nodes.add(result.node)
            return result


def number_node(c: Lowering, value: Value, expr: ast.Expr, what: str, want: Shape | None = None) -> NodeId | None:
    """The node of a value used as a number: truth values count as 0 and 1, tokens are no numbers."""
    node = c.to_node(value, expr.span, want)
    if node is None:
        return None
    dtype = c.b.type(node).dtype
    if dtype == "bool":
        return c.b.map("real", node)
    if dtype == "token":
        c.error(
            "E0204",
            f"`{c.text_of(expr)}` is a token, not a number, in `{what}`",
            expr.span,
            label=f"`{c.type_text(Tensor(node))}`",
            help=f"use `one_hot({c.text_of(expr)})` or `embedding({c.text_of(expr)}, d)`",
        )
        return None
    return node


def _elementwise(c: Lowering, expr: ast.Binary, context: Context, want: Shape | None) -> Value:
    left, right = operands(c, (expr.left, expr.right), context, want)
    if isinstance(left, ErrorValue) or isinstance(right, ErrorValue):
        return ERROR
    if expr.op in COMPARISONS:
        return _compare(c, expr, left, right)
    return arithmetic(c, expr.op, left, right, expr, (expr.left, expr.right), want)


def arithmetic(
    c: Lowering, op: str, left: Value, right: Value, at: ast.Expr, parts: tuple[ast.Expr, ast.Expr], want: Shape | None
) -> Value:
    """`left op right` with NumPy broadcasting; exact where both are known at compile time."""
    if isinstance(left, ErrorValue) or isinstance(right, ErrorValue):
        return ERROR
    if op == "/" and right == Dim.of(0):
        return c.error("E0204", "division by zero", at.span)
    if isinstance(left, (Dim, bool)) and isinstance(right, (Dim, bool)):
        a, b = (Dim.of(int(v)) if isinstance(v, bool) else v for v in (left, right))
        known = fold_exact(op, a, b)
        if known is not None:
            return known
    if isinstance(left, Identity) or isinstance(right, Identity):
        return _identity_arithmetic(c, op, left, right, at, parts, want)
    a_node = number_node(c, left, parts[0], op)
    b_node = number_node(c, right, parts[1], op)
    if a_node is None or b_node is None:
        return ERROR
    return elementwise_op(c, ARITHMETIC[op], op, (a_node, b_node), at, parts)


def elementwise_op(
    c: Lowering, op: str, symbol: str, nodes: tuple[NodeId, ...], at: ast.Expr, parts: Sequence[ast.Expr]
) -> Value:
    """An elementwise op on nodes, with the shape error of the language reference when they do not fit."""
    shape: Shape = ()
    for node in nodes:
        try:
            shape = broadcast_dims(shape, c.b.type(node).shape)
        except OpTypeError:
            return shape_mismatch(c, symbol, [Tensor(n) for n in nodes], at, parts)
    return c.build(at.span, symbol, lambda: c.b.map(op, *nodes))


def shape_mismatch(c: Lowering, symbol: str, values: Sequence[Value], at: ast.Expr, parts: Sequence[ast.Expr]) -> Value:
    label = ", ".join(dict.fromkeys(c.described(p, v) for p, v in zip(parts, values, strict=True)))
    return c.error(
        "E0203",
        f"shapes do not match in `{symbol}`",
        at.span,
        label=label,
        help=_project_help(c, symbol, values, parts),
    )


def _project_help(c: Lowering, symbol: str, values: Sequence[Value], parts: Sequence[ast.Expr]) -> str:
    """`project x first`, where one operand is a vector that comes from an input only."""
    if symbol not in ARITHMETIC or len(parts) != 2 or any(len(c.shape(v) or ()) != 1 for v in values):
        return ""
    for i in (1, 0):
        value, part = values[i], parts[i]
        if isinstance(part, ast.Name) and isinstance(value, Tensor) and not c.depends_on_state(value.node):
            projected = f"linear({part.id})"
            pair = (c.text_of(parts[0]), projected) if i == 1 else (projected, c.text_of(parts[1]))
            return f"project `{part.id}` first, for example `{pair[0]} {symbol} {pair[1]}`"
    return ""


def _identity_arithmetic(
    c: Lowering, op: str, left: Value, right: Value, at: ast.Expr, parts: tuple[ast.Expr, ast.Expr], want: Shape | None
) -> Value:
    """`I` takes its size from the other operand; scaled by a scalar, it stays without one."""
    if isinstance(left, Identity) and isinstance(right, Identity) and op in "+-":
        scale = arithmetic(c, op, left.scale, right.scale, at, parts, None)
        return Identity(scale) if isinstance(scale, (Dim, Tensor)) else ERROR
    identity, other = (left, right) if isinstance(left, Identity) else (right, left)
    assert isinstance(identity, Identity)
    other_shape = c.shape(other)
    scales = op == "*" or (op == "/" and identity is left)
    if scales and other_shape == ():
        scale = arithmetic(c, op, identity.scale, other, at, parts, None)
        return Identity(scale) if isinstance(scale, (Dim, Tensor)) else ERROR
    sized = other_shape if other_shape and len(other_shape) == 2 else want
    nodes = [number_node(c, v, p, op, sized) for v, p in zip((left, right), parts, strict=True)]
    if nodes[0] is None or nodes[1] is None:
        return ERROR
    return elementwise_op(c, ARITHMETIC[op], op, (nodes[0], nodes[1]), at, parts)


def _compare(c: Lowering, expr: ast.Binary, left: Value, right: Value) -> Value:
    if isinstance(left, bool) and isinstance(right, bool) and expr.op in ("==", "!="):
        return (left == right) == (expr.op == "==")
    if isinstance(left, Dim) and isinstance(right, Dim):
        known = compare_exact(expr.op, left, right)
        if known is not None:
            return known
    nodes = [c.to_node(v, p.span) for v, p in ((left, expr.left), (right, expr.right))]
    if nodes[0] is None or nodes[1] is None:
        return ERROR
    pair = (nodes[1], nodes[0]) if expr.op in (">", ">=") else (nodes[0], nodes[1])
    parts = (expr.right, expr.left) if expr.op in (">", ">=") else (expr.left, expr.right)
    return elementwise_op(c, COMPARISONS[expr.op], expr.op, pair, expr, parts)


def _logical(c: Lowering, expr: ast.Binary, context: Context, want: Shape | None) -> Value:
    left, right = operands(c, (expr.left, expr.right), context, want)
    if isinstance(left, ErrorValue) or isinstance(right, ErrorValue):
        return ERROR
    if isinstance(left, bool) and isinstance(right, bool):
        return (left and right) if expr.op == "and" else (left or right)
    nodes = [c.to_node(v, p.span) for v, p in ((left, expr.left), (right, expr.right))]
    if nodes[0] is None or nodes[1] is None:
        return ERROR
    return elementwise_op(c, expr.op, expr.op, (nodes[0], nodes[1]), expr, (expr.left, expr.right))


def _if_else(c: Lowering, expr: ast.IfElse, context: Context, want: Shape | None) -> Value:
    """On hyperparameters the branch is chosen now; on values it is an elementwise select."""
    condition = evaluate(c, expr.condition, context)
    if isinstance(condition, bool):
        from rnnc.frontend.bindings import check_names

        taken, other = (expr.then, expr.orelse) if condition else (expr.orelse, expr.then)
        check_names(c, other, context)
        return evaluate(c, taken, context, want)
    then, orelse = operands(c, (expr.then, expr.orelse), context, want)
    if any(isinstance(v, ErrorValue) for v in (condition, then, orelse)):
        return ERROR
    node = c.to_node(condition, expr.condition.span)
    if node is None:
        return ERROR
    if c.b.type(node).dtype != "bool":
        return c.error(
            "E0204",
            "a condition must be a truth value",
            expr.condition.span,
            label=f"`{c.type_text(condition)}`",
            help="compare it, for example `a > 0`",
        )
    truths = _truth_nodes(c, (then, orelse), (expr.then, expr.orelse))
    if truths is not None:
        return _select_truth(c, node, truths, expr)
    sized = c.shape(then) if isinstance(orelse, Identity) else c.shape(orelse) if isinstance(then, Identity) else want
    a = number_node(c, then, expr.then, "if", sized or want)
    b = number_node(c, orelse, expr.orelse, "if", sized or want)
    if a is None or b is None:
        return ERROR
    return elementwise_op(c, "select", "if", (node, a, b), expr, (expr.condition, expr.then, expr.orelse))


def _truth_nodes(
    c: Lowering, values: tuple[Value, Value], parts: tuple[ast.Expr, ast.Expr]
) -> tuple[NodeId, NodeId] | None:
    """The nodes of two truth values; None where one is a number."""
    if not all(isinstance(v, bool) or (isinstance(v, Tensor) and c.b.type(v.node).dtype == "bool") for v in values):
        return None
    a, b = (c.to_node(v, p.span) for v, p in zip(values, parts, strict=True))
    return None if a is None or b is None else (a, b)


def _select_truth(c: Lowering, condition: NodeId, values: tuple[NodeId, NodeId], expr: ast.IfElse) -> Value:
    """A choice between truth values is one: (condition and a) or (not condition and b)."""
    parts = (expr.condition, expr.then, expr.orelse)
    chosen = elementwise_op(c, "and", "if", (condition, values[0]), expr, parts[:2])
    negated = c.b.map("not", condition)
    other = elementwise_op(c, "and", "if", (negated, values[1]), expr, (parts[0], parts[2]))
    if not (isinstance(chosen, Tensor) and isinstance(other, Tensor)):
        return ERROR
    return elementwise_op(c, "or", "if", (chosen.node, other.node), expr, parts[1:])


# ---------------------------------------------------------------- attributes, subscripts, lists


def _attribute(c: Lowering, expr: ast.Attribute, context: Context) -> Value:
    value = evaluate(c, expr.value, context)
    if isinstance(value, ErrorValue):
        return ERROR
    if isinstance(value, Identity):
        return value
    node = c.to_node(value, expr.value.span)
    if node is None:
        return ERROR
    if c.b.type(node).rank != 2:
        return c.error("E0203", "`.T` needs a matrix", expr.span, label=c.described(expr.value, Tensor(node)))
    return c.build(expr.span, ".T", lambda: c.b.transpose(node))


# ---------------------------------------------------------------- numbers known at compile time


def known_number(c: Lowering, expr: ast.Expr, context: Context, what: str) -> Dim | None:
    """A number known at compile time, perhaps symbolic in dims."""
    value = evaluate(c, expr, context)
    if isinstance(value, Dim):
        return value
    if not isinstance(value, ErrorValue):
        c.error(
            "E0305",
            f"{what} must be known at compile time",
            expr.span,
            label=f"`{c.type_text(value)}`",
            help="use numbers, hyperparameters and the operators + - * /",
        )
    return None


def known_integer(c: Lowering, expr: ast.Expr, context: Context, what: str) -> int | None:
    """A whole number known at compile time; a symbolic dim is none."""
    value = known_number(c, expr, context, what)
    if value is None:
        return None
    k: Fraction | None = value.constant
    if k is None:
        names = ", ".join(f"`{n}`" for n in sorted(value.names))
        c.error(
            "E0305",
            f"{what} must be a known whole number, and `{value}` depends on a dim",
            expr.span,
            help=f"declare {names} as `int`: dims stay open until a module is made",
        )
        return None
    if k.denominator != 1:
        c.error("E0204", f"{what} must be a whole number, not `{value}`", expr.span)
        return None
    return int(k)

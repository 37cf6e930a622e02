"""Cells applied to values, and the `repeat` of models."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rnnc.frontend import ast
from rnnc.frontend.bindings import check_names, declared_names, force
from rnnc.frontend.calls import Bound, Function
from rnnc.frontend.calls import bind as bind_arguments
from rnnc.frontend.expressions import evaluate, known_integer
from rnnc.frontend.finish import finish
from rnnc.frontend.inline_cells import in_blocks, inline_cell
from rnnc.frontend.lowering import MAX_UNROLL, Lowering
from rnnc.frontend.scope import Binding, BindingKind, Context, Scope, suggestion
from rnnc.frontend.types import conform
from rnnc.frontend.values import ERROR, ErrorValue, Identity, Pieces, Tensor, Value
from rnnc.ir.dims import Dim, DimError
from rnnc.ir.graph import CellIR, Input, NodeId, Output
from rnnc.ir.types import Type

# ---------------------------------------------------------------- a cell applied to its inputs


def call_cell(c: Lowering, expr: ast.Call, head: ast.Call, context: Context) -> Value:
    """`GatedDeltaNet(d, heads = 4)(x)`: the cell with these hyperparameters, run over the values."""
    if not isinstance(head.callee, ast.Name):
        return c.error("E0209", "a cell takes its hyperparameters, then its inputs", expr.span)
    found = context.scope.lookup(head.callee.id)
    if found is None or found.kind != "cell":
        from rnnc.frontend.calls import known_function, unknown_function

        if known_function(head.callee.id, context):
            return c.error("E0204", "the value of a function cannot be called", expr.span)
        return unknown_function(c, head.callee, context)
    decl = found.decl
    assert isinstance(decl, ast.CellDecl)
    if not _may_call(c, decl, expr, context):
        return ERROR
    given = _head_arguments(c, decl, head, context)
    if given is None:
        return ERROR
    kinds = {h.name: h.kind for h in decl.hyper}
    known = {name: v for name, v in given.items() if kinds[name] != "dim"}
    cell = c.library.lower_cell(found, known, c.diagnostics, head.span)
    if cell is None:
        return ERROR
    env = _dims(c, cell, {n: v for n, v in given.items() if isinstance(v, Dim)}, head)
    return ERROR if env is None else _apply(c, expr, cell, env, context)


def _may_call(c: Lowering, decl: ast.CellDecl, expr: ast.Call, context: Context) -> bool:
    """Whether a cell or model may be called here; reported when not."""
    name = f"`{decl.name}`"
    if context.pure:
        where = "a `fn` is pure" if c.calls else "a claim speaks of what the cell has"
        c.error("E0204", f"the cell {name} has states, and {where}", expr.span, help="call it in a cell or model")
    elif decl.keyword == "model" and c.keyword == "cell":
        help_ = f"make `{c.name}` a `model`"
        c.error("E0204", f"{name} is a model: it is called in a model", expr.span, help=help_)
    elif decl.keyword == "model" and context.per:
        message = f"{name} is a model, and cannot be called inside a `per` block"
        c.error("E0207", message, expr.span, help="call it outside")
    else:
        return True
    return False


def _head_arguments(c: Lowering, decl: ast.CellDecl, head: ast.Call, context: Context) -> dict[str, Dim | bool] | None:
    """The hyperparameters given in the first pair of parentheses."""
    values: dict[str, Dim | bool] = {}
    names = [h.name for h in decl.hyper]
    kinds = {h.name: h.kind for h in decl.hyper}
    fine = True
    for position, argument in enumerate(head.args):
        name = argument.name or (names[position] if position < len(names) else "")
        value = evaluate(c, argument.value, context)
        if not name:
            c.error("E0209", f"`{decl.name}` has {len(names)} hyperparameters", argument.span)
            fine = False
        elif name not in names:
            c.error(
                "E0301", f"`{decl.name}` has no hyperparameter `{name}`", argument.span, help=suggestion(name, names)
            )
            fine = False
        elif name in values:
            c.error("E0209", f"`{name}` is given twice", argument.span)
            fine = False
        elif isinstance(value, (Dim, bool)):
            if kinds[name] == "dim" and (isinstance(value, bool) or not _is_size(value)):
                c.error(
                    "E0302",
                    f"the dim `{name}` is a positive whole number, not `{c.text_of(argument.value)}`",
                    argument.span,
                )
                fine = False
            values[name] = value
        else:
            fine = False
            if not isinstance(value, ErrorValue):
                c.error("E0305", f"the hyperparameter `{name}` must be known at compile time", argument.span)
    return values if fine else None


def _is_size(value: Dim) -> bool:
    k = value.constant
    return k is None or (k.denominator == 1 and k > 0)


def _dims(c: Lowering, cell: CellIR, given: dict[str, Dim], head: ast.Call) -> dict[str, Dim] | None:
    """Every dim of the called cell in terms of the caller's."""
    env: dict[str, Dim] = {}
    for p in cell.dims:
        if p.name in given:
            env[p.name] = given[p.name]
        elif p.default is not None:
            try:
                env[p.name] = p.default.substitute(env)
            except DimError as e:
                c.error("E0302", f"the default of `{p.name}` does not work out: {e}", head.span)
                return None
        else:
            c.error("E0303", f"`{cell.name}` needs a value for `{p.name}: dim`", head.span)
            return None
    return env


def _apply(c: Lowering, expr: ast.Call, cell: CellIR, env: dict[str, Dim], context: Context) -> Value:
    signature = Function(
        name=cell.name, run=lambda c, b: ERROR, params=tuple(i.name for i in cell.inputs), required=len(cell.inputs)
    )
    bound = bind_arguments(c, signature, expr, context, None)
    if bound is None:
        return ERROR
    args: list[NodeId] = []
    for given in cell.inputs:
        node = _argument(c, bound, given.name, outside(cell.nodes[given.node].type, env))
        if node is not None:
            args.append(node)
    if len(args) < len(cell.inputs):
        return ERROR
    key = c.unique(snake(cell.name) + context.suffix)
    if c.keyword == "cell":
        found = inline_cell(c, cell, env, args, prefix=key, per=context.per, span=expr.span)
    elif context.per:
        found = _call_in_blocks(c, in_blocks(c, cell, env, context.per, expr.span), args, key, context)
    else:
        found = _call_nodes(c, cell, env, args, key)
    results: list[Value] = [Tensor(node) for node in found]
    return results[0] if len(results) == 1 else Pieces(tuple(results))


def _call_nodes(c: Lowering, cell: CellIR, env: dict[str, Dim], args: Sequence[NodeId], key: str) -> list[NodeId]:
    """One `call` node for each output."""
    index, dims = subcell_index(c, cell), tuple(sorted(env.items()))
    types = [outside(cell.nodes[o.node].type, env) for o in cell.outputs]
    return [
        c.b.add("call", *args, cell=index, dims=dims, output=k, key=key, type=type_)  # type: ignore[arg-type]
        for k, type_ in enumerate(types)
    ]


def _call_in_blocks(c: Lowering, cell: CellIR, args: Sequence[NodeId], key: str, context: Context) -> list[NodeId]:
    """The call of a cell with the axes of the blocks: they are part of the values' shapes on the way in and out."""
    n = len(context.per)
    merged = [c.b.add("merge", c.b.lift(a, context.per), n=n) for a in args]
    found = _call_nodes(c, cell, {p.name: Dim.of(p.name) for p in c.dims}, merged, key)
    return [c.b.add("split_per", node, n=n) for node in found]


def _argument(c: Lowering, bound: Bound, name: str, type_: Type) -> NodeId | None:
    expr = bound[name]
    value = evaluate(c, expr, bound.context, type_.shape)
    value = conform(c, value, type_, expr, f"input `{name}` of `{bound.name}`")
    return value.node if isinstance(value, Tensor) else None


def outside(type_: Type, env: dict[str, Dim]) -> Type:
    """A type of the called cell as its caller sees it: `per` axes in front of the shape, dims replaced."""
    shape = tuple(d.substitute(env) for d in (*type_.per, *type_.shape))
    vocab = None if type_.vocab is None else type_.vocab.substitute(env)
    return Type(dtype=type_.dtype, shape=shape, vocab=vocab)


def subcell_index(c: Lowering, cell: CellIR) -> int:
    """The place of a called cell among the subcells; equal specialisations of one cell are one subcell."""
    for i, other in enumerate(c.subcells):
        if other == cell and (other.file, other.hyper) == (cell.file, cell.hyper):
            return i
    c.subcells.append(cell)
    return len(c.subcells) - 1


def snake(name: str) -> str:
    """`GatedDeltaNet` -> `gated_delta_net`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


# ---------------------------------------------------------------- repeat


def capture(c: Lowering, binding: Binding, expr: ast.Name) -> Value:
    """A value of the model around a `repeat`, as an input of the body."""
    outer = c.outer
    assert outer is not None, "a foreign name is read outside of a repeat body"
    value = force(outer, binding, expr.span) if binding.owner is outer else capture(outer, binding, expr)
    if isinstance(value, Identity):
        if isinstance(value.scale, Dim):
            return value
        return c.error("E0205", "the size of `I` is unknown here", expr.span)
    if isinstance(value, Pieces):
        return c.error("E0204", f"`{expr.id}` holds several values", expr.span, help="name the one you need outside")
    if not isinstance(value, Tensor):
        return value
    if value.node not in c.captured:
        name = c.unique(binding.name)
        node = c.b.leaf("input", name, outer.b.type(value.node))
        c.inputs.append(Input(name=name, node=node))
        c.captured[value.node] = node
    return Tensor(c.captured[value.node])


def repeat(c: Lowering, s: ast.Repeat, context: Context) -> Value:
    """`repeat n as h from h0 { ... }`: the body, as a subcell, applied n times with its own parameters each time."""
    count = known_integer(c, s.count, context, "the number of rounds")
    start = evaluate(c, s.start, context.named(s.name))
    if context.per:
        return c.error("E0207", "`repeat` cannot stand inside a `per` block", s.span)
    if count is not None and count < 1:
        return c.error("E0302", f"a `repeat` runs a positive whole number of times, not {count}", s.count.span)
    if count is not None and count > MAX_UNROLL:
        return c.error("E0304", f"a `repeat` runs at most {MAX_UNROLL} times, not {count}", s.count.span)
    start_node = c.to_node(start, s.start.span)
    if count is None or start_node is None:
        with c.sizes_unknown():
            check_names(c, s.body, _with_running(context, s))
        return ERROR
    type_ = c.b.type(start_node)
    body = Lowering(
        library=c.library, diagnostics=c.diagnostics, keyword="repeat", name=f"{c.name}_{s.name}", dims=c.dims, outer=c
    )
    node = body.b.leaf("input", s.name, type_)
    body.names_used.add(s.name)
    body.inputs.append(Input(name=s.name, node=node))
    scope = Scope(context.scope)
    running = Binding(s.name, "value", s.span, value=Tensor(node), status="done", owner=body)
    scope.bindings[s.name] = running
    _sequence(body, s, s.body, Context(scope=scope), running, type_)
    if not isinstance(running.value, Tensor) or c.diagnostics.has_errors:
        return ERROR
    cell = finish(body, [Output(name=s.name, node=running.value.node)], s.span.file)
    args = (start_node, *body.captured)
    dims = tuple((p.name, Dim.of(p.name)) for p in c.dims)
    key = c.unique(f"{s.name}_layers")
    c.subcells.append(cell)
    made = c.b.add("repeat", *args, cell=len(c.subcells) - 1, dims=dims, count=count, key=key, type=type_)  # type: ignore[arg-type]
    c.name_node(made, s.name, s.span)
    return Tensor(made)


def _with_running(context: Context, s: ast.Repeat) -> Context:
    scope = Scope(context.scope)
    scope.bindings[s.name] = Binding(s.name, "value", s.span, value=ERROR, status="done")
    return context.within(scope)


def _sequence(
    c: Lowering, s: ast.Repeat, statements: tuple[ast.Statement, ...], context: Context, running: Binding, type_: Type
) -> None:
    """The statements of a repeat body, one after the other: each sees the running value as it is then."""
    from rnnc.frontend.cells import fresh, per_axis

    for statement in statements:
        match statement:
            case ast.Assign():
                _rebind(c, s, statement, context, running, type_)
            case ast.LetDecl(keyword="let" | "gate") | ast.ConstDecl():
                if fresh(c, statement.name, statement, context):
                    kind: BindingKind = "const" if isinstance(statement, ast.ConstDecl) else "let"
                    binding = Binding(statement.name, kind, statement.span, decl=statement, context=context, owner=c)
                    force(c, binding, statement.span)  # before it is bound: it cannot see itself
                    context.scope.bindings[statement.name] = binding
            case ast.ParamDecl():
                _param(c, statement, context)
            case ast.Per():
                axis = per_axis(c, statement, context)
                if axis is not None:
                    inner = Context(scope=context.scope, per=(*context.per, axis))
                    _sequence(c, s, statement.body, inner, running, type_)
            case ast.If():
                condition = evaluate(c, statement.condition, context)
                if isinstance(condition, bool):
                    _sequence(c, s, statement.then if condition else statement.orelse, context, running, type_)
                    check_names(c, statement.orelse if condition else statement.then, context)
                elif not isinstance(condition, ErrorValue):
                    c.error(
                        "E0305", "the condition of `if { }` must be known at compile time", statement.condition.span
                    )
            case ast.Repeat():
                binding = Binding(statement.name, "repeat", statement.span, decl=statement, context=context, owner=c)
                force(c, binding, statement.span)
                if statement.name == s.name:
                    running.value = binding.value
                else:
                    context.scope.bindings[statement.name] = binding
            case _:
                word = type(statement).__name__.removesuffix("Decl").lower()
                word = statement.keyword if isinstance(statement, ast.LetDecl) else word
                named = declared_names(statement)
                c.error(
                    "E0210",
                    f"`{word}` cannot stand inside `repeat`",
                    statement.span,
                    help="move it out of the block" if named else "",
                )


def _rebind(c: Lowering, s: ast.Repeat, statement: ast.Assign, context: Context, running: Binding, type_: Type) -> None:
    """`h = e` in a repeat body: the running value is another one from here on."""
    name = statement.target.id
    if name != s.name:
        message = f"only the running value `{s.name}` is rebound in this `repeat`"
        c.error("E0204", message, statement.target.span, help=f"write `let {name} = ...`")
    value = evaluate(c, statement.value, context.named(name), type_.shape)
    if context.per:
        c.error("E0207", f"`{s.name}` cannot be rebound inside a `per` block", statement.span)
    elif name == s.name:
        running.value = conform(c, value, type_, statement.value, f"`{name}`")


def _param(c: Lowering, statement: ast.ParamDecl, context: Context) -> None:
    """A parameter of a repeat body: each round has its own."""
    from rnnc.frontend.cells import bind, fresh
    from rnnc.frontend.params import declare_param, finish_param

    value = declare_param(c, statement, context) if fresh(c, statement.name, statement, context) else ERROR
    bind(c, statement.name, "param", statement, context, value=value)
    finish_param(c, statement, value, context.named(statement.name))


__all__ = ["call_cell", "capture", "outside", "repeat"]

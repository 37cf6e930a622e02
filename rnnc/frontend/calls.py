"""Calls: which function is meant, whether its arguments fit its signature, and the inlining of `fn`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from rnnc.frontend import ast
from rnnc.frontend.bindings import force, own_past
from rnnc.frontend.expressions import evaluate, known_number, needs_shape
from rnnc.frontend.lowering import Lowering
from rnnc.frontend.scope import Binding, Context, Scope, suggestion
from rnnc.frontend.types import conform, resolve_domain, resolve_type
from rnnc.frontend.values import ERROR, ErrorValue, Shape, Tensor, Value, shape_text
from rnnc.ir.dims import Dim
from rnnc.ir.types import UnitNorm


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A call whose arguments were matched with the function's parameters."""

    call: ast.Call
    name: str
    args: tuple[ast.Expr, ...]  # of a variadic function: all of them
    named: dict[str, ast.Expr]
    context: Context
    want: Shape | None

    def __getitem__(self, key: str) -> ast.Expr:
        return self.named[key]

    def get(self, key: str) -> ast.Expr | None:
        return self.named.get(key)


Run: TypeAlias = Callable[[Lowering, Bound], Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A built-in: `params` may stand by position (the first `required` must be given), `options` by name only.

    `many`: any number of positional arguments (at least `required`).  `shape_of`: the parameters whose shape the result
    has, so that an expected shape flows down to them ("*" means all positional ones).
    """

    name: str
    run: Run
    params: tuple[str, ...] = ()
    required: int = 1
    options: tuple[str, ...] = ()
    many: bool = False
    shape_of: tuple[str, ...] = ()
    sizes: bool = False  # whether `name[n](...)` is allowed
    learned: bool = False  # not allowed in a pure function

    def signature(self) -> str:
        shown = [p if i < self.required else f"{p}=..." for i, p in enumerate(self.params)]
        shown += ["..."] if self.many else []
        return f"{self.name}({', '.join([*shown, *(f'{o}=...' for o in self.options)])})"


FUNCTIONS: dict[str, Function] = {}


def define(function: Function) -> None:
    assert function.name not in FUNCTIONS, function.name
    FUNCTIONS[function.name] = function


# Words that begin a statement, which somebody may try as a function.
_STATEMENTS = ("param", "state", "input", "output")


def known_function(name: str, context: Context) -> bool:
    binding = context.scope.lookup(name)
    return name in FUNCTIONS or (binding is not None and binding.kind in ("fn", "cell"))


def unknown_function(c: Lowering, callee: ast.Name, context: Context) -> ErrorValue:
    if callee.id in c.library.broken:
        return ERROR
    names = set(FUNCTIONS)
    for scope in context.scope.chain():
        names |= {n for n, b in scope.bindings.items() if b.kind in ("fn", "cell")}
    found = context.scope.lookup(callee.id)
    if found is not None and isinstance(found.value, ErrorValue):
        return ERROR  # reported where it is declared or imported
    if found is not None:
        return c.error("E0204", f"`{callee.id}` is not a function", callee.span, help="multiply with `*` or `@`")
    if callee.id in _STATEMENTS:
        help = f"declare it in a line of its own, `{callee.id} NAME: real[n]`, and write its name here"
    else:
        help = suggestion(callee.id, names)
    return c.error("E0201", f"unknown function `{callee.id}`", callee.span, help=help)


def _user_function(name: str, context: Context) -> Binding | None:
    """A `fn` or cell of this name; a value of the same name does not hide it."""
    for scope in context.scope.chain():
        binding = scope.bindings.get(name)
        if binding is not None and binding.kind in ("fn", "cell"):
            return binding
    return None


def call(c: Lowering, expr: ast.Call, context: Context, want: Shape | None) -> Value:
    """The value of a call."""
    callee = expr.callee
    if isinstance(callee, ast.Call):
        from rnnc.frontend.models import call_cell

        return call_cell(c, expr, callee, context)
    if callee.primed:
        return c.error("E0204", f"`{callee.id}'` is not a function", callee.span)
    user = _user_function(callee.id, context)
    if user is not None and user.kind == "cell":
        return c.error(
            "E0209",
            f"`{callee.id}` is a cell: it takes its hyperparameters, then its inputs",
            expr.span,
            help=f"write `{callee.id}(...)(x)`, for example `{callee.id}()(x)`",
        )
    if user is not None:
        return inline(c, user, expr, context, want)
    function = FUNCTIONS.get(callee.id)
    if function is None:
        with c.sizes_unknown():
            for argument in expr.args:
                evaluate(c, argument.value, context)
        return unknown_function(c, callee, context)
    if expr.sizes and not function.sizes:
        return c.error("E0209", f"`{function.name}` takes no size in brackets", expr.span)
    if function.learned and context.pure:
        where = "a `fn` is pure" if c.calls else "a claim speaks of what the cell has"
        return c.error(
            "E0204",
            f"`{function.name}` learns or remembers something, and {where}",
            expr.span,
            help="call it in the cell, and pass its value to the function" if c.calls else "name it in the cell",
        )
    bound = bind(c, function, expr, context, want)
    return ERROR if bound is None else function.run(c, bound)


def bind(c: Lowering, function: Function, expr: ast.Call, context: Context, want: Shape | None) -> Bound | None:
    """Match arguments with parameters; what does not fit is reported."""
    positional = [a for a in expr.args if not a.name]
    named = {p: a.value for p, a in zip(function.params, positional, strict=False)}
    fine = True
    if len(positional) > len(function.params) and not function.many:
        most = len(function.params)
        _wrong_arguments(
            c, function, expr, f"takes at most {most} argument{'s' if most != 1 else ''}, not {len(positional)}"
        )
        fine = False
    for a in expr.args:
        if not a.name:
            continue
        if a.name in named:
            c.error("E0209", f"`{a.name}` is given twice", a.span)
            fine = False
        elif a.name not in function.params and a.name not in function.options:
            hint = suggestion(a.name, (*function.params, *function.options)) or f"its form is `{function.signature()}`"
            c.error("E0209", f"`{function.name}` has no option `{a.name}`", a.span, help=hint)
            fine = False
        else:
            named[a.name] = a.value
    missing = [p for p in function.params[: function.required] if p not in named]
    if function.many and len(positional) < function.required:
        _wrong_arguments(c, function, expr, f"needs at least {function.required} arguments")
        fine = False
    elif missing and fine:
        _wrong_arguments(c, function, expr, f"needs {', '.join(f'`{m}`' for m in missing)}")
        fine = False
    if not fine:
        with c.sizes_unknown():
            for a in expr.args:  # what is wrong inside the arguments is reported as well
                evaluate(c, a.value, context)
        return None
    args = tuple(a.value for a in positional)
    return Bound(call=expr, name=function.name, args=args, named=named, context=context, want=want)


def _wrong_arguments(c: Lowering, function: Function, expr: ast.Call, problem: str) -> None:
    c.error("E0209", f"`{function.name}` {problem}", expr.span, help=f"its form is `{function.signature()}`")


def call_needs_shape(c: Lowering, expr: ast.Call, context: Context) -> bool:
    """Whether a call takes its shape from where it is used."""
    callee = expr.callee
    if isinstance(callee, ast.Call):
        return False
    if _user_function(callee.id, context) is not None:
        return any(needs_shape(c, a.value, context) for a in expr.args)
    function = FUNCTIONS.get(callee.id)
    if function is None:
        return False
    if function.sizes:
        return not expr.sizes
    positional = [a.value for a in expr.args if not a.name]
    if function.name == "prev" and positional and own_past(c, positional[0], context) is not None:
        return True
    if "*" in function.shape_of:
        if function.name in ("max", "min") and len(positional) < 2:
            return False
        return any(needs_shape(c, a, context) for a in positional)
    pairs = [*zip(function.params, positional, strict=False), *((a.name, a.value) for a in expr.args if a.name)]
    return any(p in function.shape_of and needs_shape(c, a, context) for p, a in pairs)


# ---------------------------------------------------------------- functions of the spec


def inline(c: Lowering, user: Binding, expr: ast.Call, context: Context, want: Shape | None) -> Value:
    """A call of a `fn`: its body with the arguments in place of its parameters; dims follow from the arguments."""
    fn = user.decl
    assert isinstance(fn, ast.FnDecl)
    assert user.module is not None
    if fn.name in c.calls:
        chain = " -> ".join(f"`{n}`" for n in [*c.calls[c.calls.index(fn.name) :], fn.name])
        return c.error("E0206", f"the function `{fn.name}` calls itself", expr.span, label=chain)
    arguments = _fn_arguments(c, fn, expr, context)
    if arguments is None:
        return ERROR
    scope = Scope(user.module.scope)
    inner = Context(scope=scope, per=context.per, binding=context.binding, suffix=context.suffix, pure=True)
    dims: dict[str, Dim] = {}
    if fn.result is not None and want is not None and len(fn.result.shape) == len(want):
        for size, known in zip(fn.result.shape, want, strict=True):
            if isinstance(size, ast.Name) and not inner.scope.lookup(size.id):
                dims.setdefault(size.id, known)
    values = _fn_values(c, fn, arguments, context, inner, dims, want)
    if values is None:
        return ERROR
    for name, dim in dims.items():
        scope.bindings[name] = Binding(name, "hyper", fn.span, value=dim, status="done")
    for (name, _, _), value in zip(fn.params, values, strict=True):
        scope.bindings[name] = Binding(name, "value", fn.span, value=value, status="done")
    for let in fn.body:
        if let.name in scope.bindings:
            c.error("E0202", f"`{let.name}` is declared twice", let.span)
            continue
        scope.bindings[let.name] = Binding(let.name, "let", let.span, decl=let, context=inner, owner=c)
    c.calls.append(fn.name)
    try:
        for let in fn.body:
            force(c, scope.bindings[let.name], let.span)
        result = evaluate(c, fn.value, inner, want)
        return _fn_result(c, fn, result, inner)
    finally:
        c.calls.pop()


def _fn_arguments(c: Lowering, fn: ast.FnDecl, expr: ast.Call, context: Context) -> list[tuple[ast.Expr, bool]] | None:
    """For each parameter its argument, and whether that is the parameter's default."""
    signature = Function(
        name=fn.name,
        run=lambda c, b: ERROR,
        params=tuple(name for name, _, _ in fn.params),
        required=sum(default is None for _, _, default in fn.params),
    )
    bound = bind(c, signature, expr, context, None)
    if bound is None:
        return None
    found: list[tuple[ast.Expr, bool]] = []
    for name, _, default in fn.params:
        given = bound.get(name)
        if given is not None:
            found.append((given, False))
        elif default is not None:
            found.append((default, True))
        else:
            _wrong_arguments(c, signature, expr, f"needs `{name}`")
            return None
    return found


def _fn_values(
    c: Lowering,
    fn: ast.FnDecl,
    arguments: list[tuple[ast.Expr, bool]],
    context: Context,
    inner: Context,
    dims: dict[str, Dim],
    want: Shape | None,
) -> list[Value] | None:
    """Arguments of known shape first; they fix the dims that give the others their shape."""
    values: list[Value | None] = [None] * len(arguments)
    hungry = [needs_shape(c, a, inner if is_default else context) for a, is_default in arguments]
    joint = want if fn.result is None or not fn.result.shape else None
    for i in sorted(range(len(arguments)), key=lambda i: hungry[i]):
        (arg, is_default), (_, type_, _) = arguments[i], fn.params[i]
        expected = joint if not type_.shape else _known_shape(type_, dims)
        value = evaluate(c, arg, inner if is_default else context, expected if hungry[i] else None)
        values[i] = _fn_argument(c, fn, i, value, arg, inner, dims)
        shape = c.shape(value)
        if joint is None and shape and not type_.shape:
            joint = shape
    return None if any(isinstance(v, ErrorValue) or v is None for v in values) else [v for v in values if v is not None]


def _known_shape(type_: ast.TypeExpr, dims: dict[str, Dim]) -> Shape | None:
    found: list[Dim] = []
    for size in type_.shape:
        if isinstance(size, ast.Name) and size.id in dims:
            found.append(dims[size.id])
        elif isinstance(size, ast.Number):
            found.append(Dim.of(size.value))
        else:
            return None
    return tuple(found)


def _fn_argument(
    c: Lowering, fn: ast.FnDecl, i: int, value: Value, arg: ast.Expr, inner: Context, dims: dict[str, Dim]
) -> Value:
    """Check an argument against its parameter's type, and learn the dims that it fixes.  No brackets: any shape."""
    name, type_, _ = fn.params[i]
    if isinstance(value, ErrorValue):
        return ERROR
    if not type_.shape:
        return value
    shape = c.shape(value)
    if shape is None or len(shape) != len(type_.shape):
        found = c.described(arg, value)
        return c.error("E0203", f"`{name}` of `{fn.name}` has {len(type_.shape)} axes", arg.span, label=found)
    scope = Scope(inner.scope)
    local = inner.within(scope)
    for size, known in zip(type_.shape, shape, strict=True):
        if isinstance(size, ast.Name) and inner.scope.lookup(size.id) is None:
            dims.setdefault(size.id, known)
    for dim_name, dim in dims.items():
        scope.bindings[dim_name] = Binding(dim_name, "hyper", type_.span, value=dim, status="done")
    sizes = [known_number(c, size, local, "a size") for size in type_.shape]
    if any(s is None for s in sizes):
        return ERROR
    expected = tuple(s for s in sizes if s is not None)
    if expected != shape:
        return c.error(
            "E0203",
            f"`{name}` of `{fn.name}` has shape {shape_text(expected)} here",
            arg.span,
            label=c.described(arg, value),
        )
    return value


def _fn_result(c: Lowering, fn: ast.FnDecl, result: Value, inner: Context) -> Value:
    if fn.result is None or isinstance(result, ErrorValue):
        return result
    if fn.result.shape:
        type_, domain = resolve_type(c, fn.result, inner)
        result = conform(c, result, type_, fn.value, f"the result of `{fn.name}`", verb="is") if type_ else ERROR
    else:
        domain = resolve_domain(c, fn.result.domain, inner) if fn.result.domain else None
    if domain is not None and isinstance(result, Tensor) and not isinstance(domain, UnitNorm):
        c.claim_range(result.node, domain, fn.result.span)
    return result


def expect_option(c: Lowering, bound: Bound, name: str, default: bool) -> bool:
    """A truth value among the options, known at compile time."""
    given = bound.get(name)
    if given is None:
        return default
    value = evaluate(c, given, bound.context)
    if isinstance(value, bool):
        return value
    if not isinstance(value, ErrorValue):
        c.error("E0209", f"`{name}` is `true` or `false`", given.span)
    return default

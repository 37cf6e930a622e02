"""Reading names: demand-driven evaluation, cycles, unknown names, and values of `per` blocks used outside of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass

from rnnc.diagnostics import Span
from rnnc.frontend import ast
from rnnc.frontend.circles import circle_of
from rnnc.frontend.expressions import CONSTANTS, evaluate
from rnnc.frontend.lowering import Lowering, StateInfo
from rnnc.frontend.scope import Binding, Context, Scope, suggestion
from rnnc.frontend.types import conform, declared_type, impossible_unit, scaled_claim
from rnnc.frontend.values import ERROR, ErrorValue, Identity, Shape, Tensor, Value, type_text
from rnnc.ir.dims import Dim
from rnnc.ir.graph import NodeId
from rnnc.ir.types import Domain, UnitNorm

KIND_WORDS = {
    "fn": "a function",
    "cell": "a cell",
    "automaton": "an automaton",
    "language": "a language",
    "task": "a task",
}


def constant(c: Lowering, name: str) -> Value:
    return Identity(Dim.of(1)) if name == "I" else Tensor(c.b.const(name))


def unknown_name(c: Lowering, expr: ast.Name, context: Context) -> ErrorValue:
    from rnnc.frontend.calls import FUNCTIONS

    if expr.id in c.library.broken:
        return ERROR
    if expr.id in FUNCTIONS:
        return c.error("E0204", f"`{expr.id}` is a function", expr.span, help=f"call it: `{expr.id}(...)`")
    if expr.id in c.future_names and not context.pure:
        return c.error(
            "E0201",
            f"`{expr.id}` is not known here",
            expr.span,
            help="it is declared inside a block: in a `substep`, a `repeat`, or a branch of `if` that is not taken",
        )
    names = {n for n in context.scope.names() if not n.endswith("'")} | set(CONSTANTS)
    return c.error("E0201", f"unknown name `{expr.id}`", expr.span, help=suggestion(expr.id, names))


def read(c: Lowering, binding: Binding, expr: ast.Name, context: Context, want: Shape | None) -> Value:
    """The value of a name, as it is seen from `context`."""
    if binding.kind in KIND_WORDS:
        return c.error(
            "E0204",
            f"`{expr.id}` is {KIND_WORDS[binding.kind]}, not a value",
            expr.span,
            help=f"call it: `{expr.id}(...)`" if binding.kind in ("fn", "cell") else "",
        )
    if binding.owner is None or binding.owner is c:
        value = force(c, binding, expr.span, want)
        return value if binding.kind == "update" else seen_from(c, binding, value, context)
    from rnnc.frontend.models import capture  # a name of the model around a `repeat`

    return capture(c, binding, expr)


def seen_from(c: Lowering, binding: Binding, value: Value, context: Context) -> Value:
    """A value of a `per` block that is used outside of it carries the block's axis in front."""
    if not isinstance(value, Tensor) or binding.context is None or c.b.is_free_scalar(value.node):
        return value
    own, here = binding.context.per, context.per
    common = 0
    while common < min(len(own), len(here)) and own[common] == here[common]:
        common += 1
    if common == len(own):
        return value
    return Tensor(c.b.add("merge", c.b.lift(value.node, own), n=len(own) - common))


def force(c: Lowering, binding: Binding, span: Span, want: Shape | None = None) -> Value:
    """Evaluate a binding if that has not been done.  `span` is where it is asked for."""
    if binding.status == "done":
        return ERROR if binding.value is None else binding.value
    if binding.status == "active":
        return _cycle(c, binding, span)
    binding.status = "active"
    c.active.append(binding)
    try:
        binding.value = _evaluate_binding(c, binding, want)
    finally:
        c.active.pop()
        binding.status = "done"
    for state in c.waiting.pop(binding, ()):
        _fill_past(c, binding, state)
    return binding.value


def _cycle(c: Lowering, binding: Binding, span: Span) -> ErrorValue:
    start = c.active.index(binding) if binding in c.active else len(c.active)
    names = [b.name for b in c.active[start:]] + [binding.name]
    chain = " -> ".join(f"`{n}`" for n in names)
    return c.error(
        "E0206",
        f"`{binding.name}` depends on itself",
        span,
        label=chain,
        help="carry the value over steps with a `state`; what it was before is `prev(...)`, or a state without prime",
    )


# ---------------------------------------------------------------- values that depend on their own past


def own_past(c: Lowering, expr: ast.Expr, context: Context) -> Binding | None:
    """The binding of `a` in `let a = x + prev(a)`: a value of this cell that is asked for while it is worked out."""
    if not isinstance(expr, ast.Name) or expr.primed or c.keyword != "cell":
        return None
    binding = context.scope.lookup(expr.id)
    if binding is None or binding.owner is not c or not isinstance(binding.decl, ast.LetDecl | ast.OutputDecl):
        return None
    return binding if _is_in_work(binding) else None


def _is_in_work(binding: Binding) -> bool:
    """Whether a value is being worked out, or needs one that is.

    What is being worked out led here, so the second means: they stand in one circle.
    """
    if binding.status == "active":
        return True
    return binding.status == "todo" and any(b.status == "active" for b in circle_of(binding, _needs))


def _needs(binding: Binding) -> Iterator[Binding]:
    """The bindings whose values the declaration of `binding` names."""
    if binding.context is not None and binding.status != "done":
        for name in walk(binding.decl):
            if isinstance(name, ast.Name):
                found = binding.context.scope.lookup(name.id + "'" * name.primed)
                if found is not None:
                    yield found


def _fill_past(c: Lowering, binding: Binding, state: StateInfo) -> None:
    """The value of `binding` is known: it is what `state` holds next."""
    if not isinstance(binding.value, Tensor):
        return
    node, wanted = binding.value.node, state.type
    found = c.b.type(node)
    if c.b.is_free_scalar(node) or (found.shape == wanted.shape and found.dtype == wanted.dtype):
        state.update = c.b.broadcast_to(node, wanted.shape, wanted.per)
        return
    message = f"`{binding.name}` is `{type_text(found)}`, and its own past was taken to be `{type_text(wanted)}`"
    c.error("E0203", message, binding.span, help=f"give it a type: `let {binding.name}: {type_text(found)} = ...`")


def _evaluate_binding(c: Lowering, binding: Binding, want: Shape | None) -> Value:
    decl, context = binding.decl, binding.context
    assert context is not None, binding.name
    outer_span, c.b.span = c.b.span, binding.span
    try:
        match decl:
            case ast.LetDecl():
                return _let(c, decl, context.named(decl.name), want)
            case ast.ConstDecl():
                return _const(c, decl, context.named(decl.name))
            case ast.OutputDecl():
                return _output(c, decl, context.named(decl.name))
            case ast.Update():
                return _update(c, decl, context.named(decl.target.id))
            case ast.Repeat():
                from rnnc.frontend.models import repeat

                return repeat(c, decl, context)
            case ast.Substep():
                from rnnc.frontend.cells import run_substep

                return run_substep(c, binding, decl, context)
    finally:
        c.b.span = outer_span
    raise AssertionError(binding)


def _let(c: Lowering, decl: ast.LetDecl, context: Context, want: Shape | None) -> Value:
    type_, domain, ok = declared_type(c, decl.type, context)
    if not ok:
        with c.sizes_unknown():
            evaluate(c, decl.value, context, want)
        return ERROR
    value = evaluate(c, decl.value, context, type_.shape if type_ else want)
    value = conform(c, value, type_, decl.value, f"`{decl.name}`")
    if decl.keyword == "transition":
        _transition(c, decl, value)
    if domain is not None and not isinstance(value, ErrorValue):
        node = c.to_node(value, decl.value.span)
        if node is not None:
            value = Tensor(node)
            problem = impossible_unit(c, node) if isinstance(domain, UnitNorm) else ""
            if problem:
                return c.error(
                    "E0204",
                    f"`{decl.name}` is declared `unit`, and {problem}",
                    decl.value.span,
                    help=f"normalise it: `l2norm({c.text_of(decl.value)})`",
                )
            _claim(c, decl, node, domain, context)
    if isinstance(value, Tensor) and not isinstance(decl.value, ast.Name):  # `let a = h'` is only another name of it
        c.name_node(value.node, decl.name, decl.span)
    return value


def _claim(c: Lowering, decl: ast.LetDecl, node: NodeId, domain: Domain, context: Context) -> None:
    """The range of a `let` has to be possible, that of a `gate` proved."""
    span = decl.type.span if decl.type else decl.span
    scaled = scaled_claim(c, node, decl.type.domain if decl.type else None, context)
    required = decl.keyword == "gate"
    if required and scaled is not None:
        part, interval = scaled
        c.claim_range(part, interval, span, required=True)
        c.name_node(part, decl.name if part == node else f"{decl.name}_part", decl.span)
    c.claim_range(node, domain, span, required=required and scaled is None)


def _transition(c: Lowering, decl: ast.LetDecl, value: Value) -> None:
    if isinstance(value, Identity):
        c.sizeless[decl.name] = (value, decl.value.span)  # sized where it is used
    elif not isinstance(value, ErrorValue):
        node = c.to_node(value, decl.value.span)
        if node is not None:
            c.transitions.append((decl.name, node))


def _const(c: Lowering, decl: ast.ConstDecl, context: Context) -> Value:
    type_, domain, ok = declared_type(c, decl.type, context)
    with c.sizes_unknown(because=not ok):
        value = evaluate(c, decl.value, context, type_.shape if type_ else None)
    value = conform(c, value, type_, decl.value, f"`{decl.name}`") if ok else ERROR
    if isinstance(value, Tensor):
        if not c.is_constant(value.node):
            return c.error(
                "E0204",
                f"the constant `{decl.name}` depends on what changes or is learned",
                decl.value.span,
                help=f"use `let {decl.name} = ...`",
            )
        if domain is not None:
            c.claim_range(value.node, domain, decl.span)
        c.name_node(value.node, decl.name, decl.span)
    return value


def _output(c: Lowering, decl: ast.OutputDecl, context: Context) -> Value:
    type_, domain, ok = declared_type(c, decl.type, context)
    with c.sizes_unknown(because=not ok):
        value = evaluate(c, decl.value, context, type_.shape if type_ else None)
    value = conform(c, value, type_, decl.value, f"output `{decl.name}`") if ok else ERROR
    node = c.to_node(value, decl.value.span)
    if node is None:
        return ERROR
    if c.b.type(node).per != context.per:
        node = c.b.broadcast_to(node, c.b.type(node).shape, context.per)
    if domain is not None:
        c.claim_range(node, domain, decl.span)
    if not isinstance(decl.value, ast.Name):  # `output y = h'` leaves the update of h its own name
        c.name_node(node, decl.name, decl.span)
    return Tensor(node)


def _update(c: Lowering, decl: ast.Update, context: Context) -> Value:
    state = c.states.get(decl.target.id)
    with c.sizes_unknown(because=state is None):
        value = evaluate(c, decl.value, context, state.type.shape if state else None)
    if state is None:
        return ERROR
    if context.per != state.type.per:
        where = "outside of" if len(context.per) < len(state.type.per) else "inside"
        return c.error(
            "E0207",
            f"state `{state.name}` is updated {where} the `per` block"
            + (" it is declared in" if where == "outside of" else ", and declared outside"),
            decl.span,
            help=f"put `state {state.name}` and its update into the same block",
        )
    value = conform(c, value, state.type, decl.value, f"state `{state.name}`", verb="is updated with")
    if not isinstance(value, Tensor):
        return ERROR
    return Tensor(c.b.broadcast_to(value.node, state.type.shape, state.type.per))


# ---------------------------------------------------------------- branches that are not taken


def check_names(c: Lowering, part: object, context: Context) -> None:
    """Report unknown names in a branch that this specialisation does not take (its shapes may not make sense)."""
    scope = Scope(context.scope)
    for node in walk(part):
        for name, span in declared_names(node):
            scope.bindings.setdefault(name, Binding(name, "value", span, value=ERROR, status="done"))
    inner = context.within(scope)
    for node in walk(part):
        if isinstance(node, ast.Name):
            known = node.id in CONSTANTS or node.id in c.future_names or inner.scope.lookup(node.id) is not None
            if not known:
                unknown_name(c, node, inner)
        elif isinstance(node, ast.Call) and isinstance(node.callee, ast.Name):
            from rnnc.frontend.calls import known_function, unknown_function

            if not known_function(node.callee.id, inner):
                unknown_function(c, node.callee, inner)


def declared_names(node: object) -> Sequence[tuple[str, Span]]:
    match node:
        case ast.LetDecl() | ast.ConstDecl() | ast.ParamDecl() | ast.InputDecl() | ast.StateDecl() | ast.OutputDecl():
            return ((node.name, node.span),)
        case ast.Repeat():
            return ((node.name, node.span),)
        case ast.Substep() | ast.Fold():
            return ((node.index, node.span),)
        case _:
            return ()


def walk(part: object) -> Iterator[ast.Located]:
    """Every node of a part of the syntax tree; called names, claims and initial distributions are left out."""
    stack: list[object] = [part]
    while stack:
        node = stack.pop()
        if isinstance(node, tuple):
            stack.extend(reversed(node))
        elif isinstance(node, (ast.Expect, Span)):
            continue
        elif isinstance(node, ast.Located) and is_dataclass(node):
            yield node
            skipped = {
                "span",
                "callee" if isinstance(node, ast.Call) and isinstance(node.callee, ast.Name) else "",
                "init" if isinstance(node, ast.ParamDecl) else "",
            }
            stack.extend(getattr(node, f.name) for f in reversed(fields(node)) if f.name not in skipped)

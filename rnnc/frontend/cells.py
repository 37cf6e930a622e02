"""The statements of a cell, to `CellIR`.

Declarations are collected first, then everything is evaluated on demand: the order of statements does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from rnnc.frontend import ast
from rnnc.frontend.bindings import check_names, declared_names, force
from rnnc.frontend.claims import lower_subjects, statements
from rnnc.frontend.expressions import evaluate
from rnnc.frontend.folds import indexed, unrolled
from rnnc.frontend.lowering import Lowering, StateInfo
from rnnc.frontend.params import declare_param, finish_param
from rnnc.frontend.scope import Binding, BindingKind, Context, suggestion
from rnnc.frontend.types import conform, resolve_type
from rnnc.frontend.values import ERROR, ErrorValue, Tensor, Value
from rnnc.ir.dims import Dim
from rnnc.ir.graph import Input


@dataclass(slots=True)
class Frame:
    """One block of statements: the cell's body, or one round of a `substep`."""

    context: Context
    in_substep: bool = False
    roots: list[Binding] = field(default_factory=list)
    params: list[tuple[ast.ParamDecl, Value, Context]] = field(default_factory=list)


def lower_body(c: Lowering, body: tuple[ast.Statement, ...], context: Context) -> None:
    """Collect the statements of a cell or model and evaluate them all."""
    frame = Frame(context)
    c.promise(_parameters(body))
    collect(c, body, context, frame)
    _evaluate_all(c, frame)
    for part, where in c.not_taken:
        check_names(c, part, where)
    _finish_states(c, context)
    for name, (_, span) in list(c.sizeless.items()):
        size = c.sizes_of_identity.get(name)
        if size is not None:
            c.transitions.append((name, c.scaled_identity(c.sizeless[name][0], size)))
        else:
            c.error("E0205", "the size of `I` is unknown here", span, help="give it a type: `real[n, n]`")
    lower_subjects(c, context)


def _parameters(body: tuple[ast.Statement, ...]) -> Iterator[str]:
    """The names of the parameters declared in a block, those of each round of a `substep` apart."""
    for s in body:
        match s:
            case ast.ParamDecl():
                yield s.name
            case ast.Per():
                yield from _parameters(s.body)
            case ast.If():
                yield from _parameters((*s.then, *s.orelse))


def _evaluate_all(c: Lowering, frame: Frame) -> None:
    """Every value of a block; those that take their size from their use come last."""
    for root in frame.roots:
        if not _waits_for_use(c, root):
            force(c, root, root.span)
    for root in frame.roots:
        force(c, root, root.span)
    for decl, value, where in frame.params:
        finish_param(c, decl, value, where.named(decl.name))


def _waits_for_use(c: Lowering, binding: Binding) -> bool:
    """A `let` without a type whose `linear` takes its size from the first use is evaluated after its uses."""
    from rnnc.frontend.expressions import needs_shape

    decl = binding.decl
    return (
        isinstance(decl, ast.LetDecl)
        and decl.type is None
        and binding.context is not None
        and needs_shape(c, decl.value, binding.context)
    )


# ---------------------------------------------------------------- collecting declarations


def collect(c: Lowering, body: tuple[ast.Statement, ...], context: Context, frame: Frame) -> None:
    """Bind every name of a block; inputs, parameters and states get their leaves at once."""
    for statement in body:
        collect_one(c, statement, context, frame)


def collect_one(c: Lowering, s: ast.Statement, context: Context, frame: Frame) -> None:
    match s:
        case ast.InputDecl():
            if allowed(c, s, "input", frame, context):
                _input(c, s, context)
        case ast.ParamDecl():
            value = declare_param(c, s, context) if fresh(c, s.name, s, context) else ERROR
            bind(c, s.name, "param", s, context, value=value)
            frame.params.append((s, value, context))
        case ast.StateDecl():
            if allowed(c, s, "state", frame, context):
                _state(c, s, context)
        case ast.LetDecl() | ast.ConstDecl():
            kind: BindingKind = "let" if isinstance(s, ast.LetDecl) else "const"
            _root(c, s.name, kind, s, context, frame)
        case ast.OutputDecl():
            if allowed(c, s, "output", frame, context):
                _root(c, s.name, "output", s, context, frame)
        case ast.Update():
            _collect_update(c, s, context, frame)
        case ast.Substep():
            _collect_substep(c, s, context, frame)
        case ast.Per():
            axis = per_axis(c, s, context)
            if axis is not None:
                collect(c, s.body, replace(context, per=(*context.per, axis)), frame)
            else:
                poison(c, s.body, context)
        case ast.If():
            condition = evaluate(c, s.condition, context)
            if isinstance(condition, bool):
                collect(c, s.then if condition else s.orelse, context, frame)
                c.not_taken.append((s.orelse if condition else s.then, context))
                return
            poison(c, (*s.then, *s.orelse), context)
            if not isinstance(condition, ErrorValue):
                c.error(
                    "E0305",
                    "the condition of `if { }` must be known at compile time",
                    s.condition.span,
                    help="dims stay open until a module is made: use `int`, `real` and `bool` hyperparameters; "
                    "to choose between values write `a if c else b`",
                )
        case ast.Expect():
            if allowed(c, s, "expect", frame, context):
                c.expect.extend(s.claims)
        case ast.Repeat():
            if c.keyword == "cell":
                c.error("E0210", "`repeat` stands in a model", s.span, help="in a cell use `substep j in 1..n { }`")
                poison(c, (s,), context)
            elif allowed(c, s, "repeat", frame, context):
                _root(c, s.name, "repeat", s, context, frame)
        case ast.Assign():
            c.error(
                "E0210",
                f"`{s.target.id} = ...` stands in a `repeat` block only",
                s.span,
                help=f"write `let {s.target.id} = ...`, or `{s.target.id} <- ...` for a state",
            )


def allowed(c: Lowering, s: ast.Statement, word: str, frame: Frame, context: Context) -> bool:
    """Whether a statement may stand here; the names of one that may not are known all the same."""
    if frame.in_substep:
        c.error("E0210", f"`{word}` cannot stand inside `substep`", s.span, help="move it out of the block")
        poison(c, (s,), context)
        return False
    if word == "state" and c.keyword != "cell":
        c.error("E0210", "a model has no state of its own", s.span, help="put the recurrence into a cell, and call it")
        poison(c, (s,), context)
        return False
    return True


def poison(c: Lowering, body: tuple[ast.Statement, ...], context: Context) -> None:
    """Names that a refused part of the cell would have bound: they are known, and their use is silent."""
    for s in statements(body):
        names = [s.target.id + "'"] if isinstance(s, ast.Update) else [name for name, _ in declared_names(s)]
        for name in names:
            context.scope.bindings.setdefault(name, Binding(name, "value", s.span, value=ERROR, status="done"))


def fresh(c: Lowering, name: str, s: ast.Located, context: Context) -> bool:
    """Whether a name is new in its block; a second declaration is reported."""
    other = context.scope.bindings.get(name)
    if other is None:
        return True
    if other.kind == "value" and isinstance(other.value, ErrorValue):
        return False  # declared in a part that was refused, which is reported
    c.error(
        "E0202",
        f"`{name}` is declared twice",
        s.span,
        notes=(f"it is first declared at {other.span.line}:{other.span.column}",),
    )
    return False


def bind(
    c: Lowering, name: str, kind: BindingKind, s: ast.Statement, context: Context, value: Value | None = None
) -> Binding:
    """Bind a name, unless it is taken; the binding is made either way."""
    binding = Binding(name, kind, s.span, decl=s, context=context, owner=c)
    if value is not None:
        binding.value, binding.status = value, "done"
    context.scope.bindings.setdefault(name, binding)
    return binding


def _root(c: Lowering, name: str, kind: BindingKind, s: ast.Statement, context: Context, frame: Frame) -> None:
    fresh(c, name, s, context)
    frame.roots.append(bind(c, name, kind, s, context))


def _input(c: Lowering, s: ast.InputDecl, context: Context) -> None:
    new = fresh(c, s.name, s, context)
    type_, domain = resolve_type(c, s.type, context)
    value: Value = ERROR
    if type_ is not None and new:
        c.b.span = s.span
        c.names_used.add(s.name)
        node = c.b.leaf("input", s.name, replace(type_, per=context.per))
        c.inputs.append(Input(name=s.name, node=node, domain=domain))
        value = Tensor(node)
    bind(c, s.name, "input", s, context, value=value)


def _state(c: Lowering, s: ast.StateDecl, context: Context) -> None:
    new = fresh(c, s.name, s, context)
    type_, domain = resolve_type(c, s.type, context)
    if type_ is not None and type_.dtype == "token":
        c.error("E0204", "a state is a number or a truth value, not a token", s.type.span)
        type_ = None
    binding = bind(c, s.name, "state", s, context, value=ERROR)
    if type_ is not None and new:
        c.b.span = s.span
        c.names_used.add(s.name)
        full = replace(type_, per=context.per)
        node = c.b.leaf("state", s.name, full)
        binding.value, binding.node = Tensor(node), node
        c.states[s.name] = StateInfo(name=s.name, binding=binding, type=full, node=node, domain=domain, span=s.span)


def per_axis(c: Lowering, s: ast.Per, context: Context) -> Dim | None:
    value = evaluate(c, s.axis, context)
    if isinstance(value, Dim):
        k = value.constant
        if k is None or (k.denominator == 1 and k > 0):
            return value
    if not isinstance(value, ErrorValue):
        c.error(
            "E0207",
            f"`per {s.axis.id}` needs a `dim` hyperparameter",
            s.axis.span,
            label=f"`{c.type_text(value)}`",
            help=f"declare it in the head: `{s.axis.id}: dim`",
        )
    return None


# ---------------------------------------------------------------- updates


def _collect_update(c: Lowering, s: ast.Update, context: Context, frame: Frame) -> None:
    name = s.target.id
    if not _is_state(c, s.target, context):
        binding = Binding(name + "'", "update", s.span, decl=s, context=context, owner=c)
        frame.roots.append(binding)  # its right-hand side is checked all the same
        return
    key = name + "'"
    earlier = context.scope.bindings.get(key)
    binding = Binding(key, "update", s.span, decl=s, context=context, owner=c)
    frame.roots.append(binding)
    if earlier is not None:
        _updated_twice(c, name, s, earlier)
        return
    context.scope.bindings[key] = binding


def _updated_twice(c: Lowering, name: str, s: ast.Located, earlier: Binding) -> None:
    c.error(
        "E0208",
        f"state `{name}` is updated twice",
        s.span,
        notes=(f"its first update is at {earlier.span.line}:{earlier.span.column}",),
        help="a state has one update; several small ones go into `substep j in 1..n { }`",
    )


def _is_state(c: Lowering, target: ast.Name, context: Context) -> bool:
    """Whether the target of an update is a state; it may be declared further down."""
    binding = context.scope.lookup(target.id)
    if binding is not None and binding.kind == "state":
        return True
    if target.id in c.future_states:
        return True
    if target.id in c.library.broken or (binding is not None and isinstance(binding.value, ErrorValue)):
        return False  # reported where it is declared
    if binding is None and target.id not in c.future_names:
        hint = suggestion(target.id, c.future_states)
        c.error(
            "E0201",
            f"unknown state `{target.id}`",
            target.span,
            help=hint or f"declare it: `state {target.id}: real[n] = 0`",
        )
    else:
        c.error(
            "E0204", f"`{target.id}` is not a state, so it has no update", target.span, help="use `let` to name a value"
        )
    return False


def _updated_in(body: tuple[ast.Statement, ...]) -> Iterator[ast.Update]:
    for s in body:
        match s:
            case ast.Update():
                yield s
            case ast.Per() | ast.Substep():
                yield from _updated_in(s.body)
            case ast.If():
                yield from _updated_in(s.then)
                yield from _updated_in(s.orelse)


def _collect_substep(c: Lowering, s: ast.Substep, context: Context, frame: Frame) -> None:
    """The states updated in a substep block get their new value from its last round."""
    runner = Binding("substep", "substep", s.span, decl=s, context=context, owner=c)
    frame.roots.append(runner)
    for name in dict.fromkeys(u.target.id for u in _updated_in(s.body)):
        if name not in c.future_states and not (
            (found := context.scope.lookup(name)) is not None and found.kind == "state"
        ):
            continue  # reported when the block is unrolled
        key = name + "'"
        earlier = context.scope.bindings.get(key)
        if earlier is not None:
            _updated_twice(c, name, s, earlier)
            continue
        context.scope.bindings[key] = Binding(key, "update", s.span, decl=s, context=context, owner=c)


def run_substep(c: Lowering, binding: Binding, s: ast.Substep, context: Context) -> Value:
    """All rounds of a substep block, once; the value of the state that `binding` updates."""
    key = (id(s), context.suffix)
    if key not in c.substep_results:
        c.substep_results[key] = _unroll(c, s, context)
    name = binding.name.removesuffix("'")
    return c.substep_results[key].get(name, ERROR)


def _unroll(c: Lowering, s: ast.Substep, context: Context) -> dict[str, Value]:
    updated = list(dict.fromkeys(u.target.id for u in _updated_in(s.body)))
    running: dict[str, Value] = {}
    for name in updated:
        found = context.scope.lookup(name)
        if found is not None and found.kind == "state":
            running[name] = _current(context, name, found)
    rounds = unrolled(c, s.lo, s.hi, context)
    if rounds is None:
        return dict.fromkeys(updated, ERROR)
    for j in rounds:
        inner = indexed(context, s.index, j, s)
        inner.scope.running.update(running)
        frame = Frame(inner, in_substep=True)
        collect(c, s.body, inner, frame)
        _evaluate_all(c, frame)
        for name in running:
            update = inner.scope.bindings.get(name + "'")
            if update is not None:
                value = running[name] = force(c, update, s.span)
                if isinstance(value, Tensor):
                    c.state_values.add(value.node)
    return running


def _current(context: Context, name: str, found: Binding) -> Value:
    for scope in context.scope.chain():
        if name in scope.running:
            return scope.running[name]
    return ERROR if found.value is None else found.value


# ---------------------------------------------------------------- finishing


def _finish_states(c: Lowering, context: Context) -> None:
    for state in list(c.states.values()):
        decl = state.binding.decl
        if not isinstance(decl, ast.StateDecl):
            continue  # a hidden state of `prev` or `conv`
        where = state.binding.context or context
        _state_init(c, state, decl, where.named(state.name))
        update = where.scope.bindings.get(state.name + "'")
        if update is None:
            if state.name in c.library.broken:
                continue
            c.error(
                "E0208",
                f"state `{state.name}` is never updated",
                decl.span,
                help=f"add `{state.name} <- ...`; a value that stays the same is a `param` or a `const`",
            )
            continue
        value = force(c, update, decl.span)
        if isinstance(value, Tensor):
            state.update = value.node
            c.name_node(value.node, f"{state.name}_new", update.span)


def _state_init(c: Lowering, state: StateInfo, decl: ast.StateDecl, context: Context) -> None:
    value = evaluate(c, decl.init, context, state.type.shape)
    if isinstance(value, Tensor) and not c.is_static(value.node):
        c.error(
            "E0204",
            f"state `{state.name}` cannot start from a value that changes with time",
            decl.init.span,
            help="start from a constant or a `param`",
        )
        return
    value = conform(c, value, state.type, decl.init, f"state `{state.name}`", verb="starts as")
    if not isinstance(value, Tensor):
        return
    state.init = c.b.broadcast_to(value.node, state.type.shape, state.type.per)


def collect_future(c: Lowering, body: tuple[ast.Statement, ...]) -> None:
    """Note which names are declared anywhere in the cell, and which of them as states."""
    for s in body:
        match s:
            case ast.StateDecl():
                c.future_states.add(s.name)
                c.future_names.add(s.name)
            case ast.LetDecl() | ast.ConstDecl() | ast.ParamDecl() | ast.InputDecl() | ast.OutputDecl() | ast.Repeat():
                c.future_names.add(s.name)
            case ast.Per() | ast.Substep():
                collect_future(c, s.body)
            case ast.If():
                collect_future(c, s.then)
                collect_future(c, s.orelse)

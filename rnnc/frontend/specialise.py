"""One declaration, to a `CellIR` for given hyperparameters, with everything that is wrong with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import rnnc.frontend.functions
import rnnc.frontend.gradient
import rnnc.frontend.maps
import rnnc.frontend.operators  # noqa: F401  (all four fill the table of functions)
from rnnc.diagnostics import Diagnostics, Span
from rnnc.frontend import ast
from rnnc.frontend.bindings import force
from rnnc.frontend.cells import collect_future, lower_body
from rnnc.frontend.expressions import evaluate
from rnnc.frontend.finish import finish, outputs_of
from rnnc.frontend.hyper import Known, bind_head
from rnnc.frontend.lowering import Lowering, TooLarge
from rnnc.frontend.modules import Library, LoadedModule
from rnnc.frontend.scope import Binding, Context, Scope
from rnnc.frontend.types import TYPE_KINDS, conform, declared_type, resolve_type
from rnnc.frontend.values import ERROR, Tensor
from rnnc.ir.dims import Dim
from rnnc.ir.graph import CellIR
from rnnc.ir.types import Type

DEPTH = 12_000  # Python frames; the parser bounds nesting, so this is reached by very long chains of names only


@contextmanager
def deep_recursion() -> Iterator[None]:
    """Room for long chains of names (Python's own recursion uses no C stack)."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, DEPTH))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


@contextmanager
def bounded(c: Lowering, span: Span) -> Iterator[None]:
    """Report a passed bound as a diagnostic."""
    try:
        with deep_recursion():
            yield
    except TooLarge as e:
        c.error("E0304", e.message, e.span)
    except RecursionError:
        c.error("E0304", f"`{c.name}` is nested too deeply", span)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowered:
    """What became of a declaration: `cell` is None when there is an error in it, or in something it needs.

    `ranges` is for checking declared ranges: the cell itself, or of one with errors the part that they do not touch.
    """

    cell: CellIR | None
    ranges: CellIR
    problems: Diagnostics


def lower_declaration(
    library: Library,
    module: LoadedModule,
    decl: ast.CellDecl,
    given: Mapping[str, Known],
    at: Span,
    *,
    generic: bool = False,
) -> Lowered:
    """Lower a cell or model.  `generic`: hyperparameters without a value get a sample one."""
    found = Diagnostics()
    c = Lowering(library=library, diagnostics=found, keyword=decl.keyword, name=decl.name)
    library.lowering.append(decl.name)
    try:
        with bounded(c, decl.name_span):
            scope = Scope(module.scope)
            head = bind_head(c, decl, given, scope, at, generic=generic)
            c.dims = head.dims
            context = Context(scope=scope)
            collect_future(c, decl.body)
            lower_body(c, decl.body, context)
            nothing = not outputs_of(context) and not c.states
            if nothing and not (found.has_errors or library.diagnostics.has_errors):
                c.error(
                    "E0211", f"`{decl.name}` has no output and no state", decl.name_span, help="add `output y = ...`"
                )
            if not found.has_errors and decl.sound and _complete(c, context):
                doc = _comment_above(module, decl)
                cell = finish(c, outputs_of(context), module.file, doc, head.hyper)
                return Lowered(cell=cell, ranges=cell, problems=found)
    finally:
        library.lowering.pop()
    return Lowered(cell=None, ranges=_sound_ranges(c), problems=found)


def _sound_ranges(c: Lowering) -> CellIR:
    """The declared ranges of a cell with errors, without those of values that an error was found in."""
    wrong = [d.span for d in c.diagnostics.items if d.span is not None]
    overlaps: dict[Span | None, bool] = {None: False}
    touched: list[bool] = []
    for node in c.b.nodes:
        span = node.span
        if span is not None and span not in overlaps:
            overlaps[span] = any(_overlap(span, w) for w in wrong)
        touched.append(overlaps[span] or any(touched[a] for a in node.args))
    sound = tuple(r for r in c.ranges if not touched[r.node])
    nodes, inputs, subcells = tuple(c.b.nodes), tuple(c.inputs), tuple(c.subcells)
    return CellIR(name=c.name, dims=c.dims, nodes=nodes, inputs=inputs, subcells=subcells, ranges=sound)


def _overlap(a: Span, b: Span) -> bool:
    return a.file == b.file and a.start < b.end and b.start < a.end


def _complete(c: Lowering, context: Context) -> bool:
    """Whether every state and output has its value: a failed import leaves some without, and reports itself."""
    outputs = [b for b in context.scope.bindings.values() if b.kind == "output"]
    states = [n for s in c.states.values() for n in (s.init, s.update)]
    return all(isinstance(b.value, Tensor) for b in outputs) and None not in states


def _comment_above(module: LoadedModule, decl: ast.CellDecl) -> str:
    """The comment lines directly above a declaration."""
    comments = dict(module.tree.comments)
    lines: list[str] = []
    line = decl.span.line - 1
    while line in comments:
        lines.append(comments[line].lstrip("#").strip())
        line -= 1
    return "\n".join(reversed(lines))


def check_function(library: Library, module: LoadedModule, decl: ast.FnDecl) -> Diagnostics:
    """What is wrong with a function in itself: its body for parameters of its declared types, dims left open.

    A parameter without brackets takes any shape; the body is tried with scalars, then with vectors.
    """
    results = []
    for shape in ((), (Dim.of("n"),)):
        results.append(_try_function(library, module, decl, shape))
        if not results[-1].has_errors:
            return results[-1]
        if any(d.code == "E0304" for d in results[-1].items):
            break
    return results[0]


def _try_function(library: Library, module: LoadedModule, decl: ast.FnDecl, shape: tuple[Dim, ...]) -> Diagnostics:
    found = Diagnostics()
    c = Lowering(library=library, diagnostics=found, keyword="cell", name=decl.name)
    with bounded(c, decl.span):
        scope = Scope(module.scope)
        context = Context(scope=scope, pure=True)
        annotations = [t for _, t, _ in decl.params] + ([decl.result] if decl.result else [])
        for size in (s for t in annotations for s in t.shape):
            if isinstance(size, ast.Name) and scope.lookup(size.id) is None:
                scope.bindings[size.id] = Binding(size.id, "hyper", size.span, value=Dim.of(size.id), status="done")
        for name, type_, default in decl.params:
            if name in scope.bindings:
                c.error("E0202", f"`{name}` is declared twice", type_.span)
                continue
            resolved, _ = resolve_type(c, type_, context)
            if resolved is not None and not type_.shape and TYPE_KINDS[type_.kind] in ("real", "complex"):
                resolved = Type(dtype=resolved.dtype, shape=shape)
            if default is not None:
                evaluate(c, default, context)
            leaf = ERROR if resolved is None else Tensor(c.b.leaf("input", name, resolved))
            if isinstance(leaf, Tensor):
                c.state_values.add(leaf.node)
            scope.bindings[name] = Binding(name, "value", type_.span, value=leaf, status="done")
        for let in decl.body:
            if let.name in scope.bindings:
                c.error("E0202", f"`{let.name}` is declared twice", let.span)
                continue
            scope.bindings[let.name] = Binding(let.name, "let", let.span, decl=let, context=context, owner=c)
        c.calls.append(decl.name)
        for let in decl.body:
            force(c, scope.bindings[let.name], let.span)
        value = evaluate(c, decl.value, context)
        result, _, ok = declared_type(c, decl.result, context)
        if ok and decl.result is not None and decl.result.shape:
            conform(c, value, result, decl.value, f"the result of `{decl.name}`", verb="is")
    return found

"""Hyperparameters: dims stay symbolic; int, real and bool ones are known when a cell is lowered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from rnnc.diagnostics import Span
from rnnc.frontend import ast
from rnnc.frontend.build import HYPER_KINDS
from rnnc.frontend.expressions import evaluate
from rnnc.frontend.lowering import Lowering
from rnnc.frontend.scope import Binding, Context, Scope, suggestion
from rnnc.frontend.values import ERROR, ErrorValue, Value
from rnnc.ir.dims import Dim, DimError
from rnnc.ir.graph import CellIR, DimParam

SAMPLES: dict[str, Dim | bool] = {"int": Dim.of(2), "real": Dim.of(1), "bool": False}  # for a check without values
EXAMPLES = {"int": "2", "real": "1", "bool": "false"}
Known: TypeAlias = "Dim | bool"
HyperValues: TypeAlias = "tuple[tuple[str, Fraction | int | bool], ...]"

MAX_ELEMENTS = 2**40  # of one value, per step


@dataclass(frozen=True, slots=True, kw_only=True)
class Specialised:
    """What a cell's head gives its body."""

    dims: tuple[DimParam, ...]
    hyper: HyperValues


def bind_head(
    c: Lowering, decl: ast.CellDecl, given: Mapping[str, Known], scope: Scope, span: Span, *, generic: bool
) -> Specialised:
    """Bind a cell's hyperparameters in `scope`.  `generic`: those without a value get a sample one."""
    dims: list[DimParam] = []
    hyper: list[tuple[str, Fraction | int | bool]] = []
    for h in decl.hyper:
        if h.name in scope.bindings:
            c.error("E0202", f"`{h.name}` is declared twice", h.span)
            continue
        if h.kind not in HYPER_KINDS:
            scope.bindings[h.name] = Binding(h.name, "hyper", h.span, value=ERROR, status="done")
            continue  # the parser has reported it
        default = evaluate(c, h.default, Context(scope=scope)) if h.default is not None else None
        value: Value
        if h.kind == "dim":
            value = Dim.of(h.name)
            dims.append(DimParam(name=h.name, default=_dim_default(c, h, default)))
        else:
            value = _known_value(c, h, given.get(h.name), default, span, generic)
            if not isinstance(value, ErrorValue):
                hyper.append((h.name, _plain(h.kind, value)))
        scope.bindings[h.name] = Binding(h.name, "hyper", h.span, decl=h, value=value, status="done")
    return Specialised(dims=tuple(dims), hyper=tuple(hyper))


def _plain(kind: str, value: Value) -> Fraction | int | bool:
    if isinstance(value, bool):
        return value
    assert isinstance(value, Dim)
    assert value.constant is not None
    return int(value.constant) if kind == "int" else value.constant


def _dim_default(c: Lowering, h: ast.HyperDecl, default: Value | None) -> Dim | None:
    if default is None or isinstance(default, ErrorValue) or h.default is None:
        return None
    if not isinstance(default, Dim) or (
        default.constant is not None and (default.constant.denominator != 1 or default.constant <= 0)
    ):
        shown = str(default) if isinstance(default, Dim) else c.type_text(default)
        c.error("E0302", f"the default of the dim `{h.name}` is a positive whole number, not `{shown}`", h.default.span)
        return None
    return default


def _known_value(
    c: Lowering, h: ast.HyperDecl, given: Known | None, default: Value | None, span: Span, generic: bool
) -> Value:
    if given is not None:
        problem = _misfit(h.kind, given)
        if problem:
            return c.error("E0302", f"`{h.name}` is {problem}", span, help=f"it is declared `{h.name}: {h.kind}`")
        return given
    if default is None:
        if generic:
            return SAMPLES[h.kind]
        return c.error(
            "E0303",
            f"`{c.name}` needs a value for `{h.name}: {h.kind}`",
            span,
            help=f"give it when compiling, for example `{h.name} = {EXAMPLES[h.kind]}`",
        )
    if isinstance(default, ErrorValue) or h.default is None:
        return ERROR
    problem = _misfit(h.kind, default)
    if problem:
        return c.error("E0302", f"the default of `{h.name}: {h.kind}` is {problem}", h.default.span)
    return default


def _misfit(kind: str, value: Value) -> str:
    """What is wrong with a hyperparameter's value; empty when nothing is."""
    if kind == "bool":
        return "" if isinstance(value, bool) else "`true` or `false`, not a number"
    if isinstance(value, bool) or not isinstance(value, Dim):
        return "a number known at compile time"
    if value.constant is None:
        return f"a known number, and `{value}` depends on a dim"
    if kind == "int" and value.constant.denominator != 1:
        return f"a whole number, not {value.constant}"
    return ""


# ---------------------------------------------------------------- values given from outside


def read_given(
    c: Lowering, decl: ast.CellDecl, given: Mapping[str, object], span: Span
) -> tuple[dict[str, Known], dict[str, int]]:
    """Python values by name, as known numbers and as dims; unknown names and wrong values are reported."""
    kinds = {h.name: h.kind for h in decl.hyper}
    places = {h.name: h.span for h in decl.hyper}
    known: dict[str, Known] = {}
    dims: dict[str, int] = {}
    for name, value in given.items():
        if name not in kinds:
            hint = suggestion(name, kinds) or (
                f"it has {', '.join(f'`{k}`' for k in kinds)}" if kinds else "it has no hyperparameters"
            )
            c.error("E0301", f"`{decl.name}` has no hyperparameter `{name}`", span, help=hint)
        elif kinds[name] == "dim":
            size = _whole(value)
            if size is None or size <= 0:
                c.error("E0302", f"the dim `{name}` is a positive whole number, not {_shown(value)}", places[name])
            else:
                dims[name] = size
        else:
            number = _number(value)
            if number is None:
                c.error(
                    "E0302",
                    f"`{name}` cannot be {_shown(value)}",
                    places[name],
                    help=f"it is declared `{name}: {kinds[name]}`",
                )
            else:
                known[name] = number
    return known, dims


def _shown(value: object) -> str:
    return str(value) if isinstance(value, Fraction) else repr(value)


def _whole(value: object) -> int | None:
    number = _number(value)
    if isinstance(number, bool) or number is None or number.constant is None or number.constant.denominator != 1:
        return None
    return int(number.constant)


def _number(value: object) -> Known | None:
    """A Python number as it is spelled: 0.1 is 1/10."""
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, Fraction)):
        return Dim.of(value)
    if isinstance(value, float) and value == value and abs(value) != float("inf"):
        return Dim.of(Fraction(repr(value)))
    return None


def check_sizes(c: Lowering, cell: CellIR, dims: Mapping[str, int], span: Span) -> None:
    """Whether every size of the cell is a positive whole number for these dims (and not a huge one)."""
    try:
        env = cell.dim_values(dims)
    except DimError as e:
        c.error("E0302", f"the sizes do not work out: {e}", span)
        return
    for node in cell.nodes:
        sizes = (*node.type.per, *node.type.shape)
        if not all(size.names <= env.keys() for size in sizes):
            continue
        total = 1
        for size in sizes:
            try:
                k = size.evaluate(env)
            except DimError as e:
                c.error("E0302", f"the sizes do not work out: {e}", node.span or span)
                return
            if k == 0:
                c.error("E0302", f"the sizes do not work out: `{size}` is 0", node.span or span)
                return
            total *= k
        if total > MAX_ELEMENTS:
            c.error("E0304", f"a value with {total} elements is too large", node.span or span)
            return
        if node.op == "slice" and _outside(cell, node.id, env):
            c.error("E0203", "a subscript does not fit its axis for these sizes", node.span or span)
            return


def _outside(cell: CellIR, node: int, env: Mapping[str, int]) -> bool:
    n = cell.nodes[node]
    axis, start, stop = n.attr("axis"), n.attr("start"), n.attr("stop")
    assert isinstance(axis, int)
    assert isinstance(start, Dim)
    assert isinstance(stop, Dim)
    size = cell.nodes[n.args[0]].type.shape[axis]
    if not (size - stop).names | start.names <= env.keys():
        return False
    low, high = start.substitute(env).constant, (size - stop).substitute(env).constant
    return low is None or high is None or low < 0 or high < 0

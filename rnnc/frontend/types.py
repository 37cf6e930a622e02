"""Types and domains as written, to the types of the graph; and whether a value is of its declared type."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from rnnc.frontend import ast
from rnnc.frontend.expressions import known_number
from rnnc.frontend.lowering import Lowering
from rnnc.frontend.scope import Binding, Context, suggestion
from rnnc.frontend.values import ERROR, ErrorValue, Pieces, Tensor, Value, type_text
from rnnc.ir.dims import Dim
from rnnc.ir.graph import NodeId
from rnnc.ir.ops import OPS
from rnnc.ir.types import Disk, Domain, DType, HalfPlane, Interval, Type, UnitNorm

if TYPE_CHECKING:
    from rnnc.frontend.calls import Bound

TYPE_KINDS: dict[str, DType] = {"real": "real", "complex": "complex", "unit": "real", "token": "token", "bool": "bool"}


def declared_type(c: Lowering, type_: ast.TypeExpr | None, context: Context) -> tuple[Type | None, Domain | None, bool]:
    """The type and domain of an annotation, and whether it is right (an absent one is)."""
    if type_ is None:
        return None, None, True
    resolved, domain = resolve_type(c, type_, context)
    return resolved, domain, resolved is not None


def resolve_type(c: Lowering, expr: ast.TypeExpr, context: Context) -> tuple[Type | None, Domain | None]:
    """The type (None after a reported error) and domain; `per` axes are not part of it."""
    dtype = TYPE_KINDS.get(expr.kind)
    if dtype is None:
        c.error(
            "E0201",
            f"unknown type `{expr.kind}`",
            expr.span,
            help=suggestion(expr.kind, TYPE_KINDS) or "the types are real, complex, unit, token and bool",
        )
        return None, None
    sizes = [resolve_size(c, s, context) for s in expr.shape]
    shape = tuple(s for s in sizes if s is not None)
    if len(shape) < len(sizes):
        return None, None
    domain = resolve_domain(c, expr.domain, context) if expr.domain is not None else None
    if expr.kind == "unit":
        if not shape:
            c.error("E0203", "a `unit` value is a vector", expr.span, help="state its size: `unit[n]`")
            return None, None
        if domain is None:
            domain = UnitNorm()
    if dtype == "token":
        if not shape:
            c.error("E0204", "a token needs the size of its vocabulary", expr.span, help="write `token[V]`")
            return None, None
        return Type(dtype="token", vocab=shape[0], shape=shape[1:]), None
    if not _domain_fits(c, expr, dtype, domain):
        return None, None
    return Type(dtype=dtype, shape=shape), domain


def _domain_fits(c: Lowering, expr: ast.TypeExpr, dtype: DType, domain: Domain | None) -> bool:
    if domain is None or isinstance(domain, UnitNorm):
        return True
    wanted = "real" if isinstance(domain, Interval) else "complex"
    if dtype == wanted:
        return True
    c.error("E0204", f"the domain `{domain}` is one of {wanted} values, not of `{expr.kind}`", expr.span)
    return False


def resolve_size(c: Lowering, expr: ast.Expr, context: Context) -> Dim | None:
    size = known_number(c, expr, context, "a size")
    if size is None:
        return None
    k = size.constant
    if k is not None and (k.denominator != 1 or k <= 0):
        c.error("E0204", f"a size is a positive whole number, not `{size}`", expr.span)
        return None
    return size


def resolve_domain(c: Lowering, expr: ast.Domain, context: Context) -> Domain | None:
    match expr:
        case ast.IntervalDomain():
            lo = _end(c, expr.lo, context)
            hi = _end(c, expr.hi, context)
            if lo is ERROR or hi is ERROR:
                return None
            assert not isinstance(lo, ErrorValue)
            assert not isinstance(hi, ErrorValue)
            if lo is not None and hi is not None and (lo > hi or (lo == hi and (expr.lo_open or expr.hi_open))):
                c.error("E0204", "no number lies in this domain", expr.span)
                return None
            return Interval(lo=lo, hi=hi, lo_open=expr.lo_open, hi_open=expr.hi_open)
        case ast.DiskDomain():
            radius = _end(c, expr.radius, context)
            if radius is None or isinstance(radius, ErrorValue):
                return None
            if radius <= 0:
                c.error("E0204", "the radius of a disk is positive", expr.span)
                return None
            return Disk(radius=radius)
        case ast.HalfPlaneDomain():
            bound = _end(c, expr.bound, context)
            if bound is None or isinstance(bound, ErrorValue):
                return None
            return HalfPlane(bound=bound, strict=expr.op in ("<", ">"), above=expr.op in (">", ">="))


def _end(c: Lowering, expr: ast.Expr | None, context: Context) -> Fraction | ErrorValue | None:
    if expr is None:
        return None
    value = known_number(c, expr, context, "an end of a domain")
    if value is None:
        return ERROR
    if value.constant is None:
        return c.error("E0305", f"an end of a domain must be a known number, and `{value}` depends on a dim", expr.span)
    return value.constant


def past_type(c: Lowering, own: Binding, bound: Bound) -> Type | ErrorValue:
    """The type of a value whose own past is asked for: as declared, else a real number of the expected shape, which is
    a scalar where nothing is expected."""
    decl, context = own.decl, own.context
    assert isinstance(decl, ast.LetDecl | ast.OutputDecl)
    assert context is not None
    declared, _, ok = declared_type(c, decl.type, context)
    if not ok:
        return ERROR
    if declared is not None and declared.dtype in ("real", "complex"):
        return replace(declared, per=context.per)
    if declared is None:
        return Type(shape=bound.want or (), per=context.per)
    return c.error("E0204", "`prev` of a value that depends on its own past needs a number", bound.call.span)


# ---------------------------------------------------------------- declared against found


def conform(c: Lowering, value: Value, type_: Type | None, expr: ast.Expr, what: str, verb: str = "is given") -> Value:
    """`value` as exactly `type_`, or ERROR after a report.  Constants fill a shape; reals are complex numbers too."""
    if type_ is None or isinstance(value, ErrorValue):
        return value
    if isinstance(value, (Pieces, str)):
        c.to_node(value, expr.span)
        return ERROR
    node = c.to_node(value, expr.span, type_.shape)
    if node is None:
        return ERROR
    found = c.b.type(node)
    if c.b.is_free_scalar(node) and type_.shape:
        node = c.b.broadcast_to(node, type_.shape)
        found = c.b.type(node)
    if found.shape != type_.shape:
        return c.error(
            "E0203",
            f"{what} is declared `{type_text(type_)}`, and {verb} `{type_text(found)}`",
            expr.span,
            label=f"`{type_text(found)}`",
            help=_fit_help(c, node, expr, type_),
        )
    converted = convert(c, node, type_)
    if converted is None:
        return c.error(
            "E0204",
            f"{what} is declared `{type_text(type_)}`, and {verb} `{type_text(found)}`",
            expr.span,
            label=f"`{type_text(found)}`",
            help="take `re(...)`, `im(...)` or `abs(...)`" if (found.dtype, type_.dtype) == ("complex", "real") else "",
        )
    return Tensor(converted)


def convert(c: Lowering, node: NodeId, type_: Type) -> NodeId | None:
    """`node` with the dtype of `type_`, where that loses nothing."""
    found = c.b.type(node)
    match found.dtype, type_.dtype:
        case (a, b) if a == b:
            return node if a != "token" or found.vocab == type_.vocab else None
        case "bool", "real":
            return c.b.map("real", node)
        case "real", "complex":
            return c.b.map("complex", node, c.b.const(0))
        case _:
            return None


def _fit_help(c: Lowering, node: NodeId, expr: ast.Expr, type_: Type) -> str:
    found, wanted = c.b.type(node).shape, type_.shape
    if {c.b.type(node).dtype, type_.dtype} & {"token", "bool"}:
        return ""
    if len(found) == 1 and len(wanted) <= 1 and not c.is_static(node):
        text = c.text_of(expr)
        return f"project it, for example `linear({text})`" if len(text) < 24 else "project it with `linear(...)`"
    if len(found) == 2 and found[::-1] == wanted:
        return "transpose it with `.T`"
    return ""


def impossible_unit(c: Lowering, node: NodeId) -> str:
    """Why a value cannot be known to have norm 1; empty when it has, or may have."""
    n = c.b.nodes[node]
    while n.op in ("lift", "neg", "transpose") and n.id not in c.unit_nodes:
        n = c.b.nodes[n.args[0]]
    if n.op in ("l2norm", "one_hot") or n.id in c.unit_nodes:
        return ""
    if n.op == "const":
        value = n.attr("value")
        if isinstance(value, tuple) and all(isinstance(v, Fraction) for v in value):
            return "" if sum(v * v for v in value if isinstance(v, Fraction)) == 1 else "its norm is not 1"
    if OPS[n.op].category in ("elementwise", "leaf", "reduction") and n.op != "select":
        return "nothing keeps its norm at 1"
    if n.op == "broadcast" or (n.op == "einsum" and any(c.b.nodes[a].op == "param" for a in n.args)):
        return "nothing keeps its norm at 1"
    return ""

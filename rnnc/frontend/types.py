"""Types and domains as written, to the types of the graph; and whether a value is of its declared type."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from rnnc.frontend import ast
from rnnc.frontend.expressions import evaluate, known_number
from rnnc.frontend.irrational import End, Monomial, enclose, monomial, split_factor
from rnnc.frontend.lowering import Lowering
from rnnc.frontend.scope import Binding, Context
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


def resolve_type(
    c: Lowering, expr: ast.TypeExpr, context: Context, *, inner: bool = False
) -> tuple[Type | None, Domain | None]:
    """The type (None after a reported error) and domain (see `resolve_domain`); `per` axes are not part of it."""
    dtype = TYPE_KINDS[expr.kind]  # the parser knows the kinds
    sizes = [resolve_size(c, s, context) for s in expr.shape]
    shape = tuple(s for s in sizes if s is not None)
    if len(shape) < len(sizes):
        return None, None
    domain = resolve_domain(c, expr.domain, context, inner=inner) if expr.domain is not None else None
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


def resolve_domain(c: Lowering, expr: ast.Domain, context: Context, *, inner: bool = False) -> Domain | None:
    """A domain with rational ends; irrational ones are rounded outward or, with `inner`, inward."""
    match expr:
        case ast.IntervalDomain():
            ends = interval_ends(c, expr, context)
            if ends is None:
                return None
            low, high = ends
            lo = None if low is None else low.rounded(up=inner)
            hi = None if high is None else high.rounded(up=not inner)
            if lo is not None and hi is not None and (lo > hi or (lo == hi and (expr.lo_open or expr.hi_open))):
                c.error("E0204", "no number lies in this domain", expr.span)
                return None
            return Interval(lo=lo, hi=hi, lo_open=expr.lo_open, hi_open=expr.hi_open)
        case ast.DiskDomain():
            end = _end(c, expr.radius, context)
            if end is None:
                return None
            radius = end.rounded(up=not inner)
            if radius <= 0:
                c.error("E0204", "the radius of a disk is positive", expr.span)
                return None
            return Disk(radius=radius)
        case ast.HalfPlaneDomain():
            end = _end(c, expr.bound, context)
            if end is None:
                return None
            above = expr.op in (">", ">=")
            return HalfPlane(bound=end.rounded(up=inner == above), strict=expr.op in ("<", ">"), above=above)


def interval_ends(c: Lowering, expr: ast.IntervalDomain, context: Context) -> tuple[End | None, End | None] | None:
    """Both ends, of which an infinite one is None; None after a report."""
    ends = [None if e is None else _end(c, e, context) for e in (expr.lo, expr.hi)]
    wrong = any(end is None and e is not None for end, e in zip(ends, (expr.lo, expr.hi), strict=True))
    return None if wrong else (ends[0], ends[1])


def _end(c: Lowering, expr: ast.Expr, context: Context) -> End | None:
    """A number known at compile time, rational or not; None after a report."""
    value = evaluate(c, expr, context)
    if isinstance(value, Dim) and value.constant is not None:
        return End(low=value.constant, high=value.constant, exact=value.constant)
    if isinstance(value, Tensor) and c.is_constant(value.node) and not c.b.type(value.node).rank:
        end = enclose(c.b.nodes, value.node)
        if end is not None:
            return end
    if isinstance(value, Dim):
        c.error("E0305", f"an end of a domain must be a known number, and `{value}` depends on a dim", expr.span)
    elif not isinstance(value, ErrorValue):
        c.error(
            "E0305",
            "an end of a domain must be known at compile time",
            expr.span,
            label=f"`{c.type_text(value)}`",
            help="use numbers, hyperparameters, pi, e, + - * / ^, sqrt, exp and log",
        )
    return None


def scaled_claim(
    c: Lowering, node: NodeId, expr: ast.Domain | None, context: Context
) -> tuple[NodeId, Interval] | None:
    """What proves that `node` lies in an interval with irrational ends; None where the ends are rational.

    node = 2 * pi * g in (0, 2 * pi)      -->  g in (0, 1);  without such a factor, node in the interval rounded inward
    """
    ends = interval_ends(c, expr, context) if isinstance(expr, ast.IntervalDomain) else None
    if ends is None or all(end is None or end.exact is not None for end in ends):
        return None
    assert isinstance(expr, ast.IntervalDomain)
    factor, rest = split_factor(c.b.nodes, node)
    quotients = [None if end is None else _quotient(c, end, factor) for end in ends]
    if any(q is None and end is not None for q, end in zip(quotients, ends, strict=True)):
        inward = resolve_domain(c, expr, context, inner=True)
        return (node, inward) if isinstance(inward, Interval) else None
    (lo, hi), (lo_open, hi_open) = quotients, (expr.lo_open, expr.hi_open)
    if factor.factor < 0:
        lo, hi, lo_open, hi_open = hi, lo, hi_open, lo_open
    return rest, Interval(lo=lo, hi=hi, lo_open=lo_open, hi_open=hi_open)


def _quotient(c: Lowering, end: End, factor: Monomial) -> Fraction | None:
    """`end / factor`, if it is rational."""
    if end.exact == 0:
        return end.exact
    whole = Monomial(factor=end.exact) if end.exact is not None else monomial(c.b.nodes, _known_node(end))
    found = None if whole is None else whole.times(factor, -1)
    return found.factor if found is not None and not found.atoms else None


def _known_node(end: End) -> NodeId:
    assert end.node is not None, "an irrational end is a node"
    return end.node


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
    if type_.shape and not found.rank and c.is_constant(node):
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

"""Learned tensors: their domain as a reparameterisation of a raw leaf, and how they start.

A domain is kept by ordinary nodes around the raw leaf, never by clipping:
    (lo, hi)     lo + (hi - lo) * sigmoid(raw)        unit        raw / |raw|
    > lo         lo + softplus(raw)                   disk(r)     r * sigmoid(re raw) * exp(i im raw)
    < hi         hi - softplus(raw)                   re < b      b - softplus(re raw) + i im raw
"""

from __future__ import annotations

from fractions import Fraction

from rnnc.frontend import ast
from rnnc.frontend.expressions import evaluate
from rnnc.frontend.lowering import Lowering
from rnnc.frontend.numbers import power_form, power_form_of_dim
from rnnc.frontend.scope import Context, suggestion
from rnnc.frontend.types import conform, resolve_type
from rnnc.frontend.values import ERROR, ErrorValue, Tensor, Value
from rnnc.ir.dims import Dim
from rnnc.ir.graph import Init, InitNumber, NodeId, Param
from rnnc.ir.types import Disk, Domain, HalfPlane, Interval, Type, UnitNorm

# name -> (least, most) numbers it takes, and the kind of `Init`
DISTRIBUTIONS = {
    "zeros": (0, 0),
    "ones": (0, 0),
    "normal": (0, 2),
    "uniform": (2, 2),
    "xavier": (0, 0),
    "kaiming": (0, 0),
    "orthogonal": (0, 0),
    "identity": (0, 0),
    "constant": (1, 1),
    "fan_in": (1, 1),
    "default": (0, 0),
}


def declare_param(c: Lowering, decl: ast.ParamDecl, context: Context) -> Value:
    """The leaf of a `param` and, with a domain, the nodes that map it there.  Its `init` is read later."""
    type_, domain = resolve_type(c, decl.type, context)
    if type_ is None:
        return ERROR
    if type_.dtype not in ("real", "complex"):
        return c.error("E0204", f"a `{type_.dtype}` cannot be learned", decl.type.span)
    full = Type(dtype=type_.dtype, shape=type_.shape, per=context.per)
    name = decl.name + context.suffix
    raw_name = name if domain is None else f"{name}_raw"
    c.b.span = decl.span
    node = c.b.leaf("param", raw_name, full)
    constrained = None if domain is None else constrain(c, node, domain)
    if constrained is not None and domain is not None:
        c.name_node(constrained, name, decl.span)
        if isinstance(domain, UnitNorm):
            c.unit_nodes.add(constrained)
    c.params.append(Param(name=raw_name, node=node, domain=domain, constrained=constrained))
    c.declared_params.add(node)
    return Tensor(node if constrained is None else constrained)


def constrain(c: Lowering, raw: NodeId, domain: Domain) -> NodeId:
    """The node that maps a raw leaf into `domain`."""
    b = c.b
    match domain:
        case UnitNorm():
            return b.add("l2norm", raw, eps=Fraction(1, 10**12))
        case Interval(lo=None, hi=None):
            return raw
        case Interval(lo=None, hi=Fraction() as hi):
            return b.map("sub", b.const(hi), b.map("softplus", raw))
        case Interval(lo=Fraction() as lo, hi=None):
            return _shifted(c, lo, b.map("softplus", raw))
        case Interval(lo=Fraction() as lo, hi=Fraction() as hi):
            unit = b.map("sigmoid", raw)
            return _shifted(c, lo, unit if hi - lo == 1 else b.map("mul", b.const(hi - lo), unit))
        case Disk(radius=radius):
            modulus = b.map("sigmoid", b.map("re", raw))
            scaled = modulus if radius == 1 else b.map("mul", b.const(radius), modulus)
            return b.map("polar", scaled, b.map("im", raw))
        case HalfPlane(bound=bound, above=above):
            distance = b.map("softplus", b.map("re", raw))
            real = _shifted(c, bound, distance) if above else b.map("sub", b.const(bound), distance)
            return b.map("complex", real, b.map("im", raw))
    raise AssertionError(domain)


def _shifted(c: Lowering, by: Fraction, node: NodeId) -> NodeId:
    return node if by == 0 else c.b.map("add", c.b.const(by), node)


# ---------------------------------------------------------------- how a parameter starts


def finish_param(c: Lowering, decl: ast.ParamDecl, value: Value, context: Context) -> None:
    """Read the `init` of a declared parameter, which may use constants declared anywhere in the cell."""
    if decl.init is None or not isinstance(value, Tensor):
        if decl.init is not None and isinstance(value, ErrorValue):
            init_of(c, decl.init, context)
        return
    for i, p in enumerate(c.params):
        if value.node in (p.node, p.constrained):
            target = c.b.type(p.node)
            init = init_of(c, decl.init, context, target)
            if init is not None:
                _check_inside(c, decl, init, p.domain)
                c.params[i] = Param(name=p.name, node=p.node, init=init, domain=p.domain, constrained=p.constrained)


def init_of(c: Lowering, expr: ast.Expr | None, context: Context, target: Type | None = None) -> Init | None:
    """How a parameter starts: a distribution such as `normal(0.02)`, a number, or an expression of constants."""
    if expr is None:
        return None
    name = _distribution_name(expr)
    if name is not None:
        return _distribution(c, name, expr, context)
    value = evaluate(c, expr, context, target.shape if target else None)
    if isinstance(value, Dim):
        return Init(kind="constant", args=(value if value.constant is None else value.constant,))
    if isinstance(value, ErrorValue):
        return None
    if target is not None:
        value = _fill(c, value, target, expr)
    node = c.to_node(value, expr.span)
    if node is None:
        return None
    if not c.is_constant(node):
        c.error(
            "E0204",
            "an initial value is made of constants only",
            expr.span,
            help=suggestion(getattr(expr, "id", ""), DISTRIBUTIONS),
        )
        return None
    return Init(kind="value", node=node)


def _fill(c: Lowering, value: Value, target: Type, expr: ast.Expr) -> Value:
    """The initial value with exactly the parameter's type: NumPy's broadcasting is allowed here."""
    node = c.to_node(value, expr.span, target.shape)
    if node is None:
        return ERROR
    found = c.b.type(node)
    fits = not found.shape or found.shape == target.shape[len(target.shape) - len(found.shape) :]
    if found.shape != target.shape and len(found.shape) <= len(target.shape) and not found.per and fits:
        node = c.b.broadcast_to(node, target.shape)
    value = conform(
        c, Tensor(node), Type(dtype=target.dtype, shape=target.shape), expr, "the parameter", verb="starts as"
    )
    if isinstance(value, Tensor) and target.per:
        return Tensor(c.b.broadcast_to(value.node, target.shape, target.per))
    return value


def _distribution_name(expr: ast.Expr) -> str | None:
    match expr:
        case ast.Name(id=name) if name in DISTRIBUTIONS:
            return name
        case ast.Call(callee=ast.Name(id=name)) if name in DISTRIBUTIONS and name not in ("zeros", "ones"):
            return name
        case ast.Call(callee=ast.Name(id="zeros" | "ones" as name), args=()):
            return name
        case _:
            return None


def _distribution(c: Lowering, name: str, expr: ast.Expr, context: Context) -> Init | None:
    least, most = DISTRIBUTIONS[name]
    given = expr.args if isinstance(expr, ast.Call) else ()
    values: list[InitNumber] = []
    for a in given:
        value = _init_number(c, a.value, context, name)
        if value is None:
            return None
        values.append(value)
    if not least <= len(values) <= most:
        count = f"{least}" if least == most else f"{least} to {most}"
        c.error("E0209", f"`{name}` takes {count} numbers, not {len(values)}", expr.span)
        return None
    if name == "normal" and not values:
        values = [Fraction(1)]
    return Init(kind=name, args=tuple(values))


def _init_number(c: Lowering, expr: ast.Expr, context: Context, name: str) -> InitNumber | None:
    """A parameter of a distribution: a number, a dim, or `c * dim^p` such as `(2 * d)^-0.5`."""
    value = evaluate(c, expr, context)
    if isinstance(value, ErrorValue):
        return None
    found = None
    if isinstance(value, Dim):
        found = power_form_of_dim(value)
    elif isinstance(value, Tensor):
        found = power_form(c.b.nodes, value.node)
    if found is None:
        c.error(
            "E0305",
            f"an argument of `{name}` must be a number, or a power of a dim such as `n^-0.5`",
            expr.span,
            label=f"`{c.type_text(value)}`",
        )
        return None
    coefficient, base, power = found
    if base == Dim.of(1):
        return coefficient
    return base if coefficient == 1 and power == 1 else found


def _check_inside(c: Lowering, decl: ast.ParamDecl, init: Init, domain: Domain | None) -> None:
    """A constant start must lie inside an open interval: only such values have a raw counterpart."""
    if not isinstance(domain, Interval) or decl.init is None:
        return
    values = {"zeros": [Fraction(0)], "ones": [Fraction(1)]}.get(init.kind, [])
    if init.kind in ("constant", "uniform"):
        values = [v for v in init.args if isinstance(v, Fraction)]
    inclusive = init.kind == "uniform"
    for v in values:
        low = domain.lo is not None and (v < domain.lo or (v == domain.lo and not inclusive))
        high = domain.hi is not None and (v > domain.hi or (v == domain.hi and not inclusive))
        if low or high:
            c.error(
                "E0204",
                f"`{decl.name}` cannot start at {v}: its domain is {domain}, ends excluded",
                decl.init.span,
                help="start strictly inside the domain",
            )
            return

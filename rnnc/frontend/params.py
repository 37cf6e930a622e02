"""Learned tensors: their domain as a reparameterisation of a raw leaf, and how they start.

A domain is kept by ordinary nodes around the raw leaf, never by clipping:
    (lo, hi)     lo + (hi - lo) * sigmoid(raw)        unit        raw / |raw|
    > lo         lo + softplus(raw)                   disk(r)     r * sigmoid(re raw) * exp(i im raw)
    < hi         hi - softplus(raw)                   re < b      b - softplus(re raw) + i im raw
"""

from __future__ import annotations

from fractions import Fraction
from typing import assert_never

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
MATRICES = ("xavier", "kaiming", "orthogonal", "identity")


def declare_param(c: Lowering, decl: ast.ParamDecl, context: Context) -> Value:
    """The leaf of a `param` and, with a domain, the nodes that map it there.  Its `init` is read later."""
    type_, domain = resolve_type(c, decl.type, context, inner=True)
    if type_ is None:
        return ERROR
    if type_.dtype not in ("real", "complex"):
        return c.error("E0204", f"a `{type_.dtype}` cannot be learned", decl.type.span)
    if isinstance(domain, Interval) and domain.lo is not None and domain.lo == domain.hi:
        message = f"nothing is learned inside {domain}, which holds one number"
        return c.error("E0204", message, decl.type.span, help=f"write `const {decl.name} = {domain.lo}`")
    full = Type(dtype=type_.dtype, shape=type_.shape, per=context.per)
    name = decl.name + context.suffix
    raw_name = c.parameter_name(name) if domain is None else c.unique(f"{name}_raw")
    c.b.span = decl.span
    node = c.b.leaf("param", raw_name, full)
    constrained = None if domain is None else constrain(c, node, domain)
    if constrained is not None and domain is not None:
        c.name_node(constrained, name, decl.span)
        if isinstance(domain, UnitNorm):
            c.unit_nodes.add(constrained)
    init = Init(kind="normal", args=(Fraction(1),)) if isinstance(domain, UnitNorm) else Init()  # zero has no direction
    c.params.append(Param(name=raw_name, node=node, init=init, domain=domain, constrained=constrained))
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
                _check_inside(c, decl.name, decl.init, init, p.domain)
                c.params[i] = Param(name=p.name, node=p.node, init=init, domain=p.domain, constrained=p.constrained)


def init_of(c: Lowering, expr: ast.Expr | None, context: Context, target: Type | None = None) -> Init | None:
    """How a parameter starts: a distribution such as `normal(0.02)`, a number, or an expression of constants."""
    if expr is None:
        return None
    name = _distribution_name(expr)
    if name is not None:
        found = _distribution(c, name, expr, context)
        return found if found is None or target is None or _fits(c, found.kind, target, expr) else None
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
    problem = _impossible(name, [v for v in values if isinstance(v, Fraction)])
    if problem:
        c.error("E0204", problem, expr.span)
        return None
    return Init(kind=name, args=tuple(values))


def _impossible(name: str, known: list[Fraction]) -> str:
    """Why there is no such distribution, as far as its arguments are known numbers; else an empty text."""
    match name, known:
        case "uniform", [low, high] if low > high:
            return f"`uniform(a, b)` needs a <= b, and {low} > {high}"
        case "normal", [std, *_] if std < 0:
            return f"a standard deviation of {std} is negative"
        case "fan_in", [n] if n <= 0:
            return f"a fan-in of {n} is not positive"
    return ""


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


def _fits(c: Lowering, kind: str, target: Type, expr: ast.Expr) -> bool:
    """Whether a distribution of matrices can fill this tensor."""
    if kind not in MATRICES:
        return True
    problem = ""
    if target.rank < 2:
        problem = f"has {target.rank or 'no'} {'axis' if target.rank == 1 else 'axes'}"
    elif kind == "identity" and target.rank > 2:
        problem = f"has {target.rank} axes"
    elif kind != "identity" and target.dtype == "complex":
        problem = "is complex"
    if problem:
        kinds = "a matrix" if kind == "identity" else "a real tensor with two or more axes"
        c.error("E0204", f"`{kind}` is for {kinds}; this one {problem}", expr.span, help="for example `normal(0.1)`")
    return not problem


def _check_inside(c: Lowering, name: str, expr: ast.Expr, init: Init, domain: Domain | None) -> None:
    """What is known of the start must lie inside the domain, without its ends: only such values have a raw
    counterpart.  A value that is made of dims is checked when the module is made."""
    if domain is None or domain == Interval() or init.kind in ("default", "value"):
        return
    help = "start strictly inside the domain"
    spread = _spread(init)
    if spread is None:
        if isinstance(domain, UnitNorm) or init.kind == "constant":
            return
        problem = f"`{name}` may start outside of its domain {domain}: `{init.kind}` is not kept inside"
        help = "start from a number or `uniform(a, b)` inside the domain, or leave the init out"
    else:
        low, high, inclusive = spread
        outside = next((v for v in (low, high) if _outside(v, domain, inclusive)), None)
        if outside is None:
            return
        problem = f"`{name}` cannot start at {outside}: its domain is {domain}, ends excluded"
        if isinstance(domain, UnitNorm):
            problem, help = f"`{name}` cannot start at 0: zero has no direction", "for example `normal`"
        elif isinstance(domain, Disk):
            problem += ", and so is 0" if outside == 0 else ""
    c.error("E0204", problem, expr.span, help=help)


def _spread(init: Init) -> tuple[Fraction, Fraction, bool] | None:
    """The least and greatest number of a start where both are known, and whether they may be missed: those of
    `uniform` are not reached."""
    known = {"zeros": (0, 0), "ones": (1, 1), "identity": (0, 1), "orthogonal": (-1, 1), "fan_in": (-1, 1)}
    if init.kind in known:
        low, high = known[init.kind]
        return Fraction(low), Fraction(high), False
    if init.kind in ("constant", "uniform") and all(isinstance(v, Fraction) for v in init.args):
        values = [v for v in init.args if isinstance(v, Fraction)]
        return min(values), max(values), init.kind == "uniform"
    return None


def _outside(v: Fraction, domain: Domain, inclusive: bool) -> bool:
    """Whether the number is beyond the domain or, unless `inclusive`, at an end of it."""
    match domain:
        case Interval(lo=lo, hi=hi):
            low, high = lo, hi
        case Disk(radius=radius):
            if v == 0 and not inclusive:
                return True
            low, high = -radius, radius
        case HalfPlane(bound=bound, above=above):
            low, high = (bound, None) if above else (None, bound)
        case UnitNorm():
            return v == 0 and not inclusive
        case _:
            assert_never(domain)
    below = low is not None and (v < low or (v == low and not inclusive))
    above_it = high is not None and (v > high or (v == high and not inclusive))
    return below or above_it

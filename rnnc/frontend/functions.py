"""The pure built-in functions: elementwise, reductions, shapes, norms, complex numbers, structured operators."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from rnnc.frontend import ast
from rnnc.frontend.calls import Bound, Function, Run, define, expect_option
from rnnc.frontend.expressions import (
    elementwise_op,
    evaluate,
    known_integer,
    known_number,
    number_node,
    operands,
    shape_mismatch,
)
from rnnc.frontend.lowering import Lowering
from rnnc.frontend.sequences import stack
from rnnc.frontend.types import resolve_size
from rnnc.frontend.values import ERROR, ErrorValue, Pieces, Shape, Tensor, Value
from rnnc.ir.dims import ONE, Dim
from rnnc.ir.graph import Init, NodeId
from rnnc.ir.types import Type

UNARY = [
    "exp",
    "log",
    "sqrt",
    "abs",
    "sign",
    "sin",
    "cos",
    "tanh",
    "sigmoid",
    "logsigmoid",
    "softplus",
    "relu",
    "silu",
    "gelu",
    "step",
    "re",
    "im",
    "conj",
]


def argument_node(c: Lowering, bound: Bound, name: str, want: Shape | None = None) -> NodeId | None:
    """The node of a numeric argument."""
    expr = bound[name]
    value = evaluate(c, expr, bound.context, want)
    return number_node(c, value, expr, bound.name, want)


def argument_nodes(c: Lowering, bound: Bound, *names: str) -> list[NodeId] | None:
    """The nodes of several arguments; all are evaluated, so that every error is reported."""
    nodes = [argument_node(c, bound, n) for n in names]
    found = [n for n in nodes if n is not None]
    return found if len(found) == len(nodes) else None


# ---------------------------------------------------------------- elementwise


def _unary(op: str) -> Run:
    def run(c: Lowering, bound: Bound) -> Value:
        node = argument_node(c, bound, "x", bound.want)
        return ERROR if node is None else c.build(bound.call.span, bound.name, lambda: c.b.map(op, node))

    return run


def _nary(op: str, *names: str) -> Run:
    def run(c: Lowering, bound: Bound) -> Value:
        return elementwise(c, bound, op, [bound[n] for n in names])

    return run


def elementwise(c: Lowering, bound: Bound, op: str, exprs: Sequence[ast.Expr]) -> Value:
    """An elementwise function of several arguments; exact for two known numbers under max and min."""
    values = operands(c, exprs, bound.context, bound.want)
    if any(isinstance(v, ErrorValue) for v in values):
        return ERROR
    if op in ("max", "min"):
        numbers = [v.constant for v in values if isinstance(v, Dim)]
        known = [k for k in numbers if k is not None]
        if len(known) == len(values):
            return Dim.of(max(known) if op == "max" else min(known))
    nodes = [number_node(c, v, e, bound.name) for v, e in zip(values, exprs, strict=True)]
    found = [n for n in nodes if n is not None]
    if len(found) < len(nodes):
        return ERROR
    total = found[0]
    for i in range(1, len(found)):
        result = elementwise_op(c, op, bound.name, (total, found[i]), bound.call, (exprs[0], exprs[i]))
        if not isinstance(result, Tensor):
            return ERROR
        total = result.node
    return Tensor(total)


def _extremum(op: str) -> Run:
    """`max(a, b)` elementwise; `max(x)` and `max(x, axis = 0)` over axes."""

    def run(c: Lowering, bound: Bound) -> Value:
        if len(bound.args) == 1:
            return _reduction("a" + op)(c, bound)
        if bound.get("axis") is not None:
            return c.error("E0209", f"`{bound.name}` of several values has no axis", bound.call.span)
        return elementwise(c, bound, op, bound.args)

    return run


def _clamp(c: Lowering, bound: Bound) -> Value:
    exprs = (bound["x"], bound["lo"], bound["hi"])
    x, lo, hi = operands(c, exprs, bound.context, bound.want)
    nodes = [number_node(c, v, e, "clamp") for v, e in zip((x, lo, hi), exprs, strict=True)]
    if nodes[0] is None or nodes[1] is None or nodes[2] is None:
        return ERROR
    low = elementwise_op(c, "max", "clamp", (nodes[0], nodes[1]), bound.call, exprs[:2])
    if not isinstance(low, Tensor):
        return ERROR
    return elementwise_op(c, "min", "clamp", (low.node, nodes[2]), bound.call, (exprs[0], exprs[2]))


# ---------------------------------------------------------------- reductions


def _axes(c: Lowering, bound: Bound, rank: int) -> tuple[int, ...] | None:
    """The axes to reduce (negative); all of them without the option `axis`."""
    given = bound.get("axis")
    if given is None:
        return tuple(range(-rank, 0))
    items = given.items if isinstance(given, ast.ListExpr) else (given,)
    axes: list[int] = []
    for item in items:
        k = known_integer(c, item, bound.context, "an axis")
        if k is None:
            return None
        if not -rank <= k < rank:
            axes_text = "1 axis" if rank == 1 else f"{rank or 'no'} axes"
            c.error("E0209", f"there is no axis {k} in a value with {axes_text}", item.span)
            return None
        axes.append(k if k < 0 else k - rank)
    return tuple(sorted(set(axes)))


def _reduction(op: str) -> Run:
    def run(c: Lowering, bound: Bound) -> Value:
        expr = bound.args[0] if bound.args else bound["x"]
        value = evaluate(c, expr, bound.context)
        node = number_node(c, value, expr, bound.name)
        if node is None:
            return ERROR
        axes = _axes(c, bound, c.b.type(node).rank)
        if axes is None:
            return ERROR
        return Tensor(node) if not axes else c.build(bound.call.span, bound.name, lambda: c.b.add(op, node, axes=axes))

    return run


# ---------------------------------------------------------------- norms


def _norm(op: str, default_eps: Fraction, learned: tuple[str, ...]) -> Run:
    def run(c: Lowering, bound: Bound) -> Value:
        node = argument_node(c, bound, "x", bound.want)
        eps = default_eps
        if bound.get("eps") is not None:
            value = known_number(c, bound["eps"], bound.context, "eps")
            if value is None:
                return ERROR
            if value.constant is None or value.constant < 0:
                return c.error("E0209", "`eps` is a known number of at least 0", bound["eps"].span)
            eps = value.constant
        with_weight = expect_option(c, bound, "weight", False) if learned else False
        if node is None:
            return ERROR
        result = c.build(bound.call.span, bound.name, lambda: c.b.add(op, node, eps=eps))
        if isinstance(result, Tensor) and with_weight:
            return _scaled(c, bound, result.node, learned)
        return result

    return run


def _scaled(c: Lowering, bound: Bound, node: NodeId, learned: tuple[str, ...]) -> Value:
    """A norm's learned scale (and shift)."""
    if bound.context.pure:
        return c.error("E0204", "a learned weight cannot stand in a `fn`, which is pure", bound.call.span)
    type_ = Type(shape=c.b.type(node).shape[-1:], per=bound.context.per)
    _, *names = c.map_names(bound.context, bound.name, *learned)
    for leaf, name in zip(learned, names, strict=True):
        weight = c.learned(name, type_, Init(kind="ones" if leaf == "weight" else "zeros"))
        node = c.b.map("mul" if leaf == "weight" else "add", node, weight)
    return Tensor(node)


def _softmax(c: Lowering, bound: Bound) -> Value:
    node = argument_node(c, bound, "x", bound.want)
    return ERROR if node is None else c.build(bound.call.span, "softmax", lambda: c.b.add("softmax", node))


# ---------------------------------------------------------------- products


def _dot(c: Lowering, bound: Bound) -> Value:
    nodes = argument_nodes(c, bound, "a", "b")
    if nodes is None:
        return ERROR
    parts = (bound["a"], bound["b"])
    if any(c.b.type(n).rank != 1 for n in nodes):
        label = ", ".join(c.described(p, Tensor(n)) for p, n in zip(parts, nodes, strict=True))
        return c.error("E0203", "`dot` needs two vectors", bound.call.span, label=label)
    if c.b.type(nodes[0]).shape != c.b.type(nodes[1]).shape:
        return shape_mismatch(c, "dot", [Tensor(n) for n in nodes], bound.call, parts)
    return c.build(bound.call.span, "dot", lambda: c.b.einsum("i,i->", nodes[0], nodes[1]))


def _outer(c: Lowering, bound: Bound) -> Value:
    want = bound.want if bound.want is not None and len(bound.want) == 2 else None
    u = argument_node(c, bound, "u", want[:1] if want else None)
    v = argument_node(c, bound, "v", want[1:] if want else None)
    if u is None or v is None:
        return ERROR
    if not (vector(c, bound, "u", u) and vector(c, bound, "v", v)):
        return ERROR
    return c.build(bound.call.span, "outer", lambda: c.b.outer(u, v))


def vector(c: Lowering, bound: Bound, name: str, node: NodeId) -> bool:
    """Whether an argument is a vector; reported when it is not."""
    if c.b.type(node).rank == 1:
        return True
    c.error("E0203", f"`{bound.name}` needs a vector", bound[name].span, label=c.described(bound[name], Tensor(node)))
    return False


# ---------------------------------------------------------------- shapes


def _flatten(c: Lowering, bound: Bound) -> Value:
    node = argument_node(c, bound, "x")
    if node is None:
        return ERROR
    total = ONE
    for d in c.b.type(node).shape:
        total = total * d
    return c.build(bound.call.span, "flatten", lambda: c.b.add("reshape", node, shape=(total,)))


def _reshape(c: Lowering, bound: Bound) -> Value:
    expr, *rest = bound.args
    if len(rest) == 1 and isinstance(rest[0], ast.ListExpr):
        rest = list(rest[0].items)
    value = evaluate(c, expr, bound.context)
    sizes = [resolve_size(c, s, bound.context) for s in rest]
    node = number_node(c, value, expr, "reshape")
    shape = tuple(s for s in sizes if s is not None)
    if node is None or len(shape) < len(sizes):
        return ERROR
    return c.build(bound.call.span, "reshape", lambda: c.b.add("reshape", node, shape=shape))


def _one_axis(c: Lowering, bound: Bound, rank: int) -> int | None:
    if bound.get("axis") is None:
        return -rank
    axes = _axes(c, bound, rank)
    if axes is None:
        return None
    if len(axes) != 1:
        c.error("E0209", f"`{bound.name}` works along one axis", bound["axis"].span)
        return None
    return axes[0]


def _concat(c: Lowering, bound: Bound) -> Value:
    values = [evaluate(c, a, bound.context) for a in bound.args]
    flat: list[tuple[Value, ast.Expr]] = []
    for value, expr in zip(values, bound.args, strict=True):
        items = value.items if isinstance(value, Pieces) else (value,)
        flat += [(item, expr) for item in items]
    nodes = [number_node(c, v, e, "concat") for v, e in flat]
    found = [n for n in nodes if n is not None]
    if len(found) < len(nodes):
        return ERROR
    ranks = {c.b.type(n).rank for n in found}
    if len(ranks) > 1 or 0 in ranks:
        label = ", ".join(c.described(e, v) for v, e in flat)
        help_ = "a list of scalars is a vector: `[a, b]`" if 0 in ranks else ""
        return c.error(
            "E0203", "`concat` joins values with the same number of axes", bound.call.span, label=label, help=help_
        )
    axis = _one_axis(c, bound, ranks.pop())
    if axis is None:
        return ERROR
    per = max((c.b.type(n).per for n in found), key=len)
    return c.build(bound.call.span, "concat", lambda: c.b.add("concat", *(c.b.lift(n, per) for n in found), axis=axis))


def _split(c: Lowering, bound: Bound) -> Value:
    """`split(x, 3)` in equal parts, `split(x, [a, b])` in parts of these sizes; a part is `split(x, 3)[0]`."""
    node = argument_node(c, bound, "x")
    parts = bound["parts"]
    sizes = None
    if isinstance(parts, ast.ListExpr):
        found = [resolve_size(c, s, bound.context) for s in parts.items]
        sizes = None if None in found else [s for s in found if s is not None]
        count = len(found)
    else:
        k = known_integer(c, parts, bound.context, "the number of parts")
        count = -1 if k is None else k
    if node is None or count < 0 or (isinstance(parts, ast.ListExpr) and sizes is None):
        return ERROR
    rank = c.b.type(node).rank
    if rank == 0 or count == 0 or count > 256:
        return c.error("E0203", f"`split` cannot make {count} parts of `{c.type_text(Tensor(node))}`", bound.call.span)
    axis = _one_axis(c, bound, rank)
    if axis is None:
        return ERROR
    size = c.b.type(node).shape[axis]
    lengths = sizes or [size / count] * count
    total = sum(lengths, Dim.of(0))
    one = lengths[0].constant
    if total != size or (one is not None and one.denominator != 1):
        found_text = " + ".join(str(d) for d in lengths) if sizes else f"{count} equal parts"
        return c.error("E0203", f"an axis of size `{size}` does not split into {found_text}", bound.call.span)
    pieces: list[Value] = []
    start = Dim.of(0)
    for length in lengths:
        pieces.append(Tensor(c.b.add("slice", node, axis=axis, start=start, stop=start + length)))
        start = start + length
    return Pieces(tuple(pieces))


def _stack(c: Lowering, bound: Bound) -> Value:
    nodes = [number_node(c, evaluate(c, a, bound.context), a, "stack") for a in bound.args]
    found = [n for n in nodes if n is not None]
    if len(found) < len(nodes):
        return ERROR
    if len({c.b.type(n).shape for n in found}) > 1:
        return c.error("E0203", "`stack` joins values of one shape", bound.call.span)
    return c.build(bound.call.span, "stack", lambda: stack(c, found))


def _arange(c: Lowering, bound: Bound) -> Value:
    """`arange(a, b)`: a, a + 1, ..., b - 1 (as in NumPy)."""
    start = known_number(c, bound["start"], bound.context, "an end of `arange`")
    stop = known_number(c, bound["stop"], bound.context, "an end of `arange`") if bound.get("stop") else None
    if start is None or (bound.get("stop") and stop is None):
        return ERROR
    if stop is None:
        start, stop = Dim.of(0), start
    length = (stop - start).constant
    if length is not None and (length.denominator != 1 or length <= 0):
        return c.error("E0204", f"`arange` from {start} to {stop} has no elements", bound.call.span)
    return Tensor(c.b.add("arange", start=start, stop=stop))


def _filled(value: int) -> Run:
    def run(c: Lowering, bound: Bound) -> Value:
        sizes = [resolve_size(c, s, bound.context) for s in bound.args]
        shape = tuple(s for s in sizes if s is not None)
        if len(shape) < len(sizes):
            return ERROR
        return Tensor(c.b.broadcast_to(c.b.const(value), shape))

    return run


def _one_hot(c: Lowering, bound: Bound) -> Value:
    node = c.to_node(evaluate(c, bound["t"], bound.context), bound["t"].span)
    return ERROR if node is None else c.build(bound.call.span, "one_hot", lambda: c.b.add("one_hot", node))


def _each(c: Lowering, bound: Bound) -> Value:
    """`each(v)` inside `per heads`: this head's row of a value whose first axis is `heads`."""
    node = argument_node(c, bound, "x")
    if node is None:
        return ERROR
    per, t = bound.context.per, c.b.type(node)
    if not per:
        return c.error("E0207", "`each` stands inside a `per` block", bound.call.span)
    if t.per != per[:-1] or not t.shape or t.shape[0] != per[-1]:
        return c.error(
            "E0207",
            f"`each` needs a value from outside the block whose first axis has size `{per[-1]}`",
            bound["x"].span,
            label=c.described(bound["x"], Tensor(node)),
        )
    return c.build(bound.call.span, "each", lambda: c.b.add("split_per", node, n=1))


def _define_all() -> None:
    for name in UNARY:
        define(Function(name=name, run=_unary(name), params=("x",), shape_of=("x",)))
    pairs = {"logaddexp": ("a", "b"), "polar": ("r", "theta"), "complex": ("re", "im")}
    for name, params in pairs.items():
        define(Function(name=name, run=_nary(name, *params), params=params, required=2, shape_of=params))
    for name in ("max", "min"):
        define(Function(name=name, run=_extremum(name), options=("axis",), many=True, shape_of=("*",)))
    define(Function(name="clamp", run=_clamp, params=("x", "lo", "hi"), required=3, shape_of=("x", "lo", "hi")))
    for name in ("sum", "mean"):
        define(Function(name=name, run=_reduction(name), params=("x",), options=("axis",)))
    eps6, eps5 = Fraction(1, 10**6), Fraction(1, 10**5)
    norms = {"l2norm": (eps6, ()), "rmsnorm": (eps6, ("weight",)), "layernorm": (eps5, ("weight", "bias"))}
    for name, (eps, learned) in norms.items():
        options = ("eps", "weight") if learned else ("eps",)
        define(Function(name=name, run=_norm(name, eps, learned), params=("x",), options=options, shape_of=("x",)))
    define(Function(name="softmax", run=_softmax, params=("x",), shape_of=("x",)))
    define(Function(name="dot", run=_dot, params=("a", "b"), required=2))
    define(Function(name="outer", run=_outer, params=("u", "v"), required=2, shape_of=("u", "v")))
    define(Function(name="flatten", run=_flatten, params=("x",)))
    define(Function(name="reshape", run=_reshape, many=True, required=2))
    define(Function(name="concat", run=_concat, many=True, options=("axis",)))
    define(Function(name="stack", run=_stack, many=True))
    define(Function(name="split", run=_split, params=("x", "parts"), required=2, options=("axis",)))
    define(Function(name="arange", run=_arange, params=("start", "stop")))
    define(Function(name="zeros", run=_filled(0), many=True))
    define(Function(name="ones", run=_filled(1), many=True))
    define(Function(name="one_hot", run=_one_hot, params=("t",)))
    define(Function(name="each", run=_each, params=("x",)))


_define_all()

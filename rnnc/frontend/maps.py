"""Learned maps and time: `linear`, `embedding`, `conv`, `prev`, attention.

`linear(x)` is `W x + b` as plain nodes.  `conv` and `prev` are operations over time when their argument depends on no
state; otherwise they become explicit hidden states that hold the last values.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from rnnc.diagnostics import Span
from rnnc.frontend.bindings import own_past, seen_from
from rnnc.frontend.calls import Bound, Function, define, expect_option
from rnnc.frontend.expressions import evaluate, known_integer, number_node
from rnnc.frontend.functions import argument_node
from rnnc.frontend.lowering import MAX_UNROLL, Lowering, StateInfo
from rnnc.frontend.params import init_of
from rnnc.frontend.scope import Binding
from rnnc.frontend.types import conform, past_type, resolve_size
from rnnc.frontend.values import ERROR, Shape, Tensor, Value
from rnnc.ir.dims import Dim
from rnnc.ir.graph import Init, NodeId
from rnnc.ir.types import Type


def _linear(c: Lowering, bound: Bound) -> Value:
    """linear(x[..., i]) -> [..., o]: over the last axis, as torch.nn.Linear; a vector may also go to any shape."""
    target = _target_shape(c, bound)
    x = argument_node(c, bound, "x")
    with_bias = expect_option(c, bound, "bias", True)
    if target is None or x is None:
        init_of(c, bound.get("init"), bound.context)
        init_of(c, bound.get("bias_init"), bound.context)
        return ERROR
    x = c.b.lift(x, bound.context.per)
    shape = c.b.type(x).shape
    out = target
    if len(shape) >= 2:
        if target[:-1] != shape[:-1] or not target:
            return c.error(
                "E0203",
                "`linear` maps the last axis",
                bound.call.span,
                label=f"`{c.text_of(bound['x'])}: {c.type_text(Tensor(x))}` to `real[{', '.join(map(str, target))}]`",
                help="reshape or flatten the argument first",
            )
        out = target[-1:]
    fan_in = shape[-1] if shape else Dim.of(1)
    default = Init(kind="fan_in", args=(fan_in,))
    dtype = c.b.type(x).dtype
    per = bound.context.per
    _, weight_name, bias_name = c.map_names(bound.context, "linear", "weight", "bias")
    weight_type = Type(dtype=dtype, shape=(*out, *shape[-1:]), per=per)
    bias_type = Type(dtype=dtype, shape=out, per=per)
    init = init_of(c, bound.get("init"), bound.context, weight_type)
    bias_init = init_of(c, bound.get("bias_init"), bound.context, bias_type)
    weight = c.learned(weight_name, weight_type, init or default)
    y = _contract(c, weight, x, len(out))
    if with_bias:
        bias = c.learned(bias_name, bias_type, bias_init or default)
        y = c.b.map("add", y, bias)
    return Tensor(y)


def _target_shape(c: Lowering, bound: Bound) -> Shape | None:
    """The output shape of a `linear`: stated in brackets, or expected by the surroundings."""
    if bound.call.sizes:
        sizes = [resolve_size(c, s, bound.context) for s in bound.call.sizes]
        shape = tuple(s for s in sizes if s is not None)
        return shape if len(shape) == len(sizes) else None
    if bound.want is None and not c.lenient:
        text = c.text_of(bound["x"])
        c.error(
            "E0205",
            "the output size of this `linear` is unknown",
            bound.call.span,
            help=f"state it, for example `linear[n]({text})`, or give the value a type",
        )
    return bound.want


def _contract(c: Lowering, weight: NodeId, x: NodeId, out_rank: int) -> NodeId:
    rank = c.b.type(x).rank
    if rank == 0:
        return c.b.map("mul", weight, x)
    if rank == 1:
        out = "abcdefgh"[:out_rank] if out_rank != 1 else "o"
        return c.b.einsum(f"{out}i,i->{out}", weight, x)
    front = "abcdefgh"[: rank - 1]
    return c.b.einsum(f"oi,{front}i->{front}o", weight, x)


def _embedding(c: Lowering, bound: Bound) -> Value:
    token = c.to_node(evaluate(c, bound["t"], bound.context), bound["t"].span)
    shape: Shape | None = None
    if bound.get("size") is not None:
        size = resolve_size(c, bound["size"], bound.context)
        shape = None if size is None else (size,)
    elif bound.want is not None:
        shape = bound.want
    elif not c.lenient:
        c.error("E0205", "the size of this `embedding` is unknown", bound.call.span, help="write `embedding(t, d)`")
    if token is None or shape is None:
        init_of(c, bound.get("init"), bound.context)
        return ERROR
    type_ = c.b.type(token)
    if type_.dtype != "token" or type_.vocab is None:
        return c.error(
            "E0204", "`embedding` needs a token", bound["t"].span, label=c.described(bound["t"], Tensor(token))
        )
    _, name = c.map_names(bound.context, "embedding", "weight")
    table_type = Type(shape=(type_.vocab, *shape), per=bound.context.per)
    init = init_of(c, bound.get("init"), bound.context, table_type)
    table = c.learned(name, table_type, init or Init(kind="normal", args=(Fraction(1),)))
    lifted = c.b.lift(token, bound.context.per)
    return c.build(bound.call.span, "embedding", lambda: c.b.add("take", table, lifted))


# ---------------------------------------------------------------- time


def _conv(c: Lowering, bound: Bound) -> Value:
    """Causal depthwise convolution over the last `width` steps, the newest value last."""
    x = argument_node(c, bound, "x", bound.want)
    width = known_integer(c, bound["width"], bound.context, "the width of `conv`")
    with_bias = expect_option(c, bound, "bias", True)
    if x is None or width is None:
        init_of(c, bound.get("init"), bound.context)
        return ERROR
    if not 1 <= width <= MAX_UNROLL:
        return c.error("E0209", f"the width of `conv` is between 1 and {MAX_UNROLL}", bound["width"].span)
    per = bound.context.per
    x = c.b.lift(x, per)
    type_ = c.b.type(x)
    default = Init(kind="fan_in", args=(Fraction(width),))
    key, weight_name, bias_name = c.map_names(bound.context, "conv", "weight", "bias")
    w_type = Type(dtype=type_.dtype, shape=(*type_.shape, Dim.of(width)), per=per)
    init = init_of(c, bound.get("init"), bound.context, w_type)
    weight = c.learned(weight_name, w_type, init or default)
    bias = c.learned(bias_name, Type(dtype=type_.dtype, shape=type_.shape, per=per), default) if with_bias else None
    args = (x, weight) if bias is None else (x, weight, bias)
    return c.build(bound.call.span, "conv", lambda: conv_nodes(c, args, width, key, bound.call.span))


def conv_nodes(c: Lowering, args: Sequence[NodeId], width: int, key: str, span: Span) -> NodeId:
    """A convolution of `args` (value, weight[..., width], perhaps a bias), by hidden states where it has to be."""
    x, weight, *bias = args
    if _runs_ahead(c, x):
        return c.b.add("conv", *args, width=width, key=key)
    held = hold(c, x, width - 1, key, None, span)
    shape = c.b.type(x).shape
    total = bias[0] if bias else None
    for j, value in enumerate(reversed((x, *held))):  # oldest first
        row = c.b.add("slice", weight, axis=-1, start=Dim.of(j), stop=Dim.of(j + 1))
        tap = c.b.map("mul", c.b.add("reshape", row, shape=shape), value)
        total = tap if total is None else c.b.map("add", total, tap)
    assert total is not None, "a convolution has at least one tap"
    return total


def delay_nodes(c: Lowering, args: Sequence[NodeId], n: int, key: str, span: Span) -> NodeId:
    """The value of `args` (value, perhaps what it was before the start) n steps ago, by hidden states where it has to
    be."""
    x, *start = args
    if _runs_ahead(c, x):
        type_ = c.b.type(x)
        return c.b.add("delay", x, *(c.b.broadcast_to(s, type_.shape, type_.per) for s in start), n=n, key=key)
    return hold(c, x, n, key, start[0] if start else None, span)[-1]


def _runs_ahead(c: Lowering, x: NodeId) -> bool:
    """Whether a value can be computed for all steps at once: it varies with time and depends on no state."""
    return not c.depends_on_state(x) and not c.is_static(x)


def hold(c: Lowering, x: NodeId, n: int, key: str, init: NodeId | None, span: Span) -> list[NodeId]:
    """Hidden states with the value of `x` from 1, 2, ..., n steps ago."""
    held = hidden_states(c, c.b.type(x), n, key, init, span)
    held[0].update = x
    return [state.node for state in held]


def hidden_states(c: Lowering, type_: Type, n: int, key: str, init: NodeId | None, span: Span) -> list[StateInfo]:
    """A chain of n states that each become what the one before was; the first still has no update."""
    zero = c.b.const(0)
    start = c.b.broadcast_to(zero if init is None else init, type_.shape, type_.per)
    if type_.dtype == "complex" and c.b.type(start).dtype == "real":
        start = c.b.map("complex", start, c.b.broadcast_to(zero, type_.shape, type_.per))
    held: list[StateInfo] = []
    for i in range(1, n + 1):
        name = c.unique(f"{key}_{i}")
        node = c.b.leaf("state", name, type_)
        binding = Binding(name, "state", span, status="done", value=Tensor(node), owner=c, node=node)
        state = StateInfo(name=name, binding=binding, type=type_, node=node, init=start, span=span)
        state.update = held[-1].node if held else None
        c.states[name] = state
        held.append(state)
    return held


def _prev(c: Lowering, bound: Bound) -> Value:
    """The value `n` steps ago; before the start zero, or `init`."""
    own = own_past(c, bound["x"], bound.context)
    value = past_type(c, own, bound) if own is not None else evaluate(c, bound["x"], bound.context, bound.want)
    n = known_integer(c, bound["n"], bound.context, "the delay of `prev`") if bound.get("n") is not None else 1
    type_ = value if isinstance(value, Type) else None
    x = None if isinstance(value, Type) else c.to_node(value, bound["x"].span)
    init = _prev_init(c, bound, type_ if x is None else c.b.type(x))
    if (x is None and type_ is None) or n is None or init is ERROR:
        return ERROR
    if not 1 <= n <= MAX_UNROLL:
        return c.error("E0209", f"the delay of `prev` is between 1 and {MAX_UNROLL}", bound.call.span)
    (key,) = c.map_names(bound.context, "prev")
    start = init.node if isinstance(init, Tensor) else None
    if own is not None and type_ is not None:
        held = hidden_states(c, type_, n, key, start, bound.call.span)
        c.waiting.setdefault(own, []).append(held[0])
        return seen_from(c, own, Tensor(held[-1].node), bound.context)
    assert x is not None, "a value that is not its own past has a node"
    x = c.b.lift(x, bound.context.per) if not c.b.is_free_scalar(x) else x
    if not _runs_ahead(c, x) and c.b.type(x).dtype not in ("real", "complex"):
        return c.error("E0204", "`prev` of a value that depends on a state needs a number", bound.call.span)
    args = (x,) if start is None else (x, start)
    return c.build(bound.call.span, "prev", lambda: delay_nodes(c, args, n, key, bound.call.span))


def _prev_init(c: Lowering, bound: Bound, type_: Type | None) -> Value | None:
    given = bound.get("init")
    if given is None:
        return None
    value = evaluate(c, given, bound.context, type_.shape if type_ is not None else None)
    if type_ is None:
        return ERROR
    value = conform(c, value, type_, given, "the value before the start")
    if isinstance(value, Tensor) and not c.is_static(value.node):
        return c.error("E0204", "the value before the start must not change with time", given.span)
    return value


def _attention(c: Lowering, bound: Bound) -> Value:
    nodes = [number_node(c, evaluate(c, bound[n], bound.context), bound[n], bound.name) for n in ("q", "k", "v")]
    if nodes[0] is None or nodes[1] is None or nodes[2] is None:
        return ERROR
    if c.keyword == "cell" or any(c.depends_on_state(n) for n in nodes if n is not None):
        return c.error(
            "E0204", "attention looks at all steps so far: it stands in a `model`, not in a cell", bound.call.span
        )
    q, k, v = (c.b.lift(n, bound.context.per) for n in nodes if n is not None)
    (key,) = c.map_names(bound.context, "attention")
    return c.build(bound.call.span, bound.name, lambda: c.b.add("attention", q, k, v, key=key))


define(
    Function(name="linear", run=_linear, params=("x",), options=("bias", "init", "bias_init"), sizes=True, learned=True)
)
define(Function(name="embedding", run=_embedding, params=("t", "size"), options=("init",), learned=True))
define(
    Function(
        name="conv",
        run=_conv,
        params=("x", "width"),
        required=2,
        options=("bias", "init"),
        shape_of=("x",),
        learned=True,
    )
)
define(Function(name="prev", run=_prev, params=("x", "n", "init"), shape_of=("x",), learned=True))
define(Function(name="scaled_dot_product_attention", run=_attention, params=("q", "k", "v"), required=3, learned=True))

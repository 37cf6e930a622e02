"""code(torch): leaves, views, reductions, structured operators and composite functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

from rnnc.backends.torch.context import Context, core, number_text
from rnnc.backends.torch.contraction import einsum, transposed
from rnnc.backends.torch.elementwise import TABLE as ELEMENTWISE
from rnnc.backends.torch.elementwise import one_field
from rnnc.backends.torch.expr import ATOM, MUL, UNARY, Expr, call, new_axes, tuple_text
from rnnc.ir.dims import Dim
from rnnc.ir.graph import Node


def plain(e: Expr, text: str, **changes: Any) -> Expr:
    """A tensor computed from `e`, placed as `e` is."""
    kept = replace(e, text=text, prec=ATOM, base="", index=(), unlifted=None, flipped=None, add_bias=None)
    return replace(kept, **changes)


# ---------------------------------------------------------------- leaves


def const(c: Context, node: Node, args: list[Expr]) -> Expr:
    value = node.attr("value")
    if isinstance(value, tuple):
        return Expr(text=c.attributes[node.id], static=True)
    if isinstance(value, bool):
        return Expr(text=str(value), number=True, static=True)
    if isinstance(value, str):
        c.use("math")
        return Expr(text=f"math.{value}", number=True, static=True)
    assert isinstance(value, (Fraction, int)), value
    text, quotient = number_text(Fraction(value))
    prec = UNARY if text.startswith("-") else MUL if quotient else ATOM
    return Expr(text=text, prec=prec, number=True, static=True)


def dim(c: Context, node: Node, args: list[Expr]) -> Expr:
    value = node.attr("value")
    assert isinstance(value, Dim)
    text = c.dim(value)
    return Expr(
        text=text, prec=ATOM if text.replace(".", "").replace("_", "").isalnum() else 0, number=True, static=True
    )


def held(c: Context, node: Node, args: list[Expr]) -> Expr:
    """A parameter or a buffer of the module."""
    return Expr(text=c.attributes[node.id], static=True)


# ---------------------------------------------------------------- views


def lift(c: Context, node: Node, args: list[Expr]) -> Expr:
    x, t = args[0], c.type(node.args[0])
    if x.number:
        return x
    added = len(node.type.per) - len(t.per)
    total = len(node.type.per) + t.rank
    small = x.small | set(range(-total, -total + added))
    if x.static:
        return replace(x, small=small, absent=x.absent + added, unlifted=None, add_bias=None)
    rank = total - added
    e = new_axes(x, total, tuple(range(-total, -rank)))
    return replace(e, small=small, unlifted=x if not t.per else None)


def relabel(c: Context, node: Node, args: list[Expr]) -> Expr:
    """merge and split_per: nothing changes in memory."""
    x = args[0]
    if x.absent:
        t = c.type(node.args[0])
        total = len(t.per) + t.rank
        x = c.whole(x, t, frozenset(range(-total, -total + x.absent)))
    return replace(x, unlifted=None, add_bias=None, flipped=None)


def expand(c: Context, node: Node, args: list[Expr]) -> Expr:
    x, t = args[0], c.type(node.args[0])
    if x.number:
        return x
    axes = node.attr("axes")
    assert isinstance(axes, tuple)
    rank = node.type.rank
    kept = [axis for axis in range(-rank, 0) if axis not in axes]  # where each old core axis goes
    per = {axis - (rank - t.rank) for axis in x.small if axis < -t.rank}
    e = new_axes(x, rank, axes)  # type: ignore[arg-type]
    return replace(e, small=frozenset(per | {kept[axis] for axis in x.small if axis >= -t.rank}), unlifted=None)


def broadcast(c: Context, node: Node, args: list[Expr]) -> Expr:
    x, t = args[0], c.type(node.args[0])
    if x.number:
        return x
    rank = node.type.rank
    added = rank - t.rank
    if added:
        x = replace(new_axes(x, rank, tuple(range(-rank, -t.rank))), small=_shift_per(x, t.rank, added))
    grown = {
        axis
        for axis in range(-rank, 0)
        if node.type.shape[axis] != Dim.of(1) and (-axis > t.rank or t.shape[axis] == Dim.of(1))
    }
    return replace(x, small=x.small | grown, unlifted=None, flipped=None, add_bias=None)


def _shift_per(x: Expr, rank: int, added: int) -> frozenset[int]:
    return frozenset(axis if axis >= -rank else axis - added for axis in x.small)


def reshape(c: Context, node: Node, args: list[Expr]) -> Expr:
    t = c.type(node.args[0])
    shape = node.type.shape
    if args[0].number:
        return args[0]
    x = c.whole(args[0], t, core(t))
    per = frozenset(axis + t.rank - len(shape) for axis in x.small)
    sizes = tuple_text([c.dim(d) for d in shape])
    if t.rank == 0:
        return plain(
            new_axes(x, len(shape), tuple(range(-len(shape), 0))),
            new_axes(x, len(shape), tuple(range(-len(shape), 0))).text,
            small=per,
        )
    flat = f"{x.atom}.flatten({-t.rank})" if t.rank > 1 else x.atom
    if not shape:
        return plain(x, f"{flat}.squeeze(-1)", small=per)
    return plain(x, flat if len(shape) == 1 else f"{flat}.unflatten(-1, {sizes})", small=per)


def transpose(c: Context, node: Node, args: list[Expr]) -> Expr:
    x, t = args[0], c.type(node.args[0])
    perm = node.attr("perm")
    assert isinstance(perm, tuple)
    if x.number or perm == tuple(range(t.rank)):
        return x
    small = frozenset(
        [a for a in x.small if a < -t.rank] + [i - t.rank for i, p in enumerate(perm) if p - t.rank in x.small]  # type: ignore[operator]
    )
    if perm == (1, 0):
        return replace(transposed(x), small=small)
    front = c.leads(x) + len(t.per) - x.absent
    order = [*range(front), *(front + int(p) for p in perm)]  # type: ignore[arg-type]
    return plain(x, f"{x.atom}.permute({', '.join(map(str, order))})", small=small)


def slice_(c: Context, node: Node, args: list[Expr]) -> Expr:
    t = c.type(node.args[0])
    axis, start, stop = node.attr("axis"), node.attr("start"), node.attr("stop")
    assert isinstance(axis, int)
    x = c.whole(args[0], t, frozenset({axis}))
    start, stop = Dim.of(start), Dim.of(stop)  # type: ignore[arg-type]
    first = "" if start == 0 else c.dim(start)
    last = "" if stop == t.shape[axis] else c.dim(stop)
    rest = ", :" * (-axis - 1)
    return plain(x, f"{x.atom}[..., {first}:{last}{rest}]")


def concat(c: Context, node: Node, args: list[Expr]) -> Expr:
    moving = any(not e.static for e in args)
    parts = [c.whole(e, c.type(a), lead=moving) for e, a in zip(args, node.args)]
    text = f"torch.cat([{', '.join(e.text for e in parts)}], {node.attr('axis')})"
    return Expr(text=text, static=not moving, low=all(e.low for e in parts))


# ---------------------------------------------------------------- reductions


def reduce(c: Context, node: Node, args: list[Expr]) -> Expr:
    t = c.type(node.args[0])
    axes = node.attr("axes")
    assert isinstance(axes, tuple)
    if args[0].number and node.op != "sum":
        return args[0]
    gone = frozenset(int(str(a)) for a in axes)
    x = c.whole(args[0], t, gone)
    if not axes:
        return x
    small = frozenset(a + sum(g > a for g in gone) for a in x.small)
    where = str(axes[0]) if len(axes) == 1 else tuple_text([str(a) for a in axes])
    return plain(x, f"{x.atom}.{node.op}({where})", small=small)


# ---------------------------------------------------------------- composite and structured


def over_last(c: Context, node: Node, args: list[Expr]) -> Expr:
    """softmax and the norms, over the last core axis."""
    t = c.type(node.args[0])
    x = c.whole(args[0], t, frozenset({-1}))
    if node.op == "softmax":
        return plain(x, call("torch.softmax", x.text, "-1"))
    eps = number_text(Fraction(node.attr("eps")))[0]  # type: ignore[arg-type]
    if node.op == "l2norm" or t.dtype == "complex":
        return plain(x, call(c.use(node.op), x.text, f"eps={eps}"))
    c.use("F")
    function = {"rmsnorm": "F.rms_norm", "layernorm": "F.layer_norm"}[node.op]
    return plain(x, call(function, x.text, f"({c.dim(t.shape[-1])},)", f"eps={eps}"))


def layout(c: Context, node: Node, args: list[Expr]) -> Expr:
    t, kind = c.type(node.args[0]), str(node.attr("kind"))
    x = c.whole(args[0], t, core(t))
    small = frozenset(axis + t.rank - node.type.rank for axis in x.small)
    if kind == "diag":
        return plain(x, call("torch.diag_embed", x.text), small=small)
    function = {"blockdiag": "block_diagonal", "circulant": "circulant", "companion": "companion"}[kind]
    return plain(x, call(c.use(function), x.text), small=small)


def layout_transpose(c: Context, node: Node, args: list[Expr]) -> Expr:
    t, kind = c.type(node.args[0]), str(node.attr("kind"))
    x = c.whole(args[0], t, core(t))
    small = frozenset(axis + t.rank - node.type.rank for axis in x.small)
    if kind == "diag":
        return plain(x, f"{x.atom}.diagonal(dim1=-2, dim2=-1)", small=small)
    if kind == "companion":
        return plain(x, f"{x.atom}[..., :, -1]", small=small)
    if kind == "circulant":
        return plain(x, call(c.use("circulant_transpose"), x.text), small=small)
    return plain(x, call(c.use("block_diagonal_transpose"), x.text, c.dim(node.type.shape[-1])), small=small)


def rotation_blocks(c: Context, node: Node, args: list[Expr]) -> Expr:
    t = c.type(node.args[0])
    x = c.whole(args[0], t, core(t))
    return plain(x, call(c.use("rotation_blocks"), x.text), small=frozenset(a - 2 for a in x.small))


def matrix_function(c: Context, node: Node, args: list[Expr]) -> Expr:
    t = c.type(node.args[0])
    x = c.whole(args[0], t, core(t))
    return plain(x, call(c.use("matrix_exp" if node.op == "expm" else "cayley"), x.text))


def solve(c: Context, node: Node, args: list[Expr]) -> Expr:
    (ta, tb) = (c.type(a) for a in node.args)
    a, b = c.whole(args[0], ta, core(ta)), c.whole(args[1], tb, core(tb))
    a, b = one_field(c, node, node.args, [a, b])
    static = a.static and b.static
    return Expr(
        text=call(c.use("solve"), a.text, b.text),
        static=static,
        small=a.small & b.small,
        absent=min(a.absent, b.absent) if static else 0,
    )


def take(c: Context, node: Node, args: list[Expr]) -> Expr:
    table, token = args
    t = c.type(node.args[0])
    if table.static and table.absent == len(t.per):
        c.use("F")
        if t.rank == 2:
            return plain(token, call("F.embedding", token.text, table.text), small=_beside(token, t.rank - 1))
        return plain(token, f"{table.atom}[{token.text}]", small=_beside(token, t.rank - 1))
    if table.static and len(t.per) == 1 and not table.small:
        heads = f"torch.arange({c.dim(t.per[0])}, device={c.like}.device)"
        return plain(token, f"{table.atom}[{heads}, {token.text}]", small=frozenset())
    # A table that varies with time, or has several per axes: the row as a product with a one-hot vector.
    c.use("F")
    v = c.dim(t.shape[0])
    table = c.whole(table, t, core(t))
    hot = f"F.one_hot({token.text}, {v}).to({c.like}.dtype)"
    picked = f"{hot}[..., {', '.join([':'] + ['None'] * (t.rank - 1))}]" if t.rank > 1 else hot
    return Expr(
        text=f"({table.at(MUL)} * {picked}).sum({-t.rank})",
        static=table.static and token.static,
        small=frozenset(a + 1 for a in table.small) & _beside(token, t.rank - 1),
    )


def _beside(token: Expr, rank: int) -> frozenset[int]:
    return frozenset(a - rank for a in token.small)


def one_hot(c: Context, node: Node, args: list[Expr]) -> Expr:
    c.use("F")
    x = args[0]
    text = f"F.one_hot({x.text}, {c.dim(node.type.shape[-1])}).to({c.like}.dtype)"
    return plain(x, text, small=_beside(x, 1))


TABLE: dict[str, Callable[[Context, Node, list[Expr]], Expr]] = {
    **ELEMENTWISE,
    "const": const,
    "dim": dim,
    "param": held,
    "eye": held,
    "arange": held,
    "lift": lift,
    "merge": relabel,
    "split_per": relabel,
    "expand": expand,
    "broadcast": broadcast,
    "reshape": reshape,
    "transpose": transpose,
    "slice": slice_,
    "concat": concat,
    "einsum": einsum,
    "sum": reduce,
    "mean": reduce,
    "amax": reduce,
    "amin": reduce,
    "softmax": over_last,
    "l2norm": over_last,
    "rmsnorm": over_last,
    "layernorm": over_last,
    "layout": layout,
    "layout_transpose": layout_transpose,
    "rotation_blocks": rotation_blocks,
    "expm": matrix_function,
    "cayley": matrix_function,
    "solve": solve,
    "take": take,
    "one_hot": one_hot,
}

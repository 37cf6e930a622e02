"""Leaves, structured operators, composite functions, time operations, and what only models use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

from rnnc.ir.dims import Dim
from rnnc.ir.ops import numeric
from rnnc.ir.ops import vjp_structured as vjp
from rnnc.ir.ops.table import Attrs, Category, Op, OpTypeError, define, joint_dtype, joint_per
from rnnc.ir.types import Type, nearest

Infer: TypeAlias = Callable[[Attrs, tuple[Type, ...]], Type]
Value: TypeAlias = Callable[..., Any]


def _declared(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    """attrs: type."""
    return attrs["type"]  # type: ignore[no-any-return]


def _eye(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    """attrs: n; the identity matrix."""
    return Type(shape=(attrs["n"], attrs["n"]))


def _arange(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    """attrs: start, stop (Dims); the numbers start, start + 1, ..., stop - 1."""
    return Type(shape=(Dim.of(attrs["stop"]) - Dim.of(attrs["start"]),))


def _dim(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    """attrs: value; a dimension as a real number."""
    return Type()


def _layout(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    """attrs: kind; entries of the argument put at fixed places of a matrix, zeros (or ones, companion) elsewhere.

    diag: v[n] -> [n, n].  blockdiag: M[b, n, n] -> [b*n, b*n].  circulant: c[n] -> C[i, j] = c[(i - j) mod n].
    companion: c[n] -> ones on the first subdiagonal and c as the last column.
    """
    t, kind = types[0], attrs["kind"]
    joint_dtype(types)
    if kind == "blockdiag":
        if t.rank != 3 or t.shape[1] != t.shape[2]:
            raise OpTypeError(f"`blockdiag` needs square blocks [b, n, n], not `{t}`")
        n = t.shape[0] * t.shape[1]
    else:
        if t.rank != 1:
            raise OpTypeError(f"`{kind}` needs a vector, not `{t}`")
        n = t.shape[0]
    return replace(t, shape=(n, n))


def _layout_transpose(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    """attrs: kind, shape; the adjoint of layout: sums the entries back into `shape` (used by derivatives)."""
    return replace(types[0], shape=attrs["shape"])


def _rotation_blocks(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    """theta[p] -> [p, 2, 2]: [[cos, -sin], [sin, cos]]."""
    if types[0].rank != 1 or types[0].dtype != "real":
        raise OpTypeError(f"`rotation` needs a real vector of angles, not `{types[0]}`")
    return replace(types[0], shape=(types[0].shape[0], Dim.of(2), Dim.of(2)))


def _square(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    t = types[0]
    joint_dtype(types)
    if t.rank != 2 or t.shape[0] != t.shape[1]:
        raise OpTypeError(f"needs a square matrix, not `{t}`")
    return t


def _solve(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    """solve(A, B): X with A X = B, A [n, n], B [n, m]."""
    a, b = types
    if a.rank != 2 or b.rank != 2 or a.shape[0] != a.shape[1] or a.shape[1] != b.shape[0]:
        raise OpTypeError(f"cannot solve with `{a}` and `{b}`")
    return Type(dtype=joint_dtype(types), shape=b.shape, per=joint_per(types))


def _last_axis(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    if joint_dtype(types) != "real" or types[0].rank == 0:
        raise OpTypeError(f"needs a real vector, not `{types[0]}`", "E0204")
    return types[0]


def _norm_axis(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    joint_dtype(types)
    if types[0].rank == 0:
        raise OpTypeError(f"needs a vector, not `{types[0]}`", "E0204")
    return types[0]


def _take(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    """take(table[V, ...], token[V]): the token's row."""
    table, token = types
    if token.dtype != "token" or token.rank != 0:
        raise OpTypeError(f"`embedding` needs a token, not `{token}`", "E0204")
    return Type(dtype=table.dtype, shape=table.shape[1:], per=joint_per(types))


def _one_hot(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    """one_hot(token[V]) -> real[V]."""
    t = types[0]
    if t.dtype != "token" or t.vocab is None:
        raise OpTypeError(f"`one_hot` needs a token, not `{t}`", "E0204")
    return Type(shape=(*t.shape, t.vocab), per=t.per)


def _delay(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    """delay(x[, init]), attrs n (int >= 1), key: x from n steps ago; init (static) or zero before the start."""
    return types[0]


def _conv(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    """conv(x, w[, b]), attrs width, key: causal depthwise convolution in time.

    y_t = b + sum_j w[..., j] * x_{t - (width - 1) + j}, w has x's shape and a last axis `width`; zeros before.
    """
    x, w = types[0], types[1]
    if w.shape != (*x.shape, Dim.of(attrs["width"])):
        raise OpTypeError(f"a convolution of `{x}` does not fit weights `{w}`")
    return Type(dtype=joint_dtype(types), shape=x.shape, per=x.per)


def _attention(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    """attention(q, k, v), attrs key: causal softmax(q kT / sqrt(dk)) v over the steps so far; q, k [dk], v [dv]."""
    q, k, v = types
    if q.rank != 1 or k.shape != q.shape or v.rank != 1:
        raise OpTypeError(f"attention needs vectors q, k of one size and v, not `{q}`, `{k}`, `{v}`")
    return Type(dtype=joint_dtype(types), shape=v.shape, per=joint_per(types))


LEAVES = {
    "input": "one value per step; attrs type",
    "param": "a learned tensor, static; attrs type",
    "state": "a state's value before the step; attrs type",
}
for _name, _doc in LEAVES.items():
    define(Op(name=_name, arity=0, category="leaf", infer=_declared, doc=_doc))


def _row(name: str, category: Category, infer: Infer, value: Value, arity: int = 1, **facts: Any) -> None:
    facts.setdefault("doc", infer.__doc__ or "")
    define(Op(name=name, arity=arity, category=category, infer=infer, value=value, **facts))


_row("const", "leaf", _declared, numeric.const, 0, doc="an exact constant: attrs value (see numeric.const), type")
_row("dim", "leaf", _dim, lambda np, s: np.asarray(nearest(s.attrs["value"])), 0)
_row("arange", "leaf", _arange, lambda np, s: np.arange(s.attrs["start"], s.attrs["stop"], dtype=float), 0)
_row("eye", "structured", _eye, lambda np, s: np.eye(s.attrs["n"]), 0)
_row("layout", "structured", _layout, numeric.layout, vjp=vjp.layout, linear="joint")
_row(
    "layout_transpose",
    "structured",
    _layout_transpose,
    numeric.layout_transpose,
    vjp=vjp.layout_transpose,
    linear="joint",
)
_row("rotation_blocks", "structured", _rotation_blocks, numeric.rotation_blocks, vjp=vjp.rotation_blocks, special=1)
_row("expm", "structured", _square, numeric.expm, vjp=vjp.expm, doc="matrix exponential")
_row("cayley", "structured", _square, numeric.cayley, vjp=vjp.cayley, doc="(I + M)^-1 (I - M)")
_row("solve", "structured", _solve, lambda np, s, a, b: np.linalg.solve(a, b), 2, vjp=vjp.solve, linear=(1,))
_row("one_hot", "structured", _one_hot, numeric.one_hot)
_row("take", "contraction", _take, numeric.take, 2, vjp=vjp.take, linear=(0,))
_row(
    "softmax",
    "composite",
    _last_axis,
    numeric.softmax,
    vjp=vjp.softmax,
    flops=3,
    special=1,
    doc="softmax, last core axis",
)
_row(
    "l2norm",
    "composite",
    _norm_axis,
    numeric.l2norm,
    vjp=vjp.l2norm,
    flops=3,
    doc="x / sqrt(sum |x|^2 + eps), attrs eps",
)
_row(
    "rmsnorm",
    "composite",
    _norm_axis,
    numeric.rmsnorm,
    vjp=vjp.rmsnorm,
    flops=3,
    doc="x / sqrt(mean |x|^2 + eps), attrs eps",
)
_row(
    "layernorm",
    "composite",
    _last_axis,
    numeric.layernorm,
    vjp=vjp.layernorm,
    flops=5,
    doc="(x - mean) / sqrt(var + eps), attrs eps; var divides by n",
)
define(Op(name="delay", arity=(1, 2), category="time", infer=_delay, linear="joint", doc=_delay.__doc__ or ""))
define(Op(name="conv", arity=(2, 3), category="time", infer=_conv, linear=(0,), doc=_conv.__doc__ or ""))
define(Op(name="attention", arity=3, category="model", infer=_attention, doc=_attention.__doc__ or ""))
define(
    Op(
        name="call",
        arity=(1, -1),
        category="model",
        infer=_declared,
        doc="a subcell applied to its inputs: attrs cell (index into subcells), dims (((name, Dim), ...)), "
        "output (index), key, type; calls that share `key` are one instance",
    )
)
define(
    Op(
        name="repeat",
        arity=(1, -1),
        category="model",
        infer=_declared,
        doc="a subcell applied `count` times with its own parameters each time: attrs cell, dims, count, key, type; "
        "args are the running value, then the outer values the body reads; the subcell's one output is the next "
        "running value",
    )
)

"""Views, contractions and reductions.  All axes are negative: they count from the last core axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

from rnnc.ir.dims import ONE, Dim
from rnnc.ir.ops import numeric, vjp
from rnnc.ir.ops.table import (
    Attrs,
    Category,
    Op,
    OpTypeError,
    Site,
    Vjp,
    broadcast_dims,
    define,
    joint_dtype,
    joint_per,
)
from rnnc.ir.types import Type

Infer: TypeAlias = Callable[[Attrs, tuple[Type, ...]], Type]
Value: TypeAlias = Callable[..., Any]


def _product(dims: tuple[Dim, ...]) -> Dim:
    total = ONE
    for d in dims:
        total = total * d
    return total


# ---------------------------------------------------------------- views


def _lift(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    """attrs: per = the new outermost-first axes, put in front of those there are; a broadcast."""
    return replace(types[0], per=(*attrs["per"], *types[0].per))


def _merge(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    """attrs: n = how many innermost per axes become leading core axes; the identity in memory."""
    t, n = types[0], attrs["n"]
    return replace(t, per=t.per[: len(t.per) - n], shape=(*t.per[len(t.per) - n :], *t.shape))


def _split_per(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    """attrs: n = how many leading core axes become innermost per axes; the inverse of merge."""
    t, n = types[0], attrs["n"]
    return replace(t, per=(*t.per, *t.shape[:n]), shape=t.shape[n:])


def _expand(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    """attrs: axes = positions of the new size-1 axes in the *result's* core shape (negative, ascending)."""
    shape = list(types[0].shape)
    rank = len(shape) + len(attrs["axes"])
    for axis in attrs["axes"]:
        shape.insert(rank + axis, ONE)
    return replace(types[0], shape=tuple(shape))


def _broadcast(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    """attrs: shape; every core axis has that size afterwards (equal or 1 before, missing leading axes are added)."""
    if broadcast_dims(types[0].shape, attrs["shape"]) != attrs["shape"]:
        raise OpTypeError(f"`{types[0]}` does not broadcast to [{', '.join(map(str, attrs['shape']))}]")
    return replace(types[0], shape=attrs["shape"])


def _reshape(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    """attrs: shape = the new core shape, row-major."""
    if _product(types[0].shape) != _product(attrs["shape"]):
        raise OpTypeError(f"cannot reshape `{types[0]}` to [{', '.join(map(str, attrs['shape']))}]")
    return replace(types[0], shape=attrs["shape"])


def _transpose(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    """attrs: perm = for each axis of the result, the (non-negative) core axis it comes from."""
    return replace(types[0], shape=tuple(types[0].shape[p] for p in attrs["perm"]))


def _slice(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    """attrs: axis (negative), start, stop (Dims)."""
    shape = list(types[0].shape)
    size = Dim.of(attrs["stop"]) - Dim.of(attrs["start"])
    if size.constant is not None and size.constant <= 0:
        raise OpTypeError(f"an empty slice of `{types[0]}`")
    shape[attrs["axis"]] = size
    return replace(types[0], shape=tuple(shape))


def _concat(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    """attrs: axis (negative); the other axes are equal."""
    axis = attrs["axis"]
    shape = list(types[0].shape)
    if not -len(shape) <= axis < 0:
        raise OpTypeError(f"cannot join numbers such as `{types[0]}`: a vector is needed")
    for t in types[1:]:
        if t.rank != len(shape) or any(
            a != b for i, (a, b) in enumerate(zip(shape, t.shape, strict=True)) if i != len(shape) + axis
        ):
            raise OpTypeError(f"cannot join `{types[0]}` and `{t}`")
        shape[axis] = shape[axis] + t.shape[axis]
    return Type(dtype=joint_dtype(types), shape=tuple(shape), per=joint_per(types))


# ---------------------------------------------------------------- contraction


def _einsum(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    """attrs: spec = "ij,jk->ik" over core axes; per axes are a batch."""
    inputs, output = attrs["spec"].split("->")
    sizes: dict[str, Dim] = {}
    for labels, t in zip(inputs.split(","), types, strict=True):
        if len(labels) != t.rank:
            raise OpTypeError(f"`{t}` has {t.rank} axes where {len(labels)} are needed")
        assert len(set(labels)) == len(labels), f"a repeated label in {attrs['spec']!r}"
        for label, size in zip(labels, t.shape, strict=True):
            if sizes.setdefault(label, size) != size:
                raise OpTypeError(f"sizes `{sizes[label]}` and `{size}` differ")
    return Type(dtype=joint_dtype(types), shape=tuple(sizes[x] for x in output), per=joint_per(types))


# ---------------------------------------------------------------- reductions


def _reduce(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    """attrs: axes (negative)."""
    rank = types[0].rank
    gone = {rank + a for a in attrs["axes"]}
    shape = tuple(d for i, d in enumerate(types[0].shape) if i not in gone)
    return Type(dtype=joint_dtype(types), shape=shape, per=types[0].per)


def _real_reduce(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    if types[0].dtype != "real":
        raise OpTypeError("needs a real value; complex numbers are not ordered", "E0204")
    return _reduce(attrs, types)


def _row(
    name: str, category: Category, infer: Infer, value: Value, rule: Vjp, arity: int | tuple[int, int] = 1, **facts: Any
) -> None:
    facts.setdefault("doc", infer.__doc__ or "")
    define(Op(name=name, arity=arity, category=category, infer=infer, value=value, vjp=rule, **facts))


def _same(np: Any, site: Site, x: Any) -> Any:
    return x


def _over_axes(method: str) -> Value:
    return lambda np, site, x: getattr(x, method)(axis=tuple(site.attrs["axes"]))


_row("lift", "view", _lift, numeric.lift, vjp.lift, linear="joint")
_row("merge", "view", _merge, _same, vjp.merge, linear="joint")
_row("split_per", "view", _split_per, _same, vjp.split_per, linear="joint")
_row("expand", "view", _expand, numeric.resize, vjp.reshape, linear="joint")
_row("broadcast", "view", _broadcast, numeric.broadcast, vjp.broadcast, linear="joint")
_row("reshape", "view", _reshape, numeric.resize, vjp.reshape, linear="joint")
_row("transpose", "view", _transpose, numeric.transpose, vjp.transpose, linear="joint")
_row("slice", "view", _slice, numeric.slice_, vjp.slice_, linear="joint")
_row("concat", "view", _concat, numeric.concat, vjp.concat, (1, -1), linear="joint")
_row("einsum", "contraction", _einsum, numeric.einsum, vjp.einsum, 2, linear="multi")
_row(
    "sum",
    "reduction",
    _reduce,
    _over_axes("sum"),
    vjp.sum_,
    linear="joint",
    flops=1,
    doc="sum over attrs axes (negative)",
)
_row(
    "mean",
    "reduction",
    _reduce,
    _over_axes("mean"),
    vjp.mean,
    linear="joint",
    flops=1,
    doc="mean over attrs axes (negative)",
)
_row(
    "amax",
    "reduction",
    _real_reduce,
    _over_axes("max"),
    vjp.extremum,
    flops=1,
    doc="max over attrs axes (negative)",
)
_row(
    "amin",
    "reduction",
    _real_reduce,
    _over_axes("min"),
    vjp.extremum,
    flops=1,
    doc="min over attrs axes (negative)",
)

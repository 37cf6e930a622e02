"""The op table: every operation of the IR is one row, and each analysis and backend is a reading of the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from rnnc.ir.dims import ONE, Dim
from rnnc.ir.types import Type

if TYPE_CHECKING:
    from rnnc.ir.builder import Builder
    from rnnc.ir.graph import Node, NodeId

Attrs: TypeAlias = Mapping[str, Any]
Category = Literal[
    "leaf", "elementwise", "contraction", "reduction", "view", "structured", "composite", "time", "model"
]


class OpTypeError(Exception):
    """The arguments of an op do not fit; `message` is in the user's terms, `code` a diagnostic code."""

    def __init__(self, message: str, code: str = "E0203") -> None:
        self.message = message
        self.code = code
        super().__init__(message)


Linearity: TypeAlias = "Literal['joint', 'multi', 'none'] | tuple[int, ...]"
Semiring = Literal["plus_times", "max_plus", "min_plus", "log_plus"]
Vjp: TypeAlias = "Callable[[Builder, Node, NodeId, tuple[bool, ...]], tuple[NodeId | None, ...]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What a value rule may know about the node it is evaluated at: sizes are numbers here."""

    attrs: Mapping[str, Any]  # Dims are ints, Fractions are floats
    types: tuple[Type, ...]  # of the arguments
    per: tuple[int, ...]  # of the result
    shape: tuple[int, ...]  # of the result: core axes

    def rank(self, argument: int = 0) -> int:
        return self.types[argument].rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One row.

    `infer(attrs, types)` is the shape rule: it raises OpTypeError, and ensures the result's type.  Operands of every op
    share their `per` axes (the builder lifts them), except rank-0 constants, which fit anywhere.

    `value(np, site, *args)` is the value; `np` is numpy, handed in so that the table need not import it.  Arrays are
    float64, complex128, bool or int64 (tokens) with any axes in front of `[*per, *shape]`.  None for leaves that are
    given from outside, and for the time and model ops, which `rnnc.ir.unfold` rewrites into states and plain nodes.

    `vjp(builder, node, g, wanted)` builds the gradient of a real loss with respect to each argument from `g`, that of
    the result (PyTorch's convention: conj of dL/dz), or None.  `g` has the result's shape; the caller sums what was
    broadcast and takes real parts.  None: no argument has a derivative.

    `linear` says in which arguments the op is linear: "joint" in all together (add, views), "multi" in each alone
    (mul, einsum), a tuple in those together when the others are free of states, "none".  `over_reals`: that holds for
    real factors only (re, conj). `adds_in` is the semiring whose addition it is.  `flops` and `special` (calls of
    exp, log, ...) count per element of the result; of a reduction per element of the argument.
    """

    name: str
    arity: int | tuple[int, int]  # exact, or (least, most); most = -1 for any number
    category: Category
    infer: Callable[[Attrs, tuple[Type, ...]], Type]
    doc: str
    value: Callable[..., Any] | None = None
    vjp: Vjp | None = None
    linear: Linearity = "none"
    over_reals: bool = False
    adds_in: Semiring | None = None
    flops: int = 0
    special: int = 0


OPS: dict[str, Op] = {}


def define(op: Op) -> None:
    assert op.name not in OPS, f"op {op.name!r} is defined twice"
    OPS[op.name] = op


def broadcast_dims(a: tuple[Dim, ...], b: tuple[Dim, ...], what: str = "") -> tuple[Dim, ...]:
    """NumPy's rule on core shapes: aligned from the right, equal or 1."""
    short, long = (a, b) if len(a) <= len(b) else (b, a)
    out = list(long)
    for i in range(1, len(short) + 1):
        x, y = short[-i], long[-i]
        if x == y or y == ONE:
            out[-i] = x
        elif x != ONE:
            raise OpTypeError(f"sizes `{x}` and `{y}` differ{what}")
    return tuple(out)


def joint_per(types: tuple[Type, ...]) -> tuple[Dim, ...]:
    """The `per` axes the operands share (rank-0 constants have none and fit anywhere)."""
    pers = {t.per for t in types if t.per}
    assert len(pers) <= 1, f"operands of different per blocks: {pers}"
    return next(iter(pers), ())


def joint_dtype(types: tuple[Type, ...]) -> Literal["real", "complex"]:
    for t in types:
        if t.dtype not in ("real", "complex"):
            raise OpTypeError(f"a `{t.dtype}` is not a number here", "E0204")
    return "complex" if any(t.dtype == "complex" for t in types) else "real"

"""The op table: every operation of the IR is one row, and each analysis and backend is a reading of the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from rnnc.ir.dims import ONE, Dim
from rnnc.ir.types import Type

Attrs: TypeAlias = Mapping[str, Any]
Category = Literal["leaf", "elementwise", "contraction", "reduction", "view", "structured", "composite", "time", "model"]


class OpTypeError(Exception):
    """The arguments of an op do not fit; `message` is in the user's terms, `code` a diagnostic code."""

    def __init__(self, message: str, code: str = "E0203") -> None:
        self.message = message
        self.code = code
        super().__init__(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One row.

    `infer(attrs, types)` is the shape rule: it raises OpTypeError, and ensures the result's type.  Operands of every op
    share their `per` axes (the builder lifts them), except rank-0 constants, which fit anywhere.
    """

    name: str
    arity: int | tuple[int, int]  # exact, or (least, most); most = -1 for any number
    category: Category
    infer: Callable[[Attrs, tuple[Type, ...]], Type]
    doc: str


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

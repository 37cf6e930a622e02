"""What an expression of a spec stands for while it is being lowered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from rnnc.ir.dims import Dim
from rnnc.ir.graph import NodeId
from rnnc.ir.types import Type


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value of the graph."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Identity:
    """`scale * I` whose size is not known yet; it takes its size from the other operand."""

    scale: Dim | Tensor


@dataclass(frozen=True, slots=True)
class Pieces:
    """Several values: what `split` gives, or a cell with several outputs."""

    items: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class ErrorValue:
    """The value of something wrong that was reported; whatever it is used in is silent."""


ERROR = ErrorValue()

# A `Dim` is a number known at compile time (rational, or symbolic in dims); a `bool` a truth value known then.
Value: TypeAlias = "Dim | bool | str | Tensor | Identity | Pieces | ErrorValue"
Shape: TypeAlias = "tuple[Dim, ...]"


def type_text(type_: Type) -> str:
    """The type as the user would write it (without the axes of `per` blocks)."""
    inner = [str(d) for d in type_.shape]
    if type_.dtype == "token":
        inner = [str(type_.vocab), *inner]
    return type_.dtype + (f"[{', '.join(inner)}]" if inner else "")


def shape_text(shape: Shape) -> str:
    return f"[{', '.join(map(str, shape))}]" if shape else "a scalar"

"""Memory as a step's C names it: pointers, strides as expressions of sizes, places along axes and lanes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rnnc.backends.cpu.text import dim_c
from rnnc.ir.dims import ONE, Dim


@dataclass(frozen=True, slots=True)
class Index:
    """A place along an axis; `lane`: the first of the lanes of a vector."""

    text: str
    lane: bool = False


ZERO = Index("0")
Text: TypeAlias = "tuple[str, str]"  # an expression, and what it is: V, M (a truth value a lane), T


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratch:
    """Memory of the function's own; `static`: that lasts while the parameters do."""

    name: str
    size: str
    static: bool


def numbers(index: Index) -> Text:
    """Places along an axis as numbers."""
    return (f"lane_numbers({index.text})", "V") if index.lane else (f"(T)({index.text})", "T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Memory: a pointer, the strides of its axes (None: of size 1) and of the batch (None: static).

    `narrow`: of half precision where all arrays of the call are; only read.
    """

    pointer: str
    strides: tuple[str | None, ...]
    batch: str | None
    narrow: bool = False

    def part(self, k: int) -> Place:
        """The real (0) or imaginary (1) parts, where the memory holds pairs of them."""
        doubled = tuple(None if s is None else grouped(_times("2", s)) for s in self.strides)
        batch = None if self.batch is None else grouped(_times("2", self.batch))
        return Place(pointer=f"({self.pointer} + {k})" if k else self.pointer, strides=doubled, batch=batch)

    def at(self, index: Sequence[Index]) -> str:
        terms = [self.pointer, *([f"b * {self.batch}"] if self.batch is not None else [])]
        terms += [
            _times(i.text, s) for i, s in zip(index, self.strides, strict=True) if s is not None and i.text != "0"
        ]
        return " + ".join(terms)

    def lane_stride(self, index: Sequence[Index]) -> str | None:
        """The stride along the lanes; None where all lanes read the same."""
        return next((s for i, s in zip(index, self.strides, strict=True) if i.lane and s is not None), None)

    def load(self, index: Sequence[Index]) -> Text:
        stride, suffix = self.lane_stride(index), "_e" if self.narrow else ""
        if stride is None:
            return f"from_e(*({self.at(index)}))" if self.narrow else f"*({self.at(index)})", "T"
        if stride == "1":
            return f"load{suffix}({self.at(index)}, n)", "V"
        return f"load_strided{suffix}({self.at(index)}, {stride}, n)", "V"

    def store(self, index: Sequence[Index], text: Text) -> str:
        stride = self.lane_stride(index)
        if stride is None:
            return f"*({self.at(index)}) = {scalar(text)};"
        value = vector(text)
        if stride == "1":
            return f"store({self.at(index)}, {value}, n);"
        return f"store_strided({self.at(index)}, {stride}, {value}, n);"


def _times(a: str, b: str) -> str:
    return a if b == "1" else b if a == "1" else f"{grouped(a)} * {b}"


def vector(text: Text) -> str:
    return f"splat({text[0]})" if text[1] == "T" else text[0]


def scalar(text: Text) -> str:
    """One number; of a vector, all of whose lanes are the same, the first."""
    return text[0] if text[1] == "T" else f"({text[0]})[0]"


def size_text(dims: Sequence[Dim]) -> str:
    texts = [dim_c(d) for d in dims if d != ONE]
    return " * ".join(t if re.fullmatch(r"\w+", t) else f"({t})" for t in texts) or "1"


def grouped(text: str) -> str:
    return text if re.fullmatch(r"\w+", text) else f"({text})"


def strides_text(sizes: Sequence[Dim], order: Sequence[int] | None = None) -> tuple[str | None, ...]:
    """Strides of memory without gaps that holds the axes in this order."""
    order = range(len(sizes)) if order is None else order
    found: list[str | None] = [None] * len(sizes)
    after: list[Dim] = []
    for k in reversed(list(order)):
        if sizes[k] != ONE:
            found[k] = grouped(size_text(after))
            after.append(sizes[k])
    return tuple(found)

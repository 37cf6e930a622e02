"""Types of the values in a cell's graph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeAlias

from rnnc.ir.dims import Dim

DType = Literal["real", "complex", "bool", "token"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Type:
    """The per-step type of a value.

    `shape` is the core shape.  `per` lists the axes of the enclosing `per` blocks, outermost first; they lie in front
    of the core shape.  A value that varies with time has [batch, time] (a whole sequence) or [batch] (one step) in
    front of both; a static one (made of parameters and constants only) has neither, so NumPy's alignment from the right
    broadcasts static against time-varying values.
    """

    dtype: DType = "real"
    shape: tuple[Dim, ...] = ()
    per: tuple[Dim, ...] = ()
    vocab: Dim | None = None  # of a token: its values are below this

    @property
    def rank(self) -> int:
        """Number of core axes."""
        return len(self.shape)

    def __str__(self) -> str:
        inner = [str(d) for d in self.shape]
        if self.dtype == "token":
            inner = [str(self.vocab), *inner]
        text = self.dtype + (f"[{', '.join(inner)}]" if inner else "")
        return text + (f" per [{', '.join(map(str, self.per))}]" if self.per else "")


LONGEST_DENOMINATOR = 10**12


def nearest(value: Fraction) -> float:
    """The nearest float; an infinity where there is none."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def end_text(value: Fraction) -> str:
    """An end of a domain: exact, unless it is an irrational number that was rounded."""
    return str(value) if value.denominator <= LONGEST_DENOMINATOR else f"{nearest(value):.6g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A set of reals; an end of None is infinite.  Ends are exact."""

    lo: Fraction | None = None
    hi: Fraction | None = None
    lo_open: bool = False
    hi_open: bool = False

    def __str__(self) -> str:
        lo = "-inf" if self.lo is None else end_text(self.lo)
        hi = "inf" if self.hi is None else end_text(self.hi)
        left = "(" if self.lo_open or self.lo is None else "["
        right = ")" if self.hi_open or self.hi is None else "]"
        return f"{left}{lo}, {hi}{right}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """|z| <= radius."""

    radius: Fraction

    def __str__(self) -> str:
        return f"disk({end_text(self.radius)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfPlane:
    """re z < bound (`strict`), or <=; `above` turns the relation round."""

    bound: Fraction
    strict: bool = True
    above: bool = False

    def __str__(self) -> str:
        return f"re {'>' if self.above else '<'}{'' if self.strict else '='} {end_text(self.bound)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitNorm:
    """Euclidean norm 1 (along the last axis)."""

    def __str__(self) -> str:
        return "unit"


Domain: TypeAlias = Interval | Disk | HalfPlane | UnitNorm

"""What emitted functions say of their arguments: signatures, defaults and tests of sizes."""

from __future__ import annotations

from rnnc.backends.torch.context import dim_name
from rnnc.backends.torch.expr import dim_text
from rnnc.ir.dims import Dim
from rnnc.ir.graph import CellIR, DimParam


def argument(d: DimParam) -> str:
    if d.default is None:
        return f"{dim_name(d.name)}: int"
    known = d.default.constant
    return f"{dim_name(d.name)}: int | None = None" if known is None else f"{dim_name(d.name)}: int = {known}"


def ordered_dims(cell: CellIR) -> list[DimParam]:
    """Dims without a default first, as Python needs; otherwise as declared."""
    return [d for d in cell.dims if d.default is None] + [d for d in cell.dims if d.default is not None]


def check(dim: Dim) -> list[str]:
    """A test that a size is whole, in plain words; none where it always is."""
    top, bottom = quotient(dim)
    if bottom == "1":
        return []
    message = f"{top} has to be divisible by {bottom}, not {values_of(dim)}"
    return [f"if {top} % {bottom}:", f'    raise ValueError(f"{message}")']


def positive(dim: Dim) -> list[str]:
    """A test that a size, known to be whole (`check`), is positive; none where it always is."""
    if (-dim).is_negative():
        return []
    test = f"if {dim_text(dim, dim_name)} < 1:"
    return [test, f'    raise ValueError(f"{dim} has to be positive, and is not with {values_of(dim)}")']


def fits(start: Dim, stop: Dim, size: Dim) -> list[str]:
    """A test that a slice lies inside its axis; none where it always does."""
    tests = []
    if not start.is_nonnegative():
        tests.append(f"{dim_text(start, dim_name)} < 0")
    if not (size - stop).is_nonnegative():
        tests.append(f"{dim_text(stop, dim_name)} > {dim_text(size, dim_name)}")
    if not tests:
        return []
    shown = f"{start}" if stop == start + 1 else f"{start}:{stop}"
    values = values_of(start + stop * size)
    message = f"the subscript {shown} does not fit an axis of size {size}: {values}"
    return [f"if {' or '.join(tests)}:", f'    raise ValueError(f"{message}")']


def values_of(dim: Dim) -> str:
    """The dims that occur and their values, inside an f-string."""
    return ", ".join(f"{n} = {{{dim_name(n)}}}" for n in sorted(dim.names))


def quotient(dim: Dim) -> tuple[str, str]:
    text = dim_text(dim, dim_name)
    top, _, bottom = text.partition(" // ")
    return top, bottom or "1"


def signature(name: str, arguments: list[str], result: str) -> str:
    one = f"def {name}({', '.join(arguments)}) -> {result}:"
    if len(one) <= 116:
        return one
    return f"def {name}(\n        {', '.join(arguments)}\n    ) -> {result}:"


def tuple_text(items: list[str]) -> str:
    return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"

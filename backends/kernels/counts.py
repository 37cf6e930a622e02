"""What a step costs, counted from the programs that a kernel is printed from: the planner's numbers."""

from __future__ import annotations

from collections.abc import Iterable

from rnnc.backends.kernels.program import Program, Value
from rnnc.ir.dims import ONE, Dim
from rnnc.ir.ops import OPS

SPECIAL_CHAIN = 8  # dependent operations of one special function, in additions


def size_product(sizes: Iterable[Dim]) -> Dim:
    total = ONE
    for size in sizes:
        total = total * size
    return total


def totals(programs: Iterable[Program]) -> tuple[Dim, Dim]:
    """FLOPs and special functions of one step of one sequence."""
    flops = special = Dim.of(0)
    for program in programs:
        for v in program.values:
            count = size_product(program.sizes[x] for x in (*v.labels, *v.over))
            flops = flops + count * _weight(v)
            special = special + count * special_of(v)
    return flops, special


def _weight(v: Value) -> int:
    if v.op in ("load", "const", "dim"):
        return 0
    return 1 if v.over else OPS[v.op].flops


def special_of(v: Value) -> int:
    """Special functions for one entry of a value."""
    return OPS[v.op].special if v.op in OPS and not v.over else 0


def chain_of(program: Program, reduction: float = 1.0) -> float:
    """The longest chain of operations from a state's old entries to its new ones, in additions; a sum over an axis
    counts as `reduction` of them.
    """
    longest: dict[int, float] = {}
    for v in program.values:
        inside = [longest[a] for a in v.args if a in longest]
        if v.load is not None and v.load.source == "state":
            longest[v.id] = 0.0
        elif inside:
            longest[v.id] = max(inside) + (reduction if v.over else 1.0) + SPECIAL_CHAIN * special_of(v)
    ends = [longest.get(r.value, 0.0) for r in program.results if r.target == "state"]
    return max(1.0, *ends)

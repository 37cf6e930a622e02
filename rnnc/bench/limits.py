"""What this machine allows, and the least time that a cell's work takes on it: the roofline.

The bound counts what no implementation can do without: inputs and parameters read once, outputs written once, and the
arithmetic of the cell's own operations at the speed of the fastest products.  For a backward pass the arithmetic is
three times that of the forward, and arrays are moved three times (read again, gradients read and written).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.backends.kernels.nest import by_forms
from rnnc.backends.kernels.pointwise import pointwise
from rnnc.ir.dims import Dim
from rnnc.ir.domains.cost import costs, size_in_bytes
from rnnc.ir.graph import CellIR, ancestors, is_static

NUMBERS = 1 << 22  # of the arrays that bandwidth is measured on: larger than caches
SIDE = 512  # of the matrices
REPEATS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """A second's bytes, floating-point operations and special functions (exp), with as many threads as PyTorch has."""

    bandwidth: float
    flops: float
    special: float

    @staticmethod
    def measured() -> Limits:
        a, b = torch.rand(NUMBERS), torch.rand(NUMBERS)
        c, m = torch.empty(NUMBERS), torch.rand(SIDE, SIDE)
        small = torch.rand(1 << 15)
        out, product = torch.empty_like(small), torch.empty_like(m)
        return Limits(
            bandwidth=12 * NUMBERS / _fastest(lambda: torch.add(a, b, out=c)),
            flops=2 * SIDE**3 / _fastest(lambda: torch.mm(m, m, out=product)),
            special=small.numel() / _fastest(lambda: torch.exp(small, out=out)),
        )


def _fastest(run: Callable[[], object]) -> float:
    """Seconds of the fastest of some runs."""
    run()
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The least time, and which limit sets it."""

    seconds: float
    set_by: str


def bound(ir: CellIR, dims: Mapping[str, int], batch: int, steps: int, limits: Limits, direction: str) -> Bound:
    """The roofline of a cell at a shape; the work of cells that a model calls is not counted.

    Arithmetic is that of the updates in their normal forms: a product of a matrix of rank one with the state, as
    written, would be K times more than any strategy does.
    """
    tokens = batch * steps
    if ir.states:
        ir = by_forms(pointwise(analyse_recurrence(ir))).cell
    needed = ancestors(ir, [*(o.node for o in ir.outputs), *(s.update for s in ir.states)])
    work = costs(ir, sorted(needed))
    flops = special = Dim.of(0)
    for i in needed:
        if not is_static(ir.nodes, [i]):
            flops, special = flops + work[i].flops, special + work[i].special
    moved = sum((size_in_bytes(ir.nodes[i].type) for i in _ends(ir)), Dim.of(0))
    held = sum((size_in_bytes(ir.nodes[p.node].type) for p in ir.params), Dim.of(0))
    times = 1 if direction == "forward" else 3
    seconds = {
        "memory": times * (tokens * moved.evaluate(dims) + held.evaluate(dims)) / limits.bandwidth,
        "arithmetic": times * tokens * flops.evaluate(dims) / limits.flops,
        "special functions": tokens * special.evaluate(dims) / limits.special,
    }
    longest = max(seconds, key=lambda k: seconds[k])
    return Bound(seconds=seconds[longest], set_by=longest)


def _ends(ir: CellIR) -> list[int]:
    return [*(i.node for i in ir.inputs), *(o.node for o in ir.outputs)]

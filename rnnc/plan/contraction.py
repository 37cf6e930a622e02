"""Whether a nonlinear update forgets its state: proved by its Lipschitz bound, or measured on two trajectories.

Newton's method over time converges fast exactly where it does; where errors grow, it is as slow as stepping.  A
measurement says nothing of the weights that training will find, and needs to say nothing: every solution is checked at
run time, and where it fails the steps are taken one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rnnc.analysis.forms import Group
from rnnc.analysis.lipschitz import lipschitz_of
from rnnc.analysis.ranges import Ranges
from rnnc.ir.dims import DimError
from rnnc.ir.domains.concrete import Array
from rnnc.ir.graph import CellIR, Input
from rnnc.ir.oracle import init_params, run
from rnnc.ir.types import Interval
from rnnc.plan.cost import Problem

BATCH, STEPS = 4, 64  # of the measured trajectories
APART = 1e-4  # how far they start from each other, in each entry
FORGOTTEN = 0.02  # of the distance may be left after STEPS steps (0.94 a step)
SMALL = 16  # sizes that nobody gave
MOST_ENTRIES = 1 << 16  # of a parameter or state, beyond which nothing is measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Contraction:
    """`holds`: proved or measured; `rate` is the factor by which distances shrink in a step, where one was found."""

    holds: bool
    proved: bool
    rate: float | None
    why: str


def contraction(problem: Problem) -> Contraction:
    """The bound that the analysis proves, else a measurement with initial weights and random inputs."""
    sizes = tuple(sorted((k, v) for k, v in problem.dims.items() if k not in ("B", "T")))
    return _found(problem.cell, problem.group, sizes)


@lru_cache(maxsize=64)
def _found(cell: CellIR, group: Group, sizes: tuple[tuple[str, int], ...]) -> Contraction:
    bound, _ = lipschitz_of(cell, group, Ranges.of(cell))
    if bound is not None and bound.hi is not None and bound.hi < 1:
        rate = float(bound.hi)
        return Contraction(holds=True, proved=True, rate=rate, why=f"the update contracts by {rate:.3g} (proved)")
    measured = _measured(cell, group.states, dict(sizes))
    if measured is None:
        return Contraction(holds=False, proved=False, rate=None, why="no contraction is proved, and none was measured")
    holds = measured**STEPS <= FORGOTTEN
    found = "distances shrink" if holds else "distances do not shrink enough:"
    why = f"{found} by {measured:.3g} a step (measured with initial weights and random inputs)"
    return Contraction(holds=holds, proved=False, rate=measured, why=why)


def _measured(cell: CellIR, states: tuple[str, ...], sizes: dict[str, int]) -> float | None:
    """The mean factor a step between two trajectories of the same inputs, the worst of a batch."""
    dims = cell.dim_values(sizes)
    for _ in cell.dims:  # defaults may be made of dims that nobody gave
        missing = [d.name for d in cell.dims if d.name not in dims]
        if not missing:
            break
        dims = cell.dim_values({**dims, missing[0]: SMALL})
    rng = np.random.default_rng(0)
    try:
        shapes = {n: _shape(cell, cell.state(n).node, dims) for n in states}
        inputs = {i.name: _input(cell, i, dims, rng) for i in cell.inputs}
        largest = max(int(np.prod(_shape(cell, p.node, dims)[1:])) for p in cell.params) if cell.params else 0
    except DimError:
        return None
    if max([largest, *(int(np.prod(s[1:])) for s in shapes.values())]) > MOST_ENTRIES:
        return None
    params = init_params(cell, dims, rng)
    start = {n: rng.normal(size=s) for n, s in shapes.items()}
    near = {n: s + APART * rng.normal(size=s.shape) for n, s in start.items()}
    ends = [run(cell, dims, params, inputs, state, batch=BATCH, steps=STEPS)[1] for state in (start, near)]
    with np.errstate(all="ignore"):
        left = _left(states, start, near, ends)
    return float(max(left, 1e-12) ** (1 / STEPS)) if np.isfinite(left) else None


def _left(
    states: tuple[str, ...], start: Mapping[str, Array], near: Mapping[str, Array], ends: Sequence[Mapping[str, Array]]
) -> float:
    """How much of the distance is left, the worst of the batch."""
    before = sum(((start[n] - near[n]) ** 2).reshape(BATCH, -1).sum(1) for n in states)
    after = sum(((ends[0][n] - ends[1][n]) ** 2).reshape(BATCH, -1).sum(1) for n in states)
    return float(np.sqrt(np.max(after / before)))


def _shape(cell: CellIR, node: int, dims: dict[str, int]) -> tuple[int, ...]:
    t = cell.nodes[node].type
    return (BATCH, *(d.evaluate(dims) for d in (*t.per, *t.shape)))


def _input(cell: CellIR, given: Input, dims: dict[str, int], rng: np.random.Generator) -> Array:
    t = cell.nodes[given.node].type
    batch, *core = _shape(cell, given.node, dims)
    shape = (batch, STEPS, *core)
    if t.dtype == "token":
        assert t.vocab is not None
        return rng.integers(0, t.vocab.evaluate(dims), size=shape)
    if t.dtype == "bool":
        return rng.integers(0, 2, size=shape).astype(bool)
    domain = given.domain
    if isinstance(domain, Interval) and domain.lo is not None and domain.hi is not None:
        return rng.uniform(float(domain.lo), float(domain.hi), size=shape)
    return rng.normal(size=shape)

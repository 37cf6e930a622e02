"""Eigenvalues and norms of a group's transition at numbers: what a proved region is drawn and checked against.

The transition's matrix is read off the update itself, one column a unit vector of the state, and so knows nothing of
the normal form that the proof was made from.  Samples prove nothing; one outside a proved region refutes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

import numpy as np

from rnnc.analysis.facts import Spectrum
from rnnc.analysis.forms import Group
from rnnc.ir.domains.concrete import resolve
from rnnc.ir.graph import CellIR
from rnnc.ir.oracle import run
from rnnc.ir.types import Interval
from rnnc.verify.probing import Point, Prober, dims_for

Array = Any
MOST_ENTRIES = 64  # of the state whose transition is written out as a matrix
SLACK = 1e-6  # of an eigenvalue: rounding of the entries, and of the eigenvalue solver near a double one


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """`eigenvalues` [samples * n] complex, `norms` [samples]; `dims` they were taken at; `skipped`: not finite."""

    eigenvalues: Array
    norms: Array
    dims: dict[str, int]
    skipped: int = 0


def small_dims(cell: CellIR, group: Group) -> dict[str, int] | None:
    """Sizes at which the group's transition is a matrix of at most 64 rows: the largest that are tried.

    What is proved holds for all sizes, so it does not matter that the spec's defaults are others.
    """
    fixed = [p.name for p in cell.dims if p.default is not None and p.default.constant is not None]
    free = [p.name for p in cell.dims if p.default is None]
    best: tuple[int, dict[str, int]] | None = None
    for few, many in product((2, 3, 4), (2, 4, 8, 16)):
        given = {**dict.fromkeys(fixed, few), **dict.fromkeys(free, many)}
        dims = dims_for(cell, given)
        size = 0 if dims is None else sum(entries(cell, name, dims) for name in group.states)
        if dims is not None and size <= MOST_ENTRIES and (best is None or size > best[0]):
            best = (size, dims)
    return None if best is None else best[1]


def entries(cell: CellIR, state: str, dims: Mapping[str, int]) -> int:
    """How many numbers a state holds."""
    t = cell.nodes[cell.state(state).node].type
    return prod(d.evaluate(dims) for d in (*t.per, *t.shape))


def sample_spectrum(cell: CellIR, group: Group, *, weights: int = 10, inputs: int = 12) -> Samples | None:
    """At random and extreme parameters and inputs inside their domains; None where the map is not one matrix.

    Requires: `group` is linear over (+, x).
    """
    dims = small_dims(cell, group)
    if dims is None or not _one_field(cell, group):
        return None
    prober = Prober(cell, dims)
    points = (_at_the_ends(prober, p, i) for i, p in enumerate(prober.points(weights, batch=inputs, steps=3)))
    return _collect(prober, group, points)


def spectrum_at(
    cell: CellIR, group: Group, dims: Mapping[str, int], params: Mapping[str, Array], *, draws: int = 6
) -> Samples | None:
    """At these parameters and random inputs; None where the matrix would be too large."""
    if sum(entries(cell, name, dims) for name in group.states) > 4 * MOST_ENTRIES or not _one_field(cell, group):
        return None
    prober = Prober(cell, dims)
    points = (replace(p, params=dict(params)) for p in prober.points(draws, batch=12, steps=3))
    return _collect(prober, group, (_at_the_ends(prober, p, i) for i, p in enumerate(points)))


def outside(samples: Samples, spectrum: Spectrum) -> list[str]:
    """What of the samples contradicts the proved facts, one sentence each; empty when all agree."""
    found: list[str] = []
    values = samples.eigenvalues
    if not values.size:
        return found
    if spectrum.real and np.abs(values.imag).max() > 10 * SLACK * max(1.0, np.abs(values).max()):
        found.append(f"an eigenvalue is not real: {values[np.abs(values.imag).argmax()]:.9g}")
    if spectrum.real and spectrum.interval is not None:
        found += _beyond(values.real, spectrum.interval, "eigenvalue")
    if spectrum.modulus is not None:
        found += _beyond(np.abs(values), spectrum.modulus, "modulus")
    if spectrum.norm is not None:
        found += _beyond(samples.norms, Interval(hi=spectrum.norm.hi), "norm")
    return found


def _beyond(values: Array, region: Interval, what: str) -> Iterator[str]:
    low, high = float(values.min()), float(values.max())
    if region.lo is not None and low < float(region.lo) - SLACK * max(1.0, abs(low)):
        yield f"the {what} {low:.9g} is below {region}"
    if region.hi is not None and high > float(region.hi) + SLACK * max(1.0, abs(high)):
        yield f"the {what} {high:.9g} is above {region}"


def _one_field(cell: CellIR, group: Group) -> bool:
    return len({cell.nodes[cell.state(s).node].type.dtype for s in group.states}) == 1


def _at_the_ends(prober: Prober, p: Point, index: int) -> Point:
    """The same point with inputs pushed out: unbounded ones made large, bounded ones to their closed ends."""
    if index % 2 == 0:
        return p
    pushed = dict(p.inputs)
    for x in prober.cell.inputs:
        value = pushed[x.name]
        match x.domain:
            case None if value.dtype.kind in "fc":
                pushed[x.name] = 20 * value
            case Interval(lo=lo, hi=hi, lo_open=lo_open, hi_open=hi_open):
                coin = prober.rng.uniform(size=value.shape)
                if lo is not None and not lo_open:
                    value = np.where(coin < 0.3, float(lo), value)
                if hi is not None and not hi_open:
                    value = np.where(coin > 0.7, float(hi), value)
                pushed[x.name] = value
    return replace(p, inputs=pushed)


def _collect(prober: Prober, group: Group, points: Iterator[Point]) -> Samples:
    eigenvalues, norms, skipped = [], [], 0
    for p in points:
        matrices = transitions(prober, group, p)
        fine = [m for m in matrices if np.isfinite(m).all() and np.abs(m).max(initial=0) <= 1e12]
        skipped += len(matrices) - len(fine)
        if not fine:
            continue
        stack = np.stack(fine)
        parts = [stack[:, block][:, :, block] for block in _blocks(stack)]
        eigenvalues += [np.linalg.eigvals(part).astype(complex).reshape(-1) for part in parts]
        norms.append(np.max([np.linalg.norm(part, 2, axis=(1, 2)) for part in parts], axis=0))
    return Samples(
        eigenvalues=np.concatenate(eigenvalues) if eigenvalues else np.zeros(0, complex),
        norms=np.concatenate(norms) if norms else np.zeros(0),
        dims=prober.dims,
        skipped=skipped,
    )


def _blocks(stack: Array) -> list[list[int]]:
    """Positions that are coupled with each other in some of the matrices: heads and columns of a state are not."""
    from networkx import Graph, connected_components

    graph = Graph(list(zip(*np.nonzero(np.abs(stack).max(axis=0)))))
    graph.add_nodes_from(range(stack.shape[1]))
    return [sorted(block) for block in connected_components(graph)]


def transitions(prober: Prober, group: Group, p: Point) -> Array:
    """[B, n, n]: the map of the group's states by the last step of each sequence, whatever else is as it is there.

    One run from the group's zero, and one with n copies of every sequence, each from one unit vector: as large as what
    the step adds, so that taking that away again costs no digits.
    """
    batch = next((int(x.shape[0]) for x in p.inputs.values()), 1)
    before = {k: v[:, :-1] for k, v in p.inputs.items()}
    steps = next((x.shape[1] for x in before.values()), 1)
    _, state = run(prober.cell, prober.dims, p.params, before, batch=batch, steps=steps)
    shapes = {s: _shape(prober, s) for s in group.states}
    n = sum(prod(shape) for shape in shapes.values())
    added = _after(prober, shapes, p, state, np.zeros((1, n)))  # [B, 1, n]
    with np.errstate(all="ignore"):
        size = 2.0 ** np.ceil(np.log2(np.maximum(1.0, np.abs(added).max(initial=0))))
        if not np.isfinite(size):
            return np.full((batch, n, n), np.nan)
        rows = _after(prober, shapes, p, state, size * np.eye(n))
        return np.swapaxes((rows - added) / size, 1, 2)


def _after(
    prober: Prober, shapes: Mapping[str, tuple[int, ...]], p: Point, state: Mapping[str, Array], at: Array
) -> Array:
    """The group's states after the last step, flat, [B, m, n], from each of `at` [m, n]."""
    m = len(at)
    tiled = {k: np.repeat(v, m, axis=0) for k, v in state.items()}
    batch = next(iter(tiled.values())).shape[0] // m
    first = 0
    for name, shape in shapes.items():
        columns = at[:, first : first + prod(shape)].astype(tiled[name].dtype)
        tiled[name] = np.tile(columns, (batch, 1)).reshape(batch * m, *shape)
        first += prod(shape)
    last = {k: np.repeat(v[:, -1:], m, axis=0) for k, v in p.inputs.items()}
    _, new = run(prober.cell, prober.dims, p.params, last, tiled, batch=batch * m, steps=1)
    return np.concatenate([new[s].reshape(batch, m, -1) for s in shapes], axis=2)


def _shape(prober: Prober, state: str) -> tuple[int, ...]:
    t = prober.cell.nodes[prober.cell.state(state).node].type
    return tuple(resolve((*t.per, *t.shape), prober.dims))

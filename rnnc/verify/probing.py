"""Numbers at which a claim fails: a cell's own values at random and extreme parameters, inputs and states.

Everything a search returns lies inside the declared domains and was computed by the reference interpreter; a claim is
refuted only where the numbers contradict it by a margin far above rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rnnc.ir.dims import Dim, DimError
from rnnc.ir.domains.concrete import resolve
from rnnc.ir.graph import CellIR, Input, Node, NodeId, Output
from rnnc.ir.oracle import init_params, run
from rnnc.ir.types import Disk, HalfPlane, Interval, UnitNorm
from rnnc.ir.unfold import inline_calls, unfold_time

Array = Any
PROBE = "the probe"
SIZES = (2, 4, 8, 16, 32, 64, 128)
SCALES = (0.0, 1.0, 4.0, 0.3, 30.0, 1000.0)  # of raw parameters, beside those of the declared initialisation
MOST_ELEMENTS = 200_000  # of one value, so that a search stays short


def dims_for(cell: CellIR, given: Mapping[str, int]) -> dict[str, int] | None:
    """Sizes for a search: those given, defaults, and the smallest that fit for the others; None where none do."""
    free = [p.name for p in cell.dims if p.name not in given and p.default is None]
    for size in SIZES:
        try:
            dims = cell.dim_values({**given, **dict.fromkeys(free, size)})
        except DimError:  # a default such as d/heads that is not whole
            continue
        if len(dims) == len(cell.dims) and _fit(cell, dims):
            return dims
    return None


def _fit(cell: CellIR, dims: Mapping[str, int]) -> bool:
    """Whether every size is a whole positive number, and none is huge."""
    for n in cell.nodes:
        total = 1
        for d in (*n.type.per, *n.type.shape):
            try:
                size = d.evaluate(dims)
            except DimError:  # not a positive whole number
                return False
            total *= size
        if total > MOST_ELEMENTS or (n.op == "slice" and not _sliced(cell, n, dims)):
            return False
    return True


def _sliced(cell: CellIR, n: Node, dims: Mapping[str, int]) -> bool:
    """Whether a slice lies inside of what it is taken from: that of a symbolic size says nothing."""
    whole, axis = cell.nodes[n.args[0]].type.shape, n.attr("axis")
    assert isinstance(axis, int)
    return Dim.of(n.attr("stop")).evaluate(dims) <= whole[axis].evaluate(dims)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One choice of everything: `params` raw, `inputs` [B, T, ...], `state` [B, ...] by key."""

    dims: dict[str, int]
    params: dict[str, Array]
    inputs: dict[str, Array]
    state: dict[str, Array]

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, with which the counterexample can be computed again."""
        return {
            "dims": self.dims,
            "parameters": {k: _plain(v) for k, v in self.params.items()},
            "inputs": {k: _plain(v) for k, v in self.inputs.items()},
            "state": {k: _plain(v) for k, v in self.state.items()},
        }


def _plain(value: Array) -> Any:
    array = np.asarray(value)
    if np.iscomplexobj(array):
        return {"re": array.real.tolist(), "im": array.imag.tolist()}
    return array.tolist()


class Prober:
    """Points of one cell, and the cell's values there; the same seed gives the same points.

    `fixed` are values of parameters that are not drawn.
    """

    def __init__(self, cell: CellIR, dims: Mapping[str, int], fixed: Mapping[str, Array] | None = None) -> None:
        self.cell = inline_calls(cell)
        self.dims = dict(dims)
        self.fixed = dict(fixed or {})
        self.rng = np.random.default_rng(0)
        self.flat, self.buffers = unfold_time(self.cell)

    def points(self, count: int, *, batch: int = 1, steps: int = 1) -> Iterator[Point]:
        for i in range(count):
            yield Point(
                dims=self.dims,
                params=self._params(SCALES[i % len(SCALES)]),
                inputs={x.name: self._input(x, batch, steps) for x in self.cell.inputs},
                state={},
            )

    def _params(self, scale: float) -> dict[str, Array]:
        drawn = init_params(self.cell, self.dims, self.rng)
        if scale != 0.0:
            drawn = {k: scale * _like(self.rng, v) for k, v in drawn.items()}
        return drawn | self.fixed

    def states(self, names: tuple[str, ...], batch: int, scale: float = 1.0) -> dict[str, Array]:
        """Random values of some states."""
        found = {}
        for name in names:
            t = self.cell.nodes[self.cell.state(name).node].type
            shape = (batch, *resolve((*t.per, *t.shape), self.dims))
            value = scale * self.rng.normal(size=shape)
            found[name] = value + 1j * scale * self.rng.normal(size=shape) if t.dtype == "complex" else value
        return found

    def _input(self, x: Input, batch: int, steps: int) -> Array:
        t = self.cell.nodes[x.node].type
        shape = (batch, steps, *resolve((*t.per, *t.shape), self.dims))
        if t.dtype == "token":
            assert t.vocab is not None
            return self.rng.integers(0, t.vocab.evaluate(self.dims), size=shape)
        if t.dtype == "bool":
            return self.rng.integers(0, 2, size=shape).astype(bool)
        value = self.rng.normal(size=shape) * self.rng.choice([0.3, 1.0, 5.0])
        if t.dtype == "complex":
            value = value + 1j * self.rng.normal(size=shape)
        return self._inside(value, x)

    def _inside(self, value: Array, x: Input) -> Array:
        match x.domain:
            case Interval() as d:
                return self._between(value, d)
            case UnitNorm():
                return value / np.linalg.norm(value, axis=-1, keepdims=True)
            case Disk() as d:
                return float(d.radius) * value / (1 + np.abs(value))
            case HalfPlane() as d:
                away = np.abs(value.real) + 1e-3
                re = float(d.bound) + away if d.above else float(d.bound) - away
                return re + 1j * value.imag
            case _:
                return value

    def _between(self, value: Array, d: Interval) -> Array:
        if d.lo is not None and d.hi is not None:
            u = self.rng.uniform(0.02, 0.98, size=value.shape)
            return float(d.lo) + (float(d.hi) - float(d.lo)) * u
        if d.lo is not None:
            return float(d.lo) + np.abs(value) + 1e-3
        return float(d.hi) - np.abs(value) - 1e-3 if d.hi is not None else value

    # ------------------------------------------------------------ values

    def values(self, node: NodeId, p: Point) -> Array:
        """A node's value at the last step, [B, *per, *shape]."""
        probed = replace(self.cell, outputs=(Output(name=PROBE, node=node),))
        batch, steps = _extent(p)
        outputs, _ = run(probed, self.dims, p.params, p.inputs, p.state or None, batch=batch, steps=steps)
        return outputs[PROBE][:, -1]

    def after(self, p: Point) -> dict[str, Array]:
        """The states behind the last step."""
        batch, steps = _extent(p)
        return run(self.cell, self.dims, p.params, p.inputs, p.state or None, batch=batch, steps=steps)[1]

    def size(self, state: str) -> int:
        """How many entries a state (or the buffer of a window) has."""
        t = self.flat.nodes[self.flat.state(state).node].type
        return math.prod(resolve((*t.per, *t.shape), self.dims))

    def course(self, p: Point, state: str, steps: int) -> Array:
        """The largest modulus of a state's entries after each of some equal inputs, [steps]."""
        probed = replace(self.cell, outputs=(Output(name=PROBE, node=self.cell.state(state).update),))
        held = {k: np.repeat(v[:1, :1], steps, axis=1) for k, v in p.inputs.items()}
        with np.errstate(all="ignore"):
            outputs, _ = run(probed, self.dims, p.params, held, None, batch=1, steps=steps)
        return np.abs(outputs[PROBE][0]).reshape(steps, -1).max(axis=1)


def _extent(p: Point) -> tuple[int | None, int | None]:
    """Batch and steps, for cells without inputs."""
    if p.inputs or not p.state:
        return None, None
    return int(next(iter(p.state.values())).shape[0]), 1


def _like(rng: np.random.Generator, value: Array) -> Array:
    drawn = rng.normal(size=value.shape)
    return drawn + 1j * rng.normal(size=value.shape) if np.iscomplexobj(value) else drawn


def holds_truth(cell: CellIR, names: Iterable[str]) -> bool:
    """Whether one of the states holds truth values, which have no differences and midpoints."""
    return any(cell.nodes[cell.state(s).node].type.dtype == "bool" for s in names)


def finite(*values: Array) -> bool:
    return all(bool(np.isfinite(v).all()) for v in values)

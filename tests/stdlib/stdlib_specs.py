"""Helpers to run any spec by every legal strategy against the float64 oracle (loaded by path: tests are no package)."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import rnnc
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.compile import compile as compile_cell
from rnnc.ir.graph import CellIR
from rnnc.ir.oracle import init_params
from rnnc.plan.choose import plan
from rnnc.spec import Spec


def sibling(name: str, path: Path) -> Any:
    """A helper module of the tests, which are no package."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


HERE = Path(__file__).parent
support = sibling("torch_support", HERE.parent / "backends" / "torch_support.py")


def cells_of(folder: str) -> Iterator[tuple[Path, str]]:
    """Every (file, cell) below tests/stdlib/`folder`, models left out."""
    for path in sorted((HERE / folder).glob("*.rnn")):
        spec = rnnc.load(path)
        for cell in spec.cells:
            if cell not in spec.models:
                yield path, cell


def overrides(cell: CellIR) -> list[str]:
    """The strategies that are legal for some group, and so may be asked for by name."""
    groups = plan(analyse_recurrence(cell), None).groups
    return list(dict.fromkeys(o.name for g in groups for o in g.options if o.legal)) or ["step"]


def sizes_for(cell: CellIR, given: Mapping[str, int]) -> dict[str, int]:
    """Dims of the cell: those given, defaults, and 4 for the rest."""
    sizes = {d.name: given.get(d.name, 4) for d in cell.dims if d.name in given or d.default is None}
    return dict(cell.dim_values(sizes))


def draw(cell: CellIR, dims: Mapping[str, int], batch: int, time: int, seed: int) -> tuple[Any, Any, Any]:
    """Random parameters, inputs and an initial state (by name, as the oracle takes them)."""
    rng = np.random.default_rng(seed)
    params = {k: v + 0.1 * rng.normal(size=v.shape) for k, v in init_params(cell, dims, rng).items()}
    inputs = {}
    for i in cell.inputs:
        t = cell[i.node].type
        shape = (batch, time, *(d.evaluate(dims) for d in (*t.per, *t.shape)))
        if t.dtype == "token":
            assert t.vocab is not None
            inputs[i.name] = rng.integers(0, t.vocab.evaluate(dims), shape)
        else:
            inputs[i.name] = _random(rng, t.dtype, shape)
    state = {}
    for s in cell.states:
        t = cell[s.node].type
        shape = (batch, *(d.evaluate(dims) for d in (*t.per, *t.shape)))
        state[s.name] = _random(rng, t.dtype, shape)
    return params, inputs, state


def _random(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> Any:
    x = rng.normal(size=shape)
    match dtype:
        case "bool":
            return x > 0
        case "complex":
            return x + 1j * rng.normal(size=shape)
        case _:
            return x


def check(
    spec: Spec, name: str, sizes: Mapping[str, int], *, time: int, strategies: list[str] | None = None, **hyper: object
) -> list[str]:
    """Every legal strategy gives the oracle's outputs, final states and gradients; returns the strategies run.

    A random initial state is passed in where the cell has no delays or convolutions (their buffers stay empty), and no
    state elsewhere.
    """
    cell = spec.lower(name, **hyper)
    dims = sizes_for(cell, sizes)
    params, inputs, state = draw(cell, dims, 2, time, seed=time)
    buffered = any(n.op in ("delay", "conv", "attention") for n in cell.nodes)
    case = support.Case(cell, dims, params, inputs, None if buffered else state)
    chosen = strategies or overrides(cell)
    for strategy in chosen:
        cls = compile_cell(spec, name, strategy=strategy, **hyper)
        case.check(cls, tolerance=1e-9, step=strategy == chosen[0])
    return chosen

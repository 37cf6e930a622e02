"""Passes and domains on the cells that people write: the whole standard library."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rnnc.spec
from rnnc.frontend.modules import stdlib_folder
from rnnc.ir.domains.concrete import resolve
from rnnc.ir.domains.cost import total
from rnnc.ir.graph import CellIR
from rnnc.ir.oracle import gradients, init_params, run
from rnnc.ir.simplify import simplify
from rnnc.ir.text import parse_cell, print_cell
from rnnc.ir.unfold import inline_calls, unfold_time
from rnnc.ir.verify import verify_cell

SPECS = sorted(stdlib_folder().glob("*.rnn"))


def small_dims(cell: CellIR) -> dict[str, int]:
    """Two heads, at most eight of everything else."""
    env: dict[str, int] = {}
    for p in cell.dims:
        known = 8 if p.default is None else min(8, p.default.evaluate(env))
        env[p.name] = 2 if p.name == "heads" else known
    return env


def inputs_of(cell: CellIR, dims: dict[str, int], rng: np.random.Generator) -> dict[str, Any]:
    found = {}
    for i in cell.inputs:
        t = cell.nodes[i.node].type
        shape = (2, 4, *resolve((*t.per, *t.shape), dims))
        found[i.name] = rng.integers(0, resolve(t.vocab, dims), shape) if t.dtype == "token" else rng.normal(size=shape)
    return found


@pytest.mark.parametrize("path", SPECS, ids=[p.stem for p in SPECS])
def test_passes_keep_the_function(path: Any) -> None:
    """Text, inlining, unfolding and simplifying: the same outputs, states and gradients."""
    spec = rnnc.spec.load(path)
    for name in spec.cells:
        cell = verify_cell(spec.lower(name))
        assert parse_cell(print_cell(cell)) == cell
        dims, rng = small_dims(cell), np.random.default_rng(0)
        params, inputs = init_params(cell, dims, rng), inputs_of(cell, dims, rng)
        y, state = run(cell, dims, params, inputs)
        d_y = {k: rng.normal(size=v.shape) for k, v in y.items()}
        found = gradients(cell, dims, params, inputs, d_y)
        assert all(np.isfinite(v).all() for v in (*y.values(), *state.values(), *found.params.values()))
        flat = verify_cell(simplify(verify_cell(unfold_time(inline_calls(cell))[0])))
        assert total(flat).flops.evaluate(dims) > 0
        y2, _ = run(flat, dims, params, inputs)
        found2 = gradients(flat, dims, params, inputs, d_y)
        for a, b in ((y, y2), (found.params, found2.params), (found.inputs, found2.inputs)):
            assert a.keys() == b.keys()
            for k in a:
                np.testing.assert_allclose(b[k], a[k], rtol=1e-9, atol=1e-11)


def test_there_are_specs() -> None:
    assert len(SPECS) > 10

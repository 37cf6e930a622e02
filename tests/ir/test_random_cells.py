"""Domains and derivatives on random graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from random_cells import DIMS, cells, sample, values

from rnnc.ir.autodiff import backward
from rnnc.ir.domains.concrete import Concrete, resolve
from rnnc.ir.domains.dependence import dependences
from rnnc.ir.domains.jacobian import jacobian
from rnnc.ir.domains.sparsity import full_shape
from rnnc.ir.evaluate import evaluate
from rnnc.ir.graph import CellIR
from rnnc.ir.oracle import DTYPES

SEEDS = st.integers(0, 2**16)


@given(cells(), SEEDS)
@settings(max_examples=150)
def test_values_have_the_types_inferred(cell: CellIR, seed: int) -> None:
    found = values(cell, sample(cell, np.random.default_rng(seed), (2,)))
    reads = dependences(cell)
    for n in cell.nodes:
        lead = () if reads[n.id].static else (2,)
        assert found[n.id].shape == lead + resolve((*n.type.per, *n.type.shape), DIMS)
        assert found[n.id].dtype == DTYPES[n.type.dtype]


@given(cells(), SEEDS)
@settings(max_examples=100)
def test_dependence_is_sound(cell: CellIR, seed: int) -> None:
    """A leaf not named has no influence."""
    rng = np.random.default_rng(seed)
    given_, other = sample(cell, rng), sample(cell, rng)
    reads = dependences(cell)
    base = values(cell, given_)
    for leaf in (*cell.inputs, *cell.params, *cell.states):
        moved = values(cell, {**given_, leaf.node: other[leaf.node]})
        for n in cell.nodes:
            d = reads[n.id]
            if leaf.name not in d.states | d.params | {name for name, _ in d.inputs}:
                np.testing.assert_array_equal(moved[n.id], base[n.id])


def jacobian_of(cell: CellIR, base: dict[int, Any], update: int, state: int) -> Any:
    """d update / d state by central differences, [entries, entries]; of complex values along the real direction."""
    columns = []
    for i in np.ndindex(*base[state].shape):
        step = np.zeros(base[state].shape)
        step[i] = 1e-5
        up = values(cell, base | {state: base[state] + step}, [update])[update]
        down = values(cell, base | {state: base[state] - step}, [update])[update]
        with np.errstate(all="ignore"):
            columns.append(((up - down) / 2e-5).reshape(-1))
    return np.stack(columns, axis=-1)


@given(cells(), SEEDS, st.sampled_from(["S", "h", "z"]))
@settings(max_examples=150)
def test_jacobian_pattern_is_sound(cell: CellIR, seed: int, name: str) -> None:
    rng = np.random.default_rng(seed)
    state = cell.state(name)
    pattern = jacobian(cell, [name])
    j = jacobian_of(cell, sample(cell, rng), state.update, state.node)
    if not np.isfinite(j).all():
        return
    tol = 1e-6 * (1 + np.abs(j).max())
    size = len(j)
    match pattern.kind:
        case "zero":
            assert np.abs(j).max() <= tol
        case "diagonal":
            assert np.abs(j - np.diag(np.diag(j))).max() <= tol
        case "low_rank":
            assert pattern.rank is not None
            rows = rng.permutation(size)
            # A part away from the diagonal has the low rank alone, times the number of blocks it meets.
            part = j[np.ix_(rows[: size // 2], rows[size // 2 :])]
            blocks = size // pattern.block.evaluate(DIMS)
            assert np.linalg.matrix_rank(part, tol=tol) <= pattern.rank * blocks
        case "block_diagonal":
            block = pattern.block.evaluate(DIMS)
            assert ((np.abs(j) > tol).sum(axis=1) <= block).all()
        case "dense":
            pass


@given(cells(most=18), SEEDS)
@settings(max_examples=100)
def test_backward_matches_finite_differences(cell: CellIR, seed: int) -> None:
    """Where the function is smooth along the line taken (two step sizes agree)."""
    rng = np.random.default_rng(seed)
    base, along = sample(cell, rng), sample(cell, rng)
    root = cell.outputs[-1].node
    wanted = list(base)
    rule = backward(cell, [root], wanted)
    y = values(cell, base, [root])[root]
    g = rng.normal(size=y.shape) + (1j * rng.normal(size=y.shape) if np.iscomplexobj(y) else 0)
    with np.errstate(all="ignore"):
        domain = Concrete(rule.cell, DIMS, base | {rule.seeds[root]: g})
        grads = evaluate(rule.cell, domain, rule.grads.values())
    for leaf in wanted:
        slopes = []
        for h in (1e-5, 2e-5):
            up = values(cell, base | {leaf: base[leaf] + h * along[leaf]}, [root])[root]
            down = values(cell, base | {leaf: base[leaf] - h * along[leaf]}, [root])[root]
            slopes.append(np.real(np.sum(np.conj(g) * (up - down))) / (2 * h))
        if not np.isfinite(slopes).all() or abs(slopes[0] - slopes[1]) > 1e-5 * (1 + abs(slopes[0])):
            continue  # a kink or a pole on the way
        mine = np.real(np.sum(np.conj(grads[rule.grads[leaf]]) * along[leaf])) if leaf in rule.grads else 0.0
        np.testing.assert_allclose(mine, slopes[0], rtol=2e-4, atol=2e-5)


def test_bases_are_full_shape() -> None:
    """The generator reaches per blocks and all three states."""
    from random import Random

    from random_cells import build

    made = [build(Random(i), 20) for i in range(40)]
    assert {len(full_shape(c.nodes[c.states[0].node].type)) for c in made} == {2, 3}
    assert {jacobian(c, [s.name]).kind for c in made for s in c.states} >= {"diagonal", "dense", "zero"}

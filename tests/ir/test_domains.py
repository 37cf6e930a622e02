"""Soundness of the abstract domains: every op, with each subset of its arguments made states, against concrete
perturbation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from op_examples import EXAMPLES, LEAVES, Example
from with_states import CASES, WithStates

from rnnc.ir.builder import Builder
from rnnc.ir.domains.concrete import resolve
from rnnc.ir.domains.cost import total
from rnnc.ir.domains.dependence import dependences
from rnnc.ir.domains.sparsity import Sparsity, full_shape
from rnnc.ir.evaluate import evaluate
from rnnc.ir.graph import CellIR, State
from rnnc.ir.ops import OPS
from rnnc.ir.types import Type


@pytest.mark.parametrize("c", CASES, ids=str)
def test_dependence_names_what_matters(c: WithStates) -> None:
    found = dependences(c.cell)[c.e.node]
    assert found.states == {f"x{k}" for k in c.chosen}
    assert {name for name, _ in found.inputs} == {i.name for i in c.cell.inputs}
    assert found.params == {p.name for p in c.cell.params}
    assert found.state_free is False


def test_dependence_over_time() -> None:
    reads = {}
    for e in EXAMPLES:
        if OPS[e.op].category in ("time", "model"):
            found = dependences(e.cell)[e.node]
            reads[e.op, e.cell.nodes[e.node].attr("width")] = (
                found.inputs[0][1].least,
                found.inputs[0][1].most,
                found.hidden,
            )
    assert reads == {
        ("delay", None): (3, 3, False),
        ("conv", 4): (0, 3, False),
        ("conv", 1): (0, 0, False),
        ("attention", None): (0, None, True),
        ("call", None): (0, None, True),
        ("repeat", None): (0, None, True),
    }


def test_old_and_new_values_are_told_apart() -> None:
    """S' is read where the update's node is; the state's own leaf is its old value."""
    b = Builder()
    t = Type()
    x, s = b.leaf("input", "x", t), b.leaf("state", "s", t)
    new = b.map("add", s, x)
    reads_new, reads_old = b.map("exp", new), b.map("exp", s)
    state = State(name="s", node=s, init=b.const(0), update=new)
    d = dependences(CellIR(name="C", nodes=tuple(b.nodes), states=(state,)))
    assert (d[reads_new].states, d[reads_new].updated) == ({"s"}, {"s"})
    assert (d[reads_old].states, d[reads_old].updated) == ({"s"}, set())
    assert d[x].updated == set()
    assert not d[x].static
    assert d[x].state_free


# ---------------------------------------------------------------- sparsity


def numerical_jacobian(c: WithStates, arrays: dict[str, Any], name: str) -> Any:
    """[entries of y, entries of the state]: real derivative along the real and along the imaginary direction, sizes
    added.
    """
    x = arrays[name]
    columns = []
    for i in np.ndindex(*x.shape):
        change = 0.0
        for unit in (1e-5, 1e-5j) if np.iscomplexobj(x) else (1e-5,):
            moved = x.copy()
            moved[i] += unit
            change = change + np.abs(c.value({**arrays, name: moved}).astype(complex) - c.value(arrays))
        columns.append(np.asarray(change).reshape(-1))
    return np.stack(columns, axis=-1)


def check_tied(term: Any, shape: tuple[int, ...], state_shape: tuple[int, ...], dims: dict[str, int]) -> Any:
    """The entries [y, state] that the term allows."""
    y = np.indices(shape).reshape(len(shape), -1) if shape else np.zeros((0, 1), dtype=int)
    s = np.indices(state_shape).reshape(len(state_shape), -1) if state_shape else np.zeros((0, 1), dtype=int)
    allowed = np.ones((y.shape[1], s.shape[1]), dtype=bool)
    for i, axis in enumerate(term.axes):
        stride = 1
        for slot in reversed(axis):
            size = resolve(slot.size, dims)
            if slot.digit is not None:
                mine = (y[i] // stride) % size
                theirs = (s[slot.digit.axis] // resolve(slot.digit.stride, dims)) % size
                allowed &= mine[:, None] == theirs[None, :]
            stride *= size
    return allowed


@pytest.mark.parametrize("c", CASES, ids=str)
def test_sparsity_is_an_upper_bound(c: WithStates) -> None:
    """No entry outside the union of the terms' patterns moves."""
    pattern = evaluate(c.cell, Sparsity(c.cell))[c.e.node]
    arrays = c.e.sample(np.random.default_rng(9), ())
    shape = resolve(full_shape(c.cell.nodes[c.e.node].type), c.e.dims)
    for k in c.chosen:
        name = f"x{k}"
        moved = numerical_jacobian(c, arrays, name) > 1e-12
        allowed = np.zeros_like(moved)
        for term in pattern:
            if term.state == name:
                allowed |= check_tied(term, shape, arrays[name].shape, c.e.dims)
        assert not (moved & ~allowed).any()


def test_every_op_is_covered() -> None:
    """Each op that takes numbers is walked with a state in it; the rest are leaves, of truth values, or over time."""
    walked = {c.e.op for c in CASES}
    rest = {n for n, op in OPS.items() if n not in walked}
    no_numbers = {"and", "or", "not", "real", "one_hot"}
    assert rest == LEAVES | no_numbers | {
        n for n, op in OPS.items() if op.arity == 0 or op.category in ("time", "model")
    }


@pytest.mark.parametrize("e", EXAMPLES, ids=str)
def test_cost_is_finite_and_not_negative(e: Example) -> None:
    cost = total(e.cell)
    for part in (cost.flops, cost.special, cost.bytes):
        assert part.evaluate(e.dims) >= 0
    if OPS[e.op].special and e.op != "call":
        assert cost.special.evaluate(e.dims) > 0


def test_cost_of_a_matrix_product() -> None:
    e = next(e for e in EXAMPLES if e.op == "einsum" and e.cell.nodes[e.node].attr("spec") == "ij,j->i")
    assert total(e.cell).flops.evaluate(e.dims) == 2 * 3 * 4
    assert total(e.cell).bytes.evaluate(e.dims) == 4 * (12 + 4 + 3)

"""Jacobian patterns of updates whose pattern is known."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest

from rnnc.ir.builder import Builder
from rnnc.ir.dims import Dim
from rnnc.ir.domains.jacobian import Jacobian, jacobian
from rnnc.ir.graph import CellIR, DimParam, State
from rnnc.ir.types import Type
from rnnc.ir.verify import verify_cell

N, M, P, H = Dim.of("n"), Dim.of("m"), Dim.of("p"), Dim.of("heads")


class Maker:
    """A builder with leaves at hand."""

    def __init__(self) -> None:
        self.b = Builder()

    def given(self, *shape: Dim, per: tuple[Dim, ...] = ()) -> int:
        return self.b.leaf("input", f"x{len(self.b.nodes)}", Type(shape=shape, per=per))

    def state(self, *shape: Dim, per: tuple[Dim, ...] = ()) -> int:
        return self.b.leaf("state", f"s{len(self.b.nodes)}", Type(shape=shape, per=per))

    def cell(self, *updates: tuple[int, int]) -> CellIR:
        from rnnc.ir.graph import Input

        states = []
        for node, update in updates:
            zero = self.b.const(Fraction(0), self.b.type(node))
            states.append(State(name=self.b.nodes[node].name, node=node, init=zero, update=update))
        inputs = [Input(name=n.name, node=n.id) for n in self.b.nodes if n.op == "input"]
        dims = tuple(DimParam(name=x) for x in ("n", "m", "p", "heads"))
        cell = CellIR(name="C", dims=dims, nodes=tuple(self.b.nodes), states=tuple(states), inputs=tuple(inputs))
        return verify_cell(cell)


def gate(m: Maker) -> CellIR:
    h = m.state(N)
    z = m.b.map("sigmoid", m.given(N))
    return m.cell((h, m.b.map("add", m.b.map("mul", z, h), m.b.map("tanh", m.b.map("mul", h, h)))))


def elman(m: Maker) -> CellIR:
    h = m.state(N)
    return m.cell((h, m.b.map("tanh", m.b.matmul(m.given(N, N), h))))


def elman_per_head(m: Maker) -> CellIR:
    h = m.state(N, per=(H,))
    return m.cell((h, m.b.map("tanh", m.b.matmul(m.given(N, N, per=(H,)), h))))


def delta_rule(m: Maker) -> CellIR:
    s, k = m.state(N, M), m.given(N)
    read = m.b.matmul(m.b.transpose(s), k)
    return m.cell((s, m.b.map("sub", s, m.b.outer(k, read))))


def nonlinear_delta_rule(m: Maker) -> CellIR:
    s, k = m.state(N, M), m.given(N)
    read = m.b.map("tanh", m.b.matmul(m.b.transpose(s), k))
    return m.cell((s, m.b.map("tanh", m.b.map("sub", s, m.b.outer(k, read)))))


def delta_rule_by_matrix(m: Maker) -> CellIR:
    """tanh(alpha (I - beta k k^T) S): the transition as a matrix."""
    s, k, beta, alpha = m.state(N, M, per=(H,)), m.given(N, per=(H,)), m.given(per=(H,)), m.given(per=(H,))
    reflect = m.b.map("sub", m.b.add("lift", m.b.add("eye", n=N), per=(H,)), m.b.map("mul", beta, m.b.outer(k, k)))
    return m.cell((s, m.b.map("tanh", m.b.matmul(m.b.map("mul", alpha, reflect), s))))


def two_reflections(m: Maker) -> CellIR:
    s, k, q = m.state(N, M), m.given(N), m.given(N)
    both = m.b.matmul(
        m.b.map("sub", m.b.add("eye", n=N), m.b.outer(k, k)), m.b.map("sub", m.b.add("eye", n=N), m.b.outer(q, q))
    )
    return m.cell((s, m.b.map("tanh", m.b.matmul(both, s))))


def reflection_from_the_right(m: Maker) -> CellIR:
    s, k = m.state(N, M), m.given(M)
    return m.cell((s, m.b.map("tanh", m.b.matmul(s, m.b.map("sub", m.b.add("eye", n=M), m.b.outer(k, k))))))


def diagonal_matrix(m: Maker) -> CellIR:
    h = m.state(N)
    return m.cell((h, m.b.map("tanh", m.b.matmul(m.b.add("layout", m.given(N), kind="diag"), h))))


def matrix_of_ones_times(m: Maker) -> CellIR:
    """A full matrix times a diagonal one, entry by entry, plus a full one: dense."""
    h, full = m.state(N), m.given(N, N)
    some = m.b.map("add", m.b.map("mul", full, m.b.add("eye", n=N)), full)
    return m.cell((h, m.b.map("tanh", m.b.matmul(some, h))))


def two_keys(m: Maker) -> CellIR:
    s, k, q = m.state(N, M), m.given(N), m.given(N)
    once = m.b.map("sub", s, m.b.outer(k, m.b.matmul(m.b.transpose(s), k)))
    return m.cell((s, m.b.map("sub", once, m.b.outer(q, m.b.matmul(m.b.transpose(once), q)))))


def right_acting(m: Maker) -> CellIR:
    s, k = m.state(N, M), m.given(M)
    return m.cell((s, m.b.map("sub", s, m.b.outer(m.b.matmul(s, k), k))))


def bottleneck(m: Maker) -> CellIR:
    h = m.state(N)
    inner = m.b.map("tanh", m.b.matmul(m.given(Dim.of(2), N), h))
    return m.cell((h, m.b.map("add", h, m.b.matmul(m.given(N, Dim.of(2)), inner))))


def blocks(m: Maker) -> CellIR:
    h = m.state(P * N)
    parts = m.b.add("reshape", h, shape=(P, N))
    turned = m.b.einsum("pij,pj->pi", m.given(P, N, N), parts)
    return m.cell((h, m.b.map("tanh", m.b.add("reshape", turned, shape=(P * N,)))))


def mixing_and_blocks(m: Maker) -> CellIR:
    """A matrix on each axis: nothing is left of the pattern."""
    s = m.state(N, N)
    return m.cell((s, m.b.map("add", m.b.matmul(m.given(N, N), s), m.b.matmul(s, m.given(N, N)))))


def transposed(m: Maker) -> CellIR:
    s = m.state(N, N)
    return m.cell((s, m.b.transpose(s)))


def outer_then_sum(m: Maker) -> CellIR:
    """sum_i W[i, j] h[i], written with broadcasting: dense, although no contraction is in sight."""
    h = m.state(N)
    wide = m.b.map("mul", m.b.add("expand", h, axes=(-1,)), m.given(N, N))
    return m.cell((h, m.b.add("sum", wide, axes=(-2,))))


def normalised(m: Maker) -> CellIR:
    s = m.state(N, M)
    return m.cell((s, m.b.add("l2norm", s, eps=Fraction(1, 100))))


def coupled(m: Maker) -> CellIR:
    h, c = m.state(N), m.state(N)
    return m.cell((h, m.b.map("tanh", c)), (c, m.b.map("mul", c, h)))


def ignores_itself(m: Maker) -> CellIR:
    h = m.state(N)
    return m.cell((h, m.given(N)))


CASES: list[tuple[Callable[[Maker], CellIR], Jacobian]] = [
    (gate, Jacobian(kind="diagonal")),
    (elman, Jacobian(kind="dense", block=N)),
    (elman_per_head, Jacobian(kind="block_diagonal", block=N)),
    (delta_rule, Jacobian(kind="low_rank", rank=1, block=N)),
    (nonlinear_delta_rule, Jacobian(kind="low_rank", rank=1, block=N)),
    (delta_rule_by_matrix, Jacobian(kind="low_rank", rank=1, block=N)),
    (two_reflections, Jacobian(kind="low_rank", rank=2, block=N)),
    (reflection_from_the_right, Jacobian(kind="low_rank", rank=1, block=M)),
    (diagonal_matrix, Jacobian(kind="diagonal")),
    (matrix_of_ones_times, Jacobian(kind="dense", block=N)),
    (right_acting, Jacobian(kind="low_rank", rank=1, block=M)),
    (bottleneck, Jacobian(kind="low_rank", rank=2, block=N)),
    (blocks, Jacobian(kind="block_diagonal", block=N)),
    (mixing_and_blocks, Jacobian(kind="dense", block=N * N)),
    (transposed, Jacobian(kind="dense", block=N * N)),
    (outer_then_sum, Jacobian(kind="dense", block=N)),
    (normalised, Jacobian(kind="low_rank", rank=1, block=M)),
    (coupled, Jacobian(kind="diagonal")),
    (ignores_itself, Jacobian(kind="zero")),
]


@pytest.mark.parametrize(("make", "expect"), CASES, ids=[make.__name__ for make, _ in CASES])
def test_pattern(make: Callable[[Maker], CellIR], expect: Jacobian) -> None:
    cell = make(Maker())
    assert jacobian(cell, [s.name for s in cell.states]) == expect


def test_two_keys_one_after_the_other_have_rank_two() -> None:
    cell = two_keys(Maker())
    found = jacobian(cell, [cell.states[0].name])
    assert (found.kind, found.block) == ("low_rank", N)
    assert found.rank == 2

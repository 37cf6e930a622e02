"""Cells built by hand, and the check that a normal form computes exactly what the cell's update computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rnnc.analysis.forms import BlockLinear, Coupled, Dense, Elementwise, Form, MatrixState, MicroStep, Recurrence
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.ir.builder import Builder
from rnnc.ir.dims import Dim
from rnnc.ir.domains.concrete import Concrete
from rnnc.ir.evaluate import evaluate
from rnnc.ir.graph import CellIR, Init, Input, NodeId, Output, Param, State
from rnnc.ir.types import DType, Type

SIZES = {"n": 6, "K": 3, "V": 4, "H": 2, "d": 5, "p": 2}


class Maker:
    """Builds a cell: `m.state("S", "K", "V")`, nodes with `m.b`, `m.update("S", node)`, then `m.cell()`."""

    def __init__(self) -> None:
        self.b = Builder()
        self.inputs: list[Input] = []
        self.params: list[Param] = []
        self.outputs: list[Output] = []
        self.states: dict[str, tuple[NodeId, NodeId]] = {}
        self.updates: dict[str, NodeId] = {}

    def type(self, shape: tuple[str | int, ...], per: tuple[str | int, ...], dtype: DType) -> Type:
        return Type(dtype=dtype, shape=tuple(map(Dim.of, shape)), per=tuple(map(Dim.of, per)))

    def input(self, name: str, *shape: str | int, per: tuple[str, ...] = (), dtype: DType = "real") -> NodeId:
        node = self.b.leaf("input", name, self.type(shape, per, dtype))
        self.inputs.append(Input(name=name, node=node))
        return node

    def param(self, name: str, *shape: str | int, per: tuple[str, ...] = (), dtype: DType = "real") -> NodeId:
        node = self.b.leaf("param", name, self.type(shape, per, dtype))
        self.params.append(Param(name=name, node=node, init=Init()))
        return node

    def state(self, name: str, *shape: str | int, per: tuple[str, ...] = (), dtype: DType = "real") -> NodeId:
        t = self.type(shape, per, dtype)
        node = self.b.leaf("state", name, t)
        self.states[name] = (node, self.b.broadcast_to(self.b.const(0), t.shape, t.per))
        return node

    def update(self, name: str, node: NodeId) -> None:
        self.updates[name] = node

    def output(self, name: str, node: NodeId) -> None:
        self.outputs.append(Output(name=name, node=node))

    def cell(self) -> CellIR:
        states = tuple(
            State(name=n, node=node, init=init, update=self.updates[n]) for n, (node, init) in self.states.items()
        )
        return CellIR(
            name="Hand",
            nodes=tuple(self.b.nodes),
            inputs=tuple(self.inputs),
            params=tuple(self.params),
            states=states,
            outputs=tuple(self.outputs),
        )


def random_values(cell: CellIR, rng: np.random.Generator, sizes: dict[str, int]) -> dict[NodeId, Any]:
    given = {}
    for n in cell.nodes:
        if n.op in ("input", "param", "state"):
            shape = tuple(d.evaluate(sizes) for d in (*n.type.per, *n.type.shape))
            value = rng.normal(size=shape)
            given[n.id] = value + 1j * rng.normal(size=shape) if n.type.dtype == "complex" else value
    return given


def apply_micro(step: MicroStep, s: Any, value: Callable[[NodeId], Any]) -> Any:
    """One micro-step on s [*per, K, V], by its definition."""
    new = np.zeros_like(s)
    if step.decay is None:
        new = new + s
    else:
        decay = np.asarray(value(step.decay))
        new = new + (decay * s if decay.ndim == 0 else decay.reshape(*decay.shape, *(1,) * (s.ndim - decay.ndim)) * s)
    for a, b in step.low_rank:
        new = new + value(a)[..., :, None] * np.einsum("...k,...kv->...v", value(b), s)[..., None, :]
    for u, v in step.writes:
        new = new + value(u)[..., :, None] * (1.0 if v is None else value(v)[..., None, :])
    return new


def apply_form(form: Form, cell: CellIR, value: Callable[[NodeId], Any], sizes: dict[str, int]) -> dict[str, Any]:
    """New values of the form's states, by the definitions in rnnc/analysis/forms.py."""
    old = {s.name: value(s.node) for s in cell.states}
    match form:
        case Elementwise():
            h = old[form.state]
            return {
                form.state: (1.0 if form.a is None else value(form.a)) * h + (0.0 if form.b is None else value(form.b))
            }
        case Coupled():
            return {
                name: sum(
                    (value(a) * old[other] for a, other in zip(row, form.states, strict=True) if a is not None),
                    0.0 if b is None else value(b),
                )
                for name, row, b in zip(form.states, form.a, form.b, strict=True)
            }
        case MatrixState():
            s = old[form.state]
            rank = cell.nodes[cell.state(form.state).node].type.rank
            s = s[..., None] if rank == 1 else np.swapaxes(s, -1, -2) if form.side == "right" else s
            for step in form.steps:
                s = apply_micro(step, s, value)
            return {form.state: s[..., 0] if rank == 1 else np.swapaxes(s, -1, -2) if form.side == "right" else s}
        case BlockLinear():
            h, blocks = old[form.state], value(form.blocks)
            p, n = blocks.shape[-3:-1]
            per = len(cell.nodes[cell.state(form.state).node].type.per)
            split = h.reshape(*h.shape[:per], p, n, -1)
            new = np.einsum("...pij,...pjm->...pim", blocks, split).reshape(h.shape)
            return {form.state: new + (0.0 if form.b is None else value(form.b))}
        case Dense():
            h, a = old[form.state], value(form.a)
            rank = cell.nodes[cell.state(form.state).node].type.rank
            if rank == 1:
                new = np.einsum("...ij,...j->...i", a, h)
            else:
                new = a @ h if form.side == "left" else h @ a
            return {form.state: new + (0.0 if form.b is None else value(form.b))}


def check_reads(form: MatrixState, cell: CellIR, value: Callable[[NodeId], Any]) -> None:
    reads = [(read, form.side) for read in form.reads or ()]
    reads += [(read, "left" if form.side == "right" else "right") for read in form.across]
    for read, side in reads:
        s = value(cell.state(form.state).node if read.when == "old" else cell.state(form.state).update)
        spec = "...kv,...k->...v" if side == "left" else "...vk,...k->...v"
        got = np.einsum(spec, s, value(read.key)) + (0.0 if read.extra is None else value(read.extra))
        np.testing.assert_allclose(got, value(read.node), rtol=1e-9, atol=1e-9)


def check_reproduces(cell: CellIR, sizes: dict[str, int] | None = None, seed: int = 0) -> Recurrence:
    """Analyse, and check every linear form and read on random numbers; returns the analysis."""
    found = analyse_recurrence(cell)
    sizes = SIZES if sizes is None else sizes
    assert found.cell.nodes[: len(cell.nodes)] == cell.nodes
    given = random_values(cell, np.random.default_rng(seed), sizes)
    values = evaluate(found.cell, Concrete(found.cell, sizes, given))
    for group in found.groups:
        for form in group.forms:
            if group.semiring != "plus_times":
                continue
            for name, new in apply_form(form, found.cell, values.__getitem__, sizes).items():
                want = values[found.cell.state(name).update]
                np.testing.assert_allclose(np.broadcast_to(new, want.shape), want, rtol=1e-9, atol=1e-9)
            if isinstance(form, MatrixState):
                check_reads(form, found.cell, values.__getitem__)
                for step in form.steps:
                    if step.log_decay is not None and step.decay is not None:
                        np.testing.assert_allclose(np.exp(values[step.log_decay]), values[step.decay], rtol=1e-9)
    return found


@pytest.fixture(scope="session")  # stateless: it gives the class or the function
def make() -> type[Maker]:
    return Maker


@pytest.fixture(scope="session")  # stateless: it gives the class or the function
def reproduces() -> Callable[..., Recurrence]:
    return check_reproduces

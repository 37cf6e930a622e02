"""The oracle: state in and out, gradients through time against finite differences, calls of subcells, speed."""

from __future__ import annotations

import time
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from op_examples import EXAMPLES

from rnnc.ir.builder import Builder
from rnnc.ir.dims import Dim
from rnnc.ir.graph import CellIR, DimParam, Init, Input, Output, Param, State
from rnnc.ir.oracle import gradients, init_params, run
from rnnc.ir.types import Type

D, N, H = Dim.of("d"), Dim.of("n"), Dim.of("heads")
DIMS = {"d": 3, "n": 4, "heads": 2}


def gated_cell() -> CellIR:
    """A gated cell per head with a conv, a delay, a learned initial state, and a complex diagonal state beside it."""
    b = Builder()
    x = b.leaf("input", "x", Type(shape=(D,)))
    shapes = {"W": (N, D), "U": (N, N), "b": (N,), "h0": (N,), "theta": (N,)}
    p = {k: b.leaf("param", k, Type(shape=s, per=(H,))) for k, s in shapes.items()}
    p["c"] = b.leaf("param", "c", Type(shape=(D, Dim.of(4))))
    h = b.leaf("state", "h", Type(shape=(N,), per=(H,)))
    z = b.leaf("state", "z", Type(dtype="complex", shape=(N,), per=(H,)))
    seen = b.add("conv", x, p["c"], width=4, key="c_buffer")
    seen = b.map("add", seen, b.add("delay", seen, n=2, key="past"))
    pre = b.map("add", b.einsum("oi,i->o", p["W"], seen), b.map("add", b.einsum("oi,i->o", p["U"], h), p["b"]))
    gate = b.map("sigmoid", pre)
    rest = b.map("mul", b.map("sub", b.const(1), gate), b.map("tanh", pre))
    new = b.map("add", b.map("mul", gate, h), rest)
    turned = b.map("add", b.map("mul", b.map("polar", b.const(Fraction(9, 10)), p["theta"]), z), new)
    y = b.add("l2norm", b.add("merge", b.map("mul", new, b.map("re", turned)), n=1), eps=Fraction(1, 1000))
    start = b.map("tanh", p["h0"])
    zero = b.const(Fraction(0), Type(dtype="complex", shape=(N,), per=(H,)))
    return CellIR(
        name="Gated",
        dims=tuple(DimParam(name=k) for k in DIMS),
        nodes=tuple(b.nodes),
        inputs=(Input(name="x", node=x),),
        params=tuple(Param(name=k, node=v, init=Init(kind="normal", args=(Fraction(1, 2),))) for k, v in p.items()),
        states=(State(name="h", node=h, init=start, update=new), State(name="z", node=z, init=zero, update=turned)),
        outputs=(Output(name="y", node=y), Output(name="h_new", node=new)),
    )


class Case:
    """A cell with numbers, and a real loss over its outputs and final state."""

    def __init__(self, cell: CellIR, dims: dict[str, int], steps: int, seed: int = 0) -> None:
        self.cell, self.dims = cell, dims
        self.rng = np.random.default_rng(seed)
        self.params = init_params(cell, dims, self.rng)
        sizes = {i.name: [d.evaluate(dims) for d in cell.nodes[i.node].type.shape] for i in cell.inputs}
        self.inputs = {k: self.rng.normal(size=(2, steps, *s)) for k, s in sizes.items()}
        self.outputs, self.final = run(cell, dims, self.params, self.inputs)
        self.d_outputs = {k: self.like(v) for k, v in self.outputs.items()}
        self.d_final = {k: self.like(v) for k, v in self.final.items()}

    def like(self, x: Any) -> Any:
        z = self.rng.normal(size=x.shape)
        return z + 1j * self.rng.normal(size=x.shape) if np.iscomplexobj(x) else z

    def loss(self, params: Any, inputs: Any, state: Any = None) -> float:
        y, f = run(self.cell, self.dims, params, inputs, state)
        pairs = [(self.d_outputs[k], y[k]) for k in y] + [(self.d_final[k], f[k]) for k in f]
        return float(sum(np.real(np.sum(np.conj(g) * v)) for g, v in pairs))

    def check(self, which: str, grads: dict[str, Any], state: Any = None) -> None:
        """Central differences along a random direction of each tensor."""
        at = {"params": self.params, "inputs": self.inputs, "state": state}
        assert grads.keys() == at[which].keys()
        for name, grad in grads.items():
            v, h = self.like(at[which][name]), 1e-6
            up = at | {which: at[which] | {name: at[which][name] + h * v}}
            down = at | {which: at[which] | {name: at[which][name] - h * v}}
            slope = (self.loss(**up) - self.loss(**down)) / (2 * h)
            np.testing.assert_allclose(np.real(np.sum(np.conj(grad) * v)), slope, rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_gradients_match_finite_differences(steps: int) -> None:
    c = Case(gated_cell(), DIMS, steps)
    found = gradients(c.cell, c.dims, c.params, c.inputs, c.d_outputs, c.d_final)
    c.check("params", found.params)
    c.check("inputs", found.inputs)
    state = {k: c.like(v) for k, v in c.final.items()}
    found = gradients(c.cell, c.dims, c.params, c.inputs, c.d_outputs, c.d_final, state)
    c.check("params", found.params, state)
    c.check("inputs", found.inputs, state)
    c.check("state", found.state, state)
    np.testing.assert_array_equal(found.params["h0"], 0)  # the state was given: its declared start plays no part


def test_pieces_equal_the_whole() -> None:
    c = Case(gated_cell(), DIMS, 9)
    assert {k: v.shape for k, v in c.final.items()} == {
        "h": (2, 2, 4),
        "z": (2, 2, 4),
        "c_buffer": (2, 3, 3),
        "past": (2, 2, 3),
    }
    state, rows = None, []
    for t in range(9):
        y, state = run(c.cell, c.dims, c.params, {"x": c.inputs["x"][:, t : t + 1]}, state)
        rows.append(y["y"])
    np.testing.assert_array_equal(np.concatenate(rows, axis=1), c.outputs["y"])
    for key, value in c.final.items():
        np.testing.assert_array_equal(state[key], value)


@pytest.mark.parametrize("op", ["call", "repeat"])
def test_calls_run_and_differentiate(op: str) -> None:
    e = next(e for e in EXAMPLES if e.op == op)
    c = Case(e.cell, e.dims, 4)
    prefixes = ["k"] if op == "call" else ["k.0", "k.1", "k.2"]
    assert sorted(c.params) == [f"{p}.W" for p in prefixes]
    assert sorted(c.final) == [f"{p}.h" for p in prefixes]
    found = gradients(c.cell, c.dims, c.params, c.inputs, c.d_outputs, c.d_final)
    c.check("params", found.params)
    c.check("inputs", found.inputs)
    by_hand, states = c.inputs["x0"][:, 0], []
    for p in prefixes:
        by_hand = np.einsum("ij,bj->bi", c.params[f"{p}.W"], by_hand)
        states.append(by_hand / 2)
    np.testing.assert_allclose(c.outputs["y"][:, 0], by_hand, rtol=1e-12)


def test_two_outputs_of_one_call_share_the_instance() -> None:
    e = next(e for e in EXAMPLES if e.op == "call")
    b = Builder.of(e.cell)
    again = b.add(
        "call",
        e.cell.inputs[0].node,
        cell=0,
        dims=(("n", Dim.of("m")),),
        output=0,
        key="k",
        type=Type(shape=(Dim.of("m"),)),
    )
    both = replace(e.cell, nodes=tuple(b.nodes), outputs=(*e.cell.outputs, Output(name="z", node=again)))
    c = Case(both, e.dims, 3)
    assert list(c.params) == ["k.W"]
    np.testing.assert_array_equal(c.outputs["y"], c.outputs["z"])


def test_a_static_output_and_a_cell_without_inputs() -> None:
    b = Builder()
    w = b.leaf("param", "w", Type(shape=(N,)))
    n = b.leaf("state", "n", Type())
    zero = b.const(0)
    up = b.map("add", n, b.const(1))
    cell = CellIR(
        name="Clock",
        dims=(DimParam(name="n", default=Dim.of(4)),),
        nodes=tuple(b.nodes),
        params=(Param(name="w", node=w),),
        states=(State(name="n", node=n, init=zero, update=up),),
        outputs=(Output(name="count", node=up), Output(name="w", node=w)),
    )
    params = {"w": np.arange(4.0)}
    y, state = run(cell, {}, params, {}, batch=2, steps=3)
    np.testing.assert_array_equal(y["count"], [[1, 2, 3], [1, 2, 3]])
    np.testing.assert_array_equal(y["w"], np.broadcast_to(np.arange(4.0), (2, 3, 4)))
    np.testing.assert_array_equal(state["n"], [3, 3])
    found = gradients(cell, {}, params, {}, {"w": np.ones((2, 3, 4))}, batch=2, steps=3)
    np.testing.assert_array_equal(found.params["w"], np.full(4, 6.0))


def test_wrong_shapes_are_said() -> None:
    c = Case(gated_cell(), DIMS, 2)
    with pytest.raises(ValueError, match="input `x` has shape"):
        run(c.cell, c.dims, c.params, {"x": np.zeros((2, 5, 4))})
    with pytest.raises(ValueError, match="parameter `U` has shape"):
        run(c.cell, c.dims, c.params | {"U": np.zeros(3)}, c.inputs)


def two_attentions() -> CellIR:
    """A second attention over what the first finds, beside a state that the first one's values feed."""
    b = Builder()
    x = b.leaf("input", "x", Type(shape=(D,)))
    w = b.leaf("param", "w", Type(shape=(D, D)))
    s = b.leaf("state", "s", Type(shape=(D,)))
    inner = b.map("add", b.matmul(w, x), s)
    first = b.add("attention", inner, b.map("tanh", inner), x, key="one")
    second = b.add("attention", first, first, b.map("mul", first, x), key="two")
    zero = b.const(Fraction(0), Type(shape=(D,)))
    return CellIR(
        name="TwoAttentions",
        dims=(DimParam(name="d"),),
        nodes=tuple(b.nodes),
        inputs=(Input(name="x", node=x),),
        params=(Param(name="w", node=w),),
        states=(State(name="s", node=s, init=zero, update=first),),
        outputs=(Output(name="y", node=second),),
    )


def test_gradients_through_attention() -> None:
    c = Case(two_attentions(), {"d": 3}, 5)
    found = gradients(c.cell, c.dims, c.params, c.inputs, c.d_outputs, c.d_final)
    c.check("params", found.params)
    c.check("inputs", found.inputs)
    past = {k: c.like(v if k == "s" else v[:, :2]) for k, v in c.final.items()}
    _, final = run(c.cell, c.dims, c.params, c.inputs, past)
    c.d_final = {k: c.like(v) for k, v in final.items()}
    found = gradients(c.cell, c.dims, c.params, c.inputs, c.d_outputs, c.d_final, past)
    assert found.state["one_k"].shape == (2, 2, 3)
    c.check("params", found.params, past)
    c.check("inputs", found.inputs, past)
    c.check("state", found.state, past)


def test_five_hundred_steps_are_quick() -> None:
    """The oracle is compared with at T = 500: forward and gradients must take seconds at most."""
    c = Case(gated_cell(), DIMS, 500)
    start = time.perf_counter()
    gradients(c.cell, c.dims, c.params, c.inputs, c.d_outputs, c.d_final)
    assert time.perf_counter() - start < 5

"""Newton's method over time: every proven pattern against the float64 oracle, and what it does where it fails."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from newton_cells import CELLS, DIAGONAL_GRU, SMALL_GRU
from torch_support import Case, random_inputs, small_dims

import rnnc
import rnnc.runtime.newton as newton
from rnnc.diagnostics import SpecError
from rnnc.ir.linearise import linearise, structure_of
from rnnc.ir.oracle import init_params
from rnnc.ir.verify import verify_cell
from rnnc.runtime import NewtonWarning


def compiled(text: str, backend: str = "torch"):
    spec = rnnc.parse(text)
    return rnnc.compile(spec, backend=backend, strategy="newton"), spec.lower()


def case(cell, steps: int, batch: int = 3, seed: int = 0, **weights: float) -> Case:
    rng = np.random.default_rng(seed)
    dims = small_dims(cell) | {"d": 5}
    dims = cell.dim_values({k: v for k, v in dims.items() if k == "d" or cell.name != "DiagonalGRU"})
    params = init_params(cell, dims, rng)
    params |= {k: rng.normal(scale=std, size=params[k].shape) for k, std in weights.items()}
    state = {}
    for s in cell.states:
        t = cell.nodes[s.node].type
        state[s.name] = 0.5 * rng.normal(size=(batch, *(d.evaluate(dims) for d in (*t.per, *t.shape))))
    return Case(cell, dims, params, random_inputs(cell, dims, rng, batch, steps), state)


@pytest.mark.parametrize("what", CELLS)
@pytest.mark.parametrize("steps", [1, 37])
def test_values_and_all_gradients_are_the_oracles(what, steps):
    cls, cell = compiled(CELLS[what])
    assert "newton_scan" in cls.source
    case(cell, steps).check(cls)


@pytest.mark.parametrize("what", ["diagonal", "coupled", "dense"])
def test_float32(what):
    cls, cell = compiled(CELLS[what])
    case(cell, 70).check(cls, dtype=torch.float32, tolerance=2e-5)


def test_bfloat16_is_computed_in_float32():
    cls, cell = compiled(DIAGONAL_GRU)
    whole = case(cell, 33)
    low, full = (whole.module(cls, t) for t in (torch.bfloat16, torch.float64))
    x = torch.tensor(whole.inputs["x"])
    y, state = low(x.bfloat16())
    assert y.dtype == state["h"].dtype == torch.bfloat16
    y.sum().backward()
    assert all(p.grad is not None for p in low.parameters())
    torch.testing.assert_close(y.double(), full(x)[0], rtol=0.05, atol=0.03)


@pytest.mark.parametrize(
    ("what", "pattern", "entries", "blocks"),
    [
        ("diagonal", "diagonal", "1", 0),
        ("coupled", "coupled", "2", 0),
        ("matrix", "diagonal", "1", 0),
        ("dense", "dense", "n", 0),
        ("heads", "dense", "dh", 1),
        ("unequal", "dense", "n + 1", 0),
    ],
)
def test_the_pattern_is_proved_from_the_graph(what, pattern, entries, blocks):
    cell = rnnc.parse(CELLS[what]).lower()
    states = tuple(s.name for s in cell.states if s.name != "m")
    found = structure_of(cell, states)
    assert (found.pattern, found.blocks) == (pattern, blocks)
    assert str(found.entries).replace(" ", "") == entries.replace(" ", "")
    step = linearise(cell, states)
    verify_cell(step.cell)
    assert not step.cell.states


def test_no_steps_and_a_call_in_parts():
    cls, _ = compiled(DIAGONAL_GRU)
    torch.manual_seed(0)
    layer = cls(d=4).double()
    x = torch.randn(2, 50, 4, dtype=torch.float64)
    y, end = layer(x)
    first, state = layer(x[:, :21])
    none, state = layer(x[:, :0], state)
    second, state = layer(x[:, 21:], state)
    assert none.shape == (2, 0, 4)
    torch.testing.assert_close(torch.cat([first, second], 1), y, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(state["h"], end["h"], rtol=1e-11, atol=1e-11)
    assert layer.newton.calls == 3
    assert layer.newton.steps == 100
    assert layer.newton.sequential == 0
    assert 0 < layer.newton.residual < 2e-12


# ---------------------------------------------------------------- where it fails


def fixed_iterations(layer, x, count):
    """What the published scheme with a fixed number of iterations and no check gives: its largest state."""
    found, window = [], newton._Problem.window

    def unchecked(self, start, first, last):
        h = start.unsqueeze(1).expand(start.shape[0], last - first, *start.shape[1:])
        for _ in range(count):
            value, a = self.evaluate(start, h, first, last)
            h = h + self.correction(a, value - h)
        found.append(float(h.abs().max()))
        return h, a, torch.full(start.shape[:1], last - first)

    newton._Problem.window = unchecked
    try:
        with torch.no_grad():
            layer(x)
    finally:
        newton._Problem.window = window
    return max(found)


@pytest.mark.parametrize(("text", "recurrent"), [(DIAGONAL_GRU, "u_"), (SMALL_GRU, "linear_2_weight")])
def test_large_recurrent_weights_give_the_sequential_answer(text, recurrent):
    """Where three unchecked iterations leave any bound (6e90 is published), the answer is that of the loop."""
    spec = rnnc.parse(text)
    torch.manual_seed(0)
    by_newton = rnnc.compile(spec, backend="torch", strategy="newton")(d=4, n=6).double()
    by_steps = rnnc.compile(spec, backend="torch", strategy="sequential")(d=4, n=6).double()
    with torch.no_grad():
        for name, p in by_newton.named_parameters():
            if recurrent in name:
                p.normal_(std=3.0)
    by_steps.load_state_dict(by_newton.state_dict())
    x = torch.randn(2, 400, 4, dtype=torch.float64)
    assert fixed_iterations(copy.deepcopy(by_newton), x, 3) > 1e6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NewtonWarning)
        y = by_newton(x)[0]
    want = by_steps(x)[0]
    torch.testing.assert_close(y, want, rtol=1e-6, atol=1e-6)
    report = by_newton.newton
    assert report.shrunk > 0
    assert report.steps == 400
    w = torch.randn_like(y)
    got = torch.autograd.grad((y[:, :40] * w[:, :40]).sum(), list(by_newton.parameters()))
    true = torch.autograd.grad((want[:, :40] * w[:, :40]).sum(), list(by_steps.parameters()))
    for a, b in zip(got, true, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


# a chaotic map: nothing converges but step by step
LOGISTIC = """
cell Logistic(n: dim) {
  input x: real[n]
  state h: real[n] = 0.3
  h <- 3.99 * h * (1 - h) + 0 * x
  output y: real[n] = h'
}
"""


def test_steps_taken_one_by_one_are_reported():
    torch.manual_seed(0)
    cls, _ = compiled(LOGISTIC)
    layer = cls(n=2).double()
    x = torch.zeros(1, 300, 2, dtype=torch.float64)
    want, h = [], torch.full((1, 2), 0.3, dtype=torch.float64)
    for _ in range(300):
        h = 3.99 * h * (1 - h)
        want.append(h)
    with pytest.warns(NewtonWarning, match="steps are taken one after another"):
        y = layer(x)[0]
    assert layer.newton.sequential > 0
    assert layer.newton.reasons
    torch.testing.assert_close(y[:, :40], torch.stack(want, 1)[:, :40], rtol=1e-4, atol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x)  # said once
    before = layer.newton.sequential
    layer.newton.reset()
    assert layer.newton.sequential == 0 < before


def test_one_hard_sequence_leaves_the_windows_of_the_others():
    """Damping and windows belong to a sequence: one that is solved is not solved again because another was not."""
    text = LOGISTIC.replace("3.99 * h", "(2.5 + x) * h").replace("+ 0 * x", "").replace("0.3", "0.6")
    cls, _ = compiled(text)
    layer = cls(n=1).double()
    x = torch.zeros(3, 300, 1, dtype=torch.float64)
    x[1] = 1.49
    seen, window = [], newton._Problem.window

    def watched(self, start, first, last):
        seen.append((start.shape[0], last - first))
        return window(self, start, first, last)

    newton._Problem.window = watched
    try:
        with pytest.warns(NewtonWarning):
            y = layer(x)[0]
    finally:
        newton._Problem.window = window
    assert seen[0] == (3, 300)
    assert len(seen) > 1
    assert {rows for rows, _ in seen[1:]} == {1}
    assert layer.newton.sequential < 300
    before = torch.cat([torch.full_like(y[:, :1], 0.6), y[:, :-1]], 1)
    torch.testing.assert_close(y, (2.5 + x) * before * (1 - before), rtol=1e-9, atol=1e-9)
    weights = torch.randn_like(y[:, :20])
    (found,) = torch.autograd.grad((layer(x.requires_grad_())[0][:, :20] * weights).sum(), x)
    h, want = torch.full((3, 1), 0.6, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for t in range(20):
        h = (2.5 + x[:, t]) * h * (1 - h)
        want = want + (h * weights[:, t]).sum()
    torch.testing.assert_close(found, torch.autograd.grad(want, x)[0], rtol=1e-6, atol=1e-8)


def test_infinite_inputs_end_as_step_by_step():
    cls, _ = compiled(DIAGONAL_GRU)
    layer = cls(d=3)
    steps = rnnc.compile(rnnc.parse(DIAGONAL_GRU), backend="torch", strategy="sequential")(d=3)
    steps.load_state_dict(layer.state_dict())
    x = torch.randn(1, 60, 3)
    x[0, 30, 1] = float("nan")
    with pytest.warns(NewtonWarning):
        y = layer(x)[0]
    want = steps(x)[0]
    assert torch.equal(y.isnan(), want.isnan())
    torch.testing.assert_close(y, want, equal_nan=True, rtol=1e-4, atol=1e-4)


def test_blocks_that_turn_out_large_run_step_by_step():
    cls, _ = compiled(SMALL_GRU)
    layer = cls(d=4, n=40)
    with pytest.warns(NewtonWarning, match="too large"):
        y, _ = layer(torch.randn(2, 5, 4))
    assert y.shape == (2, 5, 40)
    assert layer.newton.sequential == 5


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("state h: real[n] = 0; h <- 0.5 * h + x", "is linear"),
        ("state h: complex[n] = 0; h <- h * h + x", "complex"),
    ],
)
def test_where_it_is_illegal(body, says):
    spec = rnnc.parse(f"cell C(n: dim) {{ input x: real[n]; {body}; output y: real[n] = re(h') }}")
    if "complex" not in body:
        spec = rnnc.parse(f"cell C(n: dim) {{ input x: real[n]; {body}; output y: real[n] = h' }}")
    with pytest.raises(SpecError) as caught:
        rnnc.compile(spec, strategy="newton")
    assert caught.value.diagnostics[0].code == "E0602"
    assert says in str(caught.value)


def test_large_dense_blocks_are_illegal_where_the_size_is_known():
    with pytest.raises(SpecError, match="dense blocks of 64 by 64"):
        rnnc.compile(rnnc.parse(SMALL_GRU), strategy="newton", n=64, d=4)


def test_it_is_no_program_to_export_and_no_second_derivative():
    cls, _ = compiled(DIAGONAL_GRU)
    layer = cls(d=2).double()
    x = torch.randn(1, 9, 2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(layer(x)[0].sum(), x, create_graph=True)
    with pytest.raises(Exception, match="no fixed program to export"):
        torch.export.export(layer, (x.detach(),))


def test_layers_pickle_and_copy():
    cls, _ = compiled(DIAGONAL_GRU)
    layer = cls(d=2)
    x = torch.randn(1, 12, 2)
    y = layer(x)[0]
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        torch.testing.assert_close(other(x)[0], y)
        assert other.newton.calls == 2
    assert layer.newton.calls == 1


@pytest.mark.parametrize("what", ["diagonal", "coupled", "dense"])
def test_a_batch_of_no_sequences(what):
    cls, _ = compiled(CELLS[what])
    layer = cls(d=3).double()
    x = torch.zeros(0, 5, 3, dtype=torch.float64, requires_grad=True)
    y, state = layer(x)
    assert y.shape[:2] == (0, 5)
    assert all(s.shape[0] == 0 for s in state.values())
    found = torch.autograd.grad(y.sum(), [x, *layer.parameters()], allow_unused=True)
    assert all(g is None or not g.any() for g in found)
    assert layer.newton.sequential == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised inside torch.compile
def test_torch_compile_goes_around_it_and_says_why_not_through() -> None:
    cls, _ = compiled(DIAGONAL_GRU)
    layer, x = cls(d=3, n=4), torch.randn(2, 20, 3)
    torch._dynamo.reset()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(layer, backend="eager")(x)[0], layer(x)[0])
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r'no fixed program: .* strategy="sequential"'):
        torch.compile(layer, backend="eager", fullgraph=True)(x)

"""Newton's method in C: segments of time in vector lanes, against the float64 oracle and the kernel that steps."""

from __future__ import annotations

import copy
import pickle
import warnings
from functools import cache

import pytest
import torch
from newton_cells import CELLS, DIAGONAL_GRU, SMALL_GRU
from test_cpu_sanitised import run
from test_newton import LOGISTIC, case

import rnnc
from rnnc.runtime import NewtonWarning, native_newton

# one number a step, in no vector
SCALAR = """
cell Scalar(d: dim) {
  input x: real[d]
  state h: real = 0.5
  param u: real init normal(0.5)
  h <- tanh(u * h + sum(linear[4](x)))
  output y: real = h' + u * h
}
"""

# a weight that all channels share, and one that all heads share
SHARED = """
cell Shared(d: dim, heads: dim = 3, dh: dim = 4) {
  input x: real[d]
  param w: real init normal(0.5)
  per heads {
    state h: real[dh] = 0
    param u: real[dh] init normal(0.5)
    gate z: real[dh] in (0, 1) = sigmoid(linear(x) + u * h)
    h <- z * tanh(w * h + linear(x)) + (1 - z) * h
  }
  output y: real[heads * dh] = flatten(h')
}
"""

# a matrix state entry by entry, made and read by vectors
ROWS = """
cell Rows(d: dim, k: dim = 3, v: dim = 2) {
  input x: real[d]
  state S: real[k, v] = 0
  param u: real[k, v] init normal(0.5)
  let key: real[k] = linear(x)
  let value: real[v] = linear(x)
  S <- tanh(u * S + outer(key, value))
  output y: real[v] = S'.T @ key
}
"""

SERVED = {"diagonal": CELLS["diagonal"], "coupled": CELLS["coupled"], "scalar": SCALAR, "shared": SHARED, "rows": ROWS}


@cache
def compiled(text: str, strategy: str = "newton"):
    return rnnc.compile(rnnc.parse(text), backend="cpu", strategy=strategy)


def pair(text: str, dtype: torch.dtype, weights: float | None = None, **dims: int):
    """The layer by Newton's method and the one that steps, with the same parameters."""
    torch.manual_seed(0)
    layer, steps = compiled(text)(**dims).to(dtype), compiled(text, "sequential")(**dims).to(dtype)
    if weights is not None:
        with torch.no_grad():
            for name, p in layer.named_parameters():
                if name.startswith("u"):
                    p.normal_(std=weights)
    steps.load_state_dict(layer.state_dict())
    return layer, steps


@pytest.mark.parametrize("what", SERVED)
@pytest.mark.parametrize("steps", [1, 2, 37, 203])
def test_values_and_all_gradients_are_the_oracles(what, steps):
    cls = compiled(SERVED[what])
    assert "NativeNewton(" in cls.source
    assert "newton_scan" not in cls.source
    cell = rnnc.parse(SERVED[what]).lower()
    case(cell, steps).check(cls, step=steps == 2)
    case(cell, steps).check(cls, dtype=torch.float32, tolerance=3e-5, step=False)


def test_an_output_whose_gradient_reaches_no_state():
    cls = compiled(CELLS["fires"])
    assert "NativeNewton(" in cls.source
    case(rnnc.parse(CELLS["fires"]).lower(), 37).check(cls)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("batch", "steps", "n"), [(1, 1500, 1), (1, 700, 3), (3, 333, 17), (1, 129, 40), (2, 900, 16)])
def test_sizes_blocks_and_threads(batch, steps, n, threads, monkeypatch):
    """Blocks of channels that leave lanes unused, windows that end inside a segment, one thread or all for a block."""
    layer, by_steps = pair(DIAGONAL_GRU, torch.float64, d=3, n=n)
    x = torch.randn(batch, steps, 3, dtype=torch.float64, requires_grad=True)
    h = torch.randn(batch, n, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(batch, steps, n, dtype=torch.float64), torch.randn(batch, n, dtype=torch.float64)
    for name in ("SMALL", "TEAM"):  # above which work is shared out
        monkeypatch.setattr(native_newton, name, 0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = []
        for m in (layer, by_steps):
            y, end = m(x, {"h": h})
            loss = (y * weights[0]).sum() + (end["h"] * weights[1]).sum()
            found.append([y, end["h"], *torch.autograd.grad(loss, [x, h, *m.parameters()])])
    finally:
        torch.set_num_threads(before)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert layer.newton.sequential == 0
    assert layer.newton.steps == steps


def test_no_steps_no_sequences_and_a_call_in_parts():
    layer, _ = pair(DIAGONAL_GRU, torch.float64, d=4)
    x = torch.randn(2, 150, 4, dtype=torch.float64)
    y, end = layer(x)
    first, state = layer(x[:, :61])
    none, state = layer(x[:, :0], state)
    second, state = layer(x[:, 61:], state)
    assert none.shape == (2, 0, 4)
    torch.testing.assert_close(torch.cat([first, second], 1), y, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state["h"], end["h"], rtol=1e-10, atol=1e-10)
    assert layer.newton.calls == 3
    assert 0 < layer.newton.residual < 2e-12
    empty = torch.zeros(0, 5, 4, dtype=torch.float64, requires_grad=True)
    y, state = layer(empty)
    assert y.shape == (0, 5, 4)
    assert not any(g.any() for g in torch.autograd.grad(y.sum(), [empty, *layer.parameters()]))


def test_half_types_are_computed_in_float32():
    layer, _ = pair(DIAGONAL_GRU, torch.float32, d=5)
    x = torch.randn(2, 70, 5)
    low = copy.deepcopy(layer).bfloat16()
    y, state = low(x.bfloat16())
    assert y.dtype == state["h"].dtype == torch.bfloat16
    y.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.bfloat16 for p in low.parameters())
    torch.testing.assert_close(y.float(), layer(x)[0], rtol=0.05, atol=0.03)


# ---------------------------------------------------------------- where it is hard


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("steps", "n"), [(400, 6), (8192, 4)])
def test_recurrent_weights_of_deviation_three_give_the_sequential_answer(dtype, steps, n):
    """Where the published scheme of three unchecked iterations leaves any bound (6e90), see test_newton.py."""
    layer, by_steps = pair(DIAGONAL_GRU, dtype, weights=3.0, d=4, n=n)
    x = torch.randn(2, steps, 4, dtype=dtype)
    y, want = layer(x)[0], by_steps(x)[0]
    close = {"rtol": 1e-6, "atol": 1e-6} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(y, want, **close)
    assert layer.newton.steps == steps
    w = torch.randn_like(y[:, :40])
    got = torch.autograd.grad((y[:, :40] * w).sum(), list(layer.parameters()))
    true = torch.autograd.grad((want[:, :40] * w).sum(), list(by_steps.parameters()))
    for a, b in zip(got, true, strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm()


# calm where x is 0; with a large x a difference grows by a factor of some twenty in each step
WILD = """
cell Wild(n: dim) {
  input x: real[n]
  state h: real[n] = 0.3
  h <- sin((0.5 + x) * h)
  output y: real[n] = h'
}
"""


def stepped(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """One step of `WILD` from each of the states that were found."""
    return torch.sin((0.5 + x) * torch.cat([torch.full_like(y[:, :1], 0.3), y[:, :-1]], 1))


def test_steps_taken_one_by_one_are_reported():
    layer, _ = pair(WILD, torch.float64, n=1)
    x = torch.full((1, 3000, 1), 40.0, dtype=torch.float64)
    with pytest.warns(NewtonWarning, match="steps are taken one after another"):
        y = layer(x)[0]
    assert 0 < layer.newton.sequential <= 3000
    assert layer.newton.shrunk > 0
    assert layer.newton.damped > 0
    torch.testing.assert_close(stepped(y, x), y, rtol=1e-10, atol=1e-10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x)  # said once
    before = layer.newton.sequential
    layer.newton.reset()
    assert layer.newton.sequential == 0 < before


def test_steps_of_a_map_that_leaves_all_bounds_are_those_of_the_map():
    """From a wrong start it runs off to infinity, which is no solution."""
    layer, _ = pair(LOGISTIC, torch.float64, n=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NewtonWarning)
        y = layer(torch.zeros(1, 3000, 2, dtype=torch.float64))[0]
    before = torch.cat([torch.full_like(y[:, :1], 0.3), y[:, :-1]], 1)
    torch.testing.assert_close(y, 3.99 * before * (1 - before), rtol=1e-10, atol=1e-10)


def test_one_hard_sequence_leaves_the_windows_of_the_others():
    """Windows, damping and single steps belong to a block of rows: the wild sequence costs the other one nothing."""
    layer, _ = pair(WILD, torch.float64, n=1)
    calm = torch.zeros(1, 2000, 1, dtype=torch.float64)
    wild = calm + 40
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NewtonWarning)
        layer(calm)
        alone = layer.newton.windows, layer.newton.iterations, layer.newton.sequential
        layer.newton.reset()
        layer(wild)
        hard = layer.newton.windows, layer.newton.iterations, layer.newton.sequential
        layer.newton.reset()
        x = torch.cat([calm, wild])
        y = layer(x)[0]
    both = layer.newton.windows, layer.newton.iterations, layer.newton.sequential
    assert alone[2] == 0 < hard[2] == both[2]
    assert both[:2] == (alone[0] + hard[0], alone[1] + hard[1])
    torch.testing.assert_close(stepped(y, x), y, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_inputs_that_are_no_numbers_end_as_step_by_step(value):
    layer, by_steps = pair(DIAGONAL_GRU, torch.float32, d=3)
    x = torch.randn(2, 700, 3)
    x[0, 300, 1] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NewtonWarning)
        y = layer(x)[0]
    want = by_steps(x)[0]
    assert torch.equal(y.isnan(), want.isnan())
    torch.testing.assert_close(y, want, equal_nan=True, rtol=1e-4, atol=1e-4)


def test_later_calls_start_from_what_earlier_ones_learned():
    """A cell that forgets slowly: the warm-up in front of segments grows, and then one walk is enough."""
    text = (
        "cell Slow(n: dim) { input x: real[n]; state h: real[n] = 0; h <- 0.8 * tanh(h) + x; output y: real[n] = h' }"
    )
    layer, _ = pair(text, torch.float32, n=1)
    x = 0.01 * torch.randn(1, 30000, 1)
    with torch.no_grad():
        for _ in range(4):
            layer.newton.windows = layer.newton.iterations = 0
            layer(x)
    assert layer.newton.warm > 32
    assert layer.newton.iterations == layer.newton.windows


# ---------------------------------------------------------------- what it is not


def test_groups_without_a_kernel_run_by_pytorch():
    cls = compiled(SMALL_GRU)
    assert "newton_scan" in cls.source
    assert "NativeNewton" not in cls.source


def test_it_is_no_program_to_export_and_no_second_derivative():
    layer, _ = pair(DIAGONAL_GRU, torch.float64, d=2)
    x = torch.randn(1, 9, 2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(layer(x)[0].sum(), x, create_graph=True)
    with pytest.raises(Exception, match="no fixed program to export"):
        torch.export.export(layer, (x.detach(),))


def test_packed_and_reversed_sequences_and_compiled_modules():
    layer, by_steps = pair(DIAGONAL_GRU, torch.float32, d=2)
    x = torch.randn(1, 90, 2)
    bounds = torch.tensor([0, 40, 41, 90])
    for options in ({"cu_seqlens": bounds}, {"reverse": True}):
        got, want = layer(x, **options), by_steps(x, **options)
        torch.testing.assert_close(got[0], want[0])
        torch.testing.assert_close(got[1]["h"], want[1]["h"])
    with torch.no_grad():  # the graph breaks at the kernel, whose iterations are no fixed program
        torch.testing.assert_close(torch.compile(layer, backend="eager")(x)[0], layer(x)[0])


def test_tensors_of_other_sizes_are_refused():
    layer, _ = pair(DIAGONAL_GRU, torch.float32, d=2)
    with pytest.raises(ValueError, match=r"needs a state of shape \(1, 2\)"):
        layer(torch.randn(1, 9, 2), {"h": torch.zeros(1, 3)})


def test_layers_pickle_and_copy():
    layer, _ = pair(DIAGONAL_GRU, torch.float32, d=2)
    x = torch.randn(1, 120, 2)
    y = layer(x)[0]
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        torch.testing.assert_close(other(x)[0], y)
        assert other.newton.calls == 2
    assert layer.newton.calls == 1


def test_the_c_can_be_written_alone():
    from rnnc.backends.cpu.backend import emit_c

    text = emit_c(rnnc.parse(DIAGONAL_GRU).lower(), dims=None, strategy="newton")
    assert "newton_solve_block" in text
    assert "DiagonalGRU_h_newton_solve" in text


# ---------------------------------------------------------------- the planner


@pytest.mark.parametrize(("batch", "steps", "d", "newton"), [(1, 8192, 4, True), (1, 8192, 256, False)])
def test_the_planner_takes_it_where_channels_leave_lanes_unused(batch, steps, d, newton, monkeypatch, tmp_path):
    monkeypatch.setenv("RNNC_CALIBRATION", str(tmp_path / "none"))
    text = DIAGONAL_GRU.replace("normal(0.5)", "normal(0.3)")
    cls = rnnc.compile(rnnc.parse(text), backend="cpu", expect=(batch, steps), d=d)
    assert ("NativeNewton(" in cls.source) is newton


def test_the_planner_takes_it_only_where_the_update_contracts(monkeypatch, tmp_path):
    monkeypatch.setenv("RNNC_CALIBRATION", str(tmp_path / "none"))
    cls = rnnc.compile(rnnc.parse(LOGISTIC), backend="cpu", expect=(1, 8192), n=1)
    assert "NativeNewton(" not in cls.source


SANITISED = """
import warnings
import test_cpu_newton as newton
warnings.simplefilter("ignore")
newton.native_newton.SMALL = newton.native_newton.TEAM = 0
for name, text in newton.SERVED.items():
    cell = newton.rnnc.parse(text).lower()
    print(name, flush=True)
    for steps in (1, 2, 17, 203):
        newton.case(cell, steps).check(newton.compiled(text), step=False)
        newton.case(cell, steps).check(newton.compiled(text), dtype=torch.float32, tolerance=1e-4, step=False)
for n in (1, 5, 17, 40):
    layer, _ = newton.pair(newton.DIAGONAL_GRU, torch.float32, weights=3.0, d=2, n=n)
    layer(torch.randn(2, 1300, 2))[0].sum().backward()
layer, _ = newton.pair(newton.WILD, torch.float64, n=1)
layer(torch.full((1, 900, 1), 40.0, dtype=torch.float64, requires_grad=True))[0].sum().backward()
"""


@pytest.mark.slow
def test_sanitised(tmp_path):
    run(SANITISED, tmp_path)

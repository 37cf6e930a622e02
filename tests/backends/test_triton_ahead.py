"""Kernels with products of learned matrices and those of long steps, compiled ahead of time: none spills, all fit."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import triton_newton as newton

import rnnc
import rnnc.spec
from rnnc.compile import load_source
from rnnc.ir.rounding import keep_digits

pytest.importorskip("triton")

from rnnc.runtime.gpu import problem, tuner, tuning

UNLISTED = Path(__file__).parent.parent / "stdlib" / "unlisted"
ODD = UNLISTED.parent / "odd"
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
LONG = (
    "sigmoid(a) * h + tanh(c) + exp(a) + log(abs(a) + 0.1) + sqrt(abs(c) + 0.1) + sin(a) * cos(c)"
    " + softplus(a) + logsigmoid(c) + silu(a) + gelu(c) + relu(a) + sign(c) + max(a, c) * min(a, 2 * c)"
    " + (abs(a) + 0.1)^c + logaddexp(a, c) + a^3 + c^-2 / (1 + abs(a)) + 0.3^a"
)
BIASED = """cell Biased(d: dim, n: dim) {
  input x: real[d]
  state h: real[n] = 0
  state c: real[n] = 0
  c <- sigmoid(linear(x) + linear(h)) * c + sigmoid(linear(x) + linear(h)) * tanh(linear(x) + linear(h))
  h <- sigmoid(linear(x) + linear(h)) * tanh(c')
  output y: real[n] = h'
}"""
STEPS = {"long": LONG, "log_plus": "logaddexp(h + a, c)"}


@cache
def kernels(name: str) -> Any:
    from rnnc.backends.triton.backend import emit
    from rnnc.runtime.gpu import Recurrence

    cell = None
    if name == "biased":
        spec = rnnc.parse(BIASED)
    elif name == "highway":
        spec, cell = rnnc.load(ODD / "biases.rnn"), "Highway"
    elif name in STEPS:
        text = f"cell Own(n: dim) {{\ninput a: real[n]\ninput c: real[n]\nstate h: real[n] = 0\nh <- {STEPS[name]}\n"
        spec = rnnc.parse(text + "output y: real[n] = h'\n}")
    else:
        path = UNLISTED / f"{name}.rnn"
        spec = rnnc.load(path) if path.exists() else rnnc.spec.stdlib(name)
    ir = keep_digits(spec.lower(cell or spec.cells[0]))
    module = load_source(emit(ir, dims=None, strategy=None, sources=spec.sources), ir.name)
    (found,) = [v for v in vars(module).values() if isinstance(v, Recurrence)]
    return found


def fits(name: str, target: str, size: int, dtype: torch.dtype = torch.bfloat16, **options: Any) -> None:
    from rnnc.backends.triton.ahead import SHARED
    from rnnc.backends.triton.ahead_recurrence import compiled

    of = kernels(name)
    axes = of.axes
    sizes = {x: 1024 if x in axes.tile and not axes.inner else size for x in axes.tile + axes.grid + axes.inner}
    for role in ("forward", "backward", "totals", "backward_totals"):
        if getattr(of, role) is not None:
            found = compiled(of, role, target, sizes, dtype, **options)
            assert found.spilled == 0, (options, found)
            assert found.shared <= SHARED[target], (options, found)


@pytest.mark.parametrize(
    "name", ["mingru", *(pytest.param(n, marks=pytest.mark.slow) for n in ("mamba", "lru", "gru"))]
)
def test_numbers_that_are_one(name: str) -> None:
    """A launch makes constants of them: one head, channel, sequence and step; packed, too."""
    from rnnc.backends.triton.ahead_recurrence import compiled

    of = kernels(name)
    for role in ("forward", "backward"):
        for channels, batch, packed in ((32, 1, True), (1, 1, False)):
            sizes = dict.fromkeys(of.axes.inner, 32) | dict.fromkeys(of.axes.tile + of.axes.grid, channels)
            found = compiled(of, role, "sm_90", sizes, packed=packed, batch=batch, steps=batch)
            assert found.spilled == 0, found


def inner_fits(states: int, target: str, dtype: torch.dtype, roles: tuple[str, ...], **options: Any) -> None:
    """Mamba's kernels with so many states a channel: as in a layer of `dtype`, and (`mixed`) under autocast."""
    from rnnc.backends.triton.ahead_recurrence import compiled

    for role in roles:
        found = compiled(kernels("mamba"), role, target, {"A": 2048, "B": states}, dtype, **options)
        assert found.spilled == 0, (states, dtype, options, found)


@pytest.mark.parametrize(("target", "states"), [("sm_100", 16), ("sm_90", 8)])
def test_inner_axes_do_not_spill(target: str, states: int) -> None:
    inner_fits(states, target, torch.bfloat16, ("backward",), packed=True)


@pytest.mark.slow
@pytest.mark.parametrize("states", [1, 2, 3, 4, 5, 8, 12, 16, 24, 32, 48, 63, 64, 128])
@pytest.mark.parametrize("target", TARGETS)
def test_more_inner_axes_do_not_spill(target: str, states: int) -> None:
    """One sequence, several, and packed ones."""
    ends = ("forward", "backward")
    for dtype in (torch.bfloat16, torch.float32):
        inner_fits(states, target, dtype, (*ends, "totals", "backward_totals"), batch=1, steps=4096)
        inner_fits(states, target, dtype, ends, packed=True)
    for packed in (False, True):
        inner_fits(states, target, torch.bfloat16, ends, mixed=True, packed=packed)


def neighbours(name: str, batch: int, channels: int, wanted: int, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the tuner measures on a GPU that so many programs fill."""
    for module in (tuning, problem):
        monkeypatch.setattr(module, "programs_wanted", lambda: wanted)
    of = kernels(name)
    labels = sorted({x for d in of.states for x in d if x.isupper()})
    sizes = [channels if x in of.axes.tile else 16 for x in labels]
    return list(of.problem(batch, sizes, 4096, False).neighbours())


def test_the_tuner_divides_the_steps_or_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    few, some, many = (neighbours("mingru", batch, 2048, 528, monkeypatch) for batch in (8, 16, 64))
    assert [c.splits for c in few] == [0, 1, 0, 0, 0]  # 256 programs: five parts, or one
    assert [c.splits for c in some] == [0, 2, 0, 0, 0]  # 512: one part, or two
    assert not any(c.splits for c in many)
    whole = neighbours("mamba", 16, 2048, 528, monkeypatch)
    assert [c.registers for c in whole][:2] == [255, 0]
    assert len({*whole}) == len(whole) == tuner.FEW


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mingru", "mamba"])
def test_what_the_tuner_measures_does_not_spill(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But where the assembler is left to itself, which may (`registers`)."""
    from rnnc.backends.triton.ahead_recurrence import compiled

    of = kernels(name)
    sizes = {x: 2048 if x in of.axes.tile else 16 for x in of.axes.tile + of.axes.inner}
    for config in neighbours(name, 8, 2048, 528, monkeypatch):
        for role in ("forward", "backward"):
            found = compiled(of, role, "sm_90", sizes, config=config)
            assert found.spilled <= (64 if default_registers(of) and not config.registers else 0), (config, found)


def default_registers(of: Any) -> int:
    return int(of.default_config(2048, [16] * len(of.axes.inner)).registers)


@pytest.mark.parametrize(("name", "target"), [("gru", "sm_90"), ("rnn", "gfx942")])
def test_matrices_on_chip(name: str, target: str) -> None:
    fits(name, target, 64)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "slstm", "pendulum", "biased"])
def test_more_matrices_on_chip(name: str, target: str) -> None:
    """Heads of 64 and, four matrices of which fill what there is, of 128; under autocast and packed, too."""
    for size in (64, 128):
        for mixed in (False, True):
            for packed in (False, True):
                fits(name, target, size, mixed=mixed, packed=packed)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_many_values_of_a_step(target: str) -> None:
    """Static inputs are read at every step then; heads of 128 have too many for registers."""
    for mixed in (False, True):
        for packed in (False, True):
            fits("highway", target, 64, mixed=mixed, packed=packed)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_matrices_in_float32(target: str) -> None:
    fits("lstm", target, 32, torch.float32)
    if target != "gfx942":
        fits("lstm", target, 64, torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", STEPS)
def test_long_steps_do_not_spill(name: str, target: str) -> None:
    fits(name, target, 64)


@pytest.mark.parametrize(
    "target", ["sm_90", *(pytest.param(t, marks=pytest.mark.slow) for t in TARGETS if t != "sm_90")]
)
def test_newton(target: str) -> None:
    """Many channels, and few, with lanes along time; two states that meet at each position."""
    from rnnc.backends.triton.ahead_recurrence import compiled

    for name, size in (("entries", 1024), ("entries", 4), ("pairs", 1024)):
        _, of = newton.kernel_of(name)
        for role in ("forward", "backward"):
            found = compiled(of, role, target, {"A": size})
            assert found.spilled == 0, found


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["phasor", "saturating_memory", "tide"])
def test_unlisted_cells(name: str, target: str) -> None:
    fits(name, target, 32)


@pytest.mark.parametrize("target", TARGETS)
def test_what_joins_the_parts_of_a_scan(target: str) -> None:
    """Real in every semiring, and complex; forward and backward."""
    from rnnc.backends.triton.launched import launches
    from rnnc.runtime.gpu.splits import RINGS, gradients_between, states_between

    real, pairs = torch.empty(2, 5, 100), torch.empty(2, 5, 100, 2)

    def run() -> None:
        for ring in RINGS:
            states_between(ring, False, real[:, 0], real, real, real)
        states_between("plus_times", True, pairs[:, 0].bfloat16(), pairs, pairs, pairs)
        gradients_between(True, pairs[:, 0], pairs, pairs, pairs)

    found = launches(target, run)
    assert len(found) == 6
    assert all(x.compiled().spilled == 0 for x in found)

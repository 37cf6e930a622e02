"""Kernels with products of learned matrices and those of long steps, compiled ahead of time: none spills, all fit."""

from __future__ import annotations

import re
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

UNLISTED = Path(__file__).parent.parent / "stdlib" / "unlisted"
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
LONG = (
    "sigmoid(a) * h + tanh(c) + exp(a) + log(abs(a) + 0.1) + sqrt(abs(c) + 0.1) + sin(a) * cos(c)"
    " + softplus(a) + logsigmoid(c) + silu(a) + gelu(c) + relu(a) + sign(c) + max(a, c) * min(a, 2 * c)"
    " + (abs(a) + 0.1)^c + logaddexp(a, c) + a^3 + c^-2 / (1 + abs(a)) + 0.3^a"
)
STEPS = {"long": LONG, "log_plus": "logaddexp(h + a, c)"}


@cache
def kernels(name: str) -> Any:
    from rnnc.backends.triton.backend import emit
    from rnnc.runtime.gpu import Recurrence

    if name in STEPS:
        text = f"cell Own(n: dim) {{\ninput a: real[n]\ninput c: real[n]\nstate h: real[n] = 0\nh <- {STEPS[name]}\n"
        spec = rnnc.parse(text + "output y: real[n] = h'\n}")
    else:
        path = UNLISTED / f"{name}.rnn"
        spec = rnnc.load(path) if path.exists() else rnnc.spec.stdlib(name)
    ir = keep_digits(spec.lower(spec.cells[0]))
    module = load_source(emit(ir, dims=None, strategy=None, sources=spec.sources), ir.name)
    (found,) = [v for v in vars(module).values() if isinstance(v, Recurrence)]
    return found


def fits(name: str, target: str, size: int, dtype: torch.dtype = torch.bfloat16) -> None:
    from rnnc.backends.triton import ahead

    of = kernels(name)
    axes = of.axes
    sizes = {x: 1024 if x in axes.tile and not axes.inner else size for x in axes.tile + axes.grid + axes.inner}
    for role in ("forward", "backward", "totals", "backward_totals"):
        if getattr(of, role) is not None:
            found = ahead.compiled(of, role, target, sizes, dtype)
            assert found.spilled == 0, found
            assert found.shared <= ahead.SHARED[target], found


@pytest.mark.parametrize(
    "name", ["mingru", *(pytest.param(n, marks=pytest.mark.slow) for n in ("mamba", "lru", "gru"))]
)
def test_numbers_that_are_one(name: str) -> None:
    """A launch makes constants of them: undivided steps always, one head, one channel, one sequence; packed, too."""
    from rnnc.backends.triton import ahead

    of = kernels(name)
    roles = ("forward", "backward", *(("totals", "backward_totals") if of.totals is not None else ()))
    for role in roles:
        numbers = {n for n in getattr(of, role).arg_names if re.fullmatch(r"SPLITS|SPAN|G|D|B|\w+_[btgdnmlr]", n)}
        for ones, packed in (({"SPLITS", "G", "B"}, role in ("forward", "backward")), (numbers, False)):
            sizes = {
                x: 1 if "D" in ones and x in of.axes.tile else 32 for x in of.axes.tile + of.axes.grid + of.axes.inner
            }
            assert ahead.compiled(of, role, "sm_90", sizes, packed=packed, ones=ones).spilled == 0


@pytest.mark.parametrize(("name", "target"), [("gru", "sm_90"), ("rnn", "gfx942")])
def test_matrices_on_chip(name: str, target: str) -> None:
    fits(name, target, 64)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "slstm", "pendulum"])
def test_more_matrices_on_chip(name: str, target: str) -> None:
    """Heads of 64 and, four matrices of which fill what there is, of 128."""
    for size in (64, 128):
        fits(name, target, size)


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
    from rnnc.backends.triton import ahead

    for name, size in (("entries", 1024), ("entries", 4), ("pairs", 1024)):
        _, of = newton.kernel_of(name)
        for role in ("forward", "backward"):
            found = ahead.compiled(of, role, target, {"A": size})
            assert found.spilled == 0, found


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["phasor", "saturating_memory", "tide"])
def test_unlisted_cells(name: str, target: str) -> None:
    fits(name, target, 32)

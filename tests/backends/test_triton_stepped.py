"""Heads whose matrices do not fit on chip: their kernels compiled ahead of time as they are launched, and their cost.

What they compute is compared in the interpreter (triton_stepped.py).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

import rnnc
import rnnc.spec
from rnnc.compile import load_source
from rnnc.ir.rounding import keep_digits

pytest.importorskip("triton")

import triton_coupled as coupled
import triton_stepped as stepped

CELLS = coupled.CELLS | stepped.CELLS
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
NAMES = ("lstm", "gru", "slstm", "rnn", *CELLS)


@cache
def kernel(name: str) -> tuple[Any, int]:
    """The kernels of a cell, and how many dims it has."""
    from rnnc.backends.triton.backend import emit
    from rnnc.runtime.gpu import Recurrence

    spec = rnnc.spec.parse(CELLS[name]) if name in CELLS else rnnc.spec.stdlib(name)
    ir = keep_digits(spec.lower(spec.cells[0]))
    module = load_source(emit(ir, dims=None, strategy=None, sources=spec.sources), ir.name)
    (found,) = [v for v in vars(module).values() if isinstance(v, Recurrence)]
    return found, len(ir.dims)


def launches(name: str, target: str, size: int, dtype: torch.dtype, *, packed: bool = False) -> list[Any]:
    """What two steps launch that are to be differentiated, two that are not, and the backward."""
    from rnnc.backends.triton.launched import launches as recorded

    of, dims = kernel(name)
    sizes = [*[size] * dims, *(4 if x in of.axes.grid else size for x in of.labels)]
    p = of.problem(16, sizes, 2, packed)
    inputs = [torch.zeros(p.shape(d, p.streams if d.startswith("bt") else ()), dtype=dtype) for d in of.inputs]
    heads = [p.heads] if of.axes.grid else []
    inputs += [torch.zeros(*heads, *reversed(of.ends(x, p.sizes)), dtype=dtype) for x in of.products]
    states = [torch.zeros(p.shape(d, (16,)), dtype=dtype) for d in of.states]
    bounds = torch.arange(17).clamp(max=2) if packed else None

    def run() -> None:
        for keep in (False, True):
            given = [x.requires_grad_(keep) for x in inputs]
            outputs = of.run(given, states, sizes, 2, bounds)
        torch.autograd.grad(sum(y.float().sum() for y in outputs[: len(of.outputs) + len(states)]), inputs)

    return list(recorded(target, run))


def fits(found: list[Any], target: str) -> None:
    from rnnc.backends.triton import ahead

    for launch in found:
        resources = launch.compiled()
        assert resources.spilled == 0, (launch.title, resources)
        assert resources.shared <= ahead.SHARED[target], (launch.title, resources)


@pytest.mark.parametrize(
    ("name", "rounds"),
    [
        ("lstm", (1,)),
        ("low rank", (1, 2)),
        ("reset first", (1, 2)),
        ("projected", (1, 2)),
        ("bottleneck", (1, 2)),
        ("computed first", (0, 1)),
        ("rounds", (1, 2, 3)),
    ],
)
def test_a_step_has_a_kernel_for_each_round(name: str, rounds: tuple[int, ...]) -> None:
    """Behind each, and ahead of the first one only where its vectors have to be computed."""
    of, _ = kernel(name)
    assert tuple(x.at for x in of.steps) == rounds
    assert tuple(x.at for x in reversed(of.steps_back)) == rounds


def test_kernels_ahead_of_time() -> None:
    """One kernel forward, with what the backward needs and without, and one backward."""
    found = launches("lstm", "sm_90", 512, torch.bfloat16)
    assert len(found) == 3
    fits(found, "sm_90")


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NAMES)
def test_more_kernels_ahead_of_time(name: str, target: str) -> None:
    """Also where sequences are packed, where vectors have an odd length, and in every precision."""
    for size, dtype, packed in (
        (1024, torch.bfloat16, True),
        (512, torch.float32, False),
        (257, torch.float16, False),
        (512, torch.float64, False),
    ):
        fits(launches(name, target, size, dtype, packed=packed), target)

"""Specs as a hostile user would write them: each lowers, and runs like the oracle by every legal strategy."""

from __future__ import annotations

from pathlib import Path

import pytest
import stdlib_specs as specs
import torch

import rnnc
from rnnc.analysis.recurrence import analyse_recurrence

HERE = Path(__file__).parent


SIZES = {"d": 5, "vocab": 6}
CELLS = [(path, cell) for path, cell in specs.cells_of("odd")]

# cell: for every group its kind, and the fastest class of strategy that must be legal for it
EXPECTED = {
    "Blocks": ["affine block_scan"],
    "Cycler": ["affine block_scan"],
    "Rotor": ["affine block_scan"],
    "Leak": ["affine scan"],
    "Halves": ["affine convolution"],
    "Flip": ["linear scan"],
    "Reset": ["affine scan"],
    "RwkvLike": ["affine chunkwise"],
    "Substeps": ["affine chunkwise"],
    "ComplexDelta": ["affine chunkwise"],
    "MixedMatrices": ["affine chunkwise", "affine chunkwise"],
    "Viterbi": ["affine scan", "affine scan"],
    "Extremes": ["affine scan", "affine scan", "affine scan"],
    "Reach": ["affine scan", "affine scan"],
    "TropicalMin": ["affine scan"],
    "RealPairs": ["affine block_scan"],
    "Turner": ["affine scan"],
    "Nested": ["affine scan", "affine scan"],
    "Bits": ["affine scan", "affine scan"],
    "Conjugates": ["nonlinear sequential"],
    "RealPart": ["nonlinear sequential"],
    "Fading": ["nonlinear sequential"],
    "Squares": ["nonlinear sequential"],
    "QuadraticMemory": ["nonlinear sequential"],
    "Normalised": ["nonlinear sequential"],
    "Gather": ["nonlinear sequential"],
    "TwoSided": ["affine sequential"],
    "Transposer": ["affine sequential"],
    "InAndOut": ["affine sequential"],
}


@pytest.mark.filterwarnings("ignore::rnnc.runtime.NewtonWarning")  # it may end in single steps, with the same numbers
@pytest.mark.parametrize(("path", "cell"), CELLS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_strategy_agrees_with_the_oracle(path: Path, cell: str) -> None:
    specs.check(rnnc.load(path), cell, SIZES, time=19)


@pytest.mark.parametrize("cell", EXPECTED)
def test_the_analysis(cell: str) -> None:
    path = next(path for path, name in CELLS if name == cell)
    recurrence = analyse_recurrence(rnnc.load(path).lower(cell))
    groups = specs.plan(recurrence, None).groups
    assert len(groups) == len(EXPECTED[cell])
    for group, expected in zip(groups, EXPECTED[cell], strict=True):
        kind, strategy = expected.split()
        assert group.group.kind == kind
        legal = {o.name for o in group.options if o.legal}
        assert strategy in legal
        if strategy == "sequential":  # and Newton's method where the pattern of its slopes is proven
            assert legal - {"newton"} == {"step", "sequential"}
            assert kind == "nonlinear" or "newton" not in legal


@pytest.mark.parametrize(("gated", "order", "hard"), [(False, 1, True), (False, 3, False), (True, 1, False)])
def test_hyperparameters_that_change_the_structure(gated: bool, order: int, hard: bool) -> None:
    spec = rnnc.load(HERE / "odd" / "choices.rnn")
    run = specs.check(spec, "Choices", SIZES, time=9, gated=gated, order=order, hard=hard)
    assert ("convolution" in run) == (not gated)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_numbers_of_micro_steps(steps: int) -> None:
    spec = rnnc.load(HERE / "odd" / "substeps.rnn")
    assert "chunkwise" in specs.check(spec, "Substeps", SIZES, time=33, steps=steps)


@pytest.mark.filterwarnings("ignore::rnnc.runtime.NewtonWarning")  # it may end in single steps, with the same numbers
@pytest.mark.parametrize(("path", "cell"), CELLS, ids=lambda value: value if isinstance(value, str) else "")
def test_autocast_to_bfloat16(path: Path, cell: str) -> None:
    """Products are rounded; what has no half precision (complex numbers, matrix functions) still works."""
    spec = rnnc.load(path)
    lowered = spec.lower(cell)
    dims = specs.sizes_for(lowered, SIZES)
    torch.manual_seed(0)
    layer = rnnc.compile(spec, cell)(**dims)
    _, inputs, _ = specs.draw(lowered, dims, 2, 12, seed=1)
    xs = [torch.tensor(inputs[i.name]) for i in lowered.inputs]
    xs = [x.to(torch.complex64) if x.is_complex() else x.float() if x.is_floating_point() else x for x in xs]
    xs = [x.requires_grad_() if x.is_floating_point() or x.is_complex() else x for x in xs]
    exact, _ = layer(*xs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded, _ = layer(*xs)
    pairs = zip(rounded, exact, strict=True) if isinstance(exact, tuple) else [(rounded, exact)]
    for a, b in pairs:
        assert (a.float() - b.float()).norm() <= 0.1 * b.float().norm()
        if a.requires_grad:
            a.float().square().sum().backward(retain_graph=True)
    assert all(torch.isfinite(x.grad).all() for x in [*xs, *layer.parameters()] if x.grad is not None)


@pytest.mark.parametrize("cell", ["F", "Tensor"])
def test_names_of_python_and_pytorch(cell: str) -> None:
    """A cell `F`, a dim `nn`, an input `self`, a state `state`, a param `class`: step by step is the same."""
    torch.manual_seed(0)
    layer = rnnc.compile(rnnc.load(HERE / "names.rnn"), cell)(4).double()
    for parameter in layer.parameters():
        parameter.data.normal_()
    x = torch.randn(2, 7, 4, dtype=torch.float64)
    whole, end = layer(x)
    state, steps = None, []
    for t in range(7):
        y, state = layer.step(x[:, t], state=state)
        steps.append(y)
    assert state is not None
    assert all(torch.allclose(state[name], end[name], atol=1e-12) for name in end)
    if cell == "F":
        assert torch.allclose(torch.stack(steps, 1), whole, atol=1e-12)
    else:
        assert all(torch.allclose(torch.stack(s, 1), w, atol=1e-12) for s, w in zip(zip(*steps), whole, strict=True))

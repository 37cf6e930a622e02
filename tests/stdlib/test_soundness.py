"""What the analysis proves holds in numbers: Jacobians of compiled steps, at random and at extreme inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stdlib_specs as specs
import torch

import rnnc
from rnnc.stdlib import FOLDER

HERE = Path(__file__).parent


FOLDERS = [HERE / "odd", HERE / "unlisted", FOLDER]
CELLS = [
    (path, cell)
    for folder in FOLDERS
    for path in sorted(folder.glob("*.rnn"))
    for cell in rnnc.load(path).cells
    if cell not in rnnc.load(path).models
]
SIZES = {"d": 4, "heads": 2, "n": 3, "dk": 2, "dv": 2, "p": 2, "e": 3, "w": 2, "rank": 2, "vocab": 5}


def jacobian(layer: Any, xs: dict[str, Any], state: dict[str, Any], names: list[str]) -> np.ndarray:
    """d(new group state)/d(old group state) of one step at batch 1, one matrix; complex states by their real pairs."""
    flat = [torch.view_as_real(state[n]) if state[n].is_complex() else state[n] for n in names]

    def step(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        mine = dict(state)
        for n, v in zip(names, values, strict=True):
            mine[n] = torch.view_as_complex(v) if state[n].is_complex() else v
        new = layer.step(**xs, state=mine)[1]
        return tuple(torch.view_as_real(new[n]) if new[n].is_complex() else new[n] for n in names)

    parts = torch.autograd.functional.jacobian(step, tuple(flat))
    rows = [torch.cat([p.reshape(a.numel(), b.numel()) for p, b in zip(row, flat)], 1) for row, a in zip(parts, flat)]
    return torch.cat(rows, 0).numpy()


def complex_matrix(pairs: np.ndarray) -> np.ndarray:
    """The complex matrix of a real one on (re, im) pairs; asserts that it is complex linear."""
    a, b = pairs[0::2, 0::2], pairs[1::2, 0::2]
    np.testing.assert_allclose(pairs[1::2, 1::2], a, atol=1e-9)
    np.testing.assert_allclose(pairs[0::2, 1::2], -b, atol=1e-9)
    return a + 1j * b


def at(cell: Any, dims: dict[str, int], seed: int, scale: float) -> tuple[Any, Any, Any]:
    params, inputs, state = specs.draw(cell, dims, 1, 1, seed)
    tensor = lambda v: torch.tensor(np.asarray(v))  # noqa: E731
    xs = {k: tensor(v * scale if v.dtype.kind == "f" else v)[:, 0] for k, v in inputs.items()}
    return params, respected(cell, xs), {k: tensor(v) for k, v in state.items()}


def respected(cell: Any, xs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Inputs brought into the domains that their declarations promise."""
    out = dict(xs)
    for i in cell.inputs:
        x = xs[i.name]
        match type(i.domain).__name__:
            case "UnitNorm":
                out[i.name] = x / x.norm(dim=-1, keepdim=True)
            case "Interval":
                lo, hi = i.domain.lo, i.domain.hi
                if lo is not None and hi is not None:
                    out[i.name] = float(lo) + float(hi - lo) * torch.sigmoid(x)
                elif hi is not None:
                    out[i.name] = float(hi) - x.abs() - 1e-3
                elif lo is not None:
                    out[i.name] = float(lo) + x.abs() + 1e-3
    return out


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.allclose(a, b, rtol=1e-9, atol=1e-9))


@pytest.mark.parametrize(("path", "cell"), CELLS, ids=lambda v: v if isinstance(v, str) else "")
def test_what_is_proved_holds(path: Path, cell: str) -> None:
    spec = rnnc.load(path)
    lowered = spec.lower(cell)
    dims = specs.sizes_for(lowered, SIZES)
    layer = rnnc.compile(spec, cell, strategy="sequential")(**dims).double()
    groups = rnnc.analyze(spec, cell).to_json()["groups"]
    for seed, scale in [(1, 1.0), (2, 10.0), (3, 100.0)]:
        params, xs, state = at(lowered, dims, seed, scale)
        other_xs, other_state = at(lowered, dims, seed + 10, scale)[1:]
        buffers = {k: v for k, v in layer.initial_state(1).items() if k not in state}
        with torch.no_grad():
            for name, p in layer.named_parameters():
                p.copy_(torch.tensor(params[name]))
        state, other_state = {**buffers, **state}, {**buffers, **other_state}
        for group in groups:
            if all(state[n].is_floating_point() or state[n].is_complex() for n in group["states"]):
                check_group(layer, group, xs, state, other_xs, other_state)


def check_group(layer: Any, group: Any, xs: Any, state: Any, other_xs: Any, other_state: Any) -> None:
    names = group["states"]
    m = jacobian(layer, xs, state, names)
    if group["kind"] == "nonlinear" or group["semiring"] != "plus_times":
        return
    moved = {**state, **{n: other_state[n] for n in names}}
    assert same(jacobian(layer, xs, moved, names), m), "linear, yet the Jacobian moves with the state"
    if group["time_invariant"]:
        assert same(jacobian(layer, other_xs, {**other_state, **{n: state[n] for n in names}}, names), m)
    if group["kind"] == "linear":
        zero = {**state, **{n: torch.zeros_like(state[n]) for n in names}}
        new = layer.step(**xs, state=zero)[1]
        assert all(new[n].abs().max() < 1e-12 for n in names), "linear, yet zero does not stay zero"
    if any(state[n].is_complex() for n in names):
        m = complex_matrix(m)
    if group["jacobian"] == "diagonal":
        assert same(m, np.diag(np.diag(m)))
    check_spectrum(m, group["spectrum"])


def check_spectrum(m: np.ndarray, spectrum: Any) -> None:
    slack = 1e-7
    values = np.linalg.eigvals(m)
    if spectrum["real"] is True:
        assert np.abs(values.imag).max() < 1e-6
    if spectrum["interval"] is not None:
        lo, hi = spectrum["interval"]
        assert lo is None or values.real.min() > lo - slack
        assert hi is None or values.real.max() < hi + slack
    if spectrum["modulus"] is not None:
        lo, hi = spectrum["modulus"]
        assert lo is None or np.abs(values).min() > lo - slack
        assert hi is None or np.abs(values).max() < hi + slack
    if spectrum["norm_bound"] is not None:
        assert np.linalg.norm(m, 2) < spectrum["norm_bound"] + slack


def test_the_check_can_fail() -> None:
    reflection = np.diag([1.0, 1.0, -1.0])
    fine = {"real": True, "interval": [-1, 1], "modulus": [0, 1], "norm_bound": 1}
    check_spectrum(reflection, fine)
    for wrong in ({"interval": [0, 1]}, {"modulus": [0, 0.5]}, {"norm_bound": 0.9}):
        with pytest.raises(AssertionError):
            check_spectrum(reflection, fine | wrong)
    with pytest.raises(AssertionError):
        check_spectrum(np.array([[0.0, -1.0], [1.0, 0.0]]), fine)

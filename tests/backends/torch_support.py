"""Loads emitted modules and compares them with the float64 oracle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch

import rnnc
from rnnc.ir.graph import CellIR
from rnnc.ir.oracle import gradients, run

Arrays = Mapping[str, Any]


def small_dims(cell: CellIR) -> dict[str, int]:
    """Small sizes for a cell's dims, unlike each other where the cell leaves them free."""
    given = {}
    for d in cell.dims:
        if d.default is None:
            given[d.name] = 8
        elif d.default.constant is not None:
            given[d.name] = max(
                1, min(int(d.default.constant), 4) if d.default.constant > 4 else min(int(d.default.constant), 2)
            )
    return cell.dim_values(given)


@cache
def native_and_torch(name: str, cell: str) -> tuple[Any, Any]:
    """A layer of the CPU backend and one of the torch backend with the same weights, in float64."""
    torch.manual_seed(0)
    spec = rnnc.stdlib(name)
    dims = small_dims(spec.lower(cell))
    native, by_torch = (rnnc.compile(spec, cell, backend=b)(**dims, dtype=torch.float64) for b in ("cpu", "torch"))
    by_torch.load_state_dict(native.state_dict())
    return native, by_torch


def unit(x: Any) -> Any:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


# What some operators expect of an input of theirs: without it their states grow without bound.
MEANT: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("SelectiveScan", "dt"): np.abs,
    ("SSDOp", "g"): lambda x: -np.abs(x),
    ("GLAOp", "g"): lambda x: -np.abs(x),
    ("GatedDeltaOp", "g"): lambda x: -np.abs(x),
    ("GatedDeltaOp", "k"): unit,
    ("GatedDeltaOp", "beta"): lambda x: 1 + np.tanh(x),
    ("DeltaOp", "k"): unit,
    ("DeltaOp", "beta"): lambda x: 1 + np.tanh(x),
}


def random_inputs(
    cell: CellIR, dims: Mapping[str, int], rng: np.random.Generator, batch: int, steps: int
) -> dict[str, Any]:
    found = {}
    for i in cell.inputs:
        t = cell.nodes[i.node].type
        shape = (batch, steps, *(d.evaluate(dims) for d in (*t.per, *t.shape)))
        if t.dtype == "token":
            assert t.vocab is not None
            found[i.name] = rng.integers(0, t.vocab.evaluate(dims), size=shape)
        else:
            found[i.name] = MEANT.get((cell.name, i.name), lambda x: x)(rng.normal(size=shape))
    return found


def flat(state: Any, prefix: str = "") -> dict[str, Any]:
    """A nested state by dotted keys, as the oracle names them."""
    found = {}
    for key, value in state.items() if isinstance(state, Mapping) else enumerate(state):
        if isinstance(value, torch.Tensor):
            found[f"{prefix}{key}"] = value
        else:
            found |= flat(value, f"{prefix}{key}.")
    return found


def nested(state: Mapping[str, Any], like: Any, prefix: str = "") -> Any:
    """A state by dotted keys in the nesting of `like`."""
    if isinstance(like, torch.Tensor):
        return state[prefix]
    keys = like.keys() if isinstance(like, Mapping) else range(len(like))
    parts = {k: nested(state, like[k], f"{prefix}.{k}" if prefix else str(k)) for k in keys}
    return parts if isinstance(like, Mapping) else [parts[k] for k in keys]


def load(source: str, name: str) -> Any:
    """The class `name` of a source text."""
    scope: dict[str, Any] = {"__name__": "emitted"}
    exec(compile(source, "<emitted>", "exec"), scope)
    return scope[name]


def tensor(x: Any, dtype: torch.dtype) -> torch.Tensor:
    t = torch.tensor(np.asarray(x))
    if t.is_complex():
        return t.to(dtype.to_complex())
    return t.to(dtype) if t.is_floating_point() else t


def error(a: Any, b: Any) -> float:
    """||a - b|| / ||b||, and the absolute error where b is zero."""
    a = a.detach().cpu().resolve_conj().numpy() if isinstance(a, torch.Tensor) else np.asarray(a)
    b = np.asarray(b)
    assert a.shape == b.shape, (a.shape, b.shape)
    assert np.isfinite(a).all()
    a, b = a.astype(complex), b.astype(complex)
    scale = np.linalg.norm(b)
    return float(np.linalg.norm(a - b) / (scale if scale > 1e-30 else 1.0))


class Case:
    """One cell with sizes, parameters, inputs, an initial state, and what the oracle says of them."""

    def __init__(
        self,
        cell: CellIR,
        dims: Mapping[str, int],
        params: Arrays,
        inputs: Arrays,
        state: Arrays | None = None,
        *,
        seed: int = 0,
        differentiable: bool = True,
    ) -> None:
        self.cell, self.dims, self.params, self.inputs, self.state = cell, dict(dims), params, inputs, state
        self.outputs, self.final = run(cell, self.dims, params, inputs, state)
        rng = np.random.default_rng(seed)
        self.d_outputs = {k: _weights(rng, v) for k, v in self.outputs.items()}
        self.d_final = {k: _weights(rng, v) for k, v in self.final.items()}
        self.grads = None
        if differentiable:
            self.grads = gradients(cell, self.dims, params, inputs, self.d_outputs, self.d_final, state)

    def module(self, cls: Any, dtype: torch.dtype) -> Any:
        layer = cls(**self.dims, dtype=dtype)
        with torch.no_grad():
            for name, value in self.params.items():
                dict(layer.named_parameters())[name].copy_(tensor(value, dtype))
        return layer

    def check(
        self, cls: Any, *, dtype: torch.dtype = torch.float64, tolerance: float = 1e-10, step: bool = True
    ) -> None:
        """The module's outputs, final state and all gradients are the oracle's; step by step gives the same."""
        layer = self.module(cls, dtype)
        xs = {k: tensor(v, dtype) for k, v in self.inputs.items()}
        for x in xs.values():
            x.requires_grad_(x.is_floating_point() or x.is_complex())
        state = None
        if self.state is not None:
            state = {k: tensor(v, dtype) for k, v in self.state.items()}
            for s in state.values():
                s.requires_grad_(s.is_floating_point() or s.is_complex())
        given = None if state is None else nested(state, layer.initial_state(1))
        y, final = layer(**xs, state=given)
        final = flat(final)
        ys = dict(zip(self.outputs, y if isinstance(y, tuple) else (y,)))
        self._compare(ys, final, tolerance, "forward")
        if self.grads is not None:
            self._check_gradients(layer, xs, state, ys, final, tolerance)
        if step:
            self._check_steps(layer, xs, state, tolerance)

    def _compare(self, ys: Arrays, final: Arrays, tolerance: float, what: str) -> None:
        assert set(final) == set(self.final)
        for k, v in self.outputs.items():
            assert error(ys[k], v) < tolerance, f"{what}: output {k}: {error(ys[k], v)}"
        for k, v in self.final.items():
            assert error(final[k], v) < tolerance, f"{what}: final {k}: {error(final[k], v)}"

    def _check_gradients(self, layer: Any, xs: Any, state: Any, ys: Any, final: Any, tolerance: float) -> None:
        assert self.grads is not None
        for x in (*layer.parameters(), *xs.values(), *(state or {}).values()):
            x.grad = None
        loss = sum((_inner(ys[k], w) for k, w in self.d_outputs.items()), torch.zeros((), dtype=torch.float64))
        loss = loss + sum(_inner(final[k], w) for k, w in self.d_final.items())
        if not loss.requires_grad:
            return
        loss.backward()
        for name, p in layer.named_parameters():
            self._same_gradient(p, self.grads.params[name], tolerance, f"parameter {name}")
        for name, x in xs.items():
            if name in self.grads.inputs:
                self._same_gradient(x, self.grads.inputs[name], tolerance, f"input {name}")
        for name, s in (state or {}).items():
            self._same_gradient(s, self.grads.state[name], tolerance, f"initial state {name}")

    def _same_gradient(self, x: torch.Tensor, want: Any, tolerance: float, what: str) -> None:
        got = torch.zeros_like(x) if x.grad is None else x.grad
        assert error(got, want) < tolerance, f"gradient of {what}: {error(got, want)}"

    def _check_steps(self, layer: Any, xs: Any, state: Any, tolerance: float) -> None:
        rows: list[Any] = []
        state = None if state is None else nested(state, layer.initial_state(1))
        with torch.no_grad():
            for t in range(next(iter(xs.values())).shape[1]):
                y, state = layer.step(**{k: x[:, t] for k, x in xs.items()}, state=state)
                rows.append(y if isinstance(y, tuple) else (y,))
        ys = {k: torch.stack(r, 1) for k, r in zip(self.outputs, zip(*rows))}
        self._compare(ys, flat(state), tolerance, "step")


def _weights(rng: np.random.Generator, like: Any) -> Any:
    w = rng.normal(size=like.shape)
    return w + 1j * rng.normal(size=like.shape) if np.iscomplexobj(like) else w


def _inner(y: torch.Tensor, w: Any) -> torch.Tensor:
    """A real loss whose gradient with respect to y is w (PyTorch's convention for complex y)."""
    if not (y.is_floating_point() or y.is_complex()):
        return torch.zeros((), dtype=torch.float64)
    w = torch.tensor(w)
    return (y * w.conj()).real.sum().double() if y.is_complex() else (y.double() * w).sum()


def assert_close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-10) -> None:
    assert error(a, b.detach().resolve_conj().numpy()) < tolerance

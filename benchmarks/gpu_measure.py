"""One cell against the float64 oracle, and one shape against its peers."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_cases import CELLS, Cell, Shape, fitting
from benchmarks.gpu_clock import Clock, Rates, both
from benchmarks.gpu_peers import Peer, peer

TOLERANCES = {torch.float32: 2e-4, torch.bfloat16: 4e-2}  # of outputs and gradients, in norm


def load(folder: Path, name: str) -> Any:
    """The class of an emitted module."""
    path = folder / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"rnnc_benchmark_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # Triton reads the source of its functions
    spec.loader.exec_module(module)
    return getattr(module, module.__all__[0])


# ---------------------------------------------------------------- the oracle


def parts(path: Path) -> dict[str, dict[str, Any]]:
    """A small problem, by part and name."""
    found: dict[str, dict[str, Any]] = {}
    with np.load(path) as data:
        for key in data.files:
            part, name = key.split("/")
            found.setdefault(part, {})[name] = data[key]
    return found


def error(x: Tensor, want: Any) -> float:
    got = x.detach().double().cpu().numpy()
    scale = np.linalg.norm(want)
    return float(np.linalg.norm(got - want) / (scale if scale > 1e-30 else 1.0))


def verify(folder: Path, cell: Cell, device: str, dtype: torch.dtype, steps: int | None) -> dict[str, float]:
    """The largest error of outputs, last states and gradients, in norm; with `steps` of the outputs of a few only."""
    p = parts(folder / f"{cell.name}.npz")
    layer = load(folder, f"{cell.name}_triton")(**cell.small, device=device, dtype=dtype)

    def tensors(part: str) -> dict[str, Tensor]:
        return {k: torch.tensor(v, device=device).to(dtype) for k, v in p.get(part, {}).items()}

    with torch.no_grad():
        own = dict(layer.named_parameters())
        for name, value in tensors("param").items():
            own[name].copy_(value)
    inputs, state = tensors("input"), tensors("state")
    if steps is not None:
        y, _ = layer(**{k: x[:, :steps] for k, x in inputs.items()}, state=state)
        ys = y if isinstance(y, tuple) else (y,)
        return {"output": max(error(a, b[:, :steps]) for a, b in zip(ys, p["output"].values(), strict=True))}
    leaves = [*inputs.values(), *state.values(), *own.values()]
    for x in leaves:
        x.requires_grad_()
    y, final = layer(**inputs, state=state)
    ys = dict(zip(p["output"], y if isinstance(y, tuple) else (y,), strict=True))
    loss = sum((ys[k].float() * w.float()).sum() for k, w in tensors("weight").items())
    loss = loss + sum((final[k].float() * w.float()).sum() for k, w in tensors("end").items())
    loss.backward()  # type: ignore[union-attr]
    found = {"output": max(error(ys[k], v) for k, v in p["output"].items())}
    found["final"] = max(error(final[k], v) for k, v in p["final"].items())
    for part, xs in (("d_param", own), ("d_input", inputs), ("d_state", state)):
        if xs:
            found[part] = max(error(x.grad, p[part][k]) for k, x in xs.items())  # type: ignore[arg-type]
    return found


# ---------------------------------------------------------------- one shape


def given(shape: Shape, axes_by_name: Mapping[str, list[int]], device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random inputs, by name."""
    found = {}
    for name, axes in axes_by_name.items():
        x = torch.randn(shape.batch, shape.steps, *axes, device=device)
        found[name] = fitting(shape.cell, name, x).to(dtype).requires_grad_()
    return found


def axes_of(folder: Path, cell: Cell, sizes: Mapping[str, int]) -> dict[str, list[int]]:
    """The axes of each input behind batch and time: those of the small problem, its sizes replaced by these."""
    small = {v: k for k, v in cell.small.items()}
    assert len(small) == len(cell.small), "the sizes of a small problem differ from each other"
    found = {k: x.shape[2:] for k, x in parts(folder / f"{cell.name}.npz")["input"].items()}
    return {k: [sizes[small[n]] for n in shape] for k, shape in found.items()}


def layers_of(folder: Path, shape: Shape, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Our modules of a shape by their ending, all with the weights of one."""
    cell = CELLS[shape.cell]
    found = {n: load(folder, f"{cell.name}_{n}")(**shape.sizes, device=device, dtype=dtype) for n in cell.modules}
    for layer in found.values():
        layer.load_state_dict(found["triton"].state_dict())
    return found


def inputs_of(folder: Path, shape: Shape, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    return given(shape, axes_of(folder, CELLS[shape.cell], shape.sizes), device, dtype)


def measure(folder: Path, shape: Shape, clock: Clock, rates: Rates, rounds: int, dtype: torch.dtype) -> dict[str, Any]:
    """Times, ratios and limits of one shape."""
    cell, device = CELLS[shape.cell], clock.device
    layers, x = layers_of(folder, shape, device, dtype), inputs_of(folder, shape, device, dtype)
    with torch.no_grad():
        y = layers["triton"](**x)[0]
    competitors: dict[str, Peer] = {
        b: Peer(run=lambda layer=layer: layer(**x)[0], leaves=(*x.values(), *layer.parameters()))  # type: ignore[misc]
        for b, layer in layers.items()
    }
    weights = {"triton": torch.randn_like(y)}
    differences, failed = _tried(cell, competitors, weights, x, y, layers["triton"])
    read, written = (sum(t.numel() * t.element_size() for t in ts) for ts in (x.values(), (y,)))
    copied = torch.empty(max(1, (read + written) // 2), dtype=torch.int8, device=device)
    into = torch.empty_like(copied)
    copy: dict[str, Callable[[], object]] = {"copy": lambda: into.copy_(copied)}

    def without(p: Peer) -> Callable[[], object]:
        return torch.no_grad()(p.run)

    forward = clock.interleaved(copy | {n: without(p) for n, p in competitors.items()}, rounds)
    together = clock.interleaved({n: both(p.run, p.leaves, weights[n]) for n, p in competitors.items()}, rounds)
    limit = rates.limit(cell, shape, forward["copy"])
    # inputs are read twice and their gradients written, outputs written and their gradients read
    moved = (3 * read + 2 * written) / (read + written)
    limit_both = rates.limit(cell, shape, forward["copy"], backward=True, moved=moved)
    return {
        "shape": shape.title,
        "forward_s": forward,
        "forward_backward_s": together,
        "ratio_to": {n: forward[n] / forward["triton"] for n in competitors if n != "triton"},
        "ratio_to_forward_backward": {n: together[n] / together["triton"] for n in competitors if n != "triton"},
        "limit_s": limit,
        "of_limit": limit / forward["triton"],
        "limit_forward_backward_s": limit_both,
        "of_limit_forward_backward": limit_both / together["triton"],
        "differences": differences,
        "peers_failed": failed,
    }


def _tried(
    cell: Cell,
    competitors: dict[str, Peer],
    weights: dict[str, Tensor],
    x: Mapping[str, Tensor],
    y: Tensor,
    layer: torch.nn.Module,
) -> tuple[dict[str, float], dict[str, str]]:
    """How far the outputs of each competitor are from ours, and what those say that fail; adds the others and their
    weights.
    """
    differences, failed = {}, {}
    for name in (*(n for n in cell.modules if n != "triton"), *cell.peers):
        try:
            p = competitors.get(name) or peer(name, x, layer)
            if p is not None:
                weights[name], differences[name] = tried(p, y)
                competitors[name] = p
        except Exception as problem:  # noqa: BLE001  (packages of others raise anything; ours is measured still)
            failed[name] = said(problem)
            competitors.pop(name, None)
        for t in (*x.values(), *(() if name not in competitors else competitors[name].leaves)):
            t.grad = None
        if y.is_cuda:
            torch.cuda.empty_cache()
    return differences, failed


def tried(p: Peer, y: Tensor) -> tuple[Tensor, float]:
    """A competitor run once, backward too: a weight for its outputs, and how far these are from ours, in norm."""
    other = p.run()
    weight = torch.randn_like(other)
    difference = float((p.output(other.detach()).float() - y.float()).norm() / y.float().norm())
    other.backward(weight)
    if y.is_cuda:
        torch.cuda.synchronize()
    return weight, difference


def said(problem: BaseException) -> str:
    return f"{type(problem).__name__}: {problem}"[:500]

"""A generated layer beside the float64 oracle: what most cases of triton_interpreted.py are made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch_support as support

import rnnc
import rnnc.spec
from rnnc.compile import load_source
from rnnc.ir.oracle import init_params
from rnnc.ir.rounding import keep_digits
from rnnc.runtime.gpu.recurrence import Recurrence
from rnnc.runtime.gpu.tuning import Config

__all__ = ["ODD", "UNLISTED", "case_of", "is_the_oracle", "layer_of", "spec_of"]

STDLIB = Path(__file__).parent.parent / "stdlib"
UNLISTED, ODD = STDLIB / "unlisted", STDLIB / "odd"


def spec_of(source: str | Path) -> Any:
    """A file, a cell's text, or the name of a file of the library."""
    if isinstance(source, Path):
        return rnnc.load(source)
    return rnnc.spec.parse(source) if source.startswith("cell ") else rnnc.spec.stdlib(source)


def layer_of(spec: Any, cell: str | None, strategy: str | None, config: Config) -> tuple[Any, Any, list[Any]]:
    """The graph, the class of the generated module, and its kernels (at least one)."""
    from rnnc.backends.triton.backend import emit

    ir = spec.lower(cell)
    source = emit(keep_digits(ir), dims=None, strategy=strategy, sources=spec.sources)
    module = load_source(source, ir.name)
    kernels = [v for v in vars(module).values() if isinstance(v, Recurrence)]
    assert kernels or "runtime.gpu.matrix" in source, f"{ir.name} has no kernel"
    for k in kernels:
        k.configs[()] = Config(steps=4, channels=32, stages=1) if k.kind == "coupled" else config
    return ir, vars(module)[module.__all__[0]], kernels


def case_of(ir: Any, dims: Mapping[str, int], steps: int, start: bool) -> support.Case:
    """Random inputs; with `start`, an initial state of the size that the state has after some steps."""
    rng = np.random.default_rng(steps)
    params = init_params(ir, dims, rng)
    inputs = support.random_inputs(ir, dims, rng, batch=2, steps=steps)
    state = None
    if start:
        few = support.random_inputs(ir, dims, rng, batch=2, steps=3)
        first = support.Case(ir, dims, params, few, differentiable=False)
        state = {k: v + 0.1 * rng.normal(size=v.shape) for k, v in first.final.items()}
    return support.Case(ir, dims, params, inputs, state)


def chunkwise(layer: Any) -> bool:
    return bool({"matrix_scan", "normalised_scan"} & layer.__init__.__globals__.keys())


def is_the_oracle(
    source: str | Path,
    cell: str | None = None,
    *,
    kind: str,
    strategy: str | None = None,
    dims: Mapping[str, int] | None = None,
    steps: int = 13,
    start: bool = True,
    step: bool = False,
    config: Config | None = None,
) -> None:
    """Outputs, last states and all gradients in float64; `kind` is the schedule of the (first) kernel."""
    config = config or Config(steps=4, channels=4)
    ir, layer, kernels = layer_of(spec_of(source), cell, strategy, config)
    kinds = {k.kind for k in kernels} | ({"chunkwise"} if chunkwise(layer) else set())
    assert kind in kinds, kinds
    sizes = ir.dim_values(dims) if dims else support.small_dims(ir)
    case_of(ir, sizes, steps, start).check(layer, tolerance=1e-9, step=step)

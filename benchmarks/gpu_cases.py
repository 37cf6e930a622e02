"""What `benchmarks.gpu` measures: cells, shapes, and the files that a machine without the compiler needs.

`prepare` writes for each cell `NAME_triton.py` and `NAME_torch.py` (standalone modules) and `NAME.npz` (a small
problem, and what the float64 oracle says of it).  All else here needs no compiler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

GATED = """cell Gated(n: dim) {
  input a: real[n]
  input b: real[n]
  state h: real[n] = 0
  h <- sigmoid(a) * h + b
  output y: real[n] = h'
}"""
HEADS = """cell HeadLSTM(heads: dim, n: dim) {
  per heads {
    input i: real[n]
    input f: real[n]
    input g: real[n]
    input o: real[n]
    state h: real[n] = 0
    state c: real[n] = 0
    let new: real[n] = tanh(g + linear(h, bias = false))
    c <- sigmoid(f + linear(h, bias = false)) * c + sigmoid(i + linear(h, bias = false)) * new
    h <- sigmoid(o + linear(h, bias = false)) * tanh(c')
    output y: real[n] = h'
  }
}"""
KDA = """cell KDAOp(heads: dim, dk: dim, dv: dim) {
  per heads {
    input q: real[dk]
    input k: unit[dk]
    input v: real[dv]
    input g: real[dk] <= 0
    input beta: real in [0, 2]
    state S: real[dk, dv] = 0
    let kept: real[dk, dv] = diag(exp(g)) @ S
    S <- kept + beta * outer(k, v - kept.T @ k)
    output o: real[dv] = S'.T @ q
  }
}"""
PRODUCT = """cell DeltaProductOp(heads: dim, dk: dim, dv: dim) {
  per heads {
    input q: real[dk]
    input k: unit[dk]
    input v: real[dv]
    input beta: real in [0, 2]
    input k2: unit[dk]
    input v2: real[dv]
    input beta2: real in [0, 2]
    state S: real[dk, dv] = 0
    let first: real[dk, dv] = S + beta * outer(k, v - S.T @ k)
    S <- first + beta2 * outer(k2, v2 - first.T @ k2)
    output o: real[dv] = S'.T @ q
  }
}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A cell of the library (file, name) or a text of its own; `small` are the sizes for the comparison.

    `flops` and `functions` (exponentials and the like) are those of one step of one sequence, from the sizes.  `also`:
    other strategies whose kernels take part, to be compared with the planner's.
    """

    name: str
    file: str = ""
    text: str = ""
    small: Mapping[str, int]
    peers: tuple[str, ...]
    also: tuple[str, ...] = ()
    flops: Callable[[Mapping[str, int]], float] = lambda s: 0.0
    functions: Callable[[Mapping[str, int]], float] = lambda s: 0.0
    chain: float = 0.0  # microseconds that a step takes where each waits for the one before

    @property
    def modules(self) -> dict[str, tuple[str, str | None]]:
        """The emitted modules by their ending: the backend, and a strategy that was asked for."""
        others = {f"triton_{s}": ("triton", s) for s in self.also}
        return {"triton": ("triton", None), "torch": ("torch", None), **others}

    @property
    def cell(self) -> str | None:
        return self.name if self.file else None


def state_flops(s: Mapping[str, int]) -> float:
    """Write and read of a matrix state."""
    return 4.0 * s["heads"] * s.get("dk", s.get("n", 0)) * s.get("dv", s.get("p", 0))


MATRIX = {"heads": 3, "dk": 20, "dv": 24}
CELLS = {
    c.name: c
    for c in (
        Cell(
            name="Gated",
            text=GATED,
            small={"n": 37},
            peers=("accelerated_scan", "accelerated_scan_triton"),
            functions=lambda s: s["n"],
        ),
        Cell(
            name="SelectiveScan",
            file="mamba",
            small={"e": 19, "n": 5},
            peers=("mamba_ssm",),
            also=("sequential",),
            functions=lambda s: s["e"] * s["n"],
        ),
        Cell(
            name="SSDOp", file="mamba2", small={"heads": 3, "n": 20, "p": 24}, peers=("fla_simple",), flops=state_flops
        ),
        Cell(name="GLAOp", file="gla", small=MATRIX, peers=("fla_gla",), flops=state_flops),
        Cell(name="DeltaOp", file="deltanet", small=MATRIX, peers=("fla_delta",), flops=state_flops),
        Cell(name="GatedDeltaOp", file="gated_deltanet", small=MATRIX, peers=("fla_gated_delta",), flops=state_flops),
        Cell(
            name="DeltaProductOp",
            text=PRODUCT,
            small=MATRIX,
            peers=("fla_product", "fla_gated_product"),
            flops=state_flops,
        ),
        Cell(name="KDAOp", text=KDA, small=MATRIX, peers=("fla_kda",), flops=state_flops),
        Cell(name="HeadLSTM", text=HEADS, small={"heads": 3, "n": 20}, peers=(), chain=0.3),
        Cell(name="LSTM", file="lstm", small={"d": 7, "n": 20}, peers=("nn_lstm",)),
        Cell(name="GRU", file="gru", small={"d": 7, "n": 20}, peers=("nn_gru",)),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    cell: str
    batch: int
    steps: int
    sizes: Mapping[str, int]

    @property
    def title(self) -> str:
        return f"{self.cell} B{self.batch} T{self.steps} " + " ".join(f"{k}{v}" for k, v in self.sizes.items())


def _matrix(cell: str, batch: int, steps: int, heads: int, size: int) -> Shape:
    names = ("n", "p") if cell == "SSDOp" else ("dk", "dv")
    return Shape(cell=cell, batch=batch, steps=steps, sizes={"heads": heads, **dict.fromkeys(names, size)})


MATRICES = ("SSDOp", "GLAOp", "DeltaOp", "GatedDeltaOp", "DeltaProductOp", "KDAOp")
GRIDS = ((8, 4096, 16, 128), (1, 8192, 96, 128), (8, 2048, 32, 256), (8, 1024, 8, 64))  # batch, steps, heads, size
SHAPES = (
    Shape(cell="Gated", batch=8, steps=4096, sizes={"n": 2048}),
    Shape(cell="Gated", batch=1, steps=8192, sizes={"n": 2048}),
    Shape(cell="SelectiveScan", batch=8, steps=4096, sizes={"e": 2048, "n": 16}),
    *(_matrix(cell, *grid) for cell in MATRICES for grid in GRIDS),
    Shape(cell="HeadLSTM", batch=16, steps=1024, sizes={"heads": 16, "n": 128}),
    Shape(cell="LSTM", batch=16, steps=1024, sizes={"d": 128, "n": 128}),
    Shape(cell="LSTM", batch=16, steps=1024, sizes={"d": 512, "n": 512}),
    Shape(cell="GRU", batch=16, steps=1024, sizes={"d": 128, "n": 128}),
)


# ---------------------------------------------------------------- with the compiler


def prepare(folder: Path, cells: Iterable[str]) -> None:
    """Write modules and small problems for these cells.  Needs the compiler (and its parser)."""
    import rnnc
    from rnnc.compile import emit_source
    from rnnc.spec import stdlib

    folder.mkdir(parents=True, exist_ok=True)
    for c in (CELLS[name] for name in cells):
        spec = stdlib(c.file) if c.file else rnnc.parse(c.text)
        for name, (backend, strategy) in c.modules.items():
            text = emit_source(spec, c.name, backend=backend, strategy=strategy)
            (folder / f"{c.name}_{name}.py").write_text(text)
        np.savez(folder / f"{c.name}.npz", **_problem(spec.lower(c.cell), c))  # type: ignore[arg-type]


def _problem(cell: Any, c: Cell) -> dict[str, Any]:
    """A small problem: parameters, inputs, an initial state, weights of the loss, and the oracle's answer to all."""
    from rnnc.ir.oracle import gradients, init_params, run

    rng = np.random.default_rng(0)
    dims = cell.dim_values(c.small)
    params = init_params(cell, dims, rng)
    inputs = {i.name: _input(cell, i, dims, rng) for i in cell.inputs}
    _, reached = run(cell, dims, params, {k: v[:, :3] for k, v in inputs.items()})
    state = {k: v + 0.1 * rng.normal(size=v.shape) for k, v in reached.items()}
    outputs, final = run(cell, dims, params, inputs, state)
    weights = {k: rng.normal(size=v.shape) for k, v in outputs.items()}
    ends = {k: rng.normal(size=v.shape) for k, v in final.items()}
    found = gradients(cell, dims, params, inputs, weights, ends, state)
    parts = {
        "param": params,
        "input": inputs,
        "state": state,
        "weight": weights,
        "end": ends,
        "output": outputs,
        "final": final,
        "d_param": found.params,
        "d_input": found.inputs,
        "d_state": found.state,
    }
    return {f"{part}/{name}": x for part, xs in parts.items() for name, x in xs.items()}


def _input(cell: Any, i: Any, dims: Mapping[str, int], rng: np.random.Generator) -> Any:
    t = cell.nodes[i.node].type
    shape = (2, 139, *(d.evaluate(dims) for d in (*t.per, *t.shape)))
    return fitting(cell.name, i.name, rng.normal(size=shape))


def fitting(cell: str, name: str, x: Any) -> Any:
    """A value of an input from random numbers, so that states stay bounded: gates in range, keys of length one."""
    if name == "g" and cell != "HeadLSTM":
        return -abs(x)
    if name == "dt":
        return abs(x)
    if name.startswith("beta"):
        return 1 + 0.5 * np.tanh(x) if isinstance(x, np.ndarray) else 1 + 0.5 * x.tanh()
    if name.startswith("k") and ("Delta" in cell or cell == "KDAOp"):
        return x / (
            np.linalg.norm(x, axis=-1, keepdims=True) if isinstance(x, np.ndarray) else x.norm(dim=-1)[..., None]
        )
    return x

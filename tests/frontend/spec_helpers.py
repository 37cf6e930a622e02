"""Lowering a text in a test, and running what it means."""

from __future__ import annotations

from typing import Any

import numpy as np

from rnnc.diagnostics import render
from rnnc.ir import oracle
from rnnc.ir.graph import CellIR, Node
from rnnc.ir.verify import verify_cell
from rnnc.spec import Spec, parse


def sound(text: str) -> Spec:
    """A spec without errors."""
    spec = parse(text)
    found = spec.check()
    assert found.items == [], "\n".join(render(d, spec.sources) for d in found.items)
    return spec


def lowered(text: str, cell: str | None = None, **hyper: Any) -> CellIR:
    ir = sound(text).lower(cell, **hyper)
    verify_cell(ir)
    return ir


def errors(text: str) -> list[tuple[str, int, int]]:
    """(code, line, column) of every diagnostic."""
    return [(d.code, d.span.line, d.span.column) if d.span else (d.code, 0, 0) for d in parse(text).check().items]


def messages(text: str) -> list[str]:
    return [d.message for d in parse(text).check().items]


def named(cell: CellIR, name: str) -> Node:
    """The node that has the spec's name."""
    found = [n for n in cell.nodes if n.name == name]
    assert len(found) == 1, [n.name for n in cell.nodes]
    return found[0]


def params(cell: CellIR) -> dict[str, str]:
    """The parameters and their types."""
    return {p.name: str(cell.nodes[p.node].type) for p in cell.params}


def run(
    cell: CellIR, inputs: dict[str, Any], weights: dict[str, Any] | None = None, **dims: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Outputs and final states for inputs of shape [time, ...]; no batch axis in or out."""
    env = cell.dim_values(dims)
    values = oracle.init_params(cell, env, np.random.default_rng(0))
    values |= {k: np.asarray(v) for k, v in (weights or {}).items()}
    arrays = {k: np.asarray(v)[None] for k, v in inputs.items()}
    outputs, final = oracle.run(cell, env, values, arrays)
    by_name = outputs if isinstance(outputs, dict) else dict(zip((o.name for o in cell.outputs), outputs, strict=True))
    return {k: np.asarray(v)[0] for k, v in by_name.items()}, {k: np.asarray(v)[0] for k, v in final.items()}


def value(expression: str, declarations: str = "", **inputs: Any) -> np.ndarray:
    """What an expression of constant-size inputs gives in one step."""
    heads = "\n".join(
        f"  input {name}: real{[*np.shape(v)] if np.shape(v) else ''}" for name, v in {"unused": 0.0, **inputs}.items()
    )
    cell = lowered(f"cell C() {{\n{heads}\n{declarations}\n  output result = {expression}\n}}")
    out, _ = run(cell, {k: np.asarray(v, dtype=float)[None] for k, v in {"unused": 0.0, **inputs}.items()})
    return out["result"][0]

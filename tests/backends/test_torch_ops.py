"""code(torch) of every op agrees with the concrete domain: for a step, a sequence, and their gradients."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rnnc.backends.torch.emit import emit_cell
from rnnc.ir.graph import CellIR, Input, Node
from rnnc.ir.types import Type


def sibling(name: str, path: Path) -> Any:
    """A helper module of the tests, which are no package."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


HERE = Path(__file__).parent
support = sibling("torch_support", HERE / "torch_support.py")
examples = sibling("op_examples", HERE.parent / "ir" / "op_examples.py")
MODEL_OPS = ("call", "repeat")
EXAMPLES = [e for e in examples.EXAMPLES if e.op not in MODEL_OPS]


def with_an_input(cell: CellIR) -> CellIR:
    """A cell of constants gets an input that nothing reads, so that it has a batch and a length."""
    if cell.inputs:
        return cell
    node = Node(id=len(cell.nodes), op="input", attrs=(("type", Type()),), type=Type(), name="clock")
    return replace(cell, nodes=(*cell.nodes, node), inputs=(Input(name="clock", node=node.id),))


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_op(example: Any) -> None:
    cell = with_an_input(example.cell)
    rng = np.random.default_rng(0)
    values = example.sample(rng, (2, 5))
    inputs = {i.name: values.get(i.name, np.zeros((2, 5))) for i in cell.inputs}
    params = {p.name: values[p.name] for p in cell.params}
    smooth = cell.nodes[example.node].type.dtype in ("real", "complex") and example.op != "attention"
    case = support.Case(cell, example.dims, params, inputs, differentiable=smooth)
    cls = support.load(emit_cell(cell, (), {}), cell.name)
    case.check(cls)

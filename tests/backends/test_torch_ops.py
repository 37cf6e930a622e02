"""code(torch) of every op agrees with the concrete domain: for a step, a sequence, and their gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import op_examples as examples
import pytest
import torch_support as support

from rnnc.backends.torch.emit import emit_cell
from rnnc.ir.graph import CellIR, Input, Node
from rnnc.ir.types import Type

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

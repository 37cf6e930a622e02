"""What a recurrence adds up before it begins, and what has to stay where it is."""

from __future__ import annotations

import pytest

import rnnc
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.backends.kernels.pointwise import pointwise
from rnnc.backends.kernels.region import Coupled, find_coupled
from rnnc.backends.kernels.sums import biases_first
from rnnc.ir.graph import CellIR
from rnnc.ir.rounding import keep_digits

CELL = """cell Own(d: dim, n: dim) {{
  input x: real[d]
  param p: real[n] init normal(0.3)
  param q: real[n] init normal(0.3)
  state h: real[n] = 0
  {steps}
  output y: real[n] = h'
}}"""


def lowered(steps: str) -> CellIR:
    return keep_digits(rnnc.parse(CELL.format(steps=steps)).lower("Own"))


def between_products(ir: CellIR) -> Coupled:
    recurrence = pointwise(analyse_recurrence(ir))
    (group,) = recurrence.groups
    found = find_coupled(recurrence.cell, group)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "step",
    [
        "linear(x) + linear(h)",
        "linear(h) + linear(x)",
        "p + (linear(x) + (linear(h) + q))",
        "(linear(h) + p) + (q + linear(x))",
        "linear(x, bias = false) + (linear(h, bias = false) + 1 + p)",
    ],
)
def test_biases_are_added_before(step: str) -> None:
    """A kernel reads one sequence and the product, nothing else."""
    region = between_products(lowered(f"h <- tanh({step})")).region
    assert len(region.inputs) == 2
    assert not region.static


@pytest.mark.parametrize(
    "steps",
    [
        "h <- tanh(linear(h) + p)",  # nothing to add it to
        "h <- tanh(linear(x) + sigmoid(linear(x)) * linear(h))",  # multiplied first
        "let s: real[n] = linear(h) + p\n  h <- tanh(linear(x) + s) * s",  # read without x, too
        "h <- tanh(linear(x) + linear(h, bias = false))",
        "h <- tanh((h + p) + linear(x))",  # may cancel
        "h <- max((h + p) + linear(x), q)",
    ],
)
def test_all_else_stays(steps: str) -> None:
    ir = lowered(steps)
    assert biases_first(ir) is ir

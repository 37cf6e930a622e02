"""Five cells that stand in no paper, written from the language reference: their analysis and the oracle's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import stdlib_specs as specs

import rnnc
from rnnc.analysis.recurrence import analyse_recurrence

HERE = Path(__file__).parent


# file: cell, kind, structure, field, normal forms, strategies that must be legal beside `step` and `sequential`
TABLE = {
    "pendulum": ("Pendulum", "nonlinear", "dense", "real", (), {"newton"}),
    "saturating_memory": ("SaturatingMemory", "nonlinear", "dense", "real", (), {"newton"}),
    "column_eraser": ("ColumnEraser", "affine", "householder_product", "real", ("MatrixState",), {"chunkwise"}),
    "tide": ("Tide", "affine", "block_diagonal", "real", ("Coupled",), {"block_scan"}),
    "phasor": ("Phasor", "affine", "diagonal", "complex", ("Elementwise",), {"scan"}),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_analysis(name: str) -> None:
    cell, kind, structure, field, forms, strategies = TABLE[name]
    spec = rnnc.load(HERE / "unlisted" / f"{name}.rnn")
    assert not spec.check().items
    lowered = spec.lower(cell)
    (group,) = analyse_recurrence(lowered).groups
    assert (group.kind, group.structure, group.field) == (kind, structure, field)
    assert tuple(type(f).__name__ for f in group.forms) == forms
    assert set(specs.overrides(lowered)) == {"step", "sequential"} | strategies


def test_the_right_acting_form_says_so() -> None:
    lowered = rnnc.load(HERE / "unlisted" / "column_eraser.rnn").lower("ColumnEraser")
    (group,) = analyse_recurrence(lowered).groups
    form: Any = group.forms[0]
    assert form.side == "right"
    assert len(form.steps) == 1
    assert form.steps[0].decay is not None


@pytest.mark.filterwarnings("ignore::rnnc.runtime.NewtonWarning")  # it may end in single steps, with the same numbers
@pytest.mark.parametrize("time", [1, 2, 63, 75])
@pytest.mark.parametrize("name", TABLE)
def test_every_strategy_agrees_with_the_oracle(name: str, time: int) -> None:
    cell, _, _, _, _, strategies = TABLE[name]
    spec = rnnc.load(HERE / "unlisted" / f"{name}.rnn")
    assert strategies <= set(specs.check(spec, cell, {"d": 5}, time=time))

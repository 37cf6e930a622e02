"""The text of a few emitted modules, so that a change of the generated code is seen; each is run against the oracle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch_support as support

import rnnc
from rnnc.ir.oracle import init_params

GOLDEN = Path(__file__).parent / "golden"
CASES = (("gated_deltanet", "GatedDeltaNet"), ("lstm", "LSTM"), ("mlstm", "mLSTM"), ("s5", "S5"))


@pytest.mark.parametrize(("file", "cell"), CASES)
def test_golden(file: str, cell: str, request: pytest.FixtureRequest) -> None:
    spec = rnnc.stdlib(file)
    layer = rnnc.compile(spec, cell)
    golden = GOLDEN / f"{file}.py.txt"
    if request.config.getoption("--update-golden"):
        golden.write_text(layer.source, encoding="utf-8")
    graph = spec.lower(cell)
    dims = support.small_dims(graph)
    rng = np.random.default_rng(0)
    case = support.Case(graph, dims, init_params(graph, dims, rng), support.random_inputs(graph, dims, rng, 2, 9))
    case.check(layer)
    assert layer.source == golden.read_text(encoding="utf-8"), "read the difference, then run pytest --update-golden"


def test_goldens_are_not_updated_in_ci() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--update-golden", "--collect-only", "-q", str(Path(__file__).parent)],
        env={"CI": "1", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "refused in CI" in done.stderr

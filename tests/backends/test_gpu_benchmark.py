"""`benchmarks.gpu`: everything but the GPU on small sizes, and, on a GPU, every cell against the oracle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_cases

pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_dry_run(tmp_path: Path) -> None:
    """Prepared, verified, measured in the interpreter, written down."""
    done = run("--dry-run", "--only", "Gated", "--json", str(tmp_path / "gpu.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "right  Gated" in done.stdout
    report = json.loads((tmp_path / "gpu.json").read_text())
    (shape,) = report["shapes"]
    assert set(shape["forward_s"]) >= {"copy", "triton", "torch"}
    assert shape["differences"]["torch"] < 1e-5


def test_unknown_cells_and_no_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--only", "Nothing"]) == 2
    assert "no cell Nothing" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert gpu.main(["--only", "Gated"]) == 2
        assert "--dry-run" in capsys.readouterr().err


def test_limits_are_those_of_the_hardware_notes() -> None:
    """The forward bounds of docs/kernels.md, from the rates of the device they are stated for."""
    rates = gpu.Rates(products=790e12, functions=3.7e12)
    cell, (shape,) = gpu_cases.CELLS["SelectiveScan"], [s for s in gpu_cases.SHAPES if s.cell == "SelectiveScan"]
    assert 0.28e-3 < rates.limit(cell, shape, copy=0.0) < 0.30e-3
    heads = next(s for s in gpu_cases.SHAPES if s.cell == "HeadLSTM")
    assert rates.limit(gpu_cases.CELLS["HeadLSTM"], heads, copy=0.0) == pytest.approx(0.3e-6 * heads.steps)


def test_every_shape_gives_its_cell_its_sizes() -> None:
    for shape in gpu_cases.SHAPES:
        assert set(shape.sizes) == set(gpu_cases.CELLS[shape.cell].small), shape


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cell", gpu_cases.CELLS)
def test_on_the_gpu(cell: str, dtype: torch.dtype, tmp_path: Path) -> None:
    gpu_cases.prepare(tmp_path, [cell])
    errors = gpu.verify(tmp_path, gpu_cases.CELLS[cell], "cuda", dtype, None)
    assert max(errors.values()) < gpu.TOLERANCES[dtype], errors

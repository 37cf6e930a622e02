"""What `benchmarks.triton_static` counts without a GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
COUNTED = """
import sys, tempfile
from pathlib import Path
from benchmarks.gpu_cases import Shape, prepare
from benchmarks.static_record import pretended
from benchmarks.triton_static import rows_of
with tempfile.TemporaryDirectory() as name, pretended():
    prepare(Path(name), ["Gated", "DeltaOp"])
    for cell, sizes in (("Gated", {"n": 128}), ("DeltaOp", {"heads": 4, "dk": 32, "dv": 32})):
        ways = rows_of(Path(name), Shape(cell=cell, batch=2, steps=256, sizes=sizes), machine_code=False)["rnnc"]
        for way in ways.values():
            print(cell, way["launches"], way["bytes"], *(k["kernel"] for k in way["kernels"]))
"""


def test_every_launch_is_counted_with_its_tensors() -> None:
    command = [sys.executable, "-c", COUNTED]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    scan, scan_back, delta, delta_back = (line.split() for line in done.stdout.splitlines())
    assert scan[3:] == ["gated_h_totals", "_between", "gated_h_forward"]  # few channels: the steps are divided
    assert scan_back[3:] == ["gated_h_backward_totals", "_between", "gated_h_backward"]
    inputs = 2 * 2 * 256 * 128 * 2  # two, of two bytes
    assert int(scan[2]) >= 2 * inputs + inputs // 2, "read twice, and an output"
    assert delta[3:] == ["low_rank_inverse", "low_rank_walk"]
    assert "low_rank_backward" in delta_back[3:]
    assert int(delta[2]) >= 4 * 2 * 256 * 4 * 32 * 2, "q, k, v and the output"

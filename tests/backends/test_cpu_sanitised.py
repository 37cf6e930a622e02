"""The emitted C under the address and undefined-behaviour sanitizers, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rnnc.runtime.compiled import compiler

HERE = Path(__file__).parent
SCRIPT = """
import sys
sys.path[:0] = {paths!r}
import torch
import test_cpu_cells as cells
from rnnc.runtime import compiled
compiled.FLAGS = (*compiled.FLAGS, "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
torch.set_num_threads(2)
for p in cells.cells({folder}):
    path, cell = p.values
    ir = cells.spec_of(path).lower(cell)
    if not ir.inputs or not {chosen}(cell):
        continue
    dims = cells.support.small_dims(ir) if {folder} == cells.LIBRARY else ir.dim_values(
        {{k: v for k, v in cells.SIZES.items() if k in {{d.name for d in ir.dims}}}})
    for steps in (1, 2, 17):
        cells.case(path, cell, steps, dims).check(cells.compiled(path, cell), step=steps == 2)
print("clean")
"""


def sanitizer() -> str | None:
    """The sanitizer's library, which has to be loaded first."""
    command = compiler()
    if command is None or sys.platform != "linux":
        return None
    found = subprocess.run([*command, "-print-file-name=libasan.so"], capture_output=True, text=True, check=False)
    path = found.stdout.strip()
    return path if os.path.isabs(path) else None


def run(folder: str, chosen: str, cache: Path) -> None:
    library = sanitizer()
    if library is None:
        pytest.skip("needs gcc with its address sanitizer")
    script = SCRIPT.format(paths=[str(HERE)], folder=f"cells.{folder}", chosen=chosen)
    options = {
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",
        "RNNC_CACHE": str(cache),
        "OMP_NUM_THREADS": "2",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **options},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip().endswith("clean")


def test_a_cell(tmp_path: Path) -> None:
    run("LIBRARY", "{'SelectiveScan'}.__contains__", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["LIBRARY", "ODD"])
def test_all_cells(folder: str, tmp_path: Path) -> None:
    run(folder, "bool", tmp_path)

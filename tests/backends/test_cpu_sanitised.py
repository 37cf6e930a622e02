"""The emitted C under the address and undefined-behaviour sanitizers, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rnnc.runtime.compiled import compiler

HERE = Path(__file__).parent
PARTS = 4  # of all cells: processes that run by themselves
SCRIPT = """
import sys
sys.path[:0] = {paths!r}
import torch
import test_cpu_cells as cells
from rnnc.runtime import compiled, native_call, products
native_call.SMALL = 0  # threads, where there are several, share every call
compiled.FLAGS = (*compiled.FLAGS, "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
torch.set_num_threads({threads})
{body}
print("clean")
"""
ALL_CELLS = """
for p in cells.cells({folder})[{part}::{parts}]:
    path, cell = p.values
    ir = cells.spec_of(path).lower(cell)
    if not ir.inputs or not {chosen}(cell):
        continue
    dims = cells.odd_dims(ir) if {folder} == cells.ODD else cells.support.small_dims(ir)
    print(cell, flush=True)
    for steps in (1, 2, 17):
        cells.case(path, cell, steps, dims).check(cells.compiled(path, cell), step=steps == 2)
    for kind, layer in cells.by_kernels(path, cell).items():
        cells.case(path, cell, 37, dims).check(layer, tolerance=1e-6, step=False)
"""
ODD_SIZES = """
for file, cell, dims in cells.ODD_SIZES:
    path = cells.LIBRARY / file
    ir = cells.spec_of(path).lower(cell)
    print(cell, flush=True)
    known = {d.name for d in ir.dims}
    found = cells.case(path, cell, 21, ir.dim_values({k: v for k, v in dims.items() if k in known}))
    found.check(cells.compiled(path, cell), step=False)
    found.check(cells.compiled(path, cell), dtype=torch.float32, tolerance=1e-4)
"""
HALF = """
for file, cell in (("lstm", "LSTM"), ("gru", "GRU"), ("minlstm", "MinLSTM"), ("gated_deltanet", "GatedDeltaNet")):
    spec = cells.spec_of(cells.LIBRARY / (file + ".rnn"))
    dims = cells.support.small_dims(spec.lower(cell))
    for half in (torch.bfloat16, torch.float16):
        layer = cells.rnnc.compile(spec, cell, backend="cpu")(**dims, dtype=half)
        x = torch.randn(3, 19, layer.d, dtype=half)
        y, state = layer(x)
        y.float().sum().backward()
        with torch.no_grad():
            assert torch.isfinite(layer.step(x[:, 0], state={k: v.detach() for k, v in state.items()})[0]).all()
"""
MANY = """
for file, cell in (("lru", "LRU"), ("mamba2", "Mamba2"), ("slstm", "sLSTM")):
    spec = cells.spec_of(cells.LIBRARY / (file + ".rnn"))
    layer = cells.rnnc.compile(spec, cell, backend="cpu")(d=48)
    with torch.no_grad():
        for count in (1, 3, 65, 130):
            assert torch.isfinite(layer.step(torch.randn(count, 48))[0]).all()
"""
PRODUCTS = """
for dtype in (torch.float32, torch.float64):
    for m, n, k in ((1, 1, 1), (13, 33, 7), (97, 65, 300), (5, 70, 513), (30, 40, 4200)):
        for a in (torch.randn(m, k, dtype=dtype), torch.randn(k, m, dtype=dtype).T):
            for b in (torch.randn(k, n, dtype=dtype), torch.randn(n, k, dtype=dtype).T):
                found = products.run(a, b, torch.randn(n, dtype=dtype))
                assert torch.isfinite(found).all()
"""


def sanitizer() -> str | None:
    """The sanitizer's library, which has to be loaded first."""
    command = compiler()
    if command is None or sys.platform != "linux":
        return None
    found = subprocess.run([*command, "-print-file-name=libasan.so"], capture_output=True, text=True, check=False)
    path = found.stdout.strip()
    return path if os.path.isabs(path) else None


def run(body: str, cache: Path, threads: int = 2) -> None:
    library = sanitizer()
    if library is None:
        pytest.skip("needs gcc with its address sanitizer")
    script = SCRIPT.format(paths=[str(HERE)], body=body, threads=threads)
    options = {
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",
        "RNNC_CACHE": str(cache),
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **options},
        capture_output=True,
        text=True,
        timeout=7200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-300:] + done.stderr[-4000:]
    assert done.stdout.strip().endswith("clean")


def test_a_cell(tmp_path: Path) -> None:
    chosen = "{'SelectiveScan'}.__contains__"
    run(ALL_CELLS.format(folder="cells.LIBRARY", part=0, parts=1, chosen=chosen), tmp_path)


def test_products_of_matrices(tmp_path: Path) -> None:
    run(PRODUCTS, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("folder", ["LIBRARY", "UNLISTED", "ODD"])
def test_all_cells(folder: str, part: int, tmp_path: Path) -> None:
    script = ALL_CELLS.format(folder=f"cells.{folder}", part=part, parts=PARTS, chosen="bool")
    run(script, tmp_path, threads=1)


@pytest.mark.slow
@pytest.mark.parametrize("body", [HALF, MANY], ids=["half types", "many sequences"])
def test_steps_and_types(body: str, tmp_path: Path) -> None:
    run(body, tmp_path)


@pytest.mark.slow
def test_odd_sizes(tmp_path: Path) -> None:
    run(ODD_SIZES, tmp_path, threads=1)

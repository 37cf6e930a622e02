"""What `benchmarks.triton_static` counts without a GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.static_table import RECORD, merged, placed, read, table

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
    built = rows_of(Path(name), Shape(cell="Gated", batch=1, steps=8, sizes={"n": 64}), machine_code=True)["rnnc"]
    for k in (k for way in built.values() for k in way["kernels"]):
        print(k["kernel"], k["registers"], k["spilled"], k["shared"])
"""


def test_every_launch_is_counted_with_its_tensors() -> None:
    command = [sys.executable, "-c", COUNTED]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    scan, scan_back, delta, delta_back, *built = (line.split() for line in done.stdout.splitlines())
    assert scan[3:] == ["gated_h_totals", "_between", "gated_h_forward"]  # few channels: the steps are divided
    assert scan_back[3:] == ["gated_h_backward_totals", "_between", "gated_h_backward"]
    inputs = 2 * 2 * 256 * 128 * 2  # two, of two bytes
    assert int(scan[2]) >= 2 * inputs + inputs // 2, "read twice, and an output"
    assert delta[3:] == ["low_rank_inverse", "low_rank_walk"]
    assert "low_rank_backward" in delta_back[3:]
    assert int(delta[2]) >= 4 * 2 * 256 * 4 * 32 * 2, "q, k, v and the output"
    assert [name for name, *_ in built] == ["gated_h_forward", "gated_h_backward"]
    assert all(16 <= int(registers) <= 255 and spilled == "0" for _, registers, spilled, _ in built)


def test_the_table_of_the_document_is_the_one_of_the_record() -> None:
    text = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
    made = table(read(RECORD)["shapes"])
    assert made + "\n\n" in text, "run: python -m benchmarks.triton_static --table docs/kernels.md"
    row = made.splitlines()[-1]
    assert placed(text.replace(row, row.replace("|", "| 7", 1)), made) == text
    with pytest.raises(ValueError, match="0 tables"):
        placed("no table here", made)


def test_a_record_keeps_what_is_not_counted_again() -> None:
    """Other shapes, and peers that are not installed today."""
    old = {"a": {"rnnc": {"forward": 1}, "fla_gla": {"forward": 2}}, "b": {"rnnc": {"forward": 3}}}
    new = {"a": {"rnnc": {"forward": 4}}, "c": {"rnnc": {"forward": 5}}}
    assert merged(old, new) == {
        "a": {"rnnc": {"forward": 4}, "fla_gla": {"forward": 2}},
        "b": {"rnnc": {"forward": 3}},
        "c": {"rnnc": {"forward": 5}},
    }


@pytest.mark.slow
def test_the_record_is_of_the_kernels_as_they_are(tmp_path: Path) -> None:
    """Ours, of all shapes; peers are recorded where they are installed."""
    made = tmp_path / "made.json"
    command = [sys.executable, "-m", "benchmarks.triton_static", "--record", str(made)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    old, new = ({title: ways["rnnc"] for title, ways in read(p)["shapes"].items()} for p in (RECORD, made))
    assert old == new, "run: python -m benchmarks.triton_static --record (docs/kernels.md, Counted beside peers)"

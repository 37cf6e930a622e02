"""`benchmarks.gpu`: everything but the GPU on small sizes, and, on a GPU, every cell against the oracle."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu, gpu_cases, gpu_clock, gpu_measure, gpu_peers, gpu_report, gpu_warm

pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]


BARE = """
import runpy, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("lark", "rich", "click", "automata"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path[:] = [Missing(), *(f for f in sys.meta_path if "editable" not in str(f).lower())]
sys.path_hooks[:] = [h for h in sys.path_hooks if "editable" not in str(h).lower()]
sys.argv = ["gpu", *sys.argv[1:]]
runpy.run_module("benchmarks.gpu", run_name="__main__", alter_sys=True)
"""


def run_bare(*arguments: str) -> subprocess.CompletedProcess[str]:
    """From a checkout that is not installed, with torch, triton and numpy, without what the command line wants."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", BARE, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_dry_run(tmp_path: Path) -> None:
    """Prepared, verified, measured in the interpreter, written down, where little is installed."""
    done = run_bare("--dry-run", "--only", "Gated", "--json", str(tmp_path / "gpu.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "right  Gated" in done.stdout
    report = json.loads((tmp_path / "gpu.json").read_text())
    (shape,) = report["shapes"]
    assert set(shape["forward_s"]) >= {"copy", "triton", "torch"}
    assert shape["differences"]["torch"] < 1e-5
    assert "running" not in report
    said = run("--table", "--json", str(tmp_path / "gpu.json")).stdout
    assert "| Gated B1 T5 n37 |" in said
    assert "the interpreter" in said


def test_unknown_cells_and_no_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--only", "Nothing"]) == 2
    assert "no cell Nothing" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert gpu.main(["--only", "Gated"]) == 2
        assert "--dry-run" in capsys.readouterr().err


def test_limits_are_those_of_the_hardware_notes() -> None:
    """The forward bounds of docs/kernels.md, from the rates of the device they are stated for."""
    rates = gpu_clock.Rates(products=790e12, functions=3.7e12)
    cell, (shape,) = gpu_cases.CELLS["SelectiveScan"], [s for s in gpu_cases.SHAPES if s.cell == "SelectiveScan"]
    assert 0.28e-3 < rates.limit(cell, shape, copy=0.0) < 0.30e-3
    heads = next(s for s in gpu_cases.SHAPES if s.cell == "HeadLSTM")
    assert rates.limit(gpu_cases.CELLS["HeadLSTM"], heads, copy=0.0) == pytest.approx(0.3e-6 * heads.steps)


def test_every_shape_gives_its_cell_its_sizes() -> None:
    for shape in gpu_cases.SHAPES:
        assert set(shape.sizes) == set(gpu_cases.CELLS[shape.cell].small), shape


def test_what_dies_leaves_the_rest_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process dies at its first shape and does the next one, one hangs while it is compared, one is done before."""
    written = tmp_path / "gpu.json"
    begun: list[str] = []

    def process(command: list[str], timeout: float, check: bool) -> subprocess.CompletedProcess[str]:
        name = command[command.index("--only") + 1]
        begun.append(name)
        report = gpu_report.Report.at(written, "cuda")
        if name == "LSTM":
            report.begin(name)
            raise subprocess.TimeoutExpired(command, timeout)
        report.data["errors"] |= {f"{name} float32": {"output": 0.0}}
        first, *rest = report.left([name])
        if begun.count(name) == 1:
            report.begin(first.title)
            return subprocess.CompletedProcess(command, -6)
        report.data["shapes"] += [{"shape": s.title} for s in (first, *rest)]
        report.end()
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(gpu_report, "machine", lambda device: {"device": device})
    monkeypatch.setattr(gpu.subprocess, "run", process)
    (gru,) = [s.title for s in gpu_cases.SHAPES if s.cell == "GRU"]
    written.write_text(json.dumps({"machine": {"device": "cuda"}, "errors": {}, "shapes": [{"shape": gru}]}))
    options = argparse.Namespace(rounds=2, json=written, retry=False, until=float("inf"), processes=0)
    assert gpu.apart(options, tmp_path, ["LSTM", "GLAOp", "GRU"]) == gpu.WRONG
    report = json.loads(written.read_text())
    assert begun == ["LSTM", "GLAOp", "GLAOp"]
    assert [*report["errors"]] == ["LSTM", "GLAOp float32"]
    failed = [x["shape"] for x in report["shapes"] if "failed" in x]
    glas = [s.title for s in gpu_cases.SHAPES if s.cell == "GLAOp"]
    lstms = [s.title for s in gpu_cases.SHAPES if s.cell == "LSTM"]
    assert failed == [*lstms, glas[0]]
    assert [x["shape"] for x in report["shapes"]][-3:] == glas[1:]
    again = gpu_report.Report.at(written, "cuda", retry=True)
    assert [s.title for s in again.left(["LSTM", "GLAOp", "GRU"])] == [glas[0], *lstms]
    assert not gpu_report.Report.at(written, "another").data["shapes"]


def test_a_budget_ends_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is begun when the time is up, and the exit code says that something is left."""
    monkeypatch.setattr(gpu_report, "machine", lambda device: {"device": device})
    options = argparse.Namespace(rounds=2, json=tmp_path / "gpu.json", retry=False, until=0.0, processes=2)
    assert gpu.apart(options, tmp_path, ["GRU"]) == gpu.LATER
    assert "goes on with 1 more shapes" in capsys.readouterr().out


def test_cells_are_compiled_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more than were asked for; what has not ended when the time is up is ended."""
    alive: list[Any] = []
    most: list[int] = []

    class Process:
        def __init__(self, command: list[str], **_: object) -> None:
            assert command[-3:] == ["--json", str(tmp_path / "x.json"), "--warm"]
            self.name, self.polled = command[command.index("--only") + 1], 0
            alive.append(self)
            most.append(len(alive))

        def poll(self) -> int | None:
            self.polled += 1
            if self.polled > 1 and self.name != "GRU":
                alive.remove(self)
                return 0
            return None

        def kill(self) -> None:
            alive.remove(self)

        def wait(self) -> None:
            assert self not in alive

    monkeypatch.setattr(gpu_warm.subprocess, "Popen", Process)
    monkeypatch.setattr(gpu_warm.time, "sleep", lambda seconds: None)
    clock = iter(range(1000))
    monkeypatch.setattr(gpu_warm.time, "monotonic", lambda: next(clock))
    gpu_warm.warm(tmp_path, tmp_path / "x.json", ["GRU", "LSTM", "GLAOp"], 2, 50)
    assert not alive
    assert max(most) == 2
    assert len(most) == 3


def test_a_competitor_that_fails_is_named_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose backward fails, in the interpreter's place: both layers are PyTorch's."""

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
            raise KeyError("no backward")

    def broken(name: str, x: dict[str, torch.Tensor], module: Any) -> gpu_peers.Peer:
        return gpu_peers.Peer(run=lambda: Broken.apply(x["a"]), leaves=(x["a"],))

    gpu_cases.prepare(tmp_path, ["Gated"])
    (tmp_path / "Gated_triton.py").write_text((tmp_path / "Gated_torch.py").read_text())
    monkeypatch.setattr(gpu_measure, "peer", broken)
    shape = gpu.small(gpu_cases.SHAPES[0])
    clock = gpu_clock.Clock("cpu")
    found = gpu_measure.measure(tmp_path, shape, clock, gpu_clock.rates(clock), 1, torch.float32)
    assert found["peers_failed"] == dict.fromkeys(gpu_cases.CELLS["Gated"].peers, "KeyError: 'no backward'")
    assert [*found["ratio_to"]] == ["torch"]
    assert "accelerated_scan failed" in gpu_report.line(found)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cell", gpu_cases.CELLS)
def test_on_the_gpu(cell: str, dtype: torch.dtype, tmp_path: Path) -> None:
    gpu_cases.prepare(tmp_path, [cell])
    errors = gpu_measure.verify(tmp_path, gpu_cases.CELLS[cell], "cuda", dtype, None)
    assert max(errors.values()) < gpu_measure.TOLERANCES[dtype], errors

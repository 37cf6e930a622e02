"""Measured rates: the fit, the file (whose, which version, whole), and what the planner does with a recorded table."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from rnnc.bench.calibrate import Measured, fitted, group_of, nonnegative, regret
from rnnc.cli.app import main
from rnnc.plan.calibration import NOTHING, VERSION, Calibration, calibration, rates_of, this_machine, write
from rnnc.plan.cost import DEVICES, Device

RECORD = Path(__file__).parents[2] / "benchmarks" / "results" / "strategies.json"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    where = tmp_path / "cache" / "calibration.json"
    monkeypatch.setenv("RNNC_CALIBRATION", str(where))
    return where


def rates(**changes: float) -> dict[str, dict[str, Device]]:
    numbers = {"overhead": 1e-5, "flop": 1e-11, "byte": 1e-10} | changes
    return {"cpu": {"scan": Device(name="scan", **numbers)}}


def test_what_is_written_is_read_and_used(file: Path) -> None:
    assert not calibration().measured
    write(rates(call=100.0))
    found = calibration()
    assert found.measured
    assert not found.note
    assert found.of("cpu", "scan").call == 100.0
    assert found.of("cpu", "sequential") == DEVICES["cpu"]
    assert found.threads == 1
    assert by_torch(NOTHING) == "scan"
    assert by_torch(found) == "sequential"
    write(rates(), threads=3)  # the file is read again when it has changed
    os.utime(file, ns=(1, 1))
    assert by_torch(calibration()) == "scan"
    assert calibration().threads == 3


def by_torch(known: Calibration) -> str:
    return group_of("Decay", (4, 1024, 64), known, native=False).strategy


def spoiled(text: str) -> list[str]:
    record = json.loads(text)
    other = {**record, "version": VERSION + 1}
    elsewhere = {**record, "machine": "another"}
    negative = json.loads(text.replace("1e-11", "-1.0"))
    infinite = text.replace("1e-11", "Infinity")
    unknown = json.loads(text.replace('"flop"', '"flops"'))
    nested = {**record, "rates": [1, 2]}
    idle, crowded = {**record, "threads": 0}, {**record, "threads": "many"}
    tests = [other, elsewhere, negative, unknown, nested, idle, crowded, {}, [], 3, {"version": VERSION}]
    return [*(json.dumps(t) for t in tests), infinite, text[:40], "", "\x00", "{" * 5000]


def test_a_broken_file_is_ignored_with_a_note(file: Path) -> None:
    write(rates())
    text = file.read_text()
    for n, bad in enumerate(spoiled(text)):
        file.write_text(bad)
        os.utime(file, ns=(n, n))
        found = calibration()
        assert not found.measured, bad
        assert found.note, bad
        assert by_torch(found) == "scan"


def test_a_file_that_others_may_write_is_ignored(file: Path, tmp_path: Path) -> None:
    write(rates(call=100.0))
    assert file.stat().st_mode & 0o077 == 0
    file.chmod(0o666)
    assert "not a file of this user alone" in calibration().note
    file.chmod(0o600)
    assert calibration().measured
    other = tmp_path / "real.json"
    file.rename(other)
    file.symlink_to(other)
    assert "not a file of this user alone" in calibration().note
    file.unlink()
    file.mkdir()
    assert calibration().note


def test_off_means_off(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(rates())
    monkeypatch.setenv("RNNC_CALIBRATION", "off")
    assert not calibration().measured


def test_prices_are_found_again() -> None:
    rng = np.random.default_rng(0)
    a = rng.uniform(size=(30, 5))
    x = np.array([0.0, 2.0, 0.0, 1.0, 3.0])
    np.testing.assert_allclose(nonnegative(a, a @ x), x, atol=1e-6)
    assert (nonnegative(a, -a @ x) == 0).all()


def test_the_fit_explains_what_it_was_given() -> None:
    true = Device(name="scan", overhead=2e-5, flop=0.0, byte=1e-9, call=1e-4)
    found = []
    for shape in [(1, 16, 8), (2, 64, 64), (4, 1024, 64), (8, 2048, 64), (1, 4096, 256)]:
        options = {o.name: o for o in group_of("Decay", shape).options}
        prices = (true.call, true.overhead, true.flop, true.byte, true.special, true.far, true.strided)
        seconds = sum(n * p for n, p in zip(options["scan"].work, prices, strict=True))
        found.append(Measured(cell="Decay", shape=shape, seconds={"scan": seconds}))
    got = fitted(found)["cpu"]["scan"]
    for m in found:
        work = {o.name: o for o in group_of("Decay", m.shape).options}["scan"].work
        prices = (got.call, got.overhead, got.flop, got.byte, got.special, got.far, got.strided)
        again = sum(n * p for n, p in zip(work, prices, strict=True))
        assert again == pytest.approx(m.seconds["scan"], rel=0.1)


def test_auto_is_within_a_tenth_of_the_best_on_the_recorded_table() -> None:
    """What was measured on one machine, with the rates that were fitted there: by PyTorch alone, and with kernels."""
    record = json.loads(RECORD.read_text())
    found = [Measured(cell=r["cell"], shape=tuple(r["shape"]), seconds=r["seconds"]) for r in record["cases"]]
    known, threads = rates_of(record["rates"]), record["threads"]
    torchs = {"sequential", "scan", "chunkwise", "block_scan", "newton"}
    kernels = {"native sequential", "native chunkwise", "native newton"}
    assert {s for m in found for s in m.seconds} == torchs | kernels
    assert max(ratio for *_, ratio in regret(found, known, threads=threads)) <= 1.1
    by_torch = [ratio for *_, ratio in regret(found, known, threads=threads, native=False)]
    assert sum(ratio > 1.1 for ratio in by_torch) <= 1  # gates that a kernel would do are no part of these estimates
    assert max(by_torch) <= 1.2
    assert len(found) >= 40


def test_auto_is_near_the_best_on_the_shapes_of_the_benchmarks() -> None:
    """Shapes that the rates were not fitted to.  Their ratios were measured twice where they looked large."""
    shapes = json.loads(RECORD.read_text())["shapes"]
    assert len(shapes) >= 20
    assert {s["title"].split()[0] for s in shapes} >= {
        "Decay",
        "MinGRU",
        "GatedDeltaOp",
        "Mamba",
        "LSTM",
        "GRU",
        "Peephole",
    }
    for s in shapes:
        assert s["chosen"] in s["seconds"]
        assert s["ratio"] <= 1.1, s["title"]
        assert s["by_torch_ratio"] <= 1.1, s["title"]


def test_calibrating_writes_the_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--calibrate", "--rounds", "1", "--seconds", "1"]) == 0
    out = capsys.readouterr().out
    assert "of the best" in out
    assert json.loads(file.read_text())["machine"] == this_machine()
    assert isinstance(calibration(), Calibration)
    assert calibration().measured

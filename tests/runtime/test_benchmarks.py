"""The benchmarks run, compare numbers first, and write a record."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.foundation import Case, Runner, judge, verdict_table
from rnnc.bench.timing import Timing

ROOT = Path(__file__).parents[2]


def test_a_small_benchmark_writes_its_record(tmp_path: Path) -> None:
    where = tmp_path / "scans.json"
    command = [sys.executable, "-m", "benchmarks.scans", "--rounds", "2", "--threads", "1", "--output", str(where)]
    subprocess.run([*command, "--shape", "2", "33", "5"], cwd=ROOT, check=True, capture_output=True, timeout=120)
    record = json.loads(where.read_text())
    (case,) = record["cases"]
    assert record["machine"]["threads"] == 1
    assert case["errors"]["rnnc"] < 1e-4
    assert case["forward_backward"]["rnnc"]["rounds"] == 2


def test_the_promises_are_judged_by_what_was_measured(tmp_path: Path) -> None:
    where = tmp_path / "foundation.json"
    command = [sys.executable, "-m", "benchmarks.foundation", "--rounds", "2", "--only", "[4, 64, 256]"]
    done = subprocess.run(
        [*command, "--threads", "1", "--output", str(where)], cwd=ROOT, check=True, capture_output=True, timeout=120
    )
    record = json.loads(where.read_text())
    (case,) = record["cases"]
    assert case["promises"] == []
    assert set(case["errors"]) == set(case["timings"]["forward"]) > {"loop by hand", "compiled, scan"}
    assert all(t["processor_ms"] > 0 for t in case["timings"]["forward + backward"].values())
    assert b"compiled, scan" in done.stdout


def timing(speedup: float) -> Timing:
    return Timing(
        median_ms=1.0,
        quartiles_ms=(1.0, 1.0),
        fastest_ms=1.0,
        processor_ms=1.0,
        least_processor_ms=1.0,
        speedup=speedup,
        speedup_quartiles=(speedup, speedup),
        rounds=1,
    )


def test_every_promise_is_judged_in_its_direction() -> None:
    run = {"peer": Runner(run=torch.neg), "ours": Runner(run=torch.neg)}
    case = Case(name="x", inputs=[], runners=run, promise=("ours", 3.0), also=[("forward", "ours", 2.0)])
    found = {
        "forward": {"peer": timing(1.0), "ours": timing(2.5)},
        "forward + backward": {"peer": timing(1.0), "ours": timing(2.5)},
    }
    verdicts = judge(case, found)
    assert [(v["direction"], v["kept"]) for v in verdicts] == [("forward + backward", False), ("forward", True)]
    shown = verdict_table([{"case": "x", "timings": found, "promises": verdicts}]).split("\n")
    assert [line.split()[0] for line in shown] == ["FAIL", "pass"]
    assert all("ours against peer" in line for line in shown)


def test_a_choice_is_held_to_the_best_of_all() -> None:
    run = {name: Runner(run=torch.neg) for name in ("steps", "windows", "choice")}
    case = Case(name="x", inputs=[], runners=run, near="choice", direction="forward")
    for windows, choice, kept in ((0.8, 0.98, True), (2.0, 1.7, False), (2.0, 1.9, True), (0.5, 1.2, True)):
        found = {"forward": dict(zip(run, map(timing, (1.0, windows, choice)), strict=True))}
        (verdict,) = judge(case, found)
        assert verdict["kept"] is kept
        assert "choice against the best, " in verdict_table([{"case": "x", "timings": found, "promises": [verdict]}])


def test_what_the_benchmark_of_kernels_takes_is_in_its_help() -> None:
    command = [sys.executable, "-m", "benchmarks.cpu", "--help"]
    shown = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    assert b"--mapped" in shown.stdout


def test_disagreeing_numbers_are_not_timed() -> None:
    script = (
        "import torch; from benchmarks.measure import check_same; x = torch.ones(3, requires_grad=True);"
        "check_same({'a': lambda x: x * 2, 'b': lambda x: x * 3}, [x], baseline='a')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "b does not agree with a" in done.stderr

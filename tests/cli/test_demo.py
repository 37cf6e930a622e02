"""The demo, with two steps of training instead of hundreds."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from rnnc.cli.app import main
from rnnc.cli.demo import _verdict
from rnnc.training.checkpoint import Progress
from rnnc.training.loop import Row, SeedResult
from rnnc.training.record import Record


def test_the_demo_runs_and_writes_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--steps", "2", "--seeds", "2", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    written = [line.split()[0] for line in shown.splitlines() if line.startswith(str(tmp_path))]
    assert len(written) == 3
    assert all(Path(path).stat().st_size > 0 for path in written)
    ast.parse((tmp_path / "deltanet_reach2.py").read_text(encoding="utf-8"))
    assert (tmp_path / "reach2" / "checkpoint-seed1.safetensors").exists()
    assert "reach 1, seed 0" in shown
    assert "reach 2, seed 1" in shown


@pytest.mark.parametrize(
    ("scaled", "words"),
    [(1.0, "solves parity in 1 of 1 runs, at 6 times"), (0.02, "is at chance in all"), (0.6, "solves parity in part")],
)
def test_the_verdict_says_what_the_numbers_say(scaled: float, words: str) -> None:
    row = Row(length=240, accuracy=0.5, scaled=scaled, bits=1.0)
    progress = Progress(step=1, seconds=0.0, curve=())
    result = SeedResult(seed=0, progress=progress, table=(row,), diverged=None)
    record = Record(
        label="reach 2", task="parity", chance=0.5, train_length=40, identity={}, parameters=1, results=(result,)
    )
    assert words in _verdict(record)

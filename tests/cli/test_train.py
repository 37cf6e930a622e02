"""`rnnc train` from the outside: what it writes, and what it says when the call is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rnnc.cli.app import main

TINY = ["--steps", "3", "--batch", "2", "--width", "8", "--length", "6", "--test-lengths", "6,12"]


def test_writes_a_record_a_plot_and_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["train", "mingru", "--task", "s3", *TINY, "--seeds", "2", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert "MinGRU, seed 1" in captured.out
    assert str(out) in captured.out
    assert {p.name for p in out.iterdir()} == {
        "record.json",
        "plot.png",
        "checkpoint-seed0.safetensors",
        "checkpoint-seed1.safetensors",
    }
    record = json.loads((out / "record.json").read_text(encoding="utf-8"))
    assert record["task"] == "S(3)"
    assert record["run"]["dims"]["d"] == 8
    assert [row["length"] for row in record["seeds"][0]["table"]] == [6, 12]


@pytest.mark.parametrize(
    ("spec", "task", "more"),
    [
        ("deltanet", "parity", ["--set", "reach=2", "--set", "heads=2"]),
        ("lstm", "mod3", ["--layers", "2"]),
        ("gru", "digits", []),
        ("rnn", "copying", ["--dtype", "float64"]),
        ("mamba2", "recall", []),
    ],
)
def test_cells_and_tasks(spec: str, task: str, more: list[str], tmp_path: Path) -> None:
    arguments = ["train", spec, "--task", task, *TINY, *more, "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert (tmp_path / "plot.png").stat().st_size > 0


def test_a_model_trains_on_text(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A rose is a rose is a rose. " * 40, encoding="utf-8")
    model = Path(__file__).parents[2] / "examples" / "char_lm.rnn"
    tiny = ["--steps", "3", "--batch", "2", "--length", "16", "--test-lengths", "16", "--out", str(tmp_path / "out")]
    assert main(["train", str(model), "--task", "text", "--text", str(text), *tiny]) == 0
    record = json.loads((tmp_path / "out" / "record.json").read_text(encoding="utf-8"))
    assert record["run"]["dims"]["vocab"] == len(set("A rose is a rose is a rose. "))


def test_a_task_of_the_file(tmp_path: Path) -> None:
    """Its settings stand in for options that are not given; `text` is relative to the file."""
    (tmp_path / "text.txt").write_text("A rose is a rose is a rose. " * 40, encoding="utf-8")
    spec = tmp_path / "spec.rnn"
    spec.write_text(
        "cell C(d: dim) {\n  input x: real[d]\n  let s = 0.5 * prev(s) + linear(x)\n  output y: real[d] = s\n}\n"
        'task Roses {\n  kind = "text"; text = "text.txt"; length = 12; test_lengths = [12, 24]\n'
        "  steps = 9; batch = 3; width = 5; lr = 0.01; seed = 4; seeds = 2; curriculum = false\n}\n",
        encoding="utf-8",
    )
    out = tmp_path / "out"
    assert main(["train", str(spec), "--task", "Roses", "--steps", "2", "--width", "6", "--out", str(out)]) == 0
    record = json.loads((out / "record.json").read_text(encoding="utf-8"))
    expected = {"task": "text", "steps": 2, "batch": 3, "width": 6, "lr": 0.01, "train_length": 12, "curriculum": False}
    assert {key: record["run"][key] for key in expected} == expected
    assert [(s["seed"], [row["length"] for row in s["table"]]) for s in record["seeds"]] == [
        (4, [12, 24]),
        (5, [12, 24]),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gru", "--task", "parety"], "error[E0701]: there is no task 'parety'"),
        (["gru", "--task", "text"], "--text FILE"),
        (["gru", "--task", "text", "--text", "absent.txt"], "cannot read absent.txt"),
        (["gru", "--task", "text", "--text", __file__, "--length", "99999"], "= help: give a longer text"),
        (["gru", "--task", "parity", "--set", "d=1/2"], "a positive whole number, not 1/2"),
        (["gru", "--task", "parity", "--device", "meta"], "error[E0705]"),
        (["gru", "--task", "parity", "--out", "/dev/null/x"], "/dev/null"),
        (["gru", "--task", "recall", "--length", "4"], "needs sequences of at least 6 steps"),
        (["gru", "--task", "parity", "--set", "q=3"], "`q`"),
        (["gru", "--task", "parity", "--device", "nonsense"], "error[E0705]"),
        (["deltanet", "--cell", "DeltaOp", "--task", "parity"], "error[E0702]"),
        (["gru", "--task", "parity", "--test-lengths", "x"], "not a list of lengths"),
        (["gru"], "Missing option '--task'"),
    ],
)
def test_a_wrong_call_is_explained(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not list(tmp_path.iterdir()), "a wrong call writes nothing"

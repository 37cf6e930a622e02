"""The loop itself, on a plain torch layer with a compiled cell's interface: learning, seeds, checkpoints, resume."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rnnc.diagnostics import SpecError
from rnnc.ir.graph import CellIR
from rnnc.spec import load
from rnnc.training.checkpoint import write_atomically
from rnnc.training.config import TrainConfig
from rnnc.training.fit import Fit
from rnnc.training.loop import SeedResult, length_at, rate_at
from rnnc.training.record import Record, plot, table_text
from rnnc.training.session import Session, prepare
from rnnc.training.tasks import make_task


class Toggle(nn.Module):
    """s <- (1 - 2 sigmoid(w x)) s: a sign that inputs can flip, which is all that parity needs."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.flip = nn.Linear(d, d)

    def forward(self, x: Tensor, state: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        y = torch.cumprod(1 - 2 * torch.sigmoid(self.flip(x)), dim=1)
        return y, {"s": y[:, -1]}


def session(**changes: object) -> Session:
    config = replace(
        TrainConfig(task="parity", steps=12, batch=8, width=4, train_length=6, test_batch=16, save_every=5), **changes
    )
    return Session(
        cell=CellIR(name="Toggle"),
        task=make_task(config.task),
        fit=Fit(role="layer", dims={"d": config.width}, input_shape=(config.width,), output_shape=(config.width,)),
        config=config,
        layer_class=Toggle,
        hyper={},
        source="a spec",
        label="Toggle",
    )


def run(s: Session, out: Path, resume: bool = False, stop_at: int | None = None) -> SeedResult:
    def on_step(step: int, *_: float) -> None:
        if step == stop_at:
            raise KeyboardInterrupt

    return s.run(out, on_step, resume).results[0]


def weights(path: Path) -> dict[str, bytes]:
    from safetensors.numpy import load_file

    return {name: value.tobytes() for name, value in load_file(path).items()}


def test_learns_parity_and_generalises(tmp_path: Path) -> None:
    result = run(session(steps=300, batch=32, width=8, train_length=16, lr=2e-2), tmp_path)
    assert [row.length for row in result.table] == [16, 32, 64, 96]
    assert result.table[0].accuracy == 1.0
    assert result.table[-1].scaled > 0.9


def test_equal_seeds_give_equal_weights_and_other_seeds_do_not(tmp_path: Path) -> None:
    first = run(session(), tmp_path / "a")
    second = run(session(), tmp_path / "b")
    other = run(session(seed=1), tmp_path / "c")
    name = "checkpoint.safetensors"
    assert weights(tmp_path / "a" / name) == weights(tmp_path / "b" / name)
    assert first.progress.curve == second.progress.curve
    assert first.table == second.table
    assert weights(tmp_path / "a" / name) != weights(tmp_path / "c" / name)
    assert first.progress.curve != other.progress.curve


@pytest.mark.parametrize("stop_at", [3, 7])
def test_resume_after_an_interrupt_is_as_one_whole_run(tmp_path: Path, stop_at: int) -> None:
    whole = run(session(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(session(), tmp_path / "parts", stop_at=stop_at)
    resumed = run(session(), tmp_path / "parts", resume=True)
    name = "checkpoint.safetensors"
    assert weights(tmp_path / "whole" / name) == weights(tmp_path / "parts" / name)
    assert resumed.progress.curve == whole.progress.curve
    assert resumed.table == whole.table


def test_resume_of_a_finished_run_only_tests(tmp_path: Path) -> None:
    whole = run(session(), tmp_path)
    steps: list[int] = []
    again = session().run(tmp_path, lambda step, *_: steps.append(step), resume=True).results[0]
    assert steps == []
    assert again.table == whole.table
    assert again.progress.curve == whole.progress.curve


def test_resume_refuses_another_run_and_says_what_differs(tmp_path: Path) -> None:
    run(session(), tmp_path)
    with pytest.raises(SpecError) as caught:
        run(session(lr=0.5, batch=9), tmp_path, resume=True)
    (found,) = caught.value.diagnostics
    assert found.code == "E0704"
    assert any(note.startswith("lr: 0.003 there, 0.5 here") for note in found.notes)
    assert any(note.startswith("batch: 8 there, 9 here") for note in found.notes)


def test_a_run_is_known_by_all_that_it_reads(tmp_path: Path) -> None:
    """The text of the task and every imported file belong to a run's identity; where they lie does not."""
    other, text = tmp_path / "other.rnn", tmp_path / "text.txt"
    cell = "cell C(d: dim) {\n  input x: real[d]\n  output y = f(x)\n}\n"
    (tmp_path / "c.rnn").write_text('use "./other.rnn" { f }\n' + cell, encoding="utf-8")
    seen = []
    for factor, words in ((1, "a b c "), (2, "a b c "), (2, "a b d ")):
        other.write_text(f"fn f(x: real) -> real {{ {factor} * x }}\n", encoding="utf-8")
        text.write_text(words * 800, encoding="utf-8")
        config = TrainConfig(task="text", text=text, steps=1)
        seen.append(prepare(load(tmp_path / "c.rnn"), None, config, {}).identity)
    assert [differing(seen[0], other) for other in seen[1:]] == [
        {"spec_sha256"},
        {"spec_sha256", "text_sha256"},
    ]


def differing(a: dict[str, object], b: dict[str, object]) -> set[str]:
    return {key for key in a if a[key] != b[key]}


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\x02\0\0\0\0\0\0\0{}"])
def test_resume_refuses_a_file_that_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes(content)
    with pytest.raises(SpecError) as caught:
        run(session(), tmp_path, resume=True)
    assert caught.value.diagnostics[0].code == "E0704"


def test_resume_refuses_an_unknown_device(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        run(session(device="nonsense"), tmp_path)
    assert caught.value.diagnostics[0].code == "E0705"


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new and longer")
    assert path.read_bytes() == b"old"


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    class Explodes(Toggle):
        def forward(self, x: Tensor, state: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
            y, state = super().forward(x, state)
            return y / 0, state

    result = run(replace(session(), layer_class=Explodes), tmp_path)
    assert result.diverged == 1
    assert result.progress.step == 1


def test_lengths_grow_over_the_first_half_and_stay_inside() -> None:
    config = TrainConfig(task="parity", steps=100, train_length=40)
    task = make_task("parity")
    seen = [[length_at(s, config, task, np.random.default_rng([s, i])) for i in range(40)] for s in range(100)]
    assert all(2 <= length <= 40 for row in seen for length in row)
    assert max(seen[0]) <= 3
    assert max(max(row) for row in seen[50:]) == 40
    fixed = replace(config, curriculum=False)
    assert {length_at(s, fixed, task, np.random.default_rng(s)) for s in range(100)} == {40}


def test_the_rate_warms_up_and_falls_to_a_tenth() -> None:
    config = TrainConfig(task="parity", steps=100, warmup=0.1)
    rates = [rate_at(s, config) for s in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_dtypes(tmp_path: Path) -> None:
    for dtype in ("float64", "bfloat16"):
        result = run(session(dtype=dtype, steps=3), tmp_path / dtype)
        assert result.diverged is None
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "float64" / "checkpoint.safetensors")
    assert stored["model/readout.weight"].dtype == torch.float64


def test_record_table_and_plot(tmp_path: Path) -> None:
    s = session()
    record = s.run(tmp_path, lambda *_: None, seeds=(0, 1))
    assert isinstance(record, Record)
    record.write(tmp_path / "record.json")
    stored = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert [entry["seed"] for entry in stored["seeds"]] == [0, 1]
    assert stored["environment"]["torch"] == torch.__version__
    assert stored["chance"] == 0.5
    assert len(stored["seeds"][0]["curve"]["rows"]) == 3  # steps 1, 10, 12
    plot([record], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    text = table_text([record])
    assert "Toggle, seed 1" in text
    assert f"{record.results[0].table[0].scaled:.2f}" in text
    assert {p.name for p in tmp_path.glob("*.safetensors")} == {
        "checkpoint-seed0.safetensors",
        "checkpoint-seed1.safetensors",
    }

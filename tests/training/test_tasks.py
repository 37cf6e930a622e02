"""Each task against an independent, slow statement of what it asks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rnnc.training.tasks import FAMILIES, TaskError, make_task
from rnnc.training.tasks.base import Task


def rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(list(key))


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog. " * 40, encoding="utf-8")
    return path


def every_task(text: Path) -> list[Task]:
    names = ["parity", "mod3", "mod(5)", "s3", "A(5)", "z2xs3", "(0 1 2), (0 1)", "generators:s4", "recall", "copying"]
    return [make_task(name, text) for name in (*names, "digits", "text")]


def test_every_task_keeps_its_promises(text_file: Path) -> None:
    for task in every_task(text_file):
        for length in [task.fixed_length] if task.fixed_length else [task.min_length, task.min_length + 5, 40]:
            for split in ("train", "test"):
                batch = task.batch(rng(0), 7, length, split)
                again = task.batch(rng(0), 7, length, split)
                assert (batch.inputs == again.inputs).all(), task.name
                assert (batch.targets == again.targets).all(), task.name
                if task.vocab is None:
                    assert batch.inputs.shape == (7, length, task.features)
                else:
                    assert batch.inputs.shape == (7, length)
                    assert 0 <= batch.inputs.min() <= batch.inputs.max() < task.vocab, task.name
                assert batch.targets.shape == batch.scored.shape == (7, length)
                assert batch.scored.any(axis=1).all(), f"{task.name}: nothing is scored at length {length}"
                assert 0 <= batch.targets[batch.scored].min() <= batch.targets[batch.scored].max() < task.classes
        assert 0 < task.chance < 1


def test_parity_counts_ones() -> None:
    batch = make_task("parity").batch(rng(1), 20, 33)
    assert (batch.targets == np.cumsum(batch.inputs, axis=1) % 2).all()


@pytest.mark.parametrize("m", [2, 3, 7])
def test_mod_adds(m: int) -> None:
    batch = make_task(f"mod{m}").batch(rng(2), 20, 33)
    # element i of Z(m) is i applications of the generating cycle
    assert (batch.targets == np.cumsum(batch.inputs, axis=1) % m).all()


def test_generators_only_uses_few_letters_and_reaches_the_group() -> None:
    task = make_task("generators:s4")
    assert task.vocab is not None
    assert task.vocab < 24 == task.classes
    assert len(np.unique(task.batch(rng(3), 64, 60).targets)) == 24


def test_recall_answers_with_the_value_of_the_key() -> None:
    batch = make_task("recall").batch(rng(4), 16, 31)
    for row, (inputs, targets, scored) in enumerate(zip(batch.inputs, batch.targets, batch.scored)):
        first = int(np.argmax(scored))
        memory = {int(k): int(v) - 64 for k, v in zip(inputs[0:first:2], inputs[1:first:2])}
        assert len(memory) == first // 2, f"row {row}: keys repeat"
        for t in range(first, 31):
            assert memory[int(inputs[t])] == targets[t]


@pytest.mark.parametrize("length", [3, 4, 20, 21])
def test_copying_repeats_what_came_before_the_marker(length: int) -> None:
    batch = make_task("copying").batch(rng(5), 9, length)
    for inputs, targets, scored in zip(batch.inputs, batch.targets, batch.scored):
        marker = int(np.flatnonzero(inputs == 1)[0])
        shown = inputs[:marker][inputs[:marker] > 1] - 2
        assert (targets[scored] == shown).all()
        assert (inputs[scored] == 0).all()


def test_digits_are_the_real_ones_and_the_split_is_clean() -> None:
    from sklearn.datasets import load_digits

    data = load_digits()
    labels = {tuple(pixels.astype(np.float32) / 16): label for pixels, label in zip(data.data, data.target)}
    task = make_task("digits")
    seen = {}
    for split in ("train", "test"):
        batch = task.batch(rng(6), 300, 64, split)
        rows = [tuple(pixels) for pixels in batch.inputs[:, :, 0]]
        assert [labels[row] for row in rows] == batch.targets[:, -1].tolist()
        seen[split] = set(rows)
    assert not seen["train"] & seen["test"]


def test_text_predicts_the_next_character_and_tests_on_the_end(text_file: Path) -> None:
    text = text_file.read_text(encoding="utf-8")
    task = make_task("text", text_file)
    alphabet = sorted(set(text))
    for split, part in (("train", text[: len(text) * 9 // 10]), ("test", text[len(text) * 9 // 10 :])):
        batch = task.batch(rng(7), 5, 30, split)
        for inputs, targets in zip(batch.inputs, batch.targets):
            assert "".join(alphabet[c] for c in [*inputs, targets[-1]]) in part
            assert (inputs[1:] == targets[:-1]).all()


def test_names_that_mean_nothing_are_explained(tmp_path: Path) -> None:
    for name in ("parety", "mod1", "mod", "z1", "s9", "(0 0)", ""):
        with pytest.raises(TaskError) as caught:
            make_task(name)
        assert str(caught.value)
    with pytest.raises(TaskError) as caught:
        make_task("parety")
    assert caught.value.help == "did you mean `parity`?"
    with pytest.raises(TaskError) as caught:
        make_task("zzz")
    assert "parity; mod5; recall" in caught.value.help
    with pytest.raises(TaskError, match="--text"):
        make_task("text")
    with pytest.raises(TaskError, match="cannot read"):
        make_task("text", tmp_path / "absent.txt")
    short = tmp_path / "short.txt"
    short.write_text("abc", encoding="utf-8")
    with pytest.raises(TaskError, match="3 characters"):
        make_task("text", short)
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe" * 300)
    with pytest.raises(TaskError, match="UTF-8"):
        make_task("text", binary)


def test_the_list_of_tasks_shows_names_that_work(text_file: Path) -> None:
    for family in FAMILIES:
        for shown in family.shown.split(", ") if not family.shown.startswith("s3") else ["s3", "q8", "(0 1 2), (0 1)"]:
            assert make_task(shown, text_file).classes >= 2

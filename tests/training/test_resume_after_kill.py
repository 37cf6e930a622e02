"""`rnnc train` killed without warning, then resumed, ends where an uninterrupted run ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SPEC = """cell Toggle(d: dim) {
  input x: real[d]
  gate flip: real[d] in (-1, 1) = tanh(linear(x))
  state s: real[d] = 1
  s <- flip * s
  output y: real[d] = linear(s')
}
"""
STEPS = 60


def train(folder: Path, *options: str) -> list[str]:
    task = ["--task", "parity", "--length", "6", "--test-lengths", "6,12"]
    size = ["--steps", str(STEPS), "--batch", "4", "--width", "4", "--save-every", "5"]
    return [sys.executable, "-m", "rnnc", "train", str(folder / "toggle.rnn"), *task, *size, *options]


def stored(path: Path) -> dict[str, bytes]:
    from safetensors.numpy import load_file

    return {name: value.tobytes() for name, value in load_file(path).items()}


def test_resume_after_sigkill(tmp_path: Path) -> None:
    (tmp_path / "toggle.rnn").write_text(SPEC, encoding="utf-8")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = subprocess.run(train(tmp_path, "--out", str(whole)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    checkpoint = parts / "checkpoint.safetensors"
    silent = subprocess.DEVNULL
    victim = subprocess.Popen(train(tmp_path, "--out", str(parts)), stdout=silent, stderr=silent)
    deadline = time.monotonic() + 60
    while not checkpoint.exists():
        assert victim.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    assert not (parts / "record.json").exists(), "it was killed too late to show anything"

    resumed = subprocess.run(train(tmp_path, "--out", str(parts), "--resume"), capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert stored(whole / "checkpoint.safetensors") == stored(checkpoint)
    first, second = (json.loads((folder / "record.json").read_text(encoding="utf-8")) for folder in (whole, parts))
    assert first["seeds"][0]["table"] == second["seeds"][0]["table"]
    assert first["seeds"][0]["curve"] == second["seeds"][0]["curve"]
    assert first["seeds"][0]["steps"] == STEPS
    assert resumed.stdout.splitlines()[:3] == done.stdout.splitlines()[:3]

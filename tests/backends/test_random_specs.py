"""Random specs beside the oracle: see random_specs.py.  By default a few; the slow ones are others, by all backends."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import random_specs
from random_writer import random_spec

import rnnc
from rnnc.backends.cpu.backend import unavailable

HERE = Path(__file__).parent
C = pytest.mark.skipif(unavailable() is not None, reason="no C compiler")
TRITON = pytest.mark.skipif(find_spec("triton") is None, reason="no triton")


def run(first: int, count: int, backend: str) -> None:
    """In a process of its own: the interpreter of Triton's kernels changes what they are."""
    command = [sys.executable, str(HERE / "random_specs.py"), "--seeds", str(first), str(first + count)]
    done = subprocess.run(
        [*command, "--backends", backend], capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "1"}
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.parametrize(
    ("backend", "count"), [("torch", 20), pytest.param("cpu", 8, marks=C), pytest.param("triton", 8, marks=TRITON)]
)
def test_random_specs_are_what_the_oracle_says(backend: str, count: int) -> None:
    run(0, count, backend)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(8))
@pytest.mark.parametrize("backend", ["torch", pytest.param("cpu", marks=C), pytest.param("triton", marks=TRITON)])
def test_more_random_specs(backend: str, block: int) -> None:
    run(1000 + 25 * block, 25, backend)


def test_a_seed_gives_one_spec() -> None:
    """Nearly all of them are specs, and of many kinds."""
    texts = [random_spec(seed) for seed in range(200)]
    assert texts == [random_spec(seed) for seed in range(200)]
    refused = 0
    for text in texts:
        try:
            rnnc.parse(text).lower("R")
        except rnnc.SpecError:
            refused += 1
    assert refused < 20
    assert len(set(texts)) == 200
    for word in ("per heads", "complex", "permutation", "rotation", "householder", "conv(", "prev(", "logaddexp"):
        assert any(word in t for t in texts), word


def test_a_wrong_layer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = rnnc.compile

    def without_a_sign(spec: rnnc.Spec, *args: object, **options: object) -> object:
        text = random_spec(0)
        return honest(rnnc.parse(text.replace(" + ", " - ", 1)), *args, **options)

    monkeypatch.setattr(rnnc, "compile", without_a_sign)
    _, wrong = random_specs.differences(range(1), ["torch"])
    assert len(wrong) == 1

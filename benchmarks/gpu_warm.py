"""Compiles ahead of a measurement what it will launch: several processes at once, where measuring needs the GPU alone.

A kernel takes seconds to compile, and each shape wants dozens (five candidates of the tuner, forward and backward).
Each cell gets a process that runs everything once, with a tuner that tries all candidates and times none; what they
compile lies in Triton's cache on disk, where the process that measures finds it.  One that fails or dies is no loss:
what is wrong is said when it is measured.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from triton.errors import TritonError

from benchmarks.gpu_cases import CELLS, Shape
from benchmarks.gpu_measure import TOLERANCES, inputs_of, layers_of, verify
from rnnc.runtime.gpu import tuner

FAILED = (RuntimeError, AssertionError, TritonError)


def warm(folder: Path, record: Path, cells: Sequence[str], processes: int, until: float) -> None:
    """Run `compiled` for each cell in a process of its own, so many at once, until the time is up; `record` says what
    is done already.
    """
    waiting = list(cells)
    running: list[subprocess.Popen[bytes]] = []
    while (waiting or running) and time.monotonic() < until:
        running = [p for p in running if p.poll() is None]
        while waiting and len(running) < processes:
            command = [sys.executable, "-m", "benchmarks.gpu", "--folder", str(folder), "--only", waiting.pop(0)]
            command += ["--json", str(record), "--warm"]
            running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        time.sleep(0.2)
    for p in running:
        p.kill()
        p.wait()


def compiled(folder: Path, shapes: Mapping[str, Sequence[Shape]], device: str, dtype: torch.dtype) -> None:
    """Everything that verifying cells and measuring their shapes launches, once."""
    for name, own in shapes.items():
        os.environ["RNNC_TUNE"] = "0"
        for kind in TOLERANCES:
            with suppress(*FAILED):
                verify(folder, CELLS[name], device, kind, None)
        os.environ.pop("RNNC_TUNE")
        kept, tuner.TUNER = tuner.TUNER, tuner.Tuner(timer=_once, folder=lambda: None, always=True)
        try:
            for shape in own:
                with suppress(*FAILED):
                    _run(folder, shape, device, dtype)
        finally:
            tuner.TUNER = kept


def _once(run: Callable[[], object]) -> float:
    run()
    return 0.0


def _run(folder: Path, shape: Shape, device: str, dtype: torch.dtype) -> None:
    layers = layers_of(folder, shape, device, dtype)
    x = inputs_of(folder, shape, device, dtype)
    for name, layer in layers.items():
        if name.startswith("triton"):
            with torch.no_grad():
                layer(**x)
            layer(**x)[0].sum().backward()

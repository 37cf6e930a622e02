"""Runs generated Triton kernels in Triton's interpreter, on the CPU, and compares them with the float64 oracle.

Triton decides when it is imported whether it interprets, so this is a program of its own: `python triton_interpreted.py
NAME...` with TRITON_INTERPRET=1 checks the named cases and prints a line for each, "NAME: ok" or what went wrong.
Cases come from the files triton_SUBJECT.py beside this one; those of cells that are written in odd ways from tables.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
import triton_buffers as buffers
import triton_coupled as coupled
import triton_decays as decays
import triton_hazards as hazards
import triton_low_rank as low_rank
import triton_nan as no_number
import triton_newton as newton
import triton_packed as packed
import triton_rows as rows
import triton_sanitiser as sanitiser
import triton_scans as scans
import triton_stepped as stepped
import triton_transforms as transforms
import triton_turned as turned
from triton_oracle import ODD, UNLISTED, is_the_oracle

chunkwise = partial(is_the_oracle, kind="chunkwise")
sequential = partial(is_the_oracle, kind="sequential", strategy="sequential")
CASES: dict[str, Callable[[], None]] = {"hazards": hazards.check}
for _subject in (scans, rows, coupled, stepped, packed, low_rank, decays, no_number, newton, transforms):
    assert not CASES.keys() & _subject.CASES.keys(), _subject
    CASES |= _subject.CASES
CASES |= {  # matrix states of the library
    "GLA": partial(chunkwise, "gla", "GLA", steps=18, step=True),
    "mLSTM": partial(chunkwise, "mlstm", "mLSTM", steps=7),
    "Mamba2": partial(chunkwise, "mamba2", "Mamba2", steps=67),
    "RetNet": partial(chunkwise, "retnet", steps=65),
    "SSDOp": partial(chunkwise, "mamba2", "SSDOp", dims={"heads": 2, "n": 5, "p": 17}, steps=130, start=False),
    "HGRN2": partial(chunkwise, "hgrn2", steps=18),
    "DeltaNet": partial(chunkwise, "deltanet", "DeltaNet", steps=9, step=True),
    "GatedDeltaNet": partial(chunkwise, "gated_deltanet", "GatedDeltaNet", steps=6),
    "DeltaProduct": partial(chunkwise, "deltaproduct", "DeltaProduct", steps=6),
    "ColumnEraser": partial(chunkwise, UNLISTED / "column_eraser.rnn", steps=7),
    "DeltaNet, sequential": partial(sequential, "deltanet", "DeltaNet", steps=9, step=True),
    "GatedDeltaNet, sequential": partial(sequential, "gated_deltanet", "GatedDeltaNet", steps=6),
    "DeltaProduct, sequential": partial(sequential, "deltaproduct", "DeltaProduct", steps=6),
}
CASES |= {
    name: partial(is_the_oracle, newton.CELLS[name], kind="newton", strategy="newton", dims=dims, steps=11)
    for name, dims in newton.SIZES.items()
}
for _kind, _of, _names, _dims, _steps in (
    ("chunkwise", decays, decays.CELLS, {"n": 5, "m": 3}, 18),
    ("scan", decays, decays.BY_ENTRY, {"n": 5, "m": 3}, 7),
    ("chunkwise", low_rank, low_rank.CELLS, {"n": 3, "m": 5}, 7),
    ("sequential", low_rank, low_rank.STEP_BY_STEP, {"n": 3, "m": 5}, 7),
):
    CASES |= {n: partial(is_the_oracle, _of.cell(n), kind=_kind, dims=_dims, steps=_steps) for n in _names}
for _name in decays.CELLS:
    if "values" not in _name:  # of one small head a scan is planned; by values, chunks are found by the planner only
        CASES[_name] = partial(CASES[_name], strategy="chunkwise")
for _name in turned.OWN:
    _kind = "scan" if _name in turned.SCANNED else "sequential"
    _dims = {"d": 3, "n": 5, "m": 3}
    CASES[_name] = partial(is_the_oracle, turned.cell(_name), kind=_kind, dims=_dims, steps=7, step=True)
CASES["two sides"] = partial(CASES["two sides"], strategy="sequential")  # PyTorch is expected to be twice as fast
for _name, _file in turned.STDLIB.items():
    _kind = "coupled" if _name in turned.CHIPPED else "sequential"
    CASES[_name] = partial(is_the_oracle, ODD / f"{_file}.rnn", _name, kind=_kind, steps=6, step=True)


def guard_launches() -> None:
    """From now on every launch has to be where the device of the tensors is made the current one."""
    from triton.runtime.interpreter import GridExecutor

    inside: list[torch.Tensor] = []
    device_of, run = torch.cuda.device_of, GridExecutor.__call__

    @contextmanager
    def recorded(x: torch.Tensor) -> Iterator[None]:
        with device_of(x):
            inside.append(x)
            yield
            inside.pop()

    def guarded(self: Any, *arguments: Any, **options: Any) -> None:
        assert inside, "a kernel is launched on whatever device is the current one"
        run(self, *arguments, **options)

    torch.cuda.device_of, GridExecutor.__call__ = recorded, guarded


def prepare() -> None:
    """From now on launches are watched, and what nobody writes is no number."""
    sanitiser.watch()
    guard_launches()
    buffers.take(buffers.no_numbers)
    np.seterr(all="ignore")  # entries outside of the arrays divide by zero


def main(names: list[str]) -> None:
    prepare()
    for name in names:
        begun = time.perf_counter()
        try:
            CASES[name]()
            print(f"{name}: ok ({time.perf_counter() - begun:.1f} s)", flush=True)
        except Exception:  # noqa: BLE001  every case reports for itself
            print(f"{name}: {traceback.format_exc(limit=-6)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

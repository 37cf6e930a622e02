"""Which configurations of one pass of a chunkwise scan with decays are worth a measurement, and the fastest of them.

What varies is the chain from chunk to chunk (`rnnc.runtime.gpu.walk`): the columns of a state that a program holds, its
warps, and the stages of its loads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from rnnc.runtime.gpu import tuner
from rnnc.runtime.gpu.tuning import power_of_two, programs_wanted

__all__ = ["Columns", "neighbours", "tuned"]

MICROSECOND = 3e6  # operations that one multiprocessor does in a microsecond, by products of 16-bit numbers
WAIT = 1.0  # microseconds from chunk to chunk besides: loads, and products that wait for each other


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Of a state, that one program holds; its warps, and the stages of its loads."""

    columns: int
    warps: int
    stages: int

    @property
    def constants(self) -> dict[str, int]:
        return {"BM": self.columns, "STAGES": self.stages, "num_warps": self.warps}


def tuned(
    default: Columns,
    constants: Mapping[str, Any],
    dtype: torch.dtype,
    outer: int,
    runs: int,
    chunks: int,
    run: Callable[[Columns], object],
) -> Columns:
    """The fastest configuration of a pass: `runs` walks over `chunks` chunks each, of states with `outer` columns."""
    if not tuner.TUNER.works:
        return default
    what = tuple((name, str(x)) for name, x in sorted(constants.items()))
    sizes = outer, tuner.bucket(runs), tuner.bucket(chunks)
    key = ("decays", _content(), tuner.device_name(), str(dtype), *what, *sizes)
    return tuner.TUNER.choose(key, lambda: neighbours(default, constants, outer, runs, chunks), run)


def neighbours(default: Columns, constants: Mapping[str, Any], outer: int, runs: int, chunks: int) -> list[Columns]:
    """The default and the neighbours for which a model of the time is least, `tuner.FEW` in all."""

    def microseconds(of: Columns) -> float:
        waves = -(-runs * -(-outer // of.columns) // max(1, programs_wanted() // 4))
        inside = 2 * constants["C"] * of.columns * (2 * constants["BN"] + constants["C"])
        return waves * chunks * (WAIT + inside / MICROSECOND)

    found = [c for c in dict.fromkeys(_around(default, outer)) if c != default]
    return [default, *sorted(found, key=microseconds)[: tuner.FEW - 1]]


def _around(default: Columns, outer: int) -> Iterator[Columns]:
    for columns in (default.columns // 2, default.columns, 2 * default.columns):
        for warps in (default.warps // 2, default.warps, 2 * default.warps):
            if 16 <= columns <= max(16, power_of_two(outer)) and 2 <= warps <= 8:
                yield replace(default, columns=columns, warps=warps)
    yield replace(default, stages=3 - default.stages)


@cache
def _content() -> str:
    """Of the kernel: another version of it is measured anew."""
    return hashlib.sha256((Path(__file__).parent / "walk.py").read_bytes()).hexdigest()[:16]

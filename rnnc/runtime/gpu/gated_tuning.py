"""Which configurations of a chunkwise scan with decays are worth a measurement, and the fastest of them.

First the steps of a chunk, for the operator as a whole with all else at its default; then, kernel by kernel, the
channels that a program holds, its warps, and the stages of its loads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from rnnc.runtime.gpu import tuner
from rnnc.runtime.gpu.gated_sizes import chunks_of
from rnnc.runtime.gpu.tuning import most_warps, power_of_two, programs_wanted

__all__ = ["Blocks", "Chunk", "Work", "candidates", "fastest", "fastest_chunk"]

MICROSECOND = 3e6  # operations that one multiprocessor does in a microsecond, by products of 16-bit numbers
WAIT = 1.0  # microseconds from chunk to chunk besides: loads, and products that wait for each other


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """What a program holds at a time: channels of the axis summed over and of the other one (0: the kernel does not
    ask); its warps, and the stages of its loads.
    """

    inner: int
    outer: int
    warps: int
    stages: int

    @classmethod
    def of(cls, constants: Mapping[str, Any], warps: int) -> Blocks:
        """Those of a kernel's constants."""
        inner = 0 if "STAGES" in constants else constants.get("BN", 0)
        return cls(inner=inner, outer=constants.get("BM", 0), warps=warps, stages=constants.get("STAGES", 0))

    @property
    def constants(self) -> dict[str, int]:
        sizes = {"BN": self.inner, "BM": self.outer, "STAGES": self.stages}
        return {n: x for n, x in sizes.items() if x} | {"num_warps": self.warps}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one kernel of a pass is launched for: `runs` over `chunks` chunks one after another, each `outer` channels
    of the axis that programs share out.
    """

    kernel: str
    constants: Mapping[str, Any]
    dtype: torch.dtype
    outer: int
    runs: int
    chunks: int = 1


def fastest_chunk(dtype: torch.dtype, key: tuple[Any, ...], run: Callable[[int], object]) -> int:
    """The steps of a chunk with which `run`, all of an operator's work, takes least; `key` is what the problem is."""
    options = [Chunk(steps=steps) for steps in chunks_of(dtype)]
    if not tuner.TUNER.works:
        return options[0].steps
    whole = ("chunk of decays", tuner.content(), tuner.device_name(), str(dtype), *key)
    return tuner.TUNER.choose(whole, lambda: options, lambda c: run(c.steps)).steps


def fastest(work: Work, warps: int, run: Callable[[Blocks], object]) -> Blocks:
    """The fastest configuration of a kernel; `warps` are the default's."""
    default = Blocks.of(work.constants, warps)
    if not tuner.TUNER.works:
        return default
    what = tuple((name, str(x)) for name, x in sorted(work.constants.items()))
    sizes = work.outer, tuner.bucket(work.runs), tuner.bucket(work.chunks)
    key = ("decays", work.kernel, tuner.content(), tuner.device_name(), str(work.dtype), *what, *sizes)
    return tuner.TUNER.choose(key, lambda: candidates(work, default), run)


def candidates(work: Work, default: Blocks) -> list[Blocks]:
    """The default and the neighbours for which a model of the time is least, `tuner.FEW` in all."""

    def microseconds(of: Blocks) -> float:
        waves = -(-work.runs * -(-work.outer // max(1, of.outer)) // max(1, programs_wanted() // 4))
        inside = 2 * work.constants["C"] * of.outer * (2 * work.constants.get("BN", 0) + work.constants["C"])
        return waves * work.chunks * (WAIT + inside / MICROSECOND)

    around = _columns(work, default) if work.kernel == "walk" else _less(default)
    found = [c for c in dict.fromkeys(around) if c != default]
    return [default, *sorted(found, key=microseconds)[: tuner.FEW - 1]]


def _columns(work: Work, default: Blocks) -> Iterator[Blocks]:
    """Of the walk from chunk to chunk: half and twice the columns and the warps; one stage of loads less."""
    for outer in (default.outer // 2, default.outer, 2 * default.outer):
        for warps in (default.warps // 2, default.warps, 2 * default.warps):
            full = work.dtype.itemsize > 2 or work.constants["ROW"] or work.constants["COLUMN"]
            most = 1 if full else 2  # times the columns a thread has: with more, registers spill
            fits = outer * default.warps <= most * default.outer * warps
            if (
                fits
                and 16 <= outer <= max(16, power_of_two(work.outer))
                and 2 <= warps <= max(default.warps, most_warps())
            ):
                yield replace(default, outer=outer, warps=warps)
    if default.stages > 1:
        yield replace(default, stages=default.stages - 1)


def _less(default: Blocks) -> Iterator[Blocks]:
    """Of a kernel over all chunks: half the channels, and twice the warps, so that no thread has more of a tile than in
    the default.
    """
    if default.warps < most_warps():
        yield replace(default, warps=2 * default.warps)
    if default.outer > 16:
        yield replace(default, outer=default.outer // 2)
    if default.inner > 16:
        yield replace(default, inner=default.inner // 2)

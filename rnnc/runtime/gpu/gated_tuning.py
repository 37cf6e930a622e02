"""Which configurations of a chunkwise scan with decays are worth a measurement, and the fastest of them.

First the steps of a chunk, for the operator as a whole with all else at its default; then, kernel by kernel, the
channels that a program holds, its warps, and the stages of its loads.  All candidates are among those that the tests
compile ahead of time (`tests/backends/test_triton_chunks.py`): none spills.
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
from rnnc.runtime.gpu.gated_sizes import chunks_of
from rnnc.runtime.gpu.tuning import machine, power_of_two, programs_wanted

__all__ = ["Blocks", "Chunk", "Work", "candidates", "fastest", "fastest_chunk"]

MICROSECOND = 3e6  # operations that one multiprocessor does in a microsecond, by products of 16-bit numbers
WAIT = 1.0  # microseconds from chunk to chunk besides: loads, and products that wait for each other
FILES = ("walk.py", "intra.py", "gates.py", "exchange.py", "low_rank_rows.py", "gated_sizes.py")


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
    whole = ("chunk of decays", _content(), tuner.device_name(), str(dtype), *key)
    return tuner.TUNER.choose(whole, lambda: options, lambda c: run(c.steps)).steps


def fastest(work: Work, warps: int, run: Callable[[Blocks], object]) -> Blocks:
    """The fastest configuration of a kernel; `warps` are the default's."""
    default = Blocks.of(work.constants, warps)
    if not tuner.TUNER.works:
        return default
    what = tuple((name, str(x)) for name, x in sorted(work.constants.items()))
    sizes = work.outer, tuner.bucket(work.runs), tuner.bucket(work.chunks)
    key = ("decays", work.kernel, _content(), tuner.device_name(), str(work.dtype), *what, *sizes)
    return tuner.TUNER.choose(key, lambda: candidates(work, default, machine()), run)


def candidates(work: Work, default: Blocks, target: str) -> list[Blocks]:
    """The default and the neighbours for which a model of the time is least, `tuner.FEW` in all."""

    def microseconds(of: Blocks) -> float:
        if work.kernel != "walk":  # all chunks at once: what a program does for all its channels, it does again in each
            return work.constants["N"] * -(-work.outer // max(1, of.outer)) + work.outer / of.warps
        waves = -(-work.runs * -(-work.outer // of.outer) // max(1, programs_wanted() // 4))
        inside = 2 * work.constants["C"] * of.outer * (2 * work.constants["BN"] + work.constants["C"])
        return waves * work.chunks * (WAIT + inside / MICROSECOND)

    around = dict.fromkeys(c for c in _around(work, default) if c != default and spills_not(work, c, default, target))
    return [default, *sorted(around, key=microseconds)[: tuner.FEW - 1]]


def _around(work: Work, default: Blocks) -> Iterator[Blocks]:
    """Half and twice the channels and the warps; one stage of loads less or more."""
    for outer in _sizes(default.outer, work.outer):
        for inner in _sizes(default.inner, work.constants.get("N", 0)):
            for warps in (default.warps // 2, default.warps, 2 * default.warps):
                if 2 <= warps <= 8:
                    yield replace(default, outer=outer, inner=inner, warps=warps)
    if default.stages:
        yield replace(default, stages=3 - default.stages)


def _sizes(default: int, whole: int) -> list[int]:
    """Half, as many and twice, at least 16 and no more than there are; none where there is none."""
    return [n for n in (default // 2, default, 2 * default) if 16 <= n <= max(16, power_of_two(whole))] or [default]


def spills_not(work: Work, of: Blocks, default: Blocks, target: str) -> bool:
    """Whether a configuration is among those that were compiled ahead of time without spills."""
    return True


@cache
def _content() -> str:
    """Of the kernels: another version of them is measured anew."""
    found = b"".join((Path(__file__).parent / name).read_bytes() for name in FILES)
    return hashlib.sha256(found).hexdigest()[:16]

"""Which configurations of a low-rank scan are worth a measurement, and the one that was found fastest.

What varies is the chain from chunk to chunk, which is where the time goes: the columns of a state that a program holds,
its warps and stages, and whether outputs and scores are found on the way or by kernels of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

from rnnc.runtime.gpu import tuner
from rnnc.runtime.gpu.low_rank_launch import Problem
from rnnc.runtime.gpu.low_rank_sizes import Way, default_way
from rnnc.runtime.gpu.tuning import machine, power_of_two, programs_wanted

__all__ = ["neighbours", "tuned"]

MICROSECOND = 3e6  # operations that one multiprocessor does in a microsecond, by products of 16-bit numbers
WAIT = 1.5  # microseconds from chunk to chunk besides: loads, and four products that wait for each other


def tuned(p: Problem, role: str, run: Callable[[Problem], object]) -> Problem:
    """The problem with the fastest way of a role ("forward", "backward"); `run` does all its work once."""
    default = default_way(role, p.batch * p.heads, p.keys, p.values, p.u.dtype, machine())
    if not tuner.TUNER.works:
        return p._replace(way=default)
    sizes = (p.u.shape[3:], p.keys, p.values, p.u.shape[2], tuner.bucket(p.batch), tuner.bucket(p.total))
    flags = (p.shared, p.old, p.base, p.keyed, p.g is not None, p.b is None, p.bounds is not None)
    key = ("low rank", _content(), role, tuner.device_name(), str(p.u.dtype), *sizes, *flags)
    options = lambda: neighbours(p, role, default)  # noqa: E731
    return p._replace(way=tuner.TUNER.choose(key, options, lambda way: run(p._replace(way=way))))


def neighbours(p: Problem, role: str, default: Way) -> list[Way]:
    """The default and the neighbours for which a model of the time is least, `tuner.FEW` in all."""
    found = [w for w in dict.fromkeys(_around(p, role, default)) if w != default]
    return [default, *sorted(found, key=lambda w: _microseconds(p, role, w))[: tuner.FEW - 1]]


def _around(p: Problem, role: str, default: Way) -> Iterator[Way]:
    """Twice and half the columns and the warps; the other way of outputs and of scores."""
    most = max(16, power_of_two(p.values))
    for columns in (default.columns // 2, default.columns, 2 * default.columns):
        for warps in (default.warps // 2, default.warps):
            if 16 <= columns <= most:
                yield replace(default, columns=columns, warps=warps)
    yield replace(default, stages=3 - default.stages)
    if role == "forward":
        yield replace(default, fused=not default.fused)
    if not p.keyed:
        yield replace(default, scored=not default.scored)


def _microseconds(p: Problem, role: str, way: Way) -> float:
    """A model: programs run in waves, and each goes through its chunks one after another."""
    processors = max(1, programs_wanted() // 4)
    states, chunks, rows = p.batch * p.heads, -(-p.total // p.chunk), p.chunk
    waves = -(-states * -(-p.values // way.columns) // processors)
    scores, on_state = 2 * rows * rows * p.keys, 2 * rows * p.keys * way.columns
    inside = 2 * on_state + 2 * rows * rows * way.columns
    apart = 0.0
    if way.fused or role == "backward":
        inside += on_state + (0 if way.scored or p.keyed else scores) + 2 * rows * rows * way.columns
    else:
        apart += scores + 2 * rows * (p.keys + rows) * p.values
    apart += scores if way.scored and not p.keyed else 0
    return waves * chunks * (WAIT + inside / MICROSECOND) + states * chunks * apart / MICROSECOND / processors


@cache
def _content() -> str:
    """Of the kernels: another version of them is measured anew."""
    files = sorted(Path(__file__).parent.glob("low_rank_*.py"))
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:16]

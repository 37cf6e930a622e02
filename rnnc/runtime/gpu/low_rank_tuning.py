"""Which configurations of a low-rank scan are worth a measurement, and the one that was found fastest.

First the chain from chunk to chunk, which is where the time goes: the columns of a state that a program holds, its
warps and stages, and whether outputs and scores are found on the way or by kernels of their own.  Then, one after
another, the blocks and warps of the kernels over all chunks.  The operator is timed as a whole.  Chunks stay as they
are: the forward leaves the inverse of each for the backward, and traced code has to know its shape (docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from rnnc.runtime.gpu import tuner
from rnnc.runtime.gpu.low_rank_launch import Problem
from rnnc.runtime.gpu.low_rank_sizes import Blocks, Way, blocks_of, default_way
from rnnc.runtime.gpu.tuning import machine, most_warps, power_of_two, programs_wanted

__all__ = ["neighbours", "phases", "sizes_of", "tuned"]

MICROSECOND = 3e6  # operations that one multiprocessor does in a microsecond, by products of 16-bit numbers
VALUES = ("low_rank_outputs", "low_rank_backward", "low_rank_products")  # that go over blocks of values
WAIT = 1.5  # microseconds from chunk to chunk besides: loads, and four products that wait for each other


def tuned(p: Problem, role: str, run: Callable[[Problem], object]) -> Problem:
    """The problem with the fastest way and blocks of a role ("forward", "backward"); `run` does all its work once."""
    default = default_way(role, p.batch * p.heads, p.keys, p.values, p.u.dtype, machine())
    if not tuner.TUNER.works:
        return p._replace(way=default)
    sizes = (p.u.shape[3:], p.keys, p.values, p.u.shape[2], tuner.bucket(p.batch), tuner.bucket(p.total))
    flags = (p.shared, p.old, p.base, p.keyed, p.first, p.b is None, p.bounds is not None)
    dtypes = [str(None if x is None else x.dtype) for x in (p.u, p.s, p.c, p.g)]
    key = ("low rank", tuner.content(), role, tuner.device_name(), *dtypes, *sizes, *flags)
    options = lambda: neighbours(p, role, default)  # noqa: E731
    p = p._replace(way=tuner.TUNER.choose(key, options, lambda way: run(p._replace(way=way))))
    for kernel in phases(p, role):
        p = _with_blocks(p, kernel, (*key, kernel, p.way), run)
    return p


def _with_blocks(p: Problem, kernel: str, key: tuple[Any, ...], run: Callable[[Problem], object]) -> Problem:
    """The problem with the fastest blocks of one kernel."""
    with_ = lambda blocks: p._replace(blocks=(*p.blocks, (kernel, blocks)))  # noqa: E731
    options = lambda: sizes_of(kernel, p.keys, p.values, p.u.dtype, machine())  # noqa: E731
    return with_(tuner.TUNER.choose(key, options, lambda blocks: run(with_(blocks))))


def phases(p: Problem, role: str) -> list[str]:
    """The kernels over all chunks that a role launches."""
    assert p.way is not None
    if role == "forward":
        before = ["low_rank_pairs"] if p.keyed else ["low_rank_scores"] if p.way.scored else []
        return [*before, "low_rank_inverse", *([] if p.way.fused else ["low_rank_outputs"])]
    if p.keyed:
        return ["low_rank_products", "low_rank_keyed_reads", "low_rank_keyed_rows"]
    return ["low_rank_backward"]


def sizes_of(kernel: str, keys: int, values: int, dtype: torch.dtype, target: str) -> list[Blocks]:
    """The default blocks of a kernel and neighbours, `tuner.FEW` in all."""
    default = blocks_of(kernel, keys, values, dtype, target)
    return [default, *(b for b in dict.fromkeys(_near(kernel, default, keys)))][: tuner.FEW]


def _near(kernel: str, default: Blocks, keys: int) -> Iterator[Blocks]:
    """Half the keys (not where a program holds all) or values, twice the warps: no more of a tile a thread than
    the default has.
    """
    more = default.warps < (4 if kernel == "low_rank_inverse" else most_warps())
    if more:
        yield replace(default, warps=2 * default.warps)
    if kernel != "low_rank_outputs" and default.keys > 16:
        yield replace(default, keys=default.keys // 2)
        if more and 2 * default.keys <= power_of_two(keys):
            yield replace(default, keys=2 * default.keys, warps=2 * default.warps)
    if kernel in VALUES and default.values > 16:
        yield replace(default, values=default.values // 2)


def neighbours(p: Problem, role: str, default: Way) -> list[Way]:
    """The default and the neighbours for which a model of the time is least, `tuner.FEW` in all."""
    found = [w for w in dict.fromkeys(_around(p, role, default)) if w != default]
    return [default, *sorted(found, key=lambda w: _microseconds(p, role, w))[: tuner.FEW - 1]]


def _around(p: Problem, role: str, default: Way) -> Iterator[Way]:
    """Half the columns, twice the warps, one stage of loads less, scores beforehand: what takes fewer registers than
    the default, as a rule.  The other way of outputs.
    """
    if default.columns > 16:
        yield replace(default, columns=default.columns // 2)
    if default.warps < most_warps():
        yield replace(default, warps=2 * default.warps)
    if default.stages > 1:
        yield replace(default, stages=default.stages - 1)
    if role == "forward":
        yield replace(default, fused=not default.fused)
    if not p.keyed and not default.scored:
        yield replace(default, scored=True)


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

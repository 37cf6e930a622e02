"""Chunkwise scans, forward and backward, whose launches are to be recorded (`rnnc.backends.triton.launched`)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rnnc.runtime.chunk import MicroStep, Read, Update
from rnnc.runtime.gpu import decays, low_rank

STEPS, HEADS = 320, 2


def _numbers(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.zeros(1, STEPS, HEADS, *shape, dtype=dtype, requires_grad=True)


def _state(keys: int, values: int) -> Tensor:
    return torch.zeros(1, HEADS, keys, values, requires_grad=True)


def _backward(*xs: Tensor) -> None:
    torch.stack([x.float().sum() for x in xs]).sum().backward()


def decayed(axis: str, keys: int, values: int, dtype: torch.dtype, *, old: bool = False) -> None:
    """A decay for each of the "keys" or "values" of a state, or "none": one for all of it."""
    k, v = _numbers(dtype, keys), _numbers(dtype, values)
    across = axis == "values"
    g = _numbers(torch.float32, *(() if axis == "none" else (keys,)))
    read = Read(_numbers(dtype, values if across else keys), "old" if old else "new")
    (o,), last = decays.scan(_state(keys, values), [MicroStep(log_decay=g, writes=((k, v),))], [read], across=across)
    _backward(o, last)


def normalised(keys: int, values: int, dtype: torch.dtype) -> None:
    step = MicroStep(log_decay=_numbers(torch.float32), writes=((_numbers(dtype, keys), _numbers(dtype, values)),))
    norm = torch.zeros(1, HEADS, keys, requires_grad=True)
    found = decays.normalised(_state(keys, values), norm, [step], [Read(_numbers(dtype, keys))], _numbers(dtype))
    _backward(*found)


def delta(kind: str, keys: int, values: int, dtype: torch.dtype) -> None:
    """A delta rule, "plain" or with a decay of one number ("gated") or of each key ("keyed"); "untied": two steps whose
    reads and writes have vectors of their own."""
    k, v, beta = _numbers(dtype, keys), _numbers(dtype, values), _numbers(torch.float32)
    g = None if kind == "plain" else _numbers(torch.float32, *((keys,) if kind == "keyed" else ()))
    b = _numbers(dtype, keys) if kind == "untied" else k
    step = MicroStep(log_decay=g, updates=(Update(k, v, b, -1, s=beta),))
    steps = [step, step._replace(log_decay=None)] if kind == "untied" else [step]
    (o,), last = low_rank.scan(_state(keys, values), steps, [Read(_numbers(dtype, keys))])
    _backward(o, last)


def every(keys: int, values: int, dtype: torch.dtype) -> dict[str, Callable[[], None]]:
    found: dict[str, Callable[[], None]] = {
        f"decays of {axis}": lambda axis=axis: decayed(axis, keys, values, dtype) for axis in ("keys", "values", "none")
    }
    found["normaliser"] = lambda: normalised(keys, values, dtype)
    for kind in ("plain", "gated", "keyed", "untied"):
        found[f"delta rule, {kind}"] = lambda kind=kind: delta(kind, keys, values, dtype)
    return found

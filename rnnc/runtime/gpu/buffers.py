"""The arrays that kernels which go from step to step are given to fill, and what becomes of gradients in parts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rnnc.runtime.gpu.arrange import lead_of
from rnnc.runtime.gpu.problem import Problem
from rnnc.runtime.layout import common_dtype

__all__ = ["accumulator_of", "added_up", "divided", "empty", "gradient_buffers", "result_buffers"]


def empty(shape: Sequence[int], like: Tensor, dtype: torch.dtype) -> Tensor:
    """Every buffer a kernel fills comes from here, so that a test can poison them: call it by the module's name."""
    return like.new_empty(list(shape), dtype=dtype)


def accumulator_of(*xs: Tensor) -> torch.dtype:
    """Of the arithmetic on these."""
    return torch.float64 if any(x.dtype == torch.float64 for x in xs) else torch.float32


def divided(found: list[Tensor], *counts: int) -> list[list[Tensor]]:
    """A list in parts: as many as counted, then the rest."""
    parts = []
    for n in counts:
        parts.append(found[:n])
        found = found[n:]
    return [*parts, found]


def result_buffers(p: Problem, inputs: Sequence[Tensor], states: Sequence[Tensor]) -> list[Tensor]:
    """Outputs, in the dtype that inputs and states have in common, and last states, each in its own."""
    like = states[0]
    dtype = common_dtype(*(x for x in (*inputs, *states) if x.is_floating_point()))
    found = [empty(p.shape(d, p.streams), like, dtype) for d in p.of.outputs]
    return found + [empty(p.shape(d, (p.batch,)), like, h.dtype) for d, h in zip(p.of.states, states, strict=True)]


def gradient_buffers(p: Problem, inputs: Sequence[Tensor], like: Tensor, acc: torch.dtype) -> list[Tensor]:
    """Of the inputs that have one, in parts where a kernel writes parts, then of the initial states."""
    found = []
    for k in p.of.gradients:
        d = p.of.inputs[k]
        whole = lead_of(d) and not p.of.axes.in_parts(d)
        lead = p.streams if lead_of(d) else p.lead
        found.append(empty(p.shape(d, lead, parts=True), inputs[k], inputs[k].dtype if whole else acc))
    return found + [empty(p.shape(d, p.lead), like, acc) for d in p.of.states]


def added_up(p: Problem, parts: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of the inputs from their parts, and of the initial states."""
    found = []
    for k, g in zip(p.of.gradients, parts):
        d = p.of.inputs[k]
        if p.of.axes.in_parts(d):
            g = g.sum((2 if lead_of(d) else len(p.lead)) + (1 if p.of.axes.grid else 0))
        found.append((g if lead_of(d) else g.sum(tuple(range(len(p.lead))))).to(inputs[k].dtype))
    states = parts[len(p.of.gradients) :]
    return found + [g[:, 0].clone() if p.of.timed else g for g in states]

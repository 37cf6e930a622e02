"""References for the runtime: the recurrences as loops, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rnnc.runtime.chunk import MicroStep, Read, updates_of


def relative(found: Tensor, expected: Tensor) -> float:
    """||found - expected|| / ||expected||, in double precision."""
    wide = torch.complex128 if expected.is_complex() else torch.float64
    found, expected = found.detach().to(wide), expected.detach().to(wide)
    assert found.shape == expected.shape
    assert not found.isnan().any()
    return float((found - expected).norm() / expected.norm().clamp(min=1e-300))


def at(x: Tensor, t: int, core_rank: int) -> Tensor:
    """The coefficient at step t: `x` is a sequence when it has two axes more than its core."""
    return x if x.ndim <= core_rank else x[:, t if x.shape[1] > 1 else 0]


def scan_loop(step: Callable[[Tensor, Tensor, Tensor], Tensor], a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """h_t = step(a_t, h_{t-1}, b_t), all states."""
    h, states = h0, []
    for a_t, b_t in zip(a.unbind(1), b.unbind(1), strict=True):
        h = step(a_t, h, b_t)
        states.append(h)
    return torch.stack(states, 1)


def matrix_loop(
    state: Tensor, steps: Sequence[MicroStep], reads: Sequence[Read], length: int
) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """The definition of a matrix-state recurrence, [B, *P, K, V]: the reads, the final state, and all states."""
    p = state.ndim - 3
    outputs: list[list[Tensor]] = [[] for _ in reads]
    states = []
    for t in range(length):
        old = state
        for step in steps:
            state = _micro_step(state, step, t, p)
        for output, read in zip(outputs, reads, strict=True):
            key = at(read.key, t, p + 1).expand(state.shape[:-1])
            output.append(torch.einsum("...kv,...k->...v", old if read.when == "old" else state, key))
        states.append(state)
    return tuple(torch.stack(o, 1) for o in outputs), state, torch.stack(states, 1)


def _micro_step(state: Tensor, step: MicroStep, t: int, p: int) -> Tensor:
    decay = step.decay if step.decay is not None else None if step.log_decay is None else step.log_decay.exp()
    new = state
    if decay is not None:
        vector = decay.ndim in (p + 1, p + 3)
        d = at(decay, t, p + 1 if vector else p)
        new = (d.unsqueeze(-1) if vector else d[..., None, None]) * state
    for u, v, b, c, s in updates_of(step):
        w = torch.zeros((), dtype=state.dtype) if v is None else at(v, t, p + 1)
        if b is not None:
            seen = torch.einsum("...kv,...k->...v", state, at(b, t, p + 1).expand(state.shape[:-1]))
            factor = 1.0 if c is None else at(c, t, p).unsqueeze(-1) if isinstance(c, torch.Tensor) else c
            w = w + factor * seen
        if s is not None:
            w = at(s, t, p).unsqueeze(-1) * w
        new = new + at(u, t, p + 1).unsqueeze(-1) * w.unsqueeze(-2)
    return new

"""Packed sequences `[1, L, ...]` with boundaries, all at once: what looks at neighbouring steps stops at their ends.

`bounds` (int64 [N + 1], on the device) is what `packed_bounds` gives; sequence i is the steps bounds[i] ..
bounds[i + 1] - 1 and may be empty; None stands for sequences `[B, T, ...]` of one length.  No length is read on the
host, so nothing waits for the device and all shapes follow from L and N.

A scan starts anew where a sequence begins: its first step forgets the state before it and has its own initial state
worked in, a_1 -> 0 and b_1 -> a_1 (x) h_0 (+) b_1, which is exact.  A window of n past values is put in front of each
sequence, so that the windows of sequence i begin n rows later than those of sequence i - 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = [
    "flipped",
    "last_state",
    "new_past",
    "own_steps",
    "padded",
    "places",
    "restarted",
    "states_before",
    "unpadded",
    "with_past",
]


def places(bounds: Tensor, total: int) -> Tensor:
    """For every step its sequence: int64 [L]."""
    steps = torch.arange(total, device=bounds.device)
    return torch.searchsorted(bounds, steps, right=True) - 1


def _first(bounds: Tensor, total: int) -> Tensor:
    """The first step of every sequence, L for an empty one: int64 [N]."""
    return torch.where(bounds[1:] > bounds[:-1], bounds[:-1], total)


# ---------------------------------------------------------------- states


def last_state(h: Tensor, start: Tensor, bounds: Tensor | None = None) -> Tensor:
    """The states after the last step, `[B, *S]`, from those after every step; those of a sequence without one are
    `start`.
    """
    if h.shape[1] == 0:
        return start
    if bounds is None:
        return h[:, -1]
    empty = (bounds[1:] == bounds[:-1]).reshape(-1, *(1,) * (start.ndim - 1))
    return torch.where(empty, start, h[0, (bounds[1:] - 1).clamp(min=0)])


def states_before(h: Tensor, start: Tensor, bounds: Tensor | None = None) -> Tensor:
    """The states before every step from those after it, h `[B, T, *S]`, and the initial ones `[B, *S]`."""
    if bounds is None:
        return torch.cat([start.unsqueeze(1), h[:, :-1]], 1)
    return _replaced(torch.cat([h[0, :1], h[0, :-1]]), start.to(h.dtype), bounds).unsqueeze(0)


def _replaced(x: Tensor, first: Tensor, bounds: Tensor) -> Tensor:
    """x `[L, ...]` with the rows `first` `[N, ...]` at the sequences' first steps."""
    total = x.shape[0]
    room = torch.cat([x, x[:1]])  # a row for what empty sequences would write
    return room.index_put_((_first(bounds, total),), first.expand(-1, *x.shape[1:]))[:total]


Compose = Callable[[Tensor, Tensor, Tensor], Tensor]
FIRST: dict[str, tuple[Compose, float]] = {  # a_1 (x) h_0 (+) b_1, and the factor that forgets
    "plus_times": (lambda a, h, b: a * h + b, 0.0),
    "max_plus": (lambda a, h, b: torch.maximum(a + h, b), -math.inf),
    "log_plus": (lambda a, h, b: torch.logaddexp(a + h, b), -math.inf),
    "matrix": (lambda a, h, b: a @ h + b, 0.0),
}


def restarted(a: Tensor, b: Tensor, start: Tensor, bounds: Tensor, ring: str) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients `[1, L, *S]` of one scan that runs all sequences, from their initial states `[N, *S]`; and the one
    it starts from, which nothing depends on.
    """
    compose, nothing = FIRST[ring]
    zero = torch.zeros_like(start[:1])
    if a.shape[1] == 0:
        return a, b, zero
    first = _first(bounds, a.shape[1]).clamp(max=a.shape[1] - 1)
    begun = compose(a[0, first], start, b[0, first])
    forget = a.new_full((), nothing).expand(start.shape[0], *a.shape[2:])
    return _replaced(a[0], forget, bounds).unsqueeze(0), _replaced(b[0], begun, bounds).unsqueeze(0), zero


# ---------------------------------------------------------------- past values


def with_past(past: Tensor, x: Tensor, bounds: Tensor | None = None) -> Tensor:
    """x `[B, T, ...]` behind the n values before it, `past` `[B, n, ...]`; packed `[1, L + N n, ...]`."""
    if bounds is None:
        return torch.cat([past, x], 1)
    count, n = past.shape[:2]
    steps = torch.arange(x.shape[1], device=x.device)
    sequence = torch.arange(count, device=x.device)
    old = bounds[:-1, None] + sequence[:, None] * n + torch.arange(n, device=x.device)
    new = steps + (places(bounds, x.shape[1]) + 1) * n
    rows = torch.cat([old.flatten(), new])
    values = torch.cat([past.flatten(0, 1), x[0]])
    return torch.zeros_like(values).index_put((rows,), values).unsqueeze(0)


def own_steps(y: Tensor, n: int, bounds: Tensor | None = None) -> Tensor:
    """The values y at windows of n past values and the present one, one for every step: `[B, T, ...]`."""
    if bounds is None:
        return y
    total = y.shape[1] - n * (bounds.shape[0] - 2)
    return y[:, torch.arange(total, device=y.device) + places(bounds, total) * n]


def new_past(window: Tensor, n: int, bounds: Tensor | None = None) -> Tensor:
    """The last n values of every sequence, `[B, n, ...]`, from what `with_past` gives."""
    if bounds is None:
        return window[:, -n:]
    sequence = torch.arange(bounds.shape[0] - 1, device=bounds.device)
    rows = (bounds[1:] + sequence * n)[:, None] + torch.arange(n, device=bounds.device)
    return window[0, rows]


def flipped(x: Tensor, bounds: Tensor | None = None) -> Tensor:
    """Every sequence turned back to front in its own place."""
    if bounds is None:
        return x.flip(1)
    of = places(bounds, x.shape[1])
    return x[:, bounds[of] + bounds[of + 1] - 1 - torch.arange(x.shape[1], device=x.device)]


# ---------------------------------------------------------------- one row each


def padded(x: Tensor, bounds: Tensor, longest: int, fill: float = 0.0) -> Tensor:
    """Packed `[1, L, ...]` -> `[N, longest, ...]`, with `fill` behind shorter sequences."""
    total = x.shape[1]
    of = places(bounds, total)
    room = x.new_full((bounds.shape[0] - 1, longest, *x.shape[2:]), fill)
    return room.index_put((of, torch.arange(total, device=x.device) - bounds[of]), x[0])


def unpadded(y: Tensor, bounds: Tensor, total: int) -> Tensor:
    """`[N, longest, ...]` -> packed `[1, L, ...]`."""
    of = places(bounds, total)
    return y[of, torch.arange(total, device=y.device) - bounds[of]].unsqueeze(0)

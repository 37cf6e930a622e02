"""States and gradients between the splits of a scan: few, so that plain tensor operations do."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gradients_between", "states_between"]


def states_between(semiring: str, pairs: bool, start: Tensor, total: Tensor, factor: Tensor) -> Tensor:
    """The state before each split, `[B, splits, ...]`: h -> factor (x) h (+) total, from `start` [B, ...].

    With `pairs` the last axis holds real and imaginary parts.
    """
    h = _as_complex(start.to(total.dtype), pairs)
    totals, factors = _as_complex(total, pairs), _as_complex(factor, pairs)
    found = [h]
    for t, f in list(zip(totals.unbind(1), factors.unbind(1), strict=True))[:-1]:
        h = _composed(semiring, f, h, t)
        found.append(h)
    return _as_real(torch.stack(found, 1), pairs)


def gradients_between(pairs: bool, last: Tensor, total: Tensor, factor: Tensor) -> Tensor:
    """The gradient that comes into each split from behind, `[B, splits, ...]`; `last` is that of the last state."""
    g = _as_complex(last.to(total.dtype).contiguous(), pairs)
    totals, factors = _as_complex(total, pairs), _as_complex(factor, pairs)
    found = [g]
    for t, f in reversed(list(zip(totals.unbind(1), factors.unbind(1), strict=True))[1:]):
        g = f * g + t
        found.append(g)
    return _as_real(torch.stack(found[::-1], 1), pairs)


def _composed(semiring: str, f: Tensor, h: Tensor, t: Tensor) -> Tensor:
    match semiring:
        case "plus_times":
            return f * h + t
        case "max_plus":
            return torch.maximum(f + h, t)
        case "min_plus":
            return torch.minimum(f + h, t)
        case "log_plus":
            return torch.logaddexp(f + h, t)
        case _:
            raise ValueError(f"there is no semiring {semiring!r}")


def _as_complex(x: Tensor, pairs: bool) -> Tensor:
    return torch.view_as_complex(x.contiguous()) if pairs else x


def _as_real(x: Tensor, pairs: bool) -> Tensor:
    return torch.view_as_real(x) if pairs else x

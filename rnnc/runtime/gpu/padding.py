"""Keys and values whose number is no multiple of 16, with zeros behind them up to one.

Kernels read 16 bytes at once, ahead of what they compute, where every row begins at a multiple of 16 numbers; of 100
numbers they would read one by one (docs/decisions.md has the count).  Keys and values of zero stay zero and change no
others, so all kernels see multiples of 16 only, and what is returned is a part of what they find.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rnnc.runtime.layout import spread

__all__ = ["multiple", "padded", "sequence", "unpadded"]

ROW = 16  # numbers: Triton tells kernels of sizes and strides whether they are multiples of 16, and no more


def multiple(size: int) -> int:
    """The smallest multiple of 16 that is at least `size`."""
    return -(-size // ROW) * ROW


def padded(x: Tensor, *sizes: int) -> Tensor:
    """`x` with its last axes, of these sizes (or of size 1, as broadcast), as long as the next multiples of 16."""
    if all(n == multiple(n) for n in sizes):
        return x
    lead = x.shape[: max(0, x.ndim - len(sizes))]
    return torch.nn.functional.pad(x.expand(*lead, *sizes), [k for n in sizes[::-1] for k in (0, multiple(n) - n)])


def unpadded(x: Tensor, *sizes: int) -> Tensor:
    """The first so many entries along the last axes, by a view; `x` itself where that is all, for the gradient of a
    view is a copy.
    """
    for k, n in enumerate(sizes, -len(sizes)):
        x = x if x.shape[k] == n else x.narrow(k, 0, n)
    return x


def sequence(x: Tensor, batch: int, length: int, per: tuple[int, ...], core: int) -> Tensor:
    """`spread` of a vector of `core` entries, padded: [batch, length, *per, multiple(core)].

    Raises ValueError as `spread` does.  What is broadcast stays so.
    """
    whole = spread(x, batch, length, (*per, core))
    return whole if core == multiple(core) else spread(padded(x, core), batch, length, (*per, multiple(core)))

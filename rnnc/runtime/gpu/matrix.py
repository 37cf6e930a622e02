"""`matrix_scan` for GPUs: chunkwise kernels where they serve, `rnnc.runtime.matrix_scan` everywhere else.

`low_rank` has micro-steps of low rank, `decays` those that only decay and write.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rnnc.runtime import chunk as reference
from rnnc.runtime.chunk import MicroStep, Read
from rnnc.runtime.gpu import decays, low_rank

__all__ = ["matrix_scan"]


def matrix_scan(
    state: Tensor,
    steps: Sequence[MicroStep],
    reads: Sequence[Read],
    *,
    vector: bool = False,
    length: int | None = None,
    least: float | None = None,
    bounds: Tensor | None = None,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """See `rnnc.runtime.matrix_scan`.  `least` is a proven lower bound of every log decay."""
    if low_rank.served(state, steps, reads, vector):
        return low_rank.scan(state, steps, reads, length=length, bounds=bounds, least=least)
    if decays.served(state, steps, reads, vector):
        return decays.scan(state, steps, reads, length=length, least=least, bounds=bounds)
    return reference.matrix_scan(state, steps, reads, vector=vector, length=length, bounds=bounds)

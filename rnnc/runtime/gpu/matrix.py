"""`matrix_scan` for GPUs: chunkwise kernels where they serve, `rnnc.runtime.matrix_scan` everywhere else.

`low_rank` has micro-steps of low rank, `decays` those that only decay and write.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rnnc.runtime import chunk as reference
from rnnc.runtime.chunk import MicroStep, Read
from rnnc.runtime.gpu import decays, low_rank
from rnnc.runtime.packed import last_state, states_before

__all__ = ["matrix_scan"]


def _across(
    state: Tensor, steps: Sequence[MicroStep], reads: Sequence[Read], length: int | None, bounds: Tensor | None
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Reads along the other axis where no kernel serves: of all states, formed one by one."""
    after = reference.matrix_states(state, steps, length=length, bounds=bounds)
    before = states_before(after, state, bounds)
    found = [((before if r.when == "old" else after) @ r.key.unsqueeze(-1)).squeeze(-1) for r in reads]
    return tuple(found), last_state(after, state, bounds)


def matrix_scan(
    state: Tensor,
    steps: Sequence[MicroStep],
    reads: Sequence[Read],
    *,
    vector: bool = False,
    length: int | None = None,
    least: float | None = None,
    bounds: Tensor | None = None,
    across: bool = False,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """See `rnnc.runtime.matrix_scan`.  `least` is a proven lower bound of every log decay.

    `across`: the state is read along its other axis than the decay's, S key for a key [V]: [B, T, *P, K].
    """
    if across and not decays.served(state, steps, reads, vector):
        return _across(state, steps, reads, length, bounds)
    if low_rank.served(state, steps, reads, vector):
        return low_rank.scan(state, steps, reads, length=length, bounds=bounds, least=least)
    if decays.served(state, steps, reads, vector):
        return decays.scan(state, steps, reads, length=length, least=least, bounds=bounds, across=across)
    return reference.matrix_scan(state, steps, reads, vector=vector, length=length, bounds=bounds)

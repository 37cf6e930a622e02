"""`matrix_scan` for GPUs: chunkwise kernels where they serve, `rnnc.runtime.matrix_scan` everywhere else.

`low_rank` has micro-steps of low rank, `decays` those that only decay and write.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from rnnc.runtime import chunk as reference
from rnnc.runtime.chunk import MicroStep, Read
from rnnc.runtime.gpu import decays, low_rank
from rnnc.runtime.gpu.devices import check_devices
from rnnc.runtime.packed import last_state, states_before

__all__ = ["matrix_scan", "normalised_scan"]


def normalised_scan(
    state: Tensor,
    normaliser: Tensor,
    steps: Sequence[MicroStep],
    reads: Sequence[Read],
    value: Tensor | None = None,
    *,
    length: int | None = None,
    least: float | None = None,
    bounds: Tensor | None = None,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor, Tensor]:
    """`matrix_scan` of a state [K, V] and of a vector [K] with the same decay and writes, whose value is a number:

        n <- decay n + u value,    read as n . key

    `value` is [B, T, *P] (one where there is none).  The reads of both, [B, T, *P, V] and [B, T, *P], and the last
    values of both.  One column more of the state, in the same kernels; where no kernel serves, by `matrix_scan`.
    """
    _check(state, normaliser, steps, reads, value, bounds)
    if decays.one_pass(state, steps, reads):
        o, dots, last, norm = decays.normalised(state, normaliser, steps, reads, value, length=length, bounds=bounds)
        return (o,), (dots,), last, norm
    (step,) = steps
    one = state.new_ones(()) if value is None else value
    writes = []
    for u, v in step.writes:
        assert v is not None
        more = one if value is not None else one.expand(v.shape[:-1])
        lead = torch.broadcast_shapes(v.shape[:-1], more.shape)
        writes.append((u, torch.cat([v.expand(*lead, v.shape[-1]), more.expand(lead).unsqueeze(-1)], -1)))
    whole = torch.cat([state, normaliser.unsqueeze(-1)], -1)
    found, final = matrix_scan(
        whole, [step._replace(writes=tuple(writes))], reads, length=length, least=least, bounds=bounds
    )
    return tuple(y[..., :-1] for y in found), tuple(y[..., -1] for y in found), final[..., :-1], final[..., -1]


def _check(*arguments: object) -> None:
    """RuntimeError where the tensors, of which a state is the first, are on several devices."""
    if not torch.compiler.is_compiling():
        check_devices([*_tensors(arguments)], alone=True)


def _tensors(x: object) -> Iterator[Tensor]:
    """All that micro-steps and reads hold."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, (tuple, list)):
        for part in x:
            yield from _tensors(part)


def _across(
    state: Tensor, steps: Sequence[MicroStep], reads: Sequence[Read], length: int | None, bounds: Tensor | None
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Reads along the other axis where no kernel serves: of all states, formed one by one."""
    after = reference.matrix_states(state, steps, length=length, bounds=bounds)
    before = states_before(after, state, bounds)
    dtypes = [torch.promote_types(after.dtype, r.key.dtype) for r in reads]  # a complex state, read by real numbers
    states = [(before if r.when == "old" else after).to(t) for r, t in zip(reads, dtypes, strict=True)]
    found = [(s @ r.key.to(s.dtype).unsqueeze(-1)).squeeze(-1) for s, r in zip(states, reads, strict=True)]
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
    _check(state, steps, reads, bounds)
    if across and not decays.served(state, steps, reads, vector):
        return _across(state, steps, reads, length, bounds)
    if low_rank.served(state, steps, reads, vector):
        return low_rank.scan(state, steps, reads, length=length, bounds=bounds, least=least)
    if decays.served(state, steps, reads, vector):
        return decays.scan(state, steps, reads, length=length, least=least, bounds=bounds, across=across)
    return reference.matrix_scan(state, steps, reads, vector=vector, length=length, bounds=bounds)

"""Matrix-state recurrences chunk by chunk.

    S <- D S + sum_r u_r (v_r + c_r S^T b_r)^T        one micro-step; all of its updates read the same S [K, V]

Low rank terms a (b^T S) are updates with v = 0, writes u v^T are updates without b; the delta rule is one update with
u = b = k.  Inside a chunk write w_r = v_r + c_r S^T b_r, and let G be the decay accumulated since the chunk's start.
Unrolling S,

    w_t = v_t + c_t ( (G b)_t^T S_0 + sum over earlier columns s of M_bu[t, s] w_s )

with M_bu the products of b and u weighted by the decay between them: a unit lower triangular system.  Its solution is
affine in the state at the chunk's start, W = W_v + W_k S_0, and so is the state at its end, S' = (diag(G_end) + U^T
W_k) S_0 + U^T W_v, with U decayed to the end.  So all chunks are solved at once, the chunk states follow by a scan over
T / C small matrix products, and the reads S^T q are three matrix products.  (The UT transform of Yang et al. 2024,
"Parallelizing linear transformers with the delta rule over sequence length", for any rank and decay.)

Nothing is divided by a decay, and no exponent of a decay is positive (see `runtime/_decay.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rnnc.runtime._chain import chain
from rnnc.runtime._chunk_layout import Columns, Frame, Side, columns_of, cut, decay_of
from rnnc.runtime._decay import Decay, Rows, scaled
from rnnc.runtime._inverse import unit_lower_inverse
from rnnc.runtime._micro_steps import MicroStep, Read, Update, unscaled, updates_of
from rnnc.runtime.layout import full_precision
from rnnc.runtime.packed import last_state, states_before, unpadded
from rnnc.runtime.scan import linear_scan

__all__ = ["MicroStep", "Read", "Update", "matrix_scan", "matrix_scan_across", "matrix_states", "updates_of"]


def matrix_scan(
    state: Tensor,
    steps: Sequence[MicroStep],
    reads: Sequence[Read],
    *,
    vector: bool = False,
    length: int | None = None,
    chunk: int | None = None,
    bounds: Tensor | None = None,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Run the recurrence over a sequence: the reads, each `[B, T, *P, V]`, and the final state.

    `state` is `[B, *P, K, V]`, or `[B, *P, K]` with `vector=True` (reads are then `[B, T, *P]`).  Coefficients are
    sequences `[B, T, *P, ...]`, broadcastable, or static `[*P, ...]`.  `length` is T where all are static; `chunk` the
    time steps of a chunk (by default 32 micro-steps on a CPU, 64 elsewhere).  Computed in float32 at least; returned in
    the promoted dtype of the arguments.

    With `bounds` (see `rnnc.runtime.packed`) N sequences are packed: coefficients and reads are `[1, L, ...]`, `state`
    is `[N, ...]`.  They run side by side, the longest length read on the host.
    """
    _check(state, steps, reads, vector)
    if bounds is not None:
        rows = Side.of(state, steps, reads, vector, length, bounds)
        found, final = matrix_scan(
            state, rows.steps(steps), rows.reads(reads), vector=vector, length=rows.longest, chunk=chunk
        )
        return tuple(unpadded(y, bounds, rows.total) for y in found), final
    steps = [unscaled(step) for step in steps]
    frame = Frame.of(state, steps, reads, vector, length)
    with full_precision(state.device):
        outputs, final = _solve(frame, state, steps, reads, chunk)
    if vector:
        return tuple(o.squeeze(-1) for o in outputs), final.squeeze(-1)
    return outputs, final


def matrix_states(
    state: Tensor,
    steps: Sequence[MicroStep],
    *,
    vector: bool = False,
    length: int | None = None,
    chunk: int | None = None,
    bounds: Tensor | None = None,
) -> Tensor:
    """The whole state after every time step, `[B, T, *P, K, V]`, or `[B, T, *P, K]` with `vector=True`.

    Arguments as for `matrix_scan`.  The values w_t of all updates are found chunk by chunk; given those the state is an
    elementwise scan.
    """
    _check(state, steps, (), vector)
    if bounds is not None:
        rows = Side.of(state, steps, (), vector, length, bounds)
        states = matrix_states(state, rows.steps(steps), vector=vector, length=rows.longest, chunk=chunk)
        return unpadded(states, bounds, rows.total)
    steps = [unscaled(step) for step in steps]
    frame = Frame.of(state, steps, (), vector, length)
    with full_precision(state.device):
        states = _whole(frame, state, steps, chunk)
    return states.squeeze(-1) if vector else states


def matrix_scan_across(
    state: Tensor,
    steps: Sequence[MicroStep],
    reads: Sequence[Read],
    *,
    length: int | None = None,
    least: float | None = None,
    bounds: Tensor | None = None,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Reads along the other axis than the decay's, S key for a key [V]: [B, T, *P, K], of all states, which are formed.

    `least`, a bound of the log decays, is for kernels that can use one.
    """
    after = matrix_states(state, steps, length=length, bounds=bounds)
    before = states_before(after, state, bounds)
    found = [((before if r.when == "old" else after) @ r.key.unsqueeze(-1)).squeeze(-1) for r in reads]
    return tuple(found), last_state(after, state, bounds)


def _check(state: Tensor, steps: Sequence[MicroStep], reads: Sequence[Read], vector: bool) -> None:
    if not steps:
        raise ValueError("a time step needs at least one micro-step")
    if any(step.decay is not None and step.log_decay is not None for step in steps):
        raise ValueError("a micro-step has a decay or its logarithm, not both")
    if any(read.when not in ("old", "new") for read in reads):
        raise ValueError('a state is read before ("old") or after ("new") a time step')
    least = 2 if vector else 3
    if state.ndim < least:
        core = "[batch, ..., K]" if vector else "[batch, ..., K, V]"
        raise ValueError(f"a state of shape {tuple(state.shape)} is not {core}")


class _Solved(NamedTuple):
    """States at the chunks' starts [N, G, K, V], the final state [G, K, V], and the values w of all updates."""

    entry: Tensor
    final: Tensor
    decay: Decay
    columns: tuple[tuple[Rows, Tensor], ...]


def _chunks(frame: Frame, state: Tensor, steps: Sequence[MicroStep], chunk: int) -> _Solved:
    """Solve all chunks for their updates' values, then scan over the chunks' states."""
    decay = decay_of(frame, steps, chunk)
    reading, plain = (columns_of(frame, steps, chunk, reading=r) for r in (True, False))
    state = frame.grouped(state)
    columns: list[tuple[Rows, Tensor]] = []
    source: Tensor | None = None
    if plain is not None and plain.v is not None:
        columns.append((plain.u, plain.v.flatten(2, 3)))
        source = _ended(plain.u, decay).mT @ plain.v.flatten(2, 3)
    total = decay.total()
    if reading is None:
        source = state.new_zeros(()) if source is None else source
        count = frame.chunk_count(chunk)
        factor = None if total is None else total.unsqueeze(-1).transpose(0, 1)
        after = linear_scan(factor, source.transpose(0, 1) if source.ndim else source, state, length=count)
        entry = torch.cat((state.unsqueeze(0), after[:, :-1].transpose(0, 1)))
        return _Solved(entry, last_state(after, state), decay, tuple(columns))
    value, gain = _triangular(reading, columns, decay, frame.values)  # w = value + gain @ S_0
    entry, w, final = chain(total, _ended(reading.u, decay), gain, value, source, state)
    columns.append((reading.u, w))
    return _Solved(entry, final, decay, tuple(columns))


def _ended(u: Rows, decay: Decay) -> Tensor:
    """Columns decayed to the chunk's end, [G, N, C * n, K]."""
    return scaled(u.x, decay.to_end(u)).flatten(2, 3)


def _triangular(
    reading: Columns, known: Sequence[tuple[Rows, Tensor]], decay: Decay, value_size: int
) -> tuple[Tensor, Tensor]:
    """Solve (I - M_bu) w = v + M_bu' v' + (G b)^T S_0 for w = value + gain S_0; the rows given are -b."""
    assert reading.b is not None
    weight = decay.from_start(reading.b)
    gain = (-reading.b.x if weight is None else reading.b.x * -weight).flatten(2, 3)
    system = decay.gram(reading.b, reading.u)
    value = None if reading.v is None else reading.v.flatten(2, 3)
    for u, v in known:
        seen = decay.gram(reading.b, u) @ v
        value = -seen if value is None else value - seen
    inverse = unit_lower_inverse(system)
    if value is None:  # pure low rank: the values are linear in the state
        return gain.new_zeros(*gain.shape[:-1], value_size), inverse @ gain
    return inverse @ value, inverse @ gain


def _batched(x: Tensor) -> Tensor:
    return x.flatten(0, 1)


def _solve(
    frame: Frame, state: Tensor, steps: Sequence[MicroStep], reads: Sequence[Read], chunk: int | None
) -> tuple[tuple[Tensor, ...], Tensor]:
    if frame.length == 0:
        shape = (frame.batch, 0, *frame.per, frame.values)
        core = (*frame.per, frame.keys, frame.values)
        empty = tuple(state.new_zeros(shape, dtype=frame.outer) for _ in reads)
        return empty, state.reshape(frame.batch, *core).to(frame.outer)
    size = frame.chunk_steps(len(steps), chunk, state.device.type)
    solved = _chunks(frame, state, steps, size)
    outputs: dict[int, Tensor] = {}
    for when in ("old", "new"):
        chosen = [i for i, read in enumerate(reads) if read.when == when]
        if not chosen:
            continue
        micro = 0 if when == "old" else len(steps) - 1
        keys = frame.rows([reads[i].key for i in chosen], frame.keys, size)
        rows = Rows(x=keys, micro=(micro,) * len(chosen), inclusive=when == "new")
        found = torch.bmm(_batched(scaled(rows.x, solved.decay.from_start(rows)).flatten(2, 3)), _batched(solved.entry))
        for u, w in solved.columns:
            found = torch.baddbmm(found, _batched(solved.decay.gram(rows, u)), _batched(w))
        found = found.view(*solved.entry.shape[:2], size, len(chosen), frame.values)
        outputs.update((i, frame.as_sequence(o)) for i, o in zip(chosen, found.unbind(3), strict=True))
    final = solved.final.reshape(frame.batch, *frame.per, frame.keys, frame.values).to(frame.outer)
    return tuple(outputs[i] for i in range(len(reads))), final


def _whole(frame: Frame, state: Tensor, steps: Sequence[MicroStep], chunk: int | None) -> Tensor:
    """Every state, by one elementwise scan: the time step's own micro-steps are a chunk of one step."""
    if frame.length == 0:
        return state.new_zeros((frame.batch, 0, *frame.per, frame.keys, frame.values), dtype=frame.outer)
    size = frame.chunk_steps(len(steps), chunk, state.device.type)
    solved = _chunks(frame, state, steps, size)
    single = decay_of(frame, steps, 1)  # [T, G, M, Kd]
    source = state.new_zeros((), dtype=frame.inner)
    for u, w in solved.columns:
        rows = Rows(x=_single(frame, u.x), micro=u.micro)
        source = source + _ended(rows, single).mT @ _single(frame, w.unflatten(2, (size, len(u.micro)))).flatten(2, 3)
    total = single.total()
    initial = frame.grouped(state)
    factor = None if total is None else total.unsqueeze(-1).transpose(0, 1)
    h = linear_scan(factor, source.transpose(0, 1) if source.ndim else source, initial, length=frame.length)
    return h.unflatten(0, (frame.batch, *frame.per)).movedim(-3, 1).to(frame.outer)


def _single(frame: Frame, x: Tensor) -> Tensor:
    """[N, G, C, n, size] -> [T, G, 1, n, size]: each step a chunk of its own, the padded steps cut off."""
    return cut(x.movedim(2, 1).flatten(0, 1), 0, frame.length).unsqueeze(2)

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

Nothing is divided by a decay, and no exponent of a decay is positive (see `_decay`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rnnc.runtime._chain import chain
from rnnc.runtime._compat import exporting
from rnnc.runtime._decay import Decay, LogDecay, NoDecay, Rows, ValueDecay, scaled
from rnnc.runtime._inverse import unit_lower_inverse
from rnnc.runtime.layout import common_dtype, compute_dtype, full_precision, sequence_length, spread
from rnnc.runtime.packed import last_state, padded, states_before, unpadded
from rnnc.runtime.scan import linear_scan

__all__ = ["MicroStep", "Read", "Update", "matrix_scan", "matrix_scan_across", "matrix_states", "updates_of"]

CHUNK = {"cpu": 32}  # micro-steps of a chunk, 64 elsewhere; measured, see docs/performance.md
PAIRWISE = 1  # time steps of the blocks whose vector decays are done pair by pair


class Update(NamedTuple):
    """S += s u (v + c S^T b)^T with u, b of shape [K], v [V], scalars or numbers c and s (None: one).

    Without b it is a plain write; with b and without v a low-rank term.  For a vector state v has shape [], and None in
    a plain write is one.
    """

    u: Tensor
    v: Tensor | None = None
    b: Tensor | None = None
    c: Tensor | float | None = None
    s: Tensor | float | None = None


class MicroStep(NamedTuple):
    """S <- D S + sum a (b^T S) + sum u v^T + updates, every term reading the same S.

    `log_decay` (preferred: exact near one) or `decay` (any sign, zero allowed) is scalar or [K] per step; with neither
    it is one. `low_rank` holds pairs (a, b), `writes` pairs (u, v).
    """

    decay: Tensor | None = None
    log_decay: Tensor | None = None
    low_rank: tuple[tuple[Tensor, Tensor], ...] = ()
    writes: tuple[tuple[Tensor, Tensor | None], ...] = ()
    updates: tuple[Update, ...] = ()


class Read(NamedTuple):
    """S^T key, of the state before ("old") or after ("new") the whole time step."""

    key: Tensor
    when: Literal["old", "new"] = "new"


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
        rows = _Side.of(state, steps, reads, vector, length, bounds)
        found, final = matrix_scan(
            state, rows.steps(steps), rows.reads(reads), vector=vector, length=rows.longest, chunk=chunk
        )
        return tuple(unpadded(y, bounds, rows.total) for y in found), final
    steps = [_unscaled(step) for step in steps]
    frame = _frame(state, steps, reads, vector, length)
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
        rows = _Side.of(state, steps, (), vector, length, bounds)
        states = matrix_states(state, rows.steps(steps), vector=vector, length=rows.longest, chunk=chunk)
        return unpadded(states, bounds, rows.total)
    steps = [_unscaled(step) for step in steps]
    frame = _frame(state, steps, (), vector, length)
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


# -- packed sequences side by side ------------------------------------------------------------------------------------


class _Side(NamedTuple):
    """Packed coefficients as rows of one length; behind shorter sequences are steps that change nothing."""

    bounds: Tensor
    total: int
    longest: int
    rank: int  # of per blocks

    @classmethod
    def of(
        cls,
        state: Tensor,
        steps: Sequence[MicroStep],
        reads: Sequence[Read],
        vector: bool,
        length: int | None,
        bounds: Tensor,
    ) -> _Side:
        total = _frame(state[:1], [_unscaled(step) for step in steps], reads, vector, length).length
        longest = int((bounds[1:] - bounds[:-1]).max())
        return cls(bounds, total, longest, state.ndim - (2 if vector else 3))

    def given(self, x: Tensor, fill: float = 0.0, *, static: bool = True) -> Tensor:
        """A coefficient; what is the same at all steps stays so where `static` allows it."""
        if x.ndim <= self.rank + 1:
            if static:
                return x
            x = x.expand(1, self.total, *(1,) * max(0, self.rank + 1 - x.ndim), *x.shape)
        return padded(x.expand(1, self.total, *x.shape[2:]), self.bounds, self.longest, fill)

    def reads(self, reads: Sequence[Read]) -> list[Read]:
        return [read._replace(key=self.given(read.key)) for read in reads]

    def steps(self, steps: Sequence[MicroStep]) -> list[MicroStep]:
        return [
            MicroStep(
                decay=None if step.decay is None else self.decay(step.decay, 1.0),
                log_decay=None if step.log_decay is None else self.decay(step.log_decay, 0.0),
                updates=tuple(self.update(x) for x in updates_of(step)),
            )
            for step in steps
        ]

    def decay(self, x: Tensor, fill: float) -> Tensor:
        if x.ndim in (0, self.rank):
            x = x.expand(1, self.total, *(1,) * (self.rank - x.ndim), *x.shape)
        return self.given(x, fill, static=False)

    def update(self, x: Update) -> Update:
        u = self.given(x.u, static=False)
        v, b = (None if y is None else self.given(y) for y in (x.v, x.b))
        c, s = (self.given(y) if isinstance(y, Tensor) else y for y in (x.c, x.s))
        return Update(u=u, v=v, b=b, c=c, s=s)


# -- layout: [B, T, *P, n] arguments as [N, G, C, rows, n] -----------------------------------------------------------


class _Frame(NamedTuple):
    """Sizes and dtypes of one problem; G = B * prod(P)."""

    batch: int
    length: int
    per: tuple[int, ...]
    keys: int
    values: int
    vector: bool
    inner: torch.dtype
    outer: torch.dtype


def _frame(
    state: Tensor, steps: Sequence[MicroStep], reads: Sequence[Read], vector: bool, length: int | None
) -> _Frame:
    """Read the sizes off the state, the number of steps off the first coefficient that is a sequence."""
    batch, *core = state.shape if not vector else (*state.shape, 1)
    per = tuple(core[:-2])
    vectors = [r.key for r in reads]
    scalars: list[Tensor] = []
    decays: list[Tensor] = []
    for step in steps:
        decays += [x for x in (step.decay, step.log_decay) if x is not None]
        for update in updates_of(step):
            vectors += [x for x in (update.u, update.b) if x is not None]
            if update.v is not None:
                (scalars if vector else vectors).append(update.v)
            if isinstance(update.c, Tensor):
                scalars.append(update.c)
    rank = len(per)
    for x in decays:
        (vectors if x.ndim in (rank + 1, rank + 3) else scalars).append(x)
    if length is None and not any(x.ndim == rank + 3 for x in vectors):
        length = sequence_length(rank, scalars, None)
    else:
        length = sequence_length(rank + 1, vectors, length)
    outer = common_dtype(state, *vectors, *scalars)
    return _Frame(batch, length, per, core[-2], core[-1], vector, compute_dtype(outer), outer)


def _unscaled(step: MicroStep) -> MicroStep:
    """The step with s multiplied into u, and a number c into b."""
    updates = []
    for x in step.updates:
        u = x.u if x.s is None else x.u * (x.s.unsqueeze(-1) if isinstance(x.s, Tensor) else x.s)
        if x.b is not None and isinstance(x.c, (int, float)):
            x = x._replace(b=x.b * x.c if abs(x.c) != 1 else x.b if x.c == 1 else -x.b, c=None)
        updates.append(x._replace(u=u, s=None))
    return step._replace(updates=tuple(updates))


def updates_of(step: MicroStep) -> list[Update]:
    """All terms of a micro-step as updates, those that read the state first."""
    low_rank = [Update(u=a, b=b) for a, b in step.low_rank]
    reading = [x for x in step.updates if x.b is not None]
    plain = [x for x in step.updates if x.b is None]
    return [*low_rank, *reading, *(Update(u=u, v=v) for u, v in step.writes), *plain]


def _rows(frame: _Frame, xs: Sequence[Tensor | None], size: int, chunk: int, fill: float = 0.0) -> Tensor:
    """Stack vectors of a time step (None: zero), cut into chunks: [N, G, C, len(xs), size].

    The last chunk is padded with `fill`: with steps that change nothing.
    """
    device = next((x.device for x in xs if x is not None), None)
    full = [_chunked(frame, torch.zeros((), device=device) if x is None else x, size, chunk, fill) for x in xs]
    rows = full[0].unsqueeze(-2) if len(full) == 1 else torch.stack(full, -2)
    return rows.flatten(1, -4) if frame.per else rows


def _chunked(frame: _Frame, x: Tensor, size: int, chunk: int, fill: float) -> Tensor:
    """[B, T, *P, size] -> [N, B, *P, C, size], a view where T is a multiple of C."""
    x = spread(x.to(frame.inner), frame.batch, frame.length, (*frame.per, size))
    count = _count(frame, chunk)
    pad = count * chunk - frame.length
    if torch.compiler.is_compiling() or pad:  # a symbolic length is padded without asking whether it must be
        x = torch.nn.functional.pad(x, (0, 0) * (x.ndim - 2) + (0, pad), value=fill)
    return x.unflatten(1, (count, chunk)).movedim(1, 0).movedim(2, -2)


def _grouped(frame: _Frame, state: Tensor) -> Tensor:
    """A state as [G, K, V], in the dtype of the arithmetic."""
    groups = math.prod((frame.batch, *frame.per))
    return state.to(frame.inner).reshape(groups, frame.keys, frame.values)


def _count(frame: _Frame, chunk: int) -> int:
    """Chunks; one idle chunk more under export, where the program must not depend on there being a single one."""
    idle = chunk if chunk > 1 and exporting() else 0
    return (frame.length + idle + chunk - 1) // chunk


def _unfold(frame: _Frame, x: Tensor) -> Tensor:
    """[N, G, C, size] -> [B, T, *P, size] in the outer dtype."""
    x = x.unflatten(1, (frame.batch, *frame.per)).movedim(-2, 2).movedim(0, 1).flatten(1, 2)
    return _cut(x, 1, frame.length).to(frame.outer)


def _cut(x: Tensor, axis: int, length: int) -> Tensor:
    """The first `length` entries; under export gathered, since a slice asks whether a symbolic length fits."""
    if exporting():
        return x.index_select(axis, torch.arange(length, device=x.device))
    return x.narrow(axis, 0, length)


def _chunk_steps(frame: _Frame, micro_steps: int, chunk: int | None, device: str) -> int:
    """Time steps of a chunk: a power of two, not far above T."""
    if chunk is not None:
        if chunk < 1 or chunk & (chunk - 1):
            raise ValueError(f"chunk must be a power of two, not {chunk}")
        return chunk
    steps = 1 << max(0, (CHUNK.get(device, 64) // micro_steps).bit_length() - 1)
    if not torch.compiler.is_compiling():  # there T may be symbolic
        while steps // 2 >= frame.length and steps > 1:
            steps //= 2
    return steps


def _decay(frame: _Frame, steps: Sequence[MicroStep], chunk: int) -> Decay:
    """The decays of all micro-steps, as logarithms where all are given so, else as values."""
    given = [x for s in steps for x in (s.log_decay, s.decay) if x is not None]
    if not given:
        return NoDecay(steps=chunk, micro_steps=len(steps))
    rank = len(frame.per)
    vector = any(x.ndim in (rank + 1, rank + 3) and x.shape[-1] != 1 for x in given)
    logarithmic = all(s.decay is None for s in steps)
    entries = []
    for s in steps:
        x = s.log_decay if s.decay is None else s.decay
        if x is None:
            entries.append(torch.full((), 0.0 if logarithmic else 1.0, dtype=frame.inner, device=given[0].device))
            continue
        x = x if x.ndim in (rank + 1, rank + 3) else x.unsqueeze(-1)
        entries.append(x if logarithmic or s.decay is not None else x.to(frame.inner).exp())
    rows = _rows(frame, entries, frame.keys if vector else 1, chunk, 0.0 if logarithmic else 1.0).flatten(2, 3)
    if logarithmic:
        return LogDecay(rows, steps=chunk, micro_steps=len(steps), dtype=frame.inner, base=PAIRWISE)
    return ValueDecay(rows, steps=chunk, micro_steps=len(steps))


class _Columns(NamedTuple):
    """The updates of all micro-steps: those that read the state, and plain writes (None where there are none).

    u, -c b [N, G, C, M * r, K]; v [N, G, C, M * r, V].
    """

    u: Rows
    b: Rows | None
    v: Tensor | None


def _columns(frame: _Frame, steps: Sequence[MicroStep], chunk: int, *, reading: bool) -> _Columns | None:
    """Give every micro-step the same number of updates, by updates that do nothing."""
    chosen = [[x for x in updates_of(s) if (x.b is not None) == reading] for s in steps]
    most = max(len(x) for x in chosen)
    if most == 0:
        return None
    nothing = Update(u=torch.zeros((), device=next(x for xs in chosen for x in xs).u.device))
    slots = [x for xs in chosen for x in (*xs, *[nothing] * (most - len(xs)))]
    micro = tuple(j for j in range(len(steps)) for _ in range(most))

    def stack(xs: Sequence[Tensor | None], size: int) -> Tensor:
        return _rows(frame, xs, size, chunk)

    u = Rows(x=stack([x.u for x in slots], frame.keys), micro=micro)
    values = [_value(frame, x) for x in slots]
    v = None if all(x is None for x in values) else stack(values, frame.values)
    if not reading:
        return _Columns(u, None, v)
    b = Rows(x=stack([_row(x) for x in slots], frame.keys), micro=micro)
    return _Columns(u, b, v)


def _row(update: Update) -> Tensor | None:
    """-c b: the triangular system is then the identity plus the products of these rows with the columns."""
    if update.b is None:
        return None
    return update.b * -update.c.unsqueeze(-1) if isinstance(update.c, Tensor) else -update.b


def _value(frame: _Frame, update: Update) -> Tensor | None:
    """v as a row; a plain write into a vector state has v = 1 when it is left out."""
    if update.v is None:
        return update.u.new_ones(()) if update.b is None and frame.vector else None
    return update.v.unsqueeze(-1) if frame.vector else update.v


# -- the chunkwise form ----------------------------------------------------------------------------------------------


class _Solved(NamedTuple):
    """States at the chunks' starts [N, G, K, V], the final state [G, K, V], and the values w of all updates."""

    entry: Tensor
    final: Tensor
    decay: Decay
    columns: tuple[tuple[Rows, Tensor], ...]


def _chunks(frame: _Frame, state: Tensor, steps: Sequence[MicroStep], chunk: int) -> _Solved:
    """Solve all chunks for their updates' values, then scan over the chunks' states."""
    decay = _decay(frame, steps, chunk)
    reading, plain = (_columns(frame, steps, chunk, reading=r) for r in (True, False))
    state = _grouped(frame, state)
    columns: list[tuple[Rows, Tensor]] = []
    source: Tensor | None = None
    if plain is not None and plain.v is not None:
        columns.append((plain.u, plain.v.flatten(2, 3)))
        source = _ended(plain.u, decay).mT @ plain.v.flatten(2, 3)
    total = decay.total()
    if reading is None:
        source = state.new_zeros(()) if source is None else source
        count = _count(frame, chunk)
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
    reading: _Columns, known: Sequence[tuple[Rows, Tensor]], decay: Decay, value_size: int
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
    frame: _Frame, state: Tensor, steps: Sequence[MicroStep], reads: Sequence[Read], chunk: int | None
) -> tuple[tuple[Tensor, ...], Tensor]:
    if frame.length == 0:
        shape = (frame.batch, 0, *frame.per, frame.values)
        core = (*frame.per, frame.keys, frame.values)
        empty = tuple(state.new_zeros(shape, dtype=frame.outer) for _ in reads)
        return empty, state.reshape(frame.batch, *core).to(frame.outer)
    size = _chunk_steps(frame, len(steps), chunk, state.device.type)
    solved = _chunks(frame, state, steps, size)
    outputs: dict[int, Tensor] = {}
    for when in ("old", "new"):
        chosen = [i for i, read in enumerate(reads) if read.when == when]
        if not chosen:
            continue
        micro = 0 if when == "old" else len(steps) - 1
        keys = _rows(frame, [reads[i].key for i in chosen], frame.keys, size)
        rows = Rows(x=keys, micro=(micro,) * len(chosen), inclusive=when == "new")
        found = torch.bmm(_batched(scaled(rows.x, solved.decay.from_start(rows)).flatten(2, 3)), _batched(solved.entry))
        for u, w in solved.columns:
            found = torch.baddbmm(found, _batched(solved.decay.gram(rows, u)), _batched(w))
        found = found.view(*solved.entry.shape[:2], size, len(chosen), frame.values)
        outputs.update((i, _unfold(frame, o)) for i, o in zip(chosen, found.unbind(3), strict=True))
    final = solved.final.reshape(frame.batch, *frame.per, frame.keys, frame.values).to(frame.outer)
    return tuple(outputs[i] for i in range(len(reads))), final


def _whole(frame: _Frame, state: Tensor, steps: Sequence[MicroStep], chunk: int | None) -> Tensor:
    """Every state, by one elementwise scan: the time step's own micro-steps are a chunk of one step."""
    if frame.length == 0:
        return state.new_zeros((frame.batch, 0, *frame.per, frame.keys, frame.values), dtype=frame.outer)
    size = _chunk_steps(frame, len(steps), chunk, state.device.type)
    solved = _chunks(frame, state, steps, size)
    single = _decay(frame, steps, 1)  # [T, G, M, Kd]
    source = state.new_zeros((), dtype=frame.inner)
    for u, w in solved.columns:
        rows = Rows(x=_single(frame, u.x), micro=u.micro)
        source = source + _ended(rows, single).mT @ _single(frame, w.unflatten(2, (size, len(u.micro)))).flatten(2, 3)
    total = single.total()
    initial = _grouped(frame, state)
    factor = None if total is None else total.unsqueeze(-1).transpose(0, 1)
    h = linear_scan(factor, source.transpose(0, 1) if source.ndim else source, initial, length=frame.length)
    return h.unflatten(0, (frame.batch, *frame.per)).movedim(-3, 1).to(frame.outer)


def _single(frame: _Frame, x: Tensor) -> Tensor:
    """[N, G, C, n, size] -> [T, G, 1, n, size]: each step a chunk of its own, the padded steps cut off."""
    return _cut(x.movedim(2, 1).flatten(0, 1), 0, frame.length).unsqueeze(2)

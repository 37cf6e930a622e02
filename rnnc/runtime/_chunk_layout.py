"""The arguments of a matrix state's recurrence, [B, T, *P, n], as chunks [N, G, C, rows, n], and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rnnc.runtime._compat import exporting
from rnnc.runtime._decay import Decay, LogDecay, NoDecay, Rows, ValueDecay
from rnnc.runtime._micro_steps import MicroStep, Read, Update, unscaled, updates_of
from rnnc.runtime.layout import common_dtype, compute_dtype, sequence_length, spread
from rnnc.runtime.packed import padded

CHUNK = {"cpu": 32}  # micro-steps of a chunk, 64 elsewhere; measured, see docs/performance.md
PAIRWISE = 1  # time steps of the blocks whose vector decays are done pair by pair


class Frame(NamedTuple):
    """Sizes and dtypes of one problem; G = B * prod(P)."""

    batch: int
    length: int
    per: tuple[int, ...]
    keys: int
    values: int
    vector: bool
    inner: torch.dtype
    outer: torch.dtype

    @classmethod
    def of(
        cls, state: Tensor, steps: Sequence[MicroStep], reads: Sequence[Read], vector: bool, length: int | None
    ) -> Frame:
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
        return cls(batch, length, per, core[-2], core[-1], vector, compute_dtype(outer), outer)

    def rows(self, xs: Sequence[Tensor | None], size: int, chunk: int, fill: float = 0.0) -> Tensor:
        """Stack vectors of a time step (None: zero), cut into chunks: [N, G, C, len(xs), size].

        The last chunk is padded with `fill`: with steps that change nothing.
        """
        device = next((x.device for x in xs if x is not None), None)
        full = [self.chunked(torch.zeros((), device=device) if x is None else x, size, chunk, fill) for x in xs]
        rows = full[0].unsqueeze(-2) if len(full) == 1 else torch.stack(full, -2)
        return rows.flatten(1, -4) if self.per else rows

    def chunked(self, x: Tensor, size: int, chunk: int, fill: float) -> Tensor:
        """[B, T, *P, size] -> [N, B, *P, C, size], a view where T is a multiple of C."""
        x = spread(x.to(self.inner), self.batch, self.length, (*self.per, size))
        count = self.chunk_count(chunk)
        pad = count * chunk - self.length
        if torch.compiler.is_compiling() or pad:  # a symbolic length is padded without asking whether it must be
            x = torch.nn.functional.pad(x, (0, 0) * (x.ndim - 2) + (0, pad), value=fill)
        return x.unflatten(1, (count, chunk)).movedim(1, 0).movedim(2, -2)

    def grouped(self, state: Tensor) -> Tensor:
        """A state as [G, K, V], in the dtype of the arithmetic."""
        groups = math.prod((self.batch, *self.per))
        return state.to(self.inner).reshape(groups, self.keys, self.values)

    def chunk_count(self, chunk: int) -> int:
        """Chunks; one idle chunk more under export, where the program must not depend on there being a single one."""
        idle = chunk if chunk > 1 and exporting() else 0
        return (self.length + idle + chunk - 1) // chunk

    def as_sequence(self, x: Tensor) -> Tensor:
        """[N, G, C, size] -> [B, T, *P, size] in the outer dtype."""
        x = x.unflatten(1, (self.batch, *self.per)).movedim(-2, 2).movedim(0, 1).flatten(1, 2)
        return cut(x, 1, self.length).to(self.outer)

    def chunk_steps(self, micro_steps: int, chunk: int | None, device: str) -> int:
        """Time steps of a chunk: a power of two, not far above T."""
        if chunk is not None:
            if chunk < 1 or chunk & (chunk - 1):
                raise ValueError(f"chunk must be a power of two, not {chunk}")
            return chunk
        steps = 1 << max(0, (CHUNK.get(device, 64) // micro_steps).bit_length() - 1)
        if not torch.compiler.is_compiling():  # there T may be symbolic
            while steps // 2 >= self.length and steps > 1:
                steps //= 2
        return steps


def cut(x: Tensor, axis: int, length: int) -> Tensor:
    """The first `length` entries; under export gathered, since a slice asks whether a symbolic length fits."""
    if exporting():
        return x.index_select(axis, torch.arange(length, device=x.device))
    return x.narrow(axis, 0, length)


def decay_of(frame: Frame, steps: Sequence[MicroStep], chunk: int) -> Decay:
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
    rows = frame.rows(entries, frame.keys if vector else 1, chunk, 0.0 if logarithmic else 1.0).flatten(2, 3)
    if logarithmic:
        return LogDecay(rows, steps=chunk, micro_steps=len(steps), dtype=frame.inner, base=PAIRWISE)
    return ValueDecay(rows, steps=chunk, micro_steps=len(steps))


class Columns(NamedTuple):
    """The updates of all micro-steps: those that read the state, and plain writes (None where there are none).

    u, -c b [N, G, C, M * r, K]; v [N, G, C, M * r, V].
    """

    u: Rows
    b: Rows | None
    v: Tensor | None


def columns_of(frame: Frame, steps: Sequence[MicroStep], chunk: int, *, reading: bool) -> Columns | None:
    """Give every micro-step the same number of updates, by updates that do nothing."""
    chosen = [[x for x in updates_of(s) if (x.b is not None) == reading] for s in steps]
    most = max(len(x) for x in chosen)
    if most == 0:
        return None
    nothing = Update(u=torch.zeros((), device=next(x for xs in chosen for x in xs).u.device))
    slots = [x for xs in chosen for x in (*xs, *[nothing] * (most - len(xs)))]
    micro = tuple(j for j in range(len(steps)) for _ in range(most))

    def stack(xs: Sequence[Tensor | None], size: int) -> Tensor:
        return frame.rows(xs, size, chunk)

    u = Rows(x=stack([x.u for x in slots], frame.keys), micro=micro)
    values = [_value(frame, x) for x in slots]
    v = None if all(x is None for x in values) else stack(values, frame.values)
    if not reading:
        return Columns(u, None, v)
    b = Rows(x=stack([_row(x) for x in slots], frame.keys), micro=micro)
    return Columns(u, b, v)


def _row(update: Update) -> Tensor | None:
    """-c b: the triangular system is then the identity plus the products of these rows with the columns."""
    if update.b is None:
        return None
    return update.b * -update.c.unsqueeze(-1) if isinstance(update.c, Tensor) else -update.b


def _value(frame: Frame, update: Update) -> Tensor | None:
    """v as a row; a plain write into a vector state has v = 1 when it is left out."""
    if update.v is None:
        return update.u.new_ones(()) if update.b is None and frame.vector else None
    return update.v.unsqueeze(-1) if frame.vector else update.v


# -- packed sequences side by side ------------------------------------------------------------------------------------


class Side(NamedTuple):
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
    ) -> Side:
        total = Frame.of(state[:1], [unscaled(step) for step in steps], reads, vector, length).length
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

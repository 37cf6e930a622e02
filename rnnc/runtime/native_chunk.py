"""Matrix states chunk by chunk in C (`chunkwise.h`), where that is what a recurrence is; PyTorch's form elsewhere.

The function in C takes rows, one update each, some of which are a time step: linear attention, retention, mLSTM's
matrix, Mamba-2, the (gated) delta rule, products of several; under decays of one number or of each key (GLA, HGRN-2,
RWKV-6 and 7, Kimi's delta attention), or of each value for plain writes.  What it does not take (decays that have no
logarithm, several updates that read the same state, several reads, complex numbers, tracers) goes to
`chunk.matrix_scan`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rnnc.runtime import chunk as by_torch
from rnnc.runtime._compat import traced
from rnnc.runtime.chunk import MicroStep, Read, Update, updates_of
from rnnc.runtime.compiled import NativeError, load_library
from rnnc.runtime.layout import common_dtype, compute_dtype

__all__ = ["matrix_scan"]

ROWS = 32  # of a chunk, CHUNK in C
TEXTS = ("chunk_tiles.h", "chunk_decays.h", "chunk_rows.h", "chunk_across.h", "chunkwise.h")


def matrix_scan(
    state: Tensor, steps: Sequence[MicroStep], reads: Sequence[Read], *, across: bool = False, **options: Any
) -> tuple[tuple[Tensor, ...], Tensor]:
    """`rnnc.runtime.chunk.matrix_scan`, by the function in C where it takes the problem.

    `across`: the state is read along its other axis than the decay's, S key for a key [V]: [B, T, *P, K].
    """
    asked = {name for name, value in options.items() if value is not None and value is not False}
    given = None if asked - {"length", "least"} else _given(state, steps, reads, across)
    if given is None:
        return (by_torch.matrix_scan_across if across else by_torch.matrix_scan)(state, steps, reads, **options)
    dtype = common_dtype(*(x for x in given if isinstance(x, Tensor)))
    working = compute_dtype(dtype)
    y, final = _Chunkwise.apply(*(x.to(working) if isinstance(x, Tensor) else x for x in given))
    shape = state.mT.shape if across else state.shape
    final = final.to(dtype).view(shape)
    return (y.to(dtype).view(shape[0], -1, *shape[1:-2], shape[-1]),), final.mT if across else final


class _Given(NamedTuple):
    """Sequences of rows [B, R, H, ...], `per` of them a time step; of reads [B, R / per, H, K], of the state behind a
    time step or (`old`) before it; the state [B, H, K, V].  Decays are [B, R, H] or, of each key (1) or value (2) where
    `kind` says so, [B, R, H, K] or [B, R, H, V].
    """

    log_decay: Tensor | None
    c: Tensor | None
    u: Tensor
    v: Tensor
    b: Tensor | None
    q: Tensor
    state: Tensor
    per: int
    old: bool
    kind: int


class _Row(NamedTuple):
    """S <- D S + s u (v + c S^T b)^T"""

    log_decay: Tensor | None
    update: Update


def _rows_of(steps: Sequence[MicroStep]) -> list[_Row] | None:
    """The updates of a time step one after another; None where two of a micro-step read the same state, which rows one
    after another do not, or where it only decays.
    """
    rows = []
    for step in steps:
        updates = updates_of(step)  # those that read are first
        if step.decay is not None or not updates or sum(x.b is not None for x in updates) > 1:
            return None
        if any(x.v is None and x.b is None for x in updates):
            return None
        rows += [_Row(None if i else step.log_decay, x) for i, x in enumerate(updates)]
    return rows


def _given(state: Tensor, steps: Sequence[MicroStep], reads: Sequence[Read], across: bool) -> _Given | None:
    """The problem in the form that the function takes, None where it is another."""
    rows = _rows_of(steps)
    if rows is None or len(reads) != 1 or state.ndim < 3:
        return None
    rank, updates = state.ndim - 3, [row.update for row in rows]
    decays = [row.log_decay for row in rows if row.log_decay is not None]
    vectors = [y for x in updates for y in (x.u, x.v, x.b) if y is not None] + [reads[0].key]
    scalars = [y for x in updates for y in (x.c, x.s) if isinstance(y, Tensor)]
    keyed = any(y.ndim in (rank + 1, rank + 3) for y in decays)
    if not _shaped(rank, vectors, scalars, decays) or (across and any(x.b is not None for x in updates)):
        return None
    if not _served([state, *vectors, *scalars, *decays]):  # asked first: to tracers sizes are no numbers
        return None
    lengths = {y.shape[1] for y in vectors if y.ndim == rank + 3}
    if len(lengths) != 1 or not state.numel() or 0 in lengths:
        return None
    frame = _Frame(
        (state.shape[0], lengths.pop(), *state.shape[1:-2]), common_dtype(state, *vectors, *scalars, *decays)
    )
    k, n = state.shape[-2:]
    gates = [row.log_decay for row in rows]
    u, v = frame.vectors([_written(x) for x in updates], k), frame.vectors([x.v for x in updates], n)
    return _Given(
        log_decay=frame.vectors([_wide(y, rank) for y in gates], k) if keyed else frame.scalars(gates, 0.0),
        c=frame.scalars([x.c if x.b is not None else None for x in updates], 1.0),
        u=v if across else u,
        v=u if across else v,
        b=None if all(x.b is None for x in updates) else frame.vectors([x.b for x in updates], k),
        q=frame.vectors([reads[0].key], n if across else k),
        state=(state.mT if across else state).reshape(state.shape[0], -1, *((n, k) if across else (k, n))).contiguous(),
        per=len(rows),
        old=reads[0].when == "old",
        kind=1 + across if keyed else 0,
    )


def _shaped(rank: int, vectors: Sequence[Tensor], scalars: Sequence[Tensor], decays: Sequence[Tensor]) -> bool:
    """Whether all are sequences [B, T, *P, ...], static [*P, ...], or numbers."""
    vector, scalar = (rank + 1, rank + 3), (0, rank, rank + 2)
    return (
        all(x.ndim in vector for x in vectors)
        and all(x.ndim in scalar for x in scalars)
        and all(x.ndim in (*vector, *scalar) for x in decays)
    )


def _written(x: Update) -> Tensor:
    """The direction that is written, times its scale."""
    return x.u if x.s is None else x.u * (x.s.unsqueeze(-1) if isinstance(x.s, Tensor) else x.s)


def _wide(log_decay: Tensor | None, rank: int) -> Tensor | None:
    """A decay of one number, where others have one for each key, with an axis for them."""
    narrow = log_decay is not None and log_decay.ndim in (0, rank, rank + 2)
    return log_decay.unsqueeze(-1) if log_decay is not None and narrow else log_decay


class _Frame(NamedTuple):
    """What coefficients of a row are broadcast to: `lead` is (batch, time steps, *per blocks)."""

    lead: tuple[int, ...]
    dtype: torch.dtype

    def vectors(self, xs: Sequence[Tensor | None], size: int) -> Tensor:
        """[B, R, H, size], with zeros for rows that have none."""
        rows = [self._zero() if x is None else x for x in xs]
        flat = [x.expand(*self.lead, size).reshape(*self.lead[:2], -1, size) for x in rows]
        if len(flat) > 1:
            return torch.stack([x.to(self.dtype) for x in flat], 2).flatten(1, 2)
        (x,) = flat
        return x if x.stride(-1) == 1 or size == 1 else x.contiguous()

    def scalars(self, xs: Sequence[Tensor | float | None], fill: float) -> Tensor | None:
        """[B, R, H], with `fill` for rows that have none; None where no row has another number."""
        if all(x is None or (isinstance(x, (int, float)) and x == fill) for x in xs):
            return None
        rows = [x if isinstance(x, Tensor) else self._zero() + (fill if x is None else x) for x in xs]
        flat = [x.expand(self.lead).reshape(*self.lead[:2], -1) for x in rows]
        return torch.stack([x.to(self.dtype) for x in flat], 2).flatten(1, 2) if len(flat) > 1 else flat[0]

    def _zero(self) -> Tensor:
        return torch.zeros((), dtype=self.dtype, device="cpu")  # whatever the default device is


def _served(tensors: Sequence[Tensor]) -> bool:
    """Whether these are plain real tensors of the CPU that nobody looks on at, and the function can be built."""
    if traced(tensors) or any(not x.is_cpu or x.is_neg() or not x.is_floating_point() for x in tensors):
        return False
    return _library(compute_dtype(common_dtype(*tensors))) is not None


@cache
def _library(dtype: torch.dtype) -> ctypes.CDLL | None:
    try:
        return load_library("\n".join(map(_text, TEXTS)), dtype == torch.float64)
    except NativeError:  # no compiler: PyTorch's form does the same
        return None


def _text(name: str) -> str:
    return Path(__file__).with_name(name).read_text()


class _Chunkwise(torch.autograd.Function):
    """Reads [B, T, H, V] and the final state [B, H, K, V]; forward and backward in C."""

    @staticmethod
    def forward(ctx: Any, *values: Any) -> tuple[Tensor, Tensor]:
        x = _Given(*values)
        batch, rows, heads, k = x.u.shape
        n = x.v.shape[-1]
        y, final = x.v.new_empty(batch, rows // x.per, heads, n), torch.empty_like(x.state)
        starts = w = None
        if any(ctx.needs_input_grad):
            starts = x.v.new_empty(batch, heads, -(-rows // ROWS), k, n)
            w = x.v.new_empty(batch, rows, heads, n) if x.b is not None else x.v
        writes = w if x.b is not None else None  # without b they are the values that are written
        arrays = [x.log_decay, x.c, x.u, x.v, x.b, x.q, x.state, y, final, starts, writes]
        _call("forward", x, arrays, [x.log_decay, x.c, x.u, x.v, x.b, x.q, y, writes])
        ctx.given, ctx.kind = tuple(t is not None for t in values[:7]), (x.per, x.old, x.kind)
        ctx.save_for_backward(*(t for t in (*x[:7], starts, w) if t is not None))
        return y, final

    @staticmethod
    def backward(ctx: Any, dy: Tensor, d_final: Tensor) -> tuple[Tensor | None, ...]:
        *saved, starts, w = ctx.saved_tensors
        left = iter(saved)
        whole = _Given(*(next(left) if there else None for there in ctx.given), *ctx.kind)  # type: ignore[arg-type]
        log_decay, c, u, _, b, q, *_ = whole
        if torch.is_grad_enabled():  # to be differentiated again
            return _again(whole, dy, d_final)
        dy = dy if dy.stride(-1) == 1 or dy.shape[-1] == 1 else dy.contiguous()
        d_final = d_final.contiguous()
        x = whole._replace(v=w, state=d_final)
        d_decay, dc, db = (None if t is None else t.new_empty(t.shape) for t in (log_decay, c, b))
        du, dq, dv = (t.new_empty(t.shape) for t in (u, q, w))
        d_state = torch.empty_like(d_final)
        given = [log_decay, c, u, None, b, q]
        written = [d_decay, dc, du, dv, db, dq]
        _call("backward", x, [*given, starts, w, dy, d_final, *written, d_state], [*given, w, dy, *written])
        return d_decay, dc, du, dv, db, dq, d_state, None, None, None


def _again(x: _Given, dy: Tensor, d_final: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients by PyTorch's form, which has derivatives of its own."""

    def rows(y: Tensor | None, at: int) -> Any:
        return None if y is None else y[:, at :: x.per]

    across, read = x.kind == 2, Read(x.q, "old" if x.old else "new")
    u, v = (x.v, x.u) if across else (x.u, x.v)
    steps = [
        MicroStep(
            log_decay=rows(x.log_decay, i),
            updates=(Update(rows(u, i), rows(v, i), rows(x.b, i), rows(x.c, i)),),
        )
        for i in range(x.per)
    ]
    if across:
        (y,), final = by_torch.matrix_scan_across(x.state.mT, steps, [read])
        final = final.mT
    else:
        (y,), final = by_torch.matrix_scan(x.state, steps, [read])
    wanted = [t for t in x if isinstance(t, Tensor) and t.requires_grad]
    found = iter(torch.autograd.grad((y, final), wanted, (dy, d_final), create_graph=True, allow_unused=True))
    return tuple(next(found) if isinstance(t, Tensor) and t.requires_grad else None for t in x)


def _call(kind: str, x: _Given, arrays: Sequence[Tensor | None], sequences: Sequence[Tensor | None]) -> None:
    """Raises MemoryError where there is none for a chunk."""
    batch, rows, heads, k = x.u.shape
    library = _library(x.u.dtype)
    assert library is not None
    strides = [s for t in sequences for s in ((0, 0, 0) if t is None else t.stride()[:3])]
    failed = getattr(library, f"rnnc_chunkwise_{kind}")(
        (ctypes.c_void_p * len(arrays))(*(None if t is None else t.data_ptr() for t in arrays)),
        (ctypes.c_int64 * 8)(batch, heads, rows, k, x.v.shape[-1], x.per, x.old, x.kind),
        (ctypes.c_int64 * len(strides))(*strides),
        ctypes.c_int64(torch.get_num_threads()),
    )
    if failed:
        raise MemoryError("no memory for the chunks of a matrix state")

"""Matrix states chunk by chunk in C (`chunkwise.h`), where that is what a recurrence is; PyTorch's form elsewhere.

The function in C takes one update a step under a decay that is one number a step: linear attention, retention, mLSTM's
matrix, Mamba-2, the (gated) delta rule.  What it does not take (a decay for each key, products of several updates,
reads of the old state, complex numbers, tracers) goes to `chunk.matrix_scan`.
"""

from __future__ import annotations

import ctypes
import math
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


def matrix_scan(
    state: Tensor, steps: Sequence[MicroStep], reads: Sequence[Read], **options: Any
) -> tuple[tuple[Tensor, ...], Tensor]:
    """`rnnc.runtime.chunk.matrix_scan`, by the function in C where it takes the problem."""
    asked = {name for name, value in options.items() if value is not None and value is not False}
    given = None if asked - {"length", "least"} else _given(state, steps, reads)
    if given is None:
        return by_torch.matrix_scan(state, steps, reads, **options)
    dtype = common_dtype(*(x for x in given if x is not None))
    working = compute_dtype(dtype)
    y, final = _Chunkwise.apply(*(None if x is None else x.to(working) for x in given))
    shape = state.shape
    return (y.to(dtype).view(shape[0], -1, *shape[1:-2], shape[-1]),), final.to(dtype).view(shape)


class _Given(NamedTuple):
    """Sequences [B, T, H, ...] and the state [B, H, K, V]."""

    log_decay: Tensor | None
    c: Tensor | None
    u: Tensor
    v: Tensor
    b: Tensor | None
    q: Tensor
    state: Tensor


def _given(state: Tensor, steps: Sequence[MicroStep], reads: Sequence[Read]) -> _Given | None:
    """The problem in the form that the function takes, None where it is another."""
    if len(steps) != 1 or len(reads) != 1 or reads[0].when != "new" or steps[0].decay is not None or state.ndim < 3:
        return None
    updates, rank = updates_of(steps[0]), state.ndim - 3
    x = updates[0]
    if len(updates) != 1 or x.v is None:
        return None
    c = x.c if x.b is not None else None
    if isinstance(c, (int, float)):
        c = None if c == 1 else x.u.new_full((), float(c))
    v = x.v
    vectors = [y for y in (x.u, v, x.b, reads[0].key) if y is not None]
    scalars = [y for y in (steps[0].log_decay, c, x.s) if isinstance(y, Tensor)]
    if any(y.ndim not in (rank + 1, rank + 3) for y in vectors):
        return None
    if any(y.ndim not in (0, rank, rank + 2) for y in scalars):
        return None  # a decay for each key
    if not _served([state, *vectors, *scalars]):  # asked first: to tracers sizes are no numbers
        return None
    lengths = {y.shape[1] for y in vectors if y.ndim == rank + 3}
    if len(lengths) != 1 or not state.numel():
        return None
    batch, length, (k, n) = state.shape[0], lengths.pop(), state.shape[-2:]
    lead, heads = (batch, length, *state.shape[1:-2]), math.prod(state.shape[1:-2])

    def vector(y: Tensor, size: int) -> Tensor:
        flat = y.expand(*lead, size).reshape(batch, length, heads, size)
        return flat if flat.stride(-1) == 1 or size == 1 else flat.contiguous()

    def scalar(y: Tensor | None) -> Tensor | None:
        return None if y is None else y.expand(lead).reshape(batch, length, heads)

    u = x.u if x.s is None else x.u * (x.s.unsqueeze(-1) if isinstance(x.s, Tensor) else x.s)
    return (
        None
        if not length
        else _Given(
            log_decay=scalar(steps[0].log_decay),
            c=scalar(c),
            u=vector(u, k),
            v=vector(v, n),
            b=None if x.b is None else vector(x.b, k),
            q=vector(reads[0].key, k),
            state=state.reshape(batch, heads, k, n).contiguous(),
        )
    )


def _served(tensors: Sequence[Tensor]) -> bool:
    """Whether these are plain real tensors of the CPU that nobody looks on at, and the function can be built."""
    if traced(tensors) or any(not x.is_cpu or x.is_neg() or not x.is_floating_point() for x in tensors):
        return False
    return _library(compute_dtype(common_dtype(*tensors))) is not None


@cache
def _library(dtype: torch.dtype) -> ctypes.CDLL | None:
    try:
        return load_library(Path(__file__).with_name("chunkwise.h").read_text(), dtype == torch.float64)
    except NativeError:  # no compiler: PyTorch's form does the same
        return None


class _Chunkwise(torch.autograd.Function):
    """Reads [B, T, H, V] and the final state [B, H, K, V]; forward and backward in C."""

    @staticmethod
    def forward(ctx: Any, *values: Tensor | None) -> tuple[Tensor, Tensor]:
        x = _Given(*values)  # type: ignore[arg-type]
        batch, length, heads, k = x.u.shape
        n = x.v.shape[-1]
        y, final = x.v.new_empty(batch, length, heads, n), torch.empty_like(x.state)
        starts = w = None
        if any(ctx.needs_input_grad):
            starts = x.v.new_empty(batch, heads, -(-length // ROWS), k, n)
            w = torch.empty_like(y) if x.b is not None else x.v
        writes = w if x.b is not None else None  # without b they are the values that are written
        arrays = [x.log_decay, x.c, x.u, x.v, x.b, x.q, x.state, y, final, starts, writes]
        _call("forward", x, arrays, [x.log_decay, x.c, x.u, x.v, x.b, x.q, y, writes])
        ctx.given = tuple(t is not None for t in values)
        ctx.save_for_backward(*(t for t in (*x, starts, w) if t is not None))
        return y, final

    @staticmethod
    def backward(ctx: Any, dy: Tensor, d_final: Tensor) -> tuple[Tensor | None, ...]:
        *saved, starts, w = ctx.saved_tensors
        left = iter(saved)
        whole = _Given(*(next(left) if there else None for there in ctx.given))  # type: ignore[arg-type]
        log_decay, c, u, _, b, q, _ = whole
        if torch.is_grad_enabled():  # to be differentiated again
            return _again(whole, dy, d_final)
        dy = dy if dy.stride(-1) == 1 or dy.shape[-1] == 1 else dy.contiguous()
        d_final = d_final.contiguous()
        x = _Given(log_decay, c, u, w, b, q, d_final)
        d_decay, dc, db = (None if t is None else torch.empty(t.shape, dtype=t.dtype) for t in (log_decay, c, b))
        du, dq, dv = (torch.empty(t.shape, dtype=t.dtype) for t in (u, q, w))
        d_state = torch.empty_like(d_final)
        given = [log_decay, c, u, None, b, q]
        written = [d_decay, dc, du, dv, db, dq]
        _call("backward", x, [*given, starts, w, dy, d_final, *written, d_state], [*given, w, dy, *written])
        return d_decay, dc, du, dv, db, dq, d_state


def _again(x: _Given, dy: Tensor, d_final: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients by PyTorch's form, which has derivatives of its own."""
    step = MicroStep(log_decay=x.log_decay, updates=(Update(x.u, x.v, x.b, x.c),))
    (y,), final = by_torch.matrix_scan(x.state, [step], [Read(x.q)])
    wanted = [t for t in x if t is not None and t.requires_grad]
    found = iter(torch.autograd.grad((y, final), wanted, (dy, d_final), create_graph=True, allow_unused=True))
    return tuple(next(found) if t is not None and t.requires_grad else None for t in x)


def _call(kind: str, x: _Given, arrays: Sequence[Tensor | None], sequences: Sequence[Tensor | None]) -> None:
    """Raises MemoryError where there is none for a chunk."""
    batch, length, heads, k = x.u.shape
    library = _library(x.u.dtype)
    assert library is not None
    strides = [s for t in sequences for s in ((0, 0, 0) if t is None else t.stride()[:3])]
    failed = getattr(library, f"rnnc_chunkwise_{kind}")(
        (ctypes.c_void_p * len(arrays))(*(None if t is None else t.data_ptr() for t in arrays)),
        (ctypes.c_int64 * 5)(batch, heads, length, k, x.v.shape[-1]),
        (ctypes.c_int64 * len(strides))(*strides),
        ctypes.c_int64(torch.get_num_threads()),
    )
    if failed:
        raise MemoryError("no memory for the chunks of a matrix state")

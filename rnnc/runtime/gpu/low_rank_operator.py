"""`rnnc::low_rank_scan`: the low-rank kernels as a PyTorch operator, and its derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rnnc.runtime.gpu.buffers import empty
from rnnc.runtime.gpu.functional import functional
from rnnc.runtime.gpu.low_rank_launch import Problem, problem
from rnnc.runtime.gpu.low_rank_sizes import chunk_of
from rnnc.runtime.gpu.low_rank_tuning import tuned
from rnnc.runtime.gpu.packed import rows_kept

__all__ = ["call_low_rank_scan", "low_rank_scan"]

Outputs = tuple[Tensor, Tensor, Tensor]
Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _shapes(u: Tensor, v: Tensor, start: Tensor, bounds: Tensor | None) -> Outputs:
    batch, steps, rows, heads, groups, _ = u.shape
    chunk = chunk_of(u.dtype)
    chunks = rows_kept(start.shape[0], steps * rows, chunk, bounds is not None)
    return (
        empty((batch, steps, heads, groups, v.shape[-1]), u, u.dtype),
        empty(start.shape, u, start.dtype),
        empty((chunks, heads * groups, chunk, chunk), u, u.dtype),
    )


@torch.library.custom_op("rnnc::low_rank_scan", mutates_args=())
def low_rank_scan(
    q: Tensor,
    u: Tensor,
    b: Tensor | None,
    v: Tensor,
    s: Tensor,
    c: Tensor,
    g: Tensor | None,
    start: Tensor,
    bounds: Tensor | None,
    shared: int,
    old: bool,
    base: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Reads o [B, T, H, E, V], the last state [B, H, E, K, V], and the inverses of all chunks.

    q [B, T, H, E, K]; of N rows a step u, b (None: u) [B, T, N, H, E, K], v [.., V], scalars s and c [B, T, N, H, E],
    log decays g likewise, or [B, T, N, H, E, K] (N = 1 where only the first row of a step has any); `shared` rows read
    the same state; `old`: reads are of the state before the step; `base`: see `low_rank_sizes.base_rows`.  With
    `bounds` [S + 1] sequences are packed: B is 1, `start` and the last states have S entries.
    """
    p = problem(q, u, b, v, s, c, g, bounds, shared, old, base)
    o, last, inverse = _shapes(u, v, start, bounds)
    if not o.numel() or not last.numel():
        return o.zero_(), last.copy_(start), inverse
    with torch.cuda.device_of(u):
        p = tuned(p, "forward", lambda x: _forward(x, start, o))
        last, inverse = _forward(p, start, o)
    return o, last, inverse


def _forward(p: Problem, start: Tensor, o: Tensor) -> tuple[Tensor, Tensor]:
    """Fills o; the last states and the inverses."""
    way = p.way
    assert way is not None
    p = p.prepared(system=True)
    inverse = p.inverses()
    if way.fused:
        last, _ = p.walk(inverse, start, o, keep=False)
    else:
        last, kept = p.walk(inverse, start, None, keep=True)
        p.outputs(kept, o)
    return last, inverse


@low_rank_scan.register_fake
def _(
    q: Tensor,
    u: Tensor,
    b: Tensor | None,
    v: Tensor,
    s: Tensor,
    c: Tensor,
    g: Tensor | None,
    start: Tensor,
    bounds: Tensor | None,
    shared: int,
    old: bool,
    base: int,
) -> tuple[Tensor, Tensor, Tensor]:
    return _shapes(u, v, start, bounds)


def _gradient_shapes(u: Tensor, b: Tensor | None, v: Tensor, g: Tensor | None, start: Tensor) -> Gradients:
    """Of q, u, b, v, s, c, g and the initial state."""
    batch, steps, _, heads, groups, keys = u.shape
    acc = torch.float64 if u.dtype == torch.float64 else torch.float32
    return (
        empty((batch, steps, heads, groups, keys), u, u.dtype),
        empty(u.shape, u, u.dtype),
        empty(u.shape if b is not None else (0,), u, u.dtype),
        empty(v.shape, u, u.dtype),
        empty(u.shape[:-1], u, acc),
        empty(u.shape[:-1], u, acc),
        # of many numbers a key and step rounded at once; of one, it is summed over blocks of keys first
        empty((0,) if g is None else g.shape, u, g.dtype if g is not None and g.ndim == 6 else acc),
        empty(start.shape, u, acc),
    )


@torch.library.custom_op("rnnc::low_rank_scan_backward", mutates_args=())
def low_rank_scan_backward(
    q: Tensor,
    u: Tensor,
    b: Tensor | None,
    v: Tensor,
    s: Tensor,
    c: Tensor,
    g: Tensor | None,
    start: Tensor,
    bounds: Tensor | None,
    inverse: Tensor,
    d_o: Tensor,
    d_last: Tensor,
    shared: int,
    old: bool,
    base: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, u, b, v, s, c, g and the initial state.

    The states before all chunks and the values are found once more.
    """
    with torch.cuda.device_of(u):
        p = problem(q, u, b, v, s, c, g, bounds, shared, old, base)._replace(chain="low_rank_walk_back")
        found = _gradient_shapes(u, b, v, g, start)
        if not d_o.numel() or not d_last.numel():
            found[-1].copy_(d_last)
            for x in found[:-1]:
                x.zero_()
            return found
        d_o = d_o.to(u.dtype).contiguous()
        p = tuned(p, "backward", lambda x: _backward(x, found, start, inverse, d_o, d_last))
        return _backward(p, found, start, inverse, d_o, d_last)


def _backward(p: Problem, found: Gradients, start: Tensor, inverse: Tensor, d_o: Tensor, d_last: Tensor) -> Gradients:
    """`low_rank_scan_backward`, on the device of its tensors."""
    d_q, d_u, d_b, d_v, d_s, d_c, d_g, d_start = found
    prepared = p.prepared(system=False)
    _, kept = prepared.walk(inverse, start, None, keep=True)
    behind = prepared.walk_back(inverse, d_o, d_last, d_v, d_start)
    p.gradients(kept, behind, d_o, d_v, (d_q, d_u, d_b, d_s, d_c, d_g))
    return found


@low_rank_scan_backward.register_fake
def _(
    q: Tensor,
    u: Tensor,
    b: Tensor | None,
    v: Tensor,
    s: Tensor,
    c: Tensor,
    g: Tensor | None,
    start: Tensor,
    bounds: Tensor | None,
    inverse: Tensor,
    d_o: Tensor,
    d_last: Tensor,
    shared: int,
    old: bool,
    base: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _gradient_shapes(u, b, v, g, start)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    ctx.set_materialize_grads(False)  # no zeros for what is kept
    *tensors, shared, old, base = inputs
    ctx.flags = shared, old, base
    ctx.save_for_backward(*tensors, output[2])


def _derivative(ctx: Any, d_o: Tensor | None, d_last: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    q, u, b, v, s, c, g, start, bounds, inverse = ctx.saved_tensors
    d_o = torch.zeros_like(v[:, :, 0]) if d_o is None else d_o
    d_last = torch.zeros_like(start) if d_last is None else d_last
    d_q, d_u, d_b, d_v, d_s, d_c, d_g, d_start = low_rank_scan_backward(
        q, u, b, v, s, c, g, start, bounds, inverse, d_o, d_last, *ctx.flags
    )
    numbers = [None if x is None else d.to(x.dtype) for x, d in ((s, d_s), (c, d_c), (g, d_g))]
    return d_q, d_u, None if b is None else d_b, d_v, *numbers, d_start.to(start.dtype), None, None, None, None


low_rank_scan.register_autograd(_derivative, setup_context=_setup)
call_low_rank_scan = functional(low_rank_scan, _setup, _derivative)

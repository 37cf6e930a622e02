"""The chunkwise scan of a matrix state with decays, as PyTorch operators:

    S_t = exp(g_t) S_{t-1} + k_t v_t^T,    o_t = S_t^T q_t  (or S_{t-1}^T q_t)

with one log decay g a step, or one for each row (keys) or column (values) of S.  `torch.compile` and `torch.export`
keep `rnnc::gated_scan` as one node.

A normaliser n_t = exp(g_t) n_{t-1} + c_t k_t, read as n_t . q_t, is one more column of S: its value is a number, c_t.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from rnnc.runtime.gpu.functional import functional
from rnnc.runtime.gpu.gated import Axis, Scan
from rnnc.runtime.gpu.gated_sizes import KEPT, chunk_of
from rnnc.runtime.gpu.gated_tuning import fastest_chunk
from rnnc.runtime.gpu.gated_walk import Ends, Extra, Walk
from rnnc.runtime.gpu.packed import Table

__all__ = ["call_gated_scan", "gated_scan"]


@torch.library.custom_op("rnnc::gated_scan", mutates_args=())
def gated_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    start: Tensor,
    old: bool,
    axis: str,
    base: int,
    bounds: Tensor | None = None,
    value: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k [B, T, H, K], v [B, T, H, V], log decays g [B, T, H, n], start [B, H, K, V].

    `axis` "keys": n = K, "values": n = V, "none": n = 1.  `old`: the state before a step is read.  `base`: see
    `rnnc.runtime.gpu.gated_sizes.base_of`.  Outputs o [B, T, H, V], the last state, and the states before every
    KEPT steps.  With `bounds` [S + 1] sequences are packed: B is 1, `start` and the last states have S entries.

    With `value` [B, T, H], for one decay a step, states are [K, V + 1]: the last column is a normaliser, whose reads
    [B, T, H] come last.
    """
    of = _scan(q, v, g, old, axis, base, bounds, value)
    dots = of.empty(*((of.steps, of.heads) if of.extra else (0, 0)))
    if not of.steps:
        nothing = of.empty(0, of.heads, of.values, dtype=q.dtype), of.empty(of.heads, 0, of.keys, of.columns)
        return nothing[0], start.clone(memory_format=torch.contiguous_format), nothing[1], dots
    more = None if value is None else Extra(dots, value.contiguous(), dots)
    with torch.cuda.device_of(q):
        of = _settled(of, "forward", lambda x: _forward(x, q, k, v, start, more))
        o, last, kept = _forward(of, q, k, v, start, more)
    return o, last.to(start.dtype).contiguous(), kept, dots


def _forward(
    of: Scan, q: Tensor, k: Tensor, v: Tensor, start: Tensor, more: Extra | None
) -> tuple[Tensor, Tensor, Tensor]:
    """`gated_scan` but for the reads of a normaliser, which are put into `more`; on the device of its tensors."""
    z, inside = v, None
    match of.axis:
        case "none":
            inside, gates = of.alike(q, k)
        case "keys":
            inside, q, k, gates = of.pairs(q, k)
        case "values":
            inside, z, gates = of.spread(q, k, v)
    found = Walk(of=of, x=q, y=k, z=z, gates=gates, inside=inside, out=of.dtype, keep=True, extra=more)(start)
    assert found.kept is not None
    return found.out, found.last, found.kept


def _settled(of: Scan, role: str, run: Callable[[Scan], object]) -> Scan:
    """The scan in chunks of as many steps as take `run`, all of a role's work, the least time."""
    return of.in_chunks(
        fastest_chunk(of.dtype, (role, *of.problem), lambda chunk: run(of.in_chunks(chunk, tuned=False)))
    )


def _scan(
    q: Tensor,
    v: Tensor,
    g: Tensor,
    old: bool,
    axis: str,
    base: int,
    bounds: Tensor | None,
    value: Tensor | None,
    *,
    fake: bool = False,
) -> Scan:
    chunk = chunk_of(q.dtype)
    packed = None if bounds is None or fake else Table.of(bounds, q.shape[1], chunk, KEPT)
    return Scan(
        g=g,
        keys=q.shape[-1],
        values=v.shape[-1],
        dtype=q.dtype,
        old=old,
        axis=cast(Axis, axis),
        base=base,
        chunk=chunk,
        bounds=bounds,
        sequences=0 if bounds is None else bounds.shape[0] - 1,
        table=packed,
        extra=value is not None,
    )


@gated_scan.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    start: Tensor,
    old: bool,
    axis: str,
    base: int,
    bounds: Tensor | None = None,
    value: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    of = _scan(q, v, g, old, axis, base, bounds, value, fake=True)
    o, last = of.empty(of.steps, of.heads, of.values, dtype=q.dtype), start.new_empty(start.shape)
    dots = of.empty(*((of.steps, of.heads) if of.extra else (0, 0)))
    return o, last, of.empty(of.heads, of.slots, of.keys, of.columns), dots


@torch.library.custom_op("rnnc::gated_scan_backward", mutates_args=())
def gated_scan_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    o: Tensor,
    last: Tensor,
    kept: Tensor,
    d_o: Tensor,
    d_last: Tensor,
    old: bool,
    axis: str,
    base: int,
    bounds: Tensor | None = None,
    value: Tensor | None = None,
    d_dots: Tensor | None = None,
) -> list[Tensor]:
    """Gradients of q, k, v, g and the initial state; and of `value` where there is one."""
    of = _scan(q, v, g, old, axis, base, bounds, value)
    if not of.steps:
        d_start = d_last.to(of.accumulator, copy=True, memory_format=torch.contiguous_format)
        own = (q, k, v, g) if value is None else (q, k, v, g, value)
        return [*(x.new_empty(x.shape) for x in own[:4]), d_start, *(x.new_empty(x.shape) for x in own[4:])]
    with torch.cuda.device_of(q):

        def run(x: Scan) -> list[Tensor]:
            match x.axis:
                case "none":
                    more = None if value is None or d_dots is None else (d_dots.contiguous(), value.contiguous())
                    return _alike_backward(x, q, k, v, last, kept, d_o.contiguous(), d_last, more)
                case "keys":
                    return _keys_backward(x, q, k, v, last, kept, d_o.contiguous(), d_last)
                case "values":
                    return _values_backward(x, q, k, v, o, last, kept, d_o.contiguous(), d_last)

        return run(_settled(of, "backward", run))


def _alike_backward(
    of: Scan,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    last: Tensor,
    kept: Tensor,
    d_o: Tensor,
    d_last: Tensor,
    more: tuple[Tensor, Tensor] | None,
) -> list[Tensor]:
    """`gated_scan_backward` under one decay a step.  `more`: the column more of dO and of v, [B, T, H]."""
    extra: tuple[Extra | None, ...] = (None, None, None)
    d_more = []
    if more is not None:
        d_dots, value = more
        d_more = [of.empty(of.steps, of.heads, dtype=value.dtype)]
        extra = Extra(value, d_dots, d_more[0]), Extra(d_dots, value, value), Extra(value, d_dots, d_dots)
    seen, gates = of.alike(q, k)
    given, _ = of.alike(d_o, v, more)
    ends = Ends.of(of, kept, last, of.keys)
    common: dict[str, Any] = {"of": of, "gates": gates, "out": of.dtype}
    d_v = Walk(**common, x=k, y=q, z=d_o, inside=seen, extra=extra[0], reverse=True)(d_last)
    common |= {"inside": given, "turned": True}
    d_q = Walk(**common, x=d_o, y=v, z=k, beside=q, extra=extra[1])(kept)
    d_k = Walk(**common, x=v, y=d_o, z=q, beside=k, extra=extra[2], reverse=True, ends=ends)(d_last)
    assert d_q.sums is not None
    assert d_k.sums is not None
    d_g = of.gate_gradient(d_q.sums, d_k.sums, ends.sums, ends.end)
    return [d_q.out, d_k.out, d_v.out, d_g, d_v.last.contiguous(), *d_more]


def _keys_backward(
    of: Scan, q: Tensor, k: Tensor, v: Tensor, last: Tensor, kept: Tensor, d_o: Tensor, d_last: Tensor
) -> list[Tensor]:
    """`gated_scan_backward` under a decay for each key."""
    scores, x, y, gates = of.pairs(q, k)
    ends = Ends.of(of, kept, last, of.keys)
    d_v = Walk(of=of, x=y, y=x, z=d_o, gates=gates, inside=scores, out=of.dtype, reverse=True)(d_last)
    common: dict[str, Any] = {"of": of, "gates": gates, "inside": None, "out": of.accumulator, "turned": True}
    d_q = Walk(**common, x=d_o, y=v, z=y)(kept).out
    d_k = Walk(**common, x=v, y=d_o, z=x, reverse=True, ends=ends)(d_last).out
    d_g, d_q, d_k = of.channel_gradients(d_o, v, (q, d_q), (k, d_k), ends.sums, ends.end)
    return [d_q, d_k, d_v.out, d_g, d_v.last.contiguous()]


def _values_backward(
    of: Scan, q: Tensor, k: Tensor, v: Tensor, o: Tensor, last: Tensor, kept: Tensor, d_o: Tensor, d_last: Tensor
) -> list[Tensor]:
    """`gated_scan_backward` under a decay for each value."""
    scores, x, y, gates = of.pairs(d_o, v)
    ends = Ends.of(of, kept, last, of.values)
    common: dict[str, Any] = {"of": of, "gates": gates}
    across: dict[str, Any] = common | {"inside": scores, "out": q.dtype, "turned": True}
    d_q = Walk(**across, x=x, y=y, z=k)(kept)
    d_k = Walk(**across, x=y, y=x, z=q, reverse=True)(d_last)
    d_v = Walk(**common, x=k, y=q, z=x, inside=None, out=of.accumulator, reverse=True, ends=ends)(d_last)
    d_g, _, d_v_out = of.channel_gradients(q, k, (o, d_o), (v, d_v.out), ends.sums, ends.end)
    return [d_q.out, d_k.out, d_v_out, d_g, d_v.last.contiguous()]


@gated_scan_backward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    o: Tensor,
    last: Tensor,
    kept: Tensor,
    d_o: Tensor,
    d_last: Tensor,
    old: bool,
    axis: str,
    base: int,
    bounds: Tensor | None = None,
    value: Tensor | None = None,
    d_dots: Tensor | None = None,
) -> list[Tensor]:
    found = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v, g)]
    more = [] if value is None else [torch.empty(value.shape, dtype=value.dtype, device=value.device)]
    return [*found, kept.new_empty(last.shape), *more]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)  # no zeros for what is kept
    q, k, v, g, start, *ctx.flags, bounds, value = inputs
    ctx.start_dtype = start.dtype
    ctx.save_for_backward(q, k, v, g, *output[:3], bounds, value)


def _derivative(
    ctx: Any, d_o: Tensor | None, d_last: Tensor | None, d_kept: Tensor | None, d_dots: Tensor | None
) -> tuple[Any, ...]:
    q, k, v, g, o, last, kept, bounds, value = ctx.saved_tensors
    d_o = torch.zeros_like(o) if d_o is None else d_o.to(o.dtype)
    d_last = torch.zeros_like(last) if d_last is None else d_last
    if value is not None and d_dots is None:
        d_dots = torch.zeros_like(value, dtype=kept.dtype)
    found = gated_scan_backward(q, k, v, g, o, last, kept, d_o, d_last, *ctx.flags, bounds, value, d_dots)
    more = found[5:] or [None]
    return *found[:4], found[4].to(ctx.start_dtype), None, None, None, None, *more


gated_scan.register_autograd(_derivative, setup_context=_setup)
call_gated_scan = functional(gated_scan, _setup, _derivative)

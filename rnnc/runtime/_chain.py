"""The chain of chunks: the one part of the chunkwise form that runs one after another.

    w_n = v_n + b_n S_n,    S_{n+1} = total_n S_n + u_n^T w_n + e_n,    n = 1..N,

for states S [G, K, V], and of every chunk u, b [N, G, R, K], v [N, G, R, V], e [N, G, K, V] or None, total [N, G, K or
1] or None (one).  With L_n the total derivative by S_n, and D the direct derivatives by the states S_n and the values
w_n,

    dv_n = D w_n + u_n L_{n+1},    L_n = total_n L_{n+1} + b_n^T dv_n + D S_n,

which is the same chain run backwards with u and b exchanged (and conjugated); the other derivatives are products for
all chunks at once: du_n = w_n L_{n+1}^T, db_n = dv_n S_n^T, dtotal_n = sum over V of L_{n+1} S_n, de_n = L_{n+1}.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rnnc.runtime._compat import operator

__all__ = ["chain"]

Chained = tuple[Tensor, Tensor, Tensor]


def chain(
    total: Tensor | None, u: Tensor, b: Tensor, v: Tensor, e: Tensor | None, state: Tensor, reverse: bool = False
) -> Chained:
    """States before each chunk [N, G, K, V], values w [N, G, R, V], and the state after the last chunk [G, K, V].

    With `reverse` the last chunk comes first, and `state` is the one after it.
    """
    run = chain_operator if torch.compiler.is_compiling() else _Chain.apply
    return run(total, u, b, v, e, state, reverse)


def _chain_kernel(
    total: Tensor | None, u: Tensor, b: Tensor, v: Tensor, e: Tensor | None, state: Tensor, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    entry, w, final = _empty(u, v, state)
    steps = range(u.shape[0])
    order = [*reversed(steps)] if reverse else [*steps]
    if not order:
        return entry, w, final.copy_(state)
    columns = u.mT.resolve_conj()
    rows = b.resolve_conj()
    factor = None if total is None else total.resolve_conj().unsqueeze(-1)
    entry[order[0]] = state
    for n, following in zip(order, [*order[1:], None], strict=True):
        before = entry[n]
        after = final if following is None else entry[following]
        torch.baddbmm(v[n], rows[n], before, out=w[n])
        base = before if factor is None else torch.mul(before, factor[n], out=after)
        torch.baddbmm(base, columns[n], w[n], out=after)
        if e is not None:
            after += e[n]
    return entry, w, final


chain_operator = operator(
    "chunk_chain",
    "(Tensor? total, Tensor u, Tensor b, Tensor v, Tensor? e, Tensor state, bool reverse) -> (Tensor, Tensor, Tensor)",
    _chain_kernel,
)


def _empty(u: Tensor, v: Tensor, state: Tensor) -> Chained:
    chunks, size, _, keys = u.shape
    values = v.shape[-1]
    return (
        state.new_empty(chunks, size, keys, values),
        torch.empty_like(v, memory_format=torch.contiguous_format),
        state.new_empty(size, keys, values),
    )


@chain_operator.register_fake
def _(
    total: Tensor | None, u: Tensor, b: Tensor, v: Tensor, e: Tensor | None, state: Tensor, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty(u, v, state)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Chained) -> None:
    total, u, b, _, e, _, reverse = inputs
    entry, w, _ = output
    ctx.reverse = reverse
    ctx.has_e = e is not None
    ctx.save_for_backward(total, u, b, entry, w)
    ctx.save_for_forward(total, u, b, entry, w)


def _backward(ctx: Any, d_entry: Tensor, d_w: Tensor, d_final: Tensor) -> tuple[Any, ...]:
    total, u, b, entry, w = ctx.saved_tensors
    conj = None if total is None else total.conj()
    after, d_v, d_state = chain(conj, b.conj(), u.conj(), d_w, d_entry, d_final, not ctx.reverse)
    d_total = None
    if total is not None:
        d_total = (after * entry.conj()).sum(-1)
        if total.shape[-1] == 1:
            d_total = d_total.sum(-1, keepdim=True)
    d_u, d_b = w.conj() @ after.mT, d_v @ entry.mH
    return d_total, d_u, d_b, d_v, after if ctx.has_e else None, d_state, None


chain_operator.register_autograd(_backward, setup_context=_setup)


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(
        total: Tensor | None, u: Tensor, b: Tensor, v: Tensor, e: Tensor | None, state: Tensor, reverse: bool
    ) -> Chained:
        return chain_operator(total, u, b, v, e, state, reverse)

    setup_context = staticmethod(_setup)
    backward = staticmethod(_backward)

    @staticmethod
    def jvp(
        ctx: Any,
        d_total: Tensor | None,
        d_u: Tensor | None,
        d_b: Tensor | None,
        d_v: Tensor | None,
        d_e: Tensor | None,
        d_state: Tensor | None,
        _: None,
    ) -> Chained:
        """The tangents obey the same chain, driven by the coefficients' tangents."""
        total, u, b, entry, w = ctx.saved_tensors
        source = torch.zeros_like(w) if d_v is None else d_v
        extra = torch.zeros_like(entry) if d_e is None else d_e
        if d_b is not None:
            source = source + d_b @ entry
        if d_u is not None:
            extra = extra + d_u.mT @ w
        if d_total is not None:
            extra = extra + d_total.unsqueeze(-1) * entry
        start = torch.zeros_like(w.new_empty(entry.shape[1:])) if d_state is None else d_state
        return chain(total, u, b, source, extra, start, ctx.reverse)

    @staticmethod
    def vmap(info: Any, dims: Sequence[int | None], *args: Any) -> tuple[Chained, tuple[int, int, int]]:
        n = info.batch_size
        *tensors, reverse = args
        folded: list[Any] = []
        # the vmapped axis joins G, the second axis (of state the first)
        for x, dim in zip(tensors, dims[:-1], strict=True):
            if x is not None:
                at = 0 if x is tensors[-1] else 1
                x = x.expand(n, *x.shape).movedim(0, at) if dim is None else x.movedim(dim, at)
                x = x.flatten(at, at + 1)
            folded.append(x)
        entry, w, final = _Chain.apply(*folded, reverse)
        return (entry.unflatten(1, (n, -1)), w.unflatten(1, (n, -1)), final.unflatten(0, (n, -1))), (1, 1, 0)


chain_operator.register_vmap(_Chain.vmap)

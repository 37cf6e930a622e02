"""What emitted modules share: running packed sequences, causal convolution and attention, norms, and matrix layouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "block_diagonal",
    "block_diagonal_transpose",
    "causal_attention",
    "causal_conv",
    "cayley",
    "circulant",
    "circulant_transpose",
    "companion",
    "l2norm",
    "rmsnorm",
    "rotation_blocks",
    "run_packed",
]


# -- sequences --------------------------------------------------------------------------------------------------------


def run_packed(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    state: Mapping[str, Any] | None,
    cu_seqlens: Tensor,
    *,
    reverse: bool = False,
) -> tuple[Any, dict[str, Any]]:
    """Run `module` on sequences packed one behind another in inputs `[1, total, ...]`.

    `cu_seqlens` is `[N + 1]`: sequence i is at `cu_seqlens[i] : cu_seqlens[i + 1]`.  States are `[N, ...]`.  Sequences of one
    length run together as a batch.  Raises ValueError when the lengths do not fit the inputs.
    """
    ends = [int(n) for n in cu_seqlens.tolist()]
    total = inputs[0].shape[1]
    if inputs[0].shape[0] != 1:
        raise ValueError(f"packed inputs have batch size 1, not {inputs[0].shape[0]}")
    if len(ends) < 2 or ends[0] != 0 or ends[-1] != total or any(a >= b for a, b in zip(ends, ends[1:], strict=False)):
        raise ValueError(f"cu_seqlens has to rise from 0 to the packed length {total}, not {ends}")
    by_length: dict[int, list[int]] = {}
    for i, (start, end) in enumerate(zip(ends, ends[1:], strict=False)):
        by_length.setdefault(end - start, []).append(i)
    outputs: list[tuple[Tensor, ...]] = [()] * (len(ends) - 1)
    finals: list[Any] = [None] * (len(ends) - 1)
    single = True
    for length, members in by_length.items():
        batch = [torch.cat([x[:, ends[i] : ends[i] + length] for i in members]) for x in inputs]
        rows = torch.tensor(members, device=inputs[0].device)
        before = None if state is None else _map_state(state, lambda s, rows=rows: s.index_select(0, rows))
        y, after = module(*batch, before, reverse=reverse)
        single = isinstance(y, Tensor)
        for row, i in enumerate(members):
            outputs[i] = tuple(o[row : row + 1] for o in ((y,) if single else y))
            finals[i] = _map_state(after, lambda s, row=row: s[row : row + 1])
    joined = tuple(torch.cat(parts, 1) for parts in zip(*outputs, strict=True))
    return joined[0] if single else joined, _join_states(finals)


def _map_state(state: Any, function: Any) -> Any:
    """`function` of every tensor of a state, which may be nested."""
    if isinstance(state, Tensor):
        return function(state)
    if isinstance(state, Mapping):
        return {key: _map_state(value, function) for key, value in state.items()}
    return [_map_state(value, function) for value in state]


def _join_states(states: list[Any]) -> Any:
    first = states[0]
    if isinstance(first, Tensor):
        return torch.cat(states)
    keys = first if isinstance(first, Mapping) else range(len(first))
    joined = {key: _join_states([s[key] for s in states]) for key in keys}
    return joined if isinstance(first, Mapping) else [joined[i] for i in keys]


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Depthwise convolution in time, `y_t = bias + sum_j weight[..., j] * x_{t + j}`.

    `x` is `[B, T + width - 1, *S]` (the past in front), `weight` `[*S, width]`; returns `[B, T, *S]`.
    """
    width = weight.shape[-1]
    steps = x.shape[1] - width + 1
    y = x[:, :steps] * weight[..., 0]
    for j in range(1, width):
        y = torch.addcmul(y, x[:, j : j + steps], weight[..., j])
    return y if bias is None else y + bias


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention over all steps so far: `softmax(q k^T / sqrt(dk)) v`.

    `q` is `[B, T, *P, dk]`, `k` `[B, S, *P, dk]` and `v` `[B, S, *P, dv]` with S >= T: the queries stand for the last T steps.
    Returns `[B, T, *P, dv]`.
    """
    q, k, v = (x.movedim(1, -2) for x in (q, k, v))  # [B, *P, T or S, ...]
    steps, seen = q.shape[-2], k.shape[-2]
    if seen == steps:
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    else:
        mask = torch.ones(steps, seen, dtype=torch.bool, device=q.device).tril(seen - steps)
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return y.movedim(-2, 1)


# -- norms ------------------------------------------------------------------------------------------------------------


def l2norm(x: Tensor, eps: float) -> Tensor:
    """`x / sqrt(sum |x|^2 + eps)` over the last axis."""
    return x * torch.rsqrt(_squares(x).sum(-1, keepdim=True) + eps)


def rmsnorm(x: Tensor, eps: float) -> Tensor:
    """`x / sqrt(mean |x|^2 + eps)` over the last axis; also of complex values."""
    return x * torch.rsqrt(_squares(x).mean(-1, keepdim=True) + eps)


def _squares(x: Tensor) -> Tensor:
    return x.real.square() + x.imag.square() if x.is_complex() else x.square()


# -- matrices ---------------------------------------------------------------------------------------------------------


def block_diagonal(blocks: Tensor) -> Tensor:
    """`[..., p, n, n]` -> `[..., p*n, p*n]` with the blocks on the diagonal."""
    p, n = blocks.shape[-3], blocks.shape[-1]
    full = torch.diag_embed(blocks.movedim(-3, -1), dim1=-4, dim2=-2)  # [..., p, n, p, n]
    return full.flatten(-2).flatten(-3, -2) if p * n else full.reshape(*blocks.shape[:-3], 0, 0)


def block_diagonal_transpose(matrix: Tensor, n: int) -> Tensor:
    """The diagonal blocks `[..., p, n, n]` of `[..., p*n, p*n]`."""
    p = matrix.shape[-1] // n
    blocks = matrix.unflatten(-1, (p, n)).unflatten(-3, (p, n))  # [..., p, n, p, n]
    return blocks.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)


def _circle(n: int, device: torch.device) -> Tensor:
    """`[n, n]`: (i - j) mod n."""
    i = torch.arange(n, device=device)
    return (i[:, None] - i) % n


def circulant(c: Tensor) -> Tensor:
    """`C[..., i, j] = c[..., (i - j) mod n]`."""
    return c[..., _circle(c.shape[-1], c.device)]


def circulant_transpose(matrix: Tensor) -> Tensor:
    """`c[k] = sum of matrix[i, j] with (i - j) mod n = k`: the adjoint of `circulant`."""
    n = matrix.shape[-1]
    where = _circle(n, matrix.device).flatten()
    zero = matrix.new_zeros(*matrix.shape[:-2], n)
    return zero.index_add(-1, where, matrix.flatten(-2))


def companion(c: Tensor) -> Tensor:
    """`[..., n]` -> `[..., n, n]`: ones on the first subdiagonal, `c` as the last column."""
    n = c.shape[-1]
    shift = torch.eye(n, dtype=c.dtype, device=c.device).roll(1, 0)  # its last column is the first unit vector
    shift = shift[:, : n - 1].expand(*c.shape[:-1], n, n - 1)
    return torch.cat([shift, c.unsqueeze(-1)], -1)


def rotation_blocks(theta: Tensor) -> Tensor:
    """`[..., p]` -> `[..., p, 2, 2]`: [[cos, -sin], [sin, cos]]."""
    cos, sin = torch.cos(theta), torch.sin(theta)
    return torch.stack([cos, -sin, sin, cos], -1).unflatten(-1, (2, 2))


def cayley(m: Tensor) -> Tensor:
    """`(I + M)^-1 (I - M)`: orthogonal for an antisymmetric M."""
    identity = torch.eye(m.shape[-1], dtype=m.dtype, device=m.device)
    return torch.linalg.solve(identity + m, identity - m)



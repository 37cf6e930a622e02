"""`matrix_scan` for GPUs: the chunkwise kernels where they serve, `rnnc.runtime.matrix_scan` everywhere else.

They serve one micro-step of a scalar decay, given by its logarithm, and one write; one read; a state [K, V] with K at
most 256.  Everything else (vector decays, low rank, several micro-steps) runs as on the CPU, by PyTorch's own products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rnnc.runtime import chunk as reference
from rnnc.runtime.chunk import MicroStep, Read
from rnnc.runtime.gpu import low_rank
from rnnc.runtime.gpu.decay_kernels import decay_backward, decay_backward_states, decay_outputs, decay_states
from rnnc.runtime.gpu.recurrence import empty, interpreted
from rnnc.runtime.layout import common_dtype, sequence_length, spread

__all__ = ["decay_scan", "matrix_scan"]

CHUNK = 64
STAGES = 2  # of the loads: a third one would cost the registers that a second pair of products needs
LARGEST_KEY = 256
LEAST_DECAY = -100.0  # exp(-100) is zero in float32; a running sum of it stays finite, of -inf it would not


def matrix_scan(
    state: Tensor,
    steps: Sequence[MicroStep],
    reads: Sequence[Read],
    *,
    vector: bool = False,
    length: int | None = None,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """See `rnnc.runtime.matrix_scan`."""
    if low_rank.served(state, steps, reads, vector):
        return low_rank.scan(state, steps, reads, length=length)
    if not _served(state, steps, reads, vector):
        return reference.matrix_scan(state, steps, reads, vector=vector, length=length)
    (step,), (read,) = steps, reads
    ((k, v),) = step.writes
    assert v is not None
    batch, *per, keys, values = state.shape
    rank = len(per)
    length = sequence_length(rank + 1, (read.key, k, v), length)
    if step.log_decay is not None and length == 1:
        length = max(length, sequence_length(rank, (_scalar(step.log_decay, rank),), length))
    dtype = common_dtype(state, read.key, k, v, step.log_decay)

    def sequence(x: Tensor, *core: int) -> Tensor:
        """[B, T, heads, ...] in one dtype."""
        whole = spread(x.to(dtype), batch, length, (*per, *core))
        return whole.reshape(batch, length, math.prod(per), *core)

    g = state.new_zeros(()) if step.log_decay is None else _scalar(step.log_decay, rank)
    log_decay = spread(g, batch, length, tuple(per)).reshape(batch, length, -1).clamp(min=LEAST_DECAY)
    start = state.reshape(batch, -1, keys, values)
    o, last, _ = decay_scan(
        sequence(read.key, keys), sequence(k, keys), sequence(v, values), log_decay, start, read.when == "old"
    )
    return (o.reshape(batch, length, *per, values),), last.reshape(state.shape).to(dtype)


def _served(state: Tensor, steps: Sequence[MicroStep], reads: Sequence[Read], vector: bool) -> bool:
    if vector or len(steps) != 1 or len(reads) != 1 or state.ndim < 3 or state.is_complex():
        return False
    (step,) = steps
    plain = step.decay is None and not step.low_rank and not step.updates and len(step.writes) == 1
    if not plain or step.writes[0][1] is None or state.shape[-2] > LARGEST_KEY:
        return False
    if step.log_decay is not None and not _is_scalar(step.log_decay, state.ndim - 3):
        return False
    return state.is_cuda or interpreted()


def _is_scalar(x: Tensor, rank: int) -> bool:
    """A decay of shape [*P] or [B, T, *P], perhaps with a last axis of size 1."""
    return x.ndim in (0, rank, rank + 2) or x.shape[-1] == 1


def _scalar(x: Tensor, rank: int) -> Tensor:
    return x if x.ndim in (0, rank, rank + 2) else x.squeeze(-1)


# ---------------------------------------------------------------- the operators


def _sizes(q: Tensor, v: Tensor) -> tuple[int, int, int, int, int]:
    batch, steps, heads, keys = q.shape
    return batch, steps, heads, keys, v.shape[-1]


def _block(size: int, most: int) -> int:
    return max(16, min(most, 1 << max(0, size - 1).bit_length()))


def constants_of(kernel: str, keys: int, values: int, dtype: torch.dtype, *, old: bool) -> dict[str, Any]:
    """Compile-time arguments; fewer columns at a time where the keys are many.  `dtype` is that of the inputs."""
    wide = _block(keys, LARGEST_KEY)
    columns = _block(values, min(64, (2048 if "states" in kernel else 4096) // wide))
    accumulator = tl.float64 if dtype == torch.float64 else tl.float32
    return {"K": keys, "ACC": accumulator, "OLD": old, "C": CHUNK, "BK": wide, "BV": columns}


def warps_of(kernel: str, keys: int, machine: str) -> int:
    """More where there are many keys, but for AMD's threads, which have twice the registers.

    `machine` is "amd", or "old" for NVIDIA's before sm_90, whose products hold their operands in registers, or "".
    """
    if machine == "amd":
        return 4
    return 8 if keys > 64 or (machine == "old" and kernel == "decay_backward") else 4


@cache
def _machine() -> str:
    if torch.version.hip:
        return "amd"
    return "old" if torch.cuda.is_available() and torch.cuda.get_device_capability() < (9, 0) else ""


def _accumulator(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _shapes(q: Tensor, v: Tensor, start: Tensor) -> list[Tensor]:
    """Outputs, the last state, and the states before every chunk."""
    batch, steps, heads, keys, values = _sizes(q, v)
    acc = _accumulator(q)
    return [
        empty((batch, steps, heads, values), q, q.dtype),
        empty((batch, heads, keys, values), q, start.dtype),
        empty((batch, heads, triton.cdiv(steps, CHUNK), keys, values), q, acc),
    ]


@torch.library.custom_op("rnnc::decay_scan", mutates_args=())
def decay_scan(q: Tensor, k: Tensor, v: Tensor, g: Tensor, start: Tensor, old: bool) -> tuple[Tensor, Tensor, Tensor]:
    """q, k [B, T, H, K], v [B, T, H, V], log decays g [B, T, H], start [B, H, K, V] -> o [B, T, H, V], the last state,
    and the states before every chunk.
    """
    batch, _, heads, keys, values = _sizes(q, v)
    o, last, kept = _shapes(q, v, start)
    sizes = (q.shape[1], heads, values)
    constants = constants_of("decay_states", keys, values, q.dtype, old=old)
    warps = warps_of("decay_states", keys, _machine())
    decay_states[batch * heads * triton.cdiv(values, constants["BV"]),](
        *_strided(k, v, g), start.contiguous(), last, kept, *sizes, **constants, num_warps=warps, num_stages=STAGES
    )
    constants = constants_of("decay_outputs", keys, values, q.dtype, old=old)
    warps = warps_of("decay_outputs", keys, _machine())
    decay_outputs[batch * heads * kept.shape[2],](
        *_strided(q, k, v, g), kept, o, *sizes, **constants, num_warps=warps, num_stages=STAGES
    )
    return o, last, kept


def _strided(*xs: Tensor) -> list[Any]:
    """Each tensor and its strides."""
    return [a for x in xs for a in (x, *x.stride())]


@decay_scan.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, g: Tensor, start: Tensor, old: bool) -> tuple[Tensor, Tensor, Tensor]:
    o, last, kept = _shapes(q, v, start)
    return o, last, kept


def _gradient_shapes(q: Tensor, v: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, _, heads, keys, values = _sizes(q, v)
    start = empty((batch, heads, keys, values), q, kept.dtype)
    return empty(q.shape, q, kept.dtype), empty(q.shape, q, kept.dtype), empty(v.shape, v, v.dtype), start


@torch.library.custom_op("rnnc::decay_scan_backward", mutates_args=())
def decay_scan_backward(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, kept: Tensor, d_o: Tensor, d_last: Tensor, old: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k (in the precision of the arithmetic), v and the initial state."""
    batch, steps, heads, keys, values = _sizes(q, v)
    d_q, d_k, d_v, d_start = _gradient_shapes(q, v, kept)
    behind = empty(kept.shape, kept, kept.dtype)
    d_o, sizes = d_o.to(q.dtype).contiguous(), (steps, heads, values)
    constants = constants_of("decay_backward_states", keys, values, q.dtype, old=old)
    warps = warps_of("decay_backward_states", keys, _machine())
    decay_backward_states[batch * heads * triton.cdiv(values, constants["BV"]),](
        *_strided(q, g),
        d_o,
        d_last.contiguous(),
        behind,
        d_start,
        *sizes,
        **constants,
        num_warps=warps,
        num_stages=STAGES,
    )
    constants = constants_of("decay_backward", keys, values, q.dtype, old=old)
    warps = warps_of("decay_backward", keys, _machine())
    decay_backward[batch * heads * kept.shape[2],](
        *_strided(q, k, v, g), kept, behind, d_o, d_q, d_k, d_v, *sizes, **constants, num_warps=warps, num_stages=STAGES
    )
    return d_q, d_k, d_v, d_start


@decay_scan_backward.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, kept: Tensor, d_o: Tensor, d_last: Tensor, old: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _gradient_shapes(q, v, kept)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v, g, start, old = inputs
    _, last, kept = output
    ctx.old, ctx.start_dtype = old, start.dtype
    ctx.save_for_backward(q, k, v, g, last, kept)


def _derivative(ctx: Any, d_o: Tensor | None, d_last: Tensor | None, d_kept: Tensor | None) -> tuple[Any, ...]:
    """The decays' gradient needs no kernel.  With E_t = <dL/dS_t, S_t> and o_t = S_t^T q_t,

        E_t = dL/dg_t + k_t . dk_t,    E_{t-1} = dL/dg_t + q_{t-1} . dq_{t-1},    E_T = <dL/dS_T, S_T> + q_T . dq_T

    (the direct gradient of the last state included), so dL/dg is a sum from behind.
    """
    q, k, v, g, last, kept = ctx.saved_tensors
    d_o = torch.zeros_like(v) if d_o is None else d_o
    d_last = torch.zeros_like(last) if d_last is None else d_last
    d_q, d_k, d_v, d_start = decay_scan_backward(q, k, v, g, kept, d_o, d_last, ctx.old)
    reads, writes = (q * d_q).sum(-1), (k * d_k).sum(-1)  # [B, T, H]
    end = (d_last.to(d_q.dtype) * last.to(d_q.dtype)).sum((-1, -2))
    behind = (reads - writes).flip(1).cumsum(1).flip(1)
    d_g = end.unsqueeze(1) + (behind - reads if ctx.old else behind)
    return d_q.to(q.dtype), d_k.to(k.dtype), d_v, d_g.to(g.dtype), d_start.to(ctx.start_dtype), None


decay_scan.register_autograd(_derivative, setup_context=_setup)

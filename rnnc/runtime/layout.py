"""How coefficients meet a state: broadcasting over batch and time, and the dtype the arithmetic runs in.

Everywhere in `rnnc.runtime` a state is `[B, *S]`, a sequence is `[B, T, *S]`, and a *coefficient* is a sequence, a
sequence with axes of size 1, or static: `[*S]` without batch and time (or a free scalar).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

# Kinds of devices with autocast, asked for here: PyTorch 2.11 does not trace the question inside of torch.compile.
DEVICES = ("cpu", "cuda", "xpu", "mps", "hpu", "mtia", "xla")
AUTOCAST = frozenset(kind for kind in DEVICES if torch.amp.is_autocast_available(kind))


def sequence_length(core_rank: int, coefficients: Sequence[Tensor | None], length: int | None) -> int:
    """The number of steps T that `coefficients` agree on; `length` decides where all are static.

    A coefficient is a sequence when its rank is `core_rank + 2`.  Raises ValueError when T is not determined.
    """
    longest = length
    for x in coefficients:
        if x is not None and x.ndim == core_rank + 2 and (longest is None or longest == 1):
            longest = x.shape[1]
    if longest is None:
        raise ValueError("the number of time steps is unknown: every coefficient is static; pass length=")
    return longest


def spread(x: Tensor, batch: int, length: int, core: Sequence[int]) -> Tensor:
    """`x` as `[batch, length, *core]`, by views alone.

    Raises ValueError when `x` is neither a sequence (rank `len(core) + 2`) nor static (rank at most `len(core)`), or
    its sizes do not fit.
    """
    rank = len(core)
    if x.ndim == rank + 1 or x.ndim > rank + 2:
        raise ValueError(
            f"a coefficient of shape {tuple(x.shape)} is neither a sequence [batch, time, ...] of {rank + 2} axes "
            f"nor static with at most {rank} axes, for a state of shape {tuple(core)} in each batch entry"
        )
    whole = (batch, length, *core)
    # under a tracer sizes may be symbolic, and `expand` does the comparison
    if not torch.compiler.is_compiling() and any(n not in (1, w) for n, w in zip(x.shape[::-1], whole[::-1])):
        raise ValueError(f"a coefficient of shape {tuple(x.shape)} does not broadcast to [batch, time, ...] = {whole}")
    return x.expand(whole)


def common_dtype(*tensors: Tensor | None) -> torch.dtype:
    """The dtype the given tensors promote to (sizes do not matter: a 0-dim tensor counts like any other).

    Raises ValueError where that is no real or complex one: integers would be rounded on the way.
    """
    dtype: torch.dtype | None = None
    for x in tensors:
        if x is not None:
            dtype = x.dtype if dtype is None else torch.promote_types(dtype, x.dtype)
    if dtype is None:
        raise ValueError("no tensor was given")
    if not (dtype.is_floating_point or dtype.is_complex):
        raise ValueError(f"a recurrence needs real or complex tensors, not {dtype}")
    return dtype


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype a recurrence runs in: at least float32, so that a bfloat16 state does not lose its small updates."""
    if not (dtype.is_floating_point or dtype.is_complex):
        return torch.get_default_dtype()
    return torch.promote_types(dtype, torch.float32)


def product_dtype(promoted: torch.dtype, *vectors: Tensor) -> torch.dtype:
    """The dtype in which a GPU's kernel multiplies real vectors, where all its arguments together are `promoted`.

    That of the vectors: states, gates and sums may be wider, and are.  Under autocast, which asks for low products, the
    one it names in place of float32.  float64 where anything is.
    """
    found = common_dtype(*vectors)
    if torch.float64 in (promoted, found):
        return torch.float64
    kind = vectors[0].device.type
    if found == torch.float32 and kind in AUTOCAST and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return found


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """The real counterpart of a computing dtype."""
    return torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """A context in which autocast is off; it does nothing on a device that knows no autocast (meta)."""
    if device.type not in AUTOCAST:
        return nullcontext()
    return torch.autocast(device_type=device.type, enabled=False)


def state_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the states of an operator without parameters: its inputs', under autocast at least float32; of
    whole numbers and truth values, in which most states cannot be written, the default one."""
    if x.device.type in AUTOCAST and torch.is_autocast_enabled(x.device.type):
        return torch.promote_types(x.dtype, torch.float32)
    return x.dtype if x.is_floating_point() or x.is_complex() else torch.get_default_dtype()

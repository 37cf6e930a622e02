"""`rnnc::low_rank_scan`: launches of the low-rank kernels, their buffers, and the operator's derivative."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from rnnc.runtime.gpu.arrange import near
from rnnc.runtime.gpu.compat import LAUNCH
from rnnc.runtime.gpu.low_rank_inverse import low_rank_inverse
from rnnc.runtime.gpu.low_rank_kernels import low_rank_backward, low_rank_outputs, low_rank_walk, low_rank_walk_back
from rnnc.runtime.gpu.packed import chunk_table, rows_kept
from rnnc.runtime.gpu.recurrence import empty
from rnnc.runtime.gpu.tuning import machine

__all__ = ["blocks_of", "constants_of", "fused", "low_rank_scan"]

CHUNK = 64  # rows of a chunk: the height of one product of sm_90's tensor cores


# ---------------------------------------------------------------- configurations


class Blocks(NamedTuple):
    """Keys and values a program holds at a time, its warps, and the stages of its loads."""

    keys: int
    values: int
    warps: int
    stages: int


def _block(size: int, most: int) -> int:
    return max(16, min(most, 1 << max(0, size - 1).bit_length()))


def blocks_of(kernel: str, keys: int, values: int, machine: str) -> Blocks:
    """The default configuration: one that spills on no target.

    `machine` is "amd", or "old" for NVIDIA's before sm_90, whose products hold their operands in registers, or "".
    """
    amd, old, whole = machine == "amd", machine == "old", _block(keys, 256)
    warps, stages = 4 if amd else 8, 1 if amd else 2
    match kernel:
        case "low_rank_inverse":
            return Blocks(min(whole, 64), 16, 1 if amd else 4 if old else 2, 1)
        case "low_rank_backward":
            return Blocks(16 if old else min(whole, 64), _block(values, 32 if old else 64), warps, stages)
        case "low_rank_outputs":
            return Blocks(whole, _block(values, 64 if whole <= 128 else 32), warps, stages)
        case "low_rank_walk_back":
            columns = (32 if whole <= 64 else 16) if old else 64 if whole <= 128 else 32
            return Blocks(whole, _block(values, columns), warps, 1 if whole > (64 if old else 128) else stages)
        case _:
            columns = (16 if whole <= 64 else 32) if old else 64 if whole <= 64 else 32 if whole <= 128 else 16
            return Blocks(whole, _block(values, columns), warps, stages)


def fused(states: int, keys: int, values: int, machine: str) -> bool:
    """Whether outputs are written on the way from chunk to chunk: where heads and columns fill the GPU by themselves.

    That spares writing and reading the states and values of all chunks; otherwise the chunks' outputs are what can be
    done at once.  Before sm_90 keys above 64 leave no registers for both.
    """
    if machine == "old" and keys > 64:
        return False
    if not torch.cuda.is_available():
        return True
    blocks = blocks_of("low_rank_walk", keys, values, machine)
    processors = torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count
    return states * triton.cdiv(values, blocks.values) >= int(processors)


def constants_of(
    kernel: str,
    keys: int,
    values: int,
    dtype: torch.dtype,
    *,
    rows: int = 1,
    shared: int = 1,
    gate: bool = True,
    tied: bool = True,
    old: bool = False,
    packed: bool = False,
    machine: str = "",
) -> dict[str, Any]:
    """Compile-time arguments and options; `dtype` is that of the inputs."""
    blocks = blocks_of(kernel, keys, values, machine)
    found: dict[str, Any] = {"K": keys, "N": rows, "R": shared, "GATE": gate, "C": CHUNK, "BK": blocks.keys}
    found["PACKED"] = packed
    found["ACC"] = tl.float64 if dtype == torch.float64 else tl.float32
    if kernel != "low_rank_outputs":
        found["TIED"] = tied
    if kernel != "low_rank_inverse":
        found |= {"OLD": old, "BV": blocks.values, "STAGES": blocks.stages}
    return found | {"num_warps": blocks.warps}


# ---------------------------------------------------------------- launches


class _Problem(NamedTuple):
    """The arguments of a scan, as its kernels take them: q [B, T, H, E, K], u, b [B, T, N, H, E, K], v [.., V], s, c, g
    [B, T, N, H, E]; `bounds` in time steps, where sequences are packed (then B is 1)."""

    q: Tensor
    u: Tensor
    b: Tensor | None
    v: Tensor
    s: Tensor
    c: Tensor
    g: Tensor | None
    bounds: Tensor | None
    shared: int
    old: bool

    @property
    def batch(self) -> int:
        """Sequences."""
        return self.u.shape[0] if self.bounds is None else self.bounds.shape[0] - 1

    @property
    def heads(self) -> int:
        return self.u.shape[3] * self.u.shape[4]

    @property
    def total(self) -> int:
        """Rows of an entry of the batch."""
        return self.u.shape[1] * self.u.shape[2]

    @property
    def chunks(self) -> int:
        """Of all sequences."""
        return rows_kept(self.batch, self.total, CHUNK, self.bounds is not None)

    @property
    def keys(self) -> int:
        return self.u.shape[-1]

    @property
    def values(self) -> int:
        return self.v.shape[-1]

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        return self.total, self.u.shape[3], self.u.shape[4], self.values

    def row_bounds(self) -> Tensor:
        """Bounds in rows; any tensor where nothing is packed."""
        return self.s if self.bounds is None else self.bounds * self.u.shape[2]

    def table(self) -> Tensor:
        return self.s if self.bounds is None else chunk_table(self.row_bounds(), CHUNK, self.chunks)

    def constants(self, kernel: str) -> dict[str, Any]:
        return LAUNCH | constants_of(
            kernel,
            self.keys,
            self.values,
            self.u.dtype,
            rows=self.u.shape[2],
            shared=self.shared,
            gate=self.g is not None,
            tied=self.b is None,
            old=self.old,
            packed=self.bounds is not None,
            machine=machine(),
        )

    def given(self, *names: str) -> list[Any]:
        """Arrays with their strides; what is absent is not read, and another stands for it."""
        found: list[Any] = []
        for name in names:
            x = getattr(self, name)
            if x is None:
                x = self.u if name == "b" else self.s
            batch, step, *rest = x.stride()
            found += [x, batch, step, *([0] if name == "q" else []), *rest]  # all rows of a step have one q
        return found


def _problem(
    q: Tensor,
    u: Tensor,
    b: Tensor | None,
    v: Tensor,
    s: Tensor,
    c: Tensor,
    g: Tensor | None,
    bounds: Tensor | None,
    shared: int,
    old: bool,
) -> _Problem:
    def rows(x: Tensor) -> Tensor:
        return near(x, CHUNK, rows=True)

    given = near(q, CHUNK), rows(u), None if b is None else rows(b), rows(v), rows(s), rows(c)
    return _Problem(*given, None if g is None else rows(g), bounds, shared, old)


def _inverses(p: _Problem) -> Tensor:
    """[chunks, heads, C, C]."""
    inverse = empty((p.chunks, p.heads, CHUNK, CHUNK), p.u, p.u.dtype)
    low_rank_inverse[p.chunks * p.heads,](
        *p.given("u", "b", "s", "c", "g"), p.table(), inverse, *p.sizes[:3], **p.constants("low_rank_inverse")
    )
    return inverse


def _walk(
    p: _Problem, inverse: Tensor, start: Tensor, o: Tensor | None, *, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The last states; the states before every chunk and all values, where they are kept."""
    last = empty(start.shape, p.u, start.dtype)
    kept = empty((p.chunks, p.heads, p.keys, p.values) if keep else (0,), p.u, p.u.dtype)
    w = empty(p.v.shape if keep else (0,), p.u, p.u.dtype)
    constants = p.constants("low_rank_walk")
    low_rank_walk[p.batch * p.heads * triton.cdiv(p.values, constants["BV"]),](
        *p.given("q", "u", "b", "v", "s", "c", "g"),
        p.row_bounds(),
        inverse,
        start.contiguous(),
        last,
        kept,
        w,
        p.u if o is None else o,
        *p.sizes,
        OUTPUTS=o is not None,
        KEEP=keep,
        **constants,
    )
    return last, kept, w


def _outputs(p: _Problem, kept: Tensor, w: Tensor, o: Tensor) -> None:
    low_rank_outputs[p.chunks * p.heads,](
        *p.given("q", "u", "s", "g"), p.table(), kept, w, o, *p.sizes, **p.constants("low_rank_outputs")
    )


def _shapes(u: Tensor, v: Tensor, start: Tensor, bounds: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    batch, steps, rows, heads, groups, _ = u.shape
    chunks = rows_kept(start.shape[0], steps * rows, CHUNK, bounds is not None)
    return (
        empty((batch, steps, heads, groups, v.shape[-1]), u, u.dtype),
        empty(start.shape, u, start.dtype),
        empty((chunks, heads * groups, CHUNK, CHUNK), u, u.dtype),
    )


# ---------------------------------------------------------------- the operators


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
) -> tuple[Tensor, Tensor, Tensor]:
    """Reads o [B, T, H, E, V], the last state [B, H, E, K, V], and the inverses of all chunks.

    q [B, T, H, E, K]; of N rows a step u, b (None: u) [B, T, N, H, E, K], v [.., V], scalars s, c and log decays g
    [B, T, N, H, E]; `shared` rows read the same state; `old`: reads are of the state before the step.  With `bounds`
    [S + 1] sequences are packed: B is 1, `start` and the last states have S entries.
    """
    p = _problem(q, u, b, v, s, c, g, bounds, shared, old)
    o, last, inverse = _shapes(u, v, start, bounds)
    if not o.numel() or not last.numel():
        return o.zero_(), last.copy_(start), inverse
    with torch.cuda.device_of(u):
        inverse = _inverses(p)
        if fused(p.batch * p.heads, p.keys, p.values, machine()):
            last, _, _ = _walk(p, inverse, start, o, keep=False)
        else:
            last, kept, w = _walk(p, inverse, start, None, keep=True)
            _outputs(p, kept, w, o)
    return o, last, inverse


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
) -> tuple[Tensor, Tensor, Tensor]:
    return _shapes(u, v, start, bounds)


Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _gradient_shapes(u: Tensor, b: Tensor | None, v: Tensor, g: Tensor | None, start: Tensor) -> Gradients:
    """Of q, u, b, v, s, c, g and the initial state; scalars once for every block of keys."""
    batch, steps, rows, heads, groups, keys = u.shape
    acc = torch.float64 if u.dtype == torch.float64 else torch.float32
    block = blocks_of("low_rank_backward", keys, v.shape[-1], machine()).keys
    numbers = (-(-keys // block), batch, steps, rows, heads, groups)
    return (
        empty((batch, steps, heads, groups, keys), u, u.dtype),
        empty(u.shape, u, u.dtype),
        empty(u.shape if b is not None else (0,), u, u.dtype),
        empty(v.shape, u, u.dtype),
        empty(numbers, u, acc),
        empty(numbers, u, acc),
        empty(numbers if g is not None else (0,), u, acc),
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, u, b, v, of s, c and g for each block of keys, and of the initial state.

    The states before all chunks and the values are found once more.
    """
    with torch.cuda.device_of(u):
        return _backward(_problem(q, u, b, v, s, c, g, bounds, shared, old), start, inverse, d_o, d_last)


def _backward(p: _Problem, start: Tensor, inverse: Tensor, d_o: Tensor, d_last: Tensor) -> Gradients:
    """`low_rank_scan_backward`, on the device of its tensors."""
    found = _gradient_shapes(p.u, p.b, p.v, p.g, start)
    d_q, d_u, d_b, d_v, d_s, d_c, d_g, d_start = found
    if not d_o.numel() or not d_last.numel():
        d_start.copy_(d_last)
        for x in found[:-1]:
            x.zero_()
        return found
    _, kept, w = _walk(p, inverse, start, None, keep=True)
    behind = empty(kept.shape, kept, kept.dtype)
    d_o = d_o.to(p.u.dtype).contiguous()
    constants = p.constants("low_rank_walk_back")
    low_rank_walk_back[p.batch * p.heads * triton.cdiv(p.values, constants["BV"]),](
        *p.given("q", "u", "b", "s", "c", "g"),
        p.row_bounds(),
        inverse,
        d_o,
        d_last.contiguous(),
        behind,
        d_v,
        d_start,
        *p.sizes,
        **constants,
    )
    constants = p.constants("low_rank_backward")
    low_rank_backward[p.chunks * p.heads * triton.cdiv(p.keys, constants["BK"]),](
        *p.given("q", "u", "b", "s", "c", "g"),
        p.table(),
        kept,
        behind,
        w,
        d_v,
        d_o,
        d_q,
        d_u,
        d_b,
        d_s,
        d_c,
        d_g,
        d_s[0].numel(),
        *p.sizes,
        **constants,
    )
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _gradient_shapes(u, b, v, g, start)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, shared, old = inputs
    ctx.shared, ctx.old = shared, old
    ctx.save_for_backward(*tensors, output[2])


def _derivative(ctx: Any, d_o: Tensor | None, d_last: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    q, u, b, v, s, c, g, start, bounds, inverse = ctx.saved_tensors
    d_o = torch.zeros_like(v[:, :, 0]) if d_o is None else d_o
    d_last = torch.zeros_like(start) if d_last is None else d_last
    d_q, d_u, d_b, d_v, d_s, d_c, d_g, d_start = low_rank_scan_backward(
        q, u, b, v, s, c, g, start, bounds, inverse, d_o, d_last, ctx.shared, ctx.old
    )
    scalars = [None if x is None else d.sum(0).to(x.dtype) for x, d in ((s, d_s), (c, d_c), (g, d_g))]
    return d_q, d_u, None if b is None else d_b, d_v, *scalars, d_start.to(start.dtype), None, None, None


low_rank_scan.register_autograd(_derivative, setup_context=_setup)

"""The chunkwise scan of a matrix state with a decay per channel, as PyTorch operators:

    S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T  (or S_{t-1} diag(exp(g_t)) + ...),    o_t = S_t^T q_t  (or S_{t-1}^T q_t)

Kernels and what they compute: `rnnc.runtime.gpu.intra`, `rnnc.runtime.gpu.walk`.  `torch.compile` and `torch.export` keep
`rnnc::gated_scan` as one node.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rnnc.runtime.gpu import recurrence as launch
from rnnc.runtime.gpu.intra import pairs, spread
from rnnc.runtime.gpu.splits import gradients_between, states_between
from rnnc.runtime.gpu.tuning import power_of_two, programs_wanted
from rnnc.runtime.gpu.walk import gate_gradient, walk

__all__ = ["base_of", "gated_scan"]

CHUNK = 64
EVERY = 4  # chunks between two kept states: a quarter of the bytes of the inputs where K = V = 128
LARGEST = 256  # entries of a state along its contracted axis
ALIKE = 124.0  # exponents up to which products of float32 numbers of moderate size stay finite


def base_of(least: float | None, dtype: torch.dtype) -> int:
    """Rows of the blocks that one product serves, given a lower bound of every log decay: |least| (n/2 + 1) log2(e) <= 124.

    One where no bound is known, and for float16, whose range is too small.
    """
    if least is None or dtype == torch.float16:
        return 1
    rows = CHUNK
    while rows > 1 and -least * (rows / 2 + 1) * math.log2(math.e) > ALIKE:
        rows //= 2
    return rows


# ---------------------------------------------------------------- sizes


def block(size: int, most: int) -> int:
    return max(16, min(most, power_of_two(size)))


def pairs_constants(inner: int, dtype: torch.dtype, *, old: bool, strict: bool, base: int) -> dict[str, Any]:
    return {
        **_common(dtype),
        "N": inner,
        "OLD": old,
        "STRICT": strict,
        "BASE": base,
        "LOOK": dtype != torch.float16,
        "BN": block(inner, 32),
        "LEVELS": CHUNK.bit_length() - 1,
    }


def spread_constants(
    inner: int, outer: int, dtype: torch.dtype, *, old: bool, reverse: bool, scaled: bool, base: int
) -> dict[str, Any]:
    return {
        **_common(dtype),
        "N": inner,
        "OLD": old,
        "REVERSE": reverse,
        "SCALED": scaled,
        "BASE": base,
        "LOOK": dtype != torch.float16,
        "BN": block(inner, 32),
        "BM": block(outer, 32),
        "LEVELS": CHUNK.bit_length() - 1,
    }


def walk_constants(
    inner: int,
    outer: int,
    dtype: torch.dtype,
    *,
    across: bool,
    reverse: bool,
    old: bool,
    out: bool = True,
    keep: bool = False,
    ends: bool = False,
) -> dict[str, Any]:
    wide = block(inner, LARGEST)
    return {
        **_common(dtype),
        "N": inner,
        "OUTER": across,
        "REVERSE": reverse,
        "OLD": old,
        "OUT": out,
        "KEEP": keep,
        "ENDS": ends,
        "EVERY": EVERY,
        "BN": wide,
        "BM": block(outer, max(16, min(64, 4096 // wide))),
        "STAGES": 2,
    }


def gate_constants(outer: int, dtype: torch.dtype, *, old: bool) -> dict[str, Any]:
    common = _common(dtype)
    return {"ACC": common["ACC"], "OLD": old, "EVERY": EVERY, "C": CHUNK, "BM": block(outer, 32)}


def _common(dtype: torch.dtype) -> dict[str, Any]:
    relaxed = dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
    return {
        "ACC": tl.float64 if dtype == torch.float64 else tl.float32,
        "C": CHUNK,
        "PRECISION": "tf32" if relaxed else "ieee",
    }


def warps_of(kernel: str, constants: dict[str, Any]) -> int:
    """Chosen so that nothing spills on any of the four targets of the tests."""
    match kernel:
        case "pairs" | "spread":
            return 8
        case "walk":
            return 8 if constants["BN"] * constants["BM"] > 2048 else 4
        case _:
            return 4


# ---------------------------------------------------------------- launches


def strided(x: Tensor) -> tuple[Any, ...]:
    """A tensor and its strides; offsets inside a chunk are 32-bit numbers."""
    if max(x.stride(), default=0) > (1 << 31) // (2 * CHUNK):
        x = x.contiguous()
    return (x, *x.stride())


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """One scan's sizes and gates.  `across`: whether the decay is that of the state's columns (v), not of its rows (k)."""

    g: Tensor
    keys: int
    values: int
    dtype: torch.dtype
    old: bool
    across: bool
    base: int

    @property
    def batch(self) -> int:
        return int(self.g.shape[0])

    @property
    def steps(self) -> int:
        return int(self.g.shape[1])

    @property
    def heads(self) -> int:
        return int(self.g.shape[2])

    @property
    def chunks(self) -> int:
        return triton.cdiv(self.steps, CHUNK)

    @property
    def slots(self) -> int:
        return triton.cdiv(self.chunks, EVERY)

    @property
    def accumulator(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return launch.empty((self.batch, *shape), self.g, dtype or self.accumulator)

    def pairs(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scores [B, T, H, C], x from the chunk's start and y to its end, and the chunks' sums [B, H, chunks, N]."""
        inner = x.shape[-1]
        scores = self.empty(self.steps, self.heads, CHUNK, dtype=self.dtype)
        scaled = [self.empty(self.steps, self.heads, inner, dtype=self.dtype) for _ in "xy"]
        totals = self.empty(self.heads, self.chunks, inner)
        constants = pairs_constants(inner, self.dtype, old=self.old, strict=self.old, base=self.base)
        pairs[self.batch * self.heads * self.chunks,](
            *strided(x),
            *strided(y),
            *strided(self.g),
            scores,
            *scaled,
            totals,
            self.steps,
            self.heads,
            **constants,
            num_warps=warps_of("pairs", constants),
        )
        return scores, *scaled, totals

    def spread(
        self, x: Tensor, y: Tensor, z: Tensor, *, reverse: bool = False, scaled: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What a chunk's own steps add to each other's outputs; and, `scaled`, z to the chunk's end and the chunks' sums
        (without meaning where they are not asked for).
        """
        inner, outer = x.shape[-1], self.g.shape[-1]
        constants = spread_constants(
            inner, outer, self.dtype, old=self.old, reverse=reverse, scaled=scaled, base=self.base
        )
        out = self.empty(self.steps, self.heads, outer)
        z_scaled = self.empty(self.steps, self.heads, outer, dtype=self.dtype) if scaled else out
        totals = self.empty(self.heads, self.chunks, outer) if scaled else out
        spread[self.batch * self.heads * self.chunks * triton.cdiv(outer, constants["BM"]),](
            *strided(x),
            *strided(y),
            *strided(z),
            *strided(self.g),
            out,
            z_scaled,
            totals,
            self.steps,
            self.heads,
            outer,
            **constants,
            num_warps=warps_of("spread", constants),
        )
        return out, z_scaled, totals

    def walk(
        self,
        x: Tensor,
        y: Tensor,
        z: Tensor,
        totals: Tensor,
        start: Tensor,
        *,
        inside: Tensor,
        out: torch.dtype,
        turned: bool = False,
        reverse: bool = False,
        keep: bool = False,
        ends: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Outputs [B, T, H, ...], the last state [B, H, K, V], and the states before every EVERY chunks (`keep`).

        The state is [K, V] or, `turned`, [V, K] for the kernel: its first axis is the one of x and y.  `inside` is what a
        chunk's own steps do: scores where the decay is on that axis, else what they add.  A `start` of rank 5 has the
        states before every EVERY chunks, and all of those runs go at once.  `ends` are kept states and the sums to be
        filled, see `rnnc.runtime.gpu.walk`.
        """
        inner, outer = y.shape[-1], z.shape[-1]
        outputs = self.empty(self.steps, self.heads, outer, dtype=out)
        kept = self.empty(self.heads, self.slots, self.keys, self.values) if keep else None
        run = _Walk(self, x, y, z, totals, inside, turned, reverse)
        if start.ndim == 5:
            span, starts = EVERY, start
        else:
            span = self._span(run.programs)
            starts = run.starts(start, span) if span < self.chunks else start.unsqueeze(2)
        last = run(span, starts.contiguous(), outputs=outputs, kept=kept, ends=ends)
        return outputs, last[:, :, 0 if reverse else -1], kept

    def _span(self, programs: int) -> int:
        """Chunks of a program: all of them where that fills the GPU, else a multiple of EVERY."""
        parts = min(self.slots, triton.cdiv(programs_wanted(), max(1, programs)))
        return self.chunks if parts < 2 else triton.cdiv(self.slots, parts) * EVERY


@dataclass(frozen=True, slots=True)
class _Walk:
    """One of the passes of a scan, ready to be launched."""

    of: Scan
    x: Tensor
    y: Tensor
    z: Tensor
    totals: Tensor
    inside: Tensor
    turned: bool
    reverse: bool

    def constants(self, **flags: bool) -> dict[str, Any]:
        of = self.of
        inner, outer = self.y.shape[-1], self.z.shape[-1]
        across = of.across != self.turned
        return walk_constants(inner, outer, of.dtype, across=across, reverse=self.reverse, old=of.old, **flags)

    @property
    def programs(self) -> int:
        """Of one run over all chunks."""
        return self.of.batch * self.of.heads * triton.cdiv(self.z.shape[-1], self.constants()["BM"])

    def starts(self, start: Tensor, span: int) -> Tensor:
        """The states before (behind) every `span` chunks, [B, H, spans, K, V]: first every span by itself, from zero."""
        of = self.of
        spans = triton.cdiv(of.chunks, span)
        zero = start.new_zeros((of.batch, of.heads, spans, of.keys, of.values), dtype=of.accumulator)
        total = self(span, zero)
        sums = torch.nn.functional.pad(self.totals, (0, 0, 0, spans * span - of.chunks))
        factor = sums.unflatten(2, (spans, span)).sum(3).exp2().unsqueeze(-2 if of.across else -1)
        between = gradients_between if self.reverse else _states_between
        return between(False, start, total.transpose(1, 2), factor.transpose(1, 2)).transpose(1, 2)

    def __call__(
        self,
        span: int,
        starts: Tensor,
        *,
        outputs: Tensor | None = None,
        kept: Tensor | None = None,
        ends: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """The state after every span, [B, H, spans, K, V]."""
        of = self.of
        spans = triton.cdiv(of.chunks, span)
        last = of.empty(of.heads, spans, of.keys, of.values)
        constants = self.constants(out=outputs is not None, keep=kept is not None, ends=ends is not None)
        blocks = triton.cdiv(self.z.shape[-1], constants["BM"])
        kept_states, sums = ends or (kept, None)
        walk[of.batch * of.heads * spans * blocks,](
            *strided(self.x),
            *strided(self.y),
            *strided(self.z),
            *strided(of.g),
            self.inside,
            self.inside,
            self.totals,
            starts,
            last,
            last if kept_states is None else kept_states,
            last if sums is None else sums,
            last if outputs is None else outputs,
            of.steps,
            of.heads,
            self.z.shape[-1],
            span,
            *((1, of.values) if self.turned else (of.values, 1)),
            **constants,
            num_warps=warps_of("walk", constants),
        )
        return last


def _states_between(pairs: bool, start: Tensor, total: Tensor, factor: Tensor) -> Tensor:
    return states_between("plus_times", pairs, start, total, factor)


# ---------------------------------------------------------------- the operators


@torch.library.custom_op("rnnc::gated_scan", mutates_args=())
def gated_scan(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, start: Tensor, old: bool, across: bool, base: int
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k [B, T, H, K], v [B, T, H, V], log decays g [B, T, H, K] (`across`: V), start [B, H, K, V].

    Outputs o [B, T, H, V], the last state, and the states before every EVERY chunks.  `old`: the state before a step is
    read.  `base`: see `base_of`.
    """
    of = _scan_of(q, v, g, old, across, base)
    if across:
        inside, w, totals = of.spread(q, k, v, scaled=True)
        o, last, kept = of.walk(q, k, w, totals, start, inside=inside, out=q.dtype, keep=True)
    else:
        scores, x, y, totals = of.pairs(q, k)
        o, last, kept = of.walk(x, y, v, totals, start, inside=scores, out=q.dtype, keep=True)
    assert kept is not None
    return o, last.to(start.dtype, copy=True), kept


def _scan_of(q: Tensor, v: Tensor, g: Tensor, old: bool, across: bool, base: int) -> Scan:
    return Scan(g=g, keys=q.shape[-1], values=v.shape[-1], dtype=q.dtype, old=old, across=across, base=base)


@gated_scan.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, start: Tensor, old: bool, across: bool, base: int
) -> tuple[Tensor, Tensor, Tensor]:
    of = _scan_of(q, v, g, old, across, base)
    o, last = of.empty(of.steps, of.heads, of.values, dtype=q.dtype), start.new_empty(start.shape)
    return o, last, of.empty(of.heads, of.slots, of.keys, of.values)


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
    across: bool,
    base: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, g and the initial state."""
    of = _scan_of(q, v, g, old, across, base)
    acc = of.accumulator
    ends = of.empty(of.heads, of.slots, g.shape[-1])
    if across:
        scores, x, w, totals = of.pairs(d_o, v)
        inside, _, _ = of.spread(k, q, d_o, reverse=True)
        d_q, _, _ = of.walk(x, w, k, totals, kept, inside=scores, out=q.dtype, turned=True)
        d_k, _, _ = of.walk(w, x, q, totals, d_last, inside=scores, out=q.dtype, turned=True, reverse=True)
        d_v, d_start, _ = of.walk(k, q, x, totals, d_last, inside=inside, out=acc, reverse=True, ends=(kept, ends))
        read, written = (o, d_o), (v, d_v)
    else:
        scores, x, y, totals = of.pairs(q, k)
        ahead, back = of.spread(d_o, v, k)[0], of.spread(v, d_o, q, reverse=True)[0]
        d_q, _, _ = of.walk(d_o, v, y, totals, kept, inside=ahead, out=acc, turned=True)
        d_k, _, _ = of.walk(
            v, d_o, x, totals, d_last, inside=back, out=acc, turned=True, reverse=True, ends=(kept, ends)
        )
        d_v, d_start, _ = of.walk(y, x, d_o, totals, d_last, inside=scores, out=q.dtype, reverse=True)
        read, written = (q, d_q), (k, d_k)
    end = (d_last.to(acc) * last.to(acc)).sum(-2 if across else -1)
    d_g = _gate_gradient(of, read, written, ends, end)
    return d_q.to(q.dtype), d_k.to(q.dtype), d_v.to(q.dtype), d_g.to(g.dtype), d_start.clone()


def _gate_gradient(
    of: Scan, read: tuple[Tensor, Tensor], written: tuple[Tensor, Tensor], ends: Tensor, end: Tensor
) -> Tensor:
    outer = of.g.shape[-1]
    found = of.empty(of.steps, of.heads, outer)
    constants = gate_constants(outer, of.dtype, old=of.old)
    (r, dr), (w, dw) = read, written
    gate_gradient[of.batch * of.heads * of.slots * triton.cdiv(outer, constants["BM"]),](
        *strided(r),
        *strided(w),
        *strided(dr),
        *strided(dw),
        ends,
        end.contiguous(),
        found,
        of.steps,
        of.heads,
        outer,
        **constants,
        num_warps=warps_of("gate_gradient", constants),
    )
    return found


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
    across: bool,
    base: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    found = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v, g)]
    return found[0], found[1], found[2], found[3], kept.new_empty(last.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v, g, start, *ctx.flags = inputs
    ctx.start_dtype = start.dtype
    ctx.save_for_backward(q, k, v, g, *output)


def _derivative(ctx: Any, d_o: Tensor | None, d_last: Tensor | None, d_kept: Tensor | None) -> tuple[Any, ...]:
    q, k, v, g, o, last, kept = ctx.saved_tensors
    d_o = torch.zeros_like(o) if d_o is None else d_o.to(o.dtype)
    d_last = torch.zeros_like(last) if d_last is None else d_last
    d_q, d_k, d_v, d_g, d_start = gated_scan_backward(q, k, v, g, o, last, kept, d_o, d_last, *ctx.flags)
    return d_q, d_k, d_v, d_g, d_start.to(ctx.start_dtype), None, None, None


gated_scan.register_autograd(_derivative, setup_context=_setup)

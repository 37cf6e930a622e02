"""One low-rank scan: its arguments as kernels take them, the launches, and their buffers."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from rnnc.runtime.gpu.arrange import near
from rnnc.runtime.gpu.buffers import empty
from rnnc.runtime.gpu.compat import LAUNCH
from rnnc.runtime.gpu.low_rank_backward import low_rank_backward
from rnnc.runtime.gpu.low_rank_inverse import low_rank_inverse
from rnnc.runtime.gpu.low_rank_kernels import low_rank_outputs, low_rank_scores, low_rank_walk, low_rank_walk_back
from rnnc.runtime.gpu.low_rank_keyed import (
    low_rank_keyed_reads,
    low_rank_keyed_rows,
    low_rank_pairs,
    low_rank_products,
)
from rnnc.runtime.gpu.low_rank_sizes import Blocks, Way, chunk_of, constants_of
from rnnc.runtime.gpu.packed import chunk_table, rows_kept
from rnnc.runtime.gpu.tuning import machine

__all__ = ["Kept", "Problem", "Scores", "problem"]


class Scores(NamedTuple):
    """What the rows of a chunk are to each other, found beforehand: P [chunks, heads, C, C]; under a decay for each key
    M likewise, and the sums of its logarithms (base 2) [chunks, heads, K]."""

    scores: Tensor
    system: Tensor | None = None
    total: Tensor | None = None


class Kept(NamedTuple):
    """States before all chunks [chunks, heads, K, V], and the values of all rows."""

    states: Tensor
    w: Tensor


class Problem(NamedTuple):
    """The arguments of a scan, as its kernels take them: q [B, T, H, E, K], u, b [B, T, N, H, E, K], v [.., V], s, c
    [B, T, N, H, E]; g likewise, or for each key [B, T, N, H, E, K], with N = 1 where only a step's first row has a
    decay; `bounds` in time steps, where sequences are packed (then B is 1)."""

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
    base: int
    chain: str = "low_rank_walk"  # the kernel whose configuration is `way`
    way: Way | None = None  # by default that of `low_rank_sizes.blocks_of`, scores on the way
    blocks: tuple[tuple[str, Blocks], ...] = ()  # of other kernels, where they are not those of `blocks_of`
    found: Scores | None = None  # with a decay for each key, q, u and b are decayed to the ends of their chunks

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
    def chunk(self) -> int:
        """Rows of a chunk."""
        return chunk_of(self.u.dtype)

    @property
    def chunks(self) -> int:
        """Of all sequences."""
        return rows_kept(self.batch, self.total, self.chunk, self.bounds is not None)

    @property
    def keys(self) -> int:
        return self.u.shape[-1]

    @property
    def values(self) -> int:
        return self.v.shape[-1]

    @property
    def keyed(self) -> bool:
        """Whether every key has a decay of its own."""
        if self.found is not None:
            return self.found.total is not None
        return self.g is not None and self.g.ndim == 6

    @property
    def first(self) -> bool:
        """Whether only the first row of a time step has a decay."""
        return self.g is not None and self.g.shape[2] < self.u.shape[2]

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        return self.total, self.u.shape[3], self.u.shape[4], self.values

    def row_bounds(self) -> Tensor:
        """Bounds in rows; any tensor where nothing is packed."""
        return self.s if self.bounds is None else self.bounds * self.u.shape[2]

    def table(self) -> Tensor:
        return self.s if self.bounds is None else chunk_table(self.row_bounds(), self.chunk, self.chunks)

    def constants(self, kernel: str) -> dict[str, Any]:
        found = LAUNCH | constants_of(
            kernel,
            self.keys,
            self.values,
            self.u.dtype,
            rows=self.u.shape[2],
            shared=self.shared,
            gate=self.g is not None,
            keyed=self.keyed,
            scored=self.found is not None,
            first=self.first,
            tied=self.b is None,
            old=self.old,
            packed=self.bounds is not None,
            base=self.base,
            machine=machine(),
        )
        if self.way is not None and kernel == self.chain:
            found |= {"BV": self.way.columns, "STAGES": self.way.stages, "num_warps": self.way.warps}
        for name, of in self.blocks:
            if name == kernel:
                own = {"BK": of.keys, "BV": of.values, "STAGES": of.stages, "num_warps": of.warps}
                found |= {n: x for n, x in own.items() if n in found}
        return found

    def numbers(self, kernel: str) -> list[Tensor]:
        """Buffers for the gradients of s, c and g that `kernel` writes once for every block of keys."""
        blocks = triton.cdiv(self.keys, self.constants(kernel)["BK"])
        return [self.empty(blocks, *self.s.shape, dtype=self.accumulator) for _ in "scg"]

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

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return empty(shape, self.u, dtype or self.u.dtype)

    @property
    def accumulator(self) -> torch.dtype:
        return torch.float64 if self.u.dtype == torch.float64 else torch.float32

    # ------------------------------------------------------------ launches

    def prepared(self, *, system: bool) -> Problem:
        """The problem with what is found of its chunks beforehand; `system`: M too, if it is."""
        if self.keyed:
            return self._decayed(system=system)
        return self._scored() if self.way is not None and self.way.scored else self

    def _scored(self) -> Problem:
        found = Scores(self.empty(self.chunks, self.heads, self.chunk, self.chunk))
        low_rank_scores[self.chunks * self.heads,](
            *self.given("q", "u", "g"),
            self.table(),
            found.scores,
            *self.sizes[:3],
            **self.constants("low_rank_scores"),
        )
        return self._replace(found=found)

    def _decayed(self, *, system: bool) -> Problem:
        """The problem whose rows are decayed to the ends of their chunks."""
        square = (self.chunks, self.heads, self.chunk, self.chunk)
        found = Scores(
            self.empty(*square),
            self.empty(*(square if system else (0,)), dtype=self.accumulator),
            self.empty(self.chunks, self.heads, self.keys, dtype=self.accumulator),
        )
        q, b, u = self.empty(*self.q.shape), self.empty(*self.u.shape), self.empty(*self.u.shape)
        for reads in (True, False):  # the scores of both at once are more than registers hold
            low_rank_pairs[self.chunks * self.heads,](
                *self.given("q", "u", "b", "s", "c", "g"),
                self.table(),
                found.system,
                found.scores,
                q,
                b,
                u,
                found.total,
                *self.sizes[:3],
                SYSTEM=system,
                READS=reads,
                **self.constants("low_rank_pairs"),
            )
        return self._replace(q=q, u=u, b=b, g=None, found=found)

    def scores(self) -> tuple[Tensor, Tensor]:
        """P and the sums of log decays; what is absent is not read."""
        found = self.found or Scores(self.s)
        return found.scores, self.s if found.total is None else found.total

    def inverses(self) -> Tensor:
        """[chunks, heads, C, C]."""
        inverse = self.empty(self.chunks, self.heads, self.chunk, self.chunk)
        low_rank_inverse[self.chunks * self.heads,](
            *self.given("u", "b", "s", "c", "g"),
            self.table(),
            self.s if self.found is None or self.found.system is None else self.found.system,
            inverse,
            *self.sizes[:3],
            **self.constants("low_rank_inverse"),
        )
        return inverse

    def walk(self, inverse: Tensor, start: Tensor, o: Tensor | None, *, keep: bool) -> tuple[Tensor, Kept]:
        """The last states; what is kept, if anything is."""
        last = self.empty(*start.shape, dtype=start.dtype)
        kept = self.empty(*((self.chunks, self.heads, self.keys, self.values) if keep else (0,)))
        w = self.empty(*(self.v.shape if keep else (0,)))
        constants = self.constants("low_rank_walk")
        low_rank_walk[self.batch * self.heads * triton.cdiv(self.values, constants["BV"]),](
            *self.given("q", "u", "b", "v", "s", "c", "g"),
            self.row_bounds(),
            inverse,
            *self.scores(),
            start.contiguous(),
            last,
            kept,
            w,
            self.u if o is None else o,
            *self.sizes,
            OUTPUTS=o is not None,
            KEEP=keep,
            **constants,
        )
        return last, Kept(kept, w)

    def outputs(self, kept: Kept, o: Tensor) -> None:
        low_rank_outputs[self.chunks * self.heads,](
            *self.given("q", "u", "s", "g"),
            self.table(),
            self.scores()[0],
            *kept,
            o,
            *self.sizes,
            **self.constants("low_rank_outputs"),
        )

    def walk_back(self, inverse: Tensor, d_o: Tensor, d_last: Tensor, d_v: Tensor, d_start: Tensor) -> Tensor:
        """The gradients of the states behind all chunks."""
        behind = self.empty(self.chunks, self.heads, self.keys, self.values)
        constants = self.constants("low_rank_walk_back")
        low_rank_walk_back[self.batch * self.heads * triton.cdiv(self.values, constants["BV"]),](
            *self.given("q", "u", "b", "s", "c", "g"),
            self.row_bounds(),
            inverse,
            *self.scores(),
            d_o,
            d_last.contiguous(),
            behind,
            d_v,
            d_start,
            *self.sizes,
            **constants,
        )
        return behind

    def gradients(self, kept: Kept, behind: Tensor, d_o: Tensor, d_v: Tensor, found: tuple[Tensor, ...]) -> None:
        """Of q, u, b, s, c and g."""
        if self.keyed:
            self._keyed_gradients(kept, behind, d_o, d_v, found)
            return
        constants, parts = self.constants("low_rank_backward"), self.numbers("low_rank_backward")
        low_rank_backward[self.chunks * self.heads * triton.cdiv(self.keys, constants["BK"]),](
            *self.given("q", "u", "b", "s", "c", "g"),
            self.table(),
            kept.states,
            behind,
            kept.w,
            d_v,
            d_o,
            *found[:3],
            *parts,
            self.s.numel(),
            *self.sizes,
            **constants,
        )
        for whole, part in zip(found[3:], parts, strict=True):
            if whole.numel():
                torch.sum(part, 0, out=whole)

    def _keyed_gradients(self, kept: Kept, behind: Tensor, d_o: Tensor, d_v: Tensor, found: tuple[Tensor, ...]) -> None:
        """Where every key has a decay: what goes over the values first, then what goes over the chunk's rows."""
        square = (self.chunks, self.heads, self.chunk, self.chunk)
        d_scores, d_system = self.empty(*square), self.empty(*square)
        ended = [self.empty(*x.shape, dtype=self.accumulator) for x in (self.q, self.u, self.u)]
        through = self.empty(self.chunks, self.heads, self.keys, dtype=self.accumulator)
        products = (d_scores, d_system, *ended, through)
        constants = self.constants("low_rank_products")
        low_rank_products[self.chunks * self.heads * triton.cdiv(self.keys, constants["BK"]),](
            self.table(), kept.states, behind, kept.w, d_v, d_o, *products, *self.sizes, **constants
        )
        d_q, d_u, d_b, d_s, d_c, d_g = found
        ends, programs = (ended[0], ended[2], through), self.chunks * self.heads
        constants = self.constants("low_rank_keyed_reads")
        low_rank_keyed_reads[programs * triton.cdiv(self.keys, constants["BK"]),](
            *self.given("q", "u", "s", "g"), self.table(), d_scores, *ends, d_q, *self.sizes[:3], **constants
        )
        constants, parts = self.constants("low_rank_keyed_rows"), self.numbers("low_rank_keyed_rows")[:2]
        low_rank_keyed_rows[programs * triton.cdiv(self.keys, constants["BK"]),](
            *self.given("q", "u", "b", "s", "c", "g"),
            self.table(),
            d_system,
            *ended,
            through,
            d_u,
            d_b,
            *parts,
            d_g,
            self.s.numel(),
            *self.sizes[:3],
            **constants,
        )
        torch.sum(parts[0], 0, out=d_s)
        torch.sum(parts[1], 0, out=d_c)


def problem(
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
    base: int,
) -> Problem:
    """The problem of these arguments; copies of those whose offsets within a chunk 32 bits do not hold."""

    def rows(x: Tensor) -> Tensor:
        return near(x, chunk_of(u.dtype), rows=True)

    given = near(q, chunk_of(u.dtype)), rows(u), None if b is None else rows(b), rows(v), rows(s), rows(c)
    return Problem(*given, None if g is None else rows(g), bounds, shared, old, base)

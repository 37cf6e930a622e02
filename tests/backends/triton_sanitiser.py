"""What Triton's interpreter hides of a GPU, looked for in every launch: places out of bounds, and races.

The interpreter runs one program after another, and every operation for all entries of a tile at once.  On a GPU
programs run in any order, and the threads of one wait for each other at barriers only; memory outside of the arrays is
somebody else's.  So of every launch each place that is read or written is written down, and

- it has to lie inside one of the tensors that the launch was given,
- what one program writes no other may read or write,
- what one program writes it may read or write again behind a barrier only (`tl.debug_barrier`), and what it reads it
  may write behind one: which thread does either is the compiler's affair.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

__all__ = ["watch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The places that one operation of a program touches; `phase` counts barriers."""

    program: int
    phase: int
    stores: bool
    places: Any  # [n] addresses, of entries of `size` bytes
    size: int


@dataclass(slots=True, kw_only=True)
class Launch:
    """What a launch did, and the stretches of memory it was given."""

    kernel: str
    given: list[tuple[int, int]]
    accesses: list[Access] = field(default_factory=list)
    program: int = 0
    phase: int = 0

    def note(self, ptrs: Any, mask: Any, stores: bool) -> None:
        places = ptrs.data[np.broadcast_to(mask.data.astype(bool), ptrs.data.shape)].astype(np.int64)
        size = max(1, ptrs.get_element_ty().primitive_bitwidth // 8)
        self.accesses.append(Access(program=self.program, phase=self.phase, stores=stores, places=places, size=size))

    def check(self) -> None:
        self._inside()
        told = [a for a in self.accesses if a.places.size]
        if not any(a.stores for a in told):
            return
        place = np.concatenate([a.places for a in told])
        counts = [a.places.size for a in told]
        program = np.repeat([a.program for a in told], counts)
        phase = np.repeat([a.phase for a in told], counts)
        stores = np.repeat([a.stores for a in told], counts)
        number = np.repeat(np.arange(len(told)), counts)
        written = np.unique(place[stores])
        near = np.isin(place, written)
        place, program, phase, stores, number = (x[near] for x in (place, program, phase, stores, number))
        order = np.lexsort((number, place))
        place, program, phase, stores, number = (x[order] for x in (place, program, phase, stores, number))
        same = place[1:] == place[:-1]
        first = np.concatenate([[0], np.flatnonzero(~same) + 1]) if place.size else np.zeros(0, int)
        least, most = np.minimum.reduceat(program, first), np.maximum.reduceat(program, first)
        assert (least == most).all(), f"{self.kernel}: programs meet at {(least != most).sum()} places"
        clash = same & (phase[1:] == phase[:-1]) & (stores[1:] | stores[:-1]) & (number[1:] != number[:-1])
        assert not clash.any(), f"{self.kernel}: threads of a program meet at {clash.sum()} places without a barrier"

    def _inside(self) -> None:
        begin, end = (np.array(x, dtype=np.int64) for x in zip(*sorted(self.given), strict=True))
        most = np.maximum.accumulate(end)
        for a in self.accesses:
            if a.places.size:
                at = np.searchsorted(begin, a.places, side="right") - 1
                outside = (at < 0) | (a.places + a.size > most[at])
                kind = "writes" if a.stores else "reads"
                assert not outside.any(), f"{self.kernel} {kind} {outside.sum()} places outside of its tensors"


def stretches(arguments: Sequence[Any]) -> list[tuple[int, int]]:
    """First and last byte of the entries of each tensor."""
    found = []
    for x in arguments:
        if isinstance(x, torch.Tensor) and x.numel():
            last = sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
            found.append((x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()))
    return found or [(0, 0)]


def watch() -> None:
    """From now on every launch in this process is watched: an AssertionError names what a GPU would not forgive."""
    from triton.runtime import interpreter

    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    now: list[Launch] = []
    load, store, barrier = builder.create_masked_load, builder.create_masked_store, builder.create_barrier
    place, run = builder.set_grid_idx, executor.__call__

    @functools.wraps(load)
    def loaded(self: Any, ptrs: Any, mask: Any, *rest: Any) -> Any:
        now[-1].note(ptrs, mask, False)
        return load(self, ptrs, mask, *rest)

    @functools.wraps(store)
    def stored(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
        now[-1].note(ptrs, mask, True)
        return store(self, ptrs, value, mask, *rest)

    @functools.wraps(barrier)
    def waited(self: Any) -> None:
        now[-1].phase += 1

    @functools.wraps(place)
    def placed(self: Any, x: int, y: int, z: int) -> None:
        now[-1].program, now[-1].phase = (z * 65536 + y) * (1 << 31) + x, 0
        place(self, x, y, z)

    @functools.wraps(run)
    def launched(self: Any, *arguments: Any, **options: Any) -> None:
        now.append(Launch(kernel=self.fn.__name__, given=stretches([*arguments, *options.values()])))
        try:
            run(self, *arguments, **options)
            now[-1].check()
        finally:
            now.pop()

    builder.create_masked_load, builder.create_masked_store = loaded, stored
    builder.create_barrier, builder.set_grid_idx, executor.__call__ = waited, placed, launched

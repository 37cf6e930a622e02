"""Where the arrays of a call of a C kernel lie in memory: worked out once for tensors of one layout.

Nothing here looks at values or allocates: a `Frame` is made from shapes and strides, and each later call with the same
ones only allocates what the kernel writes and collects the pointers.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from rnnc.runtime._compat import empty_cpu

__all__ = ["HALF", "Frame", "Fresh", "Operand", "contiguous_strides"]


HALF = {torch.bfloat16: 1, torch.float16: 2}  # narrow types, as C sources number them
HUGE = 4 << 20  # bytes from which on memory is taken in large pages
PAGE = 4096
MADV_HUGEPAGE = 14


@dataclass(frozen=True, slots=True)
class Operand:
    """An array of a kernel: for each axis behind batch and time its label, None where its size is 1.

    `static`: without batch and time.  `parts`: labels along which the kernel gives parts that are added up here.
    `narrow`: of half precision where a call is.
    """

    axes: tuple[int | None, ...]
    static: bool = False
    complex: bool = False
    parts: tuple[int, ...] = ()
    narrow: bool = False


@dataclass(frozen=True, slots=True)
class Fresh:
    """Memory for something that a kernel writes: sizes, strides and dtype.

    `zero`: the kernel adds to what is there.  `used`: how much of the last axis counts, where the kernel writes more.
    `beside`: the fresh memory (its place) that this is a part of, and where in the last axis it begins.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    zero: bool = False
    used: int | None = None
    beside: tuple[int, int] | None = None

    def make(self, before: Sequence[Tensor]) -> Tensor:
        """The memory; `before` is what has been made of the same frame."""
        if self.beside is not None:
            whole, at = before[self.beside[0]], self.beside[1]
            return whole.as_strided(self.size, self.stride, whole.storage_offset() + at)
        x = empty_cpu(self.size, self.stride, self.dtype)
        if x.nbytes >= HUGE:
            large_pages(x)
        if self.used is not None:
            x = x[..., : self.used]
        return x.zero_() if self.zero else x


@cache
def _madvise() -> Callable[[int, int], object] | None:
    """Asks for large pages for an address and a length; None where the system has no such thing."""
    if sys.platform != "linux":
        return None
    function = getattr(ctypes.CDLL(None), "madvise", None)
    if function is None:
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return lambda address, length: function(address, length, MADV_HUGEPAGE)


def large_pages(x: Tensor) -> None:
    """Memory that is new costs a page fault for each page at its first use: ask for pages of 2 MiB (a hint only)."""
    advise = _madvise()
    if advise is not None:
        start = -(-x.data_ptr() // PAGE) * PAGE
        advise(start, (x.data_ptr() + x.nbytes - start) // PAGE * PAGE)


def contiguous_strides(size: Sequence[int], last: int | None = None) -> tuple[int, ...]:
    """Strides of memory without gaps whose axis `last` (None: the last one) runs fastest, the others in order."""
    order = [k for k in range(len(size)) if k != last] + ([] if last is None else [last])
    strides, at = [0] * len(size), 1
    for k in reversed(order):
        strides[k] = at
        at *= max(size[k], 1)
    return tuple(strides)


def without_gaps(shape: Sequence[int], stride: Sequence[int], front: int) -> bool:
    """Whether the axes from `front` on lie in memory one behind the other."""
    wanted = 1
    for n, s in zip(reversed(shape[front:]), reversed(stride[front:])):
        if n != 1 and s != wanted:
            return False
        wanted *= n
    return True


@dataclass(slots=True, kw_only=True)
class Frame:
    """The arrays of one C function in the order in which it takes them, with all their strides.

    `dtype` is the real type of the kernel, `narrow` that of narrow arrays, `vector` the label along vector lanes: that
    axis has to be contiguous.  With `dense` all axes behind batch, time and that many more are.  An array is given by
    the caller, or fresh.  For a single step (`single`) sequences come without the axis of time.
    """

    dtype: torch.dtype
    narrow: torch.dtype
    vector: int | None
    dense: int | None = None
    single: bool = False
    fresh: list[Fresh] = field(default_factory=list)
    turned: dict[int, int] = field(default_factory=dict)  # places of given arrays to copy, with the axis to put last
    strides: list[int] = field(default_factory=list)
    given: int = 0
    order: list[int] = field(default_factory=list)  # place among the given ones, or -1 - place among the fresh ones

    def give(self, shape: Sequence[int], stride: Sequence[int], o: Operand, lead: int) -> None:
        """A tensor to read, [*lead, *axes]: it will be copied where the vector axis is not contiguous."""
        at = self._vector_axis(o, self._lead(lead))
        gaps = at is not None and stride[at] != 1 and shape[at] > 1
        if self.dense is not None and not without_gaps(shape, stride, self._lead(lead) + self.dense):
            at, gaps = len(shape) - 1, True
        if gaps and at is not None:
            self.turned[self.given] = at
            stride = contiguous_strides(shape, at)
        self.order.append(self.given)
        self.given += 1
        self._put(stride, o, lead, 0)

    def take(self, shape: Sequence[int], o: Operand, lead: int, parts: Sequence[int] = (), zero: bool = False) -> None:
        """A tensor to write, [*parts, *lead, *axes]; `shape` is without the parts."""
        size = (*parts, *shape)
        at = self._vector_axis(o, len(parts) + self._lead(lead))
        stride = contiguous_strides(size, at)
        dtype = self.narrow if o.narrow else self.dtype
        dtype = torch.promote_types(dtype, torch.complex64) if o.complex else dtype
        self.add_fresh(Fresh(size, stride, dtype, zero))
        self._put(stride, o, lead, len(parts))

    def take_together(self, shape: Sequence[int], operands: Sequence[Operand]) -> None:
        """Sequences to write, side by side in one piece of memory [*shape, all of their last axes]."""
        *front, n = shape
        stride = contiguous_strides((*front, n * len(operands)))
        first = len(self.fresh)
        for k, o in enumerate(operands):
            size = (*front, n * len(operands) if k == 0 else n)
            beside = (first, k * n) if k else None
            self.add_fresh(Fresh(size, stride, self.dtype, used=None if k else n, beside=beside))
            self._put(stride, o, 2, 0)

    def rows(self, batch: int, steps: int, axes: Sequence[int], o: Operand, every: bool) -> None:
        """Whole vectors [batch, steps, *axes], written up to the next 64; memory of one step only unless `every`."""
        *front, n = axes
        size = (batch, steps if every else 1, *front, n + (-n % 64))
        stride = contiguous_strides(size)
        self.add_fresh(Fresh(size, stride, self.dtype, used=n))
        self._put(stride if every else (stride[0], 0, *stride[2:]), o, 2, 0, whole=True)

    def add_fresh(self, fresh: Fresh) -> None:
        self.order.append(-1 - len(self.fresh))
        self.fresh.append(fresh)

    def panels(self, stride: Sequence[int]) -> None:
        """A learned matrix as [*outer, panels, rows, columns], given by the caller."""
        self.order.append(self.given)
        self.given += 1
        self.strides += stride[:-3]

    def _lead(self, lead: int) -> int:
        return lead - 1 if lead == 2 and self.single else lead

    def _vector_axis(self, o: Operand, lead: int) -> int | None:
        return lead + o.axes.index(self.vector) if self.vector is not None and self.vector in o.axes else None

    def _put(self, stride: Sequence[int], o: Operand, lead: int, parts: int, whole: bool = False) -> None:
        """The strides that the kernel reads: batch, time, labelled axes, parts; of numbers, two to a complex one."""
        if lead == 2 and self.single and not whole:
            stride = (*stride[: parts + 1], 0, *stride[parts + 1 :])
        used = [*stride[parts : parts + lead]]
        used += [s for s, a in zip(stride[parts + lead :], o.axes, strict=True) if a is not None]
        used += stride[:parts]
        self.strides += [2 * s if o.complex else s for s in used]

    def stride_array(self) -> ctypes.Array[ctypes.c_int64]:
        return (ctypes.c_int64 * max(1, len(self.strides)))(*self.strides)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arranged:
    """A frame that is complete, as calls use it."""

    fresh: tuple[Fresh, ...]
    turned: tuple[tuple[int, int], ...]
    order: tuple[int, ...] | None  # None: the given arrays, then the fresh ones
    strides: ctypes.Array[ctypes.c_int64]
    pointers: type[ctypes.Array[ctypes.c_void_p]]

    @staticmethod
    def of(frame: Frame) -> Arranged:
        n, count = frame.given, len(frame.order)
        order = tuple(k if k >= 0 else n - 1 - k for k in frame.order)
        return Arranged(
            fresh=tuple(frame.fresh),
            turned=tuple(frame.turned.items()),
            order=None if order == tuple(range(count)) else order,
            strides=frame.stride_array(),
            pointers=ctypes.c_void_p * count,
        )

    def arrays(self, given: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """All arrays, given ones first (they have to live until the call is over), and the fresh ones alone."""
        whole = [*given]
        for place, axis in self.turned:
            whole[place] = whole[place].movedim(axis, -1).contiguous().movedim(-1, axis)
        fresh: list[Tensor] = []
        for f in self.fresh:
            fresh.append(f.make(fresh))
        return whole + fresh, fresh

    def addresses(self, arrays: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
        places = arrays if self.order is None else [arrays[k] for k in self.order]
        return self.pointers(*[x.data_ptr() for x in places])

"""From a value's axes to those of a kernel, `[b, t, g, d, n, ...]`, and back; all by views where strides allow it.

A descriptor such as "btAB*" names the axes of an array in memory order: `b` batch, `t` time, a capital a label, `1` an
axis of size 1; the star says that its entries are complex.  A kernel's `Axes` say which labels make up its axis d
(`tile`, side by side), its axis g (`grid`) and its inner axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

__all__ = ["Axes", "arranged", "label_sizes", "near", "near_inside", "restored"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """The labels of a kernel's axes.  `single`: d has one entry, of no label, and all arrays have it."""

    tile: str = ""
    single: bool = False
    grid: str = ""
    inner: str = ""

    def held(self, descriptor: str) -> str:
        """The kernel's axes of an array: "b", "t", "g" (of every array, where there is one), "d", and inner labels."""
        own = labels_of(descriptor)
        front = lead_of(descriptor) + ("g" if self.grid else "")
        tile = "d" if self.single or (self.tile and self.tile[0] in own) else ""
        return front + tile + "".join(x for x in self.inner if x in own)

    def in_parts(self, descriptor: str) -> bool:
        """Whether an array's gradient is written in parts, one a block of channels."""
        return bool(self.tile) and "d" not in self.held(descriptor)

    def size(self, axis: str, sizes: Mapping[str, int]) -> int:
        """Of one axis that `held` names, b and t left out."""
        labels = {"g": self.grid, "d": self.tile}.get(axis, axis)
        return prod(sizes[x] for x in labels)


def lead_of(descriptor: str) -> str:
    return "".join(x for x in descriptor if x in "bt")


def labels_of(descriptor: str) -> str:
    return "".join(x for x in descriptor if x.isupper())


def is_complex(descriptor: str) -> bool:
    return descriptor.endswith("*")


def label_sizes(descriptor: str, x: Tensor) -> dict[str, int]:
    """The sizes of the labels of an array, from a tensor that has all its axes."""
    return {a: n for a, n in zip(descriptor.rstrip("*"), x.shape, strict=True) if a.isupper()}


def arranged(x: Tensor, descriptor: str, axes: Axes, sizes: Mapping[str, int]) -> Tensor:
    """A tensor with the axes `axes.held(descriptor)`, and a last one of size 2 for complex entries."""
    names = [a for a in descriptor.rstrip("*") if a != "1"]
    for dim in reversed([k for k, a in enumerate(descriptor.rstrip("*")) if a == "1"]):
        x = x.squeeze(dim)
    lead = lead_of(descriptor)
    for label in axes.grid:
        if label not in names:
            names.insert(len(lead), label)
            x = x.unsqueeze(len(lead))
    order = [*lead, *axes.grid, *(a for a in axes.tile + axes.inner if a in names)]
    x = x.permute([names.index(a) for a in order])
    x = x.expand([n if a in lead else sizes[a] for a, n in zip(order, x.shape, strict=True)])
    if len(axes.tile) > 1 and axes.tile[0] in names:
        at = len(lead) + len(axes.grid)
        x = x.flatten(at, at + len(axes.tile) - 1)
    if len(axes.grid) > 1:
        x = x.flatten(len(lead), len(lead) + len(axes.grid) - 1)
    if axes.single:
        x = x.unsqueeze(len(lead) + (1 if axes.grid else 0))
    if is_complex(descriptor):
        x = torch.view_as_real((x if x.is_complex() else torch.complex(x, torch.zeros_like(x))).resolve_conj())
    return x


def near(x: Tensor, steps: int, *, rows: bool = False) -> Tensor:
    """A copy where 32 bits do not do for offsets along time (axis 1, so many steps), the last axis and, `rows`, axis 2.

    Kernels of chunks count in 64 bits to the first entry of a chunk and a head, and in 32 from there on.
    """
    reach = steps * abs(x.stride(1)) + x.shape[-1] * abs(x.stride(-1))
    if rows:
        reach += x.shape[2] * abs(x.stride(2))
    return x.contiguous() if reach >= 1 << 31 else x


def near_inside(x: Tensor, axes: int) -> Tensor:
    """A copy where 32 bits do not do for offsets along so many last axes: kernels count in 64 along all others."""
    last = range(x.ndim - axes, x.ndim)
    return x.contiguous() if sum((x.shape[k] - 1) * abs(x.stride(k)) for k in last) >= 1 << 31 else x


def restored(x: Tensor, descriptor: str, axes: Axes, sizes: Mapping[str, int]) -> Tensor:
    """The inverse of `arranged` for an array that has every label it needs."""
    if is_complex(descriptor):
        x = torch.view_as_complex(x)
    lead, own = lead_of(descriptor), labels_of(descriptor)
    shape = list(x.shape[: len(lead)])
    names = [*lead, *axes.grid, *(a for a in axes.tile + axes.inner if a in own)]
    x = x.reshape([*shape, *(sizes[a] for a in names[len(lead) :])])
    for label in axes.grid:
        if label not in own:  # the same for all: any of them
            x = x.select(names.index(label), 0)
            names.remove(label)
    x = x.permute([names.index(a) for a in descriptor.rstrip("*") if a != "1"])
    for dim in [k for k, a in enumerate(descriptor.rstrip("*")) if a == "1"]:
        x = x.unsqueeze(dim)
    return x

"""What is wanted of the values of nodes: arrays `[context, *per, *shape]` of numbers, None where any will do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from rnnc.ir.graph import Node
from rnnc.ir.ops.table import Site
from rnnc.verify.witness.numbers import Number, size

Array: TypeAlias = Any  # np.ndarray of objects
Option: TypeAlias = "list[Array | None]"  # what is wanted of each argument

VIEWS = frozenset(
    {"lift", "merge", "split_per", "expand", "broadcast", "reshape", "transpose", "slice", "concat", "layout"}
)


class Conflict(Exception):
    """Two values are wanted of one entry, or one outside what an operation can give."""


@dataclass(frozen=True, slots=True)
class Want:
    """What a rule knows: the node, its site, what is wanted of it, and what its arguments are already known to be."""

    node: Node
    site: Site
    target: Array
    known: tuple[Array, ...]
    shapes: tuple[tuple[int, ...], ...]  # of the arguments, without the context axis
    zero: tuple[bool, ...] = ()  # arguments that nobody knows (or multiples of such): zero is all they can be made
    twin: Array | None = None  # of a sine or cosine: what is wanted of the other of the same angle
    hint: Array | None = None  # per entry: how far in a saturated (or rectified) range, see `nonlinear`

    def entries(self) -> list[tuple[int, ...]]:
        """Where something is wanted."""
        return list(zip(*np.nonzero(self.target != None), strict=True))  # noqa: E711 - elementwise

    def follows(self) -> Array:
        """Of each unit: 1 where it is high exactly if both conditions hold, -1 where it is low exactly then, else 0.

        Only the thresholds of such units are sums of conditions.
        """
        assert self.hint is not None
        out = np.zeros(self.target.shape[1:], dtype=int)
        for unit in np.ndindex(*out.shape):
            column, hints = self.target[(slice(None), *unit)], self.hint[(slice(None), *unit)]
            wanted = [(size(t), h == 2) for t, h in zip(column, hints, strict=True) if t is not None]
            sizes = {t for t, _ in wanted}
            if len(sizes) > 1:
                above = all((t == max(sizes)) == both for t, both in wanted)
                out[unit] = 1 if above else -int(all((t == min(sizes)) == both for t, both in wanted))
        return out


def empty(shape: tuple[int, ...]) -> Array:
    return np.full(shape, None, dtype=object)


def put(array: Array, at: Any, value: Number) -> None:
    """Wants one more entry; raises Conflict."""
    have = array[at]
    if have is not None and have != value:
        raise Conflict
    array[at] = value


def join(a: Array | None, b: Array) -> Array:
    """Both wants at once."""
    if a is None:
        return b
    out = a.copy()
    for at in zip(*np.nonzero(b != None), strict=True):  # noqa: E711 - elementwise
        put(out, at, b[at])
    return out


def broadcast_index(at: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Where an operand of core `shape` (right-aligned behind the context axis) is read for an entry of the result."""
    missing = len(at) - 1 - len(shape)
    return (at[0], *(0 if n == 1 else i for i, n in zip(at[1 + missing :], shape, strict=True)))


def unbroadcast(full: Array, shape: tuple[int, ...]) -> Array:
    """What is wanted of an operand of core `shape` that was broadcast to `full`'s."""
    out = empty((full.shape[0], *shape))
    for at in zip(*np.nonzero(full != None), strict=True):  # noqa: E711 - elementwise
        put(out, broadcast_index(at, shape), full[at])
    return out


def aligned(k: Array, rank: int) -> Array:
    """An argument's array with its core axes right-aligned behind the context axis."""
    return k.reshape((k.shape[0],) + (1,) * (rank - k.ndim) + k.shape[1:])

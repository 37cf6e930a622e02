"""Where the axes of a kernel go: vector lanes, tasks for threads, or loops inside a step."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from rnnc.backends.kernels.axes import Axis, Label
from rnnc.backends.kernels.program import Array, Program


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """`vector` runs along vector lanes, in blocks that are tasks of their own; each index of the `outer` labels is a
    task, too; the `serial` ones are loops inside a step, in this order.
    """

    vector: Label | None
    outer: tuple[Label, ...]
    serial: tuple[Label, ...]

    def in_lanes(self, axes: Collection[Axis]) -> bool:
        """Whether what has these axes (None: one of size 1) runs along the vector lanes; a kernel may have none."""
        return self.vector is not None and self.vector in axes


def choose_layout(forward: Program, backward: Program) -> Layout:
    """A layout for both programs: vectors along what arrays have as their last axis and no output is summed over.

    An outer label is one that every sequence carries; those that miss one would be read, and their gradients summed,
    once an index.
    """
    free = forward.parallel & backward.parallel
    sequences = [x for x in (*forward.inputs, *forward.outputs) if not x.static]
    summed = {x for r in forward.results for x in r.over}

    def suits(label: Label) -> tuple[bool, int, int]:
        last = sum(1 if _last(a) == label else -1 for a in sequences if label in a.axes)
        place = max(list(s.axes).index(label) for s in forward.states)
        return label not in summed, last, place

    vector = max(free, key=suits) if free else None
    outer = [x for x in free if x != vector and all(x in a.axes for a in sequences) and x not in summed]
    order = range(len(forward.sizes))
    return Layout(
        vector=vector,
        outer=tuple(x for x in order if x in outer),
        serial=tuple(x for x in order if x != vector and x not in outer),
    )


def _last(a: Array) -> Label | None:
    real = [x for x in a.axes if x is not None]
    return real[-1] if real else None

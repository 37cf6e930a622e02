"""Programs whose vector lanes are segments of time (and channels side by side): what Newton's method runs.

A segment walks through time like a sequence of its own.  So everything of a step differs from lane to lane, also what
all channels or all steps share, and every array has the label of the lanes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from rnnc.backends.cpu.kernel import Kernel
from rnnc.backends.cpu.layout import Layout
from rnnc.backends.kernels.axes import Axis, Label
from rnnc.backends.kernels.program import Array, Program, Result, Value, ValueId
from rnnc.ir.dims import ONE

__all__ = ["LaneKernel", "in_lanes", "lane_label"]


def lane_label(program: Program, folded: Label | None) -> Label:
    """The label of the lanes: that of the channels which stand side by side in them, else a new one."""
    return len(program.sizes) if folded is None else folded


def in_lanes(program: Program, folded: Label | None) -> Program:
    """The program with lanes along segments of time, `folded` being the label of channels beside each other.

    Requires: nothing is summed over `folded` but for gradients of static inputs, which then have one number a lane.
    before: h [K, V], gate [K], V folded      -->  after: h [K, lane], gate [K, lane]
    """
    lane = lane_label(program, folded)
    static = [a.static for a in program.inputs]

    def spread(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return axes if lane in axes else (*axes, lane)

    def array(a: Array) -> Array:
        return replace(a, axes=spread(a.axes))

    def result(r: Result) -> Result:
        held = r.target == "d_input" and static[r.index]
        assert held or folded is None or folded not in r.over, "a sum over channels that are lanes"
        return replace(r, axes=spread(r.axes), over=tuple(x for x in r.over if x != folded))

    values: list[Value] = []
    for v in program.values:
        load = None if v.load is None else replace(v.load, axes=spread(v.load.axes))
        values.append(replace(v, load=load, labels=_labels(load.axes if load else None, v, values)))
    return replace(
        program,
        values=tuple(values),
        results=tuple(result(r) for r in program.results),
        sizes=program.sizes if folded is not None else (*program.sizes, ONE),
        inputs=tuple(map(array, program.inputs)),
        outputs=tuple(map(array, program.outputs)),
        states=tuple(map(array, program.states)),
    )


def _labels(axes: Iterable[Axis] | None, v: Value, values: list[Value]) -> tuple[Label, ...]:
    args: Iterable[ValueId] = v.args
    found = {x for x in axes if x is not None} if axes is not None else {x for a in args for x in values[a].labels}
    return tuple(sorted(found - set(v.over)))


@dataclass(frozen=True, kw_only=True)
class LaneKernel(Kernel):
    """A kernel of which one program is given and runs in lanes; its arrays are copies [step, ..., lanes] of windows."""

    program: Program
    lane: Label

    @property
    def forward(self) -> Program:
        return self.program

    @property
    def layout(self) -> Layout:
        serial = tuple(x for x in range(len(self.program.sizes)) if x != self.lane)
        return Layout(vector=self.lane, outer=(), serial=serial)

    @property
    def narrow(self) -> frozenset[str]:
        return frozenset()

"""Groups that Newton's method runs in C: which they are, and the programs and arrays of their kernels.

A kernel has two frames, for the solver in `rnnc/runtime/newton.h`: `walk` (the step with its derivative, and the states
alone) and `pull` (the same with the gradients that outputs send back, and the adjoint step).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from rnnc.analysis.forms import Group
from rnnc.backends.cpu.kernel import CArray, Kernel
from rnnc.backends.cpu.lanes import LaneKernel, in_lanes, lane_label
from rnnc.backends.kernels.axes import Label
from rnnc.backends.kernels.program import Program, forward
from rnnc.backends.kernels.region import Region, find_region
from rnnc.backends.kernels.tangent import pulled, walked
from rnnc.ir.graph import CellIR, NodeId
from rnnc.ir.linearise import Structure, structure_of

__all__ = ["NewtonKernel", "find_newton", "has_kernel"]


def has_kernel(cell: CellIR, group: Group) -> bool:
    """Whether Newton's method runs a group of a cell in C."""
    return find_newton("", cell, group) is not None


def find_newton(
    name: str, cell: CellIR, group: Group, later: Iterable[str] = (), read: Iterable[NodeId] = ()
) -> NewtonKernel | None:
    """The kernel of a group whose slopes are proved to be numbers or blocks at every position; None where they are not,
    or where the step is no pointwise one of real states and outputs (`later`, `read`: as in `find_region`).
    """
    structure = structure_of(cell, group.states)
    if not isinstance(structure, Structure) or structure.pattern == "dense":
        return None
    region = find_region(cell, group, tuple(later), tuple(read))
    if region is None:
        return None
    kernel = NewtonKernel(name=name, region=region)
    states, p = kernel.forward.states, kernel.forward
    alike = all(s.dtype == "real" and s.axes == states[0].axes for s in states)
    real = all(a.dtype == "real" for a in p.outputs) and all(a.dtype != "complex" for a in p.inputs)
    return kernel if alike and real else None


@dataclass(frozen=True, kw_only=True)
class NewtonKernel(Kernel):
    """The arrays of its calls are those of the kernel that steps, but for states and outputs kept for the backward."""

    @cached_property
    def folded(self) -> Label | None:
        """The label whose channels stand beside each other in lanes: one that every sequence carries."""
        label = self.layout.vector
        summed = {
            x
            for p in (self.forward, self.backward)
            for r in p.results
            if not (r.target == "d_input" and p.inputs[r.index].static)
            for x in r.over
        }
        carried = all(label in a.axes for a in (*self.forward.outputs, *self.forward.states))
        return label if label is not None and carried and label not in summed else None

    @cached_property
    def walk(self) -> LaneKernel:
        return self._lanes("walk", forward(walked(self.region)))

    @cached_property
    def _pulled(self) -> tuple[Region, tuple[int, ...]]:
        return pulled(self.region)

    @property
    def sending(self) -> tuple[int, ...]:
        """The outputs whose gradients are the last inputs of `pull`."""
        return self._pulled[1]

    @cached_property
    def pull(self) -> LaneKernel:
        program = forward(self._pulled[0])
        return self._lanes("pull", program.pruned([r for r in program.results if r.target == "state"]))

    def _lanes(self, kind: str, program: Program) -> LaneKernel:
        return LaneKernel(
            name=f"{self.name}_{kind}",
            region=self.region,
            program=in_lanes(program, self.folded),
            lane=lane_label(program, self.folded),
        )

    @property
    def many(self) -> int:
        """How many states the group has."""
        return len(self.forward.states)

    @cached_property
    def solve_arrays(self) -> list[CArray]:
        """Inputs x, initial states h, outputs y, final states e."""
        outputs = [CArray(name=f"y{k}", array=a, sequence=True) for k, a in enumerate(self.forward.outputs)]
        return [*self._inputs(), *self._states("h"), *outputs, *self._states("e")]

    @cached_property
    def pull_arrays(self) -> list[CArray]:
        """Inputs x; gradients gy of outputs, ge of final states, dx of inputs, dh of initial states."""
        inputs = self.forward.inputs
        given = [CArray(name=f"gy{k}", array=a, sequence=True) for k, a in enumerate(self.forward.outputs)]
        found = [
            CArray(name=f"dx{k}", array=inputs[k], sequence=not inputs[k].static, parts=self.parts(k))
            for k in self.differentiated
        ]
        return [*self._inputs(), *given, *self._states("ge"), *found, *self._states("dh")]

    def parts(self, k: int) -> tuple[Label, ...]:
        """A static input without the label of channels has a part of its gradient from each block of them."""
        a = self.forward.inputs[k]
        return (self.folded,) if a.static and self.folded is not None and self.folded not in a.axes else ()

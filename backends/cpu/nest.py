"""Kernels whose step is a graph of small arrays: dense and block transitions, norms inside an update, slices, mixing.

A task is one sequence of the batch and, where nothing in the step joins `per` blocks, one of those.  `nest_text.py`
writes them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from rnnc.backends.cpu.kernel import Kernel
from rnnc.backends.cpu.layout import Layout
from rnnc.backends.cpu.single import KNOWN, NUMBERS, axes, kept, plain
from rnnc.backends.kernels.axes import Axis
from rnnc.backends.kernels.nest import PER
from rnnc.backends.kernels.program import Array, Program
from rnnc.ir import autodiff
from rnnc.ir.dims import ONE, Dim
from rnnc.ir.graph import CellIR, NodeId, ancestors


@dataclass(frozen=True, kw_only=True)
class NestKernel(Kernel):
    """A kernel of a region that `find_nest` found."""

    @cached_property
    def outer(self) -> tuple[Dim, ...]:
        """The `per` axes that are shared out among tasks."""
        nodes = self.region.step.nodes
        found = {n.type.per for n in nodes if n.type.per or n.op not in NUMBERS}
        return next(iter(found)) if len(found) == 1 and not any(n.op in PER for n in nodes) else ()

    @cached_property
    def step(self) -> CellIR:
        """The step of one task."""
        found = plain(self.region.step)
        if not self.outer:
            return found
        nodes = tuple(replace(n, type=replace(n.type, per=())) for n in found.nodes)
        return replace(found, nodes=nodes)

    @cached_property
    def rule(self) -> autodiff.Backward:
        """The derivative of the step."""
        step = self.step
        wanted = [i.node for i in step.inputs if step.nodes[i.node].type.dtype == "real"]
        roots = [*(s.update for s in step.states), *(o.node for o in step.outputs)]
        return autodiff.backward(step, roots, [*wanted, *(s.node for s in step.states)])

    @property
    def loops(self) -> frozenset[NodeId]:
        """The values of a step that have a loop nest of their own."""
        step = self.step
        ends = [*(s.update for s in step.states), *(o.node for o in step.outputs)]
        given = [*(i.node for i in step.inputs), *(s.node for s in step.states)]
        return kept(step, ends, given) | {i for i in ends if step.nodes[i].args}

    @property
    def fits(self) -> bool:
        """Whether loops can do the derivative too."""
        cell = self.rule.cell
        return all(cell.nodes[i].op in KNOWN for i in ancestors(cell, [*self.rule.grads.values()]))

    # ------------------------------------------------------------ arrays

    @cached_property
    def labels(self) -> list[Dim]:
        """The different sizes of axes: a label is a place among them."""
        step = self.region.step
        nodes = [*(i.node for i in step.inputs), *(s.node for s in step.states), *(o.node for o in step.outputs)]
        return list(dict.fromkeys(d for i in nodes for d in axes(step.nodes[i]) if d != ONE))

    def array(self, node: NodeId, static: bool = False) -> Array:
        n = self.region.step.nodes[node]
        assert n.type.dtype in ("real", "bool")
        found: tuple[Axis, ...] = tuple(None if d == ONE else self.labels.index(d) for d in axes(n))
        return Array(dtype=n.type.dtype, axes=found, static=static)

    @cached_property
    def forward(self) -> Program:
        """The arrays; what is computed of them is `step`."""
        step = self.region.step
        static = [i in self.region.static for i in self.region.inputs]
        return Program(
            values=(),
            results=(),
            sizes=tuple(self.labels),
            inputs=tuple(self.array(i.node, f) for i, f in zip(step.inputs, static, strict=True)),
            outputs=tuple(self.array(o.node) for o in step.outputs),
            states=tuple(self.array(s.node) for s in step.states),
        )

    @property
    def backward(self) -> Program:
        return self.forward

    @property
    def layout(self) -> Layout:
        return Layout(vector=None, outer=(), serial=())

    @property
    def dense(self) -> int:
        """How many axes behind batch and time may have gaps between them: the callers' arrays have none behind."""
        return len(self.outer)

    @property
    def differentiated(self) -> tuple[int, ...]:
        return tuple(k for k, i in enumerate(self.step.inputs) if i.node in self.rule.grads)

    @property
    def shapes(self) -> list[tuple[Dim, ...]]:
        """The axes of the states of one task."""
        return [axes(self.step.nodes[s.node]) for s in self.step.states]

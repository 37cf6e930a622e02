"""What a kernel is made from: a step of a region, with its layout and the names of its arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from rnnc.analysis.forms import Elementwise, Semiring
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.backends.kernels.program import Program, backward, forward
from rnnc.backends.kernels.region import Region
from rnnc.backends.torch.body import Names
from rnnc.backends.triton.layout import Layout, find_layout
from rnnc.backends.triton.names import RESERVED, unmistakable
from rnnc.ir.graph import CellIR, DimParam, NodeId, Output, users


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrays:
    """The names under which a kernel knows its arrays."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    states: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a region, as the schedules read it.

    `coefficients` has, as outputs, a and b of an elementwise form (those the form has); None where there is no such
    form.  `comment` is the spec's line on which a node stands.
    """

    name: str
    region: Region
    forward: Program
    backward: Program
    layout: Layout
    arrays: Arrays
    comment: Callable[[NodeId], str | None]
    dims: tuple[DimParam, ...]
    readings: Mapping[int, int] = field(default_factory=dict)  # inputs that are a state under other labels
    semiring: Semiring = "plus_times"
    form: Elementwise | None = None
    coefficients: Program | None = None

    @property
    def complex(self) -> bool:
        return any(s.dtype == "complex" for s in self.forward.states)

    @property
    def given(self) -> tuple[int, ...]:
        """Places of the inputs that the caller gives."""
        return tuple(k for k in range(len(self.forward.inputs)) if k not in self.readings)


def find_step(
    name: str,
    cell: CellIR,
    region: Region,
    comment: Callable[[NodeId], str | None],
    readings: Mapping[int, int] | None = None,
) -> Step | None:
    """A region ready for a schedule, `readings` as in `kernels.turned.Turned`; None where its labels are too many."""
    readings = readings or {}
    f, b = forward(region), backward(region)
    layout = find_layout(f, b, readings)
    if layout is None:
        return None
    found = Step(
        name=name,
        region=region,
        forward=f,
        backward=b,
        layout=layout,
        arrays=array_names(cell, region, Names({*RESERVED})),
        comment=comment,
        dims=cell.dims,
        readings=readings,
    )
    return found if readings else _with_form(found)


def _with_form(step: Step) -> Step:
    """The step with its elementwise form, if it is one state that has one."""
    analysed = analyse_recurrence(step.region.step)
    if len(analysed.groups) != 1 or len(step.region.states) != 1:
        return step
    group = analysed.groups[0]
    form = next((f for f in group.forms if isinstance(f, Elementwise)), None)
    if form is None:
        return step
    outputs = tuple(Output(name=n, node=i) for n, i in (("a", form.a), ("b", form.b)) if i is not None)
    widened = replace(step.region, step=replace(analysed.cell, outputs=outputs))
    program = forward(widened)
    program = program.pruned([r for r in program.results if r.target == "output"])
    if any(v.load is not None and v.load.source == "state" for v in program.values):
        return step
    return replace(step, semiring=group.semiring, form=form, coefficients=program)


def array_names(cell: CellIR, region: Region, names: Names, products: Iterable[int] = ()) -> Arrays:
    """The spec's names; what has none is called after the value it goes into, `z_in`; results of `products` (places
    among the inputs) likewise, `z_product`.
    """
    states = tuple(names.fresh(unmistakable(s)) for s in region.states)
    inner = region.step
    readers = users(inner)

    def title(node: NodeId, at: NodeId, end: str) -> str:
        if node < len(cell.nodes) and cell.nodes[node].name and end == "in":
            return unmistakable(cell.nodes[node].name)
        front, seen = [at], {at}
        while front:
            reading = [r for i in front for r in readers[i] if r not in seen]
            seen |= set(reading)
            named = next((inner.nodes[r].name for r in sorted(reading) if inner.nodes[r].name), None)
            if named:
                return f"{named}_{end}"
            front = reading
        return "x"

    ends = dict.fromkeys(products, "product")
    places = enumerate(zip(region.inputs, inner.inputs, strict=True))
    inputs = tuple(names.fresh(title(node, i.node, ends.get(k, "in"))) for k, (node, i) in places)
    titles = {o.node: o.name for o in cell.outputs}
    held = {s.update: f"{s.name}_all" for s in cell.states} | {s.node: f"{s.name}_before" for s in cell.states}
    own = [unmistakable(titles.get(i) or cell.nodes[i].name or "y") for i in region.outputs]
    outputs = tuple(names.fresh(held.get(i) or name) for i, name in zip(region.outputs, own, strict=True))
    return Arrays(inputs=inputs, outputs=outputs, states=states)

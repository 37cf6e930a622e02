"""What a step with products of learned matrices consists of: see `coupled` for the kernels made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rnnc.analysis.forms import Group
from rnnc.backends.kernels.program import Program, backward, forward
from rnnc.backends.kernels.region import Coupled, Product, find_coupled, find_region
from rnnc.backends.torch.body import Names
from rnnc.backends.triton.gradients import gradient_results
from rnnc.backends.triton.kernel import Step, array_names
from rnnc.backends.triton.layout import find_rows
from rnnc.backends.triton.names import RESERVED
from rnnc.ir.graph import CellIR, Node

HELD = 18  # tiles that a program holds through a step, or through all, without crowding its registers


@dataclass(frozen=True, slots=True, kw_only=True)
class CoupledStep:
    """A step with products.  `weights` name their matrices, `rounds` are places of products, in order.

    `states`: places of the states that the backward reads; `kept`: places of the products whose results it reads.
    """

    step: Step
    coupled: Coupled
    weights: tuple[str, ...]
    rounds: tuple[tuple[int, ...], ...]
    states: tuple[int, ...]
    kept: tuple[int, ...]

    @property
    def products(self) -> tuple[Product, ...]:
        return self.coupled.products

    @property
    def given(self) -> tuple[int, ...]:
        """Places of the inputs that the caller gives: all but results of products."""
        gone = {p.input for p in self.products}
        return tuple(k for k in range(len(self.step.forward.inputs)) if k not in gone)

    @property
    def vectors(self) -> tuple[int, ...]:
        """Places, among the outputs, of the vectors that a step computes for its products."""
        return tuple(range(self.coupled.wanted, len(self.step.forward.outputs)))

    def shared(self, n: int) -> int | None:
        """The input whose gradient is that of product n as well: what is added to the product, most often."""
        results = {
            r.index: (r.value, r.axes, r.over)
            for r in gradient_results(self.step.backward)
            if not self.step.forward.inputs[r.index].static and self.step.forward.inputs[r.index].dtype != "complex"
        }
        own = results[self.products[n].input]
        return next((k for k in self.given if results.get(k) == own), None)

    def ends(self, n: int) -> tuple[str, str]:
        """The axes of what product n multiplies and of its result."""
        p, f, layout = self.products[n], self.step.forward, self.step.layout
        vector = f.states[p.state] if p.state is not None else f.outputs[p.output or 0]
        return layout.held(vector.axes)[-1], layout.held(f.inputs[p.input].axes)[-1]

    @property
    def crowded(self) -> bool:
        """Whether a step back reads and adds up so much that static inputs had better be read anew at every step.

        Most of a step's values live briefly; what is read lives long, and sums live through all steps.
        """
        inner, layout = {*self.step.layout.inner_names}, self.step.layout
        read = {x for v in self.step.backward.values if (x := v.load) is not None and inner & {*layout.held(x.axes)}}
        sums = [r for r in gradient_results(self.step.backward) if self.step.forward.inputs[r.index].static]
        return len(read) + len(sums) > HELD

    @property
    def own(self) -> tuple[int, ...]:
        """Products whose gradient has an array of its own."""
        return tuple(n for n in range(len(self.products)) if self.shared(n) is None)


def find_coupled_step(
    name: str,
    cell: CellIR,
    group: Group,
    later: Iterable[str],
    comment: Callable[[Node], str | None] = lambda node: None,
) -> CoupledStep | None:
    """A group between its products with learned matrices; None where it is no such, or where vectors lie along
    different axes.  `later` are the states of groups that run after it, `comment` is a node's line of the spec.
    """
    coupled = find_coupled(cell, group, later, sizes=True)
    if coupled is None:
        return None
    region = coupled.region
    f, b = forward(region), backward(region)
    arrays = [f.inputs[p.input] for p in coupled.products]
    arrays += [f.states[p.state] if p.state is not None else f.outputs[p.output or 0] for p in coupled.products]
    if any(a.dtype == "complex" for a in (*f.states, *arrays)):
        return None  # one tile a state
    layout = find_rows(f, b, [a.axes for a in arrays])
    if layout is None or not all({*layout.held(s.axes)[-1:]} & {*layout.inner_names} for s in f.states):
        return None
    rounds = product_rounds(f, coupled.products)
    if rounds is None:
        return None
    names = Names({*RESERVED})
    found = array_names(cell, region, names, [p.input for p in coupled.products])
    titles = [f"{found.inputs[p.input].removesuffix('_product')}_weight" for p in coupled.products]
    step = Step(
        name=name,
        region=region,
        forward=f,
        backward=b,
        layout=layout,
        arrays=found,
        comment=lambda i: comment(region.step.nodes[i]),
        dims=cell.dims,
    )
    computed = [r for r in f.results if r.target == "output" and r.index >= coupled.wanted]
    read = {(x.source, x.index) for q in (b, f.pruned(computed)) for v in q.values if (x := v.load) is not None}
    vectors = {p.state for p in coupled.products if p.state is not None}
    return CoupledStep(
        step=step,
        coupled=coupled,
        weights=tuple(names.fresh(t) for t in titles),
        rounds=rounds,
        states=tuple(k for k in range(len(f.states)) if ("state", k) in read or k in vectors),
        kept=tuple(n for n, p in enumerate(coupled.products) if ("input", p.input) in read),
    )


def by_products(cell: CellIR, group: Group, later: Iterable[str]) -> bool:
    """Whether a group runs as steps with products: where it is not pointwise, or where products lead between vectors of
    several lengths (a projected LSTM), whose matrices have the axes of two states and would pass for pointwise factors,
    every program with all of them in registers.
    """
    step = find_coupled_step("step", cell, group, later)
    return step is not None and (len(step.step.layout.inner) > 1 or find_region(cell, group, later) is None)


def product_rounds(program: Program, products: Sequence[Product]) -> tuple[tuple[int, ...], ...] | None:
    """Places of products, in rounds: those of one round need only results of the rounds before it."""
    place = {p.input: n for n, p in enumerate(products)}
    reads = []
    for p in products:
        wanted = [r for r in program.results if r.target == "output" and r.index == p.output]
        loads = [v.load for v in program.pruned(wanted).values if v.load is not None]
        reads.append({place[x.index] for x in loads if x.source == "input" and x.index in place})
    rounds: list[tuple[int, ...]] = []
    done: set[int] = set()
    while len(done) < len(products):
        ready = tuple(n for n in range(len(products)) if n not in done and reads[n] <= done)
        if not ready:
            return None
        rounds.append(ready)
        done |= set(ready)
    return tuple(rounds)

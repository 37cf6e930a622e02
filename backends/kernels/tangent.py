"""Steps that carry their own derivative: what Newton's method and the backward pass multiply along time.

A region whose Jacobian is proved to be numbers or K x K blocks at every position gets, beside its K states h, states

    p_ij <- sum_k A_ik p_kj     the product of the slopes A = dF/dh so far: how the state now moves with the first one
    m    <- max(m, |p_ij|)      the largest entry that any of these products had
    q_j  <- q_j + sum_i p_ij c_i, with c_i the gradient that the outputs of this step send to h_i

so that a walk over a segment of time gives all that is to be known of it as a map of its first state: forward, the
last state and its derivative; backward, what a gradient behind the segment becomes in front of it, p^T g + q.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

from rnnc.backends.kernels.region import Region
from rnnc.ir import autodiff
from rnnc.ir.builder import Builder
from rnnc.ir.graph import CellIR, Input, NodeId, State, ancestors

__all__ = ["pulled", "walked"]


def walked(region: Region) -> Region:
    """The region with the states p (rows first), then m.

    Requires: all states are real and of one shape; entries of different positions never meet (`structure_of`).
    before: h <- tanh(u * h + x)      -->  after: also p <- (1 - h'^2) * u * p;  m <- max(m, |p'|)
    """
    made = _Tangent.of(region)
    made.products()
    b = made.b
    growth = made.state("growth")
    largest = growth
    for i, j in product(range(made.count), repeat=2):
        largest = b.map("max", largest, b.map("abs", made.after[i, j]))
    made.update(growth, largest)
    return made.region()


def pulled(region: Region) -> tuple[Region, tuple[int, ...]]:
    """The region with the states p, then q; its last inputs are the gradients of those outputs (the second result)
    whose gradients reach a state: `step(h')` has none.

    Requires: as `walked`, and all outputs are real.
    """
    made = _Tangent.of(region)
    made.products()
    b, step = made.b, region.step
    seeds: dict[NodeId, NodeId] = {}
    given = []
    for k, o in enumerate(step.outputs):
        seed = b.leaf("input", f"d_y{k}", step.nodes[o.node].type)
        given.append(Input(name=f"d_y{k}", node=seed))
        seeds[o.node] = b.map("add", seeds[o.node], seed) if o.node in seeds else seed
    sent = autodiff.propagate(b, step.nodes, seeds, made.old)
    for j in range(made.count):
        total = place = made.state(f"pull{j}")
        for i, h in enumerate(made.old):
            if h in sent:
                total = b.map("add", total, b.map("mul", made.before[i, j], sent[h]))
        made.update(place, total)
    live = ancestors(made.region(given).step, [s.update for s in made.added])
    sending = tuple(k for k, i in enumerate(given) if i.node in live)
    return made.region([given[k] for k in sending]), sending


@dataclass(slots=True)
class _Tangent:
    """A step in the making: the states that were added, by their old and new values."""

    origin: Region
    b: Builder
    old: list[NodeId]  # the region's own states
    added: list[State]
    before: dict[tuple[int, int], NodeId]  # p_ij
    after: dict[tuple[int, int], NodeId]

    @staticmethod
    def of(region: Region) -> _Tangent:
        return _Tangent(region, Builder.of(region.step), [s.node for s in region.step.states], [], {}, {})

    @property
    def count(self) -> int:
        return len(self.old)

    def state(self, name: str) -> NodeId:
        """A new state like the region's."""
        taken = {s.name for s in (*self.origin.step.states, *self.added)}
        while name in taken:
            name += "_"
        node = self.b.leaf("state", name, self.b.type(self.old[0]))
        self.added.append(State(name=name, node=node, init=self.b.const(0), update=node))
        return node

    def update(self, state: NodeId, value: NodeId) -> None:
        t = self.b.type(state)
        whole = self.b.broadcast_to(value, t.shape, t.per)
        self.added = [replace(s, update=whole) if s.node == state else s for s in self.added]

    def products(self) -> None:
        """p <- A p, with A row by row: the gradient of the sum over all positions of one new state."""
        b, step, n = self.b, self.origin.step, range(self.count)
        rows = [
            autodiff.propagate(b, step.nodes, {s.update: b.const(1, b.type(s.update))}, self.old) for s in step.states
        ]
        for i, j in product(n, n):
            self.before[i, j] = self.state(f"slope{i}{j}")
        for i, j in product(n, n):
            total: NodeId | None = None
            for k in n:
                if self.old[k] in rows[i]:
                    term = b.map("mul", rows[i][self.old[k]], self.before[k, j])
                    total = term if total is None else b.map("add", total, term)
            new = b.const(0, b.type(self.old[0])) if total is None else total
            self.update(self.before[i, j], new)
            self.after[i, j] = next(s.update for s in self.added if s.node == self.before[i, j])

    def region(self, given: list[Input] | None = None) -> Region:
        step, extra = self.origin.step, given or []
        made: CellIR = replace(
            step,
            nodes=tuple(self.b.nodes),
            inputs=(*step.inputs, *extra),
            states=(*step.states, *self.added),
        )
        places = tuple(-1 - k for k in range(len(extra)))  # nodes of no cell: no static ones
        # Also one that no gradient reaches: it stays as it is, and nothing else joins its axes with others.
        alike = tuple((self.old[0], s.node) for s in self.added)
        return replace(self.origin, step=made, inputs=(*self.origin.inputs, *places), alike=alike)

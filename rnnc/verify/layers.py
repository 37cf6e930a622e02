"""A cell as a cascade of layers: what the theorems on linear recurrences speak of.

A layer is one group of states, `H_t = A(u_t) H_{t-1} + B(u_t)`, where u_t is computed from the inputs and the states of
earlier groups.  Windows of what a layer reads (`conv`, `prev`) are delay lines: they hold finitely many past values,
and keep whatever period those have.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rnnc.analysis.facts import Spectrum
from rnnc.analysis.forms import BlockLinear, Coupled, Dense, Elementwise, Form, Group, MatrixState, Recurrence
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.analysis.spectrum import spectrum_of
from rnnc.ir.graph import CellIR, Node, NodeId, ancestors
from rnnc.ir.unfold import inline_calls

WINDOWS = frozenset({"delay", "conv"})
ATTENTION = frozenset({"attention"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One group and what it reads.

    `reads`: indices of the earlier layers whose states its update is computed from; `reads_input`: whether it reads an
    input itself.  `gate_reads`, `gate_reads_input`: the same of its transition alone.  `driven`: some input reaches it,
    possibly through earlier layers.  `feedback`: the delay that its own state goes through, "" where there is none.
    `attended`: attention reads it.
    """

    group: Group
    spectrum: Spectrum
    reads: frozenset[int]
    reads_input: bool
    gate_reads: frozenset[int]
    gate_reads_input: bool
    driven: bool
    feedback: str
    attended: bool = False

    @property
    def name(self) -> str:
        return " and ".join(f"`{s}`" for s in self.group.states)

    @property
    def fixed_transition(self) -> bool:
        """The transition is the same at every step."""
        return not self.gate_reads and not self.gate_reads_input

    @property
    def is_diagonal(self) -> bool:
        """h' = a (x) h + b over the real or complex numbers."""
        forms = self.group.forms
        return self.group.semiring == "plus_times" and bool(forms) and isinstance(forms[0], Elementwise)

    @property
    def is_monotone(self) -> bool:
        """Elementwise over max, min or logaddexp: each number goes through a nondecreasing function of itself."""
        forms = self.group.forms
        return self.group.semiring != "plus_times" and bool(forms) and isinstance(forms[0], Elementwise)

    @property
    def shrinks(self) -> bool:
        """The transition's norm is below one by a margin that holds for all inputs."""
        norm = self.spectrum.norm
        return norm is not None and norm.hi is not None and norm.hi < 1

    @property
    def is_clock(self) -> bool:
        """No input reaches it and it does not fade: what reads it knows the position."""
        return not self.driven and not self.shrinks and not self._stands_still()

    def _stands_still(self) -> bool:
        forms = self.group.forms
        return self.is_diagonal and isinstance(forms[0], Elementwise) and forms[0].a is None and forms[0].b is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """The layers of a cell in topological order.

    `obstacle`: why it is no recurrence over states of fixed size, "" where it is (attention reads all steps before).
    """

    cell: CellIR
    recurrence: Recurrence
    layers: tuple[Layer, ...]
    windows: tuple[str, ...] = ()
    obstacle: str = ""

    @property
    def depth(self) -> int:
        """The most layers that stand behind each other."""
        depth: dict[int, int] = {}
        for layer in self.layers:
            depth[layer.group.index] = 1 + max((depth[i] for i in layer.reads), default=0)
        return max(depth.values(), default=0)


def layers_of(cell: CellIR) -> Layers:
    """The cascade; calls of other cells (models) are inlined first."""
    flat = inline_calls(cell)
    recurrence = analyse_recurrence(flat)
    attention = next((n for n in flat.nodes if n.op == "attention"), None)
    obstacle = "attention reads all steps before" if attention is not None else ""
    windows = tuple(n.name or str(n.attr("key")) for n in flat.nodes if n.op in WINDOWS)
    found: list[Layer] = []
    for group in recurrence.groups:
        found.append(_layer(recurrence, group, found))
    return Layers(cell=flat, recurrence=recurrence, layers=tuple(found), windows=windows, obstacle=obstacle)


def _layer(recurrence: Recurrence, group: Group, before: list[Layer]) -> Layer:
    cell = recurrence.cell
    updates = [cell.state(s).update for s in group.states]
    reads, reads_input = _read(recurrence, updates, group)
    if group.forms and group.semiring == "plus_times":
        gate_reads, gate_reads_input = _read(recurrence, transition_nodes(group.forms[0]), group)
    else:
        gate_reads, gate_reads_input = reads, reads_input
    return Layer(
        group=group,
        spectrum=spectrum_of(recurrence, group),
        reads=reads,
        reads_input=reads_input,
        gate_reads=gate_reads,
        gate_reads_input=gate_reads_input,
        driven=reads_input or any(before[i].driven for i in reads),
        feedback=_feedback(cell, group, updates),
        attended=bool(_through(cell, group, (n.id for n in cell.nodes if n.op in ATTENTION))),
    )


def _read(recurrence: Recurrence, nodes: Iterable[NodeId], group: Group) -> tuple[frozenset[int], bool]:
    """The other groups whose states `nodes` are computed from, and whether an input is among what they read."""
    cell = recurrence.cell
    seen = ancestors(cell, nodes)
    index = {s: g.index for g in recurrence.groups for s in g.states}
    groups = {index[s.name] for s in cell.states if s.node in seen} - {group.index}
    return frozenset(groups), any(cell.nodes[i].op == "input" for i in seen)


def _feedback(cell: CellIR, group: Group, updates: list[NodeId]) -> str:
    """A delay or convolution on a way from the group's states to their updates: then the state is longer than it
    looks.
    """
    looks_back = WINDOWS | ATTENTION
    found = _through(cell, group, (i for i in sorted(ancestors(cell, updates)) if cell.nodes[i].op in looks_back))
    return "" if found is None else found.name or str(found.attr("key"))


def _through(cell: CellIR, group: Group, nodes: Iterable[NodeId]) -> Node | None:
    """The first of the nodes that is computed from the group's states."""
    own = {cell.state(s).node for s in group.states}
    return next((cell.nodes[i] for i in nodes if own & ancestors(cell, [i])), None)


def transition_nodes(form: Form) -> list[NodeId]:
    """The coefficients of the state itself in a normal form (not the additive part)."""
    match form:
        case Elementwise():
            return [] if form.a is None else [form.a]
        case Coupled():
            return [a for row in form.a for a in row if a is not None]
        case MatrixState():
            nodes = [n for step in form.steps for pair in step.low_rank for n in pair]
            return nodes + [step.decay for step in form.steps if step.decay is not None]
        case BlockLinear():
            return [form.blocks]
        case Dense():
            return [form.a]

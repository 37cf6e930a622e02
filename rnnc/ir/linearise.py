"""One step of a group of states as a function of what it reads, with its derivative: what Newton's method solves with.

    F(h, x) and dF/dh at any h: by the derivatives of the op table, whatever the step is made of.

Where the sparsity domain proves that entries of different positions never meet, one backward pass from a gradient of
ones gives the entries at all positions at once.  Otherwise the backward pass is kept as a function of the gradient, and
whoever runs it gives one unit vector for each entry of a block.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from rnnc.ir import autodiff
from rnnc.ir.builder import Builder
from rnnc.ir.dims import ONE, Dim
from rnnc.ir.domains.dependence import dependences
from rnnc.ir.domains.jacobian import jacobian
from rnnc.ir.domains.sparsity import full_shape
from rnnc.ir.graph import CellIR, Input, Node, NodeId, Output, Param, ancestors
from rnnc.ir.rewrite import copy_node
from rnnc.ir.simplify import simplify

Pattern = Literal["diagonal", "coupled", "dense"]
MOST_ENTRIES = 32  # of a block: beyond it, forming and multiplying blocks costs more than stepping


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """What is proved of the Jacobian of a group's update.

    diagonal: one state, entries of different positions never meet.  coupled: several states of one shape, of which the
    entries at one position meet.  dense: blocks of `entries` numbers (of all the states), one for each index of the
    first `blocks` axes that all states share (their `per` axes, or none).
    """

    pattern: Pattern
    entries: Dim
    blocks: int = 0


def structure_of(cell: CellIR, states: Iterable[str]) -> Structure | str:
    """The pattern proved for a group, or a sentence that says why Newton's method has none to work with."""
    names = tuple(states)
    nodes = [cell.nodes[cell.state(n).node] for n in names]
    for n, name in zip(nodes, names, strict=True):
        if n.type.dtype != "real":
            return f"the derivative of `{name}`, which is {n.type.dtype}, is no matrix of real numbers"
    found = jacobian(cell, names)
    if found.kind in ("diagonal", "zero"):
        kind: Pattern = "diagonal" if len(names) == 1 else "coupled"
        return Structure(pattern=kind, entries=Dim.of(len(names)))
    lead = len(nodes[0].type.per)
    cores = [_size(n.type.shape) for n in nodes]
    apart = all(full_shape(n.type) == full_shape(nodes[0].type) for n in nodes) and found.block == cores[0]
    blocks = lead if apart else 0
    sizes = cores if apart else [_size(full_shape(n.type)) for n in nodes]
    entries = sum(sizes, Dim.of(0))
    known = entries.constant
    refused = None if known is None else too_large(int(known))
    return refused or Structure(pattern="dense", entries=entries, blocks=blocks)


def too_large(entries: int) -> str | None:
    """Why dense blocks of this size are not solved, if they are not."""
    if entries <= MOST_ENTRIES:
        return None
    return (
        f"the Jacobian has dense blocks of {entries} by {entries} entries, and no zeros in them are proved; Newton's "
        f"method takes at most {MOST_ENTRIES}"
    )


def _size(shape: Iterable[Dim]) -> Dim:
    total = ONE
    for d in shape:
        total = total * d
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Linearised:
    """`cell` has no states: its inputs are the states before the step (named as they are), what the step reads of other
    sequences (`sequences`, nodes of the original cell, in order) and, with a dense pattern, one gradient for each
    state; its parameters are `statics`.

    `updates` are the nodes of the new states; `slopes[i][j]` the derivative of state i by state j at the same position
    (None is zero), with a dense pattern absent; `pulled[j]` then the gradient of state j from those of the new states.
    """

    structure: Structure
    states: tuple[str, ...]
    cell: CellIR
    sequences: tuple[NodeId, ...]
    statics: tuple[NodeId, ...]
    updates: tuple[NodeId, ...]
    slopes: tuple[tuple[NodeId | None, ...], ...] = ()
    seeds: tuple[NodeId, ...] = ()
    pulled: tuple[NodeId | None, ...] = ()


def linearise(cell: CellIR, states: Iterable[str]) -> Linearised:
    """The step of a group and its derivative.

    Requires: `structure_of` names a pattern; the cell is unfolded within the step (no calls).
    Ensures: `cell` of the result is verified IR; its values are those of the original's updates, node by node.
    before: h <- tanh(u * h + x)      -->  after: F = tanh(u * h + x), dF/dh = (1 - F^2) * u
    """
    names = tuple(states)
    structure = structure_of(cell, names)
    assert isinstance(structure, Structure), structure
    step = _step(cell, names)
    pull = structure.pattern == "dense"
    b = Builder.of(step.cell)
    before = [i.node for i in step.cell.inputs[: len(names)]]
    outputs = list(step.updates)
    if pull:
        seeds = [b.leaf("input", f"d_{n}", b.type(node)) for n, node in zip(names, before, strict=True)]
        rows: list[dict[NodeId, NodeId]] = [
            autodiff.propagate(b, step.cell.nodes, dict(_joined(b, step.updates, seeds)), before)
        ]
    else:
        seeds = []
        rows = [autodiff.propagate(b, step.cell.nodes, {u: _ones(b, u)}, before) for u in step.updates]
    found = [n for row in rows for n in (_full(b, row.get(s), s) for s in before)]
    outputs += [n for n in found if n is not None]
    inputs = [*step.cell.inputs, *(Input(name=b.nodes[s].name, node=s) for s in seeds)]
    whole = replace(
        step.cell,
        nodes=tuple(b.nodes),
        inputs=tuple(inputs),
        outputs=tuple(Output(name=_output(names, k), node=n) for k, n in enumerate(outputs)),
    )
    return _finished(structure, names, step, simplify(whole), [n is not None for n in found], pull)


def _finished(
    structure: Structure, names: tuple[str, ...], step: _Step, cell: CellIR, present: list[bool], pull: bool
) -> Linearised:
    """The simplified cell with its outputs told apart again."""
    n = len(names)
    nodes = iter([o.node for o in cell.outputs[n:]])
    values = [next(nodes) if there else None for there in present]
    rows = tuple(tuple(values[i : i + n]) for i in range(0, len(values), n))
    return Linearised(
        structure=structure,
        states=names,
        cell=cell,
        sequences=step.sequences,
        statics=step.statics,
        updates=tuple(o.node for o in cell.outputs[:n]),
        slopes=() if pull else rows,
        seeds=tuple(i.node for i in cell.inputs[n + len(step.sequences) :]),
        pulled=rows[0] if pull else (),
    )


def _output(names: tuple[str, ...], k: int) -> str:
    """The new states come first, then derivatives."""
    return f"{names[k]}_new" if k < len(names) else f"{names[0]}_slope{k - len(names) or ''}"


def _joined(b: Builder, roots: Iterable[NodeId], seeds: Iterable[NodeId]) -> Iterable[tuple[NodeId, NodeId]]:
    """The gradient of each root; two states may have one new value, whose gradients add up."""
    found: dict[NodeId, NodeId] = {}
    for root, seed in zip(roots, seeds, strict=True):
        found[root] = b.map("add", found[root], seed) if root in found else seed
    return found.items()


def _ones(b: Builder, node: NodeId) -> NodeId:
    return b.const(1, b.type(node))


def _full(b: Builder, node: NodeId | None, like: NodeId) -> NodeId | None:
    t = b.type(like)
    return None if node is None else b.broadcast_to(node, t.shape, t.per)


# ---------------------------------------------------------------- the step alone


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    cell: CellIR
    sequences: tuple[NodeId, ...]
    statics: tuple[NodeId, ...]
    updates: tuple[NodeId, ...]


def _step(cell: CellIR, names: tuple[str, ...]) -> _Step:
    """The nodes computed from the group's states, with everything else they read as an input or a parameter."""
    found = dependences(cell)
    own = set(names)
    states = {cell.state(n).node: n for n in names}
    targets = [cell.state(n).update for n in names]
    inner = {i for i in ancestors(cell, targets, frozenset(states)) if found[i].states & own} - set(states)
    read = sorted({a for i in inner for a in cell.nodes[i].args} | set(targets) - inner)
    outside = [i for i in read if i not in inner and i not in states and not _is_scalar(cell.nodes[i])]
    statics = tuple(i for i in outside if found[i].static)
    sequences = tuple(i for i in outside if not found[i].static)
    b, at, taken = Builder(), dict[NodeId, NodeId](), set(names)
    for node, name in states.items():
        at[node] = b.leaf("input", name, cell.nodes[node].type)
    inputs = [Input(name=name, node=at[node]) for node, name in states.items()]
    params = []
    for kind, nodes in (("input", sequences), ("param", statics)):
        for i in nodes:
            name = _fresh(_title(cell, i, inner), taken)
            at[i] = b.leaf(kind, name, cell.nodes[i].type)
            if kind == "input":
                inputs.append(Input(name=name, node=at[i]))
            else:
                params.append(Param(name=name, node=at[i]))
    for i in sorted(inner | {a for a in read if _is_scalar(cell.nodes[a])}):
        at[i] = copy_node(b, cell.nodes[i], tuple(at[a] for a in cell.nodes[i].args))
    updates = tuple(at[t] for t in targets)
    step = CellIR(
        name="_".join(names),
        dims=cell.dims,
        nodes=tuple(b.nodes),
        inputs=tuple(inputs),
        params=tuple(params),
        outputs=tuple(Output(name=_output(names, k), node=u) for k, u in enumerate(updates)),
    )
    return _Step(cell=step, sequences=sequences, statics=statics, updates=updates)


def _is_scalar(node: Node) -> bool:
    """A free scalar, which is copied into the step."""
    return node.op in ("const", "dim") and node.type.rank == 0 and not node.type.per


def _title(cell: CellIR, node: NodeId, inner: set[NodeId]) -> str:
    """Its name, or that of the value that it goes into, with `_in`."""
    reach = {node}
    if cell.nodes[node].name:
        return cell.nodes[node].name
    for i in sorted(inner):
        if reach & set(cell.nodes[i].args):
            if cell.nodes[i].name:
                return f"{cell.nodes[i].name}_in"
            reach.add(i)
    return "x"


def _fresh(name: str, taken: set[str]) -> str:
    candidate, n = name, 2
    while candidate in taken:
        candidate, n = f"{name}_{n}", n + 1
    taken.add(candidate)
    return candidate

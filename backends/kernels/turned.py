"""Regions whose states are read under other labels than they are written under: `A @ S`, blocks, permutations, `S.T`.

In `h <- A @ h + b` an entry of h is computed from all others: h is read under the label that A is summed over, and
written under another one.  A *reading* is a state once more, under labels of its own; for the region it is an input,
and a kernel that holds whole states has it by turning what it holds.

States of a block form, [p * n], are seen as [p, n]: p blocks side by side, of which each program takes some.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from rnnc.analysis.forms import BlockLinear, Dense, Group, Recurrence
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.backends.kernels.region import Finder, Region, find_coupled, find_region, start
from rnnc.backends.torch.cheap import replaced
from rnnc.ir.builder import Builder
from rnnc.ir.graph import CellIR, Node, NodeId, State
from rnnc.ir.types import Type


@dataclass(frozen=True, slots=True, kw_only=True)
class Turned:
    """`readings`: places of the region's inputs that are a state (its place) under other labels.

    `views`: the type under which the region sees a state, for those it does not see as they are.
    """

    region: Region
    readings: dict[int, int]
    views: dict[str, Type]


Use = tuple[NodeId, int]  # a node of the cone, and the place of a state among its arguments


def find_turned(cell: CellIR, group: Group, later: Iterable[str] = (), read: Iterable[NodeId] = ()) -> Turned | None:
    """The region of a group, states read under labels of their own where that makes it pointwise; else None."""
    later, read = tuple(later), tuple(read)
    finder = start(cell, group, later, read)
    if finder is None or any(cell.nodes[s.node].type.dtype == "bool" for s in finder.states):
        return None
    states = tuple(_seen(cell, s, finder) for s in finder.states)
    finder.states = states
    cone = sorted(finder.cone())
    uses = [(i, k) for i in cone for k, a in enumerate(cell.nodes[i].args) if a in finder.atoms]
    if len(uses) > MOST:
        return None

    def turning(kept: dict[Use, int]) -> Finder:
        return _turning(cell, states, kept, lambda c: _again(c, group, later, read, states))

    chosen = {use: k for k, use in enumerate(uses)}
    if not _pointwise(turning(chosen)):
        return None
    for use in uses:  # read as it is written, or as another one reads it, where that does
        without = {u: k for u, k in chosen.items() if u != use}
        others = [chosen | {use: k} for k in dict.fromkeys(without.values()) if k < chosen[use]]
        chosen = next((c for c in (without, *others) if _pointwise(turning(c))), chosen)
    found = turning(chosen)
    if not found.find():
        return None
    region = found.region()
    place = {s.node: k for k, s in enumerate(states)}
    readings = {k: place[found.turned[i]] for k, i in enumerate(region.inputs) if i in found.turned}
    views = {s.name: cell.nodes[s.node].type for s in states if s.node != cell.state(s.name).node}
    return Turned(region=region, readings=readings, views=views)


MOST = 8  # readings that are tried one by one


def _again(
    cell: CellIR, group: Group, later: tuple[str, ...], read: tuple[NodeId, ...], states: tuple[State, ...]
) -> Finder:
    finder = start(cell, group, later, read)
    assert finder is not None
    finder.states = states
    return finder


def _turning(
    cell: CellIR, states: tuple[State, ...], chosen: dict[Use, int], finder_of: Callable[[CellIR], Finder]
) -> Finder:
    """A search in which the uses `chosen` read leaves instead of states: uses with the same number the same leaf.

    The leaves stand behind all nodes of the cell, whose numbers stay.
    """
    nodes = list(cell.nodes)
    leaves: dict[tuple[int, NodeId], NodeId] = {}
    for (i, k), number in chosen.items():
        atom = cell.nodes[i].args[k]
        if (number, atom) not in leaves:
            leaves[number, atom] = len(nodes)
            nodes.append(replace(cell.nodes[atom], id=len(nodes), op="input", args=(), attrs=(), name=""))
        args = list(nodes[i].args)
        args[k] = leaves[number, atom]
        nodes[i] = replace(nodes[i], args=tuple(args))
    finder = finder_of(cell)
    finder.cell = replace(cell, nodes=tuple(nodes))
    finder.turned = {leaf: atom for (_, atom), leaf in leaves.items()}
    name = {s.node: s.name for s in states}
    finder.depends = [*finder.depends, *(frozenset({name[a]}) for a in finder.turned.values())]
    users: dict[NodeId, set[NodeId]] = {i: set() for i in (*finder.users, *finder.turned)}
    for i in finder.users:
        for a in nodes[i].args:
            users[a].add(i)
    finder.users = users
    return finder


def _pointwise(finder: Finder) -> bool:
    return finder.label() and _apart(finder)


def _apart(finder: Finder) -> bool:
    """Whether every product has a label for each of its letters: none is summed over that stays."""
    for i in finder.body:
        node = finder.node(i)
        if node.op != "einsum":
            continue
        inputs, _ = str(node.attr("spec")).split("->")
        letters: dict[str, object] = {}
        for spec, a in zip(inputs.split(","), node.args, strict=True):
            own = finder.axes.labels(a)
            letters |= {x: label for x, label in zip(spec, own[len(own) - len(spec) :]) if label is not None}
        if len(set(letters.values())) < len(letters):
            return False
    return True


# ---------------------------------------------------------------- blocks


def _seen(cell: CellIR, state: State, finder: Finder) -> State:
    """The state as [p, n] where its update is, and nothing reads it otherwise: see `by_transitions`."""
    update = cell.nodes[state.update]
    readers = finder.users.get(state.node, set())
    views = [cell.nodes[i] for i in readers]
    if update.op != "reshape" or not views or any(v.op != "reshape" for v in views):
        return state
    inner = cell.nodes[update.args[0]]
    if len(views) != 1 or views[0].type != inner.type or views[0].id in finder.ends:
        return state
    return replace(state, node=views[0].id, update=inner.id)


def by_transitions(recurrence: Recurrence) -> Recurrence:
    """The recurrence of an equal cell whose updates are readings wherever a form with a transition makes them so.

    before: h <- blockdiag(M) @ h + b        -->  after: h <- flatten(M_p @ h_p + b_p for every block p)
    before: h <- permutation(...) @ h        -->  after: h <- A @ h, A as a matrix
    """
    cell = recurrence.cell
    b = Builder.of(cell)
    moved: dict[NodeId, NodeId] = {}
    for group in recurrence.groups:
        form = next((f for f in group.forms if isinstance(f, BlockLinear | Dense)), None)
        if form is None or find_region(cell, group) is not None or find_coupled(cell, group) is not None:
            continue
        state = cell.state(form.state)
        match form:
            case BlockLinear():
                moved[state.update] = _named(b, _by_block(b, form, state), state)
            case Dense() if find_turned(cell, group) is None:
                moved[state.update] = _named(b, _by_matrix(b, form, state), state)
    return analyse_recurrence(replaced(cell, b.nodes, moved)) if moved else recurrence


def _named(b: Builder, new: NodeId, state: State) -> NodeId:
    old: Node = b.nodes[state.update]
    b.nodes[new] = replace(b.nodes[new], name=old.name, span=old.span)
    return new


def _by_block(b: Builder, form: BlockLinear, state: State) -> NodeId:
    t, blocks = b.type(state.node), b.type(form.blocks)
    parts = (*blocks.shape[:2], *t.shape[1:])
    rest = "m" if t.rank == 2 else ""
    given = b.broadcast_to(form.blocks, blocks.shape, t.per)
    total = b.einsum(f"pij,pj{rest}->pi{rest}", given, b.add("reshape", state.node, shape=parts))
    if form.b is not None:
        total = b.map("add", total, b.add("reshape", b.broadcast_to(form.b, t.shape, t.per), shape=parts))
    return b.add("reshape", total, shape=t.shape)


def _by_matrix(b: Builder, form: Dense, state: State) -> NodeId:
    t = b.type(state.node)
    given = b.broadcast_to(form.a, b.type(form.a).shape, t.per)
    match form.side, t.rank:
        case "left", rank:
            total = b.einsum("ij,j->i" if rank == 1 else "ij,jm->im", given, state.node)
        case _, rank:
            total = b.einsum("ji,j->i" if rank == 1 else "ji,mj->mi", given, state.node)
    return total if form.b is None else b.map("add", total, b.broadcast_to(form.b, t.shape, t.per))

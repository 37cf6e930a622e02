"""Groups whose step is a nest of loops over several axes: what a kernel computes of them.

`region.find_region` takes steps whose values are indexed alike.  A matrix that changes with the input and multiplies
the state, a norm inside an update, a slice or a transposition of the state are none: they read a state under another
index than they write it.  Here such a step stays a graph of small arrays, one loop nest for each of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from rnnc.analysis.forms import BlockLinear, Dense, Group, MatrixState, MicroStep, Recurrence
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.backends.kernels.axes import REDUCTIONS, is_number
from rnnc.backends.kernels.region import Finder, Region, contracts, find_coupled, find_region, start
from rnnc.backends.torch.cheap import replaced
from rnnc.ir.builder import Builder
from rnnc.ir.graph import CellIR, Node, NodeId, ancestors
from rnnc.ir.ops import OPS

COMPLEX = frozenset({"conj", "re", "im", "polar", "complex"})
ELEMENTWISE = frozenset(n for n, op in OPS.items() if op.category == "elementwise") - COMPLEX
PER = frozenset({"lift", "merge", "split_per"})  # what changes `per` axes
INNER_VIEWS = frozenset({"expand", "broadcast", "reshape", "transpose", "slice"})
NORMS = frozenset({"softmax", "l2norm", "rmsnorm", "layernorm"})
SERVED = ELEMENTWISE | PER | INNER_VIEWS | REDUCTIONS | NORMS | {"einsum", "concat", "const", "dim"}


def find_nest(cell: CellIR, group: Group, later: Iterable[str] = (), read: Iterable[NodeId] = ()) -> Region | None:
    """The region of a group as a graph of arrays; None where it is complex, holds truth values, or has an operation
    that loops cannot do.

    `later` and `read` as in `find_region`.
    """
    finder = start(cell, group, later, read)
    if finder is None:
        return None
    body = finder.cone()
    if not all(_serves(finder.node(i)) for i in (*body, *finder.atoms)):
        return None
    finder.body = set(body)
    _down(finder)
    _up(finder)
    finder.inputs = _inputs(finder)
    finder.trim()
    region = finder.region()
    nodes = region.step.nodes
    real = all(nodes[o.node].type.dtype == "real" for o in region.step.outputs)
    plain = all(nodes[i.node].type.dtype in ("real", "bool") for i in region.step.inputs)
    return region if real and plain and all(nodes[s.node].type.dtype == "real" for s in region.step.states) else None


def _serves(node: Node) -> bool:
    return node.type.dtype in ("real", "bool") and (node.op in SERVED or node.op == "state")


def _inputs(finder: Finder) -> set[NodeId]:
    found = {a for i in finder.body for a in finder.node(i).args}
    found |= {s.update for s in finder.states}
    return {i for i in found - finder.body - finder.atoms if not is_number(finder.node(i))}


def _down(finder: Finder) -> None:
    """Values read from the states: sums and what follows entry by entry, but no product with a learned matrix, which
    one product of all steps does better, and nothing that has more entries than what it reads.
    """
    for i in sorted(finder.users):
        known = finder.body | finder.atoms
        if i in known or not finder.depends[i] & finder.own or finder.depends[i] & finder.late:
            continue
        node = finder.node(i)
        if any(finder.depends[a] & finder.own and a not in known for a in node.args) or not _serves(node):
            continue
        if node.type.dtype == "real" and (node.op in ELEMENTWISE | INNER_VIEWS | REDUCTIONS or _reads(finder, node)):
            finder.body.add(i)


def _reads(finder: Finder, node: Node) -> bool:
    """Whether a node is a sum of products of values that all change from step to step."""
    return contracts(node) and not any(a in finder.static for a in node.args)


def _up(finder: Finder) -> None:
    """Values computed for the kernel alone: gates from their pre-activations, outer products from their factors."""
    changed = True
    while changed:
        found = {i for i in _inputs(finder) if _worth(finder, i)}
        finder.body |= found
        changed = bool(found)


def _worth(finder: Finder, i: NodeId) -> bool:
    node = finder.node(i)
    alone = i not in finder.static and i not in finder.ends and not finder.users[i] - finder.body
    if not alone or finder.depends[i] or not _serves(node) or any(s.update == i for s in finder.states):
        return False
    if any(finder.node(a).type.dtype not in ("real", "bool") for a in node.args):
        return False
    if node.op == "add" and any(a in finder.static for a in node.args):  # a bias, which the matrix product adds
        return not any(finder.node(a).op == "einsum" for a in node.args)
    outer = node.op == "einsum" and not contracts(node) and not any(a in finder.static for a in node.args)
    return node.op in ELEMENTWISE | INNER_VIEWS or outer


# ---------------------------------------------------------------- by normal forms


def by_forms(recurrence: Recurrence) -> Recurrence:
    """The recurrence of an equal cell: updates that only a nest of loops can run are written by their normal forms.

    before: h <- blockdiag(M) @ h + b      -->  after: h <- reshape(einsum("pij,pj->pi", M, reshape(h))) + b
    """
    cell, b = recurrence.cell, Builder.of(recurrence.cell)
    moved: dict[NodeId, NodeId] = {}
    for group in recurrence.groups:
        if group.forms and find_region(cell, group) is None and find_coupled(cell, group) is None:
            moved |= _by_form(b, cell, group)
    return analyse_recurrence(replaced(cell, b.nodes, moved)) if moved else recurrence


def _by_form(b: Builder, cell: CellIR, group: Group) -> dict[NodeId, NodeId]:
    for form in group.forms:
        match form:
            case BlockLinear() | Dense():
                h = cell.state(form.state).node
                new = _blocks(b, h, form.blocks) if isinstance(form, BlockLinear) else _dense(b, h, form)
                new = new if form.b is None else b.map("add", new, form.b)
            case MatrixState() if b.type(cell.state(form.state).node).rank == 1:
                h = new = cell.state(form.state).node
                for step in form.steps:
                    new = _vector_step(b, new, step)
            case _:
                continue
        update = cell.state(form.state).update
        whole = replace(cell, nodes=tuple(b.nodes))
        if b.type(new) != b.type(h) or update in ancestors(whole, [new]):
            continue
        if new >= len(cell.nodes):
            old = cell.nodes[update]
            b.nodes[new] = replace(b.nodes[new], name=b.nodes[new].name or old.name, span=old.span)
        return {update: new}
    return {}


def _vector_step(b: Builder, h: NodeId, step: MicroStep) -> NodeId:
    """D h + sum_r a_r (b_r . h) + sum_r u_r v_r"""
    total = h if step.decay is None else b.map("mul", step.decay, h)
    for left, right in step.low_rank:
        total = b.map("add", total, b.map("mul", left, b.einsum("i,i->", right, h)))
    for u, v in step.writes:
        total = b.map("add", total, u if v is None else b.map("mul", u, v))
    return total


def _blocks(b: Builder, h: NodeId, blocks: NodeId) -> NodeId:
    """blockdiag(blocks) @ h"""
    shape = b.type(h).shape
    p, n = b.type(blocks).shape[0], b.type(blocks).shape[1]
    parts = b.add("reshape", h, shape=(p, n, *shape[1:]))
    product = b.einsum("pij,pj->pi" if len(shape) == 1 else "pij,pjm->pim", blocks, parts)
    return b.add("reshape", product, shape=shape)


def _dense(b: Builder, h: NodeId, form: Dense) -> NodeId:
    specs = {("left", 1): "ij,j->i", ("left", 2): "ij,jm->im", ("right", 1): "ji,j->i", ("right", 2): "ji,mj->mi"}
    return b.einsum(specs[form.side, b.type(h).rank], form.a, h)

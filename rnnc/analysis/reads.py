"""How a matrix state is used outside its own update: contractions with vectors, or as a whole."""

from __future__ import annotations

from rnnc.analysis.forms import Read
from rnnc.analysis.framed import frame
from rnnc.analysis.label_rules import full_shape
from rnnc.analysis.monomials import Axis, NotRepresentable, Sum, Unifier, rewrite
from rnnc.analysis.operator import Affine, Operators
from rnnc.analysis.realise import Frame, Realiser
from rnnc.ir.graph import CellIR, NodeId, ancestors


def roots_outside(cell: CellIR, state: str) -> set[NodeId]:
    """What has to be computed apart from the state's own update: outputs and the other states' updates."""
    return {o.node for o in cell.outputs} | {s.update for s in cell.states if s.name != state}


def find_reads(
    cell: CellIR, state: str, side: str, r: Realiser, ops: Operators
) -> tuple[tuple[Read, ...] | None, NodeId | None]:
    """All uses of the state as contractions, or (None, the node that needs the whole state)."""
    s = cell.state(state)
    roots = roots_outside(cell, state)
    live = ancestors(cell, roots, frozenset({s.update}))
    ops = ops.over({s.node: "old", s.update: "new"})
    found: dict[NodeId, Read] = {}
    users: dict[NodeId, list[NodeId]] = {}
    for n in sorted(live):
        if n != s.update:
            for a in dict.fromkeys(cell.nodes[n].args):
                users.setdefault(a, []).append(n)
    work = [s.node] if s.node in live else []
    work += [s.update] if s.update in live and s.update != s.node else []
    seen: set[NodeId] = set()
    while work:
        node = work.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in roots:
            return None, node
        for user in users.get(node, []):
            read = _contraction(cell, s.node, user, side, ops, r)
            if read is not None:
                found[user] = read
            elif isinstance(ops.value(user), Affine):
                work.append(user)
            else:
                return None, user
    return tuple(found[n] for n in sorted(found)), None


def _contraction(cell: CellIR, state: NodeId, node: NodeId, side: str, ops: Operators, r: Realiser) -> Read | None:
    """The read of a node that is S^T key (S key, right) plus possibly a state-free value."""
    value = ops.value(node)
    if not isinstance(value, Affine) or len(value.atoms) != 1:
        return None
    s_type, t = r.b.type(state), r.b.type(node)
    n_per = len(s_type.per)
    acted, kept = (n_per, n_per + 1) if side == "left" else (n_per + 1, n_per)
    if s_type.rank != 2 or full_shape(t) != (*s_type.per, s_type.shape[kept - n_per]):
        return None
    try:
        f = frame(value.terms, t, r.b, r.labels, (*range(n_per), kept))
    except NotRepresentable:
        return None
    key_axis = r.labels.axis(s_type.shape[acted - n_per])
    for m in f.linear:
        if m.atom_axes[:n_per] != f.out[:n_per] or m.atom_axes[kept] != f.out[n_per]:
            return None
        if any(fac.labels & set(f.out[n_per]) for fac in m.factors):
            return None
    try:
        terms, key_axis = _with_axis(f.linear, acted, key_axis, r)
    except NotRepresentable:
        return None
    key = r.sum(terms, Frame(f.per, (key_axis,)))
    if key is None:
        return None
    key = r.b.broadcast_to(key, (s_type.shape[acted - n_per],), s_type.per)
    extra = r.sum(f.offset, Frame(f.per, f.core))
    if extra is not None:
        extra = r.b.broadcast_to(extra, t.shape, t.per)
    return Read(node=node, when="old" if value.atoms == {"old"} else "new", key=key, extra=extra)


def _with_axis(terms: Sum, k: int, axis: Axis, r: Realiser) -> tuple[Sum, Axis]:
    """The terms with their state's axis k named alike (split in blocks where one of them has it so)."""
    unifier = Unifier(r.labels)
    for m in terms:
        unifier.equate(m.atom_axes[k], axis)
    return tuple(rewrite(m, unifier.of_label) for m in terms), unifier.resolve(axis)

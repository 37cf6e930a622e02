"""From a framed map to the normal forms of `rnnc.analysis.forms`: each function answers one form, or None.

Coefficient nodes are appended to the builder of the `Realiser`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from rnnc.analysis.forms import BlockLinear, Coupled, Dense, Elementwise, MicroStep
from rnnc.analysis.framed import Framed, acts_only_on, is_diagonal, parts
from rnnc.analysis.monomials import Axes, Axis, Factor, Monomial, Sum, canonical, labels_of
from rnnc.analysis.realise import Frame, Realiser
from rnnc.ir.graph import NodeId

MAX_RANK = 16  # more rank-one terms than this in one micro-step are not worth the form


def elementwise(name: str, f: Framed, r: Realiser) -> Elementwise | None:
    """h' = a h + b when every term is diagonal along every axis."""
    if not all(_diagonal_everywhere(m) for m in f.linear):
        return None
    return Elementwise(state=name, a=_coefficient(f.linear, f, r), b=_offset(f, r))


def coupled(names: Sequence[str], maps: Sequence[Framed], r: Realiser) -> Coupled | None:
    """States of one type whose updates mix them position by position; `maps` in the order of `names`."""
    first = maps[0].type
    for f in maps:
        if f.type != first or not all(_diagonal_everywhere(m) for m in f.linear):
            return None
    rows = []
    for f in maps:
        row = []
        for name in names:
            terms = tuple(m for m in f.linear if m.atom == name)
            row.append(
                r.full(node, f.type.per, len(f.core))
                if (node := r.sum(terms, Frame(f.per, f.core))) is not None
                else None
            )
        rows.append(tuple(row))
    return Coupled(states=tuple(names), a=tuple(rows), b=tuple(_offset(f, r) for f in maps))


def block_linear(name: str, f: Framed, r: Realiser) -> BlockLinear | None:
    """h' = blockdiag(blocks) h + b: the first core axis is split in (block, row), and terms mix rows only."""
    k = f.n_per
    if len(f.core) not in (1, 2) or len(f.out[k]) != 2:
        return None
    block, row = f.out[k]
    column = r.labels.fresh(r.labels.sizes[row])
    terms = []
    for m in f.linear:
        others = [i for i in range(len(m.out)) if i != k]
        if len(m.atom_axes[k]) != 2 or m.atom_axes[k][0] != block or not all(is_diagonal(m, i) for i in others):
            return None
        if any(fac.labels & set(f.out[i]) for i in others if i >= k for fac in m.factors):
            return None
        terms.append(_relabelled(m, k, (block, column), r))
    blocks = r.sum(terms, Frame(f.per, ((block,), (row,), (column,))))
    if blocks is None:
        return None
    sizes = tuple(r.labels.sizes[x] for x in (block, row, column))
    return BlockLinear(state=name, blocks=r.b.broadcast_to(blocks, sizes, f.type.per), b=_offset(f, r))


def dense(name: str, f: Framed, r: Realiser) -> Dense | None:
    """h' = A h + b acting on the first axis, or h A + b on the last."""
    for side, k in _sides(f):
        sizes = [r.labels.sizes[x] for x in f.out[k]]
        if not acts_only_on(f, k) or any([r.labels.sizes[x] for x in m.atom_axes[k]] != sizes for m in f.linear):
            continue
        column = tuple(r.labels.fresh(size) for size in sizes)
        terms = [_relabelled(m, k, column, r) for m in f.linear]
        core = (f.out[k], column) if side == "left" else (column, f.out[k])
        a = r.sum(terms, Frame(f.per, core))
        if a is None:
            return None
        n = r.labels.size(f.out[k])
        return Dense(state=name, side=side, a=r.b.broadcast_to(a, (n, n), f.type.per), b=_offset(f, r))  # type: ignore[arg-type]
    return None


def _relabelled(m: Monomial, k: int, column: Axis, r: Realiser) -> Monomial:
    """The term with its state's axis k named `column`; where it is diagonal, an identity says so."""
    factors = list(m.factors)
    swap = dict(zip(m.atom_axes[k], column, strict=True))
    fixed = set(m.out[k])
    renamed_factors = [
        Factor(f.node, tuple(tuple(swap[x] if x in swap and x not in fixed else x for x in axis) for axis in f.axes))
        for f in factors
    ]
    for old, new in swap.items():
        if old in fixed and old != new:
            renamed_factors.append(Factor(r.b.add("eye", n=r.labels.sizes[old]), ((old,), (new,))))
    return replace(m, factors=tuple(renamed_factors))


# ---------------------------------------------------------------- micro-steps


@dataclass(frozen=True, slots=True)
class Micro:
    """A micro-step and what is known of its transition: its rank, and whether it is c I + sum of c' k k^T."""

    step: MicroStep
    side: str
    rank: int
    symmetric: bool
    scalar: bool  # the decay is a scalar


def micro_step(f: Framed, side: str, r: Realiser) -> Micro | None:
    """The map as S <- D S + sum a (b^T S) + sum u v^T along the side's axis, or None."""
    k = dict(_sides(f)).get(side)
    if k is None or not acts_only_on(f, k):
        return None
    if any(not is_diagonal(m, k) and set(m.out[k]) & set(m.atom_axes[k]) for m in f.linear):
        return None  # blocks
    diagonal = [m for m in f.linear if is_diagonal(m, k)]
    pairs = _low_rank([m for m in f.linear if not is_diagonal(m, k)], k, f)
    writes = _writes(f, k)
    if pairs is None or writes is None:
        return None
    scalar = not any(fac.labels & set(f.out[k]) for m in diagonal for fac in m.factors)
    decay = r.sum(diagonal, Frame(f.per, () if scalar else (f.out[k],)))
    if decay is None:
        decay = r.b.const(0)
    elif _is_one(decay, r):
        decay = None
    elif not scalar:
        decay = _vector(decay, f, f.out[k], r)
    else:
        decay = r.full(decay, f.type.per, 0)
    columns = r.labels.axis(r.labels.size(f.out[k]))
    low_rank = tuple((_built(a, f, f.out[k], r), _built(b, f, columns, r, inputs=True)) for a, b in pairs)
    v_axis = next((axis for i, axis in enumerate(f.out) if i >= f.n_per and i != k), None)
    built = tuple(
        (_built(u, f, f.out[k], r), None if v is None or v_axis is None else _built(v, f, v_axis, r)) for u, v in writes
    )
    step = MicroStep(decay=decay, log_decay=_log_decay(decay, r), low_rank=low_rank, writes=built)
    symmetric = all(_parallel(a, b, f.out[k], f.per) for a, b in pairs)
    return Micro(step, side, len(pairs), symmetric, scalar)


Part = tuple[Monomial, ...]


def _low_rank(terms: Sequence[Monomial], k: int, f: Framed) -> list[tuple[Part, Part]] | None:
    """(a, b) of sum a b^T, terms with one b put together."""
    found: dict[object, tuple[list[Monomial], Monomial]] = {}
    for m in terms:
        split = parts(m, f.out[k], m.atom_axes[k], f.per)
        if split is None:
            return None
        a, b = split
        found.setdefault(canonical(b), ([], b))[0].append(a)
    if len(found) > MAX_RANK:
        return None
    return [(tuple(a), (b,)) for a, b in found.values()]


def _writes(f: Framed, k: int) -> list[tuple[Part, Part | None]] | None:
    """(u, v) of the offset sum u v^T, terms with one v (or else one u) put together."""
    rest = [axis for i, axis in enumerate(f.out) if i >= f.n_per and i != k]
    if not rest:
        return [(f.offset, None)] if f.offset else []
    by_v: dict[object, tuple[list[Monomial], Monomial]] = {}
    for m in f.offset:
        split = parts(m, f.out[k], rest[0], f.per)
        if split is None:
            return None
        u, v = split
        by_v.setdefault(canonical(v), ([], v))[0].append(u)
    by_u: dict[object, tuple[Part, list[Monomial]]] = {}
    for us, v in by_v.values():
        u_key = tuple((m.coeff, canonical(m)) for m in us)
        by_u.setdefault(u_key, (tuple(us), []))[1].append(v)
    return [(u, tuple(vs)) for u, vs in by_u.values()] if len(by_u) <= MAX_RANK else None


def _parallel(a: Part, b: Part, out: Axis, per: Axes) -> bool:
    """Whether a is a scalar times b, by its factors."""
    if len(a) != 1 or len(b) != 1:
        return False
    split = parts(a[0], (), out, per)
    return split is not None and canonical(split[1]) == canonical(b[0])


def _built(terms: Part, f: Framed, axis: Axis, r: Realiser, inputs: bool = False) -> NodeId:
    """A vector along `axis` (of the terms' own, for `inputs`)."""
    own = terms[0].out[-1] if inputs else axis
    node = _multiple(terms, f, own, r) or r.sum(terms, Frame(f.per, (own,)))
    assert node is not None, "a rank-one term with coefficient zero"
    return _vector(node, f, own, r)


def _multiple(terms: Part, f: Framed, axis: Axis, r: Realiser) -> NodeId | None:
    """c_1 k + c_2 k + ... as (c_1 + c_2 + ...) k, where the numbers are all that the terms differ in."""
    along = [tuple(x for x in m.factors if x.labels & set(axis)) for m in terms]
    if len(terms) < 2 or not along[0] or any(x != along[0] for x in along):
        return None
    if any(len(x.axes) > 1 and labels_of(x.axes) - set(axis) - labels_of(f.per) for x in along[0]):
        return None  # contracted with a factor that is left out
    rest = [replace(m, factors=tuple(x for x in m.factors if x not in along[0])) for m in terms]
    number = r.sum(rest, Frame(f.per, ()))
    vector = r.sum([replace(terms[0], coeff=Fraction(1), factors=along[0])], Frame(f.per, (axis,)))
    return None if number is None or vector is None else r.mul(number, vector)


def _vector(node: NodeId, f: Framed, axis: Axis, r: Realiser) -> NodeId:
    return r.b.broadcast_to(node, (r.labels.size(axis),), f.type.per)


# ---------------------------------------------------------------- small helpers


def _sides(f: Framed) -> list[tuple[str, int]]:
    """The core axis each side acts on."""
    k = f.n_per
    return [("left", k)] if len(f.core) == 1 else [("left", k), ("right", k + 1)] if len(f.core) == 2 else []


def _diagonal_everywhere(m: Monomial) -> bool:
    return m.out == m.atom_axes


def _is_one(node: NodeId, r: Realiser) -> bool:
    return r.b.nodes[node].op == "const" and r.b.nodes[node].attr("value") == 1


def _coefficient(terms: Sum, f: Framed, r: Realiser) -> NodeId | None:
    node = r.sum(terms, Frame(f.per, f.core))
    if node is None:
        return r.b.const(0)
    return None if _is_one(node, r) else r.full(node, f.type.per, len(f.core))


def _offset(f: Framed, r: Realiser) -> NodeId | None:
    node = r.sum(f.offset, Frame(f.per, f.core))
    return None if node is None else r.full(node, f.type.per, len(f.core))


def _log_decay(decay: NodeId | None, r: Realiser) -> NodeId | None:
    """log(decay), of the decay's own shape."""
    log = None if decay is None else r.logs.of[decay]
    if decay is None or log is None or r.b.is_free_scalar(log):
        return log
    t = r.b.type(decay)
    return r.b.broadcast_to(log, t.shape, t.per)

"""Eigenvalues of one micro-step D + sum_r a_r b_r^T, by similarity to a symmetric matrix.

With a = p k and b = q k (elementwise multiples of one vector k, p q >= 0) and D diagonal,

    D + s (p k)(q k)^T  is similar to  D + s u u^T,  u = sqrt(p q) k,

by the diagonal matrix sqrt(q / p); where p or q may be zero, by continuity of eigenvalues.  Factors that D shares with
p q are taken out: D + s D^1/2 v v^T D^1/2 = D^1/2 (I + s v v^T) D^1/2.  This is the case of a (generalised) Householder
matrix c (I - beta k k^T), of Kimi's diag(c) (I - beta k k^T), and of RWKV-7's diag(w) - k (a k)^T, whose eigenvalues
reach down to min w - max a, about -0.455.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from rnnc.analysis import intervals as iv
from rnnc.analysis.elementary import NONNEGATIVE
from rnnc.analysis.forms import MicroStep
from rnnc.analysis.intervals import exactly
from rnnc.analysis.matrix_facts import MatrixFacts, complex_diagonal, diagonal, symmetric
from rnnc.analysis.ranges import Ranges
from rnnc.ir.dims import ONE
from rnnc.ir.evaluate import Domain, Walk
from rnnc.ir.graph import Node, NodeId
from rnnc.ir.types import Interval

MOST_FACTORS = 64  # a longer product is one factor


@dataclass(frozen=True, slots=True)
class Factors:
    """A vector (or number) as sign * product of `scalars` * product of `vectors` (elementwise)."""

    sign: int
    scalars: tuple[NodeId, ...]
    vectors: tuple[NodeId, ...]


def factors(ranges: Ranges, node: NodeId) -> Factors:
    """Views that only broadcast are taken off; what is no product is one factor."""
    return Walk(ranges.nodes, _Factoring(ranges.nodes))[node]


class _Factoring(Domain[Factors]):
    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes

    def is_leaf(self, node: Node) -> bool:
        return node.op not in ("neg", "mul", "lift", "broadcast", "expand")

    def leaf(self, node: Node) -> Factors:
        scalar = all(d == ONE for d in node.type.shape)
        return Factors(1, (node.id,), ()) if scalar else Factors(1, (), (node.id,))

    def apply(self, node: Node, args: tuple[Factors, ...]) -> Factors:
        x, y = args[0], args[-1]
        if node.op == "neg":
            return Factors(-x.sign, x.scalars, x.vectors)
        if node.op == "mul":
            found = Factors(x.sign * y.sign, x.scalars + y.scalars, x.vectors + y.vectors)
            return found if len(found.scalars + found.vectors) <= MOST_FACTORS else self.leaf(node)
        same = not x.vectors or self.nodes[node.args[0]].type.shape == node.type.shape
        return x if same else Factors(1, (), (node.id,))


def micro_step_facts(ranges: Ranges, step: MicroStep) -> MatrixFacts:
    """Facts of the transition of one micro-step."""
    nodes = ranges.nodes
    used = [x for x in (step.decay, *(v for pair in step.low_rank for v in pair)) if x is not None]
    if any(nodes[x].type.dtype != "real" for x in used):
        return _complex_step(ranges, step)
    decay = exactly(1) if step.decay is None else ranges.real(step.decay)
    if not step.low_rank:
        return diagonal(decay)
    if len(step.low_rank) == 1:
        found = _one_term(ranges, step, decay)
        if found is not None:
            return found
    return _several_terms(ranges, step, decay)


def _one_term(ranges: Ranges, step: MicroStep, decay: Interval) -> MatrixFacts | None:
    """D + s (p k)(q k)^T, or None where the two vectors have no vector in common that explains them."""
    a, b = (factors(ranges, x) for x in step.low_rank[0])
    common = _key(a, b)
    if common is None:
        return None
    key, p, q = common
    weights = [*p, *q]
    if weights and not _one_sign(ranges, p, q):
        return None
    sign = a.sign * b.sign
    scalars = [*a.scalars, *b.scalars]
    of_decay = Factors(1, (), ()) if step.decay is None else factors(ranges, step.decay)
    shared, rest, scalars, weights = _shared(ranges, of_decay, scalars, weights)
    size = _size(ranges, scalars, weights, key, step.low_rank[0][0])
    along = iv.mul(exactly(sign), size)
    interval = iv.mul(shared, iv.add(rest, _with_zero(along)))
    missing = "" if interval.lo is not None and interval.hi is not None else _bound_of(ranges, key)
    named = " * ".join(ranges.name(k) for k in key) or "1"
    if p or q:
        norm = iv.add(iv.magnitude(decay), _norm_of_term(ranges, step))
        return MatrixFacts(
            interval=interval,
            modulus=iv.magnitude(interval),
            norm=Interval(lo=Fraction(0), hi=norm.hi, hi_open=norm.hi_open),
            diagonalisable=False,
            why=f"similar to a symmetric matrix: both vectors of the low-rank part are multiples of `{named}`",
            missing=missing,
        )
    found = symmetric(interval, f"symmetric: the low-rank part is a multiple of `{named}` with itself")
    return replace(found, missing=missing)


def _key(a: Factors, b: Factors) -> tuple[list[NodeId], list[NodeId], list[NodeId]] | None:
    """The factors of k, p and q in a = p k and b = q k: k has all that the two share (ones, where neither has any)."""
    p, q, key = list(a.vectors), list(b.vectors), []
    for v in a.vectors:
        if v in q:
            key.append(v)
            p.remove(v)
            q.remove(v)
    return (key, p, q) if key or not (p or q) else None


def _size(ranges: Ranges, scalars: list[NodeId], weights: list[NodeId], key: list[NodeId], vector: NodeId) -> Interval:
    """s |k|^2, weighted; the vector of ones has |1|^2 = its length."""
    if key:
        return ranges.scaled_norm(scalars, weights, key)
    length = ranges.nodes[vector].type.shape[-1]
    size = ranges.scaled_length(scalars, length)
    for w in weights:
        size = iv.mul(ranges.real(w), size)
    return size


def _one_sign(ranges: Ranges, p: list[NodeId], q: list[NodeId]) -> bool:
    """Whether p and q are both nonnegative, entry by entry."""
    return all(iv.within(ranges.real(v), NONNEGATIVE) for v in (*p, *q))


def _shared(
    ranges: Ranges, of_decay: Factors, scalars: list[NodeId], weights: list[NodeId]
) -> tuple[Interval, Interval, list[NodeId], list[NodeId]]:
    """Ranges of C and R of D = C R, C of factors that the low-rank part has too, and that part's factors without them.

    A vector in C must be nonnegative: C^1/2 is taken.  (A number may have any sign: it multiplies the whole.)
    """
    common, rest, scalars, weights = [], [], list(scalars), list(weights)
    for f in (*of_decay.scalars, *of_decay.vectors):
        place = scalars if f in of_decay.scalars else weights
        if f in place and (place is scalars or iv.within(ranges.real(f), NONNEGATIVE)):
            place.remove(f)
            common.append(f)
        else:
            rest.append(f)
    return (
        ranges.product(common),
        iv.mul(exactly(of_decay.sign), ranges.product(rest)),
        scalars,
        weights,
    )


def _with_zero(x: Interval) -> Interval:
    """Eigenvalues of a multiple of u u^T: x along u, zero across it."""
    return iv.union(exactly(0), x)


def _several_terms(ranges: Ranges, step: MicroStep, decay: Interval) -> MatrixFacts:
    """Norms add up; with every term symmetric, so is the sum, and Weyl's inequalities bound it."""
    norm = iv.magnitude(decay)
    interval: Interval | None = decay
    missing = ""
    for a, b in step.low_rank:
        left, right = factors(ranges, a), factors(ranges, b)
        norm = iv.add(norm, _term_norm(ranges, left, right))
        common = _key(left, right)
        if common is None or common[1] or common[2]:
            interval = None
        elif interval is not None:
            size = _size(ranges, [*left.scalars, *right.scalars], [], common[0], a)
            interval = iv.add(interval, _with_zero(iv.mul(exactly(left.sign * right.sign), size)))
        if norm.hi is None and not missing:
            missing = _bound_of(ranges, left.vectors + right.vectors)
    if interval is not None:
        found = symmetric(interval, "symmetric: every low-rank term is a multiple of a vector with itself")
        return replace(found, missing=missing)
    upper = Interval(lo=Fraction(0), hi=norm.hi, hi_open=norm.hi_open)
    return MatrixFacts(
        modulus=upper,
        norm=upper,
        missing=missing or "the low-rank part a b^T is not symmetric: a and b have no common vector",
    )


def _norm_of_term(ranges: Ranges, step: MicroStep) -> Interval:
    a, b = step.low_rank[0]
    return _term_norm(ranges, factors(ranges, a), factors(ranges, b))


def _term_norm(ranges: Ranges, a: Factors, b: Factors) -> Interval:
    """|a| |b|, as a bound."""
    total = exactly(1)
    for f in (a, b):
        total = iv.mul(total, iv.mul(iv.magnitude(ranges.product(f.scalars)), ranges.norm_of_product(f.vectors)))
    return Interval(lo=Fraction(0), hi=total.hi, hi_open=total.hi_open)


def _bound_of(ranges: Ranges, key: Sequence[NodeId]) -> str:
    for k in key:
        if ranges.norm_squared(k).hi is None:
            return f"a bound for |{ranges.name(k)}|^2, for example a unit vector (l2norm)"
    return "a bound for the coefficients of the low-rank part"


def _complex_step(ranges: Ranges, step: MicroStep) -> MatrixFacts:
    """Norms add up; a complex diagonal has the moduli of its entries."""
    decay = exactly(1) if step.decay is None else ranges.modulus(step.decay)
    if not step.low_rank:
        return complex_diagonal(decay, "the transition is complex")
    hermitian = _hermitian(ranges, step)
    if hermitian is not None:
        return hermitian
    norm = decay
    for a, b in step.low_rank:
        size = iv.mul(ranges.norm_squared(a), ranges.norm_squared(b))
        norm = iv.add(norm, Interval(lo=Fraction(0), hi=None if size.hi is None else max(size.hi, Fraction(1))))
    upper = Interval(lo=Fraction(0), hi=norm.hi, hi_open=norm.hi_open)
    return MatrixFacts(modulus=upper, norm=upper, missing="no rule for a complex diagonal plus low-rank transition")


def _hermitian(ranges: Ranges, step: MicroStep) -> MatrixFacts | None:
    """c I + s k k^H with real c and s: Hermitian, with the eigenvalues of the real case."""
    if len(step.low_rank) != 1:
        return None
    a, b = (factors(ranges, x) for x in step.low_rank[0])
    of_decay = Factors(1, (), ()) if step.decay is None else factors(ranges, step.decay)
    numbers = [*a.scalars, *b.scalars, *of_decay.scalars]
    if len(a.vectors) != 1 or len(b.vectors) != 1 or any(ranges.nodes[x].type.dtype != "real" for x in numbers):
        return None
    (k,), (other,) = a.vectors, b.vectors
    if not (_conjugate(ranges, k, other) or _conjugate(ranges, other, k)) or of_decay.vectors:
        return None
    shared, rest, scalars, _ = _shared(ranges, of_decay, [*a.scalars, *b.scalars], [])
    along = iv.mul(exactly(a.sign * b.sign), ranges.scaled_norm(scalars, [], [k]))
    interval = iv.mul(shared, iv.union(rest, iv.add(rest, along)))
    size = iv.magnitude(interval)
    return MatrixFacts(
        interval=interval,
        modulus=size,
        norm=size,
        diagonalisable=True,
        why=f"Hermitian: the low-rank part is a real multiple of `{ranges.name(k)}` with its conjugate",
    )


def _conjugate(ranges: Ranges, x: NodeId, y: NodeId) -> bool:
    n = ranges.nodes[x]
    return n.op == "conj" and n.args[0] == y

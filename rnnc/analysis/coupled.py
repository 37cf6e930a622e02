"""K states coupled position by position: at each position a K by K matrix, whose entries have known ranges."""

from __future__ import annotations

from fractions import Fraction
from typing import TypeAlias

from rnnc.analysis import intervals as iv
from rnnc.analysis.constants import constant_facts, root_above
from rnnc.analysis.elementary import NONNEGATIVE
from rnnc.analysis.forms import Coupled
from rnnc.analysis.intervals import exactly
from rnnc.analysis.matrix_facts import MatrixFacts
from rnnc.analysis.microsteps import factors
from rnnc.analysis.ranges import Ranges
from rnnc.ir.graph import NodeId
from rnnc.ir.types import Interval

Entries: TypeAlias = "list[list[Interval]]"


def coupled_facts(ranges: Ranges, form: Coupled) -> MatrixFacts:
    """Exact for constants, scaled rotations and 2 by 2 matrices with a sign; Gershgorin and row sums otherwise."""
    size = [[exactly(0) if a is None else ranges.modulus(a) for a in row] for row in form.a]
    norm = _norm(size)
    used = [a for row in form.a for a in row if a is not None]
    if any(ranges.nodes[a].type.dtype != "real" for a in used):
        return MatrixFacts(modulus=norm, norm=norm, missing="no rule for complex coupled states")
    entries = [[exactly(0) if a is None else ranges.real(a) for a in row] for row in form.a]
    constant = _constant(entries)
    if constant is not None:
        return constant
    turned = _rotation(ranges, form, norm)
    if turned is not None:
        return turned
    if all(form.a[i][j] == form.a[j][i] for i in range(len(size)) for j in range(i)):
        disks = _gershgorin(entries, size)
        bounded = iv.magnitude(disks)
        both = iv.intersect(Interval(lo=Fraction(0), hi=bounded.hi, hi_open=bounded.hi_open), norm)
        return MatrixFacts(
            interval=disks, modulus=both, norm=both, symmetric=True, diagonalisable=True, why="a symmetric coupling"
        )
    if len(form.states) == 2 and iv.within(iv.mul(entries[0][1], entries[1][0]), NONNEGATIVE):
        found = _real_pair(entries, size)
        return MatrixFacts(
            interval=found,
            modulus=_upper(iv.intersect(iv.magnitude(found), norm)),
            norm=norm,
            why="a 2 by 2 coupling [[a, b], [c, d]] with b c >= 0 has real eigenvalues: (a - d)^2 + 4 b c >= 0",
        )
    missing = "" if norm.hi is not None else "bounds for the coefficients between the states"
    return MatrixFacts(modulus=norm, norm=norm, missing=missing or "the coupling is neither symmetric nor of one sign")


def nonnegative_pair(ranges: Ranges, form: Coupled) -> bool | None:
    """For two states with nonnegative coefficients (a set closed under products, whose eigenvalues are real): whether
    every determinant is nonnegative too.  None for any other coupling.
    """
    used = [a for row in form.a for a in row if a is not None]
    if len(form.states) != 2 or any(ranges.nodes[a].type.dtype != "real" for a in used):
        return None
    (a, b), (c, d) = ([exactly(0) if x is None else ranges.real(x) for x in row] for row in form.a)
    if not all(iv.within(x, NONNEGATIVE) for x in (a, b, c, d)):
        return None
    return iv.within(_determinant(a, b, c, d), NONNEGATIVE)


def _determinant(a: Interval, b: Interval, c: Interval, d: Interval) -> Interval:
    return iv.sub(iv.mul(a, d), iv.mul(b, c))


def _constant(entries: Entries) -> MatrixFacts | None:
    rows = tuple(tuple(x.lo for x in row if x.lo is not None and x.lo == x.hi) for row in entries)
    if any(len(row) != len(entries) for row in rows):
        return None
    found = constant_facts(rows)
    if found is None:
        return None
    return MatrixFacts(
        interval=found.interval,
        modulus=found.radius,
        norm=found.norm,
        orthogonal=found.unit_circle,
        diagonalisable=found.diagonalisable,
        why="by the exact characteristic polynomial of the constant coupling" if found.real else "",
        missing="" if found.real else "the constant coupling has complex eigenvalues",
    )


def _rotation(ranges: Ranges, form: Coupled, norm: Interval) -> MatrixFacts | None:
    """[[a, -b], [b, a]]: a complex number a + i b; |a + i b| = |r| for a = r cos t, b = r sin t."""
    if len(form.states) != 2 or form.a[0][0] != form.a[1][1]:
        return None
    (a, b), (c, _) = form.a
    if a is None or b is None or c is None:
        return None
    minus, plus = factors(ranges, b), factors(ranges, c)
    same = sorted((*minus.scalars, *minus.vectors)) == sorted((*plus.scalars, *plus.vectors))
    if not same or minus.sign == plus.sign:
        return None
    radius = _radius(ranges, a, c)
    modulus = radius if radius is not None else norm
    return MatrixFacts(
        modulus=modulus,
        norm=modulus,
        orthogonal=modulus == exactly(1),
        family="rotation",
        diagonalisable=True,
        why="the two states turn as one complex number",
        missing="the coupling is a scaled rotation: its eigenvalues are complex",
    )


def _radius(ranges: Ranges, a: NodeId, b: NodeId) -> Interval | None:
    """sqrt(a^2 + b^2) with what is known of a and b together."""
    x, y = factors(ranges, a), factors(ranges, b)
    left, right = [*x.scalars, *x.vectors], [*y.scalars, *y.vectors]
    for f in list(left):
        if f in right:
            left.remove(f)
            right.remove(f)
    shared = [*x.scalars, *x.vectors]
    for f in left:
        shared.remove(f)
    scale = iv.magnitude(ranges.product(shared))
    if len(left) == 1 and len(right) == 1 and ranges.on_circle(left[0], right[0]):
        return scale
    squares = iv.add(_square(ranges.product(left)), _square(ranges.product(right)))
    if squares.hi is None:
        return None
    return iv.mul(scale, Interval(lo=Fraction(0), hi=root_above(squares.hi), hi_open=squares.hi_open))


def _square(x: Interval) -> Interval:
    size = iv.magnitude(x)
    return iv.mul(size, size)


def _norm(size: Entries) -> Interval:
    """|A| <= sqrt(|A|_1 |A|_inf), rounded up."""
    rows = [_sum(row) for row in size]
    columns = [_sum(list(column)) for column in zip(*size, strict=True)]
    bound = iv.mul(_largest(rows), _largest(columns))
    if bound.hi is None:
        return NONNEGATIVE
    return Interval(lo=Fraction(0), hi=root_above(bound.hi), hi_open=bound.hi_open)


def _sum(parts: list[Interval]) -> Interval:
    total = exactly(0)
    for p in parts:
        total = iv.add(total, p)
    return total


def _largest(parts: list[Interval]) -> Interval:
    found = parts[0]
    for p in parts[1:]:
        found = iv.at_least(found, p)
    return found


def _gershgorin(entries: Entries, size: Entries) -> Interval:
    """The hull of the disks around the diagonal entries, for real eigenvalues."""
    found: Interval | None = None
    for i, row in enumerate(entries):
        radius = _sum([x for j, x in enumerate(size[i]) if j != i])
        disk = iv.add(row[i], iv.union(radius, iv.neg(radius)))
        found = disk if found is None else iv.union(found, disk)
    assert found is not None
    return found


def _real_pair(entries: Entries, size: Entries) -> Interval:
    """Gershgorin; nonnegative where trace and determinant are."""
    (a, b), (c, d) = entries
    found = _gershgorin(entries, size)
    definite = iv.within(_determinant(a, b, c, d), NONNEGATIVE) and iv.within(iv.add(a, d), NONNEGATIVE)
    return iv.intersect(found, NONNEGATIVE) if definite else found


def _upper(x: Interval) -> Interval:
    return Interval(lo=Fraction(0), hi=x.hi, hi_open=x.hi_open)

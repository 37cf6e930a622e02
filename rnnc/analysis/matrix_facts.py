"""Facts of one matrix, and how they pass through scalings, products and sums."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from rnnc.analysis import intervals as iv
from rnnc.analysis.elementary import NONNEGATIVE
from rnnc.analysis.intervals import exactly
from rnnc.ir.types import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixFacts:
    """`interval`: all eigenvalues are real and lie in it.  `modulus`: of the eigenvalues, `abscissa`: of their real
    parts.  `norm`: all
    singular values lie in it, so its upper end bounds the spectral norm.

    `lower`, `upper`: triangular; a diagonal matrix is both.  `family`: any two matrices with the same family commute
    and are simultaneously diagonalisable over C ("diagonal", "rotation", "circulant").  `monomial`: at most one nonzero
    entry in each row and column.  `diagonalisable`: this matrix over C.
    """

    interval: Interval | None = None
    modulus: Interval = NONNEGATIVE
    abscissa: Interval = iv.ALL
    norm: Interval = NONNEGATIVE
    symmetric: bool = False
    skew: bool = False
    orthogonal: bool = False
    lower: bool = False
    upper: bool = False
    monomial: bool = False
    family: str = ""
    diagonalisable: bool = False
    why: str = ""
    missing: str = ""

    @property
    def semidefinite(self) -> bool:
        """Symmetric with no negative eigenvalue."""
        return self.symmetric and self.interval is not None and iv.within(self.interval, NONNEGATIVE)


def diagonal(
    entries: Interval, why: str = "its transition is diagonal and real: the entries are the eigenvalues"
) -> MatrixFacts:
    size = iv.magnitude(entries)
    return MatrixFacts(
        interval=entries,
        modulus=size,
        norm=size,
        symmetric=True,
        lower=True,
        upper=True,
        monomial=True,
        family="diagonal",
        diagonalisable=True,
        why=why,
    )


def complex_diagonal(modulus: Interval, missing: str) -> MatrixFacts:
    """Entries with these moduli."""
    return MatrixFacts(
        modulus=modulus,
        norm=modulus,
        monomial=True,
        family="diagonal",
        diagonalisable=True,
        orthogonal=modulus == exactly(1),
        missing=missing,
    )


def symmetric(interval: Interval, why: str) -> MatrixFacts:
    size = iv.magnitude(interval)
    return MatrixFacts(interval=interval, modulus=size, norm=size, symmetric=True, diagonalisable=True, why=why)


def orthogonal(why: str, family: str = "") -> MatrixFacts:
    one = exactly(1)
    return MatrixFacts(modulus=one, norm=one, orthogonal=True, family=family, diagonalisable=True, why=why)


def scaled(m: MatrixFacts, by: Interval) -> MatrixFacts:
    """c M for a real number c in `by`."""
    size = iv.magnitude(by)
    return replace(
        m,
        interval=None if m.interval is None else iv.mul(by, m.interval),
        modulus=iv.mul(size, m.modulus),
        abscissa=iv.mul(by, m.abscissa),
        norm=iv.mul(size, m.norm),
        orthogonal=m.orthogonal and size == exactly(1),
    )


def product(a: MatrixFacts, b: MatrixFacts) -> MatrixFacts:
    """A B.  Eigenvalues of a symmetric A and a semidefinite B are those of the symmetric B^1/2 A B^1/2: real, and (by
    Ostrowski) products of numbers in the two ranges.
    """
    norm = iv.mul(a.norm, b.norm)
    lower, upper = a.lower and b.lower, a.upper and b.upper
    family = a.family if a.family == b.family else ""
    interval, why = None, ""
    if a.interval is not None and b.interval is not None:
        if lower or upper or (family and a.symmetric and b.symmetric):
            interval, why = iv.mul(a.interval, b.interval), "a product of triangular matrices: the diagonals multiply"
        elif a.symmetric and b.symmetric and (a.semidefinite or b.semidefinite):
            interval = iv.mul(a.interval, b.interval)
            why = (
                "a product of two symmetric factors, one of them without negative eigenvalues, is similar to a "
                "symmetric matrix"
            )
    both = a.orthogonal and b.orthogonal
    modulus = exactly(1) if both else below(norm) if interval is None else iv.magnitude(interval)
    if family:
        modulus = iv.mul(a.modulus, b.modulus)
    return MatrixFacts(
        interval=interval,
        modulus=modulus,
        norm=norm,
        symmetric=family == "diagonal",
        orthogonal=both,
        lower=lower,
        upper=upper,
        monomial=a.monomial and b.monomial,
        family=family,
        diagonalisable=bool(family) or both,
        why=why,
        missing=a.missing or b.missing or ("" if interval is not None else PRODUCT),
    )


PRODUCT = (
    "a product of symmetric factors need not have real eigenvalues: three projections on lines at 0, 60 and 120 "
    "degrees have the eigenvalue -1/8, and other triples complex pairs"
)


def total(a: MatrixFacts, b: MatrixFacts) -> MatrixFacts:
    """A + B; for symmetric ones, Weyl's inequalities."""
    norm = below(iv.add(a.norm, b.norm))
    lower, upper = a.lower and b.lower, a.upper and b.upper
    both = a.symmetric and b.symmetric
    family = a.family if a.family == b.family else ""
    interval = None
    if a.interval is not None and b.interval is not None and (both or lower or upper):
        interval = iv.add(a.interval, b.interval)
    return MatrixFacts(
        interval=interval,
        modulus=below(norm) if interval is None else iv.magnitude(interval),
        norm=norm if interval is None or not both else iv.magnitude(interval),
        symmetric=both,
        skew=a.skew and b.skew,
        lower=lower,
        upper=upper,
        family=family,
        diagonalisable=both or bool(family),
        why="the transition is symmetric"
        if both
        else "the transition is triangular: the diagonal holds the eigenvalues",
    )


def below(norm: Interval) -> Interval:
    """From zero to the upper end: eigenvalues are no larger than the norm."""
    return Interval(lo=Fraction(0), hi=norm.hi, hi_open=norm.hi_open)

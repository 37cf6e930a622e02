"""What is known of a matrix-valued node: symmetry, orthogonality, eigenvalues and norms, read off how it is built.

A matrix is the last two core axes of a node; axes in front (blocks) and `per` axes hold several of them, and every fact
holds for each, and so for the block-diagonal matrix made of them.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from rnnc.analysis import elementary as el
from rnnc.analysis import intervals as iv
from rnnc.analysis.constants import constant_facts, constant_rows
from rnnc.analysis.elementary import NONNEGATIVE
from rnnc.analysis.intervals import exactly
from rnnc.analysis.matrix_facts import MatrixFacts, below, diagonal, orthogonal, product, scaled, symmetric, total
from rnnc.analysis.ranges import Ranges
from rnnc.ir.dims import ONE, Dim
from rnnc.ir.evaluate import Domain, Walk
from rnnc.ir.graph import Node, NodeId
from rnnc.ir.types import Interval

SAME_MATRIX = frozenset({"lift", "split_per", "merge", "broadcast", "expand"})


class Matrices(Domain[MatrixFacts]):
    """The domain: facts of square matrices; of any other value nothing."""

    def __init__(self, ranges: Ranges) -> None:
        self.ranges = ranges
        self.nodes = ranges.nodes
        self._values = Walk(ranges.nodes, self)

    def facts(self, node: NodeId) -> MatrixFacts:
        """Requires: at least two core axes, the last two of one size."""
        return self._values[node]

    def is_leaf(self, node: Node) -> bool:
        return not node.args or not _is_square(node)

    def leaf(self, node: Node) -> MatrixFacts:
        return self._tightened(node, self._find(node)) if _is_square(node) else MatrixFacts()

    def apply(self, node: Node, args: tuple[MatrixFacts, ...]) -> MatrixFacts:
        return self._tightened(node, self._find(node))

    def _tightened(self, n: Node, found: MatrixFacts) -> MatrixFacts:
        """With what the entries alone say: |A| <= sqrt(|A|_1 |A|_inf)."""
        entries = self._norm_of_entries(n, found)
        norm = _smaller(found.norm, entries)
        missing = found.missing
        if norm.hi is None and not missing:
            missing = f"a bound for the norm of `{self.ranges.name(n.id)}`"
        return replace(found, norm=norm, modulus=_smaller(found.modulus, norm), missing=missing)

    def _norm_of_entries(self, n: Node, found: MatrixFacts) -> Interval:
        size = n.type.shape[-1].constant
        entry = self.ranges.modulus(n.id)
        if found.monomial:
            return Interval(lo=Fraction(0), hi=entry.hi, hi_open=entry.hi_open)
        if size is None or entry.hi is None:
            return NONNEGATIVE
        return Interval(lo=Fraction(0), hi=entry.hi * size, hi_open=entry.hi_open)

    def _find(self, n: Node) -> MatrixFacts:
        if n.type.dtype != "real":
            return self._complex(n)
        match n.op:
            case "const":
                return self._constant(n)
            case "eye":
                return replace(diagonal(exactly(1)), orthogonal=True)
            case "layout":
                return self._layout(n)
            case "rotation_blocks":
                return orthogonal("its blocks are rotations", family="rotation")
            case "neg":
                return scaled(self.facts(n.args[0]), exactly(-1))
            case "transpose" if self._swaps_last(n):
                inner = self.facts(n.args[0])
                return replace(inner, lower=inner.upper, upper=inner.lower)
            case "mul" | "div":
                return self._scaling(n)
            case "einsum":
                return self._contraction(n)
            case "add" | "sub":
                return self._sum(n)
            case "cayley":
                return self._cayley(self.facts(n.args[0]))
            case "expm":
                return self._expm(self.facts(n.args[0]))
            case "softmax":
                return MatrixFacts(modulus=exactly_below(1), missing="softmax rows bound the eigenvalues, not the norm")
            case op if op in SAME_MATRIX and self._keeps_matrix(n):
                return self.facts(n.args[0])
        return MatrixFacts()

    def _complex(self, n: Node) -> MatrixFacts:
        return MatrixFacts(missing="no rule for a complex matrix")

    # ------------------------------------------------------------ leaves and layouts

    def _constant(self, n: Node) -> MatrixFacts:
        value = n.attr("value")
        rows = constant_rows(value)
        if rows is None or n.type.shape != (Dim.of(len(rows)),) * 2:
            return diagonal(exactly(0)) if value == 0 else MatrixFacts()
        size = range(len(rows))
        below = [rows[i][j] for i in size for j in size if i > j]
        above = [rows[i][j] for i in size for j in size if i < j]
        lines = (*rows, *zip(*rows, strict=True))
        shape = MatrixFacts(
            lower=not any(above),
            upper=not any(below),
            monomial=all(sum(1 for v in line if v) <= 1 for line in lines),
            symmetric=all(rows[i][j] == rows[j][i] for i in size for j in size),
            skew=all(rows[i][j] == -rows[j][i] for i in size for j in size),
            family="" if any(below) or any(above) else "diagonal",
        )
        found = constant_facts(rows)
        if found is None:
            return shape
        return replace(
            shape,
            interval=found.interval,
            modulus=found.radius,
            abscissa=found.abscissa,
            norm=found.norm,
            orthogonal=found.unit_circle,
            diagonalisable=found.diagonalisable,
            why="by the exact characteristic polynomial of the constant matrix" if found.real else "",
            missing=""
            if found.real
            else "the constant matrix has complex eigenvalues (by its characteristic polynomial)",
        )

    def _layout(self, n: Node) -> MatrixFacts:
        (argument,) = n.args
        match n.attr("kind"):
            case "diag":
                return diagonal(self.ranges.real(argument))
            case "blockdiag":
                inner = self.facts(argument)
                return replace(inner, family="" if inner.family == "circulant" else inner.family)
            case "circulant":
                return self._circulant(argument)
        return MatrixFacts(missing="no rule bounds the eigenvalues of a companion matrix from its entries")

    def _circulant(self, argument: NodeId) -> MatrixFacts:
        """A normal matrix: its norm is at most the sum of the absolute values of one row."""
        size = self.nodes[argument].type.shape[-1].constant
        entry = self.ranges.modulus(argument)
        norm = NONNEGATIVE
        if self._sums_to_one(argument):
            norm = exactly_below(1)
        elif size is not None and entry.hi is not None:
            norm = Interval(lo=Fraction(0), hi=entry.hi * size, hi_open=entry.hi_open)
        return MatrixFacts(modulus=norm, norm=norm, family="circulant", diagonalisable=True)

    def _sums_to_one(self, node: NodeId) -> bool:
        return self.nodes[node].op in ("softmax", "one_hot")

    # ------------------------------------------------------------ arithmetic

    def _swaps_last(self, n: Node) -> bool:
        perm = n.attr("perm")
        assert isinstance(perm, tuple)
        rank = len(perm)
        return perm == (*range(rank - 2), rank - 1, rank - 2)

    def _keeps_matrix(self, n: Node) -> bool:
        """Whether a view leaves the last two axes as they are."""
        return self.nodes[n.args[0]].type.shape[-2:] == n.type.shape[-2:] and len(n.type.shape) >= 2

    def _is_matrix(self, node: NodeId, like: Node) -> bool:
        return self.nodes[node].type.shape[-2:] == like.type.shape[-2:]

    def _is_number(self, node: NodeId) -> bool:
        """One number for a whole matrix."""
        return all(d == ONE for d in self.nodes[node].type.shape[-2:])

    def _scaling(self, n: Node) -> MatrixFacts:
        x, y = n.args
        pairs = ((x, y),) if n.op == "div" else ((x, y), (y, x))
        for m, c in pairs:
            if not self._is_matrix(m, n) or self.nodes[c].type.dtype != "real":
                continue
            by = self.ranges.real(c) if n.op == "mul" else iv.reciprocal(self.ranges.real(c))
            inner = self.facts(m)
            if self._is_number(c):
                return scaled(inner, by)
            shape = self.nodes[c].type.shape
            if len(shape) >= 2 and (shape[-1] == ONE) != (shape[-2] == ONE):  # scales rows or columns
                return product(diagonal(by), inner)
            if n.op == "mul" and (inner.monomial or inner.lower or inner.upper):
                return self._masked(inner, n)
        return MatrixFacts()

    def _masked(self, mask: MatrixFacts, n: Node) -> MatrixFacts:
        """An elementwise product with a matrix that is zero off its pattern has the zeros of that."""
        entries = self.ranges.real(n.id)
        if mask.lower and mask.upper:
            return diagonal(entries)
        if mask.lower or mask.upper:
            return MatrixFacts(
                interval=entries,
                modulus=iv.magnitude(entries),
                lower=mask.lower,
                upper=mask.upper,
                monomial=mask.monomial,
                why="the transition is triangular: the diagonal holds the eigenvalues",
            )
        return MatrixFacts(monomial=True)

    def _contraction(self, n: Node) -> MatrixFacts:
        inputs, output = str(n.attr("spec")).split("->")
        left, right = inputs.split(",")
        x, y = n.args
        if len(output) != 2:
            return MatrixFacts()
        if len(left) == 1 and len(right) == 1 and x == y:
            size = self.ranges.norm_squared(x)
            return symmetric(iv.union(exactly(0), size), "the transition is an outer product of a vector with itself")
        if len(left) != 2 or len(right) != 2:
            return MatrixFacts()
        shared = [c for c in left if c in right and c not in output]
        if len(shared) != 1:
            return MatrixFacts()
        first, second = (x, left), (y, right)
        if output[0] not in left:
            first, second = second, first
        p, turned_p = self._untransposed(first[0], first[1][0] == shared[0])
        q, turned_q = self._untransposed(second[0], second[1][1] == shared[0])
        if p == q and turned_p != turned_q:
            return self._gram(p)
        if self.nodes[x].type.shape[-1] != self.nodes[x].type.shape[-2]:
            return MatrixFacts()
        found = product(self._turned(p, turned_p), self._turned(q, turned_q))
        return _squared(found, self.facts(p)) if p == q else found

    def _untransposed(self, node: NodeId, turned: bool) -> tuple[NodeId, bool]:
        n = self.nodes[node]
        while n.op == "transpose" and self._swaps_last(n):
            n, turned = self.nodes[n.args[0]], not turned
        return n.id, turned

    def _turned(self, node: NodeId, turned: bool) -> MatrixFacts:
        m = self.facts(node)
        return replace(m, lower=m.upper, upper=m.lower) if turned else m

    def _gram(self, node: NodeId) -> MatrixFacts:
        """M M^T."""
        shape = self.nodes[node].type.shape
        norm = self.facts(node).norm if shape[-1] == shape[-2] else NONNEGATIVE
        squared = iv.mul(norm, norm)
        return symmetric(Interval(lo=Fraction(0), hi=squared.hi, hi_open=squared.hi_open), "the transition is M M^T")

    def _sum(self, n: Node) -> MatrixFacts:
        x, y = n.args
        if not (self._is_matrix(x, n) and self._is_matrix(y, n)):
            return MatrixFacts()
        turned = any(self._is_transpose(p, q) for p, q in ((x, y), (y, x)))
        a, b = self.facts(x), self.facts(y)
        found = total(a, b if n.op == "add" else scaled(b, exactly(-1)))
        if turned and n.op == "add":
            return replace(symmetric(iv.ALL, "the transition is M + M^T"), norm=found.norm, modulus=below(found.norm))
        return replace(found, skew=True, diagonalisable=True) if turned else found

    def _is_transpose(self, p: NodeId, q: NodeId) -> bool:
        n = self.nodes[p]
        return n.op == "transpose" and n.args[0] == q and self._swaps_last(n)

    # ------------------------------------------------------------ functions of a matrix

    def _cayley(self, m: MatrixFacts) -> MatrixFacts:
        """(I + M)^-1 (I - M): orthogonal for a skew M; (1 - x) / (1 + x) of the eigenvalues of a semidefinite one."""
        if m.skew:
            return orthogonal("the Cayley transform of a skew matrix is orthogonal")
        if m.semidefinite and m.interval is not None:
            ratio = iv.sub(iv.mul(exactly(2), iv.reciprocal(iv.add(exactly(1), m.interval))), exactly(1))
            return symmetric(ratio, "the Cayley transform of a symmetric matrix is symmetric")
        return MatrixFacts(lower=m.lower, upper=m.upper)

    def _expm(self, m: MatrixFacts) -> MatrixFacts:
        if m.skew:
            return orthogonal("the exponential of a skew matrix is orthogonal")
        if m.interval is None:
            if m.abscissa.hi is None:
                return MatrixFacts()
            bound = iv.intersect(iv.monotone(iv.exp, m.abscissa), iv.between(0, None))
            why = "the modulus of the exponential of an eigenvalue is that of its real part"
            return MatrixFacts(modulus=replace(bound, lo=Fraction(0), lo_open=False), why=why)
        image = iv.intersect(iv.monotone(iv.exp, m.interval), iv.between(0, None))
        if m.symmetric:
            found = symmetric(image, "the exponential of a symmetric matrix is positive definite")
            return replace(found, lower=m.lower, upper=m.upper, family=m.family, monomial=m.family == "diagonal")
        if m.lower or m.upper:
            return MatrixFacts(
                interval=image,
                modulus=image,
                lower=m.lower,
                upper=m.upper,
                why="the exponential of a triangular matrix",
            )
        return MatrixFacts(interval=image, modulus=image, why="the exponential of a matrix with real eigenvalues")


def _squared(found: MatrixFacts, m: MatrixFacts) -> MatrixFacts:
    """The facts of a product M M, with the squares of the eigenvalues."""
    modulus = iv.intersect(found.modulus, iv.mul(m.modulus, m.modulus))
    if m.interval is None:
        return replace(found, modulus=modulus)
    why = found.why or "the square of a matrix with real eigenvalues"
    return replace(found, interval=el.power(m.interval, Fraction(2)), modulus=modulus, why=why)


def _is_square(n: Node) -> bool:
    return n.type.rank >= 2 and n.type.shape[-1] == n.type.shape[-2]


def exactly_below(bound: int | Fraction) -> Interval:
    """[0, bound]."""
    return Interval(lo=Fraction(0), hi=Fraction(bound))


def _smaller(x: Interval, y: Interval) -> Interval:
    """Two enclosures of one number, put together."""
    return iv.intersect(x, y)

"""What an update makes of the states before it: eigenvalues and norm of its transition, for all weights and inputs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from rnnc.ir.dims import ONE as SINGLE
from rnnc.ir.graph import CellIR, ancestors, is_static
from rnnc.ir.types import Disk, Domain, HalfPlane, Interval, UnitNorm
from rnnc.verify.trusted.matrices import (
    characteristic,
    fades,
    gershgorin,
    norm_bound,
    real_pair,
    real_roots,
    root,
    sum_of,
)
from rnnc.verify.trusted.products import Expansion, NoForm
from rnnc.verify.trusted.ranges import (
    FULL,
    INF,
    ONE,
    POSITIVE,
    VIEWS,
    ZERO,
    Range,
    Ranges,
    add,
    closed,
    hull,
    least,
    magnitude,
    mul,
    reciprocal,
    upto,
)

# the largest |derivative| of functions of numbers
SLOPES = dict.fromkeys(("neg", "conj", "re", "im", "abs", "tanh", "relu", "sin", "cos", "softplus", "logsigmoid"), ONE)
SLOPES |= {"sigmoid": closed(0, 0.25), "erf": closed(0, 1.13), "silu": closed(0, 1.1), "gelu": closed(0, 1.13)}
OVER_COMPLEX = ("neg", "conj", "re", "im", "abs")


@dataclass(frozen=True, kw_only=True)
class Transition:
    """The matrix A of S' = A S + B, for every input.

    `eigenvalues`: where they lie, if all are real; `products`: where those of all products over time do, if all are.
    `diagonal`: one change of basis over C makes all A diagonal.  `nodes`: what A is made of; `single`: it is a product
    of these, with no sign.  `fades`: A is a matrix of numbers whose eigenvalues lie inside the unit disk.
    """

    eigenvalues: Range | None = None
    products: Range | None = None
    norm: Range = POSITIVE
    diagonal: bool = False
    symmetric: bool = False
    elementwise: bool = False
    blocks: bool = False  # states coupled position by position, or a matrix along one axis
    low_rank: bool = False  # along one axis, beside a diagonal; what is written has rank one
    single: bool = False
    adds: bool = True  # B is not zero
    fades: bool = False
    nodes: frozenset[int] = frozenset()

    def lies_in(self, wanted: Domain, kind: str) -> bool:
        """Whether the eigenvalues, which are no larger than the norm, or the norm lie in a set."""
        found = self.norm if kind == "norm" or self.eigenvalues is None else self.eigenvalues
        around = self.norm._replace(lo=-self.norm.hi, lo_open=self.norm.hi_open)
        match wanted:
            case Disk(radius=r):
                return least(self.norm, magnitude(found)).within(Interval(hi=r))
            case HalfPlane(bound=b, above=up, strict=strict):
                half = Interval(lo=b, lo_open=strict) if up else Interval(hi=b, hi_open=strict)
                return (around if self.eigenvalues is None else found).within(half)
            case Interval():
                return (kind == "norm" or self.eigenvalues is not None) and found.within(wanted)
        return False


class Part(NamedTuple):
    """One term of an update: coef * factors * state (number `column`); the labels of the state and of the whole."""

    row: int
    column: int
    coef: Range
    factors: Counter[tuple[int, tuple[int, ...]]]
    at: tuple[int, ...]
    out: tuple[Any, ...]


class Transitions:
    """Of the states of one cell, and of values between them."""

    def __init__(self, cell: CellIR, ranges: Ranges) -> None:
        self.cell, self.nodes, self.ranges = cell, cell.nodes, ranges

    def of(self, states: tuple[int, ...], updates: tuple[int, ...]) -> Transition:
        """The map from some nodes to others, by its terms or as a product of two maps.  Raises NoForm."""
        found: Transition | NoForm
        try:
            found = self.by_terms(states, updates)
        except NoForm as error:
            found = error
        open_ = isinstance(found, NoForm) or (not found.diagonal and found.eigenvalues is None and found.norm.hi == INF)
        between = self.between(states[0], updates[0]) if open_ and len(states) == 1 else None
        if between is not None:
            a, b = self.of(states, (between,)), self.of((between,), updates)
            for one, other in ((a, b), (b, a)):
                if one.eigenvalues == ONE and not one.nodes:  # the identity, beside what is added
                    return replace(other, adds=one.adds or other.adds)
            size, nodes = mul(a.norm, b.norm), a.nodes | b.nodes
            x, y = a.eigenvalues, b.eigenvalues
            if x is None or y is None or not (a.symmetric and b.symmetric) or max(x.lo, y.lo) < 0:
                return Transition(norm=size, nodes=nodes, low_rank=a.low_rank and b.low_rank)
            return Transition(eigenvalues=mul(x, y), norm=size, nodes=nodes, low_rank=a.low_rank and b.low_rank)
        if isinstance(found, NoForm):
            raise found
        return found

    def between(self, state: int, update: int) -> int | None:
        """The last value of the state's type through which all ways from it lead."""
        for i in sorted(ancestors(self.cell, [update]) - {state, update}, reverse=True):
            through = state in ancestors(self.cell, [i]) and state not in ancestors(self.cell, [update], frozenset({i}))
            if through and self.nodes[i].type == self.nodes[state].type:
                return i
        return None

    def by_terms(self, states: tuple[int, ...], updates: tuple[int, ...]) -> Transition:
        """From the update as a sum of products."""
        types = [self.nodes[s].type for s in states]
        shape, rank = (*types[0].per, *types[0].shape), types[0].rank
        if any((*t.per, *t.shape) != shape for t in types):
            raise NoForm("states of several shapes depend on each other")
        expansion, parts, apart, adds = Expansion(self.cell, frozenset(states)), list[Part](), True, False
        for row, update in enumerate(updates):
            for t in (t.in_order() for t in expansion.terms(update)):
                own = [(states.index(n), at) for n, at in t.factors if n in states]
                factors = Counter(f for f in t.factors if f[0] not in states)
                apart &= rank == 1 or not any(set(t.out[-2:]) <= set(at) for _, at in factors)
                adds |= not own
                if len(own) > 1:
                    raise NoForm("a product of the state with itself")
                for column, at in own:
                    out = tuple(x for x, d in zip(t.out, shape, strict=True) if d != SINGLE)
                    summed = any(set(x) - {*out, *at} for _, x in factors)
                    parts.append(Part(row, column, FULL if summed else closed(t.coef, t.coef), factors, at, out))
        nodes = frozenset(n if n >= 0 else -1 - n for p in parts for n, _ in p.factors)
        s = self.matrix(parts, len(states), all(self.nodes[i].type.dtype != "complex" for i in nodes))
        basis = s.diagonal or (s.symmetric and is_static(self.nodes, nodes))
        products = (POSITIVE if s.eigenvalues.lo >= 0 else FULL) if basis and s.eigenvalues else s.products
        low_rank = apart and (s.low_rank or (s.elementwise and rank == 2))
        return replace(s, nodes=nodes, diagonal=basis, products=products, low_rank=low_rank, adds=adds)

    def matrix(self, parts: list[Part], size: int, real: bool) -> Transition:
        moved = {k for p in parts for k, (a, b) in enumerate(zip(p.at, p.out)) if a != b}
        if any(None in p.out or len(p.at) != len(p.out) for p in parts):
            return Transition()
        if not moved:
            return replace(self.at_each_position(parts, size, real), blocks=size > 1)
        if size == 1 and len(moved) == 1 and all(len({*p.at, *p.out}) <= len(p.at) + 1 for p in parts):
            return self.constant(parts) or self.along_one_axis(parts, moved.pop())
        if all(sorted(p.at) == sorted(p.out) and len({*p.at}) == len(p.at) for p in parts):  # axes change places
            return Transition(norm=upto(self.entry(parts, True)))
        return Transition()

    def product(self, coef: Range, factors: Counter[Any], size: bool = False) -> Range:
        """The range of an entry of a product, or of its modulus."""
        one = magnitude(coef) if size else coef
        for (n, _), times in factors.items():
            node = self.ranges.of(n, size) if n >= 0 else reciprocal(self.ranges.of(-1 - n, size))
            one = reduce(mul, [mul(magnitude(node), magnitude(node))] * (times // 2) + [node] * (times % 2), one)
        return one

    def entry(self, parts: list[Part], size: bool = False) -> Range:
        return sum_of([self.product(p.coef, p.factors, size) for p in parts])

    def at_each_position(self, parts: list[Part], size: int, real: bool) -> Transition:
        """States coupled position by position: of one state a diagonal, of several a small matrix of intervals."""
        at = [[[p for p in parts if (p.row, p.column) == (i, j)] for j in range(size)] for i in range(size)]
        m = [[self.entry(x) for x in row] for row in at]
        norm = norm_bound(
            [[upto(magnitude(self.entry(x)) if real else self.entry(x, True)) for x in row] for row in at]
        )
        if size == 1:
            one = len(parts) == 1 and parts[0].coef.lo >= 0
            norm = magnitude(m[0][0]) if real else self.entry(parts, True) if len(parts) == 1 else norm
            eigenvalues = m[0][0] if real else None
            return Transition(
                elementwise=True, diagonal=True, eigenvalues=eigenvalues, norm=norm, single=one, symmetric=real
            )
        if not real:
            return Transition(norm=norm)
        if all(x.lo == x.hi for row in m for x in row):
            return rational([[x.lo for x in row] for row in m])
        terms = [[Counter((p.coef.lo, frozenset(p.factors.items())) for p in x) for x in row] for row in at]
        if all(terms[i][j] == terms[j][i] for i in range(size) for j in range(i)):
            disks = gershgorin(m)
            products = real_pair(m)[1] if size == 2 else None
            return Transition(eigenvalues=disks, norm=least(norm, magnitude(disks)), symmetric=True, products=products)
        if size == 2:
            minus = Counter((-c, f) for c, f in terms[1][0].elements())
            if terms[0][0] == terms[1][1] and terms[0][1] == minus:  # a complex number
                return Transition(diagonal=True, norm=self.radius(at[0][0], at[0][1]))
            one_step, products = real_pair(m)
            return Transition(eigenvalues=one_step, products=products, norm=norm)
        return Transition(norm=norm)

    def radius(self, a: list[Part], b: list[Part]) -> Range:
        """sqrt(a^2 + b^2); of r cos t and r sin t it is r."""
        if len(a) == len(b) == 1 and magnitude(a[0].coef) == magnitude(b[0].coef):
            c, s = ([self.nodes[n] for (n, _), _ in (x[0].factors - y[0].factors).items()] for x, y in ((a, b), (b, a)))
            if len(c) == len(s) == 1 and {c[0].op, s[0].op} == {"cos", "sin"} and c[0].args == s[0].args:
                return magnitude(self.product(a[0].coef, a[0].factors & b[0].factors))
        return root(add(*(mul(magnitude(self.entry(x)), magnitude(self.entry(x))) for x in (a, b))))

    def constant(self, parts: list[Part]) -> Transition | None:
        """A sum of matrices of rational numbers."""
        total: Any = 0
        for p in parts:
            arrays = [self.nodes[n] for n, _ in p.factors.elements() if n >= 0]
            if len(p.at) != 1 or p.coef.lo != p.coef.hi or any(n.op != "const" for n in arrays) or len(arrays) != 1:
                return None
            value = np.array(arrays[0].attr("value"), dtype=object)
            (_, x), labels = next(iter(p.factors)), (p.out[0], p.at[0])
            if value.ndim != 2 or set(x) != set(labels):
                return None
            total = total + p.coef.lo * (value if x == labels else value.T)
        return rational(total.tolist())

    def along_one_axis(self, parts: list[Part], axis: int) -> Transition:
        """D + sum of c k k^T is symmetric, and bounded by Weyl's inequality.

        With p, q >= 0 and C the factors that D = C R has in common with the other part, C R + c (p k)(q k)^T is similar
        to C^1/2 (R + c' k k^T) C^1/2, c' = c p q / C, whose eigenvalues are products of such of both.
        """
        sides, weights, norm = [], set(), ZERO
        for p in parts:
            o, b = p.out[axis], p.at[axis]
            left, right = (Counter({f: n for f, n in p.factors.items() if x in f[1] and o != b}) for x in (o, b))
            if any(set(x) - {o, *p.out} for _, x in left) or any(o in x or set(x) - {b, *p.out} for _, x in right):
                return Transition(blocks=True)
            mates = Counter({(self.mate(n), tuple(o if y == b else y for y in x)): c for (n, x), c in right.items()})
            rest, key = p.factors - left - right, left & mates
            lengths = [root(self.squared(side)) for side in (left, right) if o != b]
            norm = add(norm, reduce(mul, lengths, self.product(p.coef, rest, True)))
            if o != b:
                weights.add((frozenset((left - key).items()), frozenset((mates - key).items())))
            sides.append((p, rest + (left - key) + (mates - key), key, o != b))
        bent = [n for both in weights for side in both for (n, _), _ in side]
        scalars = [n if n >= 0 else -1 - n for _, rest, _, _ in sides for n, _ in rest]
        found = Transition(low_rank=True, norm=upto(norm))
        if (len(weights) != 1 and bent) or any(n < 0 or self.ranges.of(n).lo < 0 for n in bent):
            return found
        if any(self.nodes[n].type.dtype == "complex" for n in scalars):
            return found
        shared, inner = reduce(lambda x, y: x & y, (rest for _, rest, _, _ in sides)), ZERO
        for p, rest, key, across in sides:
            part = self.product(p.coef, rest - shared)
            part = mul(part, self.squared(key)) if across else part
            inner = add(inner, hull([*part.ends, (Fraction(0), False)]) if across else part)
        whole = mul(self.product(ONE, shared), inner)
        if bent:
            return replace(found, eigenvalues=whole)
        keys = {n for _, _, key, _ in sides for (n, _) in key}
        vectors = any(p.out[axis] in x for p, rest, _, across in sides if not across for _, x in rest)
        fixed = len({frozenset(k.items()) for _, _, k, across in sides if across}) == 1 and is_static(self.nodes, keys)
        return replace(found, eigenvalues=whole, norm=magnitude(whole), symmetric=True, diagonal=fixed and not vectors)

    def mate(self, n: int) -> int:
        """The complex conjugate of a factor; what no node is has a number of its own."""
        if n < 0 or self.nodes[n].type.dtype != "complex":
            return n
        same = (m.id for m in self.nodes if m.op == "conj" and m.args == (n,))
        return self.nodes[n].args[0] if self.nodes[n].op == "conj" else next(same, -1 - len(self.nodes) - n)

    def squared(self, factors: Counter[Any]) -> Range:
        """The range of the sum of squares of a product of vectors along their last axis."""
        best = POSITIVE
        for f in factors:
            others = self.product(ONE, factors - Counter([f]), True)
            best = least(best, mul(self.squared_norm(f[0]), mul(others, others)))
        return best

    def squared_norm(self, i: int) -> Range:
        n = self.nodes[i] if i >= 0 else self.nodes[-1 - i]
        if i >= 0 and n.op in ("lift", "merge", "split_per", "conj") and n.type.rank:
            return self.squared_norm(n.args[0])
        if i >= 0 and (isinstance(self.ranges.domains.get(i), UnitNorm) or n.op == "l2norm"):
            return closed(0, 1) if n.attr("eps") else ONE
        entry = magnitude(self.ranges.of(i, True)) if i >= 0 and n.type.rank else POSITIVE
        count = n.type.shape[-1].constant if n.type.rank else None
        return POSITIVE if count is None else upto(mul(closed(count, count), mul(entry, entry)))

    # ------------------------------------------------------------ updates of any kind

    def slope(self, i: int, states: frozenset[int]) -> Range:
        """A bound on the Lipschitz constant of a node in some states together."""
        n = self.nodes[i]
        if i in states or not states & ancestors(self.cell, [i]):
            return ONE if i in states else ZERO
        if len(states) == 1 and n.type == self.nodes[min(states)].type:
            try:
                return upto(self.of((min(states),), (i,)).norm)
            except NoForm:
                pass
        own, free = ([a for a in n.args if bool(states & ancestors(self.cell, [a])) == x] for x in (True, False))
        parts = [self.slope(a, states) for a in own]
        real = all(self.nodes[a].type.dtype == "real" for a in own)
        whole = all([d for d in self.nodes[a].type.shape if d != SINGLE] == [d for d in n.type.shape if d != SINGLE]
                    and self.nodes[a].type.per == n.type.per for a in own)  # fmt: skip
        if n.op in VIEWS and n.op not in ("lift", "broadcast", "take"):
            return parts[0]
        if n.op in SLOPES and (real or n.op in OVER_COMPLEX):
            return mul(parts[0], SLOPES[n.op])
        if whole and (n.op in ("add", "sub", "max", "min") or (n.op == "select" and n.args[0] in free)):
            return sum_of(parts)
        if whole and n.op == "mul" and len(own) + len(free) == 2:
            others = [*free, *own[::-1]] if free else own[::-1]
            return sum_of([mul(x, self.ranges.of(o, True)) for x, o in zip(parts, others)])
        if whole and n.op == "div" and n.args[1] in free:
            return mul(parts[0], magnitude(reciprocal(self.ranges.of(n.args[1]))))
        return POSITIVE


def rational(a: list[list[Fraction]]) -> Transition:
    """A matrix of rational numbers."""
    squares = [[sum((x[i] * x[j] for x in a), Fraction(0)) for j in range(len(a))] for i in range(len(a))]
    largest = real_roots(characteristic(squares))
    assert largest is not None, "a symmetric matrix has real eigenvalues"
    same = all(a[i][j] == a[j][i] for i in range(len(a)) for j in range(i))
    values = real_roots(characteristic(a))
    return Transition(eigenvalues=values, norm=root(upto(largest)), symmetric=same, blocks=True, fades=fades(a))

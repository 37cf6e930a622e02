"""Facts of finite groups of permutations, and the task of tracking one.

Small groups are worked out element by element; larger ones by sympy.combinatorics (Schreier-Sims), whose import alone
takes longer than the analysis of a cell.  Names come from an explicit isomorphism.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from rnnc.groups import Permutation, closure, compose, cycle_notation, standard_generators
from rnnc.verify.languages.dfa import DFA, MAX_TRANSITIONS, TooLarge
from rnnc.verify.languages.monoid import moved

MAX_ELEMENTS = 50_000  # states of a word problem
MAX_NAMED = 720  # above this order an isomorphism is not searched for
MAX_LISTED = 720  # up to this order the elements are listed, above it sympy is asked


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """What is known of a finite group.

    `name` as in claims (`S(3)`, `Z(4) * Z(2)`), empty when none is recognised.  `derived_length`: the number of steps
    of the derived series down to the trivial group, None when it never gets there.  No subnormal series with abelian
    factors is shorter (each of its terms contains the derived group of the same number), so it is the least number k
    of theorem N3k.
    """

    name: str
    order: int
    abelian: bool
    cyclic: bool
    nilpotent: bool
    solvable: bool
    derived_length: int | None
    derived_orders: tuple[int, ...]  # of the derived series, from the group itself to where it stops

    @property
    def shown(self) -> str:
        """The name, or how large the group is."""
        return self.name or f"a group of order {self.order}"


def group_facts(generators: Sequence[Permutation], name: str = "") -> GroupFacts:
    """The facts of the group that permutations of one size generate; `name` is taken as it is when given."""
    elements = closure(generators, MAX_LISTED)
    structure = _large(generators) if elements is None else _listed(generators, elements)
    orders, abelian = structure.derived_orders, structure.abelian
    solvable = orders[-1] == 1
    return GroupFacts(
        name=name or _recognised(structure, generators),
        order=orders[0],
        abelian=abelian,
        cyclic=abelian and len(structure.invariants) <= 1,
        nilpotent=structure.nilpotent,
        solvable=solvable,
        derived_length=len(orders) - 1 if solvable else None,
        derived_orders=orders,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Structure:
    """Orders along the derived series; `prime_powers`: orders of the cyclic factors of an abelian group."""

    derived_orders: tuple[int, ...]
    nilpotent: bool
    prime_powers: tuple[int, ...] = ()

    @property
    def order(self) -> int:
        return self.derived_orders[0]

    @property
    def abelian(self) -> bool:
        return self.derived_orders[-1] == 1 and len(self.derived_orders) <= 2

    @property
    def invariants(self) -> list[int]:
        """Orders of cyclic groups whose product an abelian group is, each a divisor of the one before."""
        by_prime: dict[int, list[int]] = {}
        for power in self.prime_powers:
            by_prime.setdefault(next(p for p in range(2, power + 1) if power % p == 0), []).append(power)
        columns = [sorted(powers, reverse=True) for powers in by_prime.values()]
        length = max(map(len, columns), default=0)
        return [math.prod(column[i] for column in columns if i < len(column)) for i in range(length)]


def _large(generators: Sequence[Permutation]) -> _Structure:
    """The structure of a group too large to list."""
    from sympy.combinatorics import Permutation as SympyPermutation
    from sympy.combinatorics import PermutationGroup

    group = PermutationGroup([SympyPermutation(list(g)) for g in generators])
    return _Structure(
        derived_orders=tuple(int(term.order()) for term in group.derived_series()),
        nilpotent=bool(group.is_nilpotent),
        prime_powers=tuple(map(int, group.abelian_invariants())) if group.is_abelian else (),
    )


def _listed(generators: Sequence[Permutation], elements: list[Permutation]) -> _Structure:
    """The structure of a group of which all elements are at hand."""
    derived = _series(generators, lambda term: (term, term))
    central = _series(generators, lambda term: (term, generators))
    return _Structure(
        derived_orders=derived,
        nilpotent=central[-1] == 1,
        prime_powers=_prime_powers(elements) if derived[-1] == 1 and len(derived) <= 2 else (),
    )


def _series(
    generators: Sequence[Permutation],
    pair: Callable[[Sequence[Permutation]], tuple[Sequence[Permutation], Sequence[Permutation]]],
) -> tuple[int, ...]:
    """Orders of the series in which each term is the group of commutators of the `pair` of the one before.

    All terms are normal: a group of commutators is the normal closure of those of generators.
    """
    term: Sequence[Permutation] = generators
    orders = [len(_group(term))]
    while orders[-1] > 1:
        left, right = pair(term)
        term = _normal_closure([_commutator(x, y) for x in left for y in right], generators)
        orders.append(len(_group(term)))
        if orders[-1] == orders[-2]:
            return tuple(orders[:-1])
    return tuple(orders)


def _group(generators: Sequence[Permutation], most: int = MAX_LISTED) -> set[Permutation]:
    """The elements of a subgroup of a group that has at most `most`."""
    elements = closure(generators, most)
    assert elements is not None, "a subgroup is no larger than the group"
    return set(elements)


def _commutator(x: Permutation, y: Permutation) -> Permutation:
    return compose(compose(x, y), compose(_inverse(x), _inverse(y)))


def _inverse(p: Permutation) -> Permutation:
    return tuple(sorted(range(len(p)), key=p.__getitem__))


def _normal_closure(found: Sequence[Permutation], generators: Sequence[Permutation]) -> list[Permutation]:
    """Generators of the smallest normal subgroup that contains `found`."""
    chosen = few_generators(found)
    inside = _group(chosen)
    for x in chosen:  # grows while it is walked
        for g in generators:
            conjugate = compose(compose(g, x), _inverse(g))
            if conjugate not in inside:
                chosen.append(conjugate)
                inside = _group(chosen)
    return chosen


def _prime_powers(elements: list[Permutation]) -> tuple[int, ...]:
    """Of an abelian group: p^k kills prod p^min(k, e) of its elements, over the factors of order p^e."""
    orders, powers = [_element_order(e) for e in elements], list[int]()
    for p in (p for p in range(2, len(elements) + 1) if len(elements) % p == 0 and all(p % q for q in range(2, p))):
        killed, k, counts = 1, 0, list[int]()
        while (more := sum(p ** (k + 1) % n == 0 for n in orders)) > killed:
            counts.append(round(math.log(more // killed, p)))  # factors of order p^(k + 1) or more
            killed, k = more, k + 1
        powers += [p ** sum(c > i for c in counts) for i in range(counts[0])]
    return tuple(powers)


def few_generators(elements: Sequence[Permutation], most: int = MAX_LISTED) -> list[Permutation]:
    """Few of the elements that generate the same group, which has at most `most` of them."""
    chosen = [tuple(range(len(elements[0])))]
    reached = set(chosen)
    for e in elements:
        if e not in reached:
            chosen.append(e)
            reached = _group(chosen, most)
    return chosen


# ---------------------------------------------------------------- names


def _recognised(group: _Structure, generators: Sequence[Permutation]) -> str:
    """The name of an abelian, symmetric, alternating or dihedral group, or of the quaternions; else nothing."""
    order = group.order
    if group.abelian:
        return " * ".join(f"Z({m})" for m in group.invariants) or "Z(1)"
    touched = sum(any(g[q] != q for g in generators) for q in range(len(generators[0])))
    for family, wanted in (("S", math.factorial(touched)), ("A", math.factorial(touched) // 2)):
        if order == wanted:  # all permutations of these points, or the only half that is a group
            return f"{family}({touched})"
    if order > MAX_NAMED:
        return ""
    elements = closure(generators, order)
    assert elements is not None
    return next((name for name, wanted in _candidates(order) if _isomorphic(elements, wanted)), "")


def _candidates(order: int) -> Iterator[tuple[str, list[Permutation]]]:
    """Non-abelian groups of this order that have a name, with two generators each."""
    for n in range(3, 7):
        if math.factorial(n) == order:
            yield f"S({n})", list(standard_generators("s", n))
        if n > 3 and math.factorial(n) // 2 == order:
            long = (*range(1, n), 0) if n % 2 else (0, *range(2, n), 1)
            yield f"A({n})", [(1, 2, 0, *range(3, n)), long]
    if order % 2 == 0 and order > 4:
        yield f"D({order // 2})", list(standard_generators("d", order // 2))
    if order == 8:
        yield "Q8", [(1, 2, 3, 0, 5, 6, 7, 4), (4, 7, 6, 5, 2, 1, 0, 3)]


def _element_order(p: Permutation) -> int:
    lengths = [len(part.split()) for part in cycle_notation(p)[1:-1].split(")(")]
    return math.lcm(*(n for n in lengths if n))


def _isomorphic(elements: list[Permutation], wanted: list[Permutation]) -> bool:
    """Whether the group with these elements is the one that two permutations generate (of the same order).

    Looks for images of the two: they extend to an isomorphism iff the pairs generate a group that is no larger, and in
    which only the identity is paired with the identity.
    """
    a, b = wanted
    orders = (_element_order(a), _element_order(b), _element_order(compose(a, b)))
    by_order: dict[int, list[Permutation]] = {}
    for e in elements:
        by_order.setdefault(_element_order(e), []).append(e)
    size, degree = len(elements), len(a)
    for x in by_order.get(orders[0], []):
        for y in by_order.get(orders[1], []):
            if _element_order(compose(x, y)) != orders[2]:
                continue
            pairs = closure([_side_by_side(a, x), _side_by_side(b, y)], size)
            if pairs is not None and len({p[degree:] for p in pairs}) == size:
                return True
    return False


def _side_by_side(a: Permutation, b: Permutation) -> Permutation:
    """The permutation that does a, and b on further points."""
    return (*a, *(len(a) + q for q in b))


# ---------------------------------------------------------------- tasks


@dataclass(frozen=True, kw_only=True)
class GroupTask:
    """`tracks group G`: read an element of G each step, and report the product of all so far, the newest on the left.

    `letters` are pairs (name, permutation) on `degree` points; they generate G, whose standard `generators` may be
    fewer.  The states of `dfa` are the elements; as an automaton it accepts the words whose product is the identity.
    """

    name: str  # as the claim writes it
    group: str  # the same without its letters
    generators: tuple[Permutation, ...]
    letter_source: Callable[[], tuple[tuple[str, Permutation], ...]] = field(repr=False, compare=False)
    letters_from: str = "all"

    @property
    def degree(self) -> int:
        """On how many points the permutations act."""
        return len(self.generators[0])

    @cached_property
    def letters(self) -> tuple[tuple[str, Permutation], ...]:
        """Raises TooLarge when the elements are too many to be letters."""
        return self.letter_source()

    @cached_property
    def facts(self) -> GroupFacts:
        return group_facts(self.generators, self.group if self.group[:2] in ("S(", "A(", "D(") else "")

    @property
    def order(self) -> int:
        return self.facts.order

    @cached_property
    def most_moved(self) -> int:
        """The most points that one letter moves: that many, less one, reflections do (Grazzi et al. 2025, Thm 3)."""
        return max(moved(p) for _, p in self.letters)

    @cached_property
    def dfa(self) -> DFA:
        """The transducer.  Raises TooLarge.

        It is minimal: two different elements g, h are told apart by any word whose product is the inverse of g.
        """
        letters = self.letters
        most = min(MAX_ELEMENTS, MAX_TRANSITIONS // len(letters))
        elements = closure([p for _, p in letters], most)
        if elements is None:
            raise TooLarge(f"{self.name} has more than {most} elements, too many to be states")
        index = {e: i for i, e in enumerate(elements)}
        return DFA(
            alphabet=tuple(name for name, _ in letters),
            states=tuple(map(cycle_notation, elements)),
            delta=tuple(tuple(index[compose(p, e)] for _, p in letters) for e in elements),
            start=0,
            accept=frozenset({0}),
        )

    def shown_letters(self) -> str:
        match self.letters_from:
            case "all":
                return "all elements"
            case "swaps":
                return "the swaps of two points"
            case _:
                return "the generators"


def all_elements(name: str, generators: tuple[Permutation, ...]) -> tuple[tuple[str, Permutation], ...]:
    """Every element, called by its cycles.  Raises TooLarge."""
    most = math.isqrt(MAX_TRANSITIONS)  # there are as many states as letters
    elements = closure(generators, most)
    if elements is None:
        raise TooLarge(f"{name} has more than {most} elements, too many to be letters")
    return tuple((cycle_notation(e), e) for e in elements)

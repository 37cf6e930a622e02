"""Automata in pieces: quotients whose states together tell the automaton's, and what their letters do.

Where a permutation group acts on points, a piece is where one point goes; else a piece is the automaton modulo a
congruence.  Of many letters a few are enough that span what all of them do: `spanning`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations, islice, permutations, product

from rnnc.verify.languages.dfa import DFA
from rnnc.verify.witness.expressions import Expression, LinearSystem
from rnnc.verify.witness.nonlinear import Component, points_of
from rnnc.verify.witness.permutations import point_actions
from rnnc.verify.witness.spans import independent

Action = tuple[int, ...]  # where a letter leads each state
MOST_STATES = 40  # of an automaton whose congruences are looked for
MOST_JOINS = 400  # of congruences
MOST_POINTS = 6  # of a piece whose states are renamed
MANY = 12  # different letters above which only some that span all are solved for


def pieces(dfa: DFA) -> Iterator[tuple[DFA, ...]]:
    """Ways to take the automaton apart into two or more with fewer states, those with the smallest pieces first."""
    found = [points_of(dfa, action) for action in islice(point_actions(dfa), 1)]
    if len(dfa.states) <= MOST_STATES:
        found.append(_subdirect(dfa))
    for way in sorted(filter(None, map(_needed, found)), key=_sizes):
        yield tuple(quotient(dfa, c) for c in way)


def _sizes(way: Sequence[Component]) -> list[int]:
    return sorted((len(set(c)) for c in way), reverse=True)


def _needed(components: Sequence[Component]) -> tuple[Component, ...]:
    """Without those that the others make superfluous."""
    kept = list(components)
    for c in components:
        others = [k for k in kept if k is not c]
        if others and len(set(zip(*others, strict=True))) == len(set(zip(*kept, strict=True))):
            kept = others
    return tuple(kept)


def quotient(dfa: DFA, component: Component) -> DFA:
    """The automaton of a function of the state that letters map to itself."""
    values = list(dict.fromkeys(component))
    number = {v: k for k, v in enumerate(values)}
    some = {v: q for q, v in reversed(list(enumerate(component)))}
    delta = tuple(tuple(number[component[r]] for r in dfa.delta[some[v]]) for v in values)
    start = number[component[dfa.start]]
    names = tuple(map(str, range(len(values))))
    return DFA(alphabet=dfa.alphabet, states=names, delta=delta, start=start, accept=frozenset({start}))


def _subdirect(dfa: DFA) -> tuple[Component, ...]:
    """Congruences, coarse ones first, of which no two states are in all."""
    n = len(dfa.states)
    found = dict.fromkeys(_merged(dfa, [pair]) for pair in combinations(range(n), 2))
    simple = list(found)
    for c, other in islice(product(found, simple), MOST_JOINS):
        found.setdefault(_merged(dfa, [*enumerate(c), *enumerate(other)]))
    coarse = sorted((c for c in found if 1 < len(set(c)) < n), key=lambda c: (len(set(c)), c))
    chosen: list[Component] = []
    told = [0] * n
    for c in coarse:
        finer = list(zip(told, c, strict=True))
        if len(set(finer)) > len(set(told)):
            index = {x: k for k, x in enumerate(dict.fromkeys(finer))}
            told = [index[x] for x in finer]
            chosen.append(c)
        if len(set(told)) == n:
            return tuple(chosen)
    return ()


def _merged(dfa: DFA, pairs: Sequence[tuple[int, int]]) -> Component:
    """The finest partition with each pair in one block that every letter respects."""
    root = list(range(len(dfa.states)))

    def find(x: int) -> int:
        while root[x] != x:
            x = root[x]
        return x

    work = list(pairs)
    while work:
        a, b = (find(x) for x in work.pop())
        if a != b:
            root[max(a, b)] = min(a, b)
            work.extend(zip(dfa.delta[a], dfa.delta[b], strict=True))
    return tuple(find(x) for x in range(len(root)))


# ---------------------------------------------------------------- letters


def actions(dfa: DFA) -> tuple[Action, ...]:
    return tuple(zip(*dfa.delta, strict=True))


def _row(action: Action) -> list[int]:
    """1, and of each step from state to state whether the letter makes it."""
    return [1, *(int(q == r) for q in action for r in range(len(action)))]


def spanning(found: Sequence[Action]) -> list[Action]:
    """Some of the letters of which all others are affine combinations, as matrices; all, where they are few."""
    distinct = list(dict.fromkeys(found))
    if len(distinct) <= MANY:
        return distinct
    return independent(distinct, _row)


def combined(action: Action, base: Sequence[Action]) -> list[Fraction] | None:
    """The coefficients with which the base adds up to a letter; None where it does not."""
    if action in base:
        return [Fraction(int(action == b)) for b in base]
    system = LinearSystem()
    rows = [_row(b) for b in base]
    for k, value in enumerate(_row(action)):
        terms = {(0, j, 0): Fraction(row[k]) for j, row in enumerate(rows) if row[k]}
        if not system.add(Expression(Fraction(0), terms), Fraction(value)):
            return None
    found = system.solution()
    return [Fraction(str(found.get((0, j, 0), 0))) for j in range(len(base))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Renaming:
    """A piece as another one whose states have other names: letter k does what `letters[k]` does there."""

    letters: tuple[Action, ...]


def renamed(piece: DFA, other: DFA) -> Renaming | None:
    """How the piece's letters act once its states are named as the other's, if the other has letters that do so."""
    n = len(other.states)
    if len(piece.states) != n or n > MOST_POINTS:
        return None
    known, own = set(actions(other)), actions(piece)
    rest = [q for q in range(n) if q != piece.start]
    for chosen in permutations([q for q in range(n) if q != other.start]):
        name = {piece.start: other.start, **dict(zip(rest, chosen, strict=True))}
        back = {b: a for a, b in name.items()}
        letters = tuple(tuple(name[a[back[q]]] for q in range(n)) for a in own)
        if known.issuperset(letters):
            return Renaming(letters=letters)
    return None

"""Products: which factors give the wanted values, where factors are shared by many products.

An elementwise product that broadcasts and an outer product are of this form: entry k is x[i] y[j].  Factors
follow from each other through products that are not zero; what does not follow is chosen in one of a few ways.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rnnc.exact import NotExact
from rnnc.verify.witness.numbers import HALF, OMEGA, ONE, ZERO, Number, infinite, quotient
from rnnc.verify.witness.want import Conflict

Index: TypeAlias = tuple[int, ...]
Side = Literal[0, 1]
Entry: TypeAlias = tuple[Index, Index, Number]  # of the first factor, of the second, and their product


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """The factor on `side` is `one` where nothing else decides; zero products are made by it ("own"), by the other
    ("other"), or by the other with this one at `one` everywhere ("fixed").
    """

    side: Side
    one: Number
    zeros: Literal["own", "other", "fixed"]


def ways(targets: list[Number], saturated: bool) -> Iterator[Way]:
    """In the order in which they are tried; with `saturated` units a factor of the size of the product comes first: it
    leaves 0 and 1 to the other, which may be a gate.
    """
    infinitely = any(infinite(t) for t in targets)
    kinds: tuple[Literal["own", "other", "fixed"], ...] = ("fixed", "own", "other") if saturated else ("own", "other")
    sides: tuple[Side, Side] = (1, 0) if saturated else (0, 1)
    for zeros in kinds:
        for one in (HALF, ONE, OMEGA) if saturated else (ONE, OMEGA, HALF):
            for side in sides:
                if one is not OMEGA or infinitely:
                    yield Way(side=side, one=one, zeros=zeros)


class Factors:
    """One choice of factors for all entries; `found` are those that were not known before."""

    def __init__(
        self, entries: list[Entry], known: tuple[dict[Index, Number], dict[Index, Number]], zero: tuple[bool, ...]
    ) -> None:
        self.entries = entries
        self.value: tuple[dict[Index, Number], dict[Index, Number]] = (dict(known[0]), dict(known[1]))
        self.found: tuple[dict[Index, Number], dict[Index, Number]] = ({}, {})
        self.at: tuple[dict[Index, list[int]], dict[Index, list[int]]] = ({}, {})
        for n, (i, j, _) in enumerate(entries):
            self.at[0].setdefault(i, []).append(n)
            self.at[1].setdefault(j, []).append(n)
        self.zero = zero

    def choose(self, way: Way) -> None:
        """Decides every factor that matters; raises Conflict or NotExact."""
        self._spread(range(len(self.entries)))
        if any(self.zero):
            self._unknowable()
        for i, j, t in self.entries:
            if t and i not in self.value[0] and j not in self.value[1]:
                self._set(way.side, (i, j)[way.side], way.one)
        for i, j, t in self.entries:
            if not t and not self._settled(i, j):
                self._zero(i, j, way)

    def _settled(self, i: Index, j: Index) -> bool:
        """Whether one factor of a zero product is zero already."""
        return any(k in self.value[side] and not self.value[side][k] for side, k in enumerate((i, j)))

    def _zero(self, i: Index, j: Index, way: Way) -> None:
        index = (i, j)
        side: Side = way.side if way.zeros == "own" else 1 if way.side == 0 else 0
        other: Side = 1 if side == 0 else 0
        if index[side] in self.value[side]:
            side, other = other, side  # that one is decided, and not zero
        if way.zeros == "fixed" and index[other] not in self.value[other] and other == way.side:
            self._set(other, index[other], way.one)
        if index[side] not in self.value[side]:
            self._set(side, index[side], ZERO)

    def _unknowable(self) -> None:
        """A factor that nobody knows: only zero times it is known."""
        for i, j, t in self.entries:
            if t:
                raise Conflict
            if all(self.zero):
                raise Conflict
            side: Side = 0 if self.zero[1] else 1
            self._set(side, (i, j)[side], ZERO)

    def _set(self, side: Side, index: Index, value: Number) -> None:
        have = self.value[side].get(index)
        if have is not None:
            if have != value:
                raise Conflict
            return
        self.value[side][index] = value
        self.found[side][index] = value
        self._spread(self.at[side].get(index, ()))

    def _spread(self, work: range | list[int] | tuple[int, ...]) -> None:
        """What follows from the factors that are known."""
        todo = list(work)
        while todo:
            i, j, t = self.entries[todo.pop()]
            x, y = self.value[0].get(i), self.value[1].get(j)
            if x is not None and y is not None:
                if x * y != t:
                    raise Conflict
            elif x is not None or y is not None:
                side: Side = 1 if x is not None else 0
                mine = x if x is not None else y
                assert mine is not None
                if not mine:
                    if t:
                        raise Conflict
                    continue
                rest = quotient(t, mine)
                if rest is None:
                    raise Conflict
                index = (i, j)[side]
                self.value[side][index] = rest
                self.found[side][index] = rest
                todo.extend(self.at[side][index])


def factorisations(
    entries: list[Entry],
    known: tuple[dict[Index, Number], dict[Index, Number]],
    zero: tuple[bool, ...],
    saturated: bool,
) -> Iterator[tuple[dict[Index, Number], dict[Index, Number]]]:
    """The choices of factors, each way once."""
    seen: set[tuple[object, ...]] = set()
    for way in ways([t for _, _, t in entries], saturated):
        factors = Factors(entries, known, zero)
        try:
            factors.choose(way)
        except (Conflict, NotExact):
            continue
        key = (*sorted(factors.found[0].items(), key=_first), None, *sorted(factors.found[1].items(), key=_first))
        if key not in seen:
            seen.add(key)
            yield factors.found


def _first(item: tuple[Index, Number]) -> Index:
    return item[0]

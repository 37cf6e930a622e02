"""Closing a witness by sets of states: for states that words lead to infinitely many values of.

A region is a box: some entries of the state range over closed intervals (perhaps unbounded), all others are fixed.  The
update is affine in those entries, so it maps the box into another one as soon as it maps its corners there, and its
rays into that one's rays (an affine map keeps convex hulls and cones).  Corners and rays are stepped in exact numbers.
Under finite precision results are rounded to a finite set: one that contains the ends of the intervals, with rounding
to nearest, which is monotone and so keeps each interval; what a limit leaves out is below half of any of its gaps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any, Literal

from rnnc.analysis.operator import NonLinear, Operators
from rnnc.exact import I, NotExact, Number, is_limit
from rnnc.exact import functions as fn
from rnnc.exact.asymptotic import finite, is_unknown, sign, without_error
from rnnc.ir.builder import Builder
from rnnc.ir.graph import CellIR
from rnnc.verify.closure import Closure, Conflict, Readout, equivalent_states
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.machines import Arrays, ExactLayer, Stack, Values, thaw

Part = Literal["re", "im"]
Place = tuple[str, int, Part]  # of a real number in a state: its name, the flat index, which part
Ends = tuple["Number | None", "Number | None"]  # closed; None: unbounded
MOST_CORNERS = 64
UNITS: dict[Part, Number] = {"re": Fraction(1), "im": I}


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """All states like `point` but for the numbers at `spans`, which range over their intervals independently.

    `point` lies in it.  A span with equal ends is a number of which something infinitesimal is left out.
    """

    point: Values
    spans: tuple[tuple[Place, Ends], ...] = ()

    @property
    def bounded(self) -> bool:
        return all(lo is not None and hi is not None for _, (lo, hi) in self.spans)


def part_of(x: Number, part: Part) -> Number:
    return fn.re(x) if part == "re" else fn.im(x)


def cast(x: Number) -> Number:
    """The finite standard part.  NotExact for an infinite number."""
    return finite(x)[0]


def is_affine_in(cell: CellIR, states: Sequence[str]) -> bool:
    """Whether every update is affine in these states jointly, the others being given."""
    operators = Operators(Builder.of(cell), {cell.state(s).node: s for s in states})
    return not any(isinstance(operators.value(s.update), NonLinear) for s in cell.states)


# ---------------------------------------------------------------- steps of a region


class Boxes:
    """Regions of one cell with fixed weights, and where letters lead them."""

    def __init__(self, layer: ExactLayer, letters: Mapping[str, Arrays], regions: Sequence[Region]) -> None:
        self.layer, self.letters, self.regions = layer, letters, regions
        self.limits = False  # whether anything that was stepped is only a limit

    def step(self, state: Values, letter: str) -> Values:
        after = self.layer.kept(self.layer.body.step(self.letters[letter], thaw(state)))
        self.limits = self.limits or any(is_limit(x) for _, _, row in after for x in row if not isinstance(x, int))
        return after

    def leads(self, k: int, letter: str, to: int) -> bool:
        """Whether the letter leads all of region k into region `to`."""
        a, b = self.regions[k], self.regions[to]
        corners = list(_corners(a))
        after = [self.step(moved(a.point, corner), letter) for corner in corners]
        if not all(inside(x, b) for x in after):
            return False
        for (name, index, part), (lo, hi) in a.spans:
            for way in [w for w, end in ((-1, lo), (1, hi)) if end is None]:
                first = corners[0]
                there = first | {(name, index, part): _at(first, a.point, (name, index, part)) + way}
                if not _along(after[0], self.step(moved(a.point, there), letter), b):
                    return False
        return True


def _corners(region: Region) -> Iterator[dict[Place, Number]]:
    ways = []
    for place, (lo, hi) in region.spans:
        ends = [x for x in dict.fromkeys((lo, hi)) if x is not None]
        ways.append([(place, x) for x in ends] or [(place, read(region.point, place))])
    if 2 ** sum(len(w) > 1 for w in ways) > MOST_CORNERS:
        raise NotExact("a region with too many corners")
    for chosen in product(*ways):
        yield dict(chosen)


def _at(corner: Mapping[Place, Number], point: Values, place: Place) -> Number:
    return corner[place] if place in corner else read(point, place)


def read(values: Values, place: Place) -> Number:
    name, index, part = place
    entries = next(entries for n, _, entries in values if n == name)
    return part_of(entries[index], part)  # type: ignore[arg-type]


def moved(point: Values, to: Mapping[Place, Number]) -> Values:
    """The state with other numbers at some places."""
    by: dict[str, list[Any]] = {}
    for (name, index, part), x in to.items():
        row = by.setdefault(name, list(next(e for n, _, e in point if n == name)))
        other: Part = "im" if part == "re" else "re"
        kept = part_of(row[index], other)
        row[index] = x * UNITS[part] + (kept * UNITS[other] if kept else Fraction(0))
    return tuple((n, shape, tuple(by[n]) if n in by else entries) for n, shape, entries in point)


def inside(state: Values, region: Region) -> bool:
    """Whether a state lies in a region: fixed entries with no more left out than the region's point says."""
    ends = dict(region.spans)
    for (name, _, found), (_, _, stated) in zip(state, region.point, strict=True):
        for index, (x, y) in enumerate(zip(found, stated, strict=True)):
            parts: list[Part] = [p for p in ("re", "im") if (name, index, p) in ends]
            if not parts:
                if x != y:
                    return False
                continue
            for part in ("re", "im"):
                number = cast(part_of(x, part))
                lo, hi = ends.get((name, index, part), (cast(part_of(y, part)),) * 2)
                if (lo is not None and sign(number - lo) < 0) or (hi is not None and sign(hi - number) < 0):
                    return False
    return True


def _along(before: Values, after: Values, region: Region) -> bool:
    """Whether the step from one state to the other is a direction in which the region is unbounded."""
    ends = dict(region.spans)
    for (name, _, old), (_, _, new) in zip(before, after, strict=True):
        for index, (x, y) in enumerate(zip(old, new, strict=True)):
            if x == y or is_unknown(x) or isinstance(x, (bool, int)):
                if x != y:
                    return False
                continue
            for part in ("re", "im"):
                way = sign(cast(part_of(y, part)) - cast(part_of(x, part)))
                lo, hi = ends.get((name, index, part), (Fraction(0), Fraction(0)))
                if (way > 0 and hi is not None) or (way < 0 and lo is not None):
                    return False
    return True


def apart(a: Region, b: Region) -> bool:
    """Whether no state lies in both: some number has disjoint intervals."""
    ends = dict(a.spans), dict(b.spans)
    for (name, _, left), (_, _, right) in zip(a.point, b.point, strict=True):
        for index, (x, y) in enumerate(zip(left, right, strict=True)):
            if isinstance(x, (bool, int)) or is_unknown(x) or is_unknown(y):
                if isinstance(x, (bool, int)) and x != y:
                    return True
                continue
            for part in ("re", "im"):
                p, q = without_error(part_of(x, part)), without_error(part_of(y, part))
                l1, h1 = ends[0].get((name, index, part), (p, p))
                l2, h2 = ends[1].get((name, index, part), (q, q))
                if (h1 is not None and l2 is not None and sign(l2 - h1) > 0) or (
                    h2 is not None and l1 is not None and sign(l1 - h2) > 0
                ):
                    return True
    return False


# ---------------------------------------------------------------- the closure


def close_regions(
    layer: ExactLayer,
    letters: Mapping[str, Arrays],
    dfa: DFA,
    free: Sequence[str],
    regions: Sequence[Region],
    steps: Sequence[Sequence[int]],
) -> Closure | Conflict:
    """Proves that these regions, the start in the first one, simulate the automaton; `free` are the states with spans.

    Every step of every region, the map g, and that regions of different g are apart.  Raises NotExact.
    """
    body = layer.body.cell
    if not is_affine_in(body, free) or any(place[0] not in free for r in regions for place, _ in r.spans):
        return Conflict(kind="not_exact", reason="an update is not affine in the states of the regions")
    boxes = Boxes(layer, letters, regions)
    if not inside(layer.start(), regions[0]):
        return Conflict(kind="not_exact", reason="the start lies outside of its region")
    g = labels(dfa, steps)
    if g is None:
        return Conflict(kind="conflict", reason="words that the language tells apart lead to one region")
    for k, a in enumerate(regions):
        if not all(g[j] == g[k] or apart(a, regions[j]) for j in range(k)):
            return Conflict(kind="not_exact", reason=f"region {k} is not apart from all others")
    for k, row in enumerate(steps):
        for letter, to in zip(dfa.alphabet, row, strict=True):
            if not boxes.leads(k, letter, to):
                return Conflict(kind="not_exact", reason=f"`{letter}` leads region {k} out of region {to}")
    return Closure(
        letters=dfa.alphabet,
        states=tuple((r.point,) for r in regions),
        steps=tuple(map(tuple, steps)),
        g=g,
        attained=not boxes.limits,
        readout=Readout(through="state", reason="which region it lies in"),
        regions=tuple(regions),
        machine=Stack([layer], letters),
    )


def labels(dfa: DFA, steps: Sequence[Sequence[int]]) -> tuple[int, ...] | None:
    """The automaton's state for every region, or None where two words lead to one region and differ."""
    same = equivalent_states(dfa)
    g: dict[int, int] = {}
    work = [(0, dfa.start)]
    for k, q in work:  # grows while it is walked
        for j, to in enumerate(steps[k]):
            after = same[dfa.delta[q][j]]
            if g.setdefault(to, after) != after:
                return None
            if (to, after) not in work:
                work.append((to, after))
    return tuple(g.get(k, same[dfa.start]) for k in range(len(steps)))

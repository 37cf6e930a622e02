"""Which sets of states words lead to, where the states are affine in themselves: a guess for `rnnc.verify.regions`.

Each number of the state moves by maps z -> a z + b, one for what the other states are and the letter.  Some interval is
kept by all of them; after the last m letters that did anything, the number lies in that interval's image under these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from rnnc.exact import NotExact, Number
from rnnc.exact.asymptotic import is_limit, sign
from rnnc.ir.graph import CellIR
from rnnc.verify.closure import Closure, Conflict
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.machines import Arrays, ExactLayer, Values, thaw
from rnnc.verify.regions import Ends, Place, Region, cast, close_regions, labels, moved, read

LONGEST = 6  # letters that a region remembers
MOST_REGIONS = 200
MOST_OTHERS = 200  # values of the other states
MOST_ROUNDS = 8  # in which an interval that turns round is widened
ONE, ZERO = Fraction(1), Fraction(0)

Change: TypeAlias = tuple["tuple[Number | None, Number]", ...]  # of each number: a (None: none that serves), the image
Map: TypeAlias = tuple[tuple[Number, Number], ...]  # (a, b) of each number that moves
Box: TypeAlias = tuple[Ends, ...]
Node: TypeAlias = tuple[int, tuple[int, ...], Box]  # the other states, the last maps, where the numbers are


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """The other states, and what a letter does there: the other states after it, and the number of a map.

    `places` are the numbers that move, `start` their initial values; `maps[0]` leaves all as they are.  Of the numbers
    `loose`, which stay, something infinitesimal is left out in some step.
    """

    places: tuple[Place, ...]
    start: tuple[Number, ...]
    others: tuple[Values, ...]
    steps: tuple[tuple[tuple[int, int], ...], ...]
    maps: tuple[Map, ...]
    loose: tuple[tuple[Place, Number], ...]


def close_sets(
    cell: CellIR,
    dims: Mapping[str, int],
    params: Arrays,
    letters: Mapping[str, Arrays],
    dfa: DFA,
    free: Sequence[str],
) -> Closure | Conflict:
    """A closure by regions in which the states `free` spread, or why there is none."""
    try:
        layer = ExactLayer(cell, dims, params)
        motion = motion_of(layer, letters, dfa, free)
        kept = tuple(_kept(motion, i) for i in range(len(motion.places)))
        for m in range(1, LONGEST + 1):
            for first in _beginnings(motion, kept, m):
                nodes, steps = _explored(motion, kept, m, first)
                if not nodes or labels(dfa, steps) is None:
                    continue
                regions = [_region(layer.start(), motion, node) for node in nodes]
                closed = close_regions(layer, letters, dfa, free, regions, steps)
                if isinstance(closed, Closure):
                    return closed
    except NotExact as error:
        return Conflict(kind="not_exact", reason=str(error))
    return Conflict(kind="budget", reason=f"no regions by the last {LONGEST} letters close")


# ---------------------------------------------------------------- what letters do


def motion_of(layer: ExactLayer, letters: Mapping[str, Arrays], dfa: DFA, free: Sequence[str]) -> Motion:
    """Explores the other states.  Raises NotExact where they are too many, or where numbers do not move that way."""
    start = layer.start()
    values = {p: cast(read(start, p)) for p in _places(layer, start, free)}
    index: dict[Values, int] = {tuple(v for v in start if v[0] not in free): 0}
    others = list(index)
    rows: list[list[tuple[int, Change]]] = []
    loose: dict[Place, Number] = {}
    for other in others:  # grows while it is walked
        given = {v[0]: v for v in other}
        before = tuple(given.get(v[0], v) for v in moved(start, values))
        further = moved(before, {p: x + 1 for p, x in values.items() if p[2] == "re"})
        rows.append([])
        for letter in dfa.alphabet:
            after, beyond = (_stepped(layer, letters[letter], s) for s in (before, further))
            rest = tuple(v for v in after if v[0] not in free)
            if rest not in index:
                if len(index) >= MOST_OTHERS:
                    raise NotExact("the other states are too many")
                index[rest] = len(index)
                others.append(rest)
            loose |= {p: x for p, x in values.items() if is_limit(read(after, p))}
            rows[-1].append((index[rest], tuple(_change(p, after, beyond) for p in values)))
    changes = [c for row in rows for _, c in row]
    moving = [i for i, x in enumerate(values.values()) if any(c[i][1] != x for c in changes)]
    places = tuple(p for i, p in enumerate(values) if i in moving)
    maps: dict[Map, int] = {((ONE, ZERO),) * len(moving): 0}
    steps = [
        [(to, maps.setdefault(_map(c, moving, list(values.values())), len(maps))) for to, c in row] for row in rows
    ]
    return Motion(
        places=places,
        start=tuple(values[p] for p in places),
        others=tuple(others),
        steps=tuple(map(tuple, steps)),
        maps=tuple(maps),
        loose=tuple((p, x) for p, x in loose.items() if p not in places),
    )


def _places(layer: ExactLayer, start: Values, free: Sequence[str]) -> Iterator[Place]:
    cell = layer.body.cell
    for name, _, entries in start:
        if name in free:
            for index in range(len(entries)):
                yield name, index, "re"
                if cell.nodes[cell.state(name).node].type.dtype == "complex":
                    yield name, index, "im"


def _stepped(layer: ExactLayer, inputs: Arrays, state: Values) -> Values:
    return layer.kept(layer.body.step(inputs, thaw(state)))


def _change(place: Place, after: Values, beyond: Values) -> tuple[Number | None, Number]:
    """What a step makes of a number at its start, and by how much it grows with the number."""
    name, index, _ = place
    try:
        re, im = (cast(read(beyond, (name, index, p))) - cast(read(after, (name, index, p))) for p in ("re", "im"))
    except NotExact:
        return None, cast(read(after, place))
    return None if im else re, cast(read(after, place))


def _map(change: Change, moving: Sequence[int], start: Sequence[Number]) -> Map:
    found = []
    for i in moving:
        a, image = change[i]
        if a is None:
            raise NotExact("a number that turns, or grows without bound")
        found.append((a, image - a * start[i]))
    return tuple(found)


# ---------------------------------------------------------------- intervals


def _image(ends: Ends, a: Number, b: Number) -> Ends:
    if not a:
        return b, b
    lo, hi = (None if x is None else a * x + b for x in ends)
    return (lo, hi) if sign(a) > 0 else (hi, lo)


def _hull(one: Ends, two: Ends) -> Ends:
    (l1, h1), (l2, h2) = one, two
    lo = None if l1 is None or l2 is None else l1 if sign(l2 - l1) >= 0 else l2
    return lo, None if h1 is None or h2 is None else h1 if sign(h1 - h2) >= 0 else h2


def _kept(motion: Motion, i: int) -> Ends:
    """An interval around the start of number i that all maps keep."""
    found: Ends = (motion.start[i], motion.start[i])
    maps = list(dict.fromkeys(m[i] for m in motion.maps))
    for a, b in maps:
        if a == 1 and b:
            found = (found[0], None) if sign(b) > 0 else (None, found[1])
        elif sign(1 - a) > 0 and sign(1 + a) > 0:
            found = _hull(found, (b / (1 - a),) * 2)
    for _ in range(MOST_ROUNDS):
        wider = found
        for a, b in maps:
            wider = _hull(wider, _image(wider, a, b))
        if wider == found:
            return found
        found = wider
    raise NotExact("no interval is kept")


def _beginnings(motion: Motion, kept: Box, m: int) -> Iterator[Node]:
    """The start as if the letters before it had been those that keep it, or as a point with nothing before it."""
    for k, change in enumerate(motion.maps):
        if k and all(a * x + b == x for (a, b), x in zip(change, motion.start, strict=True)):
            yield 0, (k,) * m, _after(motion, kept, (k,) * m)
    yield 0, (), tuple((x, x) for x in motion.start)


def _after(motion: Motion, box: Box, maps: Sequence[int]) -> Box:
    for k in maps:
        box = tuple(_image(ends, a, b) for ends, (a, b) in zip(box, motion.maps[k], strict=True))
    return box


def _explored(motion: Motion, kept: Box, m: int, first: Node) -> tuple[list[Node], list[list[int]]]:
    """The nodes that words lead to, and their steps; nothing where they are too many."""
    nodes, index, steps = [first], {first: 0}, list[list[int]]()
    for other, past, box in nodes:  # grows while it is walked
        row = []
        for to, k in motion.steps[other]:
            recent = (*past, k)[-m:] if k else past
            then = box if not k else _after(motion, kept, recent) if len(recent) == m else _after(motion, box, (k,))
            node = (to, recent, then)
            if node not in index:
                if len(nodes) >= MOST_REGIONS:
                    return [], []
                index[node] = len(nodes)
                nodes.append(node)
            row.append(index[node])
        steps.append(row)
    return nodes, steps


def _region(start: Values, motion: Motion, node: Node) -> Region:
    other, _, box = node
    given = {v[0]: v for v in motion.others[other]}
    spans = dict(zip(motion.places, box, strict=True)) | {p: (x, x) for p, x in motion.loose}
    at: dict[Place, Number] = {
        p: ZERO if (x := hi if lo is None else lo) is None else x for p, (lo, hi) in spans.items()
    }
    point = moved(tuple(given.get(v[0], v) for v in start), at)
    return Region(point=point, spans=tuple(sorted(spans.items())))

"""What is wanted of the coefficients of a normal form, letter by letter, for it to simulate an automaton."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import product

import numpy as np

from rnnc.analysis.forms import BlockLinear, Dense, Elementwise, Form, MatrixState, MicroStep
from rnnc.ir.graph import NodeId
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.witness.actions import (
    Bit,
    BitLetter,
    Reflection,
    Turn,
    bit_automata,
    plane_actions,
    plane_reflections,
    transpositions,
)
from rnnc.verify.witness.numbers import ONE, ZERO, Number, cosine, sine
from rnnc.verify.witness.rules import Array
from rnnc.verify.witness.solver import Solver

Targets = dict[NodeId, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """Coefficients that would simulate the automaton, if the cell can have them."""

    construction: str
    source: str
    targets: Targets = field(default_factory=dict)


BITS = ("a bit per unit: kept, flipped or set by each letter", "Grazzi et al. 2025, section 3; theory of resets")
ROTATIONS = ("rotations and reflections of the plane, as products of reflections", "Grazzi et al. 2025, Thms 3 and 6")
SWAPS = (
    "permutations of points, as products of transpositions I - (e_i - e_j)(e_i - e_j)^T",
    "Grazzi et al. 2025, Thm 3",
)
MATRICES = ("the automaton's transition matrices on one-hot states", "Terzic et al. 2025 (PD-SSM), Prop. 2")


class Wanted:
    """Collects targets of nodes, [letter, *per, *shape]."""

    def __init__(self, solver: Solver) -> None:
        self.solver = solver
        self.targets: Targets = {}

    def _array(self, node: NodeId) -> Array:
        if node not in self.targets:
            self.targets[node] = self.solver.unwanted(node)
        return self.targets[node]

    def put(self, node: NodeId, letter: int, index: tuple[int, ...], value: Number) -> None:
        """Wants `value` at a state index [*per, *shape], or where the node broadcasts to it."""
        array = self._array(node)
        shape = array.shape[1:]
        kept = index[len(index) - len(shape) :] if shape else ()
        array[(letter, *(0 if n == 1 else i for i, n in zip(kept, shape, strict=True)))] = value

    def fill(self, node: NodeId, letter: int, block: tuple[int, ...], vector: tuple[Number, ...]) -> None:
        """Wants a whole vector (padded with zeros) in one block of the per axes."""
        array = self._array(node)
        row = array[(letter, *block[: array.ndim - 2])] if array.ndim > 2 else array[letter]
        if array.ndim == 1:
            array[letter] = vector[0]
            return
        row[...] = ZERO
        for i, x in enumerate(vector[: row.shape[-1]]):
            row[i] = x


def proposals(solver: Solver, form: Form, dfa: DFA, able: Mapping[str, frozenset[BitLetter]]) -> Iterator[Proposal]:
    match form:
        case Elementwise():
            yield from elementwise(solver, form, dfa, able.get("bits", frozenset()))
        case MatrixState():
            yield from matrix_bits(solver, form, dfa)
            yield from reflections(solver, form, dfa)
        case Dense() | BlockLinear():
            yield from matrices(solver, form, dfa)
        case _:
            return


# ---------------------------------------------------------------- elementwise


def coefficients(letter: BitLetter, one: Number) -> tuple[Number, Number]:
    """(a, b) of h <- a h + b that does this to a bit with values 0 and `one`."""
    match letter:
        case "hold":
            return ONE, ZERO
        case "flip":
            return -ONE, one
        case "zero":
            return ZERO, ZERO
        case _:
            return ZERO, one


def places(shape: tuple[int, ...], count: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Where `count` bits may live in a state of this shape: along each axis in turn, last first."""
    for axis in reversed(range(len(shape))):
        if shape[axis] >= count:
            yield tuple(tuple(k if i == axis else 0 for i in range(len(shape))) for k in range(count))
        if count == 1:
            return
    if not shape and count == 1:
        yield ((),)


def elementwise(solver: Solver, form: Elementwise, dfa: DFA, able: frozenset[BitLetter]) -> Iterator[Proposal]:
    state = solver.cell.state(form.state)
    shape = solver.shape(state.node)
    for bits in bit_automata(dfa, able, min(3, max(shape, default=1))):
        for where in places(shape, len(bits)):
            for one in (ONE, Number(Fraction(1, 2))):
                w = bit_targets(solver, form, bits, where, one)
                if w is None:
                    continue
                for targets in _with_idle_units(solver, form, w):
                    yield Proposal(construction=BITS[0], source=BITS[1], targets=targets)


def _with_idle_units(solver: Solver, form: Elementwise, w: Targets) -> Iterator[Targets]:
    """First with the units that carry no bit kept or erased and not written to, then with less wanted of them."""
    quiet = w if form.b is None else w | {form.b: _idle(w, form.b, solver, ZERO)}
    if form.a is not None:
        yield quiet | {form.a: _idle(w, form.a, solver, ONE)}
        yield quiet | {form.a: _idle(w, form.a, solver, ZERO)}
    yield quiet
    if quiet is not w:
        yield w


def _idle(targets: Targets, node: NodeId, solver: Solver, value: Number) -> Array:
    """The units that carry no bit get this coefficient: with nothing written to them they stay where they start."""
    out = targets[node].copy() if node in targets else solver.unwanted(node)
    out[out == None] = value  # noqa: E711
    return out


def bit_targets(
    solver: Solver, form: Elementwise, bits: tuple[Bit, ...], where: tuple[tuple[int, ...], ...], one: Number
) -> Targets | None:
    w = Wanted(solver)
    for bit, at in zip(bits, where, strict=True):
        for c, letter in enumerate(bit):
            a, b = coefficients(letter, one)
            for node, value, neutral in ((form.a, a, ONE), (form.b, b, ZERO)):
                if node is not None:
                    w.put(node, c, at, value)
                elif value != neutral:
                    return None
    return w.targets


# ---------------------------------------------------------------- matrix states


@dataclass(frozen=True, slots=True, kw_only=True)
class Micro:
    """S <- decay S - beta key (key^T S - offset), in the first column of S."""

    key: tuple[Number, ...] = ()
    beta: Number = ZERO
    offset: Number = ZERO
    decay: Number = ONE


def micro_targets(
    solver: Solver, form: MatrixState, letters: tuple[tuple[Micro, ...], ...], way: tuple[bool, bool]
) -> Targets | None:
    """Targets for one micro-step a step and letter; `way` says on which vector the strengths go."""
    w = Wanted(solver)
    block = (0,) * len(solver.site(solver.cell.state(form.state).node).per)
    for c, micros in enumerate(letters):
        for step, m in zip(form.steps, micros, strict=True):
            if not _micro(w, step, m, c, block, way):
                return None
    for step in form.steps:  # blocks that carry nothing keep it
        if step.decay is not None:
            rest = w.targets[step.decay]
            rest[rest == None] = ONE  # noqa: E711
    return w.targets


def _micro(w: Wanted, step: MicroStep, m: Micro, c: int, block: tuple[int, ...], way: tuple[bool, bool]) -> bool:
    if step.decay is not None:
        rank = len(w.solver.site(step.decay).shape)
        size = w.solver.site(step.decay).shape[-1] if rank else 1
        w.fill(step.decay, c, block, (m.decay,) * size) if rank else w.put(step.decay, c, block, m.decay)
    elif m.decay != ONE:
        return False
    pull = m.beta if m.decay else ZERO  # nothing is left to pull at
    for i, (a, b) in enumerate(step.low_rank):
        if i or not pull:
            w.fill(a if way[0] else b, c, block, ())
            continue
        strong = _scaled(m.key, -pull)
        if strong is None:
            return False
        w.fill(a, c, block, strong if way[0] else m.key)
        w.fill(b, c, block, m.key if way[0] else strong)
    if pull and not step.low_rank:
        return False
    for i, (u, v) in enumerate(step.writes):
        amount = m.beta * m.offset
        if amount is None:
            return False
        if v is None:
            vector = _scaled(m.key, amount if not i else ZERO)
            if vector is None:
                return False
            w.fill(u, c, block, vector)
        elif i or not m.beta:
            w.fill(u if way[1] else v, c, block, ())
        else:
            strong = _scaled(m.key, m.beta)
            if strong is None:
                return False
            w.fill(u, c, block, strong if way[1] else m.key)
            w.fill(v, c, block, (m.offset if way[1] else amount,))
    return bool(step.writes) or not (m.beta and m.offset)


def _scaled(key: tuple[Number, ...], by: Number) -> tuple[Number, ...] | None:
    out = [x * by for x in key]
    known = [x for x in out if x is not None]
    return tuple(known) if len(known) == len(out) else None


WAYS = ((True, True), (True, False), (False, True), (False, False))


def _spread(form: MatrixState, lists: tuple[tuple[Micro, ...], ...]) -> tuple[tuple[Micro, ...], ...] | None:
    """One micro a step: the given ones on the first steps that have a low-rank part, nothing on the others."""
    slots = [i for i, s in enumerate(form.steps) if s.low_rank]
    out = []
    for micros in lists:
        if len(micros) > len(slots):
            return None
        row = [Micro()] * len(form.steps)
        for slot, m in zip(slots, micros, strict=False):
            row[slot] = m
        out.append(tuple(row))
    return tuple(out)


def reflections(solver: Solver, form: MatrixState, dfa: DFA) -> Iterator[Proposal]:
    size = _acted(solver, form)
    steps = sum(1 for s in form.steps if s.low_rank)
    found = [(x, ROTATIONS) for turns in plane_actions(dfa) for x in plane_reflections(turns, steps)]
    found += [(x, SWAPS) for x in transpositions(dfa, steps)]
    for letters, (construction, source) in found:
        if any(len(r.key) > size for letter in letters for r in letter):
            continue
        micros = _spread(form, tuple(tuple(map(_reflect, letter)) for letter in letters))
        for way in WAYS:
            targets = None if micros is None else micro_targets(solver, form, micros, way)
            if targets is not None:
                yield Proposal(construction=construction, source=source, targets=targets)


def _reflect(r: Reflection) -> Micro:
    return Micro(key=r.key, beta=Number(2), offset=r.offset)


def _acted(solver: Solver, form: MatrixState) -> int:
    shape = solver.site(solver.cell.state(form.state).node).shape
    return shape[0] if form.side == "left" or len(shape) == 1 else shape[-1]


def matrix_bits(solver: Solver, form: MatrixState, dfa: DFA) -> Iterator[Proposal]:
    """One bit along one direction: by the decay, or by a low-rank part of strength 1 (erase) or 2 (flip)."""
    for bits in bit_automata(dfa, frozenset({"hold", "flip", "zero", "one"}), 1):
        for one, soft in product((ONE, Number(Fraction(1, 2))), (False, True)):
            letters = tuple(_bit_micros(form, letter, one, soft) for letter in bits[0])
            for way in WAYS:
                targets = micro_targets(solver, form, letters, way)
                if targets is not None:
                    yield Proposal(construction=BITS[0], source=BITS[1], targets=targets)


def _bit_micros(form: MatrixState, letter: BitLetter, one: Number, soft: bool) -> tuple[Micro, ...]:
    """On the first step; `soft` resets and flips by the decay, otherwise by the low-rank part."""
    low = bool(form.steps[0].low_rank) and not soft
    e = (ONE,)
    rest = (Micro(),) * (len(form.steps) - 1)
    match letter:
        case "hold":
            return (Micro(), *rest)
        case "flip" if low:
            return (Micro(key=e, beta=Number(2), offset=one.scaled(Fraction(1, 2))), *rest)
        case "flip":
            return (Micro(key=e, beta=ONE if not form.steps[0].low_rank else ZERO, offset=one, decay=-ONE), *rest)
        case "zero":
            return ((Micro(key=e, beta=ONE) if low else Micro(decay=ZERO)), *rest)
        case _:
            return (Micro(key=e, beta=ONE, offset=one, decay=ONE if low else ZERO), *rest)


# ---------------------------------------------------------------- dense and block transitions


def matrices(solver: Solver, form: Dense | BlockLinear, dfa: DFA) -> Iterator[Proposal]:
    """On one-hot states less the start's (so that the start is zero), and plane rotations in the first block."""
    node = form.a if isinstance(form, Dense) else form.blocks
    n = solver.shape(node)[-1]
    if len(dfa.states) <= n:
        yield _matrix_proposal(solver, form, node, _one_hot(dfa), MATRICES)
    for turns in plane_actions(dfa):
        if n >= 2:
            for start in (Fraction(0), Fraction(1, 8)):
                yield _matrix_proposal(solver, form, node, _turning(turns, start), ROTATIONS)


def _one_hot(dfa: DFA) -> tuple[list[list[list[Number]]], list[list[Number]]]:
    n = len(dfa.states)
    maps, adds = [], []
    for a in range(len(dfa.alphabet)):
        m = [[ONE if dfa.delta[q][a] == p else ZERO for q in range(n)] for p in range(n)]
        add = [m[p][dfa.start] - (ONE if p == dfa.start else ZERO) for p in range(n)]
        maps.append(m)
        adds.append(add)
    return maps, adds


def _turning(turns: tuple[Turn, ...], start: Fraction) -> tuple[list[list[list[Number]]], list[list[Number]]]:
    """Isometries of the plane with the point at angle `start` as the origin."""
    maps, adds = [], []
    for t in turns:
        c, s = (cosine(t.turns), sine(t.turns)) if not t.mirror else (-cosine(2 * t.turns), -sine(2 * t.turns))
        maps.append([[c, s if t.mirror else -s], [s, -c if t.mirror else c]])
        after = (2 * t.turns + Fraction(1, 2) - start) if t.mirror else start + t.turns
        adds.append([cosine(after) - cosine(start), sine(after) - sine(start)])
    return maps, adds


def _matrix_proposal(
    solver: Solver,
    form: Dense | BlockLinear,
    node: NodeId,
    action: tuple[list[list[list[Number]]], list[list[Number]]],
    names: tuple[str, str],
) -> Proposal:
    maps, adds = action
    a = solver.unwanted(node)
    block = (0,) * (a.ndim - 3)
    out: Targets = {node: a}
    size = len(adds[0])
    transposed = isinstance(form, Dense) and form.side == "right"
    for c, m in enumerate(maps):
        square = a[(c, *block)]
        square[:size, :] = ZERO
        square[:, :size] = ZERO
        for i, j in np.ndindex(size, size):
            square[i, j] = m[j][i] if transposed else m[i][j]
    if form.b is not None:
        b = solver.unwanted(form.b)
        for c, add in enumerate(adds):
            core = len(solver.site(form.b).shape)
            row = b[(c, *(0,) * (b.ndim - 1 - core))]
            for i, x in enumerate(add):
                row[i if core == 1 else ((0, i) if transposed else (i, 0))] = x
        out[form.b] = b
    return Proposal(construction=names[0], source=names[1], targets=out)

"""Targets of matrix states under micro-steps: reflections, swaps, and bits that are erased and written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rnnc.analysis.forms import MatrixState, MicroStep
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.witness.actions import Isometries, Reflection, isometries
from rnnc.verify.witness.bits import LETTERS, BitLetter, bit_automata
from rnnc.verify.witness.numbers import HALF, ONE, ZERO, Number
from rnnc.verify.witness.representations import movers_and_resets, words_to_states
from rnnc.verify.witness.solver import Solver
from rnnc.verify.witness.targets import Proposal, Start, Targets, Wanted, start_of, starting
from rnnc.verify.witness.targets_linear import BITS, Values, bit_values

TWO = ONE + ONE
WAYS = ((True, True), (True, False), (False, True), (False, False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Micro:
    """S <- decay S - beta key (key^T S - offset), in the first column of S; without `pull`, nothing is taken off."""

    key: tuple[Number, ...] = ()
    beta: Number = ZERO
    offset: Number = ZERO
    decay: Number = ONE
    pull: bool = True


def matrix_state(solver: Solver, form: MatrixState, dfa: DFA) -> Iterator[Proposal]:
    start = start_of(solver, form.state)
    yield from _bits(solver, form, dfa, start)
    yield from _reflections(solver, form, dfa, start)


def _column(solver: Solver, form: MatrixState) -> list[tuple[int, ...]]:
    """Where the first column of the acted axis stands in the state."""
    site = solver.site(solver.cell.state(form.state).node)
    block = (0,) * len(site.per)
    if len(site.shape) == 1:
        return [(*block, i) for i in range(site.shape[0])]
    if form.side == "left":
        return [(*block, i, 0) for i in range(site.shape[0])]
    return [(*block, 0, i) for i in range(site.shape[-1])]


# ---------------------------------------------------------------- reflections


def _reflections(solver: Solver, form: MatrixState, dfa: DFA, start: Start) -> Iterator[Proposal]:
    column = _column(solver, form)
    steps = sum(1 for s in form.steps if s.low_rank)
    writes = any(s.writes for s in form.steps)
    for (moving, resets), found in (
        (part, i) for part in movers_and_resets(dfa) for i in isometries(part[0], steps, len(column))
    ):
        if resets and (not writes or len(found.start) > steps):
            continue
        begin: Targets = {}
        shift = None if start.learned else start.vector(column[: len(found.start)])
        if start.learned:
            chosen = starting(solver, start, dict(zip(column, found.start, strict=False)))
            if chosen is None:
                continue
            begin, shift = chosen, found.start
        if shift is None or not (writes or any(shift)):
            continue
        for micros in _spread(form, _letters(dfa, moving, resets, found, shift, writes)):
            for way in WAYS:
                targets = micro_targets(solver, form, micros, way)
                if targets is not None:
                    yield Proposal(construction=found.construction, source=found.source, targets=targets | begin)


def _letters(
    dfa: DFA, moving: DFA, resets: dict[int, int], found: Isometries, shift: tuple[Number, ...], writes: bool
) -> list[tuple[Micro, ...]]:
    """What each letter does: reflections, or the coordinates of the point it resets to, one after the other."""
    moves = dict(
        zip(moving.alphabet, (tuple(_reflect(r, shift, writes) for r in x) for x in found.letters), strict=True)
    )
    words = words_to_states(moving)
    letters = []
    for a, letter in enumerate(dfa.alphabet):
        if letter in moves:
            letters.append(moves[letter])
            continue
        point = shift
        for k in words[resets[a]]:
            for m in moves[moving.alphabet[k]]:
                off = m.beta * (sum((x * y for x, y in zip(m.key, point, strict=True)), ZERO) - m.offset)
                point = tuple(x - off * y for x, y in zip(point, m.key, strict=True))
        axes = [tuple(ONE if i == j else ZERO for j in range(len(point))) for i in range(len(point))]
        letters.append(tuple(Micro(key=key, beta=ONE, offset=x) for key, x in zip(axes, point, strict=True)))
    return letters


def _spread(form: MatrixState, letters: list[tuple[Micro, ...]]) -> Iterator[tuple[tuple[Micro, ...], ...]]:
    """One micro a step: the given ones on the first steps that have a low-rank part, nothing on the others."""
    slots = [i for i, s in enumerate(form.steps) if s.low_rank]
    out = []
    for micros in letters:
        row = [Micro()] * len(form.steps)
        for slot, m in zip(slots, micros, strict=False):
            row[slot] = m
        out.append(tuple(row))
    yield tuple(out)


def _reflect(r: Reflection, shift: tuple[Number, ...], writes: bool) -> Micro:
    """With the start at `shift`; without writes all mirrors go through the origin."""
    moved = sum((x * y for x, y in zip(r.key, shift, strict=True)), r.offset)
    return Micro(key=r.key, beta=TWO, offset=moved if writes else ZERO)


# ---------------------------------------------------------------- bits


def _bits(solver: Solver, form: MatrixState, dfa: DFA, start: Start) -> Iterator[Proposal]:
    """One bit along one direction: by the decay, or by a low-rank part of strength 1 (erase) or 2 (flip)."""
    first = _column(solver, form)[0]
    for bits in bit_automata(dfa, frozenset(LETTERS), 1):
        for values in bit_values(start.at(first)):
            begin = starting(solver, start, {first: values[0]}) if start.learned else {}
            for soft in (False, True):
                letters = tuple(_bit_micros(form, letter, values, soft) for letter in bits[0])
                for way in WAYS:
                    targets = micro_targets(solver, form, letters, way)
                    if targets is not None and begin is not None:
                        yield Proposal(construction=BITS[0], source=BITS[1], targets=targets | begin)


def _bit_micros(form: MatrixState, letter: BitLetter, values: Values, soft: bool) -> tuple[Micro, ...]:
    """On the first step; `soft` resets and flips by the decay, otherwise by the low-rank part."""
    off, on = values
    low = bool(form.steps[0].low_rank) and not soft
    e = (ONE,)
    rest = (Micro(),) * (len(form.steps) - 1)
    match letter:
        case "hold":
            return (Micro(), *rest)
        case "flip" if low:
            return (Micro(key=e, beta=TWO, offset=(off + on) * HALF), *rest)
        case "flip":
            return (Micro(key=e, beta=ONE, offset=off + on, decay=-ONE, pull=False), *rest)
    value = off if letter == "zero" else on
    if low:
        return (Micro(key=e, beta=ONE, offset=value), *rest)
    return (Micro(key=e, beta=ONE if value else ZERO, offset=value, decay=ZERO, pull=False), *rest)


# ---------------------------------------------------------------- targets


def micro_targets(
    solver: Solver, form: MatrixState, letters: tuple[tuple[Micro, ...], ...], way: tuple[bool, bool]
) -> Targets | None:
    """Targets for one micro-step a step and letter; `way` says on which vector the strengths go."""
    w = Wanted(solver)
    block = (0,) * len(solver.site(solver.cell.state(form.state).node).per)
    for c, micros in enumerate(letters):
        solver.clock.check()
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
    pull = m.beta if m.pull else ZERO
    if pull and not step.low_rank:
        return False
    for i, (a, b) in enumerate(step.low_rank):
        if i or not pull:
            w.fill(a if way[0] else b, c, block, ())
            continue
        strong = _scaled(m.key, -pull)
        w.fill(a, c, block, strong if way[0] else m.key)
        w.fill(b, c, block, m.key if way[0] else strong)
    for i, (u, v) in enumerate(step.writes):
        if v is None:
            w.fill(u, c, block, _scaled(m.key, m.beta * m.offset if not i else ZERO))
        elif i or not m.beta:
            w.fill(u if way[1] else v, c, block, ())
        else:
            w.fill(u, c, block, _scaled(m.key, m.beta) if way[1] else m.key)
            w.fill(v, c, block, (m.offset if way[1] else m.beta * m.offset,))
    return bool(step.writes) or not (m.beta and m.offset)


def _scaled(key: tuple[Number, ...], by: Number) -> tuple[Number, ...]:
    return tuple(x * by for x in key)

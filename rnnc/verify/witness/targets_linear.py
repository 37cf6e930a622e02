"""Targets of elementwise, coupled, block and dense forms: bits, rotations, matrices."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from rnnc.analysis.forms import BlockLinear, Coupled, Dense, Elementwise, Semiring
from rnnc.ir.graph import NodeId
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.witness.bits import Bit, BitLetter, bit_automata
from rnnc.verify.witness.numbers import HALF, OMEGA, ONE, ZERO, Number
from rnnc.verify.witness.representations import Representation, characters, fitted, representations
from rnnc.verify.witness.solver import Solver
from rnnc.verify.witness.targets import Proposal, Start, Targets, Wanted, idle, start_of, starting

BITS = ("a bit per unit: kept, flipped or set by each letter", "Grazzi et al. 2025, section 3; theory of resets")
MOST_BITS = 3
Index = tuple[int, ...]
Values = tuple[Number, Number]  # of a bit that is off and on


# ---------------------------------------------------------------- elementwise: bits


def coefficients(letter: BitLetter, values: Values, semiring: Semiring, latch: bool) -> tuple[Number, Number] | None:
    """(a, b) of h <- a h + b that does this to a bit with values `off` and `on`; over (max, +) and its kin with `latch`
    a bit is set by a write above what it holds, without erasing that.
    """
    off, on = values
    if semiring != "plus_times":
        nothing = OMEGA if semiring == "min_plus" else -OMEGA
        match letter:
            case "hold":
                return ZERO, nothing
            case "flip":
                return None
            case _:
                return ZERO if latch and letter == "one" else nothing, off if letter == "zero" else on
    match letter:
        case "hold":
            return ONE, ZERO
        case "flip":
            return -ONE, off + on
        case "zero":
            return ZERO, off
        case _:
            return ZERO, on


def places(shape: tuple[int, ...], count: int) -> Iterator[tuple[Index, ...]]:
    """Where `count` bits may live in a state of this shape: along each axis in turn, last first."""
    for axis in reversed(range(len(shape))):
        if shape[axis] >= count:
            yield tuple(tuple(k if i == axis else 0 for i in range(len(shape))) for k in range(count))
        if count == 1:
            return
    if not shape and count == 1:
        yield ((),)


def bit_values(start: Number | None, semiring: Semiring = "plus_times") -> Iterator[Values]:
    """Values of a bit that is off at the start; `start` None: of any initial value."""
    if semiring != "plus_times":
        off = start if start is not None else ZERO
        yield off, off + (-ONE if semiring == "min_plus" else ONE)
        return
    if start is None:
        yield ZERO, ONE
        yield ONE, -ONE
        return
    if start:
        yield start, -start
        yield start, ZERO
    yield start, start + ONE
    yield start, start + HALF


def elementwise(
    solver: Solver, form: Elementwise, dfa: DFA, able: frozenset[BitLetter], semiring: Semiring
) -> Iterator[Proposal]:
    shape = solver.shape(solver.cell.state(form.state).node)
    start = start_of(solver, form.state)
    for bits in bit_automata(dfa, able, min(MOST_BITS, max(shape, default=1))):
        for where in places(shape, len(bits)):
            for values in bit_values(start.at(where[0]), semiring):
                for w in bit_targets(solver, form, bits, where, values, start, semiring):
                    for targets in with_idle_units(solver, form, w, semiring):
                        yield Proposal(construction=BITS[0], source=BITS[1], targets=targets)
    if semiring == "plus_times" and solver.cell.nodes[solver.cell.state(form.state).node].type.dtype == "complex":
        yield from _rotations(solver, form, dfa, start)


def bit_targets(
    solver: Solver,
    form: Elementwise,
    bits: tuple[Bit, ...],
    where: tuple[Index, ...],
    values: Values,
    start: Start,
    semiring: Semiring,
) -> Iterator[Targets]:
    for latch in (False,) if semiring == "plus_times" else (False, True):
        w = Wanted(solver)
        pairs = [
            (c, at, coefficients(letter, values, semiring, latch))
            for bit, at in zip(bits, where, strict=True)
            for c, letter in enumerate(bit)
        ]
        begin = starting(solver, start, dict.fromkeys(where, values[0])) if start.learned else {}
        if begin is not None and all(p is not None and _put(w, form, c, at, p, semiring) for c, at, p in pairs):
            yield w.targets | begin


def neutral(semiring: Semiring) -> tuple[Number, Number]:
    """(one, zero)."""
    return {"plus_times": (ONE, ZERO), "min_plus": (ZERO, OMEGA)}.get(semiring, (ZERO, -OMEGA))


def _put(
    w: Wanted, form: Elementwise, letter: int, at: Index, pair: tuple[Number, Number], semiring: Semiring = "plus_times"
) -> bool:
    for node, value, kept in zip((form.a, form.b), pair, neutral(semiring), strict=True):
        if node is not None:
            w.put(node, letter, at, value)
        elif value != kept:
            return False
    return True


def with_idle_units(
    solver: Solver, form: Elementwise, w: Targets, semiring: Semiring = "plus_times"
) -> Iterator[Targets]:
    """First with the units that carry no bit kept or erased and not written to, then with less wanted of them."""
    one, zero = neutral(semiring)
    quiet = w if form.b is None else w | {form.b: idle(w, form.b, solver, zero)}
    if form.a is not None:
        yield quiet | {form.a: idle(w, form.a, solver, one)}
        if semiring == "plus_times":
            yield quiet | {form.a: idle(w, form.a, solver, zero)}
    yield quiet
    if quiet is not w:
        yield w


def _rotations(solver: Solver, form: Elementwise, dfa: DFA, start: Start) -> Iterator[Proposal]:
    """A complex number per cyclic factor of the automaton's group."""
    shape = solver.shape(solver.cell.state(form.state).node)
    for reps in characters(dfa):
        for where in places(shape, len(reps)):
            vectors = [None if start.learned else start.vector([at]) for at in where]
            for ways in zip(*(fitted(r, v, form.b is not None) for r, v in zip(reps, vectors, strict=True))):
                w = Wanted(solver)
                fits = all(
                    _put(w, form, c, at, (rep.maps[c][0][0], rep.adds[c][0]))
                    for rep, at in zip(ways, where, strict=True)
                    for c in range(len(dfa.alphabet))
                )
                begin = starting(solver, start, {at: r.start[0] for r, at in zip(ways, where, strict=True)})
                for targets in with_idle_units(solver, form, w.targets | (begin or {})) if fits else ():
                    yield Proposal(construction=reps[0].construction, source=reps[0].source, targets=targets)


# ---------------------------------------------------------------- coupled states


def coupled(solver: Solver, form: Coupled, dfa: DFA) -> Iterator[Proposal]:
    """The states' entries at one position are the coordinates."""
    shape = solver.shape(solver.cell.state(form.states[0]).node)
    at = (0,) * len(shape)
    starts = [start_of(solver, s) for s in form.states]
    learned = all(s.learned for s in starts)
    for rep in representations(dfa, len(form.states)):
        values = [None if learned else s.at(at) for s in starts[: rep.size]]
        known = tuple(x for x in values if x is not None)
        for found in fitted(rep, known if len(known) == rep.size else None, any(b is not None for b in form.b)):
            targets = _coupled_targets(solver, form, found, at)
            if targets is None:
                continue
            for s, x in zip(starts, found.start, strict=False):
                targets |= starting(solver, s, {at: x}) or {}
            for full in _coupled_idle(solver, form, targets):
                yield Proposal(construction=rep.construction, source=rep.source, targets=full)


def _coupled_targets(solver: Solver, form: Coupled, rep: Representation, at: Index) -> Targets | None:
    w = Wanted(solver)
    k = len(form.states)
    for c, (m, add) in enumerate(zip(rep.maps, rep.adds, strict=True)):
        for i in range(k):
            row = [m[i][j] if i < rep.size and j < rep.size else ZERO for j in range(k)]
            wanted = [*zip(form.a[i], row, strict=True), (form.b[i], add[i] if i < rep.size else ZERO)]
            for node, value in wanted:
                if node is not None:
                    if node in w.targets and _other(w, node, c, at, value):
                        return None
                    w.put(node, c, at, value)
                elif value:
                    return None
    return w.targets


def _other(w: Wanted, node: NodeId, letter: int, at: Index, value: Number) -> bool:
    """Whether another value is wanted there already: one node may stand for several coefficients."""
    before = w.targets[node].copy()
    w.put(node, letter, at, value)
    after = w.targets[node]
    return any(x is not None and x != y for x, y in zip(before.reshape(-1), after.reshape(-1), strict=True))


def _coupled_idle(solver: Solver, form: Coupled, w: Targets) -> Iterator[Targets]:
    """With nothing written to other positions, and their transition zero, or left open."""
    quiet = dict(w)
    for node in form.b:
        if node is not None:
            quiet[node] = idle(w, node, solver, ZERO)
    still = dict(quiet)
    for row in form.a:
        for node in row:
            if node is not None:
                still[node] = idle(w, node, solver, ZERO)
    yield quiet
    yield still
    yield w


# ---------------------------------------------------------------- dense and block transitions


def matrices(solver: Solver, form: Dense | BlockLinear, dfa: DFA) -> Iterator[Proposal]:
    node = form.a if isinstance(form, Dense) else form.blocks
    n = solver.shape(node)[-1]
    start = start_of(solver, form.state)
    for rep in representations(dfa, n):
        places_ = _coordinates(solver, form, rep.size)
        vector = None if start.learned else start.vector(places_)
        if vector is None and not start.learned:
            continue
        fits = fitted(rep, vector, form.b is not None)
        for found, rest in product(fits, (None, ONE) if rep.size < n else (None,)):
            targets = _matrix_targets(solver, form, node, found, rest)
            if targets is None:
                continue
            if start.learned:
                begin = starting(solver, start, dict(zip(places_, found.start, strict=True)))
                if begin is None:
                    continue
                targets |= begin
            yield Proposal(construction=rep.construction, source=rep.source, targets=targets)


def _coordinates(solver: Solver, form: Dense | BlockLinear, size: int) -> list[Index]:
    """Where the acted vector's first entries stand in the state."""
    site = solver.site(solver.cell.state(form.state).node)
    block = (0,) * len(site.per)
    if len(site.shape) == 1:
        return [(*block, i) for i in range(size)]
    right = isinstance(form, Dense) and form.side == "right"
    return [(*block, 0, i) if right else (*block, i, 0) for i in range(size)]


def _matrix_targets(
    solver: Solver, form: Dense | BlockLinear, node: NodeId, rep: Representation, rest: Number | None
) -> Targets | None:
    """In the first coordinates of the first block; `rest` is what the others are multiplied by (None: anything).  None
    where the cell adds one number to all coordinates, and these need different ones.
    """
    a = solver.unwanted(node)
    block = (0,) * (a.ndim - 3)
    out: Targets = {node: a}
    size = rep.size
    transposed = isinstance(form, Dense) and form.side == "right"
    for c, m in enumerate(rep.maps):
        square = a[(c, *block)]
        square[:size, :] = ZERO
        square[:, :size] = ZERO
        for i in range(size, len(square)) if rest is not None else ():
            square[i, size:] = ZERO
            square[i, i] = rest
        for i in range(size):
            for j in range(size):
                square[i, j] = m[j][i] if transposed else m[i][j]
    if form.b is not None:
        b = solver.unwanted(form.b)
        core = len(solver.site(form.b).shape)
        for c, add in enumerate(rep.adds):
            row = b[(c, *(0,) * (b.ndim - 1 - core))]
            row = row if core == 1 else row[0] if transposed else row[:, 0]
            if len(row) < len(add) and any(x != add[0] for x in add):
                return None
            for i, x in enumerate(add[: len(row)]):
                row[i] = x
        out[form.b] = b
    return out

"""Letters as windows: where a causal convolution stands before a recurrence, its gates may look at the letter before.

A context of the search is then a letter with the one before it.  A bit is set where two conditions hold, one on each of
the two letters, so what a gate reads is a sum of a function of either (`hints`, as in `nonlinear`).  The bits tell the
automaton's state together with the letter that was read last, which the convolution's buffer holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from rnnc.analysis.forms import Elementwise
from rnnc.ir.graph import CellIR, ancestors
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.witness.bits import Bit, act
from rnnc.verify.witness.evaluation import BY_WINDOW, NOTHING_BEFORE, Contexts
from rnnc.verify.witness.numbers import ONE, ZERO
from rnnc.verify.witness.solver import Solver
from rnnc.verify.witness.targets import Proposal, start_of
from rnnc.verify.witness.targets_linear import Index, Values, bit_targets, places, with_idle_units
from rnnc.verify.witness.targets_sets import LATCH, Unit, set_targets
from rnnc.verify.witness.want import Array

WINDOWS = "bits that are set by pairs of neighbouring letters, seen through a convolution"
SOURCE = "derived: latches on windows of two letters"
MOST_SUBSETS = 3  # letters of an alphabet of which all subsets are conditions; else single letters and all but one
MOST_BITS = 2
MOST_PAIRS = 20_000
MOST_STEPS = 100  # of the solver for one proposal

Window = tuple[int, int]  # the letter before (NOTHING_BEFORE: none) and the letter


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowBit:
    """What each window does to a bit, and how many of the two conditions of its last change hold in it."""

    bit: Bit
    score: tuple[int, ...]


def looks_back(cell: CellIR, state: str) -> bool:
    """Whether a convolution over at least two steps stands before the state's update."""
    above = ancestors(cell, [cell.state(state).update])
    return any(cell.nodes[i].op == "conv" and str(cell.nodes[i].attr("width")) != "1" for i in above)


def windows_of(dfa: DFA) -> list[Window]:
    letters = range(len(dfa.alphabet))
    return [(p, c) for c in letters for p in (NOTHING_BEFORE, *letters)]


def _subsets(values: list[int]) -> list[frozenset[int]]:
    if len(values) <= MOST_SUBSETS + 1:
        return [frozenset(s) for n in range(1, len(values) + 1) for s in combinations(values, n)]
    whole = frozenset(values)
    return [whole, *(frozenset({v}) for v in values), *(whole - {v} for v in values)]


def window_bits(dfa: DFA, windows: list[Window]) -> Iterator[tuple[WindowBit, ...]]:
    """Up to two bits that tell the automaton's state together with the last letter: latches, or what the letter before
    was.
    """
    letters = list(range(len(dfa.alphabet)))
    candidates: dict[Bit, WindowBit] = {}
    for now in _subsets(letters):
        for before in _subsets([NOTHING_BEFORE, *letters]):
            score = tuple((c in now) + (p in before) for p, c in windows)
            bit = tuple("one" if s == 2 else "hold" for s in score)
            candidates.setdefault(bit, WindowBit(bit=bit, score=score))
    for letter in letters:
        bit = tuple("one" if p == letter else "zero" for p, _ in windows)
        candidates.setdefault(bit, WindowBit(bit=bit, score=(1,) * len(windows)))
    useful = list(candidates.values())
    for n in range(1, MOST_BITS + 1):
        if len(useful) ** n > MOST_PAIRS:
            return
        for bits in combinations(useful, n):
            if determines(tuple(b.bit for b in bits), windows, dfa):
                yield bits


def determines(bits: tuple[Bit, ...], windows: list[Window], dfa: DFA) -> bool:
    """Whether the bits, all zero at the start, and the last letter tell the automaton's state after every word."""
    at = {w: k for k, w in enumerate(windows)}
    start = (NOTHING_BEFORE, (0,) * len(bits))
    means = {start: dfa.start}
    work = [start]
    while work:
        last, values = work.pop()
        q = means[last, values]
        for c in range(len(dfa.alphabet)):
            k = at[last, c]
            after = (c, tuple(act(bit[k], v) for bit, v in zip(bits, values, strict=True)))
            if after not in means:
                means[after] = dfa.delta[q][c]
                work.append(after)
            elif means[after] != dfa.delta[q][c]:
                return False
    return True


# ---------------------------------------------------------------- proposals


def by_windows(solver: Solver, form: Elementwise, dfa: DFA) -> Iterator[tuple[Solver, Proposal]]:
    """Proposals with the solver whose contexts they are for: first with bits that are overwritten, then with sums."""
    windows = windows_of(dfa)
    shape = solver.shape(solver.cell.state(form.state).node)
    past = tuple(p for p, _ in windows)
    letters = tuple(c for _, c in windows)
    kinds = solver.at(Contexts(letters=letters, past=past)).varies
    sees = form.a is not None and kinds[form.a] == BY_WINDOW
    columns = max(solver.shape(n.id)[-1] for n in solver.cell.nodes if n.op == "conv")
    for bits in window_bits(dfa, windows):
        roomy = sees and columns >= len(bits) + 2 * len(dfa.alphabet) - 1
        found = list(places(shape, len(bits)))
        for where in reversed(found) if sees else found:  # gates are shared along the last axis, if any
            hints = _hints(solver, form, bits, where)
            inner = solver.at(Contexts(letters=letters, past=past, hints=hints))
            for proposal in _proposals(inner, form, tuple(b.bit for b in bits), where, roomy):
                yield inner, proposal


def _proposals(
    solver: Solver, form: Elementwise, bits: tuple[Bit, ...], where: tuple[Index, ...], overwrites: bool
) -> Iterator[Proposal]:
    """`overwrites`: gates see windows, with room for what says which in one convolution."""
    start = start_of(solver, form.state)
    first = start.at(where[0])
    values: Values = (ZERO, ONE) if first is None else (first, first + 1)
    for w in bit_targets(solver, form, bits, where, values, start, "plus_times") if overwrites else ():
        for targets in with_idle_units(solver, form, w):
            yield Proposal(construction=WINDOWS, source=SOURCE, targets=targets)
    counts = not any("zero" in bit for bit in bits)
    adding = (Unit(hold=ONE, zero=None, one=(ONE, None)),)
    sums = set_targets(solver, form, bits, adding, where) if counts else None
    if sums is not None:
        yield Proposal(construction=f"{WINDOWS}: {LATCH[0]}", source=SOURCE, targets=sums, spreads=True)


def _hints(
    solver: Solver, form: Elementwise, bits: tuple[WindowBit, ...], where: tuple[Index, ...]
) -> dict[tuple[int, ...], Array]:
    """Scores of the units, for values of the state's shape and of those along the axis on which the units are."""
    site = solver.site(solver.cell.state(form.state).node)
    shape, per = (*site.per, *site.shape), len(site.per)
    axis = next((k for k in range(len(shape)) if len({at[k] for at in where}) > 1), len(shape) - 1)
    keep = [tuple(range(len(shape))), (*range(per), axis), (axis,)] if axis >= per else [tuple(range(len(shape)))]
    found: dict[tuple[int, ...], Array] = {}
    for axes in keep:
        out: Array = np.ones((len(bits[0].bit), *(shape[k] for k in axes)), dtype=int)
        for b, at in zip(bits, where, strict=True):
            out[(slice(None), *(at[k] for k in axes))] = b.score
        found.setdefault(out.shape[1:], out)
    return found

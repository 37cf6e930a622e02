"""The search for a witness: dims, forms, wanted coefficients, parameters, and the closure that decides.

Nothing is believed of the way here: a proposal may be wrong, an inverse may have left something open.  What is returned
has been evaluated forwards in exact arithmetic on the user's own cell, and its reachable states close.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from rnnc.analysis.forms import Elementwise, Form, Group, Recurrence
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.exact import NotExact
from rnnc.ir.dims import DimError
from rnnc.ir.graph import CellIR
from rnnc.ir.types import Disk, Domain, HalfPlane, Interval, UnitNorm
from rnnc.ir.unfold import inline_calls
from rnnc.verify.closure import BUDGET, Closure, close, close_machine
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.machines import ExactLayer, Stack, Values
from rnnc.verify.witness.actions import BitLetter
from rnnc.verify.witness.convert import exact_number, exact_numbers
from rnnc.verify.witness.nonlinear import automata, units_needed
from rnnc.verify.witness.numbers import ONE, ZERO, Number
from rnnc.verify.witness.outputs import with_outputs
from rnnc.verify.witness.rules import Array, Conflict
from rnnc.verify.witness.solver import Branch, Clock, Contexts, OutOfBudget, Solver, Stuck
from rnnc.verify.witness.stacks import in_several_layers
from rnnc.verify.witness.targets import Proposal, bit_targets, places, proposals
from rnnc.verify.witness.witness import TAU, Witness

MOST_STEPS = 2000  # nodes taken for one proposal
MOST_ROUNDED = 400  # states in floating point, beyond those that exact arithmetic has
MAX_SIZE = 64  # of a dim that the search chooses


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """`seconds` for one search; `states` for one closure."""

    seconds: float = 10.0
    states: int = BUDGET


def find_witness(
    cell: CellIR,
    dfa: DFA,
    *,
    dims: Mapping[str, int] | None = None,
    layers: int = 1,
    budget: Budget | float | None = None,
) -> Witness | None:
    """Weights with which `layers` copies of the cell recognise the automaton's nonempty words, or None.

    `dims` are those that are given; dims with defaults keep them, others are chosen.  `dfa` is complete, and its states
    are told apart as far as its language does.
    """
    allowed = budget if isinstance(budget, Budget) else Budget(seconds=10.0 if budget is None else float(budget))
    end = time.monotonic() + allowed.seconds
    share = allowed if layers == 1 else Budget(seconds=allowed.seconds / 4, states=allowed.states)
    found = _in_one_layer(inline_calls(cell), dfa, dict(dims or {}), share)
    if found is None and layers >= 2:
        flat = inline_calls(cell)

        def search(automaton: DFA, sizes: dict[str, int], seconds: float) -> Witness | None:
            return _in_one_layer(flat, automaton, sizes, Budget(seconds=seconds, states=allowed.states))

        found = in_several_layers(dfa, dict(dims or {}), layers, end, search)
    return found


def _in_one_layer(cell: CellIR, dfa: DFA, dims: dict[str, int], budget: Budget) -> Witness | None:
    clock = Clock(budget.seconds)
    try:
        recurrence = analyse_recurrence(cell)
        for sizes in candidate_dims(cell, dfa, dims):
            for attempt in _attempts(recurrence, sizes, dfa, clock):
                found = _witness(recurrence.cell, cell, dfa, sizes, attempt, budget)
                if found is not None:
                    return found
    except OutOfBudget:
        return None
    return None


# ---------------------------------------------------------------- sizes


def candidate_dims(cell: CellIR, dfa: DFA, given: dict[str, int]) -> Iterator[dict[str, int]]:
    """Dims to try: those given and the defaults; free ones of a size that holds the letters, then the automaton."""
    per = {name for n in cell.nodes for d in n.type.per for name in d.names}
    free = [p.name for p in cell.dims if p.name not in given and p.default is None]
    if not free:
        if _sizes(cell, given) is not None:
            yield cell.dim_values(given)
        return
    tried: list[dict[str, int]] = []
    letters = len(dfa.alphabet)
    for need in (max(2, min(4, len(dfa.states))), len(dfa.states), units_needed(dfa)):
        for size in range(1, MAX_SIZE + 1):
            chosen = given | {name: 1 if name in per else size for name in free}
            least = _sizes(cell, chosen)
            if least is not None and least[0] >= min(letters, MAX_SIZE) and least[1] >= need:
                sizes = cell.dim_values(chosen)
                if sizes not in tried:
                    tried.append(sizes)
                    yield sizes
                break


def _sizes(cell: CellIR, given: Mapping[str, int]) -> tuple[int, int] | None:
    """The least last axis of an input vector, and the least last or first axis of a state; None for dims that do not
    fit.
    """
    try:
        dims = cell.dim_values(given)
        shapes = [[d.evaluate(dims) for d in (*n.type.per, *n.type.shape)] for n in cell.nodes]
    except DimError:
        return None
    if any(d == 0 for shape in shapes for d in shape):
        return None
    open_ = {p.name for p in cell.dims}
    inputs, states = [MAX_SIZE], [MAX_SIZE]
    for i in cell.inputs:
        t = cell.nodes[i.node].type
        if t.dtype == "token" and t.vocab is not None:
            inputs.append(t.vocab.evaluate(dims))
        elif t.shape and t.shape[-1].names & open_:
            inputs.append(shapes[i.node][-1])
    for s in cell.states:
        t = cell.nodes[s.node].type
        if t.shape and t.shape[0].names & open_:
            states.append(shapes[s.node][len(t.per)])
    return min(inputs), min(states)


# ---------------------------------------------------------------- attempts


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A proposal whose targets the cell's parameters can meet."""

    proposal: Proposal
    group: Group
    solver: Solver
    branch: Branch


def _attempts(recurrence: Recurrence, dims: Mapping[str, int], dfa: DFA, clock: Clock) -> Iterator[Attempt]:
    letters = Contexts(letters=tuple(range(len(dfa.alphabet))))
    solver = Solver(recurrence.cell, dims, letters, clock)
    for group in recurrence.groups:
        for form in group.forms if group.semiring == "plus_times" else ():
            able = {"bits": able_bits(recurrence.cell, dims, form, clock)}
            for proposal in proposals(solver, form, dfa, able):
                branch = solve(solver, proposal)
                if branch is not None:
                    yield Attempt(proposal=proposal, group=group, solver=solver, branch=branch)
        if group.kind == "nonlinear":
            states = tuple(recurrence.cell.state(s) for s in group.states)
            shapes = {s.node: solver.shape(s.node) for s in states}
            for steps in (MOST_STEPS // 8, 2 * MOST_STEPS):
                for proposal, contexts in automata(recurrence.cell, states, shapes, dfa):
                    inner = Solver(recurrence.cell, dims, contexts, clock)
                    branch = solve(inner, proposal, steps)
                    if branch is not None:
                        yield Attempt(proposal=proposal, group=group, solver=inner, branch=branch)


def solve(solver: Solver, proposal: Proposal, steps: int = MOST_STEPS) -> Branch | None:
    """A branch that meets the proposal, or None where there is none or `steps` are over."""
    branch = Branch()
    solver.clock.allow(steps)
    try:
        for node, target in proposal.targets.items():
            solver.want(branch, node, target)
        return solver.solve(branch)
    except (Conflict, Stuck):
        return None
    finally:
        solver.clock.allow(10**9)


def able_bits(cell: CellIR, dims: Mapping[str, int], form: Form, clock: Clock) -> frozenset[BitLetter]:
    """What a single letter can do to a bit of an elementwise state."""
    if not isinstance(form, Elementwise):
        return frozenset()
    solver = Solver(cell, dims, Contexts(letters=(0,)), clock)
    shape = solver.shape(cell.state(form.state).node)
    found = set()
    for letter in ("hold", "flip", "zero", "one"):
        for one in (ONE, Number(Fraction(1, 2))):
            where = next(iter(places(shape, 1)), None)
            targets = None if where is None else bit_targets(solver, form, ((letter,),), where, one)
            if targets is not None and solve(solver, Proposal(construction="", source="", targets=targets)) is not None:
                found.add(letter)
    return frozenset(found)


# ---------------------------------------------------------------- from a branch to a witness


def _witness(
    analysed: CellIR, cell: CellIR, dfa: DFA, dims: dict[str, int], attempt: Attempt, budget: Budget
) -> Witness | None:
    letters = letter_inputs(cell, attempt.solver, attempt.branch, dfa)
    if letters is None:
        return None
    for branch in with_outputs(cell, attempt.solver, attempt.branch, attempt.group):
        attempt.solver.clock.tick()
        try:
            params = parameters(cell, attempt.solver, branch)
        except NotExact:
            continue
        left = max(1.0, attempt.solver.clock.end - time.monotonic())
        closed = close(cell, dims, params, letters, dfa, _most(cell, dfa, budget), seconds=left)
        if isinstance(closed, Closure):
            return finished(cell, dfa, dims, params, letters, closed, attempt.proposal)
    return None


class _Timed(Stack):
    """One layer that stops when the search's time is over."""

    def __init__(self, layer: ExactLayer, letters: Mapping[str, Any], clock: Clock) -> None:
        super().__init__([layer], letters)
        self.clock = clock

    def step(self, state: tuple[Values, ...], letter: str) -> tuple[tuple[Values, ...], Values | None]:
        self.clock.tick()
        return super().step(state, letter)


def _closed(
    cell: CellIR,
    dims: dict[str, int],
    params: dict[str, Any],
    letters: dict[str, dict[str, Any]],
    dfa: DFA,
    most: int,
    clock: Clock,
) -> Closure | None:
    """The closure in exact arithmetic, or None."""
    try:
        machine = _Timed(ExactLayer(cell, dims, params), letters, clock)
    except NotExact:
        return None
    found = close_machine(machine, dfa, most)
    if not isinstance(found, Closure):
        return None
    clock.end = max(clock.end, time.monotonic() + 60)  # found: what is done with it is not search
    return found


def _most(cell: CellIR, dfa: DFA, budget: Budget) -> int:
    """How many states a closure may have: each of the automaton's, with all that buffers hold, and some to spare."""
    widths = [int(Fraction(str(n.attr("width")))) - 1 for n in cell.nodes if n.op == "conv"]
    remembered = sum(len(dfa.alphabet) ** k for k in range(max(widths, default=0) + 1))
    most: int = 4 * (len(dfa.states) + 2) * (len(dfa.alphabet) + 1) * remembered
    return min(budget.states, most)


def finished(
    cell: CellIR,
    dfa: DFA,
    dims: dict[str, int],
    params: dict[str, Any],
    letters: dict[str, dict[str, Any]],
    closed: Closure,
    proposal: Proposal,
) -> Witness:
    """The witness of a closure, with what floating point makes of it."""
    saturated = None
    if not closed.attained:
        saturated = close(cell, dims, params, letters, dfa, 4 * len(closed.states) + MOST_ROUNDED, "float32", TAU)
    through = closed.readout.through == "outputs"
    return Witness(
        cell=cell,
        dfa=dfa,
        dims=dims,
        params=params,
        letters=letters,
        closure=closed,
        construction=proposal.construction,
        source=proposal.source,
        status="attained" if closed.attained else "saturation" if isinstance(saturated, Closure) else "limit",
        tau=TAU if isinstance(saturated, Closure) else None,
        readout="the outputs" if through else f"the state ({closed.readout.reason})",
    )


def parameters(cell: CellIR, solver: Solver, branch: Branch) -> dict[str, Any]:
    """Raw parameters as exact arrays: the solution, and for what nothing was wanted of 0 (1 where it starts at 1)."""
    solution = branch.system.solution()
    out = {}
    for p in cell.params:
        shape = solver.shape(p.node)
        array = np.full(shape, Fraction(1 if p.init.kind == "ones" else 0), dtype=object)
        flat = array.reshape(-1)
        for i in range(flat.size):
            if (p.node, i) in solution:
                flat[i] = exact_number(solution[p.node, i])
        out[p.name] = flat.reshape(shape)
    return out


def letter_inputs(cell: CellIR, solver: Solver, branch: Branch, dfa: DFA) -> dict[str, dict[str, Any]] | None:
    """Each letter's value of each input inside its declared domain; None where a wanted value lies outside."""
    out: dict[str, dict[str, Any]] = {}
    for k, letter in enumerate(dfa.alphabet):
        context = solver.contexts.letters.index(k)
        given: dict[str, Any] = {}
        for i in cell.inputs:
            t = cell.nodes[i.node].type
            shape = solver.shape(i.node)
            if t.dtype == "token":
                given[i.name] = np.full(shape, k, dtype=np.int64)
                continue
            wanted = branch.wanted.get(i.node)
            row = np.full(shape, None, dtype=object)
            if wanted is not None:
                row[...] = wanted[context]
            if not _into_domain(row, i.domain):
                return None
            given[i.name] = exact_numbers(row)
        out[letter] = given
    return out


def _into_domain(row: Array, domain: Domain | None) -> bool:
    """Chooses what is open; False for a value outside (or an infinite one: an input is a number)."""
    if any(x is not None and x.infinite for x in row.reshape(-1)):
        return False
    if isinstance(domain, UnitNorm):
        return all(_unit(row[at]) for at in np.ndindex(*row.shape[:-1]))
    row[row == None] = _inside(domain)  # noqa: E711
    return all(_holds(domain, x) for x in row.reshape(-1))


def _unit(vector: Array) -> bool:
    if all(x is None for x in vector):
        vector[0] = ONE
    vector[vector == None] = ZERO  # noqa: E711
    total: Number | None = ZERO
    for x in vector:
        square = x * x
        total = None if total is None or square is None else total + square
    return total == ONE


def _inside(domain: Domain | None) -> Number:
    """Some number of the domain, zero where it is one."""
    match domain:
        case Interval(lo=lo, hi=hi):
            if _holds(domain, ZERO):
                return ZERO
            if lo is not None and hi is not None:
                return Number((lo + hi) / 2)
            return Number(lo + 1) if lo is not None else Number((hi or Fraction(0)) - 1)
        case HalfPlane(bound=bound, above=above):
            return Number(bound + (1 if above else -1))
        case _:
            return ZERO


def _holds(domain: Domain | None, x: Number) -> bool:
    match domain:
        case Interval(lo=lo, hi=hi):
            if x.known is None:  # irrational: not an end
                return (lo is None or x.size > lo) and (hi is None or x.size < hi)
            low = lo is None or x.known > lo or (x.known == lo and not domain.lo_open)
            return low and (hi is None or x.known < hi or (x.known == hi and not domain.hi_open))
        case Disk(radius=radius):
            return abs(x.size) < radius or x.known in (radius, -radius)
        case HalfPlane(bound=bound, above=above, strict=strict):
            gap = (x.size - float(bound)) * (1 if above else -1)
            return gap > 0 or (x.known == bound and not strict)
        case _:
            return True

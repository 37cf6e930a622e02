"""The search for a witness: dims, forms, wanted coefficients, parameters, and the closure that decides.

Nothing is believed of the way here: a proposal may be wrong, an inverse may have left something open.  What is returned
has been evaluated forwards in exact arithmetic on the user's own cell, and its reachable states close.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice, product
from typing import Any

from rnnc.analysis.forms import BlockLinear, Coupled, Dense, Elementwise, Form, Group, MatrixState, Recurrence, Semiring
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.exact import NotExact
from rnnc.ir.graph import CellIR, NodeId, State, ancestors
from rnnc.ir.unfold import inline_calls
from rnnc.verify.closure import BUDGET, Closure, close
from rnnc.verify.effort import worked
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.witness.bits import LETTERS, BitLetter
from rnnc.verify.witness.instance import letter_inputs, parameters
from rnnc.verify.witness.nonlinear import automata
from rnnc.verify.witness.outputs import with_outputs
from rnnc.verify.witness.silent import partial, silenced, unknown_states
from rnnc.verify.witness.sizes import candidate_dims
from rnnc.verify.witness.solver import Branch, Clock, Contexts, OutOfBudget, Solver, Stuck
from rnnc.verify.witness.spread import close_sets
from rnnc.verify.witness.stacks import in_several_layers
from rnnc.verify.witness.sums import SOURCE, direct_sums
from rnnc.verify.witness.targets import Proposal, Targets, start_of
from rnnc.verify.witness.targets_linear import bit_targets, bit_values, coupled, elementwise, matrices, places
from rnnc.verify.witness.targets_micro import matrix_state
from rnnc.verify.witness.targets_sets import bits_by_sets, digits
from rnnc.verify.witness.want import Array, Conflict, empty
from rnnc.verify.witness.windows import MOST_STEPS as WINDOW_STEPS
from rnnc.verify.witness.windows import by_windows, looks_back
from rnnc.verify.witness.witness import TAU, Witness

MOST_STEPS = 2000  # nodes taken for one proposal
FEW_STEPS = 40  # where nearly every guess is right or none is
MOST_JOINT = 2000  # of a product of closures, of states that are tried one by one in floating point
MOST_ROUNDED = 200  # states in floating point, beyond those that exact arithmetic has


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """`seconds` worth of work (`rnnc.verify.effort`) for one search; `states` for one closure."""

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
    end = worked() + allowed.seconds
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
        nonlinear = any(g.kind == "nonlinear" for g in recurrence.groups)
        found = _in_pieces(recurrence, dims, dfa, clock, smaller=True) if nonlinear else None
        if found is not None:
            return found
        for sizes in candidate_dims(cell, dfa, dims):
            for attempt in _attempts(recurrence, sizes, dfa, clock):
                found = _witness(cell, dfa, sizes, attempt, budget)
                if found is not None:
                    return found
        return None if nonlinear else _in_pieces(recurrence, dims, dfa, clock, smaller=False)
    except OutOfBudget:
        return None


def _in_pieces(
    recurrence: Recurrence, dims: Mapping[str, int], dfa: DFA, clock: Clock, smaller: bool
) -> Witness | None:
    """A direct sum of cells, one for each factor of the automaton."""
    cell = recurrence.cell

    def attempts(piece: DFA, sizes: dict[str, int]) -> Iterator[tuple[Solver, Branch, str]]:
        for a in _attempts(recurrence, sizes, piece, clock):
            if not a.proposal.spreads:
                yield a.solver, a.branch, a.proposal.construction

    for found in direct_sums(cell, dfa, dims, clock, attempts, smaller):
        proposal = Proposal(construction=found.construction, source=SOURCE, targets={})
        return finished(cell, dfa, found.dims, found.params, found.letters, found.closure, proposal, clock)
    return None


# ---------------------------------------------------------------- attempts


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A proposal whose targets the cell's parameters can meet."""

    proposal: Proposal
    group: Group
    solver: Solver
    branch: Branch
    carriers: frozenset[str]  # the states that the automaton's state is in, and those held at their initial values


def _attempts(recurrence: Recurrence, dims: Mapping[str, int], dfa: DFA, clock: Clock) -> Iterator[Attempt]:
    cell = recurrence.cell
    for group in recurrence.groups:
        for solver, pins in _settings(recurrence, group, dims, dfa, clock):
            for form in group.forms:
                for proposal in _proposals(solver, form, dfa, group.semiring):
                    clock.check()
                    pinned = replace(proposal, targets=_joined(proposal.targets, pins))
                    branch = solve(solver, pinned)
                    if branch is not None:
                        carriers = _names(cell, solver.contexts) | _of_form(form)
                        yield Attempt(proposal=pinned, group=group, solver=solver, branch=branch, carriers=carriers)
        for form in group.forms:
            if isinstance(form, Elementwise) and group.semiring == "plus_times" and looks_back(cell, form.state):
                plain = Solver(cell, dims, Contexts(letters=tuple(range(len(dfa.alphabet)))), clock)
                for solver, proposal in by_windows(plain, form, dfa):
                    clock.check()
                    branch = solve(solver, proposal, WINDOW_STEPS)
                    if branch is not None:
                        carriers = _of_form(form)
                        yield Attempt(proposal=proposal, group=group, solver=solver, branch=branch, carriers=carriers)
        if group.kind == "nonlinear":
            states = tuple(cell.state(s) for s in group.states)
            plain = Solver(cell, dims, Contexts(letters=tuple(range(len(dfa.alphabet)))), clock)
            for steps in (FEW_STEPS, MOST_STEPS // 8, 2 * MOST_STEPS):
                for proposal, contexts in automata(cell, states, plain, dfa):
                    inner = plain.at(contexts)
                    branch = solve(inner, proposal, steps)
                    if branch is not None:
                        carriers = _names(cell, contexts)
                        yield Attempt(proposal=proposal, group=group, solver=inner, branch=branch, carriers=carriers)


def _names(cell: CellIR, contexts: Contexts) -> frozenset[str]:
    """The states whose values are known in the contexts."""
    return frozenset(s.name for s in cell.states if s.node in contexts.states)


def _of_form(form: Form) -> frozenset[str]:
    return frozenset(form.states) if isinstance(form, Coupled) else frozenset({form.state})


def _settings(
    recurrence: Recurrence, group: Group, dims: Mapping[str, int], dfa: DFA, clock: Clock
) -> Iterator[tuple[Solver, Targets]]:
    """The letters; and where the group reads states of earlier groups, with these kept at their initial values."""
    cell = recurrence.cell
    letters = tuple(range(len(dfa.alphabet)))
    plain = Solver(cell, dims, Contexts(letters=letters), clock)
    read = _earlier(recurrence, group)
    if not read:
        yield plain, {}
        return
    known: dict[NodeId, Array] = {}
    pins: Targets = {}
    for s in read:
        start = start_of(plain, s.name)
        if start.learned or any(x is None for x in start.values.reshape(-1)):
            yield plain, {}
            return
        constant = empty((len(letters), *plain.shape(s.node)))
        constant[...] = start.values
        known[s.node] = constant
        pins[s.update] = constant
    yield plain.at(Contexts(letters=letters, states=known)), pins
    yield plain, {}


def _earlier(recurrence: Recurrence, group: Group) -> list[State]:
    """States of earlier groups that the group reads."""
    cell = recurrence.cell
    own = set(group.states)
    above = ancestors(cell, [cell.state(s).update for s in own])
    return [s for s in cell.states if s.name not in own and (s.node in above or s.update in above)]


def _joined(targets: Targets, pins: Targets) -> Targets:
    """Pins are of other groups' updates, so nothing is wanted twice."""
    return targets | {node: target for node, target in pins.items() if node not in targets}


def _proposals(solver: Solver, form: Form, dfa: DFA, semiring: Semiring) -> Iterator[Proposal]:
    match form:
        case Elementwise():
            yield from elementwise(solver, form, dfa, able_bits(solver, form, semiring), semiring)
            if semiring == "plus_times":
                yield from bits_by_sets(solver, form, dfa)
                yield from digits(solver, form, dfa)
        case _ if semiring != "plus_times":
            return
        case MatrixState():
            yield from matrix_state(solver, form, dfa)
        case Coupled():
            yield from coupled(solver, form, dfa)
        case Dense() | BlockLinear():
            yield from matrices(solver, form, dfa)


def solve(solver: Solver, proposal: Proposal, steps: int = MOST_STEPS) -> Branch | None:
    """A branch that meets the proposal, or None where there is none or `steps` are over."""
    branch = Branch()
    solver.clock.allow(steps)
    try:
        for node, target in proposal.targets.items():
            solver.want(branch, node, target)
        return solver.solve(branch)
    except (Conflict, Stuck, NotExact):
        return None
    finally:
        solver.clock.allow(10**9)


def able_bits(solver: Solver, form: Elementwise, semiring: Semiring) -> frozenset[BitLetter]:
    """What a single letter can do to a bit of an elementwise state."""
    states = {node: value[:1] for node, value in solver.contexts.states.items()}
    alone = solver.at(Contexts(letters=(0,), states=states))
    start = start_of(alone, form.state)
    found: set[BitLetter] = set()
    for where in islice(places(alone.shape(alone.cell.state(form.state).node), 1), 1):
        for letter, values in product(LETTERS, bit_values(start.at(where[0]), semiring)):
            for targets in bit_targets(alone, form, ((letter,),), where, values, start, semiring):
                asked = Proposal(construction="", source="", targets=targets)
                if letter not in found and solve(alone, asked) is not None:
                    found.add(letter)
    return frozenset(found)


# ---------------------------------------------------------------- from a branch to a witness


def _witness(cell: CellIR, dfa: DFA, dims: dict[str, int], attempt: Attempt, budget: Budget) -> Witness | None:
    letters = letter_inputs(cell, attempt.solver, attempt.branch, dfa)
    if letters is None:
        return None
    clock = attempt.solver.clock
    for branch in with_outputs(cell, attempt.solver, attempt.branch, attempt.group):
        clock.tick()
        try:
            params = parameters(cell, attempt.solver, branch)
        except NotExact:
            continue
        if attempt.proposal.spreads:
            closed = close_sets(cell, dims, params, letters, dfa, attempt.group.states)
            if isinstance(closed, Closure):
                return finished(cell, dfa, dims, params, letters, closed, attempt.proposal, clock)
            continue
        most = _most(cell, dfa, budget)
        closed = close(cell, dims, params, letters, dfa, most, seconds=clock.left)
        silent = frozenset(s.name for s in cell.states) - attempt.carriers
        if not isinstance(closed, Closure) and closed.kind != "conflict" and silent and not partial(cell, silent):
            hidden = unknown_states(cell, dims, silent)
            told = {a: {**given, **hidden} for a, given in letters.items()}
            closed = close(silenced(cell, silent), dims, params, told, dfa, most, seconds=clock.left)
        else:
            silent = frozenset()
        if isinstance(closed, Closure):
            found = finished(cell, dfa, dims, params, letters, closed, attempt.proposal, clock)
            return replace(found, silent=tuple(sorted(silent)))
    return None


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
    clock: Clock,
) -> Witness:
    """The witness of a closure, with what floating point makes of it (in the time that is left)."""
    saturated = None
    joint = len(dfa.states) * (len(dfa.alphabet) + 1) if closed.parts else len(closed.states)
    if not closed.attained and not closed.regions and joint <= MOST_JOINT:
        most = joint + MOST_ROUNDED
        saturated = close(cell, dims, params, letters, dfa, most, "float32", TAU, seconds=clock.left)
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

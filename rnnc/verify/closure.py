"""Closing a witness: the finite set of states that words reach, and a map g from them onto the automaton's states.

`g(step(h, letter)) = delta(g(h), letter)` for every reachable h and letter covers words of every length.  Languages
are compared on nonempty words: the start state of the machine needs no g of its own unless a word comes back to it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from rnnc.exact import NotExact, decided, to_float
from rnnc.exact.algebraic import generators
from rnnc.exact.asymptotic import wide
from rnnc.ir.graph import CellIR
from rnnc.verify.effort import Effort
from rnnc.verify.languages.dfa import DFA, Word, classes, distinguishing
from rnnc.verify.machines import Arithmetic, Arrays, StepMachine, Values, cell_machine

if TYPE_CHECKING:
    from rnnc.verify.regions import Region

BUDGET = 2000  # states, where the caller says nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Readout:
    """Whether acceptance is a function of the cell's outputs of the same step.

    `through` is "outputs", or "state" where only the full state decides (or the outputs have no exact value): `reason`.
    """

    through: Literal["outputs", "state"]
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The closure of one block of the state (`rnnc.verify.blocks`) against an automaton of its own.

    `entries` are flat numbers of each state's entries; `states` hold these, as [K] of each name; `steps` and `g` are as
    those of a whole.
    """

    entries: Mapping[str, tuple[int, ...]]
    automaton: DFA
    states: tuple[Values, ...]
    steps: tuple[tuple[int, ...], ...]
    g: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Closure:
    """A finite machine that simulates the automaton.

    `states` are those reached, the start first; `steps[state][letter]` their successors; `g[state]` the automaton's
    state (of its minimal form: the least of the equivalent ones).  `attained`: no reachable state is only a limit.
    With `regions` (one for each of the states, which lies in it) they are sets: see `rnnc.verify.regions`.  A product
    of closures has `parts`, and no states of the whole.
    """

    letters: tuple[str, ...]
    states: tuple[Any, ...]
    steps: tuple[tuple[int, ...], ...]
    g: tuple[int, ...]
    attained: bool
    readout: Readout
    arithmetic: Arithmetic = "exact"
    tau: float | None = None
    regions: tuple[Region, ...] = ()
    parts: tuple[Part, ...] = ()
    machine: StepMachine | None = field(default=None, compare=False, repr=False)

    def __bool__(self) -> bool:
        return True

    @property
    def size(self) -> int:
        """How many states (or sets of states, or states of blocks) there are."""
        return len(self.states) + sum(len(p.states) for p in self.parts)

    @property
    def bounded(self) -> bool:
        """Whether all reachable states lie in finitely many compact parts."""
        return all(r.bounded for r in self.regions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """Why there is no closure.

    kind "conflict": `words` reach the same machine state, and `suffix` after both leads to different answers;
    "budget": more states than allowed (an unbounded counter, or too small a budget);
    "not_exact": a step has no exact value, or two states cannot be told apart for certain.
    """

    kind: Literal["conflict", "budget", "not_exact"]
    reason: str
    words: tuple[Word, Word] | None = None
    suffix: Word | None = None

    def __bool__(self) -> bool:
        return False


def close(
    cell: CellIR,
    dims: Mapping[str, int],
    params: Arrays,
    letters: Mapping[str, Arrays],
    dfa: DFA,
    budget: int = BUDGET,
    arithmetic: Arithmetic = "exact",
    tau: float = 40.0,
    seconds: float | None = None,
) -> Closure | Conflict:
    """Explores the cell with these weights: `letters[letter][input]` and `params[name]` are exact arrays.

    `arithmetic` float32 or float64 evaluates step by step in that format, with omega = tau.  `seconds` bounds the time.
    """
    try:
        machine = cell_machine(cell, dims, params, letters, arithmetic, tau)
    except NotExact as error:
        return Conflict(kind="not_exact", reason=str(error))
    return close_machine(machine, dfa, budget, arithmetic, tau, seconds)


def close_machine(
    machine: StepMachine,
    dfa: DFA,
    budget: int = BUDGET,
    arithmetic: Arithmetic = "exact",
    tau: float = 40.0,
    seconds: float | None = None,
) -> Closure | Conflict:
    """As `close`, for any machine (a stack of layers, for example)."""
    if set(machine.letters) != set(dfa.alphabet):
        raise ValueError(f"the machine reads {sorted(machine.letters)}, the automaton {sorted(dfa.alphabet)}")
    search = _Search(machine, dfa, budget, None if seconds is None else Effort.of(seconds))
    try:
        found = search.run()
    except NotExact as error:
        return Conflict(kind="not_exact", reason=str(error))
    if found is not None:
        return found
    return Closure(
        letters=dfa.alphabet,
        states=tuple(search.states),
        steps=tuple(tuple(row) for row in search.steps),
        g=tuple(search.same[dfa.start] if q is None else q for q in search.g),
        attained=not any(machine.is_limit(s) for s in search.states),
        readout=search.readout(),
        arithmetic=arithmetic,
        tau=None if arithmetic == "exact" else tau,
        machine=machine,
    )


class _Search:
    """Breadth first over pairs of a machine state and the automaton's state that a word leads to."""

    def __init__(self, machine: StepMachine, dfa: DFA, budget: int, end: Effort | None = None) -> None:
        self.machine, self.dfa, self.budget, self.end = machine, dfa, budget, end
        self.same = equivalent_states(dfa)
        self.index: dict[Hashable, int] = {}
        self.states: list[Any] = []
        self.steps: list[list[int]] = []
        self.seen: list[list[Hashable | None]] = []  # the output of each step
        self.g: list[int | None] = []
        self.words: list[Word] = []
        self.by_core: dict[Hashable, int] = {}  # a state without errors -> one that has a value of g
        self.answers: dict[Hashable, tuple[bool, Word]] = {}
        self.state_only = ""

    def run(self) -> Conflict | None:
        self.add(self.machine.start())
        work: deque[tuple[int, int, Word]] = deque([(0, self.dfa.start, ())])
        while work:
            state, q, word = work.popleft()
            if not self.steps[state]:
                problem = self.expand(state)
                if problem is not None:
                    return problem
            for k, letter in enumerate(self.dfa.alphabet):
                after, q_after, longer = self.steps[state][k], self.dfa.step(q, letter), (*word, letter)
                self.note_output(self.seen[state][k], q_after in self.dfa.accept, longer)
                known = self.g[after]
                if known is None:
                    self.g[after], self.words[after] = self.same[q_after], longer
                    clash = self.check_core(after)
                    if clash is not None:
                        return clash
                    work.append((after, q_after, longer))
                elif known != self.same[q_after]:
                    return self.conflict(after, q_after, longer)
        return self.undecided()

    def add(self, state: Hashable) -> int:
        self.index[state] = len(self.states)
        self.states.append(state)
        self.steps.append([])
        self.seen.append([])
        self.g.append(None)
        self.words.append(())
        return self.index[state]

    def expand(self, state: int) -> Conflict | None:
        if self.end is not None and self.end.over:
            return Conflict(kind="budget", reason=f"time was up at {len(self.states)} states")
        for letter in self.dfa.alphabet:
            after, output = self.machine.step(self.states[state], letter)
            if after not in self.index:
                if len(self.states) >= self.budget:
                    reason = f"more than {self.budget} states are reached: the state does not stay in a finite set"
                    return Conflict(kind="budget", reason=f"{reason} of this size")
                self.add(after)
            self.steps[state].append(self.index[after])
            self.seen[state].append(output)
        return None

    def conflict(self, state: int, q: int, word: Word) -> Conflict:
        earlier = self.words[state]
        p = self.g[state]
        assert p is not None
        suffix = distinguishing(self.dfa, p, q)
        assert suffix is not None
        a, b = " ".join(earlier), " ".join(word)
        reason = f"`{a}` and `{b}` lead to the same state, but the language tells them apart"
        if suffix:
            reason += f" after `{' '.join(suffix)}`"
        return Conflict(kind="conflict", reason=reason, words=(earlier, word), suffix=suffix)

    def check_core(self, state: int) -> Conflict | None:
        """Two states that differ only in what is left out are the same in the limit: g must agree on them."""
        core = self.machine.core(self.states[state])
        other = self.by_core.setdefault(core, state)
        if self.g[other] == self.g[state]:
            return None
        q = self.g[state]
        assert q is not None
        return self.conflict(other, q, self.words[state])

    def note_output(self, output: Hashable | None, accepted: bool, word: Word) -> None:
        if self.state_only:
            return
        if output is None:
            why = getattr(self.machine, "no_output", "")
            self.state_only = why or "the outputs have no exact value"
            return
        answer, first = self.answers.setdefault(self.machine.core(output), (accepted, word))
        if answer != accepted:
            self.state_only = f"after `{' '.join(first)}` and `{' '.join(word)}` the outputs are equal"

    def readout(self) -> Readout:
        if self.state_only:
            return Readout(through="state", reason=self.state_only)
        keys = list(self.answers)
        groups = [self.answers[k][0] for k in keys]
        if _close_pair(keys, groups) is not None:
            return Readout(through="state", reason="outputs that cannot be told apart for certain")
        return Readout(through="outputs")

    def undecided(self) -> Conflict | None:
        reason = apart(self.states, self.g, self.words)
        return None if reason is None else Conflict(kind="not_exact", reason=reason)


def apart(states: Sequence[Any], g: Sequence[Any], words: Sequence[Word] = ()) -> str | None:
    """None where states with different g differ for certain, else why that is not known; `words` lead to them."""
    found = [generators(c) for s in states for x in _entries(s) for c in wide(x).terms.values()]
    if math.gcd(math.lcm(1, *(r for r, _ in found)), math.lcm(1, *(n for _, n in found))) > 1:
        return "the states mix square roots and roots of unity that are related"
    pair = _close_pair(states, g)
    if pair is None:
        return None
    a, b = (f"after `{' '.join(words[i])}`" if words else f"{i}" for i in pair)
    return f"the states {a} and {b} cannot be told apart for certain"


def _entries(values: Any) -> list[Any]:
    """All numbers of frozen values, or of a tuple of them; [] for what is no such thing (bytes, a test's own state)."""
    if isinstance(values, tuple):
        return [x for v in values for x in _entries(v)]
    return [] if isinstance(values, (str, bytes, int, bool)) else [values]


def _close_pair(values: Sequence[Any], groups: Sequence[Any]) -> tuple[int, int] | None:
    """Two values of different groups whose numbers are neither decided to differ nor separated by floats."""
    rows = [_entries(v) for v in values]
    if all(decided(x) for row in rows for x in row):
        return None
    near = [[to_float(x, 1e3) for x in row] for row in rows]
    for i in range(len(rows)):
        for j in range(i):
            if groups[i] != groups[j] and all(
                abs(a - b) <= 1e-6 * (1 + abs(a)) for a, b in zip(near[i], near[j], strict=True)
            ):
                return j, i
    return None


def equivalent_states(dfa: DFA) -> tuple[int, ...]:
    """For each state the least one that accepts the same words."""
    first: dict[int, int] = {}
    return tuple(first.setdefault(block, q) for q, block in enumerate(classes(dfa)))

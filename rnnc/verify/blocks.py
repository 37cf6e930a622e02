"""Closing a witness block by block: a product of closures.

The entries of the state fall into blocks.  A step is run from each state of one block and by each letter with nothing
known of all other entries (`rnnc.verify.steps`): what is then known of the block after the step holds whatever the
others are.  So each block is a machine of its own, which is closed against an automaton of its own, and the cell goes
through the product of these.  If the product's states tell the state of the automaton that is asked for, the cell does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy

from rnnc.exact import NotExact, is_limit
from rnnc.ir.graph import NodeId
from rnnc.verify.closure import Closure, Conflict, Part, Readout, apart, equivalent_states
from rnnc.verify.effort import Effort
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.machines import Arrays, ExactLayer, Stack, Values, core
from rnnc.verify.steps import Codes, OutOfTime, Steps

np: Any = numpy  # object arrays, which its stubs do not describe
MOST_STATES = 600  # of one block
MOST_PAIRS = 200_000  # of states of the product and letters


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Flat numbers of entries [*per, *shape] of states, and the automaton that they carry."""

    entries: Mapping[str, tuple[int, ...]]
    automaton: DFA


@dataclass(slots=True)
class _Explored:
    """What is known of one block so far: its states as places of numbers, and where letters lead."""

    block: Block
    index: dict[tuple[int, ...], int] = field(default_factory=dict)
    states: list[tuple[int, ...]] = field(default_factory=list)
    steps: list[list[int]] = field(default_factory=list)

    def add(self, entries: tuple[int, ...]) -> int:
        if entries not in self.index:
            self.index[entries] = len(self.states)
            self.states.append(entries)
        return self.index[entries]

    def of(self, states: Mapping[str, Codes], lead: int) -> Codes:
        """The block's entries [..., K] of states [..., *per, *shape] with `lead` axes in front."""
        rows = [(states[name], list(at)) for name, at in self.block.entries.items()]
        return np.concatenate([x.reshape(*x.shape[:lead], -1)[..., at] for x, at in rows], axis=-1)


def told_by(automata: Sequence[DFA], dfa: DFA) -> bool:
    """Whether the states of all of these after a nonempty word tell the automaton's."""
    same = equivalent_states(dfa)
    letters = range(len(dfa.alphabet))
    first = (tuple(a.start for a in automata), dfa.start)
    means: dict[tuple[int, ...], int] = {}
    work = [first]
    for at, q in work:  # grows while it is walked
        for k in letters:
            after, state = tuple(a.delta[p][k] for a, p in zip(automata, at, strict=True)), dfa.delta[q][k]
            if after not in means:
                means[after] = same[state]
                work.append((after, state))
            elif means[after] != same[state]:
                return False
        if len(work) * len(letters) > MOST_PAIRS:
            return False
    return True


def close_blocks(
    layer: ExactLayer,
    letters: Mapping[str, Arrays],
    dfa: DFA,
    blocks: Sequence[Block],
    seconds: float | None = None,
) -> Closure | Conflict:
    """The closure of a product; the blocks hold each entry of the state once, their automata read `dfa`'s letters."""
    if not told_by([b.automaton for b in blocks], dfa):
        return Conflict(kind="conflict", reason="the automata of the blocks do not tell the automaton's state")
    try:
        return _Product(layer, letters, dfa, blocks, None if seconds is None else Effort.of(seconds)).run()
    except NotExact as error:
        return Conflict(kind="not_exact", reason=str(error))
    except OutOfTime:
        return Conflict(kind="budget", reason="time was up")


class _Product:
    def __init__(
        self,
        layer: ExactLayer,
        letters: Mapping[str, Arrays],
        dfa: DFA,
        blocks: Sequence[Block],
        effort: Effort | None,
    ) -> None:
        self.layer, self.letters, self.dfa = layer, letters, dfa
        self.steps = Steps(layer.body, [letters[a] for a in dfa.alphabet], effort)
        self.explored = [_Explored(b) for b in blocks]
        self.seen: dict[NodeId, list[Any]] = {}  # of each value that a step works out: what each block knows of it

    def run(self) -> Closure | Conflict:
        start = self.steps.start()
        sizes = {name: x.size for name, x in start.items()}
        held = [(n, k) for e in self.explored for n, at in e.block.entries.items() for k in at]
        if sorted(held) != sorted((n, k) for n, size in sizes.items() for k in range(size)):
            return Conflict(kind="not_exact", reason="the blocks do not hold each entry once")
        new = [[e.add(tuple(e.of(start, 0).tolist()))] for e in self.explored]
        while any(new):
            found = self.round(start, new)
            if isinstance(found, Conflict):
                return found
            new = found
        whole = [np.logical_or.reduce([k for k in known if k is not None]).all() for known in self.seen.values()]
        if not all(whole):
            return Conflict(kind="not_exact", reason="a step works out what no block alone determines")
        parts = []
        for e in self.explored:
            part = self.part(e)
            if isinstance(part, Conflict):
                return part
            parts.append(part)
        return Closure(
            letters=self.dfa.alphabet,
            states=(),
            steps=(),
            g=(),
            attained=not any(is_limit(x) for e in self.explored for s in e.states for x in self.numbers(s)),
            readout=Readout(through="state", reason="the state is closed block by block"),
            parts=tuple(parts),
            machine=Stack([self.layer], self.letters),
        )

    def round(self, start: Mapping[str, Codes], new: list[list[int]]) -> list[list[int]] | Conflict:
        """Steps from the states that are new in each block; those that are reached for the first time."""
        rows = [(b, k) for b, states in enumerate(new) for k in states]
        given = {name: np.full((len(rows), x.size), self.steps.unknown) for name, x in start.items()}
        for row, (b, k) in enumerate(rows):
            entries = iter(self.explored[b].states[k])
            for name, at in self.explored[b].block.entries.items():
                given[name][row, list(at)] = [next(entries) for _ in at]
        after, values = self.steps.after({n: x.reshape(len(rows), *start[n].shape) for n, x in given.items()})
        owner = np.array([b for b, _ in rows])
        self.note(values, owner)
        reached: list[list[int]] = []
        for b, e in enumerate(self.explored):
            if not new[b]:
                reached.append([])
                continue
            found = e.of({n: x[owner == b] for n, x in after.items()}, 2)
            if (found == self.steps.unknown).any():
                return Conflict(kind="not_exact", reason=f"block {b + 1} reads another one")
            before = len(e.states)
            for row in found.tolist():
                e.steps.append([e.add(tuple(entries)) for entries in row])
            if len(e.states) > MOST_STATES:
                return Conflict(kind="budget", reason=f"more than {MOST_STATES} states of one block are reached")
            reached.append(list(range(before, len(e.states))))
        return reached

    def note(self, values: Mapping[NodeId, Codes], owner: Any) -> None:
        """Which entries of the values that were worked out each block knows, in all of its states."""
        for node, codes in values.items():
            known = codes != self.steps.unknown
            known = np.broadcast_to(known, (len(owner), *known.shape[1:])).all(axis=1)
            by_block = self.seen.setdefault(node, [None] * len(self.explored))
            for b in range(len(self.explored)):
                if (owner == b).any():
                    mine = known[owner == b].all(axis=0)
                    by_block[b] = mine if by_block[b] is None else by_block[b] & mine

    def part(self, e: _Explored) -> Part | Conflict:
        """g of a block: the state of its automaton; of the start only if a word comes back to it."""
        a = e.block.automaton
        g: list[int | None] = [None] * len(e.states)
        work = [(0, a.start)]
        for state, q in work:  # grows while it is walked
            for after, p in zip(e.steps[state], a.delta[q], strict=True):
                if g[after] is None:
                    g[after] = p
                    work.append((after, p))
                elif g[after] != p:
                    return Conflict(
                        kind="conflict", reason="words lead to one state of a block and two of its automaton"
                    )
        told = [a.start if q is None else q for q in g]
        states = [self.values(e, s) for s in e.states]
        cores: dict[Any, int] = {}
        if any(cores.setdefault(core(s), q) != q for s, q in zip(states, told, strict=True) if q is not None):
            return Conflict(kind="conflict", reason="states of a block that are the same in the limit")
        reason = apart(states, told)
        if reason is not None:
            return Conflict(kind="not_exact", reason=reason)
        return Part(
            entries={n: tuple(at) for n, at in e.block.entries.items()},
            automaton=a,
            states=tuple(states),
            steps=tuple(map(tuple, e.steps)),
            g=tuple(told),
        )

    def numbers(self, state: tuple[int, ...]) -> list[Any]:
        return [self.steps.table.values[k] for k in state]

    def values(self, e: _Explored, state: tuple[int, ...]) -> Values:
        numbers = iter(self.numbers(state))
        return tuple((n, (len(at),), tuple(next(numbers) for _ in at)) for n, at in e.block.entries.items())

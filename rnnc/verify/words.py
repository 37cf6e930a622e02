"""Whether a machine with fixed float32 weights recognises a language: its reachable states, and all short words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np

from rnnc.exact import NotExact
from rnnc.verify.closure import Closure, Conflict, close_machine, equivalent_states
from rnnc.verify.languages.dfa import DFA, Word, distinguishing
from rnnc.verify.results import ClaimResult, Evidence
from rnnc.verify.trained import Model, Rows, States, flat_rows

Array = Any
CLOSURE_STATES = 200  # a set of states that words stay in is small, or not found at all
WORDS = 6000  # words of one length at most, in the search of all of them
LONGEST = 14
LONG, LONG_WORDS = 256, 24  # the length and number of the long words that are tried behind it
SECONDS = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """All words up to `exhaustive` letters and `long` longer ones; `wrong`: the shortest that the readout misjudges.

    `same`: two words with equal states, and what comes after them to tell them apart.
    """

    words: int
    exhaustive: int
    long: int
    wrong: Word | None = None
    same: tuple[Word, Word, Word] | None = None


def examine(model: Model, inputs: Array | Rows, dfa: DFA, *, by_state: bool, negated: bool) -> ClaimResult:
    """`inputs` [letters, ...] in the order of the automaton's alphabet; `by_state`: its states are to be told apart,
    not acceptance alone.
    """
    found = _search(model, inputs, dfa, by_state)
    if found.same is not None:
        return _same(found.same, negated)
    if found.wrong is not None:
        return _wrong(found.wrong, dfa, negated)
    closed = _close(model, inputs, dfa)
    if isinstance(closed, Closure):
        return _closed(closed, model, negated)
    if closed.words is not None:
        return _same((*closed.words, closed.suffix or ()), negated)
    tried = f"all {found.words} words of up to {found.exhaustive} letters"
    more = f" and {found.long} words of {LONG} letters" if found.long else ""
    judged = "its own readout is right on" if model.has_readout else "no two equal states among"
    reason = f"{judged} {tried}{more}, which proves nothing for longer ones ({closed.reason})"
    evidence = Evidence(kind="analysis", source="float32, one step at a time", data={"words": found.words})
    return ClaimResult(claim="", line=0, verdict="unknown", precision="float32", reason=reason, evidence=evidence)


# ---------------------------------------------------------------- verdicts


def _same(found: tuple[Word, Word, Word], negated: bool) -> ClaimResult:
    first, second, suffix = found
    after = f" once `{shown(suffix)}` follows" if suffix else ""
    reason = (
        f"`{shown(first)}` and `{shown(second)}` lead to one state in float32, and the language tells them apart"
        f"{after}: no readout can"
    )
    data = {"words": [list(first), list(second)], "suffix": list(suffix)}
    return _result(not negated, "counterexample", reason, data)


def _wrong(word: Word, dfa: DFA, negated: bool) -> ClaimResult:
    kind = "in" if dfa.accepts(word) else "not in"
    count = f"{len(word)} letter{'s' if len(word) > 1 else ''}"
    reason = f"its own readout is wrong about `{shown(word)}` ({count}, {kind} the language)"
    data = {"word": list(word), "accepted_by_the_language": dfa.accepts(word)}
    return _result(not negated, "counterexample", reason, data)


def _closed(closed: Closure, model: Model, negated: bool) -> ClaimResult:
    through = (
        "its own readout" if model.has_readout and closed.readout.through == "outputs" else "a readout of the state"
    )
    reason = f"words of every length lead to {len(closed.states)} float32 states, and {through} tells them apart"
    data = {"states": len(closed.states), "steps": [list(s) for s in closed.steps], "g": list(closed.g)}
    return _result(negated, "witness", reason, data)


def _result(refuted: bool, kind: str, reason: str, data: dict[str, Any]) -> ClaimResult:
    return ClaimResult(
        claim="",
        line=0,
        verdict="refuted" if refuted else "proved",
        precision="float32",
        reason=reason,
        evidence=Evidence(kind=kind, source="float32, one step at a time", data=data),  # type: ignore[arg-type]
    )


def shown(word: Sequence[str]) -> str:
    """A word in one line; `...` in the middle of a long one."""
    joined = "" if all(len(letter) == 1 for letter in word) else " "
    return joined.join(word) if len(word) <= 24 else f"{joined.join(word[:12])}...{joined.join(word[-8:])}"


# ---------------------------------------------------------------- closure


class _Machine:
    """A model as `close_machine` takes it: a state is its bytes."""

    def __init__(self, model: Model, inputs: Array | Rows, alphabet: tuple[str, ...]) -> None:
        self.model, self.inputs, self.letters = model, inputs, alphabet
        self.states: dict[bytes, States] = {}

    def start(self) -> bytes:
        return self._freeze(self.model.start(1))

    def step(self, state: Any, letter: str) -> tuple[bytes, bytes]:
        after, out = self.model.step(self.states[state], self.inputs[[self.letters.index(letter)]])
        return self._freeze(after), np.ascontiguousarray(out).tobytes()

    def _freeze(self, states: States) -> bytes:
        if any(np.isnan(v).any() for state in states for v in state.values() if v.dtype.kind in "fc"):
            raise NotExact("a state is not a number")
        key: bytes = flat_rows(states).tobytes()
        self.states[key] = states
        return key

    def core(self, values: Any) -> Any:
        return values

    def is_limit(self, values: Any) -> bool:
        return False


def _close(model: Model, inputs: Array | Rows, dfa: DFA) -> Closure | Conflict:
    return close_machine(_Machine(model, inputs, dfa.alphabet), dfa, CLOSURE_STATES, "float32")


# ---------------------------------------------------------------- words


@dataclass(slots=True)
class _Level:
    """All words of one length, each a row: its parent's row and its letter (by `history`)."""

    states: States
    automaton: Array  # [B]
    history: list[tuple[Array, Array]]

    def word(self, row: int, dfa: DFA) -> Word:
        letters = []
        for parents, chosen in reversed(self.history):
            letters.append(dfa.alphabet[int(chosen[row])])
            row = int(parents[row])
        return tuple(reversed(letters))


def _levels(model: Model, inputs: Array | Rows, dfa: DFA) -> Iterator[tuple[_Level, Array]]:
    """Words of 1, 2, ... letters, and what comes out after the last one."""
    k = len(dfa.alphabet)
    delta = np.array(dfa.delta)
    level = _Level(model.start(1), np.array([dfa.start]), [])
    began = monotonic()
    while len(level.automaton) * k <= WORDS and len(level.history) < LONGEST and monotonic() - began < SECONDS:
        n = len(level.automaton)
        parents, letters = np.repeat(np.arange(n), k), np.tile(np.arange(k), n)
        tiled = tuple({name: v[parents] for name, v in state.items()} for state in level.states)
        after, out = model.step(tiled, inputs[letters])
        level = _Level(after, delta[level.automaton[parents], letters], [*level.history, (parents, letters)])
        yield level, out


def _search(model: Model, inputs: Array | Rows, dfa: DFA, by_state: bool) -> Searched:
    """Equal states of words that differ for the language; and where the own readout is wrong, if there is one."""
    classes = np.array(equivalent_states(dfa))
    wanted = classes if by_state else np.isin(np.arange(len(dfa.states)), list(dfa.accept)).astype(int)
    seen: dict[bytes, tuple[int, Word]] = {}
    levels, outs, count = [], [], 0
    for level, out in _levels(model, inputs, dfa):
        levels.append(level)
        outs.append(out)
        count += len(out)
        rows = flat_rows(level.states)
        for i, q in enumerate(classes[level.automaton]):
            key = rows[i].tobytes()
            known = seen.get(key)
            if known is None:
                seen[key] = (int(q), level.word(i, dfa))
            elif known[0] != q:
                suffix = distinguishing(dfa, known[0], int(q))
                same = (known[1], level.word(i, dfa), suffix or ())
                return Searched(words=count, exhaustive=len(levels), long=0, same=same)
    if not model.has_readout:
        return Searched(words=count, exhaustive=len(levels), long=0)
    truth = [wanted[level.automaton] for level in levels]
    meaning = _meaning(np.concatenate(outs), np.concatenate(truth))
    for level, out, right in zip(levels, outs, truth):
        missed = np.flatnonzero(meaning[out] != right)
        if missed.size:
            return Searched(words=count, exhaustive=len(levels), long=0, wrong=level.word(int(missed[0]), dfa))
    wrong = _long(model, inputs, dfa, wanted, meaning)
    return Searched(words=count, exhaustive=len(levels), long=LONG_WORDS, wrong=wrong)


def _meaning(classes: Array, truth: Array) -> Array:
    """[classes of the readout]: what each stands for, as most words say; nothing is assumed of their order."""
    counts = np.zeros((int(classes.max()) + 64, int(truth.max()) + 1), dtype=int)
    np.add.at(counts, (classes, truth), 1)
    return np.where(counts.any(axis=1), counts.argmax(axis=1), -1)


def _long(model: Model, inputs: Array | Rows, dfa: DFA, wanted: Array, meaning: Array) -> Word | None:
    """The shortest prefix of some long words that the readout misjudges: one letter alone, and random ones."""
    k = len(dfa.alphabet)
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.full(k, 0.7), LONG_WORDS)
    words = np.stack([rng.choice(k, LONG, p=w) for w in weights])
    words[: min(k, LONG_WORDS)] = np.arange(min(k, LONG_WORDS))[:, None]
    delta, states = np.array(dfa.delta), model.start(LONG_WORDS)
    automaton = np.full(LONG_WORDS, dfa.start)
    for t in range(LONG):
        states, out = model.step(states, inputs[words[:, t]])
        automaton = delta[automaton, words[:, t]]
        missed = np.flatnonzero(meaning[out] != wanted[automaton])
        if missed.size:
            return tuple(dfa.alphabet[i] for i in words[missed[0], : t + 1])
    return None

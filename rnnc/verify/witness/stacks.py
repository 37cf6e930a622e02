"""Witnesses in several layers: an automaton as a cascade, each part in a layer of its own.

The parts of a cascade (`cascades.py`) are found by the search for one layer; a layer above reads the letter with the
classes of all layers below after the step, which their outputs tell.  The stack as a whole then has to close.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from rnnc.exact import NotExact
from rnnc.verify.closure import Closure, close_machine
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.machines import Arrays, Between, ExactLayer, Stack, Values
from rnnc.verify.witness.cascades import Split, paired, splits

if TYPE_CHECKING:
    from rnnc.verify.witness.witness import Witness

Search = Callable[[DFA, dict[str, int], float], "Witness | None"]
Classes = dict[Hashable, int]  # what a layer puts out -> its class


def in_several_layers(dfa: DFA, dims: dict[str, int], layers: int, end: float, search: Search) -> Witness | None:
    """`search(automaton, dims, seconds)` finds witnesses in one layer; `end` is a time of time.monotonic()."""
    for parts, split in _cascades(dfa, dims, layers, end, search):
        found = _stacked(dfa, parts, split)
        if found is not None:
            return found
    return None


def _cascades(
    dfa: DFA, dims: dict[str, int], layers: int, end: float, search: Search
) -> Iterator[tuple[list[Witness], Split]]:
    """Witnesses of the parts of an automaton, lowest first, and the split of the lowest from those above it."""
    for split in splits(dfa):
        left = end - time.monotonic()
        if left <= 0:
            return
        upper = _parts(split.upper, dims, layers - 1, time.monotonic() + left / 2, search)
        if not upper:
            continue
        lower = search(split.lower, dict(upper[0].dims), end - time.monotonic())
        if lower is not None and lower.closure.readout.through == "outputs":
            yield [lower, *upper], split


def _parts(dfa: DFA, dims: dict[str, int], layers: int, end: float, search: Search) -> list[Witness]:
    """Witnesses of an automaton in at most so many layers, lowest first; [] where none are found."""
    left = end - time.monotonic()
    found = search(dfa, dims, left if layers == 1 else left / 4)
    if found is not None:
        return [found]
    if layers == 1:
        return []
    return next((parts for parts, _ in _cascades(dfa, dims, layers, end, search)), [])


def _stacked(dfa: DFA, parts: list[Witness], split: Split) -> Witness | None:
    classes = [_classes(w) for w in parts[:-1]]
    known = [c for c in classes if c is not None]
    if len(known) < len(classes):
        return None

    def between(k: int) -> Between:
        """The inputs of layer k + 1."""

        def inputs(letter: str, outputs: Values) -> Arrays:
            name = letter
            for j, each in enumerate(_apart(outputs, k + 1)):
                name = paired(name, known[j][each])
            return parts[k + 1].letters[name]

        return inputs

    machine = Stack(
        [ExactLayer(w.cell, w.dims, w.params) for w in parts], parts[0].letters, [between(k) for k in range(len(known))]
    )
    closed = close_machine(machine, dfa)
    if not isinstance(closed, Closure):
        return None
    return replace(
        parts[-1],
        dfa=dfa,
        closure=closed,
        construction=split.construction,
        source=split.source,
        status="attained" if closed.attained else "limit",
        tau=None,
        readout="the outputs" if closed.readout.through == "outputs" else f"the state ({closed.readout.reason})",
        below=tuple(parts[:-1]),
    )


def _apart(outputs: Values, layers: int) -> list[Values]:
    """What `joined` has put together."""
    if layers == 1:
        return [outputs]
    found: list[Values] = [()] * layers
    for name, shape, entries in outputs:
        k, _, own = name.partition(".")
        found[int(k)] = (*found[int(k)], (own, shape, entries))
    return found


def _classes(w: Witness) -> Classes | None:
    """A layer's class by its output; None where an output does not tell it."""
    machine = w.closure.machine
    if machine is None:
        return None
    found: Classes = {}
    for state, row in zip(w.closure.states, w.closure.steps, strict=True):
        for letter, after in zip(w.closure.letters, row, strict=True):
            try:
                _, output = machine.step(state, letter)
            except NotExact:
                return None
            if output is None or found.setdefault(machine.core(output), w.closure.g[after]) != w.closure.g[after]:
                return None
    return found

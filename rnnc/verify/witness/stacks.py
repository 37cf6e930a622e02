"""Witnesses in several layers: an automaton as a cascade, each part in a layer of its own.

The parts of a cascade (`cascades.py`) are found by the search for one layer; a layer above reads the letter with the
classes of all layers below after the step, which their outputs tell.  The stack as a whole then has to close.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rnnc.exact import NotExact, to_float
from rnnc.verify.closure import BUDGET, Closure, close_machine
from rnnc.verify.effort import worked
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.machines import Arithmetic, Arrays, Between, ExactLayer, FloatLayer, Layer, Stack, Values, core
from rnnc.verify.witness.cascades import Split, paired, splits
from rnnc.verify.witness.witness import TAU, Witness

MOST_ROUNDED = 400  # states in floating point, beyond those that exact arithmetic has
MOST_SECONDS = 20.0  # for closing a stack
Search = Callable[[DFA, dict[str, int], float], Witness | None]
Classes = dict[Values, int]  # what a layer puts out -> its class
ClassOf = Callable[[Values], int]


def in_several_layers(dfa: DFA, dims: dict[str, int], layers: int, end: float, search: Search) -> Witness | None:
    """`search(automaton, dims, seconds)` finds witnesses in one layer; `end` is a time of `worked`."""
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
        left = end - worked()
        if left <= 0:
            return
        upper = _parts(split.upper, dims, layers - 1, worked() + left / 2, search)
        if not upper:
            continue
        lower = search(split.lower, dict(upper[0].dims), end - worked())
        if lower is not None and lower.closure.readout.through == "outputs":
            yield [lower, *upper], split


def _parts(dfa: DFA, dims: dict[str, int], layers: int, end: float, search: Search) -> list[Witness]:
    """Witnesses of an automaton in at most so many layers, lowest first; [] where none are found."""
    left = end - worked()
    found = search(dfa, dims, left if layers == 1 else left / 4)
    if found is not None:
        return [found]
    if layers == 1:
        return []
    return next((parts for parts, _ in _cascades(dfa, dims, layers, end, search)), [])


def _stacked(dfa: DFA, parts: list[Witness], split: Split) -> Witness | None:
    classes = [c for c in map(_classes, parts[:-1]) if c is not None]
    if len(classes) < len(parts) - 1:
        return None
    exact = [ExactLayer(w.cell, w.dims, w.params) for w in parts]
    closed = _closed(dfa, parts, exact, [c.__getitem__ for c in classes])
    if closed is None:
        return None
    floats = [FloatLayer(w.cell, w.dims, w.params, "float32", TAU) for w in parts]
    rounded = _closed(dfa, parts, floats, [_nearest(c) for c in classes], 4 * len(closed.states) + MOST_ROUNDED)
    return replace(
        parts[-1],
        dfa=dfa,
        closure=closed,
        construction=split.construction,
        source=split.source,
        status="attained" if closed.attained else "limit" if rounded is None else "saturation",
        tau=None if closed.attained or rounded is None else TAU,
        readout="the outputs" if closed.readout.through == "outputs" else f"the state ({closed.readout.reason})",
        below=tuple(parts[:-1]),
        rounded=rounded,
    )


def _closed(
    dfa: DFA, parts: list[Witness], layers: Sequence[Layer], class_of: list[ClassOf], most: int = BUDGET
) -> Closure | None:
    """The closure of the whole stack, in the arithmetic of `layers`; `class_of[k]` reads the outputs of layer k."""

    def between(k: int) -> Between:
        """The inputs of layer k + 1: those of the letter with the classes of all layers below."""

        def inputs(letter: str, outputs: Values) -> Arrays:
            for j, own in enumerate(_apart(outputs, k + 1)):
                letter = paired(letter, class_of[j](own))
            return parts[k + 1].letters[letter]

        return inputs

    stack = Stack(layers, parts[0].letters, [between(k) for k in range(len(class_of))])
    arithmetic: Arithmetic = "exact" if isinstance(layers[0], ExactLayer) else "float32"
    found = close_machine(stack, dfa, most, arithmetic, TAU, MOST_SECONDS)
    return found if isinstance(found, Closure) else None


def _nearest(classes: Classes) -> ClassOf:
    """Reads outputs in floating point as those of the exact ones that are nearest."""
    rows = np.array([_flat(values, TAU) for values in classes])
    numbers = list(classes.values())

    def read(outputs: Values) -> int:
        return numbers[int(np.abs(rows - _flat(outputs, TAU)).max(axis=1).argmin())]

    return read


def _flat(outputs: Values, tau: float) -> Any:
    """All numbers of outputs, exact or in float32, as complex ones."""
    found = [np.zeros(0)]
    for _, shape, entries in outputs:
        if isinstance(entries, bytes):
            size = int(np.prod(shape))
            found.append(np.frombuffer(entries, dtype=np.complex64 if len(entries) == 8 * size else np.float32))
        else:
            found.append(np.array([to_float(x, tau) for x in entries], dtype=complex))
    return np.concatenate(found).astype(complex)


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
    if not isinstance(machine, Stack):
        return None
    found: Classes = {}
    for state, row in zip(w.closure.states, w.closure.steps, strict=True):
        for letter, after in zip(w.closure.letters, row, strict=True):
            try:
                _, output = machine.step(state, letter)
            except NotExact:
                return None
            if output is None or found.setdefault(core(output), w.closure.g[after]) != w.closure.g[after]:
                return None
    return found

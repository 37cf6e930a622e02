"""What a machine does at given numbers: its matrices, how its updates bend, and what a repeated input leads to."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy

from rnnc.verify.trusted.cells import need
from rnnc.verify.trusted.machine import Machine
from rnnc.verify.trusted.matrices import MARGIN

np: Any = numpy  # object arrays, which its stubs do not describe


def matrices(m: Machine, inputs: Any, state: str) -> Any:
    """The matrices [heads, n, n] of an update without a term of its own, read off unit vectors."""
    zero = m.start()
    size = zero[state].shape[-1]
    columns = [m.step(inputs, zero | {state: np.broadcast_to(e, zero[state].shape)})[0][state] for e in np.eye(size)]
    return np.stack(columns, axis=-1).reshape(-1, size, size)


class Bend(NamedTuple):
    """Of a state's updates at two states: their difference, how far that of the midpoint is off the line, a margin far
    above rounding, and whether the update of the larger of both falls below one (of complex numbers always).
    """

    difference: Any
    off: Any
    margin: float
    falls: bool


def bend(m: Machine, inputs: Any, name: str, a: Any, b: Any) -> Bend:
    middle, top = a | {name: (a[name] + b[name]) / 2}, a | {name: np.maximum(a[name], b[name])}
    low, high, half, most = (m.step(inputs, x)[0][name] * 1.0 for x in (a, b, middle, top))
    margin = MARGIN * (1 + np.abs([low, high, half]).max())
    need(np.isfinite(margin), "the numbers are not finite")
    falls = np.iscomplexobj(a[name]) or bool((most < np.maximum(low, high) - margin).any())
    return Bend(low - high, half - (low + high) / 2, margin, falls)


def repeated(m: Machine, inputs: Any, steps: int) -> list[dict[str, Any]]:
    """The initial state and those after each of some equal inputs."""
    seen = [m.start()]
    for _ in range(steps):
        seen.append(m.step(inputs, seen[-1])[0])
    return seen


def multiplies(seen: list[dict[str, Any]], name: str) -> bool:
    """Whether a state grows tenfold from each quarter of the steps to the next."""
    quarter = len(seen) // 4
    sizes = [np.abs(seen[k * quarter][name]).max() for k in (1, 2, 3, 4)]
    return bool(np.isfinite(sizes).all() and min(sizes) > 0) and all(y > 10 * x for x, y in pairwise(sizes))

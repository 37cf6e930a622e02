"""What a machine does at given numbers: its matrices, how its updates bend, and what a repeated input leads to."""

from __future__ import annotations

from math import comb, log
from typing import Any, NamedTuple

import numpy

from rnnc.verify.trusted.boxes import EXACT
from rnnc.verify.trusted.cells import need
from rnnc.verify.trusted.machine import Machine, bare
from rnnc.verify.trusted.matrices import MARGIN

np: Any = numpy  # object arrays, which its stubs do not describe
MOST_STEPS = 1000


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


def moves_on(m: Machine, inputs: Any, name: str, group: Any, windows: Any) -> None:
    """Raises Reject unless, exactly, an affine group moves by the same amount twice under a constant input, and so for
    ever.  Of weights without a limit: of a gate that is 1 up to what vanishes with omega, this says nothing.
    """
    need(all(bare(v) for x in m.weights.values() for v in x.reshape(-1) if isinstance(v, EXACT)), "a weight is a limit")
    seen = [m.start()]
    for _ in range(8):
        seen.append(m.step(inputs, seen[-1])[0])
    a, b, last = seen[-3:]
    need(all((x[s] == y[s]).all() for s in windows for x, y in ((a, b), (b, last))), "an earlier input is still seen")
    same = all(np.all(last[s] - b[s] == b[s] - a[s]) for s in group)
    need(same and np.any(last[name] != b[name]), "the state does not move on")


def multiplies(m: Machine, inputs: Any, name: str, order: int, windows: Any) -> bool:
    """Whether under a constant input a state leaves every bound, if its entries are sums of solutions of linear
    recurrences of an order.

    Where all eigenvalues lie in the closed unit disk, entry K of such a solution is at most
    sum_j C(K, j) C(K - j - 1, N - 1 - j) times the largest of its first N: the coefficients of x^K modulo the
    characteristic polynomial are Schur functions of hooks in its roots, largest where all of these are 1.  (A nilpotent
    matrix grows, too, for a while.)  It has to be so, too, if each operation is a little off.
    """
    rng, a, b, sizes = np.random.default_rng(1), m.start(), m.start(), list[float]()
    warm = sum(a[w].size for w in windows)  # then windows of inputs are full
    for k in range(warm + MOST_STEPS):
        a, b = m.step(inputs, a)[0], m.shaken(inputs, b, rng)
        sizes += [float(np.abs(a[name]).max())] if k >= warm else []
        last, first = len(sizes) - 1, max(sizes[:order], default=0.0)
        if not np.isfinite(sizes[-1:]).all():
            return False
        if last >= order and last % 20 == 0 and 0 < first < sizes[-1]:
            most = 2 * sum(comb(last, j) * comb(last - j - 1, order - 1 - j) for j in range(order))
            if log(sizes[-1]) - log(first) > log(most):
                return bool(np.abs(a[name] - b[name]).max() <= 1e-3 * sizes[-1])
    return False

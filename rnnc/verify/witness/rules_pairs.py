"""Rules of the operations of two arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import TypeAlias

import numpy as np

from rnnc.exact import functions as fn
from rnnc.verify.witness.factors import Entry, Index, factorisations
from rnnc.verify.witness.numbers import (
    OMEGA,
    ONE,
    ZERO,
    Number,
    infinite,
    is_real,
    known,
    modulus,
    quotient,
    radians,
    size,
    square_root,
    turns_of,
)
from rnnc.verify.witness.want import Array, Conflict, Option, Want, aligned, broadcast_index, empty, unbroadcast

Pair: TypeAlias = "tuple[Number | None, Number | None]"
Rule: TypeAlias = Callable[[Number, "Number | None", "Number | None"], "Pair | None"]


def _entrywise(w: Want, rules: tuple[Rule, ...]) -> Iterator[Option]:
    """Each rule says, entry by entry, what is wanted of both operands, given what is known of them."""
    full = w.target.shape
    have = [np.broadcast_to(aligned(k, len(full)), full) for k in w.known]
    where = w.entries()
    seen: set[tuple[Pair | None, ...]] = set()
    for rule in rules:
        pairs = [rule(w.target[at], have[0][at], have[1][at]) for at in where]
        if any(p is None for p in pairs) or tuple(pairs) in seen:
            continue
        seen.add(tuple(pairs))
        parts = [empty(full), empty(full)]
        for at, pair in zip(where, pairs, strict=True):
            assert pair is not None
            parts[0][at], parts[1][at] = pair
        try:
            yield [unbroadcast(p, s) for p, s in zip(parts, w.shapes, strict=True)]
        except Conflict:
            continue


def _add(w: Want) -> Iterator[Option]:
    minus = w.node.op == "sub"

    def rule(pick: Callable[[Number], bool]) -> Rule:
        def found(t: Number, a: Number | None, b: Number | None) -> Pair | None:
            if a is not None:
                rest = a - t if minus else t - a
                return (None, rest) if b is None else (None, None) if b == rest else None
            if b is not None:
                return (t + b if minus else t - b), None
            if any(w.zero):
                return (t, ZERO) if w.zero[1] else (ZERO, -t if minus else t)
            return (t, ZERO) if pick(t) else (ZERO, -t if minus else t)

        return found

    yield from _entrywise(
        w, (rule(lambda t: True), rule(lambda t: False), rule(lambda t: size(t) < 0), rule(lambda t: size(t) > 0))
    )


# ---------------------------------------------------------------- products


def _mul(w: Want) -> Iterator[Option]:
    if w.node.args[0] == w.node.args[1]:  # both arguments are one
        out = empty(w.target.shape)
        for at in w.entries():
            out[at] = square_root(w.target[at])
            if out[at] is None:
                return
        yield [out, None]
        return
    entries = [(broadcast_index(at, w.shapes[0]), broadcast_index(at, w.shapes[1]), w.target[at]) for at in w.entries()]
    yield from _factored(w, entries)


def _factored(w: Want, entries: list[Entry]) -> Iterator[Option]:
    have = (_known_at(w.known[0], {e[0] for e in entries}), _known_at(w.known[1], {e[1] for e in entries}))
    for found in factorisations(entries, have, w.zero, w.hint is not None):
        parts = []
        for values, shape in zip(found, w.shapes, strict=True):
            part = empty((w.target.shape[0], *shape))
            for at, x in values.items():
                part[at] = x
            parts.append(part)
        yield parts


def _known_at(values: Array, where: set[Index]) -> dict[Index, Number]:
    return {at: values[at] for at in where if values[at] is not None}


def _einsum(w: Want) -> Iterator[Option]:
    """An outer product, or a contraction of which only the first summand is not zero."""
    inputs, output = w.site.attrs["spec"].split("->")
    labels = inputs.split(",")
    per = w.target.ndim - 1 - len(output)
    sizes = {
        x: n for side in (0, 1) for x, n in zip(labels[side], w.shapes[side][len(w.shapes[side]) - len(labels[side]) :])
    }
    summed = [x for x in sizes if x not in output]
    if len(summed) == 1 and len(output) == 2 and all(len(side) == 2 for side in labels):
        yield from _matrix_product(w, labels, output, summed[0])
    entries: list[Entry] = []
    for at in w.entries():
        for inner in np.ndindex(*(sizes[x] for x in summed)):
            where = dict(zip(output, at[1 + per :], strict=True)) | dict(zip(summed, inner, strict=True))
            index = [(*at[: 1 + per], *(where[x] for x in side)) for side in labels]
            entries.append((index[0], index[1], w.target[at] if not any(inner) else ZERO))
    yield from _factored(w, entries)


def _matrix_product(w: Want, labels: list[str], output: str, summed: str) -> Iterator[Option]:
    """A product of two matrices of which nothing is known: as many columns as the result has rank, and a reduced
    echelon form.
    """
    if any(x is not None for known in w.known for x in known.reshape(-1)):
        return
    inner = w.shapes[0][-2:][labels[0].index(summed)]
    out = [empty((w.target.shape[0], *shape)) for shape in w.shapes]
    for at in np.ndindex(*w.target.shape[:-2]):
        t = w.target[at] if labels[0].replace(summed, "") == output[0] else w.target[at].T
        if all(x is None for x in t.reshape(-1)):
            continue
        if any(x is None for x in t.reshape(-1)):
            return
        left, right = rank_factors(t)
        if len(right) > inner:
            return
        columns, rows = (
            np.full((t.shape[0], inner), ZERO, dtype=object),
            np.full((inner, t.shape[1]), ZERO, dtype=object),
        )
        columns[:, : len(right)], rows[: len(right)] = left, right
        out[0][at] = columns if labels[0][1] == summed else columns.T
        out[1][at] = rows if labels[1][0] == summed else rows.T
    yield list(out)


def rank_factors(t: Array) -> tuple[Array, Array]:
    """(pivot columns, rows of the reduced echelon form) whose product is t."""
    rows = [list(row) for row in t]
    pivots: list[int] = []
    for j in range(t.shape[1]):
        k = next((i for i in range(len(pivots), len(rows)) if rows[i][j]), None)
        if k is None:
            continue
        top = len(pivots)
        rows[top], rows[k] = rows[k], rows[top]
        scale = rows[top][j]
        rows[top] = [x / scale for x in rows[top]]
        for i, row in enumerate(rows):
            if i != top and row[j]:
                rows[i] = [x - row[j] * y for x, y in zip(row, rows[top], strict=True)]
        pivots.append(j)
    reduced = np.empty((len(pivots), t.shape[1]), dtype=object)
    for i in range(len(pivots)):
        reduced[i] = rows[i]
    return t[:, pivots], reduced


def _div(w: Want) -> Iterator[Option]:
    def found(t: Number, a: Number | None, b: Number | None) -> Pair | None:
        if b is not None:
            return (t * b, None)
        if a is not None:
            bottom = quotient(a, t)
            return None if bottom is None else (None, bottom)
        return t, ONE

    yield from _entrywise(w, (found,))


def _pow(w: Want) -> Iterator[Option]:
    def found(t: Number, a: Number | None, b: Number | None) -> Pair | None:
        n = known(b)
        if not n:
            return None
        if known(t) in (0, 1):
            return (t, None) if n > 0 else None
        if n == 2:
            base = square_root(t)
            return None if base is None else (base, None)
        value = known(t)
        return (value ** int(1 / n), None) if value is not None and (1 / n).denominator == 1 else None

    yield from _entrywise(w, (found,))


def _extremum(w: Want) -> Iterator[Option]:
    """One argument has the value; the other is below it (a minimum: above), is left open, or is infinitely far."""
    sign = 1 if w.node.op == "max" else -1
    if w.hint is not None:
        yield from _clipped(w, w.hint)

    def rule(first: bool, far: bool) -> Rule:
        def found(t: Number, a: Number | None, b: Number | None) -> Pair | None:
            mine, other = (a, b) if first else (b, a)
            if mine is not None and mine != t:
                return None
            if other is not None and sign * (size(t) - size(other)) < 0:
                return None
            rest = t - OMEGA * sign if far and other is None else None
            return (t, rest) if first else (rest, t)

        return found

    yield from _entrywise(w, tuple(rule(first, far) for far in (False, True) for first in (True, False)))


def _clipped(w: Want, hint: Array) -> Iterator[Option]:
    """A bound on one side and a threshold on the other: clipped from below, it is as far below as conditions fail."""
    follows = w.follows()
    sides = [np.broadcast_to(aligned(k, w.target.ndim), w.target.shape) for k in w.known]
    side = next((i for i in (0, 1) if all(sides[i][at] is not None for at in w.entries())), None)
    if side is None:
        return
    out: list[Array | None] = [None, None]
    part = empty(w.target.shape)
    for at in w.entries():
        t, bound = w.target[at], sides[side][at]
        high = max((x for x in w.target[(slice(None), *at[1:])] if x is not None), key=size)
        below = w.node.op == "max" and t == bound and follows[at[1:]] == 1
        part[at] = bound + (high - bound) * min(int(hint[at]) - 1, 0) if below else t
    out[1 - side] = unbroadcast(part, w.shapes[1 - side])
    yield out


# ---------------------------------------------------------------- complex numbers


def _polar(w: Want) -> Iterator[Option]:
    """r exp(i theta)."""

    def rule(flipped: bool, turned: int) -> Rule:
        def found(t: Number, r: Number | None, theta: Number | None) -> Pair | None:
            if not t:
                return (ZERO, None)
            length = modulus(t) if r is None else r
            z = None if not length else quotient(t, -length if flipped and r is None else length)
            turns = None if z is None else turns_of(z)
            if length is None or turns is None:
                return None
            angle = radians(turns - 1 if turned < 0 and turns > Fraction(1, 2) else turns + max(turned, 0))
            if theta is not None and theta != angle:
                return None
            return (-length if flipped else length) if r is None else None, None if theta is not None else angle

        return found

    yield from _entrywise(w, (rule(False, -1), rule(False, 0), rule(False, 1), rule(True, -1)))


def _complex(w: Want) -> Iterator[Option]:
    yield from _entrywise(w, (lambda t, a, b: (fn.re(t), fn.im(t)),))


def _logaddexp(w: Want) -> Iterator[Option]:
    """One argument has the value, the other is infinitely far below."""

    def rule(first: bool) -> Rule:
        def found(t: Number, a: Number | None, b: Number | None) -> Pair | None:
            if not is_real(t) or infinite(t) > 0:
                return None
            return (t, t - OMEGA) if first else (t - OMEGA, t)

        return found

    yield from _entrywise(w, (rule(True), rule(False)))


PAIRS: dict[str, Callable[[Want], Iterator[Option]]] = {
    "add": _add,
    "sub": _add,
    "mul": _mul,
    "einsum": _einsum,
    "div": _div,
    "pow": _pow,
    "max": _extremum,
    "min": _extremum,
    "polar": _polar,
    "complex": _complex,
    "logaddexp": _logaddexp,
}

"""States of a machine, and boxes: all states that are like one, but for entries that range over closed intervals."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import product
from typing import Any, TypeAlias

import numpy

from rnnc.exact import Algebraic, Asymptotic, I, is_limit, to_float
from rnnc.exact import functions as fn
from rnnc.exact.asymptotic import finite, is_unknown, sign, standard, wide, without_error
from rnnc.verify.format import decode
from rnnc.verify.trusted.cells import need

np: Any = numpy  # object arrays, which its stubs do not describe
EXACT = (Fraction, Algebraic, Asymptotic)
MOST_CORNERS = 64
Place: TypeAlias = "tuple[str, int, str]"  # a state, the number of an entry, "re" or "im"
Spans: TypeAlias = "dict[Place, tuple[Any, Any]]"  # ends; None: no end


def entries(state: Any) -> list[Any]:
    return [x for part in state for name in sorted(part) for x in np.asarray(part[name]).reshape(-1).tolist()]


def core(state: Any) -> tuple[Any, ...]:
    """What tells two states (or outputs) apart: their numbers, without what is left out."""
    return tuple(without_error(x) if isinstance(x, Asymptotic) else x for x in entries(state))


def minus_zero(array: Any) -> bool:
    parts = (array.real, array.imag) if array.dtype.kind in "fc" else ()
    return any(bool(((x == 0) & np.signbit(x)).any()) for x in parts)


def separate(states: Any, g: Any) -> None:
    """States with different g differ: by a margin that floating point is sure of, or as rational numbers.

    Only by numbers that both know: what no step reads may be anything.
    """
    cores, known = (
        [core(s) for s in states],
        np.array([[not is_unknown(x) for x in entries(s)] for s in states], dtype=bool),
    )
    near = np.array([[to_float(x, 1e3) if isinstance(x, EXACT) else x for x in c] for c in cores], dtype=complex)
    plain = [all(isinstance(x, (int, float, Fraction)) for x in c) for c in cores]
    for k, row in enumerate(near):
        both = known & known[k]
        close = np.abs((near - row) * both).max(axis=1, initial=0) <= 1e-6 * (1 + np.abs(row).max(initial=0))
        equal = [j for j in range(k) if g[j] != g[k] and close[j]]
        same = [
            j
            for j in equal
            if not (plain[j] and plain[k] and any(x != y for x, y, z in zip(cores[j], cores[k], both[j]) if z))
        ]
        need(not same, f"states {same} and {k} are equal in the limit and belong to different states of the automaton")


def half(x: Any, part: str) -> Any:
    return fn.re(x) if part == "re" else fn.im(x)


def places(name: str, array: Any) -> Iterator[tuple[tuple[str, int, str], Any]]:
    """Both parts of each entry."""
    for k, x in enumerate(np.asarray(array).reshape(-1).tolist()):
        yield from (((name, k, part), x) for part in ("re", "im"))


def _end(value: Any) -> Any:
    return None if value is None else decode(value)


def read_spans(data: Any, state: Any) -> Spans:
    found: Spans = {(x["state"], x["index"], x["part"]): (_end(x["in"][0]), _end(x["in"][1])) for x in data}
    for (name, k, part), (lo, hi) in found.items():
        whole = np.asarray(state[name]).reshape(-1)[k]
        need(isinstance(whole, EXACT), "a span of no number")
        x = half(whole, part)
        ends = [e for e in (lo, hi) if e is not None]
        need(k >= 0 and part in ("re", "im") and len(data) == len(found), "a span of no entry")
        need(
            all(e == fn.conj(e) and wide(e).degree <= 0 and not is_limit(e) for e in ends),
            "an end is not a real number",
        )
        need((lo is None or lo <= x) and (hi is None or x <= hi), f"a state lies outside of its own box at {name}[{k}]")
    return found


def moved(state: dict[str, Any], to: dict[tuple[str, int, str], Any]) -> dict[str, Any]:
    """The state with other numbers at some places."""
    found = {name: np.array(v) for name, v in state.items()}
    for (name, k, part), x in to.items():
        flat = found[name].reshape(-1)
        other = fn.im(flat[k]) * I if part == "re" else fn.re(flat[k])
        flat[k] = other + (x if part == "re" else x * I) if other != 0 or part == "im" else x
    return found


def corners(state: dict[str, Any], spans: Spans) -> list[dict[Any, Any]]:
    """All choices of an end for each span (of one without ends the value in the state)."""
    flat = {name: np.asarray(v).reshape(-1) for name, v in state.items()}
    ends = [
        [(p, x) for x in dict.fromkeys(e for e in s if e is not None)] or [(p, half(flat[p[0]][p[1]], p[2]))]
        for p, s in spans.items()
    ]
    need(
        len(spans) <= 200 and np.prod([len(e) for e in ends], dtype=float) <= MOST_CORNERS, "a box of too many corners"
    )
    return [dict(chosen) for chosen in product(*ends)]


def contains(spans: Spans, place: Any, computed: Any, stated: Any) -> bool:
    """Whether a part of an entry is the one that is stated, with no more left out, or lies between the ends.

    "Unknown" is what no step reads.
    """
    name, k, part = place
    if not {(name, k, "re"), (name, k, "im")} & spans.keys():
        if part == "im" or is_unknown(stated) or not isinstance(stated, EXACT):
            return part == "im" or is_unknown(stated) or bool(computed == stated)
        new, old = wide(standard(computed)), wide(stated)
        return new.terms == old.terms and (new.error is None or (old.error is not None and new.error <= old.error))
    x = finite(half(computed, part))[0]
    lo, hi = spans.get(place, (finite(half(stated, part))[0],) * 2)
    return (lo is None or sign(x - lo) >= 0) and (hi is None or sign(hi - x) >= 0)


def apart(a: tuple[Any, Spans], b: tuple[Any, Spans]) -> bool:
    """Whether no state lies in both boxes: at some place their intervals have a gap."""
    for name in a[0]:
        for (place, x), (_, y) in zip(places(name, a[0][name]), places(name, b[0][name]), strict=True):
            if isinstance(x, EXACT) and not is_unknown(x) and not is_unknown(y):
                (l1, h1), (l2, h2) = (
                    s.get(place, (without_error(half(v, place[2])),) * 2) for s, v in ((a[1], x), (b[1], y))
                )
                if any(h is not None and low is not None and sign(low - h) > 0 for h, low in ((h1, l2), (h2, l1))):
                    return True
            elif not isinstance(x, EXACT) and x != y:
                return True
    return False


def rays(m: Any, state: Any, spans: Spans, inputs: Any, to: tuple[Any, Spans], where: str) -> bool:
    """Where a box has no end it leads, under an affine update, along rays of the next one; whether one is a limit."""
    limits = False
    first = corners(state, spans)[0]
    old = m.step(inputs, moved(state, first))[0]
    for place, ends in spans.items():
        for way in (w for w, end in ((-1, ends[0]), (1, ends[1])) if end is None):
            new = m.step(inputs, moved(state, first | {place: first[place] + way}))[0]
            limits |= any(isinstance(x, Asymptotic) and is_limit(x) for x in entries([new]))
            for name in to[0]:
                for (at, x), (_, y) in zip(places(name, old[name]), places(name, new[name]), strict=True):
                    lo, hi = to[1].get(at, (0, 0))
                    d = int(x != y) and sign(finite(half(y, at[2]))[0] - finite(half(x, at[2]))[0])
                    need(
                        not (d > 0 and hi is not None) and not (d < 0 and lo is not None),
                        f"{where}: {name} leaves its box",
                    )
    return limits

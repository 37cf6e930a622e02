"""How a wanted value of an operation is had from its arguments: one rule an op, each giving its options in order.

An array is `[context, *per, *shape]` of Number, or None where any value will do.  A rule may be wrong only by offering
too little: every witness is evaluated forwards and closed before it is returned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np

from rnnc.ir.graph import Node
from rnnc.ir.ops import OPS
from rnnc.ir.ops.table import Site
from rnnc.verify.witness.numbers import OMEGA, ONE, ZERO, Number, cosine, forward, inverse, root, sine

Array: TypeAlias = Any  # np.ndarray of objects
Option: TypeAlias = "list[Array | None]"  # what is wanted of each argument

VIEWS = frozenset(
    {"lift", "merge", "split_per", "expand", "broadcast", "reshape", "transpose", "slice", "concat", "layout"}
)


class Conflict(Exception):
    """Two values are wanted of one entry, or one outside what an operation can give."""


@dataclass(frozen=True, slots=True)
class Want:
    """What a rule knows: the node, its site, what is wanted of it, and what its arguments are already known to be."""

    node: Node
    site: Site
    target: Array
    known: tuple[Array, ...]
    shapes: tuple[tuple[int, ...], ...]  # of the arguments, without the context axis
    zero: tuple[bool, ...] = ()  # arguments that nobody knows (or multiples of such): zero is all they can be made
    hint: Array | None = None  # per entry: how far in a saturated (or rectified) range, see `nonlinear`


def empty(shape: tuple[int, ...]) -> Array:
    return np.full(shape, None, dtype=object)


def put(array: Array, at: Any, value: Number) -> None:
    """Wants one more entry; raises Conflict."""
    have = array[at]
    if have is not None and have != value:
        raise Conflict
    array[at] = value


def join(a: Array | None, b: Array) -> Array:
    """Both wants at once."""
    if a is None:
        return b
    out = a.copy()
    for at in zip(*np.nonzero(b != None), strict=True):  # noqa: E711 - elementwise
        put(out, at, b[at])
    return out


def options(w: Want) -> Iterator[Option]:
    """The ways to have `w.target`; empty where none is known."""
    op = w.node.op
    if op in VIEWS:
        yield _through_view(w)
    elif op in UNARY:
        yield from _unary(w, UNARY[op])
    elif op in SPECIAL:
        yield from SPECIAL[op](w)


def _through_view(w: Want) -> Option:
    """Views move entries: where each comes from is seen by sending numbers through."""
    offset, arguments = 0, []
    for shape in w.shapes:
        size = math.prod(shape)
        arguments.append(np.arange(offset + 1, offset + size + 1).reshape(shape))  # 0: not from the argument
        offset += size
    value = OPS[w.node.op].value
    assert value is not None
    source = np.asarray(value(np, w.site, *arguments)).reshape(-1).astype(int)
    contexts = w.target.shape[0]
    flat = empty((contexts, offset))
    for c, row in enumerate(w.target.reshape(contexts, -1)):
        for i, want in zip(source, row, strict=True):
            if want is None:
                continue
            if i:
                put(flat, (c, i - 1), want)
            elif want:
                raise Conflict
    out, start = [], 0
    for shape in w.shapes:
        size = math.prod(shape)
        out.append(flat[:, start : start + size].reshape((contexts, *shape)))
        start += size
    return out


def unbroadcast(full: Array, shape: tuple[int, ...]) -> Array:
    """What is wanted of an operand of core `shape` that was broadcast to `full`'s."""
    out = empty((full.shape[0], *shape))
    missing = full.ndim - 1 - len(shape)
    for at in zip(*np.nonzero(full != None), strict=True):  # noqa: E711
        index = (at[0], *(0 if n == 1 else i for i, n in zip(at[1 + missing :], shape, strict=True)))
        put(out, index, full[at])
    return out


# ---------------------------------------------------------------- one argument

Inverse: TypeAlias = "Callable[[Number, int | None], Number | None]"


def _of(function: str) -> Inverse:
    def found(t: Number, hint: int | None) -> Number | None:
        x = inverse(function, t)  # type: ignore[arg-type]
        if x is not None and hint is not None and x.infinite * (2 * hint - 3) > 0:
            return OMEGA.scaled(Fraction(2 * hint - 3))
        return x

    return found


def _log(t: Number, hint: int | None) -> Number | None:
    return ONE if not t else ZERO if t.infinite < 0 else forward("exp", t)


def _logsigmoid(t: Number, hint: int | None) -> Number | None:
    if t.infinite:
        return t if t.infinite < 0 else None
    if not t:
        return OMEGA
    ratio = forward("exp", t)
    return None if ratio is None else inverse("sigmoid", ratio)


def _relu(t: Number, hint: int | None) -> Number | None:
    if t:
        return t if t.size > 0 else None
    return Number(min(hint - 1, 0)) if hint is not None else ZERO


def _sqrt(t: Number, hint: int | None) -> Number | None:
    return None if t.size < 0 else t * t


def _step(t: Number, hint: int | None) -> Number | None:
    return ONE if t == 1 else -ONE if t == 0 else None


def _sign(t: Number, hint: int | None) -> Number | None:
    return t if t.known in (-1, 0, 1) else None


def _angle(value: Callable[[Fraction], Number], back: Callable[[float], float]) -> Inverse:
    """An angle with this sine or cosine, as a multiple of pi."""

    def found(t: Number, hint: int | None) -> Number | None:
        if t.infinite or not -1.0001 < t.size < 1.0001:
            return None
        turns = Fraction(back(max(-1.0, min(1.0, t.size))) / (2 * math.pi)).limit_denominator(360)
        return turns_to_radians(turns) if value(turns) == t else None

    return found


def turns_to_radians(turns: Fraction) -> Number:
    """2 pi turns."""
    return root_of_pi().scaled(2 * turns)


def root_of_pi() -> Number:
    from rnnc.verify.witness.numbers import Root

    return Number.of(Root(0))


UNARY: dict[str, tuple[Inverse, ...]] = {
    "neg": (lambda t, h: -t,),
    "real": (lambda t, h: t,),
    "exp": (_of("exp"),),
    "sigmoid": (_of("sigmoid"),),
    "tanh": (_of("tanh"),),
    "softplus": (_of("softplus"),),
    "silu": (_of("silu"),),
    "gelu": (_of("gelu"),),
    "erf": (_of("erf"),),
    "log": (_log,),
    "logsigmoid": (_logsigmoid,),
    "relu": (_relu,),
    "sqrt": (_sqrt,),
    "step": (_step,),
    "sign": (_sign,),
    "abs": (lambda t, h: t, lambda t, h: -t),
    "cos": (_angle(cosine, math.acos), _angle(cosine, lambda x: -math.acos(x))),
    "sin": (_angle(sine, math.asin), _angle(sine, lambda x: math.pi - math.asin(x))),
}


def _unary(w: Want, inverses: tuple[Inverse, ...]) -> Iterator[Option]:
    follows = None if w.hint is None else _follows(w)
    for f in inverses:
        out = empty(w.target.shape)
        for at in zip(*np.nonzero(w.target != None), strict=True):  # noqa: E711
            use = w.hint is not None and follows is not None and follows[at[1:]]
            out[at] = f(w.target[at], int(w.hint[at]) if use else None)  # type: ignore[index]
            if out[at] is None:
                break
        else:
            yield [out]


def _follows(w: Want) -> Array:
    """The units that are high exactly where both conditions hold: only their thresholds are sums of conditions."""
    out = np.zeros(w.target.shape[1:], dtype=bool)
    for unit in np.ndindex(*out.shape):
        column, hints = w.target[(slice(None), *unit)], w.hint[(slice(None), *unit)]  # type: ignore[index]
        wanted = [(t.size, h == 2) for t, h in zip(column, hints, strict=True) if t is not None]
        high = max((t for t, _ in wanted), default=0.0)
        varies = any(t < high for t, _ in wanted)
        out[unit] = varies and all((t == high) == both for t, both in wanted)
    return out


# ---------------------------------------------------------------- two arguments, elementwise

Pair: TypeAlias = "tuple[Number | None, Number | None]"


def _entrywise(
    w: Want, rules: tuple[Callable[[Number, Number | None, Number | None], Pair | None], ...]
) -> Iterator[Option]:
    """Each rule says, entry by entry, what is wanted of both operands, given what is known of them."""
    full = w.target.shape
    known = [np.broadcast_to(_aligned(k, len(full)), full) for k in w.known]
    where = list(zip(*np.nonzero(w.target != None), strict=True))  # noqa: E711
    seen: set[tuple[Any, ...]] = set()
    for rule in rules:
        pairs = [rule(w.target[at], known[0][at], known[1][at]) for at in where]
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


def _aligned(k: Array, rank: int) -> Array:
    """An argument's array with its core axes right-aligned behind the context axis."""
    return k.reshape((k.shape[0],) + (1,) * (rank - k.ndim) + k.shape[1:])


def _add(w: Want) -> Iterator[Option]:
    minus = w.node.op == "sub"

    def rule(pick: Callable[[Number], bool]) -> Callable[[Number, Number | None, Number | None], Pair | None]:
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
        w,
        (
            rule(lambda t: True),
            rule(lambda t: False),
            rule(lambda t: t.size < 0),
            rule(lambda t: t.size > 0),
        ),
    )


def _mul(w: Want) -> Iterator[Option]:
    if w.node.args[0] == w.node.args[1]:
        yield from ([*option, None] for option in _unary(w, (lambda t, h: _square_root(t),)))  # both arguments are one
        return
    half = Number(Fraction(1, 2))

    def rule(first: bool, one: Number, zeros: str) -> Callable[[Number, Number | None, Number | None], Pair | None]:
        """The first (or second) factor is `one` wherever the product is not zero, and zeros are made by it ("own"), by
        the other ("other"), or by the other with this one at `one` everywhere ("fixed").
        """

        def found(t: Number, a: Number | None, b: Number | None) -> Pair | None:
            for given, at in ((a, 0), (b, 1)):
                if given is None:
                    continue
                if not given:
                    return None if t else (None, None)
                other = (b, a)[at]
                rest = t / given
                if rest is None or (other is not None and other != rest):
                    return None
                return (None, rest) if at == 0 else (rest, None)
            if any(w.zero):
                return None if t else (ZERO, None) if w.zero[1] else (None, ZERO)
            rest = t / one
            if rest is None:
                return None
            made: dict[str, Pair] = {"own": (ZERO, None), "other": (None, ZERO), "fixed": (one, ZERO)}
            pair: Pair = (one, rest) if t else made[zeros]
            return pair if first else (pair[1], pair[0])

        return found

    kinds = ("own", "other") if w.hint is None else ("fixed", "own", "other")
    # With saturated units a factor of the size of the product leaves 0 and 1 to the other, which may be a gate.
    sizes = (ONE, OMEGA, half) if w.hint is None else (half, ONE, OMEGA)
    order = (True, False) if w.hint is None else (False, True)
    ways = [(first, one, kind) for kind in kinds for one in sizes for first in order]
    infinite = any(t is not None and t.infinite for t in w.target.reshape(-1))
    yield from _entrywise(w, tuple(rule(*way) for way in ways if way[1] is not OMEGA or infinite))


def _square_root(t: Number) -> Number | None:
    return root(t.known) if t.known is not None and t.known >= 0 else t if t.infinite > 0 else None


def _div(w: Want) -> Iterator[Option]:
    def found(t: Number, a: Number | None, b: Number | None) -> Pair | None:
        if b is not None:
            top = t * b
            return None if top is None else (top, None)
        if a is not None:
            bottom = a / t
            return None if bottom is None else (None, bottom)
        return t, ONE

    yield from _entrywise(w, (found,))


def _pow(w: Want) -> Iterator[Option]:
    def found(t: Number, a: Number | None, b: Number | None) -> Pair | None:
        n = None if b is None else b.known
        if not n:
            return None
        if t.known in (0, 1):
            return (t, None) if n > 0 else None
        if n == 2:
            base = _square_root(t)
            return None if base is None else (base, None)
        if t.known is not None and (1 / n).denominator == 1:
            return Number(t.known ** int(1 / n)), None
        return None

    yield from _entrywise(w, (found,))


def _extremum(w: Want) -> Iterator[Option]:
    sign = 1 if w.node.op == "max" else -1

    def rule(first: bool) -> Callable[[Number, Number | None, Number | None], Pair | None]:
        def found(t: Number, a: Number | None, b: Number | None) -> Pair | None:
            mine, other = (a, b) if first else (b, a)
            if other is None or sign * (t.size - other.size) < 0 or (mine is not None and mine != t):
                return None
            return (t, None) if first else (None, t)

        return found

    yield from _entrywise(w, (rule(True), rule(False)))


# ---------------------------------------------------------------- along an axis


def _l2norm(w: Want) -> Iterator[Option]:
    """A unit vector from any positive multiple of it; with `eps`, from an infinite one."""
    eps = bool(w.site.attrs["eps"])
    out = empty(w.target.shape)
    for at in np.ndindex(*w.target.shape[:-1]):
        row = [ZERO if t is None else t for t in w.target[at]]
        if all(t is None for t in w.target[at]):
            continue
        if any(row):
            total: Number | None = ZERO
            for t in row:
                square = t * t
                total = None if square is None or total is None else total + square
            if total != ONE:
                return
            pivot = next(t for t in row if t)
            ratios = [t / pivot for t in row]
            sign = Fraction(1 if pivot.size > 0 else -1)
            scaled = [r.scaled(sign) for r in ratios if r is not None]
            row = scaled if len(scaled) == len(row) else row
            products = [t * OMEGA if eps else t for t in row]
            if any(p is None for p in products):
                return
            row = [p for p in products if p is not None]
        out[at] = row
    yield [out]


def _softmax(w: Want) -> Iterator[Option]:
    """One entry 1 and all others 0, in the limit."""
    if all(t is None or t.known in (0, 1) for t in w.target.reshape(-1)):
        out = empty(w.target.shape)
        for at in zip(*np.nonzero(w.target != None), strict=True):  # noqa: E711
            out[at] = OMEGA * w.target[at]
        yield [out]


def _sum(w: Want) -> Iterator[Option]:
    """All of it in the first summand."""
    axes = tuple(len(w.shapes[0]) + a for a in w.site.attrs["axes"])
    for full in (False, True):
        out = empty((w.target.shape[0], *w.shapes[0]))
        for at in np.ndindex(*w.shapes[0]):
            kept = tuple(i for axis, i in enumerate(at) if axis not in axes)
            first = all(at[axis] == 0 for axis in axes)
            for c in range(out.shape[0]):
                t = w.target[(c, *kept)]
                if t is not None:
                    share = t.scaled(Fraction(1, math.prod(w.shapes[0][axis] for axis in axes)))
                    out[(c, *at)] = share if full else t if first else ZERO
        yield [out]


def _rotation(w: Want) -> Iterator[Option]:
    """[[cos, -sin], [sin, cos]]"""
    out = empty(w.target.shape[:-2])
    for at in np.ndindex(*out.shape):
        (c, s1), (s2, c2) = w.target[at]
        if c is None:
            continue
        if c != c2 or s1 is None or s2 is None or s1 != -s2 or not -1.0001 < c.size < 1.0001:
            return
        turns = Fraction(math.atan2(s2.size, c.size) / (2 * math.pi)).limit_denominator(360)
        if cosine(turns) != c or sine(turns) != s2:
            return
        out[at] = turns_to_radians(turns)
    yield [out]


def _conv(w: Want) -> Iterator[Option]:
    """The identity: the newest tap one, the others and the bias zero."""
    tap = empty((w.target.shape[0], *w.shapes[1]))
    tap[...] = ZERO
    tap[..., -1] = ONE
    out: Option = [w.target, tap]
    if len(w.shapes) > 2:
        bias = empty((w.target.shape[0], *w.shapes[2]))
        bias[...] = ZERO
        out.append(bias)
    yield out


SPECIAL: dict[str, Callable[[Want], Iterator[Option]]] = {
    "add": _add,
    "sub": _add,
    "mul": _mul,
    "div": _div,
    "pow": _pow,
    "max": _extremum,
    "min": _extremum,
    "l2norm": _l2norm,
    "softmax": _softmax,
    "sum": _sum,
    "rotation_blocks": _rotation,
    "conv": _conv,
}

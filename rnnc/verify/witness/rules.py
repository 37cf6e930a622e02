"""How a wanted value of an operation is had from its arguments: one rule an op, each giving its options in order.

A rule may be wrong only by offering too little: every witness is evaluated forwards and closed before it is returned.
Here the operations of one argument; `rules_pairs` has those of two, `rules_axes` those that run along an axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import product
from typing import TypeAlias

import numpy as np

from rnnc.exact import I, NotExact
from rnnc.exact import functions as fn
from rnnc.ir.ops import OPS
from rnnc.verify.witness.numbers import (
    MOST_TURNS,
    OMEGA,
    ONE,
    ZERO,
    Number,
    cosine,
    forward,
    infinite,
    inverse,
    is_real,
    known,
    modulus,
    quotient,
    radians,
    sine,
    size,
    turns_of,
)
from rnnc.verify.witness.rules_axes import ALONG
from rnnc.verify.witness.rules_pairs import PAIRS
from rnnc.verify.witness.want import VIEWS, Array, Conflict, Option, Want, empty, put


def options(w: Want) -> Iterator[Option]:
    """The ways to have `w.target`; empty where none is known, or none has exact values."""
    op = w.node.op
    try:
        if op in VIEWS:
            yield _through_view(w)
        elif op in UNARY:
            yield from _unary(w, UNARY[op])
        elif op in PAIRS:
            yield from PAIRS[op](w)
        elif op in ALONG:
            yield from ALONG[op](w)
    except NotExact:
        return


def _through_view(w: Want) -> Option:
    """Views move entries: where each comes from is seen by sending numbers through."""
    offset, arguments = 0, []
    for shape in w.shapes:
        size = math.prod(shape)
        arguments.append(np.arange(offset + 1, offset + size + 1).reshape(shape))  # 0: not from the argument
        offset += size
    value = OPS[w.node.op].value
    assert value is not None
    constant = np.asarray(value(np, w.site, *(0 * a for a in arguments))).reshape(-1).astype(int)
    source = np.asarray(value(np, w.site, *arguments)).reshape(-1).astype(int) - constant
    contexts = w.target.shape[0]
    flat = empty((contexts, offset))
    for c, row in enumerate(w.target.reshape(contexts, -1)):
        for i, have, want in zip(source, constant.tolist(), row, strict=True):
            if want is None:
                continue
            if i:
                put(flat, (c, i - 1), want)
            elif want != have:
                raise Conflict
    out, start = [], 0
    for shape in w.shapes:
        size = math.prod(shape)
        out.append(flat[:, start : start + size].reshape((contexts, *shape)))
        start += size
    return out


# ---------------------------------------------------------------- one argument

MOST_VALUES = 6  # that are wanted of an operation with several inverses, for one of these to be chosen for each

Inverse: TypeAlias = "Callable[[Number, int | None], Number | None]"


def _of(function: str) -> Inverse:
    def found(t: Number, hint: int | None) -> Number | None:
        x = inverse(function, t)
        if x is not None and hint is not None and infinite(x) * (2 * hint - 3) > 0:
            return OMEGA * Fraction(2 * hint - 3)
        return x

    return found


def _exp(t: Number, hint: int | None) -> Number | None:
    """Real, or complex with a rational angle."""
    if is_real(t) and size(t) >= 0:
        return _of("exp")(t, hint)
    r = modulus(t)
    if r is None or not r:
        return None
    turn = None if (z := quotient(t, r)) is None else turns_of(z)
    real = inverse("exp", r)
    if real is None or turn is None:
        return None
    return real + I * radians(turn if turn <= Fraction(1, 2) else turn - 1)


def _log(t: Number, hint: int | None) -> Number | None:
    return ONE if not t else ZERO if infinite(t) < 0 else forward("exp", t)


def _logsigmoid(t: Number, hint: int | None) -> Number | None:
    if infinite(t):
        return t if infinite(t) < 0 else None
    if not t:
        return OMEGA
    ratio = forward("exp", t)
    return None if ratio is None else inverse("sigmoid", ratio)


def _relu(t: Number, hint: int | None) -> Number | None:
    if t:
        return t if size(t) > 0 else None
    return Fraction(min(hint - 1, 0)) if hint is not None else ZERO


def _sqrt(t: Number, hint: int | None) -> Number | None:
    return None if size(t) < 0 else t * t


def _step(t: Number, hint: int | None) -> Number | None:
    if hint is not None:
        return Fraction(2 * hint - 3)
    return ONE if t == 1 else -ONE if t == 0 else None


def _sign(t: Number, hint: int | None) -> Number | None:
    if hint is not None and t in (ONE, -ONE):
        return Fraction(2 * hint - 3)
    return t if known(t) in (-1, 0, 1) else None


def _angle(value: Callable[[Fraction], Number], back: Callable[[float], float]) -> Inverse:
    """An angle with this sine or cosine, as a multiple of pi."""

    def found(t: Number, hint: int | None) -> Number | None:
        if infinite(t) or not is_real(t) or not -1.0001 < size(t) < 1.0001:
            return None
        near = Fraction(back(max(-1.0, min(1.0, size(t)))) / (2 * math.pi))
        turns = near.limit_denominator(MOST_TURNS // 2)
        return radians(turns) if value(turns) == t else None

    return found


def _same(t: Number, hint: int | None) -> Number | None:
    return t


def _real_only(t: Number, hint: int | None) -> Number | None:
    return t if is_real(t) else None


UNARY: dict[str, tuple[Inverse, ...]] = {
    "neg": (lambda t, h: -t,),
    "real": (_same,),
    "re": (_real_only,),
    "im": (lambda t, h: I * t if is_real(t) else None,),
    "conj": (lambda t, h: fn.conj(t),),
    "exp": (_exp,),
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
    "abs": (_real_only, lambda t, h: -t if is_real(t) else None),
    "cos": (_angle(cosine, math.acos), _angle(cosine, lambda x: -math.acos(x))),
    "sin": (_angle(sine, math.asin), _angle(sine, lambda x: math.pi - math.asin(x))),
}


def _unary(w: Want, inverses: tuple[Inverse, ...]) -> Iterator[Option]:
    if w.twin is not None:
        yield from _of_both(w, w.twin)
    follows = None if w.hint is None else w.follows()
    where = w.entries()
    for choice in _choices(w, inverses, where):
        out = empty(w.target.shape)
        for at, f in zip(where, choice, strict=True):
            side = 0 if follows is None else int(follows[at[1:]])
            hint = int(w.hint[at]) if side else None  # type: ignore[index]
            beyond = None if hint is None else _beyond(w, at, hint, side)
            out[at] = f(w.target[at], hint if side > 0 else None) if beyond is None else beyond
            if out[at] is None:
                break
        else:
            yield [out]


SATURATING = frozenset({"sigmoid", "tanh", "erf", "exp", "softplus", "silu", "gelu"})
VANISHING = frozenset({"silu", "gelu"})  # far below, and at zero


def _beyond(w: Want, at: tuple[int, ...], hint: int, side: int) -> Number | None:
    """The argument of a unit that saturates unless both conditions hold: as far below the argument where they do (where
    the unit is low there, `side` -1: above it) as conditions fail, so that it is a sum of the two.  None where the
    function does not saturate on that side.
    """
    if w.node.op not in SATURATING:
        return None
    column = {t for t in w.target[(slice(None), *at[1:])] if t is not None}
    both, plain = inverse(w.node.op, (max if side > 0 else min)(column, key=size)), inverse(w.node.op, w.target[at])
    if both is None or plain is None:
        return None
    if hint == 2:
        return both
    vanishes = side > 0 and w.node.op in VANISHING and not w.target[at]
    if infinite(plain) * side >= 0 and not vanishes:
        return None
    return both + (hint - 2) * side * (2 * side * both if infinite(both) * side > 0 else OMEGA)


def _of_both(w: Want, twin: Array) -> Iterator[Option]:
    """Angles with this sine and this cosine."""
    out = empty(w.target.shape)
    for at in w.entries():
        if twin[at] is not None:
            c, s = (w.target[at], twin[at]) if w.node.op == "cos" else (twin[at], w.target[at])
            turns = turns_of(c + I * s)
            if turns is None:
                return
            out[at] = radians(turns if turns <= Fraction(1, 2) else turns - 1)
    yield [out]


def _choices(w: Want, inverses: tuple[Inverse, ...], where: list[tuple[int, ...]]) -> Iterator[list[Inverse]]:
    """One inverse for each entry: where there are several, one for each context and value (of few), or what is known
    already of the argument.
    """
    if len(inverses) == 1 or not where:
        yield [inverses[0]] * len(where)
        return
    values = list(dict.fromkeys((at[0], w.target[at]) for at in where))
    if len(values) > MOST_VALUES:
        yield from ([f] * len(where) for f in inverses)
        return
    for picked in product(inverses, repeat=len(values)):
        by = dict(zip(values, picked, strict=True))
        yield [_given(w.known[0][at], by[at[0], w.target[at]], w.node.op) for at in where]


def _given(have: Number | None, otherwise: Inverse, function: str) -> Inverse:
    """The argument that is known, where it has the wanted value."""
    if have is None:
        return otherwise

    def found(t: Number, hint: int | None) -> Number | None:
        return have if forward(function, have) == t else None

    return found

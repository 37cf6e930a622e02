"""code(triton): one real operation of a step as Triton source, on register tiles.

A tile has one axis a label (see `rnnc.backends.kernels.axes`), of size 1 where its value does not carry the label, so
that tiles of different labels broadcast against each other and no view needs any code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from rnnc.ir.ops import OPS

TERNARY, COMPARE, OR, AND, ADD, MUL, UNARY, ATOM = range(8)  # how tightly an expression binds, in Python


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Source of one tile, or of a number: then `number` is what it stands for."""

    text: str
    prec: int = ATOM
    number: Fraction | None = None

    def at(self, prec: int) -> str:
        return f"({self.text})" if self.prec < prec else self.text


def call(name: str, *args: Part) -> Part:
    return Part(text=f"{name}({', '.join(a.text for a in args)})")


def number(value: Fraction | int | str) -> Part:
    """An exact number, "pi" or "e"; written as a float, which takes the precision of the other operand."""
    if isinstance(value, str):
        return Part(
            text=repr({"pi": math.pi, "e": math.e}[value]), number=Fraction({"pi": math.pi, "e": math.e}[value])
        )
    value = Fraction(value)
    return Part(text=repr(float(value)), prec=UNARY if value < 0 else ATOM, number=value)


def _infix(sign: str, prec: int) -> Callable[[Part, Part], Part]:
    """A binary operator; `-` and `/` bind their right operand tighter, comparisons both."""
    left = prec + 1 if prec in (AND, OR, COMPARE) else prec
    right = prec if sign in "+*" else prec + 1
    return lambda a, b: Part(text=f"{a.at(left)} {sign} {b.at(max(right, UNARY) if sign == '*' else right)}", prec=prec)


def _neg(a: Part) -> Part:
    return Part(text=f"-{a.at(UNARY)}", prec=UNARY)


def _not(a: Part) -> Part:
    return Part(text=f"~{a.at(ATOM)}", prec=UNARY)


def _where(condition: Part, a: Part, b: Part) -> Part:
    """Of two numbers Triton would make a tile in float32, and so of what is worked out with it."""
    match a.number, b.number:
        case 1, 0:
            return _as_real(condition)
        case 0, 1:
            return _as_real(_not(condition))
    return call("tl.where", condition, a if b.number is None else _tile(a), b)


def _positive(a: Part) -> Part:
    return Part(text=f"({a.at(ADD)} > 0.0).to(ACC)")


def _as_real(a: Part) -> Part:
    return Part(text=f"{a.at(ATOM)}.to(ACC)")


POWERS = 4  # whole powers up to this are products


def _pow(x: Part, y: Part) -> Part:
    n = y.number
    if n is not None and n.denominator == 1 and 0 < abs(n) <= POWERS and x.text.isidentifier():
        product = Part(text=" * ".join([x.text] * abs(int(n))), prec=MUL if abs(n) > 1 else ATOM)
        return product if n > 0 else Part(text=f"1.0 / {product.at(UNARY)}", prec=MUL)
    if n == Fraction(1, 2):
        return call("tl.sqrt", x)
    return call("power", _tile(x), _tile(y))


def _tile(x: Part) -> Part:
    """A number as a tile, for helpers that ask for the precision of their arguments."""
    return x if x.number is None else Part(text=f"tl.full([], {x.text}, ACC)")


def _exact(x: Part) -> Part:
    """A number for what would read it in float32."""
    return x if x.number is None or float(np.float32(float(x.number))) == float(x.number) else _tile(x)


def _pair(name: str) -> Callable[[Part, Part], Part]:
    return lambda a, b: call(name, _exact(a), _exact(b))


def _function(name: str) -> Callable[[Part], Part]:
    return lambda x: call(name, x)


HELPERS = frozenset(
    {
        "sign",
        "tanh",
        "exp",
        "expm1",
        "gelu",
        "silu",
        "sigmoid",
        "softplus",
        "log_sigmoid",
        "relu",
        "log_add",
        "power",
        "maximum",
        "minimum",
    }
)


BOOLEAN = frozenset({"lt", "le", "eq", "ne", "and", "or", "not", "select", "real"})  # of what is true, not a number


def expression(op: str, args: list[Part]) -> Part:
    """An operation on parts.  On numbers alone it is worked out: Triton would round them to float32."""
    known = [a.number for a in args]
    if all(n is not None for n in known) and OPS[op].category == "elementwise" and op not in BOOLEAN:
        value = OPS[op].value
        assert value is not None
        found = float(value(np, None, *(float(n) for n in known if n is not None)))
        if math.isfinite(found):
            return number(Fraction(found))
    return RULES[op](*args)


RULES: dict[str, Callable[..., Part]] = {
    "neg": _neg,
    "exp": _function("exp"),
    "expm1": _function("expm1"),
    "log": _function("tl.log"),
    "sqrt": _function("tl.sqrt"),
    "sin": _function("tl.sin"),
    "cos": _function("tl.cos"),
    "abs": _function("tl.abs"),
    "erf": _function("tl.erf"),
    "sign": _function("sign"),
    "tanh": _function("tanh"),
    "relu": _function("relu"),
    "gelu": _function("gelu"),
    "silu": _function("silu"),
    "sigmoid": _function("sigmoid"),
    "softplus": _function("softplus"),
    "logsigmoid": _function("log_sigmoid"),
    "step": _positive,
    "real": _as_real,
    "add": _infix("+", ADD),
    "sub": _infix("-", ADD),
    "mul": _infix("*", MUL),
    "div": _infix("/", MUL),
    "pow": _pow,
    "max": _pair("maximum"),
    "min": _pair("minimum"),
    "logaddexp": _pair("log_add"),
    "lt": _infix("<", COMPARE),
    "le": _infix("<=", COMPARE),
    "eq": _infix("==", COMPARE),
    "ne": _infix("!=", COMPARE),
    "and": _infix("&", AND),
    "or": _infix("|", OR),
    "not": _not,
    "select": _where,
}

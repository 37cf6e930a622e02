"""Elementwise operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rnnc.ir.ops import numeric, vjp
from rnnc.ir.ops.table import Attrs, Op, OpTypeError, Vjp, broadcast_dims, define, joint_dtype, joint_per
from rnnc.ir.types import Type


def _unary(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    return replace(types[0], dtype=joint_dtype(types))


def _real_unary(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    if types[0].dtype != "real":
        raise OpTypeError(f"needs a real value, not `{types[0]}`", "E0204")
    return types[0]


def _to_real(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    joint_dtype(types)
    return replace(types[0], dtype="real")


def _shape(types: tuple[Type, ...]) -> Type:
    out = types[0].shape
    for t in types[1:]:
        out = broadcast_dims(out, t.shape)
    return Type(shape=out, per=joint_per(types))


def _binary(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    return replace(_shape(types), dtype=joint_dtype(types))


def _real_binary(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    if joint_dtype(types) != "real":
        raise OpTypeError("needs real values; complex numbers are not ordered", "E0204")
    return _shape(types)


def _compare(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    if any(t.dtype == "complex" for t in types):
        raise OpTypeError("complex numbers are not ordered", "E0204")
    return replace(_shape(types), dtype="bool")


def _logical(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    for t in types:
        if t.dtype != "bool":
            raise OpTypeError(f"needs a truth value, not `{t}`", "E0204")
    return replace(_shape(types), dtype="bool")


def _select(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    if types[0].dtype != "bool":
        raise OpTypeError(f"a condition is a truth value, not `{types[0]}`", "E0204")
    return replace(_shape(types), dtype=joint_dtype(types[1:]))


def _polar(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    return replace(_real_binary(attrs, types), dtype="complex")


def _cast(attrs: Attrs, types: tuple[Type, ...]) -> Type:
    return replace(types[0], dtype="real", vocab=None)


def _row(name: str, infer: object, value: object, doc: str, arity: int = 1, **facts: object) -> None:
    facts.setdefault("flops", 1)
    define(Op(name=name, arity=arity, category="elementwise", infer=infer, value=value, doc=doc, **facts))  # type: ignore[arg-type]


def _function(
    name: str, value: Callable[[Any, Any], Any], doc: str, rule: Vjp, flops: int = 1, special: int = 1
) -> None:
    """A special function of a real value; `value(np, x)`."""
    _row(name, _real_unary, lambda np, s, x: value(np, x), doc, vjp=rule, flops=flops, special=special)


# name, value, derivative, (flops, special-function calls) per element
_row("neg", _unary, lambda np, s, x: -x, "-x", vjp=vjp.neg, linear="joint")
_row("exp", _unary, lambda np, s, x: np.exp(x), "exp(x)", vjp=vjp.exp, special=1)
_row("log", _unary, lambda np, s, x: np.log(x), "log(x)", vjp=vjp.log, special=1)
_row("sqrt", _unary, lambda np, s, x: np.sqrt(x), "sqrt(x)", vjp=vjp.sqrt, special=1)
_row("sin", _unary, lambda np, s, x: np.sin(x), "sin(x)", vjp=vjp.sin, special=1)
_row("cos", _unary, lambda np, s, x: np.cos(x), "cos(x)", vjp=vjp.cos, special=1)
_row("conj", _unary, lambda np, s, x: np.conj(x), "complex conjugate", vjp=vjp.conj, linear="joint", over_reals=True)

_row("sign", _real_unary, lambda np, s, x: np.sign(x), "sign(x): -1, 0 or 1")
_row("step", _real_unary, lambda np, s, x: (x > 0).astype(float), "step(x): 1 if x > 0 else 0")
_row("relu", _real_unary, lambda np, s, x: np.maximum(x, 0), "max(x, 0)", vjp=vjp.relu)
_function("tanh", lambda np, x: np.tanh(x), "tanh(x)", vjp.tanh)
_function("expm1", lambda np, x: np.expm1(x), "exp(x) - 1", vjp.expm1)
_function("erf", numeric.erf, "erf(x)", vjp.erf)
_function("gelu", numeric.gelu, "x Phi(x), exact", vjp.gelu, flops=3)
_function("silu", lambda np, x: x * numeric.sigmoid(np, x), "x sigmoid(x)", vjp.silu, flops=3)
_function("sigmoid", numeric.sigmoid, "1 / (1 + exp(-x))", vjp.sigmoid, flops=2)
_function("softplus", numeric.softplus, "log(1 + exp(x))", vjp.softplus, flops=2, special=2)
_function("logsigmoid", lambda np, x: -numeric.softplus(np, -x), "log sigmoid(x)", vjp.logsigmoid, flops=2, special=2)

_row("re", _to_real, lambda np, s, z: np.real(z), "real part", vjp=vjp.re, linear="joint", over_reals=True, flops=0)
_row(
    "im", _to_real, lambda np, s, z: np.imag(z), "imaginary part", vjp=vjp.im, linear="joint", over_reals=True, flops=0
)
_row("abs", _to_real, lambda np, s, z: np.abs(z), "|z|, real", vjp=vjp.abs_)
_row("real", _cast, lambda np, s, x: x.astype(float), "a truth value or token as a real number", flops=0)

_row("add", _binary, lambda np, s, a, b: a + b, "a + b", 2, vjp=vjp.add, linear="joint", adds_in="plus_times")
_row("sub", _binary, lambda np, s, a, b: a - b, "a - b", 2, vjp=vjp.sub, linear="joint")
_row("mul", _binary, lambda np, s, a, b: a * b, "a * b", 2, vjp=vjp.mul, linear="multi")
_row("div", _binary, lambda np, s, a, b: a / b, "a / b", 2, vjp=vjp.div, linear=(0,))
_row("pow", _binary, lambda np, s, a, b: np.power(a, b), "a ^ b", 2, vjp=vjp.pow_, special=2)
_row("max", _real_binary, lambda np, s, a, b: np.maximum(a, b), "max(a, b)", 2, vjp=vjp.max_, adds_in="max_plus")
_row("min", _real_binary, lambda np, s, a, b: np.minimum(a, b), "min(a, b)", 2, vjp=vjp.min_, adds_in="min_plus")
_row(
    "logaddexp",
    _real_binary,
    lambda np, s, a, b: np.logaddexp(a, b),
    "log(exp(a) + exp(b))",
    2,
    vjp=vjp.logaddexp,
    adds_in="log_plus",
    flops=3,
    special=2,
)
_row("lt", _compare, lambda np, s, a, b: a < b, "a < b", 2)
_row("le", _compare, lambda np, s, a, b: a <= b, "a <= b", 2)
_row("eq", _compare, lambda np, s, a, b: a == b, "a == b", 2)
_row("ne", _compare, lambda np, s, a, b: a != b, "a != b", 2)
_row("and", _logical, lambda np, s, a, b: a & b, "a and b", 2)
_row("or", _logical, lambda np, s, a, b: a | b, "a or b", 2)
_row("not", _logical, lambda np, s, a: ~a, "not a")
_row("select", _select, lambda np, s, c, a, b: np.where(c, a, b), "a where c, else b", 3, vjp=vjp.select, linear=(1, 2))
_row(
    "polar",
    _polar,
    lambda np, s, r, theta: r * np.exp(1j * theta),
    "r exp(i theta)",
    2,
    vjp=vjp.polar,
    linear=(0,),
    over_reals=True,
    flops=2,
    special=2,
)
_row(
    "complex",
    _polar,
    lambda np, s, x, y: x + 1j * y,
    "complex(re, im)",
    2,
    vjp=vjp.complex_,
    linear="joint",
    over_reals=True,
    flops=0,
)

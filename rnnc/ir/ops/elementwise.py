"""Elementwise operations."""

from __future__ import annotations

from dataclasses import replace

from rnnc.ir.ops.table import Attrs, Op, OpTypeError, broadcast_dims, define, joint_dtype, joint_per
from rnnc.ir.types import Type

REAL_UNARY = (
    "sign tanh sigmoid logsigmoid softplus relu silu gelu step"  # step(x) = 1 if x > 0 else 0; gelu is the exact (erf) one
).split()
ANY_UNARY = "neg exp log sqrt sin cos".split()


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


for _name in ANY_UNARY:
    define(Op(name=_name, arity=1, category="elementwise", infer=_unary, doc=f"{_name}(x)"))
for _name in REAL_UNARY:
    define(Op(name=_name, arity=1, category="elementwise", infer=_real_unary, doc=f"{_name}(x), real"))
define(Op(name="conj", arity=1, category="elementwise", infer=_unary, doc="complex conjugate"))
for _name in ("re", "im", "abs"):
    define(Op(name=_name, arity=1, category="elementwise", infer=_to_real, doc=f"{_name}(z), real-valued"))
for _name in ("add", "sub", "mul", "div", "pow"):
    define(Op(name=_name, arity=2, category="elementwise", infer=_binary, doc=f"{_name}(a, b)"))
for _name in ("max", "min", "logaddexp"):
    define(Op(name=_name, arity=2, category="elementwise", infer=_real_binary, doc=f"{_name}(a, b), real"))
for _name in ("lt", "le", "eq", "ne"):
    define(Op(name=_name, arity=2, category="elementwise", infer=_compare, doc=f"{_name}(a, b), truth value"))
for _name in ("and", "or"):
    define(Op(name=_name, arity=2, category="elementwise", infer=_logical, doc=f"a {_name} b"))
define(Op(name="not", arity=1, category="elementwise", infer=_logical, doc="not a"))
define(Op(name="select", arity=3, category="elementwise", infer=_select, doc="select(c, a, b): a where c, else b"))
define(Op(name="polar", arity=2, category="elementwise", infer=_polar, doc="polar(r, theta) = r exp(i theta)"))
define(Op(name="complex", arity=2, category="elementwise", infer=_polar, doc="complex(re, im)"))
define(Op(name="real", arity=1, category="elementwise", infer=_cast, doc="a truth value or token as a real number"))

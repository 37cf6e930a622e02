"""Claims as the verifier takes them: their text, the sets they name, and the operators they speak of.

A claim whose parts mean nothing here (an expression that is no operator of the cell) is answered "unknown", with what
is missing: `Unclear` carries it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import get_args

from rnnc.frontend import ast
from rnnc.ir.builder import Builder
from rnnc.ir.dims import Dim
from rnnc.ir.graph import CellIR, NodeId, State
from rnnc.ir.ops import OpTypeError
from rnnc.ir.types import Disk, Domain, HalfPlane, Interval, Type
from rnnc.spec import Spec
from rnnc.verify.results import Precision

DEFAULT: Precision = "finite_precision"
PROBE_STATE = "the operator's state"


class Unclear(Exception):
    """A part of a claim that the verifier gives no meaning to; the message says what is missing."""


def text_of(spec: Spec, claim: ast.Claim) -> str:
    """The claim as written, in one line."""
    source = spec.sources.get(claim.span.file, "")
    return " ".join(source[claim.span.start : claim.span.end].split())


def precision_of(claim: ast.Claim) -> Precision:
    return next((p for p in get_args(Precision) if p == claim.precision), DEFAULT)


# ---------------------------------------------------------------- numbers and sets


def number(expr: ast.Expr, known: Mapping[str, Fraction]) -> Fraction:
    """An exact number made of literals and hyperparameters.  Raises Unclear."""
    match expr:
        case ast.Number():
            return expr.value
        case ast.Name() if expr.id in known:
            return known[expr.id]
        case ast.Unary(op="-"):
            return -number(expr.operand, known)
        case ast.Unary(op="+"):
            return number(expr.operand, known)
        case ast.Binary(op="+" | "-" | "*" | "/" | "^"):
            return _combined(expr.op, number(expr.left, known), number(expr.right, known))
    raise Unclear("a bound made of numbers and hyperparameters with known values")


def _combined(op: str, a: Fraction, b: Fraction) -> Fraction:
    match op:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case "/" if b != 0:
            return a / b
        case "^" if b.denominator == 1 and abs(b) <= 64 and (a != 0 or b > 0):
            return Fraction(a ** int(b))
    raise Unclear("a bound with an exact value")


def _end(expr: ast.Expr | None, known: Mapping[str, Fraction]) -> Fraction | None:
    """An end of an interval; None where it is infinite."""
    if expr is None or (isinstance(expr, ast.Name) and expr.id == "inf" and "inf" not in known):
        return None
    if isinstance(expr, ast.Unary) and isinstance(expr.operand, ast.Name) and expr.operand.id == "inf":
        return None
    return number(expr, known)


def domain_of(domain: ast.Domain, cell: CellIR, dims: Mapping[str, int]) -> Domain:
    """The set a claim names, with exact ends.  Raises Unclear."""
    known = {name: Fraction(value) for name, value in cell.hyper} | {k: Fraction(v) for k, v in dims.items()}
    match domain:
        case ast.IntervalDomain():
            lo, hi = _end(domain.lo, known), _end(domain.hi, known)
            return Interval(lo=lo, hi=hi, lo_open=domain.lo_open or lo is None, hi_open=domain.hi_open or hi is None)
        case ast.DiskDomain():
            return Disk(radius=number(domain.radius, known))
        case ast.HalfPlaneDomain():
            return HalfPlane(
                bound=number(domain.bound, known), strict=domain.op in ("<", ">"), above=domain.op in (">", ">=")
            )


# ---------------------------------------------------------------- operators


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """`cell` is the claim's cell with one more state Z <- A Z, whose transition is the operator; `node` is A."""

    cell: CellIR
    node: NodeId
    state: str


def operator_of(cell: CellIR, subject: ast.Expr | None) -> Operator:
    """The operator a claim speaks of: a named transition or value, or a product, sum or transpose of such.

    A matrix acts on vectors; a number or a vector is taken as that multiple of the identity, or diagonal.  Raises
    Unclear.
    """
    b = Builder.of(cell)
    try:
        node = _node(cell, b, subject)
        t = b.type(node)
        z, update = _acted(b, node, t)
    except OpTypeError as error:
        raise Unclear(f"an operator: {error.message}") from error
    zero = b.const(Fraction(0), b.type(z))
    state = State(name=PROBE_STATE, node=z, init=zero, update=update)
    probed = replace(cell, nodes=tuple(b.nodes), states=(*cell.states, state))
    return Operator(cell=probed, node=node, state=PROBE_STATE)


def _acted(b: Builder, node: NodeId, t: Type) -> tuple[NodeId, NodeId]:
    """A state and the operator applied to it."""
    if t.rank == 2 and t.shape[0] == t.shape[1]:
        z = b.leaf("state", PROBE_STATE, Type(dtype=t.dtype, shape=(t.shape[1],), per=t.per))
        return z, b.matmul(node, z)
    if t.rank > 1:
        raise Unclear(f"a square matrix, and this is `{t}`")
    if t.dtype not in ("real", "complex"):
        raise Unclear(f"an operator, and this is `{t}`")
    z = b.leaf("state", PROBE_STATE, Type(dtype=t.dtype, shape=t.shape or (Dim.of(1),), per=t.per))
    return z, b.map("mul", node, z)


def _node(cell: CellIR, b: Builder, expr: ast.Expr | None) -> NodeId:
    match expr:
        case ast.Name() if not expr.primed:
            return _named(cell, expr.id)
        case ast.Number():
            return b.const(expr.value)
        case ast.Attribute(name="T"):
            return b.transpose(_node(cell, b, expr.value))
        case ast.Unary(op="-"):
            return b.map("neg", _node(cell, b, expr.operand))
        case ast.Binary(op="@"):
            return b.matmul(_node(cell, b, expr.left), _node(cell, b, expr.right))
        case ast.Binary(op="*" | "+" | "-"):
            op = {"*": "mul", "+": "add", "-": "sub"}[expr.op]
            return b.map(op, _node(cell, b, expr.left), _node(cell, b, expr.right))
    raise Unclear("an operator made of the cell's names: name it with `transition A = ...`")


def _named(cell: CellIR, name: str) -> NodeId:
    for transition, node in cell.transitions:
        if transition == name:
            return node
    named = [n.id for n in cell.nodes if n.name == name and n.op != "state"]
    if len(named) != 1:
        raise Unclear(f"`{name}` as a value of its own (name it with `transition {name} = ...`)")
    return named[0]

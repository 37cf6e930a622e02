"""The name of a transition in the operator algebra, read off its normal form."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from rnnc.analysis.forms import BlockLinear, Dense, Elementwise
from rnnc.analysis.framed import Framed
from rnnc.analysis.monomials import Monomial
from rnnc.analysis.normal_forms import Micro
from rnnc.ir.builder import Builder
from rnnc.ir.dims import ONE
from rnnc.ir.graph import Node, NodeId


@dataclass(frozen=True, slots=True)
class Structure:
    """`rank`: of the low-rank part, where there is one."""

    name: str
    rank: int | None = None
    jacobian: Literal["diagonal", "block_diagonal", "low_rank", "dense"] = "dense"


def of_elementwise(form: Elementwise, f: Framed, b: Builder) -> Structure:
    scalar = form.a is None or all(d == ONE for d in b.type(form.a).shape)
    return Structure("scalar" if scalar else "diagonal", jacobian="diagonal")


def of_micro_steps(steps: tuple[Micro, ...]) -> Structure:
    """Products of c I + c' k k^T are Householder products; others stay diagonal plus low rank (ranks add up in
    products).
    """
    rank = sum(s.rank for s in steps)
    if rank == 0:
        return Structure("scalar" if all(s.scalar for s in steps) else "diagonal", jacobian="diagonal")
    if all(s.scalar and s.symmetric and s.rank <= 1 for s in steps):
        return Structure("householder_product", rank=rank, jacobian="low_rank")
    return Structure("diagonal_plus_low_rank", rank=rank, jacobian="low_rank")


def of_blocks(form: BlockLinear, f: Framed, b: Builder) -> Structure:
    """Blocks of rotations are orthogonal."""
    rotation = b.nodes[form.blocks].op == "rotation_blocks"
    return Structure("orthogonal" if rotation else "block_diagonal", jacobian="block_diagonal")


def of_dense(form: Dense, f: Framed, b: Builder) -> Structure:
    """What a single dense term is known to be; a sum is dense."""
    if len(f.linear) != 1:
        return Structure("dense")
    m = f.linear[0]
    matrices = [b.nodes[fac.node] for fac in m.factors if b.type(fac.node).rank == 2]
    if len(matrices) != 1:
        return Structure("dense")
    name = _of_matrix(b, matrices[0])
    scaled = len(m.factors) > 1 or abs(m.coeff) != 1
    if name == "permutation":
        return Structure("permutation_diagonal")
    if name == "orthogonal" and scaled:
        return Structure("dense")
    if name in ("circulant", "companion", "triangular") and not _scalar_scaling(m, b):
        return Structure("triangular" if name == "triangular" else "dense")
    return Structure(name)


def _scalar_scaling(m: Monomial, b: Builder) -> bool:
    return all(b.type(fac.node).rank in (0, 2) for fac in m.factors)


def _of_matrix(b: Builder, n: Node) -> str:
    match n.op:
        case "layout":
            return str(n.attr("kind")) if n.attr("kind") in ("circulant", "companion") else "dense"
        case "transpose" | "lift":
            inner = _of_matrix(b, b.nodes[n.args[0]])
            return "dense" if inner == "companion" and n.op == "transpose" else inner
        case "cayley" | "expm":
            return "orthogonal" if _is_skew(b, n.args[0]) else "dense"
        case "const":
            return _of_numbers(n)
    return "dense"


def _is_skew(b: Builder, node: NodeId) -> bool:
    """M - M^T, real."""
    n = b.nodes[node]
    if n.op != "sub" or n.type.dtype != "real":
        return False
    x, y = n.args
    return any(b.nodes[p].op == "transpose" and b.nodes[p].args[0] == q for p, q in ((x, y), (y, x)))


def _of_numbers(n: Node) -> str:
    rows: Any = n.attr("value")
    if not isinstance(rows, tuple) or not all(isinstance(r, tuple) for r in rows):
        return "dense"
    table: list[list[Fraction]] = [list(r) for r in rows]
    if all(sorted(line) == [0] * (len(line) - 1) + [1] for line in (*table, *zip(*table, strict=True))):
        return "permutation"
    size = range(len(table))
    if all(table[i][j] == 0 for i in size for j in size if j > i) or all(
        table[i][j] == 0 for i in size for j in size if j < i
    ):
        return "triangular"
    return "dense"

"""Pure rewrites that make a graph smaller, or move work off the states.

Each rule is one function with its `before --> after`; `RULES` is the table.  A rewrite holds wherever the original is
finite, with its derivative; it never changes a node's type.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any, TypeAlias

from rnnc.ir.builder import Builder
from rnnc.ir.domains.dependence import dependences
from rnnc.ir.graph import CellIR, Node, NodeId, users
from rnnc.ir.ops import OPS
from rnnc.ir.rewrite import copy_node, rebuild, roots

Rule: TypeAlias = Callable[[Builder, Node], "NodeId | None"]
MOST_ROUNDS = 50
LARGEST_POWER = 64
MOST_BITS = 4096  # of the numbers that are worked out: a spec that squares one again and again would fill the memory


def simplify(cell: CellIR) -> CellIR:
    """Applies the rules until nothing changes, and drops what is no longer needed.

    Requires: a verified cell.  Ensures: the same values and gradients; inputs, params, states, outputs stay.
    before: y = add(mul(x, 1), 0)      -->  after: y = x
    """
    cell = replace(cell, subcells=tuple(simplify(sub) for sub in cell.subcells))
    for _ in range(MOST_ROUNDS):
        before = cell
        cell = rebuild(_reassociated(cell), _apply)[0]
        if cell == before:
            break
    return cell


def _apply(b: Builder, old: Node, args: tuple[NodeId, ...]) -> NodeId:
    """The node's copy, rewritten as often as a rule fits."""
    at = copy_node(b, old, args)
    for _ in range(MOST_ROUNDS):
        node = b.nodes[at]
        new = next((n for rule in RULES if (n := rule(b, node)) is not None and b.type(n) == node.type), None)
        if new is None or new == at:
            break
        at = new
    found = b.nodes[at]
    if old.name and not found.name and OPS[found.op].arity != 0:
        b.nodes[at] = replace(found, name=old.name)  # the spec's name stays with the value
    return at


# ---------------------------------------------------------------- looking at arguments


def _number(b: Builder, node: NodeId) -> Fraction | None:
    """The value of a constant that is one number."""
    value = b.nodes[node].attr("value") if b.nodes[node].op == "const" else None
    return value if isinstance(value, Fraction) else None


def _arg_of(b: Builder, node: NodeId, op: str) -> NodeId | None:
    """The argument of `node` if its op is `op`."""
    n = b.nodes[node]
    return n.args[0] if n.op == op else None


# ---------------------------------------------------------------- the rules


def neutral(b: Builder, n: Node) -> NodeId | None:
    """x + 0, 0 + x, x - 0, x * 1, 1 * x, x / 1, x ^ 1      -->  x"""
    right = {"add": 0, "sub": 0, "mul": 1, "div": 1, "pow": 1}
    left = {"add": 0, "mul": 1}
    if n.op in right and _number(b, n.args[1]) == right[n.op]:
        return n.args[0]
    if n.op in left and _number(b, n.args[0]) == left[n.op]:
        return n.args[1]
    return None


def involution(b: Builder, n: Node) -> NodeId | None:
    """neg neg x, conj conj x, not not x      -->  x"""
    return _arg_of(b, n.args[0], n.op) if n.op in ("neg", "conj", "not") else None


def inverse(b: Builder, n: Node) -> NodeId | None:
    """log exp x, exp log x      -->  x      (real x)"""
    inner = {"log": "exp", "exp": "log"}.get(n.op)
    return _arg_of(b, n.args[0], inner) if inner and n.type.dtype == "real" else None


def signs(b: Builder, n: Node) -> NodeId | None:
    """x + neg y --> x - y;   x - neg y --> x + y;   0 - x --> neg x;   abs neg x --> abs x"""
    if n.op in ("add", "sub") and (y := _arg_of(b, n.args[1], "neg")) is not None:
        return b.add("sub" if n.op == "add" else "add", n.args[0], y)
    if n.op == "sub" and _number(b, n.args[0]) == 0:
        return b.add("neg", n.args[1])
    if n.op == "abs" and (y := _arg_of(b, n.args[0], "neg")) is not None:
        return b.add("abs", y)
    return None


def equal_branches(b: Builder, n: Node) -> NodeId | None:
    """select(c, x, x), max(x, x), min(x, x) --> x;   select(true, x, y) --> x;   select(false, x, y) --> y"""
    if n.op in ("max", "min", "select") and n.args[-1] == n.args[-2]:
        return n.args[-1]
    if n.op == "select" and b.nodes[n.args[0]].op == "const":
        value = b.nodes[n.args[0]].attr("value")
        return (n.args[1] if value else n.args[2]) if isinstance(value, bool) else None
    return None


def idle_view(b: Builder, n: Node) -> NodeId | None:
    """a reshape, broadcast, lift, transpose, sum, slice or concat that changes nothing      -->  its argument"""
    if not n.args or len(n.args) > 1 or b.type(n.args[0]) != n.type:
        return None
    if n.op in ("reshape", "broadcast", "concat", "slice", "lift"):
        return n.args[0]  # of one type on both sides they are the identity
    perm: Any = n.attr("perm", ())
    if n.op == "transpose" and perm == tuple(range(len(perm))):
        return n.args[0]
    return n.args[0] if n.op in ("sum", "mean", "amax", "amin") and n.attr("axes") == () else None


def views_of_views(b: Builder, n: Node) -> NodeId | None:
    """transpose(transpose x) --> one transpose;   reshape(reshape x), reshape(expand x) --> one reshape;
    broadcast(broadcast x) --> one broadcast;   merge(split_per x), split_per(merge x) --> x"""
    if len(n.args) != 1 or not b.nodes[n.args[0]].args:
        return None
    inner = b.nodes[n.args[0]]
    match n.op, inner.op:
        case "transpose", "transpose":
            outer_perm: Any = n.attr("perm")
            inner_perm: Any = inner.attr("perm")
            return b.add("transpose", inner.args[0], perm=tuple(inner_perm[p] for p in outer_perm))
        case "reshape", "reshape" | "expand":
            return b.add("reshape", inner.args[0], shape=n.type.shape)
        case "broadcast", "broadcast":
            return b.add("broadcast", inner.args[0], shape=n.type.shape)
        case ("merge", "split_per") | ("split_per", "merge"):
            return inner.args[0] if n.attr("n") == inner.attr("n") else None
    return None


def constant_view(b: Builder, n: Node) -> NodeId | None:
    """expand(c), lift(c), broadcast(c), ... of a constant that is one number      -->  the constant in that shape"""
    if OPS[n.op].category != "view" or len(n.args) != 1:
        return None
    value = _number(b, n.args[0])
    return None if value is None else b.const(value, n.type)


def identity_matrix(b: Builder, n: Node) -> NodeId | None:
    """eye @ x, x @ eye      -->  x"""
    specs = {"ij,jk->ik": (0, 1), "ij,j->i": (0,), "i,ij->j": (1,)}
    if n.op != "einsum":
        return None
    for k in specs.get(str(n.attr("spec")), ()):
        if b.nodes[n.args[k]].op == "eye":
            return n.args[1 - k]
    return None


ARITHMETIC: dict[str, Callable[[Fraction, Fraction], Fraction | bool]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "max": max,
    "min": min,
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
}


def foldable(*numbers: Fraction) -> bool:
    """Whether what sum, product or quotient of these numbers gives is short enough to be worked out."""
    return sum(x.numerator.bit_length() + x.denominator.bit_length() for x in numbers) <= MOST_BITS


def constants(b: Builder, n: Node) -> NodeId | None:
    """2 + 1/2 --> 5/2,  and so on for + - * / ^ max min < <= == != neg abs sign step relu, exactly"""
    numbers = [_number(b, a) for a in n.args]
    if not numbers or any(x is None for x in numbers) or not foldable(*(x for x in numbers if isinstance(x, Fraction))):
        return None
    value: Fraction | bool | None = None
    match n.op, numbers:
        case "neg", [Fraction() as x]:
            value = -x
        case "abs", [Fraction() as x]:
            value = abs(x)
        case "sign", [Fraction() as x]:
            value = Fraction((x > 0) - (x < 0))
        case "step", [Fraction() as x]:
            value = Fraction(int(x > 0))
        case "relu", [Fraction() as x]:
            value = max(x, Fraction(0))
        case "div", [Fraction() as x, Fraction() as y] if y != 0:
            value = x / y
        case "pow", [Fraction() as x, Fraction() as y] if (
            y.denominator == 1 and abs(y) <= LARGEST_POWER and (x != 0 or y >= 0) and foldable(*[x] * int(abs(y)))
        ):
            value = x ** int(y)
        case op, [Fraction() as x, Fraction() as y] if op in ARITHMETIC:
            value = ARITHMETIC[op](x, y)
    return None if value is None else b.const(value, n.type)


RULES: tuple[Rule, ...] = (
    constants,
    neutral,
    involution,
    inverse,
    signs,
    equal_branches,
    idle_view,
    views_of_views,
    constant_view,
    identity_matrix,
)

# ---------------------------------------------------------------- work near the states


def _reassociated(cell: CellIR) -> CellIR:
    """(A @ B) @ h --> A @ (B @ h) for a vector h that depends on a state, and outer(u, v) @ S --> outer(u, v @ S) for
    a matrix.

    Requires: A @ B (the outer product) is read nowhere else and has no name in the spec.
    Ensures: only matrix-vector products meet the state.
    """
    reads, read_by, named = dependences(cell), users(cell), frozenset(roots(cell))

    def rule(b: Builder, node: Node, args: tuple[NodeId, ...]) -> NodeId | None:
        if node.op != "einsum" or not reads[node.args[1]].states or reads[node.args[0]].states:
            return None
        left = b.nodes[args[0]]
        if left.op != "einsum" or len(read_by[node.args[0]]) != 1 or node.args[0] in named:
            return None
        first, second = left.args
        match str(left.attr("spec")), str(node.attr("spec")):
            case "ij,jk->ik", "ij,j->i":
                return b.add("einsum", first, b.add("einsum", second, args[1], spec="ij,j->i"), spec="ij,j->i")
            case "i,j->ij", "ij,jk->ik":
                return b.add("einsum", first, b.add("einsum", second, args[1], spec="i,ij->j"), spec="i,j->ij")
            case "i,j->ij", "ij,j->i":
                inner = b.add("einsum", second, args[1], spec="i,i->")
                return b.map("mul", first, inner)
        return None

    return rebuild(cell, rule)[0]

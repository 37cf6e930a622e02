"""Splits an update into micro-steps: reassociates products of structured matrices, finds cuts, merges what costs
nothing.

`(A @ B) @ S --> A @ (B @ S)`: a product of n Householder factors becomes n micro-steps instead of 2^n terms.  A *cut*
is a node of the state's type through which every path from the state to its update leads; between two cuts lies one
micro-step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from rnnc.analysis.framed import Framed, frame
from rnnc.analysis.monomials import NotRepresentable
from rnnc.analysis.normal_forms import Micro, micro_step
from rnnc.analysis.operator import Affine, Operators, has_structure
from rnnc.analysis.realise import Realiser
from rnnc.ir.builder import Builder
from rnnc.ir.evaluate import Domain, Walk
from rnnc.ir.graph import Node, NodeId

MAX_CUTS = 64
MAX_SPAN = 8  # cut points that one micro-step may span


def reassociate(b: Builder, update: NodeId, ops: Operators) -> NodeId:
    """The update with every product of structured state-free matrices applied factor by factor (`ops`: over the
    state).
    """
    return Walk(b.nodes, _Reassociated(b, ops))[update]


class _Reassociated(Domain[NodeId]):
    """The node that takes a node's place."""

    def __init__(self, b: Builder, ops: Operators) -> None:
        self.b, self.ops = b, ops
        self.chains = Walk(b.nodes, _Chains(b, ops))

    def is_leaf(self, node: Node) -> bool:
        return node.id in self.ops.atoms or not self.ops.depends(node.id)

    def leaf(self, node: Node) -> NodeId:
        return node.id

    def apply(self, node: Node, args: tuple[NodeId, ...]) -> NodeId:
        applied = _matrix_times_state(self.b, node, args, self.ops, self.chains)
        if applied is not None:
            return applied
        attrs: dict[str, Any] = dict(node.attrs)
        return node.id if args == node.args else self.b.add(node.op, *args, **attrs)


@dataclass(frozen=True, slots=True)
class _Link:
    """A factor of a product of matrices: a matrix, transposed or not, or a number in its rank-0 form."""

    node: NodeId
    transposed: bool = False
    number: bool = False


class _Chains(Domain[tuple[_Link, ...]]):
    """A state-free matrix as a product of factors, first to last; one link where splitting it up gains nothing."""

    def __init__(self, b: Builder, ops: Operators) -> None:
        self.b, self.ops = b, ops

    def is_leaf(self, node: Node) -> bool:
        if node.type.rank != 2:
            return True
        return _factors(self.b, node.id) is None and _scalar_times(self.b, node.id) is None and node.op != "transpose"

    def leaf(self, node: Node) -> tuple[_Link, ...]:
        return (_Link(node.id),)

    def apply(self, node: Node, args: tuple[tuple[_Link, ...], ...]) -> tuple[_Link, ...]:
        whole = self.leaf(node)
        chain = dict(zip(node.args, args))
        if (pair := _factors(self.b, node.id)) is not None:
            worth = any(len(chain[m]) > 1 or has_structure(self.ops.structure(m)) for m in pair)
            found = chain[pair[0]] + chain[pair[1]] if worth else whole
        elif (scaled := _scalar_times(self.b, node.id)) is not None:
            split_up = len(chain[scaled[1]]) > 1
            found = (_Link(scaled[0], number=True), *chain[scaled[1]]) if split_up else whole
        else:
            found = _turned(args[0]) if len(args[0]) > 1 else whole
        return found if len(found) <= MAX_CUTS else whole


def _turned(chain: tuple[_Link, ...]) -> tuple[_Link, ...]:
    """The transpose of a product."""
    return tuple(replace(x, transposed=not x.transposed and not x.number) for x in reversed(chain))


def _matrix_times_state(
    b: Builder, n: Node, args: tuple[NodeId, ...], ops: Operators, chains: Walk[tuple[_Link, ...]]
) -> NodeId | None:
    """A node for `product @ x` applied factor by factor; None when `n` is something else."""
    if n.op != "einsum" or sum(ops.depends(a) for a in n.args) != 1:
        return None
    which = 1 if ops.depends(n.args[1]) else 0
    inputs, output = str(n.attr("spec")).split("->")
    letters = inputs.split(",")
    x_letters, m_letters = letters[which], letters[1 - which]
    if len(m_letters) != 2:
        return None
    gone = [c for c in m_letters if c in x_letters and c not in output]
    kept = [c for c in m_letters if c not in x_letters and c in output]
    if len(gone) != 1 or len(kept) != 1 or sorted(x_letters.replace(gone[0], kept[0])) != sorted(output):
        return None
    transposed = m_letters[0] == gone[0]
    axis = x_letters.index(gone[0])
    chain = chains[args[1 - which]]
    if len(chain) == 1:
        return None
    result = args[which]
    for link in _turned(chain)[::-1] if transposed else chain[::-1]:
        result = b.map("mul", link.node, result) if link.number else _apply(b, link, result, axis)
    moved = x_letters.replace(gone[0], kept[0])
    return result if moved == output else b.add("transpose", result, perm=tuple(moved.index(c) for c in output))


def _factors(b: Builder, matrix: NodeId) -> tuple[NodeId, NodeId] | None:
    """A and B of a matrix product A @ B."""
    n = b.nodes[matrix]
    if n.op != "einsum" or any(b.type(a).rank != 2 for a in n.args):
        return None
    inputs, output = str(n.attr("spec")).split("->")
    left, right = inputs.split(",")
    if left[1] != right[0] or output != left[0] + right[1] or left[1] in output:
        return None
    return n.args[0], n.args[1]


def _scalar_times(b: Builder, matrix: NodeId) -> tuple[NodeId, NodeId] | None:
    """(s, M) of s * M with a scalar s, in the rank-0 form of s."""
    n = b.nodes[matrix]
    if n.op != "mul":
        return None
    for s, m in (n.args, n.args[::-1]):
        inner = s
        while b.nodes[inner].op == "expand":
            inner = b.nodes[inner].args[0]
        if b.type(inner).rank == 0 and b.type(m).rank == 2:
            return inner, m
    return None


def _apply(b: Builder, matrix: _Link, x: NodeId, axis: int) -> NodeId:
    """A matrix applied to axis `axis` of x."""
    letters = "abcdefgh"[: b.type(x).rank]
    spec = f"{letters[axis]}z" if matrix.transposed else f"z{letters[axis]}"
    return b.einsum(f"{spec},{letters}->{letters[:axis]}z{letters[axis + 1 :]}", matrix.node, x)


def cuts(b: Builder, state: NodeId, update: NodeId, ops: Operators) -> list[NodeId]:
    """From the state to the update: the nodes of the state's type that every path passes through, in order."""
    order = _between(b, update, ops)
    inside = set(order)
    last_use: dict[NodeId, int] = {}
    position = {n: i for i, n in enumerate(order)}
    for n in order:
        for a in b.nodes[n].args:
            if a in inside:
                last_use[a] = max(last_use.get(a, -1), position[n])
    found: list[NodeId] = []
    open_until = -1  # the last position at which a value from before this node is still read
    for i, n in enumerate(order):
        if open_until <= i and b.type(n) == b.type(state):
            found.append(n)
        open_until = max(open_until, last_use.get(n, -1))
    return found if update in found else [*found, update]


def _between(b: Builder, update: NodeId, ops: Operators) -> list[NodeId]:
    """The state-dependent nodes the update is computed from, in topological order."""
    seen: set[NodeId] = set()
    work = [update]
    while work:
        n = work.pop()
        if n not in seen and ops.depends(n):
            seen.add(n)
            work.extend(b.nodes[n].args if n not in ops.atoms else ())
    return sorted(seen)


@dataclass(frozen=True, slots=True)
class Split:
    """The cheapest micro-steps of an update on one side."""

    side: str
    steps: tuple[Micro, ...]

    @property
    def rank(self) -> int:
        return sum(s.rank for s in self.steps)


def split(name: str, points: list[NodeId], r: Realiser, ops: Operators, side: str) -> Split | None:
    """Segments between cut points such that each is a micro-step, with the least sum of squared ranks, then the
    fewest.
    """
    if len(points) > MAX_CUTS:
        return None
    maps = _segment_maps(name, points, r, ops)
    micro: dict[tuple[int, int], Micro | None] = {}

    def get(i: int, j: int) -> Micro | None:
        if (i, j) not in micro:
            f = maps(i, j)
            micro[i, j] = None if f is None else micro_step(f, side, r)
        return micro[i, j]

    best: list[tuple[int, int, tuple[Micro, ...]] | None] = [(0, 0, ())] + [None] * (len(points) - 1)
    for j in range(1, len(points)):
        for i in range(j - 1, max(-1, j - 1 - MAX_SPAN), -1):
            before = best[i]
            if before is None or (step := get(i, j)) is None:
                continue
            candidate = (before[0] + step.rank**2, before[1] + 1, (*before[2], step))
            have = best[j]
            if have is None or candidate[:2] < have[:2]:
                best[j] = candidate
            elif step.rank > 1 and candidate[0] > have[0]:
                break  # two low-rank factors are kept apart; a longer segment would hold them too
    final = best[-1]
    return None if final is None else Split(side, final[2])


def _segment_maps(name: str, points: list[NodeId], r: Realiser, ops: Operators) -> Callable[[int, int], Framed | None]:
    """The framed map from cut i to cut j."""
    over: dict[int, Operators] = {}

    def get(i: int, j: int) -> Framed | None:
        if i not in over:
            over[i] = ops.over({points[i]: name})
        value = over[i].value(points[j])
        if not isinstance(value, Affine):
            return None
        try:
            return frame(value.terms, r.b.type(points[0]), r.b, r.labels)
        except NotRepresentable:
            return None

    return get

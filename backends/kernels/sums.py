"""Sums in which what does not depend on states comes first: it is added up once, outside of the recurrence."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from rnnc.backends.kernels.axes import is_number
from rnnc.backends.torch.cheap import replaced
from rnnc.backends.torch.context import static_nodes
from rnnc.backends.torch.needs import state_dependence
from rnnc.ir.builder import Builder
from rnnc.ir.graph import CellIR, NodeId, ancestors
from rnnc.ir.rewrite import roots


def biases_first(cell: CellIR) -> CellIR:
    """An equal cell in which a bias of a product with a state is added to what comes from the input, if anything does.

    before: sigmoid((W @ x + b) + (U @ h + c))      -->  after: sigmoid((W @ x + (b + c)) + U @ h)

    The kernel then has no c to hold and no gradient of it to add up.  Only of products, beside whose rounding that of
    such a sum is small: what is added to a state itself (in log space, say) may be meant to cancel it first.
    """
    depends, static = state_dependence(cell), static_nodes(cell)
    live = ancestors(cell, roots(cell))
    uses = Counter(a for i in live for a in cell.nodes[i].args)
    fixed = {*roots(cell)}  # what something outside of the graph refers to

    def inner(i: NodeId) -> bool:
        """Whether a node is an addition whose value nothing but one other addition needs."""
        return cell.nodes[i].op == "add" and uses[i] == 1 and i not in fixed

    def terms_of(i: NodeId) -> tuple[list[NodeId], bool]:
        """The terms of a sum of sums in order, and whether a static one is added to one that depends on states."""
        terms, late, work = [], mixed(i), [*reversed(cell.nodes[i].args)]
        while work:
            a = work.pop()
            if inner(a):
                late = late or mixed(a)
                work += reversed(cell.nodes[a].args)
            else:
                terms.append(a)
        return terms, late

    def mixed(i: NodeId) -> bool:
        args = cell.nodes[i].args
        return any(depends[a] for a in args) and any(a in static and not is_number(cell.nodes[a]) for a in args)

    parts = {a for i in live if cell.nodes[i].op == "add" for a in cell.nodes[i].args if inner(a)}
    b = Builder.of(cell)
    moved: dict[NodeId, NodeId] = {}
    for i in sorted(live - parts):
        if cell.nodes[i].op != "add" or not depends[i]:
            continue
        terms, late = terms_of(i)
        if not late or not any(depends[x] and _is_product(cell, x) for x in terms):
            continue
        given = sorted((x for x in terms if not depends[x] and x not in static), key=lambda x: not _is_product(cell, x))
        if not given:
            continue
        ahead = [given[0], *_sum(b, [x for x in terms if x in static]), *given[1:]]
        (new,) = _sum(b, [*ahead, *(x for x in terms if depends[x])])
        if b.type(new) == b.type(i):
            moved[i] = new
            b.nodes[new] = replace(b.nodes[new], name=cell.nodes[i].name, span=cell.nodes[i].span)
    return replaced(cell, b.nodes, moved) if moved else cell


def _is_product(cell: CellIR, i: NodeId) -> bool:
    return cell.nodes[i].op == "einsum"


def _sum(b: Builder, terms: list[NodeId]) -> list[NodeId]:
    """The sum of some values, from the left, as a list of one (of none: none)."""
    total = terms[:1]
    for x in terms[1:]:
        total = [b.map("add", total[0], x)]
    return total

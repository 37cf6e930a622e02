"""Learned matrices that multiply one vector one after another, as one matrix: a recurrent matrix of low rank."""

from __future__ import annotations

from dataclasses import replace

from rnnc.analysis.forms import Recurrence
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.backends.kernels.region import find_coupled, find_region, start
from rnnc.backends.torch.cheap import replaced
from rnnc.ir.builder import Builder
from rnnc.ir.graph import NodeId


def joined_chains(recurrence: Recurrence) -> Recurrence:
    """The recurrence of an equal cell in which no product of a learned matrix multiplies another one, in groups that
    have no region otherwise.  The matrices are multiplied once for all steps; a step waits for one product less.

    before: h <- tanh(U @ (V @ h))      -->  after: h <- tanh((U @ V) @ h)
    """
    cell = recurrence.cell
    b = Builder.of(cell)
    moved: dict[NodeId, NodeId] = {}
    for group in recurrence.groups:
        finder = start(cell, group, ())
        served = find_region(cell, group) is not None or find_coupled(cell, group, sizes=True) is not None
        if finder is None or served:
            continue
        products = {i: cut for i in finder.users if (cut := finder.as_product(i)) is not None}
        joined: dict[NodeId, tuple[NodeId, NodeId]] = {}  # the matrix [out, in] and its vector
        for i, outer in sorted(products.items()):
            inner = products.get(outer.vector)
            if inner is None:
                continue
            if inner.product in joined:
                weight, vector = joined[inner.product]
                v = "mi"
            else:
                weight, vector, v = inner.weight, inner.vector, "im" if inner.turned else "mi"
            u = "mo" if outer.turned else "om"
            whole = b.einsum(f"{u},{v}->oi", outer.weight, weight)
            joined[i] = (whole, vector)
            moved[i] = b.einsum("oi,i->o", whole, vector)
            b.nodes[moved[i]] = replace(b.nodes[moved[i]], name=cell.nodes[i].name, span=cell.nodes[i].span)
    return analyse_recurrence(replaced(cell, b.nodes, moved)) if moved else recurrence

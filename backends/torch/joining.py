"""Learned maps of a loop done as one product: a loop is bound by its many small calls.

before: F.linear(x, V_i) for all steps; in the loop F.linear(h, W_i) + i_in_t, F.linear(h, W_f) + f_in_t
after:  F.linear(x, cat([V_i, V_f])) for all steps; in the loop torch.addmm(h_in_t, h, cat([W_i, W_f]).mT).chunk(2, -1)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rnnc.backends.torch.body import Body
from rnnc.backends.torch.contraction import einsum
from rnnc.backends.torch.expr import MUL, Expr, call, tuple_text
from rnnc.backends.torch.strategies import long_call
from rnnc.ir.graph import Node, NodeId
from rnnc.ir.types import Type

if TYPE_CHECKING:
    from rnnc.backends.torch.functions import Forward

VECTOR_MAPS = ("oi,i->o", "ij,j->i")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputMap:
    """A learned map of a sequence, V x or V x + b."""

    x: NodeId
    weight: NodeId
    bias: NodeId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """Learned maps of one state, W_1 h, W_2 h, ..., done as one product.

    Where each is read in a sum with a sequence alone, `sums` are these sums and `inputs` the sequences.
    """

    maps: tuple[NodeId, ...]
    sums: tuple[NodeId, ...] = ()
    inputs: tuple[NodeId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """What a loop does instead of its maps: the weight (transposed where there are no per blocks: its gradient is then
    summed over the steps as it comes), and the variables of the joined sequence and of its step.
    """

    together: Together
    weight: Expr
    source: str = ""
    source_t: str = ""


def find_maps(f: Forward, inner: set[NodeId], states: set[NodeId], reads: set[NodeId]) -> list[Together]:
    """The maps of each state among the nodes of a loop, where there is something to join.

    Requires: the static values that the loop reads are built.
    """
    cell = f.cell
    found: dict[tuple[NodeId, int], list[NodeId]] = {}
    for i in sorted(inner - reads):
        n = cell.nodes[i]
        if n.op != "einsum" or n.attr("spec") not in VECTOR_MAPS or n.args[1] not in states:
            continue
        weight = f.body.env.get(n.args[0])
        if weight is not None and weight.static and not weight.number and not weight.small:
            found.setdefault((n.args[1], weight.absent), []).append(i)
    joined = []
    for maps in found.values():
        pairs = [added_sequence(f, i, inner, states) for i in maps]
        if all(pairs):
            sums, inputs = zip(*(p for p in pairs if p))
            if len(maps) == 1 or same_source(f, inputs):
                joined.append(Together(maps=tuple(maps), sums=sums, inputs=inputs))
                continue
        if len(maps) > 1:
            joined.append(Together(maps=tuple(maps)))
    return joined


def added_sequence(f: Forward, i: NodeId, inner: set[NodeId], states: set[NodeId]) -> tuple[NodeId, NodeId] | None:
    """The sum in which alone the map `i` is read, and the sequence beside it."""
    cell, uses = f.cell, f.body.uses
    readers = [n for n in inner if i in cell.nodes[n].args]
    if uses.get(i) != 1 or len(readers) != 1 or cell.nodes[readers[0]].op != "add" or cell.nodes[i].type.per:
        return None
    (other,) = (a for a in cell.nodes[readers[0]].args if a != i)
    n = cell.nodes[other]
    outside = other not in inner and other not in states and other not in f.body.c.static
    return (readers[0], other) if outside and n.type == cell.nodes[i].type else None


def same_source(f: Forward, inputs: Iterable[NodeId]) -> bool:
    """Whether sequences that nothing else reads are learned maps of one and the same sequence."""
    maps = [input_map(f, i) for i in inputs]
    read_once = all(f.body.uses.get(i) == 1 for i in inputs)
    kinds = {(m.x, m.bias is None) for m in maps if m}
    return read_once and all(maps) and len(kinds) == 1


def input_map(f: Forward, i: NodeId) -> InputMap | None:
    cell = f.cell
    n, bias = cell.nodes[i], None
    if n.op == "add":
        biases = [a for a in n.args if cell.nodes[a].op == "param" and cell.nodes[a].type == n.type]
        if len(biases) != 1:
            return None
        (bias,) = biases
        (n,) = (cell.nodes[a] for a in n.args if a != bias)
    if n.op != "einsum" or n.attr("spec") not in VECTOR_MAPS or cell.nodes[n.args[0]].op != "param":
        return None
    if n.args[1] in f.body.c.static:
        return None
    return InputMap(x=n.args[1], weight=n.args[0], bias=bias)


# ---------------------------------------------------------------- before the loop, and in it


def join(f: Forward, together: Together) -> Joined | None:
    """Write the joined weights, and the joined map of the inputs, before the loop.

    Requires: the weights are built, and so is a single input; None where that is not of its whole size.
    """
    cell, body = f.cell, f.body
    if len(together.maps) == 1 and body.env[together.inputs[0]].small:
        return None
    state = cell.nodes[cell.nodes[together.maps[0]].args[1]].name
    blocks = bool(cell.nodes[together.maps[0]].type.per)
    weights = [cell.nodes[i].args[0] for i in together.maps]
    weight = concatenated(body, f"{state}_weight", weights, "" if blocks else ".mT")
    if len(together.maps) == 1 or not together.sums:
        return Joined(together=together, weight=weight)
    maps = [m for i in together.inputs if (m := input_map(f, i))]
    body.build([maps[0].x, *(m.weight for m in maps), *(m.bias for m in maps if m.bias is not None)])
    v = concatenated(body, f"{state}_in_weight", [m.weight for m in maps])
    nodes = [cell.nodes[i] for i in together.inputs]
    e = einsum(body.c, as_one(nodes, maps[0]), [v, body.env[maps[0].x]])
    biases = [m.bias for m in maps if m.bias is not None]
    if biases and e.add_bias is not None:
        e = e.add_bias(concatenated(body, f"{state}_in_bias", biases)) or e
    source = body.names.fresh(f"{state}_in")
    body.statement(f"{source} = {e.text}")
    return Joined(together=together, weight=weight, source=source, source_t=body.names.fresh(f"{source}_t"))


def concatenated(body: Body, name: str, parameters: Sequence[NodeId], then: str = "") -> Expr:
    """Weights [*per, o_k, i], or biases [o_k], joined along o, in a variable; `then` is done with the result."""
    parts = [body.env[i] for i in parameters]
    name = body.names.fresh(name)
    axis = ["-2"] if body.c.type(parameters[0]).per else []
    if len(parts) == 1:
        body.statement(f"{name} = {parts[0].atom}{then}")
    else:
        long_call(body.lines, f"{name} = ", "torch.cat", [[e.text for e in parts], *axis])
        body.lines[-1] += then
    return replace(parts[0].named(name))


def as_one(nodes: Sequence[Node], first: InputMap | None = None) -> Node:
    """A map whose rows are those of all `nodes`."""
    sizes = [n.type.shape[0] for n in nodes]
    whole: Type = replace(nodes[0].type, shape=(sum(sizes[1:], sizes[0]),))
    if first is None:
        return replace(nodes[0], type=whole)
    return replace(nodes[0], op="einsum", args=(first.weight, first.x), attrs=(("spec", "oi,i->o"),), type=whole)


def apply_joined(loop: Body, joined: Joined) -> None:
    """The product with the joined weights, taken apart again."""
    cell, together = loop.c.cell, joined.together
    nodes = [cell.nodes[i] for i in together.sums or together.maps]
    maps = [cell.nodes[i] for i in together.maps]
    h = loop.env[maps[0].args[1]]
    if together.sums:
        source = joined.source_t or loop.env[together.inputs[0]].text
        product = Expr(text=call("torch.addmm", source, h.text, joined.weight.text), low=True)
    elif maps[0].type.per:
        product = einsum(loop.c, as_one(maps), [joined.weight, h])
    else:
        product = Expr(text=f"{h.at(MUL)} @ {joined.weight.text}", prec=MUL, low=True)
    names = [loop.names.fresh(loop.title(n) + loop.suffix) for n in nodes]
    loop.statement(f"{', '.join(names)} = {product.atom}{taken_apart(loop, nodes)}")
    for node, name in zip(nodes, names):
        loop.env[node.id] = replace(product.named(name), low=True)
        loop.bound[node.id] = name


def taken_apart(loop: Body, nodes: Sequence[Node]) -> str:
    """The call that divides the rows of all `nodes` among them."""
    sizes = [n.type.shape[0] for n in nodes]
    if len(sizes) == 1:
        return ""
    if all(size == sizes[0] for size in sizes):
        return f".chunk({len(sizes)}, -1)"
    return f".split({tuple_text([loop.c.dim(s) for s in sizes])}, -1)"

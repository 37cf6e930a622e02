"""The specification of the IR, executable: what every `CellIR` between passes satisfies."""

from __future__ import annotations

from collections.abc import Container

from rnnc.ir.dims import Dim
from rnnc.ir.graph import VARYING, CellIR, Node, NodeId
from rnnc.ir.ops import OPS, OpTypeError
from rnnc.ir.types import Type

NO_ALIGNMENT = frozenset({"take"})  # its table may stand outside the per block of its token


class IRError(AssertionError):
    """A malformed cell: a bug of the pass that made it."""


def verify_cell(cell: CellIR) -> CellIR:
    """Raises IRError with all that is wrong; returns the cell.  Subcells are verified too."""
    wrong: list[str] = []
    for node in cell.nodes:
        wrong += [f"%{node.id} = {node.op}: {what}" for what in _node(cell, node)]
    if not wrong:
        static = _without(cell, VARYING)
        wrong += [*_tables(cell, static), *_over_time(cell)]
    for sub in cell.subcells:
        try:
            verify_cell(sub)
        except IRError as e:
            wrong.append(f"in subcell {sub.name}: {e}")
    if wrong:
        raise IRError(f"{cell.name}: " + "; ".join(wrong))
    return cell


def _node(cell: CellIR, node: Node) -> list[str]:
    """Identity, order, arity, and the type inferred anew."""
    if not 0 <= node.id < len(cell.nodes) or cell.nodes[node.id] is not node:
        return ["its id is not its position"]
    op = OPS.get(node.op)
    if op is None:
        return ["no such operation"]
    if any(not 0 <= a < node.id for a in node.args):
        return ["an argument does not come before it"]
    least, most = op.arity if isinstance(op.arity, tuple) else (op.arity, op.arity)
    if len(node.args) < least or (most >= 0 and len(node.args) > most):
        return [f"{len(node.args)} arguments"]
    if tuple(sorted(node.attrs, key=lambda kv: kv[0])) != node.attrs:
        return ["attributes are not sorted"]
    types = tuple(cell.nodes[a].type for a in node.args)
    wrong = _alignment(cell, node, types)
    try:
        found = op.infer(dict(node.attrs), types)
    except (OpTypeError, AssertionError, KeyError, IndexError, TypeError, ValueError) as e:
        return [*wrong, f"its type cannot be inferred: {e!r}"]
    if found != node.type:
        wrong.append(f"has type {node.type}, inferred {found}")
    unknown = _names_of(node.type) - {p.name for p in cell.dims}
    if unknown:
        wrong.append(f"dims without declaration: {', '.join(sorted(unknown))}")
    return wrong


def _names_of(t: Type) -> set[str]:
    return {name for d in (*t.per, *t.shape, *((t.vocab,) if isinstance(t.vocab, Dim) else ())) for name in d.names}


def _alignment(cell: CellIR, node: Node, types: tuple[Type, ...]) -> list[str]:
    """Operands share their per axes, and those of elementwise ops their rank; rank-0 constants fit anywhere."""
    if OPS[node.op].category in ("model", "leaf") or node.op in NO_ALIGNMENT:
        return []
    bound = [t for a, t in zip(node.args, types, strict=True) if not _free_scalar(cell.nodes[a])]
    wrong = []
    if len({t.per for t in bound}) > 1:
        wrong.append("operands of different per blocks")
    if OPS[node.op].category == "elementwise" and len({t.rank for t in bound}) > 1:
        wrong.append("operands of different ranks")
    return wrong


def _free_scalar(node: Node) -> bool:
    return node.op in ("const", "dim") and node.type.rank == 0 and not node.type.per


def _without(cell: CellIR, ops: Container[str]) -> set[NodeId]:
    """Nodes that are computed without any node of these ops."""
    found: set[NodeId] = set()
    for n in cell.nodes:
        if n.op not in ops and all(a in found for a in n.args):
            found.add(n.id)
    return found


def _tables(cell: CellIR, static: set[NodeId]) -> list[str]:
    """The tables of inputs, params, states and outputs agree with the leaves; initial values are static."""
    wrong = []
    n = len(cell.nodes)
    refs = [("output", o.name, o.node) for o in cell.outputs] + [("transition", k, v) for k, v in cell.transitions]
    refs += [("range", "", r.node) for r in cell.ranges]
    for kind, name, node in refs:
        if not 0 <= node < n:
            wrong.append(f"{kind} `{name}` has no node")
    for op, table in (("input", cell.inputs), ("param", cell.params), ("state", cell.states)):
        leaves = sorted(x.id for x in cell.nodes if x.op == op)
        listed = sorted(entry.node for entry in table)
        if leaves != listed:
            wrong.append(f"{op} leaves {leaves} are not those listed, {listed}")
        wrong += [
            f"{op} `{entry.name}` is a node named `{cell.nodes[entry.node].name}`"
            for entry in table
            if entry.node < n and cell.nodes[entry.node].name != entry.name
        ]
    for kind, names in (
        ("input, param or state", [e.name for t in (cell.inputs, cell.params, cell.states) for e in t]),
        ("output", [o.name for o in cell.outputs]),
    ):
        wrong += [f"two of {kind} are named `{x}`" for x in sorted({x for x in names if names.count(x) > 1})]
    for p in cell.params:
        inner = [x for x in (p.init.node, p.constrained) if x is not None]
        wrong += [f"param `{p.name}` has a part that varies" for x in inner if x not in static]
    for s in cell.states:
        t = cell.nodes[s.node].type
        if s.init not in static:
            wrong.append(f"the initial value of `{s.name}` varies")
        for what, node in (("initial value", s.init), ("update", s.update)):
            have = cell.nodes[node].type
            if (have.shape, have.per) != (t.shape, t.per) or (have.dtype == "complex" and t.dtype == "real"):
                wrong.append(f"the {what} of `{s.name}` is {have}, not {t}")
    return wrong


def _over_time(cell: CellIR) -> list[str]:
    """Time operations read no state, and their weights and initial values are static; keys are theirs alone."""
    state_free = _without(cell, ("state",))
    static = _without(cell, VARYING)
    wrong, keys = [], []
    for n in cell.nodes:
        category = OPS[n.op].category
        if category in ("time", "model"):
            key = n.attr("key")
            if not isinstance(key, str) or not key:
                wrong.append(f"%{n.id} = {n.op}: has no key")
            elif n.op != "call":
                keys.append(key)
        if category == "time":
            if n.id not in state_free:
                wrong.append(f"%{n.id} = {n.op}: reads a state")
            if any(a not in static for a in n.args[1:]):
                wrong.append(f"%{n.id} = {n.op}: its weights or initial value vary")
    wrong += [f"two nodes have the key `{k}`" for k in sorted({k for k in keys if keys.count(k) > 1})]
    return wrong

"""A whole single step of a cell as one C function: projections, convolutions, norms, gates, states, readouts.

What a layer does for one token is a few hundred numbers in some dozens of operations, and PyTorch spends microseconds
on each of them whatever its size.  Here every node of the step is a loop, or part of the loop of the node that reads
it; only sums, values read more than once or along other axes, and results are kept in memory.  The function serves
inference: a step that needs gradients runs as before.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from fractions import Fraction

from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.backends.cpu.single_pairs import in_pairs
from rnnc.backends.kernels.pointwise import pointwise
from rnnc.backends.torch.context import static_nodes
from rnnc.ir.builder import Builder
from rnnc.ir.dims import ONE, Dim
from rnnc.ir.graph import CellIR, Node, NodeId, ancestors
from rnnc.ir.ops import OPS
from rnnc.ir.rewrite import rebuild
from rnnc.ir.unfold import inline_calls, unfold_time

VIEWS = frozenset({"lift", "merge", "split_per", "expand", "broadcast", "transpose", "slice", "reshape"})
LEAVES = frozenset({"input", "param", "state"})
NUMBERS = frozenset({"const", "dim"})
PLACED = frozenset({"arange", "eye", "one_hot"})  # numbers that follow from where an entry stands
SUMS = frozenset({"sum", "mean", "amax", "amin"})
CHEAP = frozenset({"add", "sub", "mul", "neg"})
COMPLEX_ONLY = frozenset({"conj", "re", "im", "polar", "complex"})  # of leaves and results: see `in_pairs`
MATRICES = frozenset({"layout", "expm", "cayley", "solve"})  # written entry by entry, by functions in C
POINTWISE = frozenset(n for n, op in OPS.items() if op.category == "elementwise") - COMPLEX_ONLY
KNOWN = VIEWS | LEAVES | NUMBERS | PLACED | SUMS | POINTWISE | MATRICES | {"einsum", "concat", "take"}
MOST_NODES = 500  # of one function: what calls many layers has a function for each of them instead
SPREADING = frozenset({"lift", "expand", "broadcast"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """An array that the function reads: a tensor of the module, an input, or an entry of the state dict.

    `buffer`: how many per axes stand behind the first core axis in memory, not before it (past values of `conv`).
    """

    node: NodeId
    static: bool
    buffer: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Single:
    """One step of a cell: `cell` has plain nodes and states only.

    `inputs`, `states` and `params` are the names of what it reads, in the order of `given`; the results are the cell's
    outputs and then the new states.
    """

    name: str
    cell: CellIR
    given: tuple[Given, ...]
    inputs: tuple[str, ...]
    states: tuple[str, ...]
    params: tuple[str, ...]
    static: frozenset[NodeId]
    halves: bool  # whether all arrays may be of half precision: nothing is complex

    @property
    def results(self) -> list[tuple[NodeId, int]]:
        """The node of each result, and `buffer` as in `Given`."""
        buffers = {s.name: g.buffer for s, g in zip(self.cell.states, self.given[len(self.inputs) :])}
        found = [(o.node, 0) for o in self.cell.outputs]
        return found + [(s.update, buffers[s.name]) for s in self.cell.states]

    @property
    def tokens(self) -> dict[int, Dim]:
        """Places of the given arrays that hold tokens, and how many different ones there are."""
        types = [self.cell.nodes[g.node].type for g in self.given]
        return {k: t.vocab for k, t in enumerate(types) if t.dtype == "token" and t.vocab is not None}

    @property
    def complex_places(self) -> tuple[int, ...]:
        """Places of what is given, and then of the results, that hold complex numbers."""
        nodes = [*(g.node for g in self.given), *(i for i, _ in self.results)]
        return tuple(k for k, i in enumerate(nodes) if self.cell.nodes[i].type.dtype == "complex")

    @property
    def ranks(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """How many axes what is given and the results have, without the batch."""
        nodes = self.cell.nodes
        return (
            tuple(len(axes(nodes[g.node])) for g in self.given),
            tuple(len(axes(nodes[i])) for i, _ in self.results),
        )


def axes(node: Node) -> tuple[Dim, ...]:
    """All axes of a value behind the batch."""
    return (*node.type.per, *node.type.shape)


def find_single(name: str, cell: CellIR) -> Single | None:
    """The step of a cell, with all that it calls, as one function.

    None where it has no state, is very long, gives truth values, or has an operation that the function cannot do.
    """
    if any(n.op == "attention" for n in cell.nodes):
        return None
    if any(n.op in ("call", "repeat") for n in cell.nodes):
        flat = inline_calls(cell)
        if len(flat.nodes) > MOST_NODES:
            return None
        cell = pointwise(analyse_recurrence(flat)).cell
    whole, buffers = unfold_time(cell)
    paired = in_pairs(whole)
    if paired is None:
        return None
    halves = paired is whole
    whole = plain(paired)
    live = ancestors(whole, [*(o.node for o in whole.outputs), *(s.update for s in whole.states)])
    ends = {i for i in live if whole.nodes[i].op == "complex"}
    parts = {i for i in live if whole.nodes[i].op in ("re", "im")}  # of leaves
    if not whole.states or not all(_serves(whole, whole.nodes[i]) for i in live - ends - parts):
        return None
    if any(whole.nodes[o.node].type.dtype == "bool" for o in whole.outputs):
        return None  # results are numbers
    gaps = {s.node for s in whole.states if _behind(whole, s.node, s.name in buffers)}
    if any(_needs_memory(whole, whole.nodes[i]) and whole.nodes[i].args[0] in gaps for i in live):
        return None
    inputs = [i for i in whole.inputs if i.node in live]
    params = [p for p in whole.params if p.node in live]
    if not inputs:
        return None  # nothing says how many sequences there are
    given = [Given(node=i.node, static=False) for i in inputs]
    given += [Given(node=s.node, static=False, buffer=_behind(whole, s.node, s.name in buffers)) for s in whole.states]
    given += [Given(node=p.node, static=True) for p in params]
    return Single(
        name=name,
        cell=whole,
        given=tuple(given),
        inputs=tuple(i.name for i in inputs),
        states=tuple(s.name for s in whole.states),
        params=tuple(p.name for p in params),
        static=static_nodes(whole),
        halves=halves,
    )


def _behind(cell: CellIR, node: NodeId, is_buffer: bool) -> int:
    return len(cell.nodes[node].type.per) if is_buffer else 0


def _serves(cell: CellIR, node: Node) -> bool:
    if node.op not in KNOWN:
        return False
    match node.type.dtype:
        case "token":
            return node.op == "input" and not axes(node)
        case "bool":
            return node.op not in LEAVES
        case "complex":
            return node.op in LEAVES  # and the ends, which are not asked for
    if node.op == "layout":
        return node.attr("kind") in ("diag", "blockdiag", "circulant", "companion")
    if node.op == "take":
        table, token = (cell.nodes[a] for a in node.args)
        return table.op == "param" and token.op == "input"
    if node.op == "one_hot":
        return cell.nodes[node.args[0]].op == "input"
    return True


def plain(cell: CellIR) -> CellIR:
    """Norms, rotations and the Cayley map as what they are made of.

    before: y = l2norm(x, eps)      -->  after: y = x / sqrt(sum(x * x) + eps)
    """

    def along(b: Builder, op: str, x: NodeId) -> NodeId:
        return b.add("expand", b.add(op, x, axes=(-1,)), axes=(-1,))

    def scaled(b: Builder, x: NodeId, op: str, eps: Fraction) -> NodeId:
        square = along(b, op, b.map("mul", x, x))
        return b.map("div", x, b.map("sqrt", b.map("add", square, b.const(eps))))

    def rotation(b: Builder, angle: NodeId) -> NodeId:
        cos, sin = (b.add("expand", b.map(op, angle), axes=(-2, -1)) for op in ("cos", "sin"))
        rows = [b.add("concat", *pair, axis=-1) for pair in ((cos, b.map("neg", sin)), (sin, cos))]
        return b.add("concat", *rows, axis=-2)

    def rule(b: Builder, node: Node, args: tuple[NodeId, ...]) -> NodeId | None:
        if node.type.dtype != "real":
            return None
        match node.op:
            case "softmax":
                power = b.map("exp", b.map("sub", args[0], along(b, "amax", args[0])))
                return b.map("div", power, along(b, "sum", power))
            case "l2norm" | "rmsnorm":
                kind = "sum" if node.op == "l2norm" else "mean"
                return scaled(b, args[0], kind, Fraction(str(node.attr("eps"))))
            case "layernorm":
                centred = b.map("sub", args[0], along(b, "mean", args[0]))
                return scaled(b, centred, "mean", Fraction(str(node.attr("eps"))))
            case "rotation_blocks":
                return rotation(b, args[0])
            case "cayley":
                one = b.add("eye", n=node.type.shape[0])
                return b.add("solve", b.map("add", one, args[0]), b.map("sub", one, args[0]))
        return None

    return rebuild(cell, rule)[0]


# ---------------------------------------------------------------- what is kept in memory


def outer_product(node: Node) -> bool:
    """Whether an einsum sums over nothing."""
    if node.op != "einsum":
        return False
    inputs, output = str(node.attr("spec")).split("->")
    return not set(inputs) - set(output) - {","}


def only_units(arg: Node, node: Node) -> bool:
    """Whether a reshape only adds or drops axes of size 1."""
    return [d for d in axes(arg) if d != ONE] == [d for d in axes(node) if d != ONE]


def kept(
    cell: CellIR, results: Sequence[NodeId], given: Sequence[NodeId], static: Set[NodeId] = frozenset()
) -> frozenset[NodeId]:
    """The nodes with memory of their own, besides those `given`; all others are computed where they are read.

    Of those in `static`, which are worked out once, what is read at every step has memory unless it costs nothing.
    """
    live = ancestors(cell, results)
    users: dict[NodeId, int] = dict.fromkeys(live, 0)
    spread: set[NodeId] = set()
    for i in live:
        node = cell.nodes[i]
        for place, a in enumerate(node.args):
            users[a] += 1
            root, wider = _through_views(cell, a)
            if node.op not in VIEWS and (wider or _is_wider(cell, node, place)):
                spread.add(root)
    found = {i for i in live if cell.nodes[i].op in SUMS | MATRICES | {"concat"}}
    found |= {cell.nodes[i].args[0] for i in live if _needs_memory(cell, cell.nodes[i])} - {*given}
    found |= {a for i in live if cell.nodes[i].op in ("solve", "expm") for a in cell.nodes[i].args}
    found |= {i for i in live if cell.nodes[i].op == "einsum" and not outer_product(cell.nodes[i])}
    computed = {i for i in live if cell.nodes[i].op in POINTWISE | {"take"} or outer_product(cell.nodes[i])}
    for i in computed:
        node = cell.nodes[i]
        if node.type.dtype == "bool" or all(cell.nodes[a].op in NUMBERS for a in node.args):
            continue
        many = node.op != "take" and _read_often(cell, i, users)
        if i in spread or (many and not _is_cheap(cell, node, found | computed)):
            found.add(i)
    ends = {_through_views(cell, a)[0] for i in live if i not in static for a in cell.nodes[i].args}
    return frozenset(found | {i for i in ends & static & computed if not _all_cheap(cell, i, computed)})


def _all_cheap(cell: CellIR, i: NodeId, computed: set[NodeId]) -> bool:
    """Whether a value is sums and products of what is in memory."""
    node, i = cell.nodes[i], _through_views(cell, i)[0]
    if i != node.id:
        return _all_cheap(cell, i, computed)
    return i not in computed or (node.op in CHEAP and all(_all_cheap(cell, a, computed) for a in node.args))


def lasting(single: Single, memory: Set[NodeId]) -> frozenset[NodeId]:
    """Of what has memory and is made of parameters alone, what is kept from step to step, as long as these are the
    same: not sums and products entry by entry, which cost less than to compare what they are made of.
    """
    cell = single.cell

    def cheap(i: NodeId) -> bool:
        node = cell.nodes[i]
        roots = [_through_views(cell, a)[0] for a in node.args]
        return node.op in CHEAP | {"concat"} and all(r in memory or not cell.nodes[r].args or cheap(r) for r in roots)

    found = {i for i in memory & single.static if cell.nodes[i].op not in LEAVES and not cheap(i)}
    return frozenset(ancestors(cell, sorted(found)) & memory & single.static)


def _needs_memory(cell: CellIR, node: Node) -> bool:
    """Whether a node is a reshape that reads its argument's memory as it lies there."""
    return node.op == "reshape" and not only_units(cell.nodes[node.args[0]], node)


def _read_often(cell: CellIR, i: NodeId, users: dict[NodeId, int]) -> bool:
    if users[i] != 1:
        return users[i] > 1
    return any(users.get(n.id, 0) > 1 and n.op in VIEWS and _through_views(cell, n.id)[0] == i for n in cell.nodes)


def _is_cheap(cell: CellIR, node: Node, computed: set[NodeId]) -> bool:
    """Whether to compute a value again costs no more than to read it: one operation on what is in memory."""
    roots = [_through_views(cell, a)[0] for a in node.args]
    return node.op in CHEAP and not any(r in computed and cell.nodes[r].op in POINTWISE for r in roots)


def _through_views(cell: CellIR, i: NodeId) -> tuple[NodeId, bool]:
    """What a view shows, and whether it shows entries more than once."""
    wider = False
    while cell.nodes[i].op in VIEWS:
        wider = wider or cell.nodes[i].op in SPREADING
        i = cell.nodes[i].args[0]
    return i, wider


def _is_wider(cell: CellIR, node: Node, place: int) -> bool:
    """Whether a node reads the entries of an argument more than once."""
    arg = cell.nodes[node.args[place]]
    if node.op == "einsum":
        inputs, output = str(node.attr("spec")).split("->")
        return bool(set(inputs + output) - {","} - set(inputs.split(",")[place]))
    return node.op in POINTWISE and axes(arg) != axes(node) and arg.op not in NUMBERS

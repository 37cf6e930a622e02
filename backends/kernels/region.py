"""Kernel regions: what one native kernel computes of a cell.

A region holds a group of states, their updates, and the work around them that needs nothing but single entries of
them: gates from pre-activations before, readouts after.  A kernel then reads pre-activations and writes outputs, and
the gates and (where only a readout is used) the states are never stored for all steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rnnc.analysis.forms import Group
from rnnc.backends.kernels.axes import POINTWISE, REDUCTIONS, VIEWS, Axes, Label, Unlabelled, axes_of, is_number
from rnnc.backends.torch.context import static_nodes
from rnnc.backends.torch.needs import state_dependence
from rnnc.ir.builder import Builder
from rnnc.ir.dims import ONE
from rnnc.ir.graph import CellIR, Input, Node, NodeId, Output, State, ancestors
from rnnc.ir.rewrite import copy_node


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """What one kernel computes for one group.

    `inputs` are nodes of the cell computed outside: sequences, or static values (those in `static`).  `outputs` are
    nodes of the cell whose values at all steps are wanted outside, a state's old value among them where something
    reads it.  `step` is the body as a cell of its own: an op "input" for each input (named x0, x1, ...), the states,
    and the outputs (named y0, y1, ...); `at` maps nodes of the cell to nodes of `step`.  `blocks` are pairs of nodes of
    `step` whose axes but the last are the same, `alike` pairs with the same axes, where the step alone does not tell.
    """

    states: tuple[str, ...]
    inputs: tuple[NodeId, ...]
    static: frozenset[NodeId]
    outputs: tuple[NodeId, ...]
    step: CellIR
    at: Mapping[NodeId, NodeId]
    blocks: tuple[tuple[NodeId, NodeId], ...] = ()
    alike: tuple[tuple[NodeId, NodeId], ...] = ()

    @property
    def stored(self) -> tuple[int | None, ...]:
        """For each state, the output that holds it after every step, if one does."""
        place = {o.node: k for k, o in enumerate(self.step.outputs)}
        return tuple(place.get(s.update) for s in self.step.states)


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A learned matrix times a vector that depends on the states: what a region may be cut at.

    `weight` is a static node of the cell, [out, in] or (`turned`) [in, out].  For the region the product is an input
    (its place among them), and the vector is a state or one of the last outputs (its place).  `start` is a sequence
    whose sum with the product is that input, where nothing in the region reads the two apart.
    """

    node: NodeId
    weight: NodeId
    turned: bool
    input: int
    state: int | None
    output: int | None
    start: NodeId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Coupled:
    """A group whose entries meet in products with learned matrices only: `region` is what lies between them.

    The last `len(region.outputs) - wanted` outputs are vectors of products.
    """

    region: Region
    products: tuple[Product, ...]
    wanted: int


def find_region(cell: CellIR, group: Group, later: Iterable[str] = (), read: Iterable[NodeId] = ()) -> Region | None:
    """The region of a group, or None where its update is not pointwise or does not read the old state.

    `later` are the states of groups that run after this one: nothing that depends on them is taken in.  `read` are
    nodes that something needs besides outputs and updates: coefficients of groups that run in a normal form.
    """
    finder = start(cell, group, later, read)
    return finder.region() if finder is not None and finder.find() else None


def find_coupled(
    cell: CellIR,
    group: Group,
    later: Iterable[str] = (),
    read: Iterable[NodeId] = (),
    *,
    sums: bool = False,
    sizes: bool = False,
) -> Coupled | None:
    """The region of a group between its products with learned matrices, or None where it is not pointwise there.

    With `sums` a product that is only read in a sum with a sequence stands for that sum (`Product.start`).  With
    `sizes` a product may lead from vectors of one length to those of another, which no state need have, and one that is
    a state's new value may be an output.
    """
    finder = start(cell, group, later, read)
    if finder is None:
        return None
    finder.cuts = {i: cut for i in finder.users if (cut := finder.as_product(i)) is not None}
    finder.lengths = sizes
    if not finder.cuts or not finder.find():
        return None
    if sums:
        finder.join_sums()
    return finder.coupled(sizes)


def start(cell: CellIR, group: Group, later: Iterable[str], read: Iterable[NodeId] = ()) -> Finder | None:
    """The search for a group's region; None where its states are set anew at each step (nothing to run) or are truth
    values, which no kernel holds.
    """
    states = tuple(cell.state(n) for n in group.states)
    if any(cell.nodes[s.node].type.dtype == "bool" for s in states):
        return None
    depends = state_dependence(cell)
    if not all(depends[s.update] & set(group.states) for s in states):
        return None
    others = [s.update for s in cell.states if s.name not in group.states]
    ends = [*(o.node for o in cell.outputs), *others, *read]
    live = ancestors(cell, [*ends, *(s.update for s in states)])
    users: dict[NodeId, set[NodeId]] = {i: set() for i in live}
    for i in live:
        for a in cell.nodes[i].args:
            users[a].add(i)
    return Finder(
        cell=cell,
        states=states,
        static=static_nodes(cell),
        users=users,
        ends=frozenset(ends),
        depends=depends,
        late=frozenset(later),
    )


@dataclass(slots=True, kw_only=True)
class Finder:
    """The search for one group's region."""

    cell: CellIR
    states: tuple[State, ...]
    static: frozenset[NodeId]
    users: Mapping[NodeId, set[NodeId]]  # among the nodes that something needs
    ends: frozenset[NodeId]  # outputs of the cell and updates of other states
    depends: Sequence[frozenset[str]]
    late: frozenset[str]
    axes: Axes = field(default_factory=Axes)
    body: set[NodeId] = field(default_factory=set)
    inputs: set[NodeId] = field(default_factory=set)
    cuts: dict[NodeId, _Cut] = field(default_factory=dict)  # nodes that count as inputs
    turned: dict[NodeId, NodeId] = field(default_factory=dict)  # leaves that are a state under labels of their own
    summed: set[NodeId] = field(default_factory=set)  # cuts that are sums of a product and a sequence
    lengths: bool = False  # whether products may give vectors as long as no state

    def node(self, i: NodeId) -> Node:
        return self.cell.nodes[i]

    @property
    def own(self) -> frozenset[str]:
        return frozenset(s.name for s in self.states)

    @property
    def atoms(self) -> frozenset[NodeId]:
        return frozenset(s.node for s in self.states)

    @property
    def space(self) -> frozenset[Label]:
        """The labels of the states, in all readings."""
        return frozenset[Label]().union(*(self.axes.carried(i) for i in (*self.atoms, *self.turned)))

    def parallel(self) -> frozenset[Label]:
        """Labels that every state carries, under which it is always read, and over which nothing is summed."""
        common = frozenset.intersection(*(self.axes.carried(s.node) for s in self.states))
        gone: set[Label] = set()
        for leaf, atom in self.turned.items():
            pairs = zip(self.axes.labels(leaf), self.axes.labels(atom), strict=True)
            gone |= {b for a, b in pairs if a != b and b is not None}
        for i in self.body:
            if self.node(i).op in (*REDUCTIONS, "einsum"):
                read = frozenset[Label]().union(*(self.axes.carried(a) for a in self.node(i).args))
                gone |= read - self.axes.carried(i)
        return common - gone

    def find(self) -> bool:
        """Fill `body` and `inputs`; False where an update is not pointwise."""
        if not self.label():
            return False
        self._down()
        self._up()
        self.trim()
        return True

    def label(self) -> bool:
        """Take the cone of the updates in; False where they are not pointwise."""
        for i in (*(s.node for s in self.states), *self.turned):
            self.axes.leaf(self.node(i))
        return self._take(sorted(self.cone()), joined=self.states) and self._joined() and self._covered()

    def _joined(self) -> bool:
        """Join the blocks of a product with those of its vector, which nothing else may join where lengths differ."""
        if not self.lengths:
            return True
        axes = self.axes.copy()
        for i in self.inputs & self.cuts.keys():
            if self.cuts[i].vector not in axes.of:
                return False
            axes.join_blocks(self.cuts[i].vector, i)
        if not axes.distinct():
            return False
        self.axes = axes
        return True

    def _covered(self) -> bool:
        """Whether the updates go through values with the states' axes only (and those of cuts, where these may have
        others): no products of matrices.
        """
        given = self.inputs & self.cuts.keys() if self.lengths else ()
        space = self.space.union(*(self.axes.carried(i) for i in given))
        return all(self.axes.carried(i) <= space for i in (*self.body, *self.inputs))

    def cone(self) -> set[NodeId]:
        """The nodes between the old states and the updates."""
        found: set[NodeId] = set()
        work = [s.update for s in self.states]
        while work:
            i = work.pop()
            if i in self.cuts:
                work.append(self.cuts[i].vector)
            elif i not in found and i not in self.atoms | self.turned.keys() and self.depends[i] & self.own:
                found.add(i)
                work += self.node(i).args
        return found

    def as_product(self, i: NodeId) -> _Cut | None:
        """A node as a learned matrix times a vector that depends on the states."""
        node = self.node(i)
        if node.op != "einsum" or not self.depends[i] & self.own or node.type.rank != 1:
            return None
        places = [k for k, a in enumerate(node.args) if a in self.static]
        if len(places) != 1 or self.node(node.args[places[0]]).type.rank != 2:
            return None
        inputs, out = str(node.attr("spec")).split("->")
        matrix, vector = inputs.split(",")[places[0]], inputs.split(",")[1 - places[0]]
        if len(vector) != 1 or sorted(matrix) != sorted(vector + out):
            return None
        weight, operand = node.args[places[0]], node.args[1 - places[0]]
        return _Cut(weight=weight, vector=operand, turned=matrix == vector + out, product=i)

    def _take(
        self, nodes: Sequence[NodeId], *, joined: Iterable[State] = (), within: frozenset[Label] | None = None
    ) -> bool:
        """Put nodes (ascending) into the body if their axes can be labelled, by labels of `within`.

        Arguments outside the body become inputs.  Nothing changes where it returns False.
        """
        axes, inputs = self.axes.copy(), self.inputs - set(nodes)
        try:
            for i in nodes:
                node = self.node(i)
                for a in node.args:
                    if self.node(a).type.dtype == "token":
                        raise Unlabelled("a token")
                    if a not in axes.of:
                        axes.leaf(self.node(a))
                        inputs |= set() if is_number(self.node(a)) else {a}
                inputs |= {a for a in node.args if a in self.turned}
                axes.extend(self.cell, node, again=i in axes.of)
            for s in joined:
                if s.update not in axes.of:  # a product as it is, or another state
                    axes.leaf(self.node(s.update))
                    inputs |= {s.update} & self.cuts.keys()
                axes.join_nodes(s.node, s.update)
        except Unlabelled:
            return False
        fits = within is None or frozenset[Label]().union(*(axes.carried(i) for i in (*nodes, *inputs))) <= {
            axes.find(x) for x in within
        }
        if not fits or not axes.distinct():
            return False
        self.axes, self.inputs, self.body = axes, inputs, self.body | set(nodes)
        return True

    def _down(self) -> None:
        """Values read from the states: whatever stays pointwise and has no axes that the states have not.

        An outer product of a readout stays outside: the kernel of the group that reads it takes it up (`_up`).
        """
        for i in sorted(self.users):
            known = self.body | self.atoms | self.cuts.keys() | self.turned.keys()
            if i in known or not self.depends[i] & self.own or self.depends[i] & self.late:
                continue
            node = self.node(i)
            if node.op not in POINTWISE or any(self.depends[a] & self.own and a not in known for a in node.args):
                continue
            if node.op not in VIEWS and self._wider(node):
                continue
            before, shared = (self.axes, self.inputs, self.body), bool(self.parallel()) or not self.turned
            if self._take([i], within=self.space) and self.space and shared and not self.parallel():
                self.axes, self.inputs, self.body = before  # no axis would be left to share out

    def _up(self) -> None:
        """Values computed for the kernel alone: gates from their pre-activations, outer products from their factors."""
        changed = True
        while changed:
            changed = False
            for i in sorted(self.inputs, reverse=True):
                changed = (self._worth(i) and self._take([i], within=self.space)) or changed

    def _worth(self, i: NodeId) -> bool:
        """Whether an input is better computed inside: entry by entry, for the kernel alone, once for each entry."""
        node = self.node(i)
        if i in self.static or i in self.ends or self.users[i] - self.body or node.op not in POINTWISE:
            return False
        if i in self.turned:
            return False
        if node.op in REDUCTIONS or contracts(node):
            return False
        if self.depends[i] and not self._wider(node):  # another group's kernel may give it
            return False
        if node.op == "add" and any(a in self.static for a in node.args):  # a bias, which the matrix product adds
            return not any(self.node(a).op == "einsum" for a in node.args)
        return self.parallel() <= self.axes.carried(i)

    def _wider(self, node: Node) -> bool:
        """Whether a value has more axes than what it is made of and a group gives: a gate times an outer product, which
        as a sequence of matrices would be far more to write and to read than its factors.
        """

        def real(i: NodeId) -> int:
            return sum(d != ONE for d in axes_of(self.node(i).type))

        return all(real(a) < real(node.id) for a in node.args if self.depends[a])

    def trim(self) -> None:
        """Leave out what is only another view of a value: it costs nothing outside, and may cost more to write.  So
        are truth values that nothing inside reads.
        """
        updates = {s.update for s in self.states}
        for i in sorted(self.body, reverse=True):
            light = self.node(i).op in VIEWS or self.node(i).type.dtype == "bool"
            if light and i not in updates and not self.users[i] & self.body:
                self.body.discard(i)
        self.inputs &= {a for i in self.body for a in self.node(i).args} | updates

    # ------------------------------------------------------------ the result

    def region(self, also: Iterable[NodeId] = (), products: bool = False) -> Region:
        """The region, with the values `also` as its last outputs.

        With `products` a state that is set to a product as it is has it as an output, where something reads it.
        """
        made = {s.update for s in self.states} & self.cuts.keys() if products else set[NodeId]()
        inside = self.body | self.atoms | made
        inner = self.body | self.summed | made
        mine = inner | {i for i in self.cuts if not (self.users[i] - inner or i in self.ends)}
        read = {i for i in inside if i in self.users and (self.users[i] - mine or i in self.ends)}
        outputs = (*sorted(self._numbers(read, inside)), *also)
        inputs = tuple(sorted(self.inputs))
        b, at = Builder(), dict[NodeId, NodeId]()
        for k, i in enumerate(inputs):
            at[i] = b.leaf("input", f"x{k}", self.node(i).type)
        for s in self.states:
            at[s.node] = b.leaf("state", s.name, self.node(s.node).type)
        for i in sorted(self.body):
            for a in self.node(i).args:
                if a not in at:
                    at[a] = copy_node(b, self.node(a), ())  # a number
            at[i] = copy_node(b, self.node(i), tuple(at[a] for a in self.node(i).args))
        states = tuple(
            State(name=s.name, node=at[s.node], init=b.const(0), update=at[s.update], span=s.span) for s in self.states
        )
        step = CellIR(
            name="_".join(s.name for s in self.states),
            dims=self.cell.dims,
            nodes=tuple(b.nodes),
            inputs=tuple(Input(name=f"x{k}", node=at[i]) for k, i in enumerate(inputs)),
            states=states,
            outputs=tuple(Output(name=f"y{k}", node=at[i]) for k, i in enumerate(outputs)),
        )
        return Region(
            states=tuple(s.name for s in self.states),
            inputs=inputs,
            static=frozenset(i for i in inputs if i in self.static),
            outputs=outputs,
            step=step,
            at=at,
        )

    def _numbers(self, read: set[NodeId], inside: set[NodeId]) -> set[NodeId]:
        """What a kernel gives of values that are read outside: a truth value is compared again there, since kernels
        write numbers.

        before: y = h if w else x, w = h' > h inside      -->  after: h and h' are outputs
        """
        found = set[NodeId]()
        for i in sorted(inside, reverse=True):  # what a value is made of comes before it
            if i not in read:
                continue
            if self.node(i).type.dtype == "bool":
                read = read | {a for a in self.node(i).args if a in inside}
            else:
                found.add(i)
        return found

    def join_sums(self) -> None:
        """Make cuts of sums: before: x + W h, both read      -->  after: one input, which is their sum."""
        for i in sorted(self.inputs & self.cuts.keys()):
            readers = self.users[i]
            if len(readers) != 1 or i in self.ends or any(s.update == i for s in self.states):
                continue
            add = next(iter(readers))
            if not self._inner_sum(add):
                continue
            other = next((a for a in self.node(add).args if a != i), i)
            if self._only_for(other, add) and None not in self.axes.labels(i):
                self.cuts[add] = replace(self.cuts[i], start=other)
                self.summed.add(add)
                self.body.discard(add)
                self.inputs = self.inputs - {i, other} | {add}

    def _inner_sum(self, i: NodeId) -> bool:
        """Whether a node is a sum that nothing reads but the body."""
        updates = {s.update for s in self.states}
        inside = i in self.body and i not in self.ends and i not in updates and not self.users[i] - self.body
        return inside and self.node(i).op == "add" and self.node(i).type.dtype == "real"

    def _only_for(self, i: NodeId, reader: NodeId) -> bool:
        """Whether an input is a sequence that of the body only `reader` reads, indexed as that is."""
        fits = i in self.inputs and i not in self.cuts and i not in self.static and self.node(i).type.dtype == "real"
        return fits and self.users[i] & self.body == {reader} and self.axes.labels(i) == self.axes.labels(reader)

    def coupled(self, sizes: bool = False) -> Coupled | None:
        """The region between products; None where one leads to other entries than it comes from."""
        read = [i for i in sorted(self.inputs) if i in self.cuts]
        vectors = {self.cuts[i].vector for i in read}
        for i in read:
            vector = self.cuts[i].vector
            real = all(self.node(x).type.dtype == "real" for x in (vector, self.cuts[i].weight))
            if not (real and vector in self.body | self.atoms):
                return None
            own, other = self.axes.labels(vector), self.axes.labels(i)
            if own[:-1] != other[:-1] if sizes else own != other:
                return None
        computed = sorted(vectors - self.atoms)
        region = self.region(also=computed, products=sizes)
        wanted = len(region.outputs) - len(computed)
        place = {s.node: k for k, s in enumerate(self.states)}
        products = tuple(
            Product(
                node=self.cuts[i].product,
                start=self.cuts[i].start,
                weight=self.cuts[i].weight,
                turned=self.cuts[i].turned,
                input=region.inputs.index(i),
                state=place.get(self.cuts[i].vector),
                output=None if self.cuts[i].vector in place else wanted + computed.index(self.cuts[i].vector),
            )
            for i in read
        )
        blocks = tuple((region.at[self.cuts[i].vector], region.at[i]) for i in read) if sizes else ()
        return Coupled(region=replace(region, blocks=blocks), products=products, wanted=wanted) if products else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cut:
    weight: NodeId
    vector: NodeId
    turned: bool
    product: NodeId  # the cut itself or, where that is a sum, the product in it ...
    start: NodeId | None = None  # ... and the other part


def contracts(node: Node) -> bool:
    """Whether an einsum sums over something."""
    if node.op != "einsum":
        return False
    inputs, output = str(node.attr("spec")).split("->")
    return bool(set(inputs) - set(output) - {","})

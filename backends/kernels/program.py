"""One step of a region as scalar operations over labelled axes: what a native code generator reads.

A `Program` is a list of real values in topological order.  Each has labels: the axes along which it differs.  Loads
and results say which array they mean and which label indexes each of its axes.  Complex values are pairs of real ones,
contractions are products and sums, views are gone.  Two programs make a kernel: `forward` (old state and inputs to new
state and outputs) and `backward` (old state, inputs, gradients of new state and outputs to those of old state and
inputs; what the derivative needs of the step itself is computed again).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Literal, TypeAlias

from rnnc.backends.kernels.axes import OF_PAIRS, REDUCTIONS, VIEWS, Axes, Axis, Label
from rnnc.backends.kernels.region import Region
from rnnc.ir import autodiff
from rnnc.ir.dims import ONE, Dim
from rnnc.ir.graph import CellIR, Node, NodeId
from rnnc.ir.simplify import foldable

ValueId: TypeAlias = int
Source = Literal["input", "state", "d_output", "d_state"]
Target = Literal["output", "state", "d_input", "d_state"]
DType = Literal["real", "complex", "bool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """An entry of an array: an input or output of the region or one of its states by its place `index`, or a gradient.

    `part`: 0 the real number or the real part, 1 the imaginary part.  `axes`: the label of each axis behind batch and
    time, None where its size is 1.
    """

    source: Source
    index: int
    part: int
    axes: tuple[Axis, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One real number for each index of its `labels` (ascending).

    `op` is an elementwise row of the op table on reals, or

    load    `load` says what is read (a bool is read as 0 or 1 and is then compared)
    const   `number`: an exact number, "pi" or "e"
    dim     `size`: a size as a real number
    sum, amax, amin   over the labels `over`, which the argument carries
    """

    id: ValueId
    op: str
    args: tuple[ValueId, ...] = ()
    labels: tuple[Label, ...] = ()
    boolean: bool = False
    load: Load | None = None
    number: Fraction | str | None = None
    size: Dim | None = None
    over: tuple[Label, ...] = ()
    node: NodeId | None = field(default=None, compare=False)  # the named node of the step that this is (a part of)
    title: str = field(default="", compare=False)  # its name, with _re or _im for the parts of a complex one


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """`value` goes into an array, broadcast along the labels of `axes` that it has not.

    A "d_input" of a static input adds up over batch and time.  `over` are labels summed over on the way out, which
    the value carries and the array has not: a kernel that shares them out among blocks writes one part a block.
    """

    target: Target
    index: int
    part: int
    axes: tuple[Axis, ...]
    value: ValueId
    over: tuple[Label, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """An input, output or state of the region: its dtype and the labels of its axes behind batch and time."""

    dtype: DType
    axes: tuple[Axis, ...]
    static: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """`sizes[label]` is the size of a label.  `parallel` are the labels that all states carry and over which no value
    inside is summed (a result may be): entries with different indices there never meet.
    """

    values: tuple[Value, ...]
    results: tuple[Result, ...]
    sizes: tuple[Dim, ...]
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    states: tuple[Array, ...]

    @property
    def parallel(self) -> frozenset[Label]:
        common = set(range(len(self.sizes)))
        for s in self.states:
            common &= set(s.axes)
        return frozenset(common).difference(*(v.over for v in self.values))

    def pruned(self, keep: Sequence[Result]) -> Program:
        """With these results only, and without the values that none of them needs."""
        needed: set[ValueId] = {r.value for r in keep}
        for v in reversed(self.values):
            if v.id in needed:
                needed |= set(v.args)
        at: dict[ValueId, ValueId] = {}
        values: list[Value] = []
        for v in self.values:
            if v.id in needed:
                at[v.id] = len(values)
                values.append(replace(v, id=len(values), args=tuple(at[a] for a in v.args)))
        return replace(self, values=tuple(values), results=tuple(replace(r, value=at[r.value]) for r in keep))


# ---------------------------------------------------------------- from a region


def forward(region: Region) -> Program:
    """Old states and inputs to new states and outputs."""
    lowering = _Lowering.of(region, region.step, {}, {})
    return lowering.program([], states=True)


def backward(region: Region) -> Program:
    """Old states, inputs and gradients of new states and outputs to gradients of old states and inputs."""
    step = region.step
    wanted = [i.node for i in step.inputs if step.nodes[i.node].type.dtype in ("real", "complex")]
    updates = [s.update for s in step.states]
    roots = [*updates, *(o.node for o in step.outputs)]
    rule = autodiff.backward(step, roots, [*wanted, *(s.node for s in step.states)])
    # An output that is a state's new value has one node with it, hence one seed: the two gradients add up there.
    lowering = _Lowering.of(region, rule.cell, rule.seeds, rule.grads)
    return lowering.program(
        [(root, seed) for root, seed in rule.seeds.items()],
        states=False,
    )


LEAVES = frozenset({"load", "const", "dim"})

Pair: TypeAlias = "tuple[ValueId, ValueId | None]"  # real and imaginary part


@dataclass(slots=True, kw_only=True)
class Folding:
    """Values in the making: equal ones are shared, and what zeros and ones make trivial is left out."""

    values: list[Value] = field(default_factory=list)
    shared: dict[Any, ValueId] = field(default_factory=dict)

    def value(self, op: str, *args: ValueId, labels: tuple[Label, ...], **facts: Any) -> ValueId:
        key = (op, args, labels, tuple(sorted(facts.items(), key=lambda kv: kv[0])))
        if key not in self.shared:
            self.shared[key] = len(self.values)
            self.values.append(Value(id=len(self.values), op=op, args=args, labels=labels, **facts))
        return self.shared[key]

    def const(self, number: Fraction | int | str) -> ValueId:
        return self.value("const", labels=(), number=Fraction(number) if isinstance(number, int) else number)

    def number(self, v: ValueId) -> Fraction | None:
        found = self.values[v].number
        return found if isinstance(found, Fraction) else None

    def op(self, name: str, *args: ValueId) -> ValueId:
        """An elementwise operation on reals; what zeros and ones make trivial is left out."""
        short = self._trivial(name, args)
        if short is not None:
            return short
        labels = sorted({x for a in args for x in self.values[a].labels})
        boolean = name in ("lt", "le", "eq", "ne", "and", "or", "not")
        return self.value(name, *args, labels=tuple(labels), boolean=boolean)

    def _trivial(self, name: str, args: tuple[ValueId, ...]) -> ValueId | None:
        numbers = [self.number(a) for a in args]
        match name, numbers:
            case ("add" | "sub", [a, 0]):
                return args[0]
            case "add", [0, _]:
                return args[1]
            case "sub", [0, _]:
                return self.op("neg", args[1])
            case "mul", [0, _] | [_, 0]:
                return self.const(0)
            case "mul" | "div", [_, 1]:
                return args[0]
            case "mul", [1, _]:
                return args[1]
            case "mul", [-1, _]:
                return self.op("neg", args[1])
            case "mul", [_, -1]:
                return self.op("neg", args[0])
            case "neg", [Fraction() as a]:
                return self.const(-a)
            case "neg", [None] if self.values[args[0]].op == "neg":
                return self.values[args[0]].args[0]
            case "add", [None, None] if self.values[args[1]].op == "neg":
                return self.op("sub", args[0], self.values[args[1]].args[0])
            case "sub", [None, None] if self.values[args[1]].op == "neg":
                return self.op("add", args[0], self.values[args[1]].args[0])
            case (("add" | "sub" | "mul"), [Fraction() as a, Fraction() as b]) if foldable(a, b):
                return self.const(a + b if name == "add" else a - b if name == "sub" else a * b)
            case "select", _ if args[1] == args[2]:
                return args[1]
        return None


@dataclass(slots=True, kw_only=True)
class _Lowering(Folding):
    """Values of one program, built node by node."""

    region: Region
    cell: CellIR  # the step, perhaps with its derivative appended
    seeds: Mapping[NodeId, NodeId]
    grads: Mapping[NodeId, NodeId]
    axes: Axes
    names: dict[Label, Label]  # labels as the union-find has them, to those of the program
    known: dict[NodeId, Pair] = field(default_factory=dict)

    @staticmethod
    def of(region: Region, cell: CellIR, seeds: Mapping[NodeId, NodeId], grads: Mapping[NodeId, NodeId]) -> _Lowering:
        axes = Axes()
        for node in cell.nodes:
            axes.leaf(node) if not node.args else axes.extend(cell, node)
        for s in cell.states:
            axes.join_nodes(s.node, s.update)
        for vector, product in region.blocks:
            axes.join_blocks(vector, product)
        for one, other in region.alike:
            axes.join_nodes(one, other)
        for root, seed in seeds.items():
            axes.join_nodes(root, seed)
        for node_id, grad in grads.items():
            short = len(axes.of[grad])
            for a, b in zip(axes.of[node_id][len(axes.of[node_id]) - short :], axes.of[grad], strict=True):
                if a is not None and b is not None:
                    axes.join(a, b)
        names: dict[Label, Label] = {}
        order = [s.node for s in cell.states] + [n.id for n in cell.nodes]
        for i in order:
            for a in axes.labels(i):
                if a is not None:
                    names.setdefault(a, len(names))
        assert axes.distinct(), "the derivative of a pointwise step is pointwise"
        return _Lowering(region=region, cell=cell, seeds=seeds, grads=grads, axes=axes, names=names)

    def labels(self, node: NodeId) -> tuple[Axis, ...]:
        return tuple(None if a is None else self.names[a] for a in self.axes.labels(node))

    def array(self, node: NodeId, static: bool = False) -> Array:
        dtype = self.cell.nodes[node].type.dtype
        assert dtype != "token", "regions take no tokens"
        return Array(dtype=dtype, axes=self.labels(node), static=static)

    def program(self, seeds: list[tuple[NodeId, NodeId]], *, states: bool) -> Program:
        step = self.region.step
        self._leaves(seeds)
        for node in self.cell.nodes:
            if node.id not in self.known:
                self.known[node.id] = self._node(node)
                self._entitle(node, self.known[node.id])
        results: list[Result] = []
        if states:
            for k, o in enumerate(step.outputs):
                results += self._result("output", k, o.node, o.node)
            for k, s in enumerate(step.states):
                results += self._result("state", k, s.node, s.update)
        else:
            for k, i in enumerate(step.inputs):
                if i.node in self.grads:
                    results += self._result("d_input", k, i.node, self.grads[i.node])
            for k, s in enumerate(step.states):
                results += self._result("d_state", k, s.node, self.grads.get(s.node))
        sizes: list[Dim] = [ONE] * len(self.names)
        for label, name in self.names.items():
            sizes[name] = self.axes.size[label]
        static = [i in self.region.static for i in self.region.inputs]
        whole = Program(
            values=tuple(self.values),
            results=tuple(results),
            sizes=tuple(sizes),
            inputs=tuple(self.array(i.node, f) for i, f in zip(step.inputs, static, strict=True)),
            outputs=tuple(self.array(o.node) for o in step.outputs),
            states=tuple(self.array(s.node) for s in step.states),
        )
        return whole.pruned(results)

    def _entitle(self, node: Node, pair: Pair) -> None:
        """The values that a node of the spec becomes carry its name."""
        for v, end in zip(pair, ("_re", "_im") if pair[1] is not None else ("",)):
            if node.name and v is not None and self.values[v].node is None and self.values[v].op not in LEAVES:
                self.values[v] = replace(self.values[v], node=node.id, title=node.name + end)

    # ------------------------------------------------------------ leaves and results

    def _leaves(self, seeds: list[tuple[NodeId, NodeId]]) -> None:
        step = self.region.step
        for k, i in enumerate(step.inputs):
            self.known[i.node] = self._load("input", k, i.node)
        for k, s in enumerate(step.states):
            self.known[s.node] = self._load("state", k, s.node)
        updates = [s.update for s in step.states]
        outputs = [o.node for o in step.outputs]
        for root, seed in seeds:
            parts: list[Pair] = [self._load("d_state", k, root) for k, u in enumerate(updates) if u == root]
            parts += [self._load("d_output", k, root) for k, o in enumerate(outputs) if o == root]
            total = parts[0]
            for p in parts[1:]:
                total = self._pairwise("add", total, p)
            self.known[seed] = total

    def _load(self, source: Source, index: int, node: NodeId) -> Pair:
        axes = self.labels(node)
        dtype = self.cell.nodes[node].type.dtype
        labels = tuple(sorted(a for a in axes if a is not None))

        def part(p: int) -> ValueId:
            load = Load(source=source, index=index, part=p, axes=axes)
            return self.value("load", labels=labels, load=load)

        if dtype == "bool":
            return self.op("ne", part(0), self.const(0)), None
        return part(0), part(1) if dtype == "complex" else None

    def _result(self, target: Target, index: int, like: NodeId, node: NodeId | None) -> list[Result]:
        """`node` as a result with the axes of `like`; zero where there is none."""
        axes = self.labels(like)
        pair = (self.const(0), None) if node is None else self.known[node]
        complex_ = self.cell.nodes[like].type.dtype == "complex"
        parts = [pair[0], self.imag(pair)] if complex_ else [pair[0]]
        return [
            Result(target=target, index=index, part=p, axes=axes, value=inner, over=over)
            for p, v in enumerate(parts)
            for inner, over in [self._outward(v)]
        ]

    def _outward(self, v: ValueId) -> tuple[ValueId, tuple[Label, ...]]:
        """A value as a sum over labels of another one: sums are left to the end, where a kernel may share them out.

        before: add(sum_e x, neg(sum_e y))      -->  after: sum_e add(x, neg(y))
        """
        value = self.values[v]
        if value.op == "sum":
            inner, over = self._outward(value.args[0])
            return inner, tuple(sorted({*over, *value.over}))
        if value.op == "neg":
            inner, over = self._outward(value.args[0])
            return (self.op("neg", inner), over) if over else (v, ())
        if value.op in ("add", "sub"):
            (a, over_a), (b, over_b) = (self._outward(x) for x in value.args)
            if over_a and over_a == over_b and self.values[a].labels == self.values[b].labels:
                return self.op(value.op, a, b), over_a
        return v, ()

    # ------------------------------------------------------------ values

    def imag(self, z: Pair) -> ValueId:
        return self.const(0) if z[1] is None else z[1]

    def _pairwise(self, name: str, *zs: Pair) -> Pair:
        """`name` on real and imaginary parts apart."""
        re = self.op(name, *(z[0] for z in zs))
        if all(z[1] is None for z in zs):
            return re, None
        return re, self.op(name, *(self.imag(z) for z in zs))

    def _reduced(self, name: str, v: ValueId, over: set[Label]) -> ValueId:
        """A reduction over labels; those that the value has not count as often as they are long."""
        value = self.values[v]
        carried = tuple(x for x in value.labels if x in over)
        if name == "sum":
            for label in sorted(over - set(carried)):
                size = next(self.axes.size[k] for k, n in self.names.items() if n == label)
                v = self.op("mul", v, self.size(size))
            value = self.values[v]
        if not carried or self.number(v) is not None:
            return v
        return self.value(name, v, labels=tuple(x for x in value.labels if x not in over), over=carried)

    def size(self, size: Dim) -> ValueId:
        known = size.constant
        return self.const(known) if known is not None else self.value("dim", labels=(), size=size)

    # ------------------------------------------------------------ nodes

    def _node(self, node: Node) -> Pair:
        args = [self.known[a] for a in node.args]
        if node.op in VIEWS:
            return args[0]
        if node.op in REDUCTIONS:
            return self._reduction(node, args[0])
        match node.op:
            case "const":
                number: Any = node.attr("value")
                if isinstance(number, bool):
                    return self.op("ne", self.const(int(number)), self.const(0)), None
                if isinstance(number, tuple):
                    return self.const(number[0]), self.const(number[1])
                return self.const(number), None
            case "dim":
                return self.size(Dim.of(node.attr("value"))), None  # type: ignore[arg-type]
            case "einsum":
                over = {x for a in node.args for x in self.labels(a) if x is not None}
                product = self._mul(*args)
                return self._sum(product, over - set(self.labels(node.id)))
        if any(z[1] is not None for z in args) or node.type.dtype == "complex" or node.op in ("re", "im"):
            pair: Pair = COMPLEX[node.op](self, *args)
            return pair
        return self.op(node.op, *(z[0] for z in args)), None

    def _reduction(self, node: Node, z: Pair) -> Pair:
        over = {x for x in self.labels(node.args[0]) if x is not None} - set(self.labels(node.id))
        if node.op != "mean":
            return self._sum(z, over, node.op)
        count = ONE
        gone: Any = node.attr("axes")
        t = self.cell.nodes[node.args[0]].type
        for axis in gone:
            count = count * t.shape[axis]
        return self._pairwise_real("div", self._sum(z, over), self.size(count))

    def _sum(self, z: Pair, over: set[Label], name: str = "sum") -> Pair:
        return self._reduced(name, z[0], over), None if z[1] is None else self._reduced(name, z[1], over)

    # ------------------------------------------------------------ complex numbers as pairs

    def _pairwise_real(self, name: str, z: Pair, x: ValueId) -> Pair:
        """z * x or z / x with a real x."""
        return self.op(name, z[0], x), None if z[1] is None else self.op(name, z[1], x)

    def _mul(self, a: Pair, b: Pair) -> Pair:
        if b[1] is None:
            return self._pairwise_real("mul", a, b[0])
        if a[1] is None:
            return self._pairwise_real("mul", b, a[0])
        re = self.op("sub", self.op("mul", a[0], b[0]), self.op("mul", a[1], b[1]))
        return re, self.op("add", self.op("mul", a[0], b[1]), self.op("mul", a[1], b[0]))

    def _norm2(self, z: Pair) -> ValueId:
        im = self.imag(z)
        return self.op("add", self.op("mul", z[0], z[0]), self.op("mul", im, im))

    def _div(self, a: Pair, b: Pair) -> Pair:
        if b[1] is None:
            return self._pairwise_real("div", a, b[0])
        return self._pairwise_real("div", self._mul(a, self._conj(b)), self._norm2(b))

    def _conj(self, z: Pair) -> Pair:
        return z[0], None if z[1] is None else self.op("neg", z[1])

    def _polar(self, r: ValueId, theta: ValueId) -> Pair:
        return self.op("mul", r, self.op("cos", theta)), self.op("mul", r, self.op("sin", theta))

    def _exp(self, z: Pair) -> Pair:
        return self._polar(self.op("exp", z[0]), self.imag(z))

    def _abs(self, z: Pair) -> Pair:
        return self.op("sqrt", self._norm2(z)), None

    def _equal(self, a: Pair, b: Pair) -> Pair:
        return self.op("and", self.op("eq", a[0], b[0]), self.op("eq", self.imag(a), self.imag(b))), None

    def _select(self, c: Pair, a: Pair, b: Pair) -> Pair:
        return self.op("select", c[0], a[0], b[0]), self.op("select", c[0], self.imag(a), self.imag(b))


COMPLEX: dict[str, Any] = {
    "add": lambda p, a, b: p._pairwise("add", a, b),
    "sub": lambda p, a, b: p._pairwise("sub", a, b),
    "neg": lambda p, a: p._pairwise("neg", a),
    "mul": _Lowering._mul,
    "div": _Lowering._div,
    "conj": _Lowering._conj,
    "exp": _Lowering._exp,
    "abs": _Lowering._abs,
    "re": lambda p, z: (z[0], None),
    "im": lambda p, z: (p.imag(z), None),
    "eq": _Lowering._equal,
    "ne": lambda p, a, b: (p.op("not", p._equal(a, b)[0]), None),
    "select": _Lowering._select,
    "polar": lambda p, r, theta: p._polar(r[0], theta[0]),
    "complex": lambda p, x, y: (x[0], y[0]),
}
assert COMPLEX.keys() == OF_PAIRS

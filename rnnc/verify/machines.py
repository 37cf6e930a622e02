"""Step machines: a cell (or a stack of cells) with fixed weights and letters, as a deterministic machine that can be
explored.

Values of a machine are frozen: `Values` is a tuple of (name, shape, entries) that hashes and compares by value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from rnnc.analysis.ranges import nonnegative_nodes
from rnnc.exact import NotExact, is_limit, to_float
from rnnc.exact.asymptotic import EXPONENTIAL, Asymptotic, Number, make, standard, unknown, without_error
from rnnc.ir.domains.concrete import Concrete
from rnnc.ir.domains.exact import ExactCell, exact_array
from rnnc.ir.evaluate import evaluate
from rnnc.ir.graph import CellIR, Node, NodeId, ancestors
from rnnc.ir.unfold import inline_calls, unfold_time
from rnnc.verify.effort import spend

Arrays: TypeAlias = Mapping[str, Any]
Entries: TypeAlias = "tuple[Any, ...] | bytes"
Values: TypeAlias = tuple[tuple[str, tuple[int, ...], Entries], ...]
Arithmetic = Literal["exact", "float32", "float64"]
FINEST = -2  # the least power of omega that is told apart from those below, as an error
DTYPES = {"float32": (np.float32, np.complex64), "float64": (np.float64, np.complex128)}


class StepMachine(Protocol):
    """What `close` explores.  `output` is None where it has no exact value; `core` drops what is only a limit."""

    @property
    def letters(self) -> tuple[str, ...]: ...

    def start(self) -> Hashable: ...

    def step(self, state: Any, letter: str) -> tuple[Hashable, Hashable | None]: ...

    def core(self, values: Any) -> Hashable: ...

    def is_limit(self, values: Any) -> bool: ...


class Layer(Protocol):
    """One cell: the state after a step, and the outputs, from the state before and the inputs."""

    def start(self) -> Values: ...

    def advance(self, state: Values, inputs: Arrays) -> tuple[Values, Values | None]: ...


# ---------------------------------------------------------------- exact


def freeze(arrays: Arrays) -> Values:
    """Object arrays as frozen values."""
    return tuple((name, tuple(a.shape), tuple(a.reshape(-1).tolist())) for name, a in sorted(arrays.items()))


def thaw(values: Values) -> dict[str, Any]:
    """Frozen exact values as object arrays (of bools and tokens as those)."""
    found = {}
    for name, shape, entries in values:
        plain = all(isinstance(x, (bool, int)) for x in entries) and len(entries) > 0
        array = np.empty(len(entries), dtype=object)
        array[:] = list(entries)
        if plain:
            array = np.array(list(entries))
        found[name] = array.reshape(shape)
    return found


def _numbers(values: Values) -> list[Any]:
    return [x for _, _, entries in values for x in entries]


def map_values(f: Callable[[Any], Any], values: Values) -> Values:
    return tuple((n, s, tuple(x if isinstance(x, (bool, int)) else f(x) for x in entries)) for n, s, entries in values)


def dead_taps(cell: CellIR, body: ExactCell) -> dict[str, Any]:
    """For each buffer of a convolution whose oldest taps have weight zero: which entries nothing reads.

    bool [*per, n, *shape], as the buffer; entry j is dead if the weights of it and of all older ones are zero.
    """
    found: dict[str, Any] = {}
    flat = inline_calls(cell)
    for node in flat.nodes:
        weight = flat.nodes[node.args[1]] if node.op == "conv" else None
        if weight is None or weight.op != "param":
            continue
        name = next(p.name for p in flat.params if p.node == weight.id)
        array = exact_array(body.given[name])
        used = np.asarray(np.frompyfunc(lambda w: w != 0, 1, 1)(array[..., :-1]), dtype=bool)
        dead = ~np.logical_or.accumulate(used, axis=-1)
        found[str(node.attr("key"))] = np.moveaxis(dead, -1, len(weight.type.per))
    return {name: mask for name, mask in found.items() if mask.any()}


def work_of(cell: CellIR, n: Node, dims: Mapping[str, int]) -> int:
    """Entries of a node, and products and sums of a contraction."""
    size = math.prod(d.evaluate(dims) for d in (*n.type.per, *n.type.shape))
    if n.op != "einsum":
        return size
    sizes: dict[str, int] = {}
    for labels, a in zip(str(n.attr("spec")).split("->")[0].split(","), n.args, strict=True):
        sizes |= zip(labels, [d.evaluate(dims) for d in cell.nodes[a].type.shape], strict=True)
    return size + 2 * math.prod(sizes.values()) * math.prod(d.evaluate(dims) for d in n.type.per)


def settled(x: Number) -> Number:
    """x after a step: without what vanishes, and with an error of order omega^-2 for any smaller power.

    An error that shrinks from step to step (a value that is erased again and again) would make infinitely many states.
    """
    y = standard(x)
    if isinstance(y, Asymptotic) and y.error is not None and EXPONENTIAL < y.error < FINEST:
        return make(y.terms, FINEST)
    return y


class ExactLayer:
    """A cell in exact arithmetic.  After each step what vanishes with omega becomes part of the values' error.

    Entries of a buffer that only zero weights read are `unknown`: that nothing else reads them shows in every step.
    """

    def __init__(self, cell: CellIR, dims: Mapping[str, int], params: Arrays) -> None:
        self.cell, self.dims, self.params = cell, dict(dims), dict(params)
        self.body = ExactCell(cell, dims, params, nonnegative_nodes)
        self.dead = dead_taps(cell, self.body)
        self.entries = sum(work_of(self.body.cell, n, self.body.dims) for n in self.body.cell.nodes)
        self.no_output = ""

    def start(self) -> Values:
        return self.kept(self.body.start())

    def kept(self, state: Arrays) -> Values:
        """The values of a step, of which this counts the cost."""
        spend("exact node", len(self.body.cell.nodes))
        spend("exact entry", self.entries)
        values = map_values(settled, freeze({k: v for k, v in state.items() if k not in self.dead}))
        for name, mask in self.dead.items():
            entries = [unknown() if d else settled(x) for d, x in zip(mask.reshape(-1), state[name].reshape(-1))]
            values = (*values, (name, tuple(mask.shape), tuple(entries)))
        return tuple(sorted(values, key=lambda v: v[0]))

    def advance(self, state: Values, inputs: Arrays) -> tuple[Values, Values | None]:
        before = thaw(state)
        if self.no_output:
            return self.kept(self.body.step(inputs, before)), None
        try:
            after, seen = self.body.advance(inputs, before)
        except NotExact:  # the state's own fault, or that of the outputs alone
            after = self.body.step(inputs, before)
            try:
                seen = self.body.outputs(inputs, before)
            except NotExact as error:
                self.no_output = str(error)
                return self.kept(after), None
        kept = self.kept(after)
        try:
            return kept, map_values(standard, freeze(seen))
        except NotExact as error:
            self.no_output = str(error)
            return kept, None


# ---------------------------------------------------------------- floating point


class RoundedDomain(Concrete):
    """Every value is rounded to one floating-point format."""

    def __init__(self, cell: CellIR, dims: Mapping[str, int], dtype: str) -> None:
        super().__init__(cell, dims, {})
        self.real, self.complex = DTYPES[dtype]

    def cast(self, value: Any) -> Any:
        array = np.asarray(value)
        if array.dtype.kind == "f":
            return array.astype(self.real)
        return array.astype(self.complex) if array.dtype.kind == "c" else array

    def leaf(self, node: Node) -> Any:
        return self.cast(super().leaf(node))

    def apply(self, node: Node, args: tuple[Any, ...]) -> Any:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
            return self.cast(super().apply(node, args))


def float_array(value: Any, tau: float) -> Any:
    """An exact array as floats (or complex numbers) with omega = tau; other arrays as they are."""
    array = np.asarray(value)
    if array.dtype != object:
        return array
    numbers = [to_float(x, tau) for x in exact_array(value).reshape(-1)]
    return np.array(numbers, dtype=complex if any(isinstance(x, complex) for x in numbers) else float).reshape(
        array.shape
    )


def divides_by_state(cell: CellIR) -> bool:
    """Whether an update divides by what is computed from a state."""
    own = {s.node for s in cell.states}
    for n in (cell.nodes[i] for i in ancestors(cell, [s.update for s in cell.states])):
        told = {"div": n.args[1:], "pow": n.args[:1], "solve": n.args, "cayley": n.args}.get(n.op, ())
        if own & ancestors(cell, told):
            return True
    return False


class FloatLayer:
    """A cell evaluated one step at a time in float32 or float64; omega is tau."""

    def __init__(
        self, cell: CellIR, dims: Mapping[str, int], params: Arrays, dtype: Arithmetic = "float32", tau: float = 40.0
    ) -> None:
        self.cell, _ = unfold_time(inline_calls(cell))
        self.tau = tau
        self.domain = RoundedDomain(self.cell, self.cell.dim_values(dims), dtype)
        for p in self.cell.params:
            self.domain.given[p.node] = self._fit(p.node, params[p.name])
        static: set[NodeId] = set()
        for n in self.cell.nodes:
            if n.op not in ("input", "state") and all(a in static for a in n.args):
                static.add(n.id)
        self.static = evaluate(self.cell, self.domain, static)
        self.signed = divides_by_state(self.cell)

    def _fit(self, node: NodeId, value: Any) -> Any:
        t = self.cell.nodes[node].type
        array = self.domain.cast(float_array(value, self.tau))
        if t.dtype == "complex":
            array = array.astype(self.domain.complex)
        elif t.dtype == "real":
            array = array.astype(self.domain.real)
        shape = tuple(d.evaluate(self.domain.dims) for d in (*t.per, *t.shape))
        return np.broadcast_to(array, shape)

    def _freeze(self, rows: Mapping[str, tuple[NodeId, Any]]) -> Values:
        """(name -> the node whose type it has, its value) as bytes; -0.0 becomes 0.0.

        NotExact for NaN, and for -0.0 where an update divides by a state, and so tells the two apart.
        """
        found = []
        for name, (node, value) in sorted(rows.items()):
            array = np.array(self._fit(node, value))  # a copy, of rank 0 where the value has it
            if array.dtype.kind in "fc":
                parts = (array.real, array.imag)
                if self.signed and any(bool(((x == 0) & np.signbit(x)).any()) for x in parts):
                    raise NotExact(f"`{name}` is -0.0, and an update divides by a state")
                array = array + array.dtype.type(0)
                if np.isnan(array).any():
                    raise NotExact(f"`{name}` is not a number in floating point")
            found.append((name, array.shape, array.tobytes()))
        return tuple(found)

    def start(self) -> Values:
        return self._freeze({s.name: (s.node, self.static[s.init]) for s in self.cell.states})

    def advance(self, state: Values, inputs: Arrays) -> tuple[Values, Values | None]:
        spend("float node", len(self.cell.nodes))
        kinds = {"complex": self.domain.complex, "real": self.domain.real, "bool": np.bool_, "token": np.int64}
        stored = {name: (shape, raw) for name, shape, raw in state}
        for s in self.cell.states:
            shape, raw = stored[s.name]
            assert isinstance(raw, bytes)
            array: Any = np.frombuffer(raw, dtype=kinds[self.cell.nodes[s.node].type.dtype])
            self.domain.given[s.node] = array.reshape(shape)
        for i in self.cell.inputs:
            self.domain.given[i.node] = self._fit(i.node, inputs[i.name])
        roots = [s.update for s in self.cell.states] + [o.node for o in self.cell.outputs]
        values = evaluate(self.cell, self.domain, roots, self.static)
        try:
            seen: Values | None = self._freeze({o.name: (o.node, values[o.node]) for o in self.cell.outputs})
        except NotExact:
            seen = None
        return self._freeze({s.name: (s.node, values[s.update]) for s in self.cell.states}), seen


# ---------------------------------------------------------------- machines

Between: TypeAlias = Callable[[str, Values], Arrays]  # letter, outputs of the layers below -> inputs of the next


class Stack:
    """Layers with a per-step map between: `between[k](letter, outputs)` are the inputs of layer k + 1.

    `letters[letter]` are the inputs of the first layer.  A map reads the outputs of all layers below it (as over a
    residual stream): `outputs` are those of the first, or of several with their names as `0.y`, `1.y`.  `tables[k]`
    remembers what the map was asked, so that a certificate can say it as a finite table.  The state is the tuple of the
    layers' states.
    """

    def __init__(self, layers: Sequence[Layer], letters: Mapping[str, Arrays], between: Sequence[Between] = ()) -> None:
        assert len(between) == len(layers) - 1, "one map between two layers"
        self.layers = tuple(layers)
        self.inputs = dict(letters)
        self.between = tuple(between)
        self.tables: tuple[dict[tuple[str, Values], Arrays], ...] = tuple({} for _ in between)

    @property
    def letters(self) -> tuple[str, ...]:
        return tuple(self.inputs)

    @property
    def no_output(self) -> str:
        """Why the last layer's outputs have no exact value, or ''."""
        return str(getattr(self.layers[-1], "no_output", ""))

    def start(self) -> tuple[Values, ...]:
        return tuple(layer.start() for layer in self.layers)

    def step(self, state: tuple[Values, ...], letter: str) -> tuple[tuple[Values, ...], Values | None]:
        inputs, after, seen = self.inputs[letter], [], []
        output: Values | None = None
        for k, (layer, before) in enumerate(zip(self.layers, state, strict=True)):
            new, output = layer.advance(before, inputs)
            after.append(new)
            if k < len(self.between):
                if output is None:
                    raise NotExact(f"the outputs of layer {k + 1} have no exact value")
                seen.append(core(output))
                key = (letter, joined(seen))
                if key not in self.tables[k]:
                    self.tables[k][key] = self.between[k](*key)
                inputs = self.tables[k][key]
        return tuple(after), output

    def core(self, values: Any) -> Hashable:
        """A state (a tuple of layers) or an output without what is left out."""
        return tuple(map(core, values)) if values and isinstance(values[0][0], tuple) else core(values)

    def is_limit(self, values: Any) -> bool:
        layers = values if values and isinstance(values[0][0], tuple) else (values,)
        return any(not isinstance(x, (bool, int)) and is_limit(x) for v in layers for x in _numbers(v))


def joined(outputs: Sequence[Values]) -> Values:
    """The outputs of the lowest layers as one: of a single layer as they are, of several with the layer's number."""
    if len(outputs) == 1:
        return outputs[0]
    return tuple((f"{k}.{name}", shape, entries) for k, values in enumerate(outputs) for name, shape, entries in values)


def core(values: Values) -> Values:
    """Without what is left out."""
    if any(isinstance(entries, bytes) for _, _, entries in values):
        return values
    return map_values(without_error, values)


def cell_machine(
    cell: CellIR,
    dims: Mapping[str, int],
    params: Arrays,
    letters: Mapping[str, Arrays],
    arithmetic: Arithmetic = "exact",
    tau: float = 40.0,
) -> Stack:
    """One cell as a machine, in exact arithmetic or in a floating-point format with omega = tau."""
    layer: Layer
    if arithmetic == "exact":
        layer = ExactLayer(cell, dims, params)
    else:
        layer = FloatLayer(cell, dims, params, arithmetic, tau)
    return Stack([layer], letters)

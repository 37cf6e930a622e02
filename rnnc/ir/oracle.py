"""The reference interpreter: the semantics of the language in float64 / complex128, one step at a time, as simple as
it can be.

Arrays: inputs [B, T, *per, *shape]; params as in a module's state dict [*per, *shape]; states [B, *per, *shape],
keyed by name, and by key the buffers of `prev` and `conv` [B, n, *per, *shape], oldest first, and of attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnc.ir.attention import attend, attend_backward
from rnnc.ir.autodiff import Backward, backward
from rnnc.ir.domains.concrete import Array, Concrete, resolve
from rnnc.ir.evaluate import evaluate
from rnnc.ir.graph import CellIR, InitNumber, Node, NodeId, Param, ancestors
from rnnc.ir.unfold import inline_calls, unfold_time

Arrays = Mapping[str, Array]
DTYPES = {"real": float, "complex": complex, "bool": bool, "token": np.int64}


class _Step(Concrete):
    """One step; attention looks at the keys and values in `memory`, and adds its own."""

    def __init__(self, cell: CellIR, dims: Mapping[str, int], given: Mapping[NodeId, Array]) -> None:
        super().__init__(cell, dims, given)
        self.memory: dict[str, Array] = {}

    def apply(self, node: Node, args: tuple[Array, ...]) -> Array:
        if node.op != "attention":
            return super().apply(node, args)
        key = str(node.attr("key"))
        q, *both = args
        for name, row in zip((f"{key}_k", f"{key}_v"), both, strict=True):
            past = self.memory.get(name)
            self.memory[name] = row[:, None] if past is None else np.concatenate([past, row[:, None]], axis=1)
        k, v = self.memory[f"{key}_k"], self.memory[f"{key}_v"]  # [B, steps, *per, dk | dv]
        return attend(q, k, v)


@dataclass(slots=True)
class _Machine:
    """A cell unfolded to plain nodes and states, with numbers for its dims and parameters."""

    cell: CellIR
    buffers: frozenset[str]
    domain: _Step
    static: dict[NodeId, Array]
    batch: int
    steps: int
    inputs: dict[NodeId, Array]
    state: dict[str, Array]

    def into_state(self, name: str, value: Array) -> Array:
        """From a state dict's layout to the graph's (a buffer's axis goes behind the per axes)."""
        return np.moveaxis(value, 1, 1 + len(self.per(name))) if name in self.buffers else value

    def out_of_state(self, name: str, value: Array) -> Array:
        return np.moveaxis(value, 1 + len(self.per(name)), 1) if name in self.buffers else value

    def per(self, name: str) -> tuple[Any, ...]:
        return self.cell.nodes[self.cell.state(name).node].type.per

    def batched(self, node: NodeId, value: Array) -> Array:
        """With the batch axis, whether or not it varies."""
        t = self.cell.nodes[node].type
        core = resolve((*t.per, *t.shape), self.domain.dims)
        return np.broadcast_to(value, (self.batch, *core)).astype(DTYPES[t.dtype], copy=False)

    def leaves(self, t: int, state: Mapping[str, Array]) -> dict[NodeId, Array]:
        """What the step at time t reads."""
        found = {s.node: state[s.name] for s in self.cell.states}
        return found | {node: x[:, t] for node, x in self.inputs.items()}

    def step(self, t: int, state: Mapping[str, Array], wanted: list[NodeId]) -> dict[NodeId, Array]:
        self.domain.given.update(self.leaves(t, state))
        return evaluate(self.cell, self.domain, wanted, self.static)


def _static_nodes(cell: CellIR) -> set[NodeId]:
    """Nodes computed from parameters and constants only."""
    static: set[NodeId] = set()
    for n in cell.nodes:
        if n.op not in ("input", "state", "attention") and all(a in static for a in n.args):
            static.add(n.id)
    return static


def _sizes(inputs: Arrays, batch: int | None, steps: int | None) -> tuple[int, int]:
    for x in inputs.values():
        return int(x.shape[0]), int(x.shape[1])
    return batch or 1, steps or 1


def _machine(
    cell: CellIR,
    dims: Mapping[str, int],
    params: Arrays,
    inputs: Arrays,
    state: Arrays | None,
    batch: int | None,
    steps: int | None,
) -> _Machine:
    flat, buffers = unfold_time(inline_calls(cell))
    env = flat.dim_values(dims)
    given: dict[NodeId, Array] = {}
    for p in flat.params:
        node = flat.nodes[p.node]
        value: Array = np.asarray(params[p.name], dtype=DTYPES[node.type.dtype])
        want = resolve((*node.type.per, *node.type.shape), env)
        if value.shape != want:
            raise ValueError(f"parameter `{p.name}` has shape {value.shape}, not {want}")
        given[p.node] = value
    domain = _Step(flat, env, given)
    static = evaluate(flat, domain, _static_nodes(flat))
    b, t = _sizes(inputs, batch, steps)
    streams: dict[NodeId, Array] = {}
    for i in flat.inputs:
        node = flat.nodes[i.node]
        want = (b, t, *resolve((*node.type.per, *node.type.shape), env))
        streams[i.node] = np.asarray(inputs[i.name], dtype=DTYPES[node.type.dtype])
        if streams[i.node].shape != want:
            raise ValueError(f"input `{i.name}` has shape {streams[i.node].shape}, not {want}")
    machine = _Machine(flat, buffers, domain, static, b, t, streams, {})
    for s in flat.states:
        start = (
            static[s.init]
            if state is None or s.name not in state
            else machine.into_state(s.name, np.asarray(state[s.name]))
        )
        machine.state[s.name] = machine.batched(s.node, start)
    domain.memory = {k: np.asarray(v) for k, v in (state or {}).items() if k not in machine.state}
    return machine


@contextmanager
def _quiet() -> Iterator[None]:
    """Overflow and division by zero give inf and nan, as they do in torch."""
    with np.errstate(all="ignore"):
        yield


def run(
    cell: CellIR,
    dims: Mapping[str, int],
    params: Arrays,
    inputs: Arrays,
    state: Arrays | None = None,
    *,
    batch: int | None = None,
    steps: int | None = None,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Outputs by name, [B, T, *per, *shape], and the final state by key.

    `state` may leave out entries, which then start as declared.  `batch` and `steps` serve cells without inputs.
    """
    with _quiet():
        m = _machine(cell, dims, params, inputs, state, batch, steps)
        wanted = _always(m.cell) + [o.node for o in m.cell.outputs]
        rows: dict[str, list[Array]] = {o.name: [] for o in m.cell.outputs}
        for t in range(m.steps):
            values = m.step(t, m.state, wanted)
            m.state = {s.name: m.batched(s.node, values[s.update]) for s in m.cell.states}
            for o in m.cell.outputs:
                rows[o.name].append(m.batched(o.node, values[o.node]))
        final = {name: m.out_of_state(name, value) for name, value in m.state.items()}
        return {name: np.stack(r, axis=1) for name, r in rows.items()}, final | m.domain.memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients:
    """Of a real loss, in the layout of what they are gradients of (PyTorch's convention for complex values)."""

    params: dict[str, Array]
    inputs: dict[str, Array]
    state: dict[str, Array]


def gradients(
    cell: CellIR,
    dims: Mapping[str, int],
    params: Arrays,
    inputs: Arrays,
    d_outputs: Arrays,
    d_final: Arrays | None = None,
    state: Arrays | None = None,
    *,
    batch: int | None = None,
    steps: int | None = None,
) -> Gradients:
    """Backpropagation through time of a loss with gradients `d_outputs` (by output; missing is zero) and `d_final`
    (by state key).

    The initial states' gradients are given for every state; those of states not passed in also flow into the parameters
    their declared initial values are made of.  Token inputs have none.
    """
    with _quiet():
        m = _machine(cell, dims, params, inputs, state, batch, steps)
        flat = m.cell
        floats = [i.node for i in flat.inputs if flat.nodes[i.node].type.dtype in ("real", "complex")]
        leaves = [p.node for p in flat.params] + floats + [s.node for s in flat.states]
        attention = [n for n in flat.nodes if n.op == "attention"]
        roots = (
            [s.update for s in flat.states] + [o.node for o in flat.outputs] + [a for n in attention for a in n.args]
        )
        stop = frozenset(n.id for n in attention)
        rule = backward(flat, roots, (*leaves, *stop), stop)
        tape = _forward(m, _read_backwards(flat, rule))
        d_params = {p.node: np.zeros_like(m.domain.given[p.node]) for p in flat.params}
        d_inputs = {node: np.zeros_like(m.inputs[node]) for node in floats}
        d_state = {s.name: np.zeros_like(m.state[s.name]) for s in flat.states}
        known = {key: x.shape[1] for key, x in (state or {}).items() if key not in d_state}  # steps of attention before
        d_state |= {key: np.zeros_like(x) for key, x in m.domain.memory.items()}
        for name, g in (d_final or {}).items():
            d_state[name] = m.into_state(name, np.array(g, dtype=d_state[name].dtype))
        _backward(m, rule, tape, d_outputs, d_params, d_inputs, d_state)
        _into_initial(m, {s.name: d_state[s.name] for s in flat.states if s.name not in (state or {})}, d_params)
        return Gradients(
            params={p.name: d_params[p.node] for p in flat.params},
            inputs={i.name: d_inputs[i.node] for i in flat.inputs if i.node in d_inputs},
            state={s.name: m.out_of_state(s.name, d_state[s.name]) for s in flat.states}
            | {key: d_state[key][:, :n] for key, n in known.items()},
        )


def _read_backwards(flat: CellIR, rule: Backward) -> list[NodeId]:
    """The nodes of the step itself whose values its backward pass reads, and what later steps read."""
    first = len(flat.nodes)
    used = ancestors(rule.cell, rule.grads.values(), frozenset(range(first)))
    return [i for i in used if i < first] + _always(flat) + [n.args[0] for n in flat.nodes if n.op == "attention"]


def _always(flat: CellIR) -> list[NodeId]:
    """What every step computes for later ones."""
    return [s.update for s in flat.states] + [n.id for n in flat.nodes if n.op == "attention"]


def _forward(m: _Machine, wanted: list[NodeId]) -> list[dict[NodeId, Array]]:
    """The values of all steps; leaves `m.state` as it was."""
    tape, state = [], m.state
    for t in range(m.steps):
        values = m.step(t, state, wanted)
        tape.append(values)
        state = {s.name: m.batched(s.node, values[s.update]) for s in m.cell.states}
    return tape


def _backward(
    m: _Machine,
    rule: Backward,
    tape: list[dict[NodeId, Array]],
    d_outputs: Arrays,
    d_params: dict[NodeId, Array],
    d_inputs: dict[NodeId, Array],
    d_state: dict[str, Array],
) -> None:
    """The steps in reverse; adds to `d_params`, fills `d_inputs`, and leaves the initial states' gradients in
    `d_state`.
    """
    domain = Concrete(rule.cell, m.domain.dims, {})
    stop = {n.id for n in m.cell.nodes if n.op == "attention"}
    for t in reversed(range(m.steps)):
        seeds: dict[NodeId, Array] = {}
        for s in m.cell.states:
            seeds[s.update] = seeds.get(s.update, 0) + d_state[s.name]
        for o in m.cell.outputs:
            g = np.asarray(d_outputs[o.name])[:, t] if o.name in d_outputs else 0
            seeds[o.node] = m.batched(o.node, seeds.get(o.node, 0) + np.asarray(g))
        domain.given = {seed: m.batched(root, seeds.get(root, 0)) for root, seed in rule.seeds.items()}
        _through_attention(m, rule, tape, t, domain, d_state)
        found = evaluate(rule.cell, domain, [rule.grads[i] for i in rule.grads if i not in stop], tape[t])
        for node, total in d_params.items():
            if node in rule.grads:
                total += _over_batch(found[rule.grads[node]], total)
        for node, rows in d_inputs.items():
            if node in rule.grads:
                rows[:, t] = found[rule.grads[node]]
        for s in m.cell.states:
            d_state[s.name] = (
                m.batched(s.node, found[rule.grads[s.node]]) if s.node in rule.grads else 0 * d_state[s.name]
            )


def _through_attention(
    m: _Machine,
    rule: Backward,
    tape: list[dict[NodeId, Array]],
    t: int,
    domain: Concrete,
    d_state: dict[str, Array],
) -> None:
    """From the results of attention at step t to its arguments (seeds in `domain`) and to the keys and values before.

    Later attention first: the gradient of a result is known once all that reads it is.
    """
    for node in reversed([n for n in m.cell.nodes if n.op == "attention"]):
        q, names = node.args[0], [f"{node.attr('key')}_{x}" for x in "kv"]
        now = m.domain.memory[names[0]].shape[1] - m.steps + t
        if node.id in rule.grads:
            g = evaluate(rule.cell, domain, [rule.grads[node.id]], tape[t])[rule.grads[node.id]]
            k, v = (m.domain.memory[name][:, : now + 1] for name in names)
            d_q, *d_both = attend_backward(tape[t][q], k, v, m.batched(node.id, g))
            domain.given[rule.seeds[q]] = domain.given[rule.seeds[q]] + d_q
            for name, d in zip(names, d_both, strict=True):
                d_state[name][:, : now + 1] += d
        for arg, name in zip(node.args[1:], names, strict=True):
            domain.given[rule.seeds[arg]] = domain.given[rule.seeds[arg]] + d_state[name][:, now]


def _over_batch(g: Array, like: Array) -> Array:
    return g.sum(axis=0) if g.ndim > like.ndim else g


def _into_initial(m: _Machine, d_state: Arrays, d_params: dict[NodeId, Array]) -> None:
    """From the gradients of initial states to the parameters in their declared initial values."""
    seeds: dict[NodeId, Array] = {}
    for s in m.cell.states:
        if s.name in d_state:
            seeds[s.init] = seeds.get(s.init, 0) + d_state[s.name]
    rule = backward(m.cell, seeds, d_params)
    domain = Concrete(rule.cell, m.domain.dims, {rule.seeds[n]: g for n, g in seeds.items() if n in rule.seeds})
    found = evaluate(rule.cell, domain, rule.grads.values(), m.static)
    for node, g in rule.grads.items():
        d_params[node] += _over_batch(found[g], d_params[node])


# ---------------------------------------------------------------- parameters


def init_params(cell: CellIR, dims: Mapping[str, int], rng: np.random.Generator) -> dict[str, Array]:
    """Random raw parameters by name, of the size their declared initialisation has: for tests and for looking at a
    cell.
    """
    flat = inline_calls(cell)
    env = flat.dim_values(dims)
    return {p.name: _initial(flat, env, p, rng) for p in flat.params}


def _init_number(value: InitNumber, dims: Mapping[str, int]) -> float:
    if isinstance(value, tuple):
        coefficient, base, power = value
        return float(float(coefficient) * float(base.evaluate(dims)) ** float(power))
    return float(resolve(value, dims))


def _initial(cell: CellIR, dims: Mapping[str, int], p: Param, rng: np.random.Generator) -> Array:
    t = cell.nodes[p.node].type
    shape = resolve((*t.per, *t.shape), dims)
    args = [_init_number(a, dims) for a in p.init.args]
    size = shape[-1] if t.rank else 1
    match p.init.kind if p.constrained is None else "raw":
        case "zeros":
            value = np.zeros(shape)
        case "ones":
            value = np.ones(shape)
        case "constant":
            value = np.full(shape, args[0])
        case "normal":
            value = rng.normal(args[1] if len(args) > 1 else 0.0, args[0], shape)
        case "uniform":
            value = rng.uniform(args[0], args[1], shape)
        case "fan_in":
            value = rng.uniform(-1, 1, shape) / np.sqrt(args[0])
        case "value":
            assert p.init.node is not None
            found = evaluate(cell, Concrete(cell, dims, {}), [p.init.node])[p.init.node]
            value = np.broadcast_to(found, shape).copy()
        case "identity":
            value = np.broadcast_to(np.eye(shape[-2], shape[-1]), shape).copy()
        case _:
            value = rng.uniform(-1, 1, shape) / np.sqrt(size)
    if t.dtype == "complex" and p.init.kind != "value":
        value = value + 1j * rng.uniform(-1, 1, shape) / np.sqrt(size)
    return value.astype(DTYPES[t.dtype])

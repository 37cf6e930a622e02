"""A file of weights as a machine that reads letters: what `rnnc train` writes, or the state dict of a compiled layer.

Everything is evaluated one step at a time, each value rounded to float32.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from rnnc.diagnostics import Diagnostic, SpecError
from rnnc.ir.dims import Dim
from rnnc.ir.evaluate import evaluate
from rnnc.ir.graph import CellIR, NodeId
from rnnc.ir.types import Interval, UnitNorm
from rnnc.ir.unfold import inline_calls, unfold_time
from rnnc.verify.claims import Unclear
from rnnc.verify.machines import RoundedDomain

Array = Any
States: TypeAlias = tuple[dict[str, Array], ...]  # by layer; [B, *per, *shape], buffers included
EPS = float(np.finfo(np.float32).eps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The tensors of a file.

    `about` is what a training run says of itself, or the sizes of a saved witness; empty for a plain state dict.
    `letters` are those of a saved witness: letter -> input -> its value.
    """

    path: Path
    tensors: Mapping[str, Array]
    about: Mapping[str, Any] = field(default_factory=dict)
    letters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def hyper(self) -> dict[str, Any]:
        """The hyperparameters and dims of the run."""
        given = {**self.about.get("hyperparameters", {}), **self.about.get("dims", {})}
        return {k: Fraction(v) if isinstance(v, str) else v for k, v in given.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """One value of each input a letter: `tables[input]` is [letters, ...]."""

    tables: Mapping[str, Array]

    def __getitem__(self, letters: Array) -> dict[str, Array]:
        return {name: table[letters] for name, table in self.tables.items()}


def weights_error(message: str, help: str = "") -> SpecError:
    return SpecError((Diagnostic(code="E0505", message=message, span=None, help=help),))


def read_weights(path: Path) -> Weights:
    """Raises SpecError E0505 for what is no safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            told = file.metadata() or {}
            about = json.loads(told.get("rnnc", "{}")).get("identity", {})
            letters = json.loads(told.get("letters", "{}"))
            dims = json.loads(told.get("dims", "{}"))
            names = [n for n in file.keys() if not n.startswith("optimizer/")]  # noqa: SIM118
            tensors = {name: np.asarray(file.get_tensor(name)) for name in names}
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise weights_error(f"{path} is not a file of weights: {error}", "give a .safetensors file") from None
    about = {"dims": dims} if not about and isinstance(dims, dict) else about
    return Weights(path=path, tensors=tensors, about=about, letters=letters)


def layer_prefixes(cell: CellIR, weights: Weights) -> list[str]:
    """What stands before the cell's parameter names in the file, once a layer, in order."""
    names = [p.name for p in inline_calls(cell).params]
    if not names:
        return [""]
    found = [k[: -len(names[0])] for k in weights.tensors if k.endswith(names[0])]
    whole = [p for p in found if (not p or p[-1] in "./") and all(p + n in weights.tensors for n in names)]
    if not whole:
        missing = next((n for n in names if not any(k.endswith(n) for k in weights.tensors)), names[0])
        raise weights_error(
            f"{weights.path} has no weights of `{cell.name}`: there is no `{missing}`",
            f"they are named {', '.join(names[:4])}, as in the layer's state_dict",
        )
    return sorted(whole, key=lambda p: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", p)])


def sizes_of(cell: CellIR, given: Mapping[str, int], params: Mapping[str, Array], path: Path) -> dict[str, int]:
    """The dims that the shapes of the weights say.  Raises SpecError E0505 where they do not fit the cell."""
    flat = inline_calls(cell)
    env = dict(given)
    shapes = [(p.name, flat.nodes[p.node].type, params[p.name].shape) for p in flat.params]
    for _, t, shape in shapes:
        for d, size in zip((*t.per, *t.shape), shape):
            if len(d.names) == 1 and d == Dim.of(next(iter(d.names))):
                env.setdefault(next(iter(d.names)), int(size))
    env = flat.dim_values(env)
    missing = [p.name for p in flat.dims if p.name not in env]
    if missing:
        raise weights_error(f"the weights do not say how large `{missing[0]}` is", f"--set {missing[0]}=...")
    for name, t, shape in shapes:
        wanted = tuple(d.evaluate(env) for d in (*t.per, *t.shape))
        if wanted != shape:
            raise weights_error(f"{path}: `{name}` has shape {list(shape)}, and the cell needs {list(wanted)}")
    return env


class Layer:
    """One cell with weights: a batch of states, one step at a time in float32."""

    def __init__(self, cell: CellIR, dims: Mapping[str, int], params: Mapping[str, Array]) -> None:
        self.cell, _ = unfold_time(inline_calls(cell))
        self.dims = dict(dims)
        self.params = dict(params)
        self.domain = RoundedDomain(self.cell, self.dims, "float32")
        for p in self.cell.params:
            self.domain.given[p.node] = self.domain.cast(params[p.name])
        static: set[NodeId] = set()
        for n in self.cell.nodes:
            if n.op not in ("input", "state") and all(a in static for a in n.args):
                static.add(n.id)
        self.static = evaluate(self.cell, self.domain, static)

    def shape(self, node: NodeId) -> tuple[int, ...]:
        t = self.cell.nodes[node].type
        return tuple(d.evaluate(self.dims) for d in (*t.per, *t.shape))

    def start(self, batch: int) -> dict[str, Array]:
        return {s.name: self._batched(s.node, self.static[s.init], batch) for s in self.cell.states}

    def step(self, state: Mapping[str, Array], inputs: Mapping[str, Array]) -> tuple[dict[str, Array], Array]:
        """The states after one step, and the first output [B, ...]."""
        batch = len(next(iter(inputs.values())))
        self.domain.given.update({s.node: state[s.name] for s in self.cell.states})
        self.domain.given.update({i.node: self.domain.cast(inputs[i.name]) for i in self.cell.inputs})
        first = self.cell.outputs[0].node if self.cell.outputs else self.cell.states[0].update
        values = evaluate(self.cell, self.domain, [first, *(s.update for s in self.cell.states)], self.static)
        after = {s.name: self._batched(s.node, values[s.update], batch) for s in self.cell.states}
        return after, self._batched(first, values[first], batch)

    def _batched(self, node: NodeId, value: Array, batch: int) -> Array:
        kind = self.cell.nodes[node].type.dtype
        dtype = {"real": np.float32, "complex": np.complex64, "bool": np.bool_, "token": np.int64}[kind]
        return np.broadcast_to(np.asarray(value), (batch, *self.shape(node))).astype(dtype)


class Model:
    """The layers of a file, with what a training run puts around them.

    `wrapped`: each layer reads a normalised stream and adds to it (`rnnc train`); else one bare layer.
    """

    def __init__(self, layers: Sequence[Layer], prefixes: Sequence[str], weights: Weights) -> None:
        self.layers = tuple(layers)
        self.prefixes = tuple(prefixes)
        self.tensors = weights.tensors
        self.told = weights.letters
        match = re.fullmatch(r"(.*)blocks\.\d+\.layer\.", prefixes[0])
        self.root = match[1] if match else ""
        self.wrapped = match is not None
        if not self.wrapped and len(self.layers) > 1:
            raise weights_error(f"{weights.path} has several layers, and nothing says what is between them")

    @property
    def has_readout(self) -> bool:
        return self.wrapped and f"{self.root}readout.weight" in self.tensors

    def letters(self, alphabet: Sequence[str], option: str | None) -> Array | Rows:
        """One row of inputs for each letter.  Raises Unclear where the file and the cell say none."""
        if self.wrapped:
            return self._chosen(alphabet, *self._table(option))
        inputs = self.layers[0].cell.inputs
        if not option and all(set(self.told.get(a, ())) == {i.name for i in inputs} for a in alphabet):
            rows = {i.name: np.stack([np.asarray(self.told[a][i.name]) for a in alphabet]) for i in inputs}
            return Rows(tables={name: self._fitting(name, row) for name, row in rows.items()})
        if len(inputs) == 1:
            name = inputs[0].name
            return Rows(tables={name: self._fitting(name, self._chosen(alphabet, *self._table(option)))})
        pairs = [part.partition("=") for part in (option or "").split(",")]
        named = {name.strip(): tensor.strip() for name, _, tensor in pairs}
        missing = next((i.name for i in inputs if i.name not in named), None)
        if missing is not None:
            names = ",".join(f"{i.name}=TENSOR" for i in inputs)
            raise Unclear(f"values of `{missing}` for each letter (--letters {names} names tensors, a row a letter)")
        tables = {i.name: self._tensor(named[i.name]) for i in inputs}
        return Rows(tables={name: self._fitting(name, self._chosen(alphabet, t, {})) for name, t in tables.items()})

    def _chosen(self, alphabet: Sequence[str], table: Array, rows: Mapping[str, int]) -> Array:
        chosen = [rows.get(letter, i) for i, letter in enumerate(alphabet)]
        if max(chosen, default=0) >= len(table):
            raise Unclear(f"a value for each of {len(alphabet)} letters: there are {len(table)}")
        return table[chosen]

    def _fitting(self, name: str, rows: Array) -> Array:
        node = next(i.node for i in self.layers[0].cell.inputs if i.name == name)
        shape = self.layers[0].shape(node)
        if rows.shape[1:] != shape:
            raise weights_error(f"--letters: a row for `{name}` has shape {list(rows.shape[1:])}, not {list(shape)}")
        return rows

    def _tensor(self, name: str) -> Array:
        if name not in self.tensors or self.tensors[name].ndim < 1:
            raise weights_error(f"--letters: the file has no tensor `{name}`")
        return self.tensors[name]

    def _table(self, option: str | None) -> tuple[Array, dict[str, int]]:
        """All rows that letters can be, and the row of each letter that the option names."""
        rows: dict[str, int] = {}
        if option and "=" in option:
            pairs = [part.partition("=") for part in option.split(",")]
            if not all(value.strip().isdigit() for _, _, value in pairs):
                raise weights_error(f"--letters {option}: write the name of a tensor, or a=0,b=1")
            rows = {name.strip(): int(value) for name, _, value in pairs}
        elif option:
            return self._tensor(option), {}
        if self.wrapped:
            if f"{self.root}embed.bias" in self.tensors:
                raise Unclear("an embedding of letters: the model reads real numbers (--letters TENSOR names one)")
            return self.tensors[f"{self.root}embed.weight"], rows
        return self._one_hot(), rows

    def _one_hot(self) -> Array:
        """The unit vectors of the input, or the tokens."""
        cell = self.layers[0].cell
        source = cell.inputs[0]
        shape = self.layers[0].shape(source.node)
        t = cell.nodes[source.node].type
        if t.dtype == "token" and not shape and t.vocab is not None:
            return np.arange(t.vocab.evaluate(self.layers[0].dims))
        d = source.domain
        inside = d is None or isinstance(d, UnitNorm) or (isinstance(d, Interval) and _holds_bits(d))
        if t.dtype != "real" or len(shape) != 1 or not inside:
            raise Unclear("values of the input for each letter (--letters TENSOR names them)")
        return np.eye(shape[0], dtype=np.float32)

    # ------------------------------------------------------------ running

    def start(self, batch: int) -> States:
        return tuple(layer.start(batch) for layer in self.layers)

    def step(self, states: States, x: Any) -> tuple[States, Array]:
        """States after a step of some rows of `letters`, and what comes out: the readout's class [B], or the output."""
        after: list[dict[str, Array]] = []
        with np.errstate(all="ignore"):
            h = x
            for layer, prefix, state in zip(self.layers, self.prefixes, states, strict=True):
                if not self.wrapped:
                    new, out = layer.step(state, x)
                    return (new,), out
                block = prefix.removesuffix("layer.")
                inner = self._linear(f"{block}into", self._norm(f"{block}norm", h))
                shaped = inner.reshape(len(h), *layer.shape(layer.cell.inputs[0].node))
                new, out = layer.step(state, {layer.cell.inputs[0].name: shaped})
                h = h + self._linear(f"{block}out_of", out.reshape(len(h), -1))
                after.append(new)
            if self.has_readout:
                h = self._linear(f"{self.root}readout", self._norm(f"{self.root}norm", h)).argmax(axis=1)
        return tuple(after), h

    def _norm(self, name: str, h: Array) -> Array:
        scale = 1 / np.sqrt(np.mean(h * h, axis=-1, keepdims=True) + np.float32(EPS))
        return (h * scale * self.tensors[f"{name}.weight"]).astype(np.float32)

    def _linear(self, name: str, h: Array) -> Array:
        """As it is where the file has no such map."""
        weight = self.tensors.get(f"{name}.weight")
        if weight is None:
            return h
        bias = self.tensors.get(f"{name}.bias", np.float32(0))
        return (h @ weight.T + bias).astype(np.float32)


def _holds_bits(d: Interval) -> bool:
    low = d.lo is None or d.lo < 0 or (d.lo == 0 and not d.lo_open)
    return low and (d.hi is None or d.hi > 1 or (d.hi == 1 and not d.hi_open))


def flat_rows(states: States) -> Array:
    """[B, bytes]: all numbers of a batch of states, -0.0 as 0.0."""
    parts = []
    for state in states:
        for name in sorted(state):
            value = state[name]
            plain = value + value.dtype.type(0) if value.dtype.kind in "fc" else value
            parts.append(np.ascontiguousarray(plain).reshape(len(value), -1).view(np.uint8))
    return np.concatenate(parts, axis=1)

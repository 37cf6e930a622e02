"""Other people's implementations of what a cell computes, where they compute the same.

Whether they do is found out, never assumed: weights are brought over by the structure of the graph or (for whole
mixers, `mixers.py`) by their shapes, both are run on random inputs, and only equal outputs make a peer.  Names, of
cells or of parameters, play no part.
"""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rnnc.bench.mixers import mixers
from rnnc.bench.peer import Peer
from rnnc.ir.graph import CellIR, Node, NodeId, users
from rnnc.ir.ops import OPS

AGREE = 1e-4  # ||a - b|| / ||b|| of outputs in float32
SHORT = 7  # steps of the comparison
SHAKEN = 0.05  # standard deviation of what is added to every weight before


def relative_error(a: Tensor, b: Tensor) -> float:
    """||a - b|| / ||b||; infinite for other shapes, and where one is not finite."""
    if a.shape != b.shape or not bool(torch.isfinite(a).all()):
        return float("inf")
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


def peers(
    cell: CellIR,
    layer: nn.Module,
    inputs: Sequence[Tensor],
    *,
    compiled: bool = False,
    on_run: Callable[[str], None] = lambda name: None,
) -> list[Peer]:
    """All peers of a layer (of the torch backend); with `compiled` its `associative_scan` by `torch.compile` too.

    They have the weights of a copy of the layer, moved by random amounts: at special values (zero, one) other cells
    would compute the same.
    """
    short = [x[:, :SHORT].detach() for x in inputs]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of their imports
        layer = _shaken(layer)
        want = layer(*short)[0]
        if not isinstance(want, Tensor):
            return []

        def same(p: Peer) -> Peer | None:
            return _same(p, short, want)

        made = (_torch_layers(cell, layer), _functions(layer, short), _scanned(layer))
        found = [p for kind in made for p in first_of_each(kind, same)]
        found.extend(mixers(cell, layer, short, same))
        if compiled and any(p.name == SCAN for p in found):
            on_run("torch.compile of associative_scan, up to a minute")
            whole = [x.detach() for x in inputs]
            there = layer(*whole)[0]
            found.extend(first_of_each(_compiled_scan(layer), lambda p: _same(p, whole, there)))
        return found


def _shaken(layer: nn.Module) -> nn.Module:
    """A copy with every parameter moved by a random amount."""
    other = copy.deepcopy(layer)
    generator = torch.Generator().manual_seed(0)
    for p in other.parameters():
        p.add_(SHAKEN * torch.randn(p.shape, generator=generator).to(p.dtype))
    return other


def first_of_each(made: Iterable[Peer], same: Callable[[Peer], Peer | None]) -> Iterator[Peer]:
    """The first way of bringing weights over that computes the same, for each name."""
    known: set[str] = set()
    for p in made:
        if p.name not in known and (found := same(p)) is not None:
            known.add(p.name)
            yield found


def _same(peer: Peer, inputs: Sequence[Tensor], want: Tensor) -> Peer | None:
    """The peer, if it gives the same numbers.  One that cannot take such inputs at all is none."""
    try:
        error = relative_error(peer.run(*inputs), want)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
        return None
    return replace(peer, error=error) if error < AGREE else None


# ---------------------------------------------------------------- nn.RNN, nn.GRU, nn.LSTM


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """A learned map: the names of its weight and bias."""

    weight: str
    bias: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What one nonlinear function is applied to: maps of the input and of a state."""

    of_input: Map
    of_state: Map


def gates(cell: CellIR) -> list[Gate]:
    """The functions of a cell whose arguments have one learned map of an input and one of a state."""
    names = {p.node: p.name for p in cell.params}
    read = users(cell)
    found = []
    for node in cell.nodes:
        if OPS[node.op].category != "elementwise" or node.op not in ("sigmoid", "tanh", "relu"):
            continue
        maps = [m for i in _sums(cell, node) if (m := _map(cell, cell.nodes[i], names, read)) is not None]
        sources = dict(maps)
        if len(maps) == 2 and set(sources) == {"input", "state"}:
            found.append(Gate(of_input=sources["input"], of_state=sources["state"]))
    return found


def _sums(cell: CellIR, node: Node) -> set[NodeId]:
    """The contractions that a function's argument is made of, not through other functions."""
    work, seen = list(node.args), set[NodeId]()
    while work:
        i = work.pop()
        op = cell.nodes[i].op
        if i in seen or op in ("sigmoid", "tanh", "relu"):
            continue
        seen.add(i)
        if op != "einsum":
            work += cell.nodes[i].args
    return {i for i in seen if cell.nodes[i].op == "einsum"}


def _map(
    cell: CellIR, node: Node, names: Mapping[NodeId, str], read: Mapping[NodeId, Sequence[NodeId]]
) -> tuple[str, Map] | None:
    """Whether a contraction is a learned matrix times an input or a state, and with which bias."""
    weights = [a for a in node.args if a in names]
    sources = [cell.nodes[a].op for a in node.args if a not in names]
    if len(weights) != 1 or sources not in (["input"], ["state"]):
        return None
    biases = [
        names[a]
        for u in read[node.id]
        if cell.nodes[u].op == "add"
        for a in cell.nodes[u].args
        if a in names and cell.nodes[a].type.rank == 1
    ]
    return sources[0], Map(weight=names[weights[0]], bias=biases[0] if biases else None)


def _torch_layers(cell: CellIR, layer: nn.Module) -> Iterator[Peer]:
    """PyTorch's own layers with as many gates, in every order of the gates."""
    if len(cell.inputs) != 1 or any(cell.nodes[s.node].type.rank != 1 for s in cell.states):
        return
    own, found = dict(layer.named_parameters()), gates(cell)
    if not found or any(g.of_input.weight not in own or g.of_state.weight not in own for g in found):
        return
    n, d = own[found[0].of_input.weight].shape
    makers: dict[int, list[tuple[str, Callable[[], nn.RNNBase]]]] = {
        1: [
            ("nn.RNN", lambda: nn.RNN(d, n, batch_first=True)),
            ("nn.RNN (relu)", lambda: nn.RNN(d, n, batch_first=True, nonlinearity="relu")),
        ],
        3: [("nn.GRU", lambda: nn.GRU(d, n, batch_first=True))],
        4: [("nn.LSTM", lambda: nn.LSTM(d, n, batch_first=True))],
    }
    for name, make in makers.get(len(found), []):
        for order in itertools.permutations(found):
            module = make()
            try:
                _fill(module, order, own)
            except RuntimeError:  # maps of other sizes
                continue
            yield Peer(name=name, run=lambda x, m=module: m(x)[0], parameters=list(module.parameters()))


def _fill(module: nn.RNNBase, order: Sequence[Gate], own: Mapping[str, Tensor]) -> None:
    """The gates' weights as rows of the stacked ones."""
    n = module.hidden_size
    for side, what in (("ih", "of_input"), ("hh", "of_state")):
        weight, bias = getattr(module, f"weight_{side}_l0"), getattr(module, f"bias_{side}_l0")
        for k, gate in enumerate(order):
            m: Map = getattr(gate, what)
            weight[k * n : (k + 1) * n].copy_(own[m.weight])
            bias[k * n : (k + 1) * n].copy_(own[m.bias] if m.bias is not None else torch.zeros(n))


# ---------------------------------------------------------------- functions of transformers


def _functions(layer: nn.Module, inputs: Sequence[Tensor]) -> Iterator[Peer]:
    """The gated delta rule of transformers, as chunks and as a loop: its q, k, v, log decay and beta may be the inputs
    of a cell in any order, its queries scaled or not.
    """
    if list(layer.parameters()) or sorted(x.ndim for x in inputs) != [3, 3, 4, 4, 4]:
        return
    try:
        from transformers.models.qwen3_next import modeling_qwen3_next as theirs
    except ImportError:
        return
    vectors = [k for k, x in enumerate(inputs) if x.ndim == 4]
    numbers = [k for k, x in enumerate(inputs) if x.ndim == 3]
    for name in ("torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule"):
        function = getattr(theirs, name, None)
        if function is None:
            continue
        for first in itertools.permutations(vectors):
            for second in itertools.permutations(numbers):
                for scaled in (False, True):
                    yield Peer(name=f"transformers {name}", run=_in_order(function, (*first, *second), scaled))


def _in_order(function: Callable[..., Any], order: Sequence[int], scaled: bool) -> Callable[..., Tensor]:
    """With the inputs in their order; they divide queries by the root of their size, which a cell need not."""

    def run(*inputs: Tensor) -> Tensor:
        q, *rest = (inputs[k] for k in order)
        q = q if scaled else q * q.shape[-1] ** 0.5
        found: Tensor = function(q, *rest, initial_state=None, output_final_state=True)[0]
        return found

    return run


# ---------------------------------------------------------------- associative_scan


SCAN = "associative_scan, eager"


def _scanned(layer: nn.Module) -> Iterator[Peer]:
    """The same module, its scans done by PyTorch's own `associative_scan` (as it is, without a compiler)."""
    module = _with_scan(layer)
    if module is not None:
        yield Peer(name=SCAN, run=lambda *x: module(*x)[0], parameters=list(module.parameters()))


def _compiled_scan(layer: nn.Module) -> Iterator[Peer]:
    """That module by `torch.compile`, forward alone: its backward has no compiled form on a CPU."""
    module = _with_scan(layer)
    if module is None:
        return
    whole = torch.compile(module, dynamic=False)

    def run(*inputs: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = whole(*(x.detach() for x in inputs))[0]
            return found

    yield Peer(name="associative_scan, compiled", run=run, differentiable=False, fixed=True)


def _with_scan(layer: nn.Module) -> nn.Module | None:
    """The module with `associative_scan` in the place of the runtime's scans; None where it has none."""
    source = getattr(type(layer), "source", "")
    if "linear_scan(" not in source and "lerp_scan(" not in source:
        return None
    try:
        from torch._higher_order_ops.associative_scan import associative_scan
    except ImportError:
        return None

    def linear(
        a: Tensor | None, b: Tensor | None, h0: Tensor, *, length: int | None = None, bounds: None = None
    ) -> Tensor:
        steps = next((x.shape[1] for x in (a, b) if x is not None and x.ndim == h0.ndim + 1), length or 1)
        shape = (h0.shape[0], steps, *h0.shape[1:])
        factor = (h0.new_ones(()) if a is None else a).expand(shape)
        term = (h0.new_zeros(()) if b is None else b).expand(shape)
        term = torch.cat([(term[:, 0] + factor[:, 0] * h0).unsqueeze(1), term[:, 1:]], 1)
        return associative_scan(_combine, (factor, term), 1, combine_mode="generic")[1]

    def lerp(share: Tensor, new: Tensor, h0: Tensor, *, length: int | None = None, bounds: None = None) -> Tensor:
        return linear(1 - share, share * new, h0, length=length)

    scope: dict[str, Any] = {"__name__": "rnnc_bench_peer"}
    exec(compile(source, "<peer>", "exec"), scope)
    scope |= {"linear_scan": linear, "lerp_scan": lerp}
    module: nn.Module = scope[scope["__all__"][0]](**_sizes(layer))
    module.load_state_dict(layer.state_dict())
    return module


def _combine(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return x[0] * y[0], y[0] * x[1] + y[1]


def _sizes(layer: nn.Module) -> dict[str, int]:
    """The constructor's arguments: the dims are attributes of the same names."""
    import inspect

    names = [n for n in inspect.signature(type(layer).__init__).parameters if n not in ("self", "device", "dtype")]
    return {n: getattr(layer, n) for n in names}

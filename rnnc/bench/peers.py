"""Other people's implementations of what a cell computes, where they compute the same.

Whether they do is found out, never assumed: weights are brought over by the structure of the graph (or, for whole
mixers, by their parameters' names and shapes), both are run on random inputs, and only equal outputs make a peer.  A
cell's name plays no part.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rnnc.ir.graph import CellIR, Node, NodeId, users
from rnnc.ir.ops import OPS

AGREE = 1e-4  # ||a - b|| / ||b|| of outputs in float32
SHORT = 7  # steps of the comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """`run(*inputs)` gives the cell's outputs; `parameters` get gradients."""

    name: str
    run: Callable[..., Tensor]
    parameters: Sequence[Tensor] = ()


def relative_error(a: Tensor, b: Tensor) -> float:
    """||a - b|| / ||b||; infinite for other shapes, and where one is not finite."""
    if a.shape != b.shape or not bool(torch.isfinite(a).all()):
        return float("inf")
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


def peers(cell: CellIR, layer: nn.Module, inputs: Sequence[Tensor]) -> list[Peer]:
    """All peers of a layer (of the torch backend), which have its weights."""
    short = [x[:, :SHORT].detach() for x in inputs]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of their imports
        found = layer(*short)
        want = found[0]
        if not isinstance(want, Tensor):
            return []
        made = itertools.chain(_torch_layers(cell, layer), _mixers(layer), _functions(layer, short), _scanned(layer))
        return [p for p in made if _same(p, short, want)]


def _same(peer: Peer, inputs: Sequence[Tensor], want: Tensor) -> bool:
    """Whether a peer gives the same numbers.  One that cannot take such inputs at all is none."""
    try:
        return relative_error(peer.run(*inputs), want) < AGREE
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
        return False


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


# ---------------------------------------------------------------- mixers and functions of transformers


def _mixers(layer: nn.Module) -> Iterator[Peer]:
    """The mixer of Mamba in transformers, whose parameters ours are parts of."""
    own = dict(layer.named_parameters())
    names = {f"{x}_linear_weight" for x in ("u", "z", "low", "B", "C", "dt", "y")}
    names |= {"u_conv_weight", "u_conv_bias", "dt_bias", "A_log", "D"}
    if set(own) != names:
        return
    try:
        from transformers import MambaConfig
        from transformers.models.mamba.modeling_mamba import MambaMixer
    except ImportError:
        return
    (e, d), (rank, _), (n, _) = (own[f"{x}_linear_weight"].shape for x in ("u", "low", "B"))
    sizes: dict[str, Any] = {"hidden_size": d, "intermediate_size": e, "state_size": n, "time_step_rank": rank}
    config = MambaConfig(**sizes, conv_kernel=own["u_conv_weight"].shape[-1], num_hidden_layers=1)
    peer = MambaMixer(config, layer_idx=0)
    theirs = dict(peer.named_parameters())
    try:
        theirs["in_proj.weight"].copy_(torch.cat([own["u_linear_weight"], own["z_linear_weight"]]))
        theirs["x_proj.weight"].copy_(torch.cat([own[f"{x}_linear_weight"] for x in ("low", "B", "C")]))
        for name, source in (
            ("conv1d.bias", "u_conv_bias"),
            ("dt_proj.weight", "dt_linear_weight"),
            ("dt_proj.bias", "dt_bias"),
            ("A_log", "A_log"),
            ("D", "D"),
            ("out_proj.weight", "y_linear_weight"),
        ):
            theirs[name].copy_(own[source])
        theirs["conv1d.weight"].copy_(own["u_conv_weight"].unsqueeze(1))
    except RuntimeError:  # other shapes
        return
    yield Peer(name="transformers MambaMixer", run=lambda x: peer(x), parameters=list(peer.parameters()))


def _functions(layer: nn.Module, inputs: Sequence[Tensor]) -> Iterator[Peer]:
    """The gated delta rule of transformers, as chunks and as a loop, for cells of q, k, v, log decay and beta."""
    if list(layer.parameters()) or [x.ndim for x in inputs] != [4, 4, 4, 3, 3]:
        return
    try:
        from transformers.models.qwen3_next import modeling_qwen3_next as theirs
    except ImportError:
        return
    for name in ("torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule"):
        function = getattr(theirs, name, None)
        if function is not None:
            yield Peer(name=f"transformers {name}", run=_unscaled(function))


def _unscaled(function: Callable[..., Any]) -> Callable[..., Tensor]:
    """They divide queries by the root of their size, which a cell need not."""

    def run(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
        found: Tensor = function(q * q.shape[-1] ** 0.5, k, v, g, beta, initial_state=None, output_final_state=True)[0]
        return found

    return run


# ---------------------------------------------------------------- associative_scan


def _scanned(layer: nn.Module) -> Iterator[Peer]:
    """The same module, its scans done by PyTorch's own `associative_scan` (without a compiler)."""
    source = getattr(type(layer), "source", "")
    if "linear_scan(" not in source and "lerp_scan(" not in source:
        return
    try:
        from torch._higher_order_ops.associative_scan import associative_scan
    except ImportError:
        return

    def linear(a: Tensor | None, b: Tensor | None, h0: Tensor, *, length: int | None = None) -> Tensor:
        steps = next((x.shape[1] for x in (a, b) if x is not None and x.ndim == h0.ndim + 1), length or 1)
        shape = (h0.shape[0], steps, *h0.shape[1:])
        factor = (h0.new_ones(()) if a is None else a).expand(shape)
        term = (h0.new_zeros(()) if b is None else b).expand(shape)
        term = torch.cat([(term[:, 0] + factor[:, 0] * h0).unsqueeze(1), term[:, 1:]], 1)
        return associative_scan(_combine, (factor, term), 1, combine_mode="generic")[1]

    def lerp(share: Tensor, new: Tensor, h0: Tensor, *, length: int | None = None) -> Tensor:
        return linear(1 - share, share * new, h0, length=length)

    scope: dict[str, Any] = {"__name__": "rnnc_bench_peer"}
    exec(compile(source, "<peer>", "exec"), scope)
    scope |= {"linear_scan": linear, "lerp_scan": lerp}
    module = scope[scope["__all__"][0]](**_sizes(layer))
    module.load_state_dict(layer.state_dict())
    yield Peer(name="associative_scan", run=lambda *x: module(*x)[0], parameters=list(module.parameters()))


def _combine(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return x[0] * y[0], y[0] * x[1] + y[1]


def _sizes(layer: nn.Module) -> dict[str, int]:
    """The constructor's arguments: the dims are attributes of the same names."""
    import inspect

    names = [n for n in inspect.signature(type(layer).__init__).parameters if n not in ("self", "device", "dtype")]
    return {n: getattr(layer, n) for n in names}

"""Whole mixers of transformers as peers: a cell's parameters are brought over by their shapes.

A mixer is described by its parts: for each parameter that a cell has for it, the shape in sizes that have names, and
the operation that reads it.  Ways of giving the cell's parameters to the parts that fit all shapes are tried until one
gives the same numbers, those first in which the operations fit too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from rnnc.bench.peer import Peer
from rnnc.ir.graph import CellIR, NodeId, users
from rnnc.ir.ops import OPS

MOST_SECONDS = 10.0  # for all ways of one mixer
MOST_TRIED = 20000  # pairs of a part and a parameter
Shape: TypeAlias = tuple[str, ...]
Sizes: TypeAlias = dict[str, int]
Parts: TypeAlias = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixer:
    """`parts` are the parameters that a cell has for it, `read_by` the operations that read them where that is not a
    contraction; `make(sizes)` builds the module; `fill(module, parts)` writes
    the cell's parameters into it.  `make` may raise ImportError, `fill` RuntimeError where shapes do not fit.
    """

    name: str
    parts: Mapping[str, Shape]
    read_by: Mapping[str, str]
    make: Callable[[Sizes], nn.Module]
    fill: Callable[[Mapping[str, Tensor], Parts], None]
    output: Callable[[Any], Tensor] = lambda y: y if isinstance(y, Tensor) else y[0]


def mixers(
    cell: CellIR, layer: nn.Module, inputs: Sequence[Tensor], same: Callable[[Peer], Peer | None]
) -> Iterator[Peer]:
    """Every mixer that takes the layer's input and has as many parameters of such shapes, where one of the ways to
    bring them over gives the same (`same` is the peer, with its error, or None).
    """
    if len(inputs) != 1 or inputs[0].ndim != 3:
        return
    own = {name: p.detach() for name, p in layer.named_parameters()}
    width = inputs[0].shape[-1]
    made: dict[tuple[tuple[str, int], ...], nn.Module] = {}
    for mixer in MIXERS:
        made.clear()
        end = time.monotonic() + MOST_SECONDS
        for given, sizes in ways(mixer, own, readers(cell), {"d": width}):
            key = tuple(sorted(sizes.items()))
            try:
                module = made[key] if key in made else made.setdefault(key, mixer.make(sizes))
                mixer.fill(dict(module.named_parameters()), given)
            except (ImportError, RuntimeError, ValueError):
                break  # it is not installed, or cannot have these sizes in any way
            peer = Peer(
                name=f"transformers {mixer.name}",
                run=lambda x, m=module, out=mixer.output: out(m(x)),
                parameters=list(module.parameters()),
            )
            if (found := same(peer)) is not None:
                yield found
                break
            if time.monotonic() > end:
                break


def readers(cell: CellIR) -> dict[str, str]:
    """For each parameter the operation that reads it, views apart ("" where there are several)."""
    read = users(cell)

    def operations(node: NodeId) -> set[str]:
        found = set()
        for u in read[node]:
            view = OPS[cell.nodes[u].op].category == "view"
            found |= operations(u) if view else {cell.nodes[u].op}
        return found

    known = {p.name: operations(p.node) for p in cell.params}
    return {name: next(iter(ops)) if len(ops) == 1 else "" for name, ops in known.items()}


def ways(
    mixer: Mixer, own: Mapping[str, Tensor], read_by: Mapping[str, str], sizes: Sizes
) -> Iterator[tuple[dict[str, Tensor], Sizes]]:
    """Every one-to-one assignment of parameters to parts under which the named sizes have one value each; those first
    in which the operations fit.
    """
    parts = mixer.parts
    if sorted(map(len, parts.values())) != sorted(x.ndim for x in own.values()):
        return
    left = MOST_TRIED
    # parts with the fewest candidates first: the sizes that they fix rule out the most
    order = sorted(parts, key=lambda p: sum(x.ndim == len(parts[p]) for x in own.values()))

    def extend(at: int, taken: dict[str, str], known: Sizes) -> Iterator[tuple[dict[str, Tensor], Sizes]]:
        if at == len(order):
            yield {part: own[name] for part, name in taken.items()}, known
            return
        nonlocal left
        part = order[at]
        wanted = mixer.read_by.get(part, "einsum")
        for name in sorted(own, key=lambda n: read_by.get(n, "") != wanted):
            left -= 1
            if left < 0:
                return
            if name not in taken.values() and (found := unified(parts[part], own[name].shape, known)) is not None:
                yield from extend(at + 1, {**taken, part: name}, found)

    yield from extend(0, {}, sizes)


def unified(shape: Shape, actual: Sequence[int], known: Sizes) -> Sizes | None:
    """The sizes, with those that a shape fixes; None where it contradicts them."""
    if len(shape) != len(actual):
        return None
    found = dict(known)
    for name, n in zip(shape, actual, strict=True):
        if found.setdefault(name, n) != n:
            return None
    return found


# ---------------------------------------------------------------- Mamba


def _mamba(sizes: Sizes) -> nn.Module:
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    names = {"hidden_size": "d", "intermediate_size": "e", "state_size": "n", "time_step_rank": "r", "conv_kernel": "k"}
    given: dict[str, Any] = {theirs: sizes[ours] for theirs, ours in names.items()}
    module: nn.Module = MambaMixer(MambaConfig(**given, num_hidden_layers=1), layer_idx=0)
    return module


def _fill_mamba(theirs: Mapping[str, Tensor], ours: Parts) -> None:
    theirs["in_proj.weight"].copy_(torch.cat([ours["u"], ours["z"]]))
    theirs["x_proj.weight"].copy_(torch.cat([ours["low"], ours["B"], ours["C"]]))
    theirs["conv1d.weight"].copy_(ours["conv"].unsqueeze(1))
    for name, part in (
        ("conv1d.bias", "conv bias"),
        ("dt_proj.weight", "dt"),
        ("dt_proj.bias", "dt bias"),
        ("A_log", "A"),
        ("D", "D"),
        ("out_proj.weight", "y"),
    ):
        theirs[name].copy_(ours[part])


def _mamba2(sizes: Sizes) -> nn.Module:
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    if sizes["e"] % sizes["d"]:
        raise ValueError("the inner width is a multiple of the width there")
    given: dict[str, Any] = {
        "hidden_size": sizes["d"],
        "expand": sizes["e"] // sizes["d"],
        "num_heads": sizes["h"],
        "head_dim": sizes["p"],
        "state_size": sizes["n"],
        "conv_kernel": sizes["k"],
    }
    module: nn.Module = Mamba2Mixer(Mamba2Config(**given, n_groups=1, num_hidden_layers=1), layer_idx=0)
    return module


def _fill_mamba2(theirs: Mapping[str, Tensor], ours: Parts) -> None:
    theirs["in_proj.weight"].copy_(torch.cat([ours["z"], ours["u"].flatten(0, 1), ours["B"], ours["C"], ours["dt"]]))
    convolved = [ours["u conv"].flatten(0, 1), ours["B conv"], ours["C conv"]]
    theirs["conv1d.weight"].copy_(torch.cat(convolved).unsqueeze(1))
    theirs["conv1d.bias"].copy_(torch.cat([ours["u conv bias"].flatten(), ours["B conv bias"], ours["C conv bias"]]))
    for name, part in (("dt_bias", "dt bias"), ("A_log", "A"), ("D", "D"), ("norm.weight", "norm")):
        theirs[name].copy_(ours[part])
    theirs["out_proj.weight"].copy_(ours["y"])


def _gated_deltanet(sizes: Sizes) -> nn.Module:
    from transformers import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    given: dict[str, Any] = {
        "hidden_size": sizes["d"],
        "linear_num_key_heads": sizes["h"],
        "linear_num_value_heads": sizes["h"],
        "linear_key_head_dim": sizes["K"],
        "linear_value_head_dim": sizes["V"],
        "linear_conv_kernel_dim": sizes["k"],
    }
    module: nn.Module = Qwen3NextGatedDeltaNet(Qwen3NextConfig(**given, num_hidden_layers=1, vocab_size=8), layer_idx=0)
    return module


def _fill_gated_deltanet(theirs: Mapping[str, Tensor], ours: Parts) -> None:
    wide = torch.cat([ours[x] for x in ("q", "k", "v", "z")], 1)
    theirs["in_proj_qkvz.weight"].copy_(wide.flatten(0, 1))
    theirs["in_proj_ba.weight"].copy_(torch.stack([ours["beta"], ours["alpha"]], 1).flatten(0, 1))
    convolved = torch.cat([ours[f"{x} conv"].flatten(0, 1) for x in ("q", "k", "v")])
    theirs["conv1d.weight"].copy_(convolved.unsqueeze(1))
    for name, part in (("A_log", "A"), ("dt_bias", "dt bias"), ("norm.weight", "norm"), ("out_proj.weight", "y")):
        theirs[name].copy_(ours[part])


MIXERS = (
    Mixer(
        name="MambaMixer",
        parts={
            "u": ("e", "d"),
            "z": ("e", "d"),
            "y": ("d", "e"),
            "conv": ("e", "k"),
            "conv bias": ("e",),
            "low": ("r", "e"),
            "B": ("n", "e"),
            "C": ("n", "e"),
            "dt": ("e", "r"),
            "dt bias": ("e",),
            "A": ("e", "n"),
            "D": ("e",),
        },
        read_by={"conv": "conv", "conv bias": "conv", "dt bias": "add", "A": "exp", "D": "mul"},
        make=_mamba,
        fill=_fill_mamba,
    ),
    Mixer(
        name="Mamba2Mixer",
        parts={
            "dt bias": ("h",),
            "A": ("h",),
            "D": ("h",),
            "B": ("n", "d"),
            "B conv": ("n", "k"),
            "B conv bias": ("n",),
            "C": ("n", "d"),
            "C conv": ("n", "k"),
            "C conv bias": ("n",),
            "z": ("e", "d"),
            "u": ("h", "p", "d"),
            "u conv": ("h", "p", "k"),
            "u conv bias": ("h", "p"),
            "dt": ("h", "d"),
            "norm": ("e",),
            "y": ("d", "e"),
        },
        read_by={
            **{f"{x} conv": "conv" for x in ("u", "B", "C")},
            **{f"{x} conv bias": "conv" for x in ("u", "B", "C")},
            "dt bias": "add",
            "A": "exp",
            "D": "mul",
            "norm": "mul",
        },
        make=_mamba2,
        fill=_fill_mamba2,
    ),
    Mixer(
        name="Qwen3NextGatedDeltaNet",
        parts={
            "q": ("h", "K", "d"),
            "k": ("h", "K", "d"),
            "v": ("h", "V", "d"),
            "z": ("h", "V", "d"),
            "q conv": ("h", "K", "k"),
            "k conv": ("h", "K", "k"),
            "v conv": ("h", "V", "k"),
            "A": ("h",),
            "dt bias": ("h",),
            "beta": ("h", "d"),
            "alpha": ("h", "d"),
            "norm": ("V",),
            "y": ("d", "e"),
        },
        read_by={
            **{f"{x} conv": "conv" for x in ("q", "k", "v")},
            "dt bias": "add",
            "A": "exp",
            "norm": "mul",
        },
        make=_gated_deltanet,
        fill=_fill_gated_deltanet,
    ),
)

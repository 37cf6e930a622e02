"""Compiles the kernels of chunkwise scans with decays ahead of time, as `rnnc.runtime.gpu.gated` launches them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from rnnc.backends.triton.ahead import TYPES, Resources, _built, machine_of
from rnnc.runtime.gpu import gated_sizes as sizes
from rnnc.runtime.gpu.intra import alike, pairs, spread
from rnnc.runtime.gpu.walk import gate_gradient, walk

PASSES = {  # of a scan with keys K and values V: which kernel, and what the table calls it
    "alike": "`alike`: scores, one decay a step",
    "pairs": "`pairs`: scores, a decay per key",
    "spread": "`spread`: a chunk's own part of dq",
    "spread back": "`spread`, backward: of dk",
    "spread values": "`spread`, scaled: of o, a decay per value",
    "outputs": "`walk`: o",
    "values": "`walk`, backward: dv",
    "queries": "`walk`, outer: dq",
    "keys": "`walk`, outer, backward: dk",
    "keys, one decay": "`walk`, backward: dk, one decay a step",
    "states": "`walk` without outputs",
    "gate": "`gate_gradient`",
    "normalised scores": "`alike`, with a normaliser: of dO and v",
    "normalised outputs": "`walk`, with a normaliser: o",
    "normalised queries": "`walk`, with a normaliser: dq",
    "normalised keys": "`walk`, with a normaliser, backward: dk",
}
PRECISE = {"g", "total", "start", "last", "kept", "ends", "end", "intra", "d_g", "d_r", "d_w"}  # float32 arrays
PRECISE |= {"x_extra", "out_extra", "x_extra_scaled", "y_extra_scaled"}
TABLES = {"table", "runs", "owner"}  # of packed sequences
ODD = {"T", "H", "SPAN", "S", "RUNS", "SIZE"}  # sizes that need not be divisible by 16


def compiled_gated(
    which: str,
    target: str,
    keys: int,
    values: int,
    dtype: torch.dtype = torch.bfloat16,
    *,
    old: bool = False,
    base: int = 1,
    packed: bool = False,
    ones: Collection[str] = (),
) -> Resources:
    """Compile one of PASSES; `ones`: sizes and strides that are 1, of which a launch makes constants."""
    kernel, constants = _pass(which, keys, values, dtype, machine_of(target), old, base)
    constants["PACKED"] = packed
    precise = PRECISE | ({"out"} if which.startswith(("spread", "queries", "keys", "normalised")) else set())
    names: list[str] = list(kernel.arg_names)
    constants |= {n: 1 for n in names if n.endswith(("_n", "_m")) or n in ones}
    signature: dict[str, str] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for k, name in enumerate(names):
        plain = name.removesuffix("_ptr")
        if name in constants:
            signature[name] = "constexpr"
            continue
        kind = "i64" if plain in TABLES else "fp32" if plain in precise else TYPES[dtype]
        signature[name] = "i32" if plain == name else f"*{kind}"
        if name not in ODD and not (kernel is alike and name.startswith("g_") and plain == name):
            attributes[k,] = [["tt.divisibility", 16]]
    warps = sizes.warps_of(kernel.__name__, constants, machine_of(target))
    return _built(kernel, target, signature, attributes, constants, {"num_warps": warps})


def _pass(
    which: str, keys: int, values: int, dtype: torch.dtype, machine: str, old: bool, base: int
) -> tuple[Any, dict[str, Any]]:
    def walked(inner: int, outer: int, **flags: bool) -> tuple[Any, dict[str, Any]]:
        return walk, sizes.walk_constants(inner, outer, dtype, machine, old=old, **flags)

    def spreading(inner: int, outer: int, *, reverse: bool = False, scaled: bool = False) -> tuple[Any, dict[str, Any]]:
        found = sizes.spread_constants(inner, outer, dtype, machine, old=old, reverse=reverse, scaled=scaled, base=base)
        return spread, found

    match which:
        case "alike":
            return alike, sizes.alike_constants(keys, dtype, old=old)
        case "pairs":
            return pairs, sizes.pairs_constants(keys, dtype, machine, old=old, strict=old, base=base)
        case "spread":
            return spreading(values, keys)
        case "spread back":
            return spreading(values, keys, reverse=True)
        case "spread values":
            return spreading(keys, values, scaled=True)
        case "outputs":
            return walked(keys, values, across=False, reverse=False, keep=True)
        case "values":
            return walked(keys, values, across=False, reverse=True)
        case "queries":
            return walked(values, keys, across=True, reverse=False)
        case "keys":
            return walked(values, keys, across=True, reverse=True, ends=True)
        case "keys, one decay":
            return walked(values, keys, across=False, reverse=True, ends=True)
        case "states":
            return walked(keys, values, across=False, reverse=False, out=False)
        case "normalised scores":
            return alike, sizes.alike_constants(values, dtype, old=old, extra=True)
        case "normalised outputs":
            return walked(keys, values, across=False, reverse=False, keep=True, column=True)
        case "normalised queries":
            return walked(values, keys, across=False, reverse=False, row=True)
        case "normalised keys":
            return walked(values, keys, across=False, reverse=True, ends=True, row=True)
        case "gate":
            low = {"LOW_R": dtype.itemsize < 4, "LOW_W": dtype.itemsize < 4}
            return gate_gradient, sizes.gate_constants(keys, dtype, old=old) | low
        case _:
            raise ValueError(f"there is no pass {which!r}")

"""Compiles the kernels of chunkwise scans with decays ahead of time, as `rnnc.runtime.gpu.gated` launches them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from rnnc.backends.triton.ahead import TYPES, Resources, _built, machine_of
from rnnc.runtime.gpu import gated_sizes as sizes
from rnnc.runtime.gpu.alike import alike, gate_gradient
from rnnc.runtime.gpu.gates import channel_gradients
from rnnc.runtime.gpu.intra import pairs, spread
from rnnc.runtime.gpu.walk import walk

PASSES = {  # of a scan with keys K and values V: which kernel, and what the table calls it
    "alike": "`alike`: scores, one decay a step",
    "pairs": "`pairs`: scores, a decay per key",
    "spread": "`spread`: a chunk's own part of o, a decay per value",
    "channels": "`channel_gradients`: dq, dk and dg, a decay per key",
    "channels, values": "`channel_gradients`: dv and dg, a decay per value",
    "outputs": "`walk`: o, a decay per key",
    "values": "`walk`, backward: dv, a decay per key",
    "queries": "`walk`, outer: dq, a decay per key",
    "keys": "`walk`, outer, backward: dk, a decay per key",
    "outputs, one decay": "`walk`: o, one decay a step",
    "values, one decay": "`walk`, backward: dv, one decay a step",
    "queries, one decay": "`walk`: dq, one decay a step",
    "keys, one decay": "`walk`, backward: dk, one decay a step",
    "states": "`walk` without outputs, a decay per key",
    "states, one decay": "`walk` without outputs, one decay a step",
    "gate": "`gate_gradient`: dg, one decay",
    "normalised scores": "`alike`, with a normaliser: of dO and v",
    "normalised outputs": "`walk`, with a normaliser: o",
    "normalised queries": "`walk`, with a normaliser: dq",
    "normalised keys": "`walk`, with a normaliser, backward: dk",
}
PRECISE = {"g", "total", "start", "last", "kept", "ends", "end", "intra", "d_g", "d_w"}  # float32
PRECISE |= {"other", "x_extra", "extra", "out_extra", "out_fade", "z_fade", "read", "write", "written", "sums"}
TABLES = {"table", "runs", "owner"}  # of packed sequences
ODD = {"T", "H", "SPAN", "S", "RUNS", "SIZE", "S_N", "S_M"}  # sizes that need not be divisible by 16


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
    columns: int = 0,
    ones: Collection[str] = (),
) -> Resources:
    """Compile one of PASSES; `ones`: sizes and strides that are 1, of which a launch makes constants; `columns`: a walk
    has no more, as where programs are few.
    """
    kernel, constants = _pass(which, keys, values, dtype, machine_of(target), old, base, columns)
    constants["PACKED"] = packed
    precise = PRECISE | ({"out"} if which in ("spread", "queries", "keys") else set())
    precise |= {"d_r"} if which == "channels" else set()
    names: list[str] = list(kernel.arg_names)
    turned = "S_N" if which.startswith(("queries", "keys", "normalised queries", "normalised keys")) else "S_M"
    constants |= {n: 1 for n in names if n.endswith(("_n", "_m")) or n in ones or n == turned}
    signature: dict[str, str] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for k, name in enumerate(names):
        plain = name.removesuffix("_ptr")
        if name in constants:
            signature[name] = "constexpr"
            continue
        wide = "fp64" if dtype == torch.float64 else "fp32"
        kind = "i64" if plain in TABLES else wide if plain in precise else TYPES[dtype]
        signature[name] = "i32" if plain == name else f"*{kind}"
        if name not in ODD and not (kernel is alike and name.startswith("g_") and plain == name):
            attributes[k,] = [["tt.divisibility", 16]]
    warps = sizes.warps_of(kernel.__name__, constants, machine_of(target))
    options = {"num_warps": warps} | sizes.registers_of(kernel.__name__, constants, machine_of(target))
    return _built(kernel, target, signature, attributes, constants, options)


def _pass(
    which: str, keys: int, values: int, dtype: torch.dtype, machine: str, old: bool, base: int, columns: int
) -> tuple[Any, dict[str, Any]]:
    def walked(inner: int, outer: int, **flags: bool) -> tuple[Any, dict[str, Any]]:
        return walk, sizes.walk_constants(inner, outer, dtype, machine, old=old, columns=columns, **flags)

    def channels(inner: int, outer: int, *, both: bool) -> tuple[Any, dict[str, Any]]:
        found = sizes.channel_constants(inner, outer, dtype, machine, old=old, both=both, base=base)
        return channel_gradients, found

    single = which.endswith("one decay")
    match which:
        case "alike":
            return alike, sizes.alike_constants(keys, dtype, old=old)
        case "pairs":
            return pairs, sizes.pairs_constants(keys, dtype, machine, old=old, strict=old, base=base)
        case "spread":
            return spread, sizes.spread_constants(keys, values, dtype, machine, old=old, base=base)
        case "channels":
            return channels(values, keys, both=True)
        case "channels, values":
            return channels(keys, values, both=False)
        case "outputs" | "outputs, one decay":
            return walked(keys, values, alike=single, keep=True)
        case "values" | "values, one decay":
            return walked(keys, values, alike=single, reverse=True)
        case "queries":
            return walked(values, keys, across=True, last=False)
        case "keys":
            return walked(values, keys, across=True, reverse=True, ends=True)
        case "queries, one decay":
            return walked(values, keys, alike=True, sums=True, last=False)
        case "keys, one decay":
            return walked(values, keys, alike=True, sums=True, reverse=True, ends=True)
        case "states" | "states, one decay":
            return walked(keys, values, alike=single, out=False)
        case "normalised scores":
            return alike, sizes.alike_constants(values, dtype, old=old, extra=True)
        case "normalised outputs":
            return walked(keys, values, alike=True, keep=True, column=True)
        case "normalised queries":
            return walked(values, keys, alike=True, sums=True, last=False, row=True)
        case "normalised keys":
            return walked(values, keys, alike=True, sums=True, reverse=True, ends=True, row=True)
        case "gate":
            return gate_gradient, sizes.gate_constants(keys, dtype, old=old, blocks=(-(-keys // 16),) * 2)
        case _:
            raise ValueError(f"there is no pass {which!r}")

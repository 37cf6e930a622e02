"""Compiles the low-rank kernels ahead of time, as `rnnc.runtime.gpu.low_rank_operator` launches them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from rnnc.backends.triton.ahead import TYPES, Resources, _built, machine_of
from rnnc.runtime.gpu import low_rank_backward, low_rank_inverse, low_rank_kernels, low_rank_keyed
from rnnc.runtime.gpu.low_rank_sizes import constants_of, default_way

MODULES = (low_rank_inverse, low_rank_keyed, low_rank_kernels, low_rank_backward)
COMMON = ("low_rank_inverse", "low_rank_walk", "low_rank_outputs", "low_rank_walk_back")
KERNELS = ("low_rank_scores", *COMMON, "low_rank_backward")
KEYED = (
    "low_rank_pairs",
    *COMMON,
    "low_rank_products",
    "low_rank_keyed_reads",
    "low_rank_keyed_rows",
)  # where every key has a decay
SIDES = ("low_rank_pairs",)  # launched once for reads and once for rows
PRECISE = (
    "s",
    "c",
    "g",
    "start",
    "last",
    "d_s",
    "d_c",
    "d_g",
    "d_last",
    "d_start",
    "system",
    "total",
    "through",
)  # float32 arrays
ODD = ("L", "H", "E", "ROWS")  # sizes that need not be divisible by 16


def compiled_low_rank(
    which: str,
    target: str,
    keys: int,
    values: int,
    dtype: torch.dtype = torch.bfloat16,
    *,
    rows: int = 1,
    gate: bool = True,
    tied: bool = True,
    keyed: bool = False,
    base: int = 1,
    keep: bool = False,
    reads: bool = False,
    ones: Collection[str] = (),
) -> Resources:
    """Compile one of the kernels; `keep`: the walk of a backward, which keeps states and writes no outputs;
    `reads`: the scores of reads, not of rows; `ones`: sizes and strides that are 1, of which a launch makes constants.
    """
    kernel = next(getattr(m, which) for m in MODULES if hasattr(m, which))
    if keyed and which in COMMON:  # q, u and b come scaled, each by its own
        tied, gate = False, False
    flags: dict[str, Any] = {"rows": rows, "gate": gate, "tied": tied, "keyed": keyed, "base": base}
    flags["scored"] = default_way("forward", 1, keys, values, dtype, machine_of(target)).scored
    constants = constants_of(which, keys, values, dtype, machine=machine_of(target), **flags)
    options: dict[str, int] = {k: constants.pop(k) for k in ("num_warps", "maxnreg") if k in constants}
    if which == "low_rank_walk":
        constants |= {"OUTPUTS": not keep, "KEEP": keep}
    if which == "low_rank_pairs":
        constants |= {"SYSTEM": True}
    if which in SIDES:
        constants |= {"READS": reads}
    names: list[str] = list(kernel.arg_names)
    constants |= {n: 1 for n in ("q_k", "u_k", "b_k", "v_v", "g_k", *ones) if n in names}
    signature: dict[str, str] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    precise = (*PRECISE, "q_to", "b_to", "u_to") if which in ("low_rank_products", *KEYED[-2:]) else PRECISE
    kinds = {**dict.fromkeys(precise, "fp32"), "bounds": "i64", "table": "i64"}
    for k, name in enumerate(names):
        plain = name.removesuffix("_ptr")
        if name in constants:
            signature[name] = "constexpr"
            continue
        signature[name] = "i32" if plain == name else f"*{kinds.get(plain, TYPES[dtype])}"
        numbers = ("s_", "c_") if "g_k" in names else ("s_", "c_", "g_")
        if (name not in ODD and not name.startswith(numbers)) or name.endswith("_ptr"):
            attributes[k,] = [["tt.divisibility", 16]]
    return _built(kernel, target, signature, attributes, constants, options)

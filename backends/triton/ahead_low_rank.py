"""Compiles the low-rank kernels ahead of time, as `rnnc.runtime.gpu.low_rank_operator` launches them."""

from __future__ import annotations

from typing import Any

import torch

from rnnc.backends.triton.ahead import TYPES, Resources, _built
from rnnc.runtime.gpu import low_rank_inverse, low_rank_kernels
from rnnc.runtime.gpu.low_rank_operator import constants_of

KERNELS = ("low_rank_inverse", "low_rank_walk", "low_rank_outputs", "low_rank_walk_back", "low_rank_backward")
PRECISE = ("s", "c", "g", "start", "last", "d_s", "d_c", "d_g", "d_last", "d_start")  # float32 arrays
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
    keep: bool = False,
) -> Resources:
    """Compile one of the kernels; `keep`: the walk of a backward, which keeps states and writes no outputs."""
    kernel = getattr(low_rank_inverse if which == "low_rank_inverse" else low_rank_kernels, which)
    machine = "old" if target == "sm_80" else "" if target.startswith("sm") else "amd"
    constants = constants_of(which, keys, values, dtype, rows=rows, gate=gate, tied=tied, machine=machine)
    options = {k: constants.pop(k) for k in ("num_warps",)}
    if which == "low_rank_walk":
        constants |= {"OUTPUTS": not keep, "KEEP": keep}
    names: list[str] = list(kernel.arg_names)
    constants |= {n: 1 for n in ("q_k", "u_k", "b_k", "v_v") if n in names}
    signature: dict[str, str] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    kinds = {**dict.fromkeys(PRECISE, "fp32"), "bounds": "i64", "table": "i64"}
    for k, name in enumerate(names):
        plain = name.removesuffix("_ptr")
        if name in constants:
            signature[name] = "constexpr"
            continue
        signature[name] = "i32" if plain == name else f"*{kinds.get(plain, TYPES[dtype])}"
        if (name not in ODD and not name.startswith(("s_", "c_", "g_"))) or name.endswith("_ptr"):
            attributes[k,] = [["tt.divisibility", 16]]
    return _built(kernel, target, signature, attributes, constants, options)

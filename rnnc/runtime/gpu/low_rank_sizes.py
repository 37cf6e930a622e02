"""Sizes of the low-rank kernels: rows of a chunk, blocks of keys and values, warps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from rnnc.runtime.gpu.gated_sizes import base_of
from rnnc.runtime.gpu.tuning import power_of_two

__all__ = ["Blocks", "Way", "base_rows", "blocks_of", "chunk_of", "constants_of", "default_way"]

CHUNK = 64  # rows of a chunk: the height of one product of sm_90's tensor cores
KEYED = ("low_rank_pairs", "low_rank_keyed_reads", "low_rank_keyed_rows")  # they see decays of each key themselves
SHORT = 16  # of float32 ones, which has no tensor cores: a product's operands are all in registers


def chunk_of(dtype: torch.dtype) -> int:
    """Rows of a chunk."""
    return SHORT if dtype == torch.float32 else CHUNK


def base_rows(least: float | None, dtype: torch.dtype) -> int:
    """Rows of the blocks that one product serves where every row's log decay is at least `least`; 1 if unknown."""
    return min(base_of(least, torch.bfloat16), chunk_of(dtype)) if dtype != torch.float16 else 1


@dataclass(frozen=True, slots=True)
class Blocks:
    """Keys and values a program holds at a time, its warps, and the stages of its loads."""

    keys: int
    values: int
    warps: int
    stages: int


def _block(size: int, most: int) -> int:
    return max(16, min(most, power_of_two(size)))


def blocks_of(kernel: str, keys: int, values: int, dtype: torch.dtype, machine: str) -> Blocks:
    """The default configuration: one that spills on no target.

    `machine` is "amd", or "old" for NVIDIA's before sm_90, whose products hold their operands in registers, or "".
    """
    amd, old, whole = machine == "amd", machine == "old", _block(keys, 256)
    if dtype.itemsize == 4 and kernel.startswith("low_rank_walk"):
        return Blocks(whole, 16, 4 if amd else 8, 1)
    warps, stages = 4 if amd else 8, 1 if amd else 2
    match kernel:
        case "low_rank_inverse":
            return Blocks(min(whole, 64), 16, 1 if amd else 4 if old else 2, 1)
        case "low_rank_scores":
            return Blocks(min(whole, 64), 16, warps, 1)
        case "low_rank_pairs" | "low_rank_keyed_reads" | "low_rank_keyed_rows" if dtype.itemsize == 4:  # 16 rows
            return Blocks(min(whole, 16 if old else 32), 16, 4, 1)
        case "low_rank_pairs":
            return Blocks(min(whole, 32), 16, warps, 1)
        case "low_rank_keyed_reads" | "low_rank_keyed_rows":
            return Blocks(min(whole, 32 if amd else 16), 16, warps, 1)
        case "low_rank_backward" | "low_rank_products":
            return Blocks(16 if old else min(whole, 64), _block(values, 32 if old else 64), warps, stages)
        case "low_rank_outputs":
            return Blocks(whole, _block(values, 64 if whole <= 128 else 32), warps, stages)
        case "low_rank_walk_back":
            columns = (32 if whole <= 128 else 16) if old else 64 if whole <= 128 else 32
            return Blocks(whole, _block(values, columns), warps, 1 if whole > (64 if old else 128) else stages)
        case _:
            columns = (32 if whole == 128 else 16) if old else 64 if whole <= 64 else 32 if whole <= 128 else 16
            return Blocks(whole, _block(values, columns), warps, 1 if whole > 128 else stages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How the chain from chunk to chunk runs: columns of a state that a program holds, its warps, stages of its loads.

    `fused`: it writes outputs on the way, which spares writing and reading all states and values; else the chunks'
    outputs are found at once.  `scored`: what reads see of writes is found beforehand.
    """

    columns: int
    warps: int
    stages: int
    fused: bool
    scored: bool


def default_way(role: str, states: int, keys: int, values: int, dtype: torch.dtype, machine: str) -> Way:
    """The way that spills nowhere.  Outputs are written on the way where heads and columns fill the GPU by themselves;
    scores come beforehand where their product leaves no registers for a state.
    """
    kernel = "low_rank_walk_back" if role == "backward" else "low_rank_walk"
    blocks = blocks_of(kernel, keys, values, dtype, machine)
    fills = True
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        fills = states * triton.cdiv(values, blocks.values) >= int(properties.multi_processor_count)
    return Way(
        columns=blocks.values,
        warps=blocks.warps,
        stages=blocks.stages,
        fused=fills,
        scored=dtype.itemsize == 4 or (machine == "old" and keys > 64),
    )


def constants_of(
    kernel: str,
    keys: int,
    values: int,
    dtype: torch.dtype,
    *,
    rows: int = 1,
    shared: int = 1,
    gate: bool = True,
    keyed: bool = False,
    scored: bool = False,
    first: bool = False,
    tied: bool = True,
    old: bool = False,
    packed: bool = False,
    base: int = 1,
    machine: str = "",
) -> dict[str, Any]:
    """Compile-time arguments and options; `dtype` is that of the inputs.

    `keyed`: a decay for each key; `first`: only a time step's first row has any; `scored`: the scores of chunks
    are given; `base`: see `base_rows`.
    """
    blocks = blocks_of(kernel, keys, values, dtype, machine)
    chunk = chunk_of(dtype)
    acc = tl.float64 if dtype == torch.float64 else tl.float32
    found: dict[str, Any] = {"K": keys, "N": rows, "C": chunk, "BK": blocks.keys, "PACKED": packed, "ACC": acc}
    if kernel == "low_rank_products":
        return found | _over_values(blocks, old)
    found["R"] = shared
    if kernel in KEYED:
        found |= {"FIRST": first, "BASE": base, "LOOK": dtype != torch.float16}
        found |= {"LEAST": shared.bit_length() - 1, "LEVELS": chunk.bit_length() - 1}
    else:
        found["GATE"] = gate and not keyed
        found["SUM"] = tl.float64 if dtype.itemsize > 2 else tl.float32  # few, in short chunks: digits cost nothing
    if kernel in ("low_rank_inverse", "low_rank_walk", "low_rank_walk_back"):
        found["KEYED"] = keyed
    if kernel in ("low_rank_walk", "low_rank_outputs", "low_rank_walk_back"):
        found["SCORED"] = scored or keyed
    if kernel not in ("low_rank_outputs", "low_rank_scores", "low_rank_keyed_reads"):
        found["TIED"] = tied
    if kernel != "low_rank_inverse":
        found["OLD"] = old
    if kernel in ("low_rank_inverse", "low_rank_scores", *KEYED):
        # left to itself the assembler stops at 128 registers and spills 2 bytes on sm_100
        free = {"maxnreg": 255} if kernel == "low_rank_keyed_rows" and not machine else {}
        return found | {"num_warps": blocks.warps} | free
    return found | _over_values(blocks, old)


def _over_values(blocks: Blocks, old: bool) -> dict[str, Any]:
    return {"OLD": old, "BV": blocks.values, "STAGES": blocks.stages, "num_warps": blocks.warps}

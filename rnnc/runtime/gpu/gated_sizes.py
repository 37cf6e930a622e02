"""Sizes of the kernels of a chunkwise scan with decays: steps of a chunk, blocks of channels, warps."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton.language as tl

from rnnc.runtime.gpu.compat import tf32
from rnnc.runtime.gpu.tuning import power_of_two

__all__ = [
    "KEPT",
    "LONGEST",
    "alike_constants",
    "base_of",
    "channel_constants",
    "chunk_of",
    "chunks_of",
    "gate_constants",
    "largest",
    "pairs_constants",
    "registers_of",
    "spread_constants",
    "walk_constants",
    "warps_of",
]

LONGEST = 64  # steps of a chunk, at most
CHUNKS = {torch.float32: 16, torch.float64: 16}  # steps; fewest where products have no tensor cores, else 64
KEPT = 256  # steps between two kept states: a quarter of the bytes of the inputs where K = V = 128, in bfloat16
LARGEST = {2: 256, 4: 128, 8: 32}  # entries of a state along an axis, by the bytes of a number: see `largest`
WITH_NORMALISER = 128  # values of a state that has a row more beside them where they are summed over
FLAGS = dict.fromkeys(("ALIKE", "ACROSS", "ADD", "REVERSE", "OLD", "SUMS", "KEEP", "ENDS", "COLUMN", "ROW"), False) | {
    "OUT": True,
    "LAST": True,
}  # of `walk`
SAFE = 124.0  # exponents up to which products of float32 numbers of moderate size stay finite


def base_of(least: float | None, dtype: torch.dtype) -> int:
    """Rows of the blocks that one product serves, given a lower bound of every log decay: |least| (n/2 + 1)
    log2(e) <= 124.

    One where no bound is known, and for float16, whose range is too small.
    """
    if least is None or dtype == torch.float16:
        return 1
    rows = chunk_of(dtype)
    while rows > 1 and -least * (rows / 2 + 1) * math.log2(math.e) > SAFE:
        rows //= 2
    return rows


def largest(dtype: torch.dtype, normaliser: bool = False) -> int:
    """Entries along an axis of a state that one scan takes; beyond them blocks are scans of their own.

    Without tensor cores a thread holds whole rows and columns of a product's operands, so that registers bound the axis
    summed over: float32 with 256 spills 360 to 730 bytes.
    """
    most = LARGEST[dtype.itemsize]
    return min(most, WITH_NORMALISER) if normaliser else most


def block(size: int, most: int) -> int:
    return max(16, min(most, power_of_two(size)))


def pairs_constants(
    inner: int, dtype: torch.dtype, target: str, *, old: bool, strict: bool, base: int, chunk: int = 0
) -> dict[str, Any]:
    common = _common(dtype, chunk)
    return {
        **common,
        "N": inner,
        "OLD": old,
        "STRICT": strict,
        "BASE": base,
        "LOOK": dtype != torch.float16,
        "BN": block(inner, 16 if target == "old" or _plain(dtype) else 32),
        "LEVELS": common["C"].bit_length() - 1,
    }


def alike_constants(
    inner: int, dtype: torch.dtype, *, old: bool, extra: bool = False, chunk: int = 0
) -> dict[str, Any]:
    return {**_common(dtype, chunk), "N": inner, "OLD": old, "EXTRA": extra, "BN": block(inner, 32)}


def spread_constants(
    inner: int, outer: int, dtype: torch.dtype, target: str, *, old: bool, base: int, chunk: int = 0
) -> dict[str, Any]:
    common = _common(dtype, chunk)
    return {
        **common,
        "N": inner,
        "OLD": old,
        "BASE": base,
        "LOOK": dtype != torch.float16,
        "BN": block(inner, 32),
        "BM": block(outer, 16 if target == "old" else 32),
        "LEVELS": common["C"].bit_length() - 1,
    }


def channel_constants(
    inner: int, outer: int, dtype: torch.dtype, target: str, *, old: bool, both: bool, base: int, chunk: int = 0
) -> dict[str, Any]:
    common = _common(dtype, chunk)
    return {
        **common,
        "N": inner,
        "OLD": old,
        "BOTH": both,
        "BASE": base,
        "LOOK": dtype not in (torch.float16, torch.float64),  # float64: registers for one way only
        "EVERY": KEPT // common["C"],
        "BN": block(inner, 16 if target == "old" or dtype.itemsize == 8 else 32),
        "BM": 16,
        "AHEAD": 1 if target == "old" else 3,  # stages of what its product reads: with more 4 bytes spill there
        "LEVELS": common["C"].bit_length() - 1,
    }


def walk_constants(
    inner: int, outer: int, dtype: torch.dtype, target: str, *, chunk: int = 0, columns: int = 0, **flags: bool
) -> dict[str, Any]:
    """`flags` are those of FLAGS that differ from their default; `columns`: a program has no more (0: as many as spill
    nowhere).
    """
    common = _common(dtype, chunk)
    given = FLAGS | {name.upper(): flag for name, flag in flags.items()}
    assert len(given) == len(FLAGS), flags
    wide = block(inner, max(LARGEST.values()))
    few = target == "old" or _plain(dtype)  # where operands, or all of a product, are in registers
    most = max(16, min(32, 2048 // wide) if few else min(64, 4096 // wide))
    if given["ROW"] or given["COLUMN"]:  # a row more that is held, or a column more that is filled in
        most = max(16, most // 2)
    return {
        **common,
        **given,
        "N": inner,
        "EVERY": KEPT // common["C"],
        "BN": wide,
        "BM": min(block(outer, most), columns or most),
        "STAGES": _stages(wide, dtype, target, given["ENDS"], given["ROW"]),
    }


def _stages(wide: int, dtype: torch.dtype, target: str, ends: bool, row: bool) -> int:
    """Of the loads of `walk`: reading ahead takes registers, of which float32 products leave none (they have no tensor
    cores), and 84 KiB with 256 entries, where AMD has 64.
    """
    if dtype.itemsize >= 4 or (target == "amd" and wide > 128):
        return 1
    return 1 if ends and (row or wide >= 128) and target == "old" else 2


def gate_constants(
    keys: int, dtype: torch.dtype, *, old: bool, chunk: int = 0, blocks: tuple[int, int]
) -> dict[str, Any]:
    """`blocks`: those of columns that sums of reads and of writes were taken over."""
    common = _common(dtype, chunk)
    return {
        "ACC": common["ACC"],
        "N": keys,
        "READS": blocks[0],
        "WRITES": blocks[1],
        "OLD": old,
        "EVERY": KEPT // common["C"],
        "C": common["C"],
        "KEYS": power_of_two(keys),
        "MOST": power_of_two(max(blocks)),
    }


def _common(dtype: torch.dtype, chunk: int = 0) -> dict[str, Any]:
    """`chunk`: steps; 0: as many as `chunk_of` says."""
    return {
        "ACC": tl.float64 if dtype == torch.float64 else tl.float32,
        "C": chunk or chunk_of(dtype),
        "PRECISION": "tf32" if _relaxed(dtype) else "ieee",
    }


def _relaxed(dtype: torch.dtype) -> bool:
    """Whether products may be TF32 ones."""
    return dtype == torch.float32 and tf32()


def _plain(dtype: torch.dtype) -> bool:
    """Whether products run without tensor cores, their operands in registers."""
    return dtype.itemsize > 2 and not _relaxed(dtype)


def chunk_of(dtype: torch.dtype) -> int:
    """Steps of a chunk."""
    return 64 if _relaxed(dtype) else CHUNKS.get(dtype, 64)


def chunks_of(dtype: torch.dtype) -> tuple[int, ...]:
    """Steps of a chunk that are worth a measurement, the default first."""
    return (64, 32) if chunk_of(dtype) == 64 else (chunk_of(dtype),)


def registers_of(kernel: str, constants: dict[str, Any], target: str) -> dict[str, int]:
    """What the assembler is told: left to itself it stops at 128, 96 or 64 registers and spills 8 to 28 bytes, where
    the decay lies on few columns (on sm_80, too) and in gradients of decays, and at 80 (4 bytes) in the walk of dv with
    64 columns.
    """
    if target == "amd" or kernel not in ("walk", "channel_gradients"):
        return {}
    if kernel == "walk" and constants["ACROSS"] and constants["BM"] == 16 and constants["C"] > 16:
        return {"maxnreg": 255}
    if target:
        return {}
    if kernel == "channel_gradients":
        return {"maxnreg": 255}
    back = constants["REVERSE"] and not (constants["ALIKE"] or constants["ACROSS"] or constants["ENDS"])
    return {"maxnreg": 128} if back and constants["BM"] == 64 else {}


def warps_of(kernel: str, constants: dict[str, Any], target: str) -> int:
    """Chosen so that nothing spills on any of the four targets of the tests; AMD's threads have twice the registers."""
    if target == "amd":
        return 4
    match kernel:
        case "pairs":
            return 4 if constants["ACC"] == tl.float64 else 8
        case "spread" | "channel_gradients":
            return 8
        case "walk":
            few = target == "old" or constants["C"] < 64 or constants["BN"] >= 128
            return (
                8 if few or (constants["ROW"] and constants["ENDS"]) or constants["BN"] * constants["BM"] > 2048 else 4
            )
        case _:
            return 4

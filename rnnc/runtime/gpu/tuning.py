"""Sizes of blocks: how many steps and channels a program holds, and by how many warps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import prod

import torch

__all__ = [
    "Config",
    "Live",
    "coupled_config",
    "current",
    "default_config",
    "fast_memory",
    "machine",
    "most_warps",
    "on_chip",
    "parts_wanted",
    "programs_wanted",
    "turned_fits",
]

HELD_BY_THREAD = 32  # entries of a tile that a thread holds at most, where a state has inner axes
LIVE = 290  # numbers of 32 bits that a thread of such a backward holds, as `Live` counts them
ONE_WARP = 270  # and as many where one warp hands around what is the same for all channels
STEPS = 8  # of such a tile at most
NEWTON = 512  # of a tile that is solved: two scans of it are under way at a time
LANES = 64  # channels of a warp: two a thread
MOST_STEPS = 64  # of a tile, where channels are few
HELD = 1024  # entries of a state held over all steps
TURNED = 4096  # entries of a product that a step forms of a state and a matrix: 32 a thread


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """`steps` are those of a tile (scan) or between two kept states (sequential).

    `backward_channels` are those of a backward, where they are fewer (0: as many), held by as many fewer warps.
    `splits` are the parts into which a scan divides the steps (0: as many as fill the GPU).  `registers` are those a
    thread may use on NVIDIA's GPUs (0: the assembler decides).
    """

    steps: int
    channels: int
    backward_channels: int = 0
    warps: int = 4
    stages: int = 2
    splits: int = 0
    registers: int = 0

    def launch(self, role: str, machine: str = "") -> dict[str, int]:
        """Options of a launch of the kernel `role`.  The totals of splits may use all registers: they run where
        programs are few.  AMD's compiler takes no number of registers.
        """
        registers = 0 if machine == "amd" else 255 if role.endswith("totals") else self.registers
        warps = max(1, self.warps * self.width(role) // self.channels)
        return {"num_warps": warps} | ({"maxnreg": registers} if registers else {})

    def width(self, role: str) -> int:
        """The channels a program of the kernel `role` holds."""
        return self.backward_channels or self.channels if role.startswith("backward") else self.channels


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """Numbers that a thread of a backward with inner axes holds at once, counted from what its kernel reads and writes;
    by default a selective scan's.

    Of each step `entry` for each of its entries and `channel` for its channel; `carried` for each entry from tile to
    tile.
    """

    entry: float = 5.0
    channel: float = 28.0
    carried: float = 4.0

    def numbers(self, steps: int, entries: int) -> float:
        return steps * (entries * self.entry + self.channel) + entries * self.carried


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()


def default_config(
    kind: str,
    channels: int,
    inner: Sequence[int],
    *,
    parts: int = 1,
    wide: bool = False,
    long: bool = False,
    live: Live = Live(),
    itemsize: int = 2,
) -> Config:
    """Chosen so that no kernel of the library spills; `parts` is 2 for complex states.

    Several stages keep the loads of the next tiles (or steps) under way while one is computed.  Tiles are half as large
    where one composition of a scan is `wide` in itself (logaddexp), or where a step is `long`.  Where a state has inner
    axes, or steps follow each other one by one, the assembler is told that it may use all registers: by itself it saves
    some for more programs at once, and spills.  The largest products of a step (`TURNED`) are shared by eight warps.
    `live` and `itemsize` (bytes of the sequences' numbers) are of a scan with inner axes.
    """
    entries = prod(power_of_two(n) for n in inner)
    if kind == "sequential":
        width = max(1, min(power_of_two(channels), LANES, HELD // (entries * parts)))
        if entries == 1 and not long:
            return Config(steps=32, channels=width, registers=255, warps=1, stages=3)
        return Config(steps=32, channels=width, registers=255, warps=8 if entries * parts >= TURNED else 4)
    if kind == "newton":
        return _newton_config(channels, entries * parts)
    cut = 4 if long else 2 if wide else 1
    if inner:
        return _inner_config(channels, entries * parts, live, LIVE * 4 // (max(4, itemsize) * cut * parts))
    return _scan_config(channels, parts, cut)


def _scan_config(channels: int, parts: int, cut: int) -> Config:
    """One warp, whose threads hold all steps of a tile for their channels, so that a scan is a loop in registers.

    Where channels are too few for a warp its threads lie along time too, and tiles are longer, with half as many steps
    a thread: a composition of steps holds more numbers than a loop.  Tiles have fewer steps by `cut`.
    """
    steps = max(2, 8 // parts // cut)
    width = min(power_of_two(channels), LANES)
    if parts == 1 and width < LANES:
        steps = min(MOST_STEPS, steps * LANES // (2 * width))
    return Config(steps=steps, channels=width, warps=1, stages=4 - parts, registers=255)


def _inner_config(channels: int, entries: int, live: Live, most: float) -> Config:
    """Channels lie over lanes and warps, and a thread holds all entries of its channel: sums and scans are loops.

    Each of four warps has its own channels.  With so many threads Triton loads what is the same for all channels as
    each thread needs it, where one warp would share it out and hand it around (1.19 warp instructions an entry of
    Mamba's forward in place of 0.68).  A backward has one warp where registers allow it: what it sums over channels
    then meets no other warp's (a tenth of the instructions).

    A tile has as many steps as keep the numbers of a thread below `most`: a few more, and registers spill.  Entries
    that are too many for one step are shared by threads, which exchange their sums: half of the numbers is for that.
    """
    if live.numbers(1, entries) > most:
        return _shared_config(channels, entries, live, most / 2)
    steps = 1
    while 2 * steps <= STEPS and live.numbers(2 * steps, entries) <= most:
        steps *= 2
    lanes = 64 if machine() == "amd" else 32
    width = min(power_of_two(channels), 128)
    alone = min(width, lanes) if live.numbers(steps, entries) <= ONE_WARP else 0
    warps = max(1, width // lanes)
    return Config(steps=steps, channels=width, backward_channels=alone, warps=warps, stages=1, registers=255)


def _shared_config(channels: int, entries: int, live: Live, most: float) -> Config:
    """`_inner_config` with tiles of one step, whose entries several threads share."""
    each = entries // 2
    while each > 1 and live.numbers(1, each) > most:
        each //= 2
    warps = 8 if entries > 2 * each else 4
    width = max(1, min(power_of_two(channels), 32 * warps * each // entries))
    warps = max(1, min(warps, width * entries // (32 * each)))
    return Config(steps=1, channels=width, warps=warps, stages=1, registers=255)


def turned_fits(inner: Sequence[int], parts: int) -> bool:
    """Whether a product of axes is held in registers: those of a step whose state is read under several labels."""
    return prod(power_of_two(n) for n in inner) * parts <= TURNED


def _newton_config(channels: int, entries: int) -> Config:
    """Lanes go along time where channels are few: what a step waits for is shared by the steps of a tile."""
    width = max(1, min(power_of_two(channels), 16 // entries))
    return Config(steps=min(64, NEWTON // (width * entries)), channels=width, registers=255, stages=1)


def current() -> int | None:
    """The current device: GPUs of one machine may differ, so what is remembered of one is under its number."""
    return torch.cuda.current_device() if torch.cuda.is_available() else None


def programs_wanted() -> int:
    """Programs that keep the GPU busy: four a multiprocessor.  One where there is no GPU."""
    return _programs_of(current())


@cache
def _programs_of(device: int | None) -> int:
    return 1 if device is None else 4 * int(torch.cuda.get_device_properties(device).multi_processor_count)


def parts_wanted(programs: int) -> int:
    """Into how many parts the steps of a scan are divided which has so many programs of one warp by itself.

    What parts do to a state is found first, for which all inputs are read once more: two thirds more bytes where an
    output is as long as each of two inputs.  Programs of one warp with three stages of loads reach that speed from
    about three a multiprocessor on, so there steps stay undivided; fewer are made as many as make eight.
    """
    wanted = programs_wanted()
    return 1 if 4 * programs >= 3 * wanted else -(-2 * wanted // max(1, programs))


def machine() -> str:
    """What products are done with: "amd", or "old" for NVIDIA's GPUs whose operands are in registers (before sm_90, and
    the small ones from sm_120 on, which have half the shared memory, too), or "".
    """
    return _machine_of(current())


def most_warps() -> int:
    """Of a program that is tried beside the default: with more than four of AMD's a thread has half the registers."""
    return 4 if machine() == "amd" else 8


@cache
def _machine_of(device: int | None) -> str:
    if torch.version.hip:
        return "amd"
    return "old" if device is not None and torch.cuda.get_device_capability(device)[0] not in (9, 10, 11) else ""


SMALL_CELL = 108 * 1024  # bytes of matrices on chip: three of 128 by 128 in 16 bits
ROWS = 16  # sequences a program of a coupled step holds: what one product of matrices takes at least
FAST = {"": 227 * 1024, "old": 163 * 1024, "amd": 128 * 1024}  # bytes for matrices: shared memory, AMD's registers


def fast_memory() -> int:
    """Bytes that one program may use on this device."""
    device = current()
    return FAST[machine()] if device is None or torch.version.hip else _fast_memory_of(device)


@cache
def _fast_memory_of(device: int) -> int:
    return int(getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 99 * 1024))


def on_chip(sizes: Sequence[tuple[int, int]], itemsize: int) -> int:
    """Bytes that matrices of these sizes, those of a coupled step, need on chip, with what products take besides.

    Float32 products run without tensor cores, whose operands want twice the room.
    """
    whole = [(max(16, power_of_two(a)), max(16, power_of_two(b))) for a, b in sizes]
    besides = 2 * ROWS * max(x for pair in whole for x in pair)
    return (sum(a * b for a, b in whole) + besides) * itemsize * (2 if itemsize > 2 else 1)


def coupled_config(
    role: str,
    size: int,
    matrices: int,
    stage: int,
    itemsize: int,
    machine: str,
    fast: int | None = None,
    least: int | None = None,
) -> Config:
    """`steps` are sequences a program holds, `channels` the entries of the longest state, `least` of the shortest one.

    `matrices`: bytes of all matrices and what products take; `stage`: bytes that a program reads in a step, of which as
    many steps as fit are read ahead, up to three.  `fast`: the bytes a program may use, by default a large GPU's.
    """
    wide = max(16, power_of_two(size))
    if machine == "amd":  # matrices are in registers there, and threads have twice as many
        return Config(steps=ROWS, channels=wide, warps=8 if (least or size) > 64 else 4, stages=1)
    if itemsize > 2:  # without tensor cores the operands of products fill the registers
        warps = 8 if role == "backward" or machine == "old" else 4
        return Config(steps=ROWS, channels=wide, warps=warps, stages=1, registers=255)
    room = ((FAST[machine] if fast is None else fast) - matrices) // stage
    # The assembler spills a little of small cells unless it is told to use all registers, and of large ones if it is.
    registers = 255 if matrices <= SMALL_CELL else 0
    stages = max(1, min(3, 1 + room))
    return Config(steps=ROWS, channels=wide, warps=8 if wide >= 64 else 4, stages=stages, registers=registers)

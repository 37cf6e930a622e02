"""Sizes of blocks: how many steps and channels a program holds, and by how many warps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import prod

import torch

__all__ = ["Config", "default_config", "programs_wanted"]

ENTRIES = 1024  # of a tile of a scan: 8 a thread, so that the dozen tiles of a backward fit the registers
HELD = 1024  # entries of a state held over all steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """`steps` are those of a tile (scan) or between two kept states (sequential).

    `backward_channels` are those of a backward, where they are fewer (0: as many).  `splits` are the parts into which a
    scan divides the steps (0: as many as fill the GPU).
    """

    steps: int
    channels: int
    backward_channels: int = 0
    warps: int = 4
    stages: int = 2
    splits: int = 0

    def width(self, role: str) -> int:
        """The channels a program of the kernel `role` holds."""
        return self.backward_channels or self.channels if role.startswith("backward") else self.channels


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()


def default_config(kind: str, channels: int, inner: Sequence[int], *, parts: int = 1) -> Config:
    """Chosen so that no kernel of the library spills; `parts` is 2 for complex states.

    Three stages keep the loads of the next tiles under way while one is scanned.
    """
    entries = prod(power_of_two(n) for n in inner)
    if kind == "sequential":
        return Config(steps=32, channels=max(1, min(power_of_two(channels), 64, HELD // (entries * parts))))
    steps = 16 if entries * parts == 1 else 8
    width = max(1, min(power_of_two(channels), ENTRIES // (steps * entries * parts)))
    plain = entries * parts == 1
    return Config(
        steps=steps,
        channels=width,
        backward_channels=width if plain else max(1, width // 2),
        stages=3 if plain else 2,
    )


@cache
def programs_wanted() -> int:
    """Programs that keep the GPU busy: four a multiprocessor.  One where there is no GPU."""
    if not torch.cuda.is_available():
        return 1
    return 4 * int(torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count)

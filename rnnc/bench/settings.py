"""What to measure, and what a measurement says while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# what is running now, how much of it is done, and how much there is (0: not known)
OnRun = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`batch` sequences of `steps`; `seconds` is the time limit for all runs together.

    `against`: None, "eager-peers" (other people's implementations as they are), or "peers" (PyTorch's
    `associative_scan` also compiled by `torch.compile`, which takes up to a minute and is not counted in `seconds`).
    `loop`: whether the eager loop over steps takes part.
    """

    batch: int = 4
    steps: int = 1024
    rounds: int = 5
    threads: int | None = None
    seconds: float = 60.0
    backends: tuple[str, ...] = ("torch", "cpu")
    against: str | None = None
    loop: bool = True

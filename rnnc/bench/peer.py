"""What an implementation by other people is, for a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """`run(*inputs)` gives the cell's outputs; `parameters` get gradients, where it is `differentiable`.

    One that is compiled for its sizes (`fixed`) is compared at these, and compiled no other time.
    """

    name: str
    run: Callable[..., Tensor]
    parameters: Sequence[Tensor] = ()
    differentiable: bool = True
    fixed: bool = False
    error: float = 0.0  # of its outputs, relative to the cell's

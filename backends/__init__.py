"""The backends: each turns a planned cell into source text.

A backend is reached by name through `BACKENDS`, so that none is imported before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from rnnc.ir.graph import CellIR


class Backend(Protocol):
    """What the module of a backend has to offer."""

    def emit(
        self,
        cell: CellIR,
        *,
        dims: Mapping[str, int] | None,
        strategy: str | Mapping[str, str] | None,
        sources: Mapping[str, str],
    ) -> str:
        """The source text of a standalone module for `cell`; SpecError (E06xx) when it cannot be compiled as asked."""
        ...

    def unavailable(self) -> str | None:
        """Why the emitted text cannot be run on this machine; None where it can."""
        ...


BACKENDS = {
    "torch": "rnnc.backends.torch.backend",
    "cpu": "rnnc.backends.cpu.backend",
    "triton": "rnnc.backends.triton.backend",
}


def load_backend(name: str) -> Backend:
    """The backend called `name`; of texts "auto" is "torch", which runs anywhere.  KeyError for an unknown name."""
    return cast("Backend", import_module(BACKENDS["torch" if name == "auto" else name]))


__all__ = ["BACKENDS", "Backend", "load_backend"]

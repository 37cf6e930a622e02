"""What differs between the versions of Triton that work (3.6 to 3.9), in one place; the interpreter's part is in
`rnnc.runtime.gpu.interpreter`.

Kernels use nothing that changed: no block pointers (gone since 3.7), no descriptors, no experimental operations.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import triton

__all__ = ["LAUNCH", "assembler", "interpreted", "version"]

# Contraction of a * b + c is said to be wanted: it is the default up to 3.9, which warns that 3.10 will do without.
LAUNCH: dict[str, Any] = {"enable_fp_fusion": True}


def interpreted() -> bool:
    """Whether Triton runs its kernels in Python, on the CPU."""
    return bool(triton.knobs.runtime.interpret)


def version() -> str:
    return str(triton.__version__)


def assembler(capability: int) -> Path:
    """The `ptxas` that Triton itself would take for a device of this compute capability (80, 90, 100, ...): which one
    it is depends on the version.
    """
    from triton.backends.nvidia.compiler import get_ptxas

    return Path(get_ptxas(capability).path)

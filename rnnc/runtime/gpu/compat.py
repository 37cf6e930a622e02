"""What differs between the versions of Triton that work (3.6 to 3.9), and of PyTorch, in one place; the interpreter's
part is in `rnnc.runtime.gpu.interpreter`.

Kernels use nothing that changed: no block pointers (gone since 3.7), no descriptors, no experimental operations.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import triton

__all__ = ["LAUNCH", "assembler", "interpreted", "tf32", "version"]

# Contraction of a * b + c is said to be wanted: it is the default up to 3.9, which warns that 3.10 will do without.
LAUNCH: dict[str, Any] = {"enable_fp_fusion": True}


def interpreted() -> bool:
    """Whether Triton runs its kernels in Python, on the CPU."""
    return bool(triton.knobs.runtime.interpret)


def tf32() -> bool:
    """Whether float32 products may be TF32 ones: PyTorch's own switch, off by default.

    Since 2.9 it is `fp32_precision`, and asking the older `allow_tf32` is an error where that was set.
    """
    switch = torch.backends.cuda.matmul
    precision = getattr(switch, "fp32_precision", None)
    return bool(switch.allow_tf32) if precision is None else precision == "tf32"


def version() -> str:
    return str(triton.__version__)


def assembler(capability: int) -> Path:
    """The `ptxas` that Triton itself would take for a device of this compute capability (80, 90, 100, ...): which one
    it is depends on the version.
    """
    from triton.backends.nvidia.compiler import get_ptxas

    return Path(get_ptxas(capability).path)

"""What differs between the versions of Triton that work (3.6 to 3.9), and of PyTorch, in one place; the interpreter's
part is in `rnnc.runtime.gpu.interpreter`.

Kernels use nothing that changed: no block pointers (gone since 3.7), no descriptors, no experimental operations.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.runtime.jit import JITFunction

__all__ = ["LAUNCH", "Built", "assembler", "built_by", "interpreted", "tf32", "version"]

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


class Built(NamedTuple):
    """A kernel on the current device: numbers of 4 bytes that a thread has in memory, spilled registers among them."""

    kernel: str
    spilled: int


_ONE_AT_A_TIME = threading.RLock()


def built_by(run: Callable[[], object]) -> list[Built]:
    """The kernels that `run` launches, compiled and loaded; none is launched.  Other threads launch as ever.

    Raises OutOfResources or PTXASError for one that the device cannot run.  The interpreter compiles none.
    """
    if interpreted():
        return []
    found: list[Built] = []
    thread = threading.get_ident()

    def build(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        if threading.get_ident() != thread:
            return launch(kernel, *args, grid=grid, warmup=warmup, **options)
        built = launch(kernel, *args, grid=grid, warmup=True, **options)
        if built is not None:
            assert built.run is not None  # asked for, it loads the code, and only then are spills known
            found.append(Built(kernel.__name__, int(built.n_spills)))
        return built

    with _ONE_AT_A_TIME:
        launch = JITFunction.run
        JITFunction.run = build  # type: ignore[assignment]
        try:
            run()
        finally:
            JITFunction.run = launch  # type: ignore[method-assign]
    return found

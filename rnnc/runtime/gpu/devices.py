"""Where tensors are: a kernel reads addresses, and one of another device is an error in no one's words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rnnc.runtime.gpu.compat import interpreted

__all__ = ["check_devices"]


def check_devices(tensors: Sequence[Tensor], *, alone: bool = False) -> None:
    """A RuntimeError in plain words for tensors that no kernel can read together.  The first one is a state; `alone`:
    PyTorch runs the same where all are on the CPU.
    """
    state = tensors[0]
    if torch.compiler.is_compiling() or state.is_meta:
        return
    if any(x.device != state.device for x in tensors):
        found = ", ".join(dict.fromkeys(f"`{x.device}`" for x in tensors))
        raise RuntimeError(
            f"the state of this layer is on `{state.device}`, but its kernels were given tensors on {found}: move the "
            "layer, its inputs and the state given to it to one device"
        )
    if not alone and not state.is_cuda and not interpreted():
        raise RuntimeError(
            f"this layer was compiled to Triton kernels, which need a CUDA or HIP device; its state is on "
            f'`{state.device}`: move layer and inputs to the GPU, or compile with backend="torch"'
        )

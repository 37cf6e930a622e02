"""What differs between the versions of torch that are supported, 2.6 and later.

The rest of the runtime and everything that is emitted use only what 2.6 has.  `tests/runtime/test_versions.py` holds
the list of what is used, with the version each came with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch._library.custom_ops import CustomOpDef

__all__ = ["exporting", "operator", "scan_operator", "traced"]

# Came with 2.7.  Without it a compiled program is treated like an exported one: correct, one idle chunk longer.
exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def operator(name: str, schema: str, kernel: Callable[..., Any]) -> CustomOpDef:
    """`kernel` as the operator `rnnc::name` of PyTorch, which mutates none of its arguments.

    The schema is written out: how much of it is inferred from annotations has changed from version to version.
    """
    return torch.library.custom_op(f"rnnc::{name}", kernel, mutates_args=(), schema=schema)


def scan_operator() -> Callable[..., Any] | None:
    """`scan(body, carried, sequences, dim=, reverse=)` as one operation; None where PyTorch has none.  It is not public
    yet (2.6 to 2.13 have it in the same place).
    """
    try:
        from torch._higher_order_ops.scan import scan
    except ImportError:
        return None
    return scan  # type: ignore[no-any-return]


_TRANSFORMS: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)
_MODES: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)
_TRACING: Callable[[], object] = getattr(torch._C, "_get_tracing_state", lambda: None)
_PLAIN = frozenset({torch.Tensor, torch.nn.Parameter})


def traced(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether something looks on that has to see operators: a compiler, an exporter, a transform such as `vmap`, a
    mode, or a subclass of tensors.
    """
    if torch.compiler.is_compiling() or _TRANSFORMS() or _MODES() or _TRACING() is not None:
        return True
    return not _PLAIN.issuperset(map(type, tensors))

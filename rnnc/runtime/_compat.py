"""What differs between the versions of torch that are supported, 2.6 and later.

The rest of the runtime and everything that is emitted use only what 2.6 has.  `tests/runtime/test_versions.py` holds
the list of what is used, with the version each came with.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch._library.custom_ops import CustomOpDef

__all__ = ["empty_cpu", "exporting", "operator", "outside_graphs", "same_layout", "scan_operator", "traced"]

# Came with 2.7.  Without it a compiled program is treated like an exported one: correct, one idle chunk longer.
exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def operator(name: str, schema: str, kernel: Callable[..., Any]) -> CustomOpDef:
    """`kernel` as the operator `rnnc::name` of PyTorch, which mutates none of its arguments.

    The schema is written out: how much of it is inferred from annotations has changed from version to version.
    """
    return torch.library.custom_op(f"rnnc::{name}", kernel, mutates_args=(), schema=schema)


def outside_graphs(function: Callable[..., Any], reason: str) -> Callable[..., Any]:
    """`function`, which `torch.compile` leaves as it is, between two graphs; `fullgraph=True` names the reason."""
    said = {"reason": reason} if "reason" in inspect.signature(torch.compiler.disable).parameters else {}  # since 2.7
    found: Callable[..., Any] = torch.compiler.disable(function, **said)  # type: ignore[no-untyped-call]
    return found


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


_GUARDS: Any = getattr(getattr(torch._C, "_dynamo", None), "guards", None)


def _empty_cpu(size: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty_strided(size, stride, dtype=dtype, device="cpu")


# `torch.empty_strided` on the CPU, whatever the default device, in a third of the time: what compiled programs call.
empty_cpu: Callable[[Sequence[int], Sequence[int], torch.dtype], torch.Tensor] = getattr(
    _GUARDS, "_empty_strided_cpu", _empty_cpu
)


def same_layout(tensors: Sequence[torch.Tensor]) -> Callable[..., bool] | None:
    """One call that says of as many tensors whether each has the class, dtype, device, sizes, strides and
    `requires_grad` that `tensors` has there, is negated or conjugated lazily as that is, and is seen by the same modes,
    transforms and autocast as now (not: by a compiler).  It may say no of tensors that are alike.

    None where PyTorch has no such call: it is the one by which its compiler guards programs, and is not public.
    """
    return _guards(tensors) if _guards_serve() else None


def _guards(tensors: Sequence[torch.Tensor]) -> Callable[..., bool]:
    found = _GUARDS.TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None)
    return found.check  # type: ignore[no-any-return]


@cache
def _guards_serve() -> bool:
    """Whether the call is there and tells apart what it has to."""
    if not hasattr(_GUARDS, "TensorGuards"):
        return False
    x = torch.zeros(2, 3, device="cpu")
    others = [
        x.to(torch.float64),
        x[:1],
        x[0],
        x.mT.contiguous().mT,
        torch.nn.Parameter(x),
        x.detach().requires_grad_(),
    ]
    others += [torch._neg_view(x), torch.zeros(2, 3, device="meta")]
    try:
        check = _guards([x])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = check(x)
        return check(x.clone()) and not cast and not any(map(check, others))
    except (TypeError, RuntimeError):  # of another version: it is called in another way
        return False


def traced(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether something looks on that has to see operators: a compiler, an exporter, a transform such as `vmap`, a
    mode, or a subclass of tensors.
    """
    if torch.compiler.is_compiling() or _TRANSFORMS() or _MODES() or _TRACING() is not None:
        return True
    return not _PLAIN.issuperset(map(type, tensors))

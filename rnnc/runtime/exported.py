"""Sequences of a length that an exporter leaves open, in layers that run one step after the other.

A loop that is written out has as many steps as the example had.  PyTorch's `scan` is one operation with a body, for any
number of steps: there the layer's `step` is that body.  Programs run it as a loop of theirs; nothing else uses it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as tree

from rnnc.runtime._compat import exporting, scan_operator

__all__ = ["open_length", "open_steps"]


def open_length(x: Tensor) -> bool:
    """Whether an exporter keeps the number of steps of [B, T, ...] a variable, and PyTorch can say so in a program."""
    steps: object = x.shape[1]  # a symbol in place of an int, then
    return exporting() and not isinstance(steps, int) and scan_operator() is not None


def own(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def open_steps(module: Any, inputs: tuple[Tensor, ...], state: Any, *, reverse: bool) -> tuple[Any, Any]:
    """Outputs and final state of `module.forward`, by its `step`; `state` None: the initial one."""
    scan = scan_operator()
    assert scan is not None
    first = inputs[0]
    state = module.initial_state(first.shape[0]) if state is None else state
    leaves, form = tree.tree_flatten(state)
    kinds = [s.dtype for s in leaves]

    def body(carried: list[Tensor], given: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """New tensors, laid out as the old ones: `scan` asks for both."""
        y, after = module.step(*given, state=tree.tree_unflatten(list(carried), form))
        new = [
            s.to(kind).clone(memory_format=torch.contiguous_format) for s, kind in zip(tree.tree_leaves(after), kinds)
        ]
        return new, [v.clone(memory_format=torch.contiguous_format) for v in (y if isinstance(y, tuple) else (y,))]

    sequences = [x.movedim(1, 0).contiguous() for x in inputs]
    final, rows = scan(body, [s.contiguous() for s in leaves], sequences, dim=0, reverse=reverse)
    outputs = tuple(y.movedim(0, 1) for y in rows)
    return outputs[0] if len(outputs) == 1 else outputs, tree.tree_unflatten(list(final), form)

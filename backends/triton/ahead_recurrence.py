"""The kernels of a generated file compiled ahead of time as its operators launch them: see `launched`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from rnnc.backends.triton.ahead import Resources
from rnnc.backends.triton.launched import Launch, launches
from rnnc.runtime.gpu import coupled, recurrence
from rnnc.runtime.gpu.arrange import is_complex, lead_of
from rnnc.runtime.gpu.buffers import accumulator_of
from rnnc.runtime.gpu.coupled import CoupledRecurrence
from rnnc.runtime.gpu.operators import Call
from rnnc.runtime.gpu.problem import Problem
from rnnc.runtime.gpu.recurrence import Recurrence
from rnnc.runtime.gpu.tuning import Config

__all__ = ["compiled", "launched"]

ROLES = ("forward", "backward", "totals", "backward_totals")
DIM = 64  # of the cell's dims that a kernel is told besides sizes


def compiled(
    of: Recurrence,
    role: str,
    target: str,
    sizes: Mapping[str, int],
    dtype: torch.dtype = torch.bfloat16,
    config: Config | None = None,
    *,
    mixed: bool = False,
    packed: bool = False,
    batch: int = 2,
    steps: int = 64,
) -> Resources:
    """One kernel ("forward", "backward", "totals", "backward_totals") for contiguous sequences, states and parameters
    of `dtype`, complex ones of float32; `mixed`: states and parameters of float32, as under autocast.

    `sizes` are those of its labels; `batch` sequences of `steps` steps each or, `packed`, together.  Without a `config`
    the default one.
    """
    found = launched(of, role, target, sizes, dtype, config, mixed=mixed, packed=packed, batch=batch, steps=steps)
    return found.compiled()


def launched(
    of: Recurrence,
    role: str,
    target: str,
    sizes: Mapping[str, int],
    dtype: torch.dtype = torch.bfloat16,
    config: Config | None = None,
    *,
    mixed: bool = False,
    packed: bool = False,
    batch: int = 2,
    steps: int = 64,
) -> Launch:
    """The launch that `compiled` compiles."""
    dims = (DIM,) * (1 + max((k for r in ROLES for k in getattr(of, f"{r}_dims")), default=-1))
    problem = Problem(
        of=of, batch=batch, steps=steps, packed=packed, dims=dims, sizes=sizes, chosen=config, itemsize=dtype.itemsize
    )
    if role.endswith("totals"):  # there are none unless steps are divided, of which each part has a tile
        divided = replace(problem.config, splits=2)
        problem = replace(problem, chosen=divided, steps=max(steps, 2 * divided.steps))
    found = launches(target, lambda: _run(problem, dtype, mixed, role.startswith("backward")))
    (launch,) = [x for x in found if x.kernel is getattr(of, role)]
    return launch


def _run(p: Problem, dtype: torch.dtype, mixed: bool, backward: bool) -> None:
    of = p.of
    bounds = torch.arange(p.batch + 1) * (p.steps // p.batch) if p.packed else None

    def array(descriptor: str, lead: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        kind = torch.float32 if is_complex(descriptor) and dtype.itemsize < 4 else dtype
        return torch.empty(p.shape(descriptor, lead), dtype=kind)

    precise = torch.promote_types(dtype, torch.float32) if mixed else dtype
    inputs = [array(d, p.streams, dtype) if lead_of(d) else array(d, (), precise) for d in of.inputs]
    states, last = ([array(d, (p.batch,), precise) for d in of.states] for _ in range(2))
    outer = [array(d, p.streams, precise) for d in of.outputs]
    if isinstance(of, CoupledRecurrence):
        grid = (p.heads,) if of.axes.grid else ()
        inputs += [torch.empty(*grid, *reversed(of.ends(x, p.sizes)), dtype=dtype) for x in of.products]
    module = coupled if isinstance(of, CoupledRecurrence) else recurrence
    call = Call(p=p, longest=p.steps, bounds=bounds, keep=True, acc=accumulator_of(*inputs, *states))
    found = module.run_forward(call, inputs, states)
    if backward:
        module.run_backward(call, inputs, found[len(outer) + len(last) :], outer, last)

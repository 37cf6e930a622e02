"""Plans for Triton: each group by the kernel, or the form of PyTorch, that is expected to be fastest on the GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from rnnc.analysis.forms import MatrixState, Recurrence
from rnnc.analysis.normalisers import with_normalisers
from rnnc.backends.kernels.chains import joined_chains
from rnnc.backends.kernels.norms import without_norms
from rnnc.backends.kernels.pointwise import pointwise
from rnnc.backends.kernels.turned import by_transitions
from rnnc.backends.torch.backend import Strategies, for_cell, plan_all
from rnnc.backends.triton.forms import has_chunkwise_kernel, in_chunks
from rnnc.backends.triton.work import chunk_work, works_of
from rnnc.ir.graph import CellIR
from rnnc.plan.calibration import Calibration
from rnnc.plan.choose import GroupPlan, Plan, plan
from rnnc.plan.gpu import HOPPER, Gpu, of_properties

__all__ = ["gpu_plan", "named", "plans", "this_gpu"]

FASTER = 2.0  # times that PyTorch, or Newton's method, is expected to be faster than a plain kernel to be taken
PLAIN = ("scan", "chunkwise", "sequential")


def this_gpu() -> Gpu:
    """The first GPU of this machine; where there is none, a Hopper."""
    import torch

    if not torch.cuda.is_available():
        return HOPPER
    return of_properties(torch.cuda.get_device_properties(0), hip=torch.version.hip is not None)


def plans(
    cell: CellIR, dims: Mapping[str, int] | None, strategy: Strategies, gpu: Gpu | None = None
) -> dict[CellIR, Plan]:
    """Plans of a cell and of those it calls, called ones first, with updates made pointwise where a form allows it."""
    gpu = gpu or this_gpu()
    found = {}
    for c, p in plan_all(cell, dims, strategy).items():
        if not c.states:
            found[c] = p
            continue
        asked = for_cell(c, cell, strategy)
        found[c] = _with_normalisers(_planned(p, dims if c == cell else None, asked, gpu), asked)
    return found


def _planned(p: Plan, dims: Mapping[str, int] | None, asked: Strategies, gpu: Gpu) -> Plan:
    """The plan again, among the kernels; what was asked for stays."""
    kept = {s: g.strategy for g in p.groups if named(g, asked) for s in g.group.states}
    whole = gpu_plan(p.recurrence, dims, gpu, strategy=kept or None)
    cell = whole.recurrence.cell
    return replace(whole, groups=tuple(_across(cell, _plain_first(g, asked), asked) for g in whole.groups))


def gpu_plan(
    recurrence: Recurrence,
    dims: Mapping[str, int] | None,
    gpu: Gpu,
    *,
    strategy: Mapping[str, str] | None = None,
    rates: Calibration | None = None,
    native: bool = True,
) -> Plan:
    """The plan of one cell's recurrence on a GPU, among Triton's kernels (`native`) and PyTorch's forms."""
    ready = by_transitions(pointwise(without_norms(joined_chains(recurrence))))
    works = works_of(ready) if native else None
    return plan(ready, dims, strategy, device="cuda", rates=rates, natives=works, gpu=gpu)


def _plain_first(g: GroupPlan, asked: Strategies) -> GroupPlan:
    """A plain kernel instead of PyTorch or Newton's method, unless that is faster by far.

    A kernel has the gates inside and stores less, which the estimates of a group alone do not tell; and Newton's
    iterations are as many as inputs need.
    """
    if named(g, asked) or (g.chosen.native and g.strategy in PLAIN):
        return g
    best = next((o for o in g.ranked if o.native and o.name in PLAIN), None)
    if best is None or best.seconds is None or g.chosen.seconds is None:
        return g
    return replace(g, chosen=best) if best.seconds < FASTER * g.chosen.seconds else g


def _across(cell: CellIR, g: GroupPlan, asked: Strategies) -> GroupPlan:
    """A matrix state that is read along its other axis than the decay's, by chunks instead of entry by entry: PyTorch
    has none, the kernels have.
    """
    form = next((f for f in g.group.forms if isinstance(f, MatrixState) and f.across), None)
    if form is None or g.strategy not in ("scan", "sequential") or named(g, asked):
        return g
    read = form.read_across()
    if not has_chunkwise_kernel(cell, read):
        return g
    why = "read along the axis that does not decay"
    chosen = replace(g.chosen, name="chunkwise", form=read, safety=why, why=chunk_work(cell, read).why)
    return replace(g, chosen=chosen)


def _with_normalisers(p: Plan, asked: Strategies) -> Plan:
    """The plan with the normalisers of matrix states that run by chunkwise kernels, where those may take them along."""
    recurrence = with_normalisers(p.recurrence)
    scanned = {g.group.states[0] for g in p.groups if g.strategy in ("scan", "sequential") and not named(g, asked)}
    taken: set[str] = set()
    groups = []
    for g, new in zip(p.groups, recurrence.groups, strict=True):
        form = g.form
        if isinstance(form, MatrixState) and in_chunks(p.recurrence.cell, g) and not form.steps[0].low_rank:
            n = next((f.normaliser for f in new.forms if isinstance(f, MatrixState)), None)
            if n is not None and not form.reads_across and n.state in scanned - taken:
                taken.add(n.state)
                g = replace(g, chosen=replace(g.chosen, form=replace(form, normaliser=n)))
        groups.append(g)
    return replace(p, recurrence=recurrence, groups=tuple(groups)) if taken else p


def named(g: GroupPlan, asked: Strategies) -> bool:
    """Whether the group's strategy was asked for by name."""
    return asked == g.strategy or (isinstance(asked, Mapping) and bool(set(g.group.states) & set(asked)))

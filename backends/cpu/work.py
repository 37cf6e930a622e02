"""What a kernel of the CPU backend does in a step, for the planner: counted from the programs that its C is made of."""

from __future__ import annotations

import re
from fractions import Fraction

from rnnc.backends.cpu.coupled import MOST_ROWS, CoupledKernel
from rnnc.backends.cpu.kernel import CArray, Kernel
from rnnc.backends.cpu.nest import NestKernel
from rnnc.backends.cpu.newton import NewtonKernel
from rnnc.backends.cpu.text import dim_c
from rnnc.backends.kernels.axes import VIEWS
from rnnc.backends.kernels.counts import chain_of, size_product, totals
from rnnc.backends.torch.needs import state_dependence
from rnnc.ir.dims import ONE, Dim
from rnnc.ir.domains.cost import costs, total
from rnnc.plan.cost import size_of
from rnnc.plan.native import Work

SERVED = frozenset({"step", "sequential", "scan"})  # strategies that the loop over time does the work of when asked for
LOOP_CHAIN = 10  # of one loop nest of a step, forward and backward
SPECIAL_FLOPS, NUMBER_FLOPS = 40, 8  # docs/performance.md, "From where on two threads share the work"
PRODUCT_CHAIN = 32  # of a product with a matrix, whose sums are many side by side


def work_of(kernel: Kernel) -> Work:
    """Of the loop over time of one kernel."""
    if isinstance(kernel, NestKernel):
        return _nest_work(kernel)
    forward, backward = kernel.forward, kernel.backward
    again = forward.pruned([r for r in forward.results if r.target == "state"])
    products = _products(kernel)
    kept = bool(kernel.products or kernel.stored)  # all states: nothing is run again
    flops, special = totals((forward, backward) if kept else (forward, again, backward))
    arrays = {a.name: a for a in (*kernel.backward_arrays, *kernel.forward_arrays)}.values()
    layout = kernel.layout
    sequences = [a for a in arrays if a.sequence]
    moved = sum((_numbers(kernel, a) for a in sequences), Dim.of(0))
    shared = sum((_numbers(kernel, a) for a in sequences if layout.vector not in a.labels), Dim.of(0))
    inside = [[x for x in a.axes if x in layout.serial] for a in forward.states]
    return Work(
        strategy="sequential",
        serves=SERVED,
        rates="native products" if kernel.products else "native sequential",
        why="a native kernel, one step after the other",
        flops=flops + products * 3,
        special=special,
        numbers=moved,
        shared=shared,
        near=_near(kernel, kept),
        lanes=ONE if layout.vector is None else forward.sizes[layout.vector],
        height=sum((size_product(forward.sizes[x] for x in axes if x is not None) for axes in inside), Dim.of(0)),
        tasks=size_product(forward.sizes[x] for x in layout.outer),
        chain=chain_of(forward) + PRODUCT_CHAIN * len(getattr(kernel, "rounds", ())),
        forward=totals((forward,))[0] + products,
        rows=MOST_ROWS if isinstance(kernel, CoupledKernel) else 1,
        gates=_gates(kernel),
    )


def newton_work(kernel: NewtonKernel) -> Work:
    """Of Newton's method, where one walk through each window solves it: the states alone are run for a quarter of the
    steps ahead of it, and once more for the backward.
    """
    walk, pull = kernel.walk.program, kernel.pull.program
    flops, special = totals((walk, pull, kernel.backward))
    ahead, more = totals((kernel.forward,))
    arrays = [a for a in (*kernel.solve_arrays, *kernel.pull_arrays) if a.sequence]
    return Work(
        strategy="newton",
        serves=frozenset({"newton"}),
        rates="native newton",
        why="Newton's method by a native kernel: segments of time abreast in vector lanes, each start checked",
        flops=flops + ahead * Dim.of(Fraction(1, 4)),
        special=special + more * Dim.of(Fraction(1, 4)),
        numbers=sum((_numbers(kernel, a) for a in arrays), Dim.of(0)),
        shared=Dim.of(0),
        lanes=ONE if kernel.folded is None else kernel.forward.sizes[kernel.folded],
        height=ONE,
        tasks=ONE,
        chain=0.0,
        forward=totals((walk,))[0],
        gates=_gates(kernel),
        segments=True,
    )


def _nest_work(kernel: NestKernel) -> Work:
    """Of a step that is a graph of loop nests: each of them waits for those before it."""
    step, rule = kernel.step, kernel.rule
    ahead = total(step, [*(s.update for s in step.states), *(o.node for o in step.outputs)])
    back = total(rule.cell, rule.grads.values())
    arrays = {a.name: a for a in (*kernel.backward_arrays, *kernel.forward_arrays)}.values()
    return Work(
        strategy="sequential",
        serves=SERVED,
        rates="native loops",
        why="a native kernel, one step after the other, each a few loops over arrays",
        flops=ahead.flops + back.flops,
        special=ahead.special + back.special,
        numbers=sum((_numbers(kernel, a) for a in arrays if a.sequence), Dim.of(0)),
        lanes=max((s[-1] for s in kernel.shapes if s), key=lambda d: d.constant is None, default=ONE),
        shared=Dim.of(0),
        height=ONE,  # tasks share nothing out along the lanes
        tasks=size_product(kernel.outer),
        chain=LOOP_CHAIN * float(len(kernel.loops)),
        forward=ahead.flops,
        gates=_gates(kernel),
    )


def effort(kernel: Kernel) -> Dim:
    """What the forward does for one step of one sequence, in FLOPs: a special function takes as long as some of them,
    and so does a number that is read or written.  Runtimes decide by it whether threads are worth waking.
    """
    if isinstance(kernel, NestKernel):
        step = kernel.step
        found = total(step, [*(s.update for s in step.states), *(o.node for o in step.outputs)])
        tasks = size_product(kernel.outer)
        flops, special = found.flops * tasks, found.special * tasks
    else:
        flops, special = totals((kernel.forward,))
        flops = flops + _products(kernel)
    moved = sum((_numbers(kernel, a) for a in kernel.forward_arrays if a.sequence), Dim.of(0))
    return flops + special * SPECIAL_FLOPS + moved * NUMBER_FLOPS


def _near(kernel: Kernel, kept: bool) -> Dim:
    """Numbers of state that a step reads and writes in caches.

    A state with an axis that is a loop inside a step lies in memory: it is read and written forward, its gradient
    backward.  States that are worked out again are written, and read.
    """
    sizes, serial = kernel.forward.sizes, kernel.layout.serial
    found = Dim.of(0)
    for state in kernel.forward.states:
        labels = [x for x in state.axes if x is not None]
        passes = (0 if kept else 2) + (4 if any(x in serial for x in labels) else 0)
        found = found + size_product(sizes[x] for x in labels) * passes
    return found


def _products(kernel: Kernel) -> Dim:
    """FLOPs of the products with learned matrices in a step."""
    sizes, total = kernel.forward.sizes, Dim.of(0)
    for p in kernel.products:
        out = size_product(sizes[x] for x in kernel.forward.inputs[p.input].axes if x is not None)
        assert kernel.layout.vector is not None
        total = total + out * sizes[kernel.layout.vector] * 2
    return total


def _numbers(kernel: Kernel, a: CArray) -> Dim:
    complex_ = 2 if a.array.dtype == "complex" else 1
    return size_product(kernel.forward.sizes[x] for x in a.labels) * complex_  # parts are few: one a block of a task


def _gates(kernel: Kernel) -> tuple[tuple[Dim, Dim], ...]:
    """Operations of the region that depend on no state, which PyTorch runs for all steps at once: the numbers that each
    writes and its special functions.
    """
    step = kernel.region.step
    depends = state_dependence(step)
    own = [n for n in step.nodes if n.args and n.op not in VIEWS and not depends[n.id]]
    work = costs(step, [n.id for n in own])
    return tuple((size_of(n.type), work[n.id].special) for n in own)


def sizes_text(k: Kernel) -> str:
    """Functions that say how long the axis of each label is (callers check their tensors by it), and what one step of
    one sequence costs.
    """
    lines = [f"  out[{n}] = z.n{n};" for n in range(len(k.forward.sizes))]
    head = f"void {k.name}_lengths(const int64_t *dims, int64_t *out) {{"
    cost = dim_c(effort(k))
    words = set(re.findall(r"\w+", cost))
    dims = [
        f"  const int64_t d_{d.name} = dims[{n}];" for n, d in enumerate(k.region.step.dims) if f"d_{d.name}" in words
    ]
    asked = [f"int64_t {k.name}_effort(const int64_t *dims) {{", "  (void)dims;", *dims, f"  return {cost};", "}"]
    sizes = f"  struct {k.name}_sizes z = {k.name}_sizes(dims, LANES);"
    return "\n".join(["", head, sizes, *lines, "}", *asked, ""])

"""What the Triton kernels of a group would do, for the planner: counted from the programs that they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rnnc.analysis.forms import Group, MatrixState, Recurrence
from rnnc.backends.kernels.counts import chain_of, size_product, totals
from rnnc.backends.kernels.program import Array
from rnnc.backends.kernels.region import find_region
from rnnc.backends.kernels.turned import find_turned
from rnnc.backends.triton import newton, scan
from rnnc.backends.triton.coupled_step import CoupledStep, by_products, find_coupled_step
from rnnc.backends.triton.forms import has_chunkwise_kernel
from rnnc.backends.triton.kernel import Step, find_step
from rnnc.backends.triton.low_rank import has_low_rank_kernel
from rnnc.backends.triton.stepped import launches
from rnnc.ir.dims import ONE, Dim
from rnnc.ir.graph import CellIR
from rnnc.plan.gpu import GpuWork, levels

LOOP = 90.0  # operations a step waits for besides its own, forward, again and backward: loads, stores, the loop
NEAR = 2  # times the memory's bandwidth, of what stays in the cache: a loop's states before each step, backward
REDUCTION = 40.0  # of a sum over the threads of a program
PRODUCT = 120.0  # of a product of matrices on chip: operands through shared memory, the tensor core, the sum
COMPOSE = 12.0  # of two neighbours' composition in a scan of registers
COMPOSED = 4  # FLOPs that such a composition costs an entry
WALKED = 1  # FLOPs an entry where a scan is a loop over the steps that a thread holds
STEPS = 8  # of a tile of a scan
STEPS_OF_MANY = 2  # where a channel has several numbers
CHANNELS = 64  # of a tile of compositions
HELD = 1024  # numbers of a step in such a tile, as a loop holds
TILE = 64  # of a tile of Newton's method, and rows of a chunk
ITERATIONS = 5.0  # of Newton's method, a tile, forward; the backward takes as many
COLUMNS = 64  # of a matrix state that a program holds
WALK = 200.0  # operations from one chunk to the next: loads, and products that wait for each other
WALKS = {False: 4, True: 3}  # chains from chunk to chunk, forward and backward: of decays, and of low rank
ABREAST = 0.6  # of the work of chunks: all but the chain
KERNELS = {False: 12.0, True: 9.0}  # launches
SERVED = frozenset({"step", "sequential", "scan"})  # asked for, and one kernel does the work of all


def works_of(recurrence: Recurrence) -> dict[int, list[GpuWork]]:
    """The kernels of each group, by its index; groups without any are left out."""
    found: dict[int, list[GpuWork]] = {}
    cell = recurrence.cell
    for at, group in enumerate(recurrence.groups):
        later = [s for other in recurrence.groups[at + 1 :] for s in other.states]
        works = [*_chunks(cell, group), *_steps(cell, group, later)]
        if works:
            found[group.index] = works
    return found


def _steps(cell: CellIR, group: Group, later: Sequence[str]) -> list[GpuWork]:
    """Those whose text is generated."""
    if any(cell.nodes[cell.state(s).node].type.dtype == "bool" for s in group.states):
        return []
    if by_products(cell, group, later):
        coupled = find_coupled_step("step", cell, group, later)
        assert coupled is not None
        return [_coupled(coupled)]
    region = find_region(cell, group, later)
    if region is not None:
        step = find_step("step", cell, region, lambda node: None)
        return [] if step is None else _pointwise(cell, group, step)
    turned = find_turned(cell, group, later)
    step = None if turned is None else find_step("step", cell, turned.region, lambda node: None, turned.readings)
    return [] if step is None else [_sequential(step, "whole states in registers, one step after another")]


def _pointwise(cell: CellIR, group: Group, step: Step) -> list[GpuWork]:
    matrix = any(isinstance(f, MatrixState) for f in group.forms)
    found = [_scan(step, matrix)] if scan.applies(step) else []
    if group.kind == "nonlinear" and newton.applies(cell, group, step):
        found.append(_newton(step))
    return [*found, _sequential(step, "one step after another, the state in registers")]


def _sequential(step: Step, why: str) -> GpuWork:
    forward, backward, sizes = step.forward, step.backward, step.forward.sizes
    again = forward.pruned([r for r in forward.results if r.target == "state"])
    flops, special = totals((forward, again, backward))
    chain = LOOP + 2 * chain_of(forward, REDUCTION) + chain_of_gradients(step) + 3 * REDUCTION * bool(step.readings)
    return GpuWork(
        strategy="sequential",
        serves=SERVED if not scan.applies(step) else SERVED - {"scan"},
        rates="triton sequential",
        why=f"a Triton kernel, {why}",
        flops=flops,
        special=special,
        numbers=_numbers(step) + _numbers(step, inputs=True) + _entries(step) * 2 / NEAR,
        forward=totals((forward,))[0],
        launches=2.0,
        channels=size_product(sizes[x] for x in step.layout.tile),
        entries=size_product(sizes[x] for x in step.layout.inner),
        grid=size_product(sizes[x] for x in step.layout.grid),
        chain=chain,
    )


def chain_of_gradients(step: Step) -> float:
    """Of the derivative of a step: twice its own."""
    return 2 * chain_of(step.forward, REDUCTION)


def _scan(step: Step, matrix: bool) -> GpuWork:
    """A tile is read, scanned forward and (backward) both ways, and the state before it is kept.

    Linear scans walk from step to step in registers, as a loop does; others compose neighbours, which is work besides.
    Of a `matrix` a program holds few columns, whose entries threads hand around as in a composition.
    """
    sequential = _sequential(step, "tiles of steps scanned in registers")
    own, walked = _entries(step), step.semiring == "plus_times" and not matrix
    tile = STEPS_OF_MANY if step.layout.inner and walked else STEPS
    waits = float(tile) if walked else COMPOSE * levels(tile)
    return replace(
        sequential,
        strategy="scan",
        serves=frozenset({"scan"}),
        rates="triton scan",
        flops=sequential.flops + own * (3 * (WALKED if walked else COMPOSED)),
        numbers=_numbers(step) + own * 2 / tile,
        again=_numbers(step, inputs=True) * 2,
        tile=tile,
        held=HELD if walked else CHANNELS,
        chain=LOOP + 3 * waits + 3 * chain_of(step.forward, REDUCTION),
        divided=True,
    )


def _newton(step: Step) -> GpuWork:
    sequential = _sequential(step, "tiles of steps solved in registers by Newton's method")
    tries = 2 * ITERATIONS
    return replace(
        sequential,
        strategy="newton",
        serves=frozenset({"newton"}),
        rates="triton newton",
        flops=sequential.flops * round(tries) + _entries(step) * round(tries * COMPOSE * levels(TILE)),
        special=sequential.special * round(tries),
        numbers=_numbers(step) + _numbers(step, inputs=True),
        tile=TILE,
        held=16,
        chain=LOOP + tries * (2 * chain_of(step.forward, REDUCTION) + COMPOSE * levels(TILE)),
    )


def _coupled(c: CoupledStep) -> GpuWork:
    """Products wait for each other by rounds, forward and backward, where matrices fit on chip; else launches do."""
    step = c.step
    sizes = step.forward.sizes
    flops, special = totals((step.forward, step.backward))
    grid = size_product(sizes[x] for x in step.layout.grid)
    length = dict(zip(step.layout.inner_names, (sizes[x] for x in step.layout.inner)))
    matrices = tuple((length[a], length[b]) for a, b in (c.ends(n) for n in range(len(c.products))))
    products = sum((grid * a * b * 2 for a, b in matrices), Dim.of(0))
    return GpuWork(
        strategy="sequential",
        serves=SERVED,
        rates="triton coupled",
        why="Triton kernels, one step after another, matrices on chip or in products between them",
        flops=flops + products * 3,
        special=special,
        numbers=_numbers(step),
        forward=totals((step.forward,))[0] + products,
        launches=3.0,
        channels=ONE,
        grid=grid,
        matrices=matrices,
        apart=launches(c),
        rows=16,
        resident=1,
        chain=LOOP + 2 * PRODUCT * len(c.rounds) + 3 * chain_of(step.forward),
    )


def _entries(step: Step) -> Dim:
    """Numbers of state of one sequence."""
    return size_product(step.forward.sizes[x] for x in (*step.layout.tile, *step.layout.inner, *step.layout.grid))


def _numbers(step: Step, inputs: bool = False) -> Dim:
    """Numbers that a step reads and writes, forward and backward, or (`inputs`) reads once."""
    forward = step.forward
    given = sum((_size(step, forward.inputs[k]) for k in step.given if not forward.inputs[k].static), Dim.of(0))
    if inputs:
        return given
    written = sum((_size(step, a) for a in forward.outputs), Dim.of(0))
    return given * 3 + written * 2  # read twice and their gradients written; written, and their gradients read


def _size(step: Step, array: Array) -> Dim:
    parts = 2 if array.dtype == "complex" else 1
    return size_product(step.forward.sizes[a] for a in array.axes if a is not None) * parts


# ---------------------------------------------------------------- matrix states in chunks


def _chunks(cell: CellIR, group: Group) -> list[GpuWork]:
    """The chunkwise kernels of the runtime."""
    form = next((f for f in group.forms if isinstance(f, MatrixState)), None)
    if form is None or not (has_chunkwise_kernel(cell, form) or has_low_rank_kernel(cell, form)):
        return []
    return [chunk_work(cell, form)]


def chunk_work(cell: CellIR, form: MatrixState) -> GpuWork:
    """Products inside a chunk and with its state, forward and two and a half times as much backward; chains from chunk
    to chunk, which decays alone let programs share out.
    """
    t = cell.nodes[cell.state(form.state).node].type
    heads = size_product(t.per)
    keys, values = t.shape if form.side == "left" else (t.shape[1], t.shape[0])
    low = any(step.low_rank for step in form.steps)
    rows = max(1, sum(max(len(s.low_rank), len(s.writes)) for s in form.steps))
    gates = keys if any(s.log_decay is not None and cell.nodes[s.log_decay].type.rank for s in form.steps) else ONE
    inside = (keys + values) * (2 * TILE) + keys * values * (6 if low else 4)
    forward = heads * rows * inside
    moved = heads * ((keys + values) * (3 * rows + 2) * 2 + gates * 3 + keys * values / TILE * (4 * rows))
    return GpuWork(
        strategy="chunkwise",
        serves=frozenset({"chunkwise"}),
        rates="triton chunkwise",
        why="Triton kernels, products inside chunks and the states from chunk to chunk",
        flops=forward * 7 / 2,
        special=heads * gates * (4 * rows),
        numbers=moved,
        forward=forward,
        launches=KERNELS[low],
        channels=values,
        grid=heads,
        held=COLUMNS,
        widest=COLUMNS,
        tile=max(1, TILE // rows),
        chain=WALKS[low] * WALK * (1.5 if low else 1.0),
        divided=not low,
        resident=1,
        abreast=ABREAST,
    )

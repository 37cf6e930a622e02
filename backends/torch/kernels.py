"""Groups that a native kernel runs: how its call is written, for a whole sequence and for one step.

A kernel is a variable of the emitted file, called with its inputs, the states before, the values of the cell's dims
and the number of steps (None for a single step, whose values have no time axis); it returns its outputs and the states
after.  Where the file gets the variable from is the backend's business.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rnnc.backends.torch.body import Body
from rnnc.backends.torch.context import dim_name
from rnnc.backends.torch.expr import tuple_text
from rnnc.ir.graph import NodeId

if TYPE_CHECKING:
    from rnnc.backends.torch.functions import Forward


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """`name` is the variable, `inputs` the nodes it reads, `outputs` those it gives for all steps.

    `single`: whether it also serves a single step, rather than the torch backend's expressions.
    """

    name: str
    states: tuple[str, ...]
    inputs: tuple[NodeId, ...]
    outputs: tuple[NodeId, ...]
    single: bool = True


def argument(body: Body, node: NodeId) -> str:
    """An input with all its axes; a complex number as a tensor of the precision of the rest."""
    c, e, t = body.c, body.env[node], body.c.type(node)
    if not (e.number and t.dtype == "complex"):
        return c.whole(e, t).text
    sizes = tuple_text([c.dim(d) for d in (*t.per, *t.shape)]) if (t.per or t.shape) else "()"
    kind = f"torch.promote_types({c.like}.dtype, torch.complex64)"
    return f"torch.full({sizes}, {e.text}, dtype={kind}, device={c.like}.device)"


def call_kernel(body: Body, kernel: Kernel, steps: str) -> dict[str, str]:
    """Write the call; the outputs get variables.  Returns the new states' variables by name.

    Requires: the inputs are built.
    """
    cell = body.c.cell
    inputs = [argument(body, i) for i in kernel.inputs]
    states = [f'state["{s}"]' for s in kernel.states]
    dims = [f"self.{dim_name(d.name)}" for d in cell.dims]
    outputs = [body.names.fresh(body.title(cell.nodes[i])) for i in kernel.outputs]
    finals = {s: body.names.fresh(f"{s}_final") for s in kernel.states}
    for s in kernel.states:
        body.comment(body.source.line(cell.nodes[cell.state(s).update]))
    arguments = [tuple_text(inputs) if inputs else "()", tuple_text(states), tuple_text(dims) if dims else "()", steps]
    targets = f"{_targets(outputs)}, {_targets(finals.values())}"
    one = f"{targets} = {kernel.name}({', '.join(arguments)})"
    if len(one) <= 110:
        body.statement(one)
    else:
        body.lines += [f"{targets} = {kernel.name}(", *(f"    {a}," for a in arguments), ")"]
    for i, name in zip(kernel.outputs, outputs, strict=True):
        body.variable(i, name)
    return finals


def _targets(names: Iterable[str]) -> str:
    """The left side of an assignment that takes a tuple apart."""
    found = list(names)
    return tuple_text(found) if found else "_"


def all_steps(f: Forward, kernel: Kernel) -> None:
    """The whole sequence."""
    f.body.build(kernel.inputs)
    f.finals |= call_kernel(f.body, kernel, f"{f.first_input}.shape[1]")


def one_step(body: Body, kernels: Iterable[Kernel]) -> dict[str, str]:
    """The states' new values by name; what the kernels give is known to `body` afterwards."""
    finals: dict[str, str] = {}
    for kernel in kernels:
        body.build(kernel.inputs)
        finals |= call_kernel(body, kernel, "None")
    return finals

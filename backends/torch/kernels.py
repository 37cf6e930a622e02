"""Groups that a native kernel runs: how its call is written, for a whole sequence and for one step.

A kernel is a variable of the emitted file, called with its inputs, the states before, the values of the cell's dims
and the number of steps (None for a single step, whose values have no time axis); it returns its outputs and the states
after.  Where the file gets the variable from is the backend's business.

A kernel that does not serve all sizes says so when it is asked, `fits(state, input)`, and then PyTorch runs the group.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rnnc.backends.torch.body import Body, indented, state_value
from rnnc.backends.torch.context import Context, dim_name
from rnnc.backends.torch.expr import Expr, tuple_text
from rnnc.backends.torch.needs import closure, count_uses
from rnnc.ir.graph import NodeId
from rnnc.ir.types import Type

if TYPE_CHECKING:
    from rnnc.backends.torch.functions import Forward
    from rnnc.backends.torch.strategies import Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """`name` is the variable, `inputs` the nodes it reads, `outputs` those it gives for all steps.

    `single`: whether it also serves a single step, rather than the torch backend's expressions.  `fits`: the node whose
    dtype, besides a state's size, decides whether it serves at all; None for one that always does.  `packed`: whether
    it takes boundaries of packed sequences as its last argument.  `views`: the types of states whose first axis it sees
    as two, blocks and what is in them.
    """

    name: str
    states: tuple[str, ...]
    inputs: tuple[NodeId, ...]
    outputs: tuple[NodeId, ...]
    single: bool = True
    fits: NodeId | None = None
    packed: bool = False
    views: Mapping[str, Type] = field(default_factory=dict)
    report: str = ""  # the attribute of the module that counts what was done, which is its last argument
    asked: str = ""  # the state whose size decides whether it serves; the first one where none is named

    def before(self, c: Context, state: str) -> str:
        """The state as the kernel sees it."""
        if state not in self.views:
            return f'state["{state}"]'
        shape = self.views[state].shape
        return f'state["{state}"].unflatten({1 - len(shape)}, ({c.dim(shape[0])}, {c.dim(shape[1])}))'

    def after(self, state: str, name: str) -> str:
        """The state as the module sees it, from the kernel's."""
        rank = len(self.views[state].shape)
        return f"{name}.flatten({-rank}, {1 - rank})"


def argument(body: Body, node: NodeId) -> str:
    """An input with all its axes; a complex number as a tensor of the precision of the rest."""
    c, e, t = body.c, body.env[node], body.c.type(node)
    if not (e.number and t.dtype == "complex"):
        return c.whole(e, t).text
    sizes = tuple_text([c.dim(d) for d in (*t.per, *t.shape)]) if (t.per or t.shape) else "()"
    kind = f"torch.promote_types({c.like}.dtype, torch.complex64)"
    return f"torch.full({sizes}, {e.text}, dtype={kind}, device={c.like}.device)"


def call_kernel(body: Body, kernel: Kernel, *last: str) -> dict[str, str]:
    """Write the call; the outputs get variables.  Returns the new states' variables by name.  `last` are the arguments
    behind inputs, states and dims.

    Requires: the inputs are built.
    """
    cell = body.c.cell
    join_projections(body, kernel.inputs)
    inputs = [argument(body, i) for i in kernel.inputs]
    states = [kernel.before(body.c, s) for s in kernel.states]
    dims = [f"self.{dim_name(d.name)}" for d in cell.dims]
    outputs = [body.names.fresh(body.title(cell.nodes[i])) for i in kernel.outputs]
    finals = {s: body.names.fresh(f"{s}_final") for s in kernel.states}
    for s in kernel.states:
        body.comment(body.source.line(cell.nodes[cell.state(s).update]))
    arguments = [tuple_text(inputs) if inputs else "()", tuple_text(states), tuple_text(dims) if dims else "()", *last]
    targets = f"{_targets(outputs)}, {_targets(finals.values())}"
    one = f"{targets} = {kernel.name}({', '.join(arguments)})"
    if len(one) <= 110:
        body.statement(one)
    else:
        body.lines += [f"{targets} = {kernel.name}(", *(f"    {a}," for a in arguments), ")"]
    for s in kernel.views:
        body.statement(f"{finals[s]} = {kernel.after(s, finals[s])}")
    for i, name in zip(kernel.outputs, outputs, strict=True):
        body.variable(i, name)
    return finals


def join_projections(body: Body, nodes: Iterable[NodeId]) -> None:
    """Projections of one sequence, written as one call.

    before: kernel((linear(x, V, a), linear(x, W, b)), ...)      -->  after: v, w = linears(x, (V, W), (a, b))
    """
    found: dict[tuple[str, bool], dict[NodeId, tuple[str, str, str]]] = {}
    for i in nodes:
        given = body.env[i].projection
        if given is not None and argument(body, i) == f"linear({', '.join(a for a in given if a)})":
            found.setdefault((given[0], bool(given[2])), {})[i] = given
    for (x, has_bias), group in found.items():
        if len(group) < 2:
            continue
        names = {i: body.names.fresh(f"{body.title(body.c.cell.nodes[i])}_in") for i in group}
        arguments = [x, tuple_text([w for _, w, _ in group.values()])]
        arguments += [tuple_text([b for _, _, b in group.values()])] if has_bias else []
        body.statement(f"{_targets(names.values())} = {body.c.use('linears')}({', '.join(arguments)})")
        for i, name in names.items():
            body.variable(i, name)


def _targets(names: Iterable[str]) -> str:
    """The left side of an assignment that takes a tuple apart."""
    found = list(names)
    return tuple_text(found) if found else "_"


@dataclass(slots=True, kw_only=True)
class _Branches:
    """Two ways to the same values: statements that a test chooses between when the module runs."""

    body: Body
    kernel: Kernel
    head: list[str] = field(init=False)  # lines before the test
    known: tuple[dict[NodeId, Expr], dict[NodeId, str]] = field(init=False)
    first: list[str] = field(init=False)
    uses: Mapping[NodeId, int] = field(init=False)

    def __post_init__(self) -> None:
        body = self.body
        self.head, self.uses = body.lines, body.uses
        self.known = dict(body.env), dict(body.bound)
        body.lines = []

    def otherwise(self, nodes: Iterable[NodeId]) -> dict[NodeId, str]:
        """The kernel's call is written; what follows is the other branch, which computes `nodes`.  Returns the
        variables of the kernel's outputs.
        """
        body = self.body
        found = {i: body.env[i].text for i in self.kernel.outputs}
        self.first, body.lines = body.lines, []
        body.env, body.bound = dict(self.known[0]), dict(self.known[1])
        cell, roots = body.c.cell, [*nodes]
        body.uses = {**count_uses(cell, closure(cell, roots, body.env), roots), **self.uses}
        return found

    def close(self, values: Mapping[str, str]) -> None:
        """Both branches end with the same variables, by name; `values` are the second branch's expressions."""
        body, k = self.body, self.kernel
        assert k.fits is not None
        moved = {name: text for name, text in values.items() if name != text}
        last = [f"{', '.join(moved)} = {', '.join(moved.values())}"] if moved else []
        asked = k.before(body.c, k.asked or k.states[0])
        like = self.known[0][k.fits].text if k.fits in k.inputs else asked
        test = f"if {k.name}.fits({asked}, {like}):"
        body.lines = [*self.head, test, *indented(self.first), "else:", *indented([*body.lines, *last])]
        body.env, body.bound, body.uses = *self.known, self.uses


def all_steps(f: Forward, choice: Choice) -> None:
    """The whole sequence."""
    from rnnc.backends.torch.loop import sequential  # which imports what imports this

    kernel, body = choice.kernel, f.body
    assert kernel is not None
    body.build(kernel.inputs, _read_twice(body, kernel))
    last = (f"{f.first_input}.shape[1]", *(["cu_seqlens"] if f.w.packs else []))
    last += (f"self.{kernel.report}",) if kernel.report else ()
    if kernel.fits is None:
        f.finals |= call_kernel(body, kernel, *last)
        return
    branches = _Branches(body=body, kernel=kernel)
    finals = call_kernel(body, kernel, *last)
    outputs = branches.otherwise([*(f.cell.state(s).update for s in kernel.states), *kernel.outputs])
    sequential(f, replace(choice, kernel=None, form=None))
    body.build(kernel.outputs)
    values = {name: _whole(body, i) for i, name in outputs.items()}
    branches.close(values | {name: f.finals[s] for s, name in finals.items()})
    for i, name in outputs.items():
        body.variable(i, name)
    f.finals |= finals


def _read_twice(body: Body, kernel: Kernel) -> frozenset[NodeId]:
    """Inputs that both branches read: they get variables."""
    if kernel.fits is None:
        return frozenset()
    return frozenset(i for i in kernel.inputs if i not in body.c.static or i == kernel.fits)


def _whole(body: Body, node: NodeId) -> str:
    return body.c.whole(body.env[node], body.c.type(node), lead=True).text


def one_step(body: Body, kernels: Iterable[Kernel]) -> dict[str, str]:
    """The states' new values by name; what the kernels give is known to `body` afterwards."""
    finals: dict[str, str] = {}
    for kernel in kernels:
        body.build(kernel.inputs, _read_twice(body, kernel))
        if kernel.fits is None:
            finals |= call_kernel(body, kernel, "None")
            continue
        cell = body.c.cell
        updates = {s: cell.state(s) for s in kernel.states}
        old = {s: body.finish[u.update][1] for s, u in updates.items()}
        branches = _Branches(body=body, kernel=kernel)
        made = call_kernel(body, kernel, "None")
        roots = [*(u.update for u in updates.values()), *kernel.outputs]
        outputs = branches.otherwise(roots)
        body.build(roots)
        values = {name: _whole(body, i) for i, name in outputs.items()}
        values |= {name: state_value(body, updates[s], old[s]).text for s, name in made.items()}
        branches.close(values)
        for i, name in outputs.items():
            body.variable(i, name)
        finals |= made
    return finals

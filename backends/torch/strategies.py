"""How each strategy of a group is written for all steps at once: the calls of `rnnc.runtime`, with named coefficients.

Every strategy has two parts: the nodes it reads (`coefficients`) and the statements it becomes (`WRITERS`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, assert_never

from rnnc.analysis.forms import BlockLinear, Coupled, Dense, Elementwise, Form, Group, MatrixState, MicroStep, Read
from rnnc.backends.torch.expr import ATOM, UNARY, Expr, call
from rnnc.backends.torch.gates import Gated, gated_update
from rnnc.backends.torch.kernels import Kernel
from rnnc.backends.torch.newton import newton
from rnnc.backends.torch.updates import Scale, factored, fused_updates
from rnnc.ir.dims import ONE, Dim
from rnnc.ir.graph import CellIR, NodeId
from rnnc.ir.linearise import Linearised, linearise
from rnnc.ir.types import Type
from rnnc.plan.choose import GroupPlan

if TYPE_CHECKING:
    from rnnc.backends.torch.functions import Forward

SCANS = {
    "plus_times": "linear_scan",
    "max_plus": "max_plus_scan",
    "min_plus": "min_plus_scan",
    "log_plus": "log_plus_scan",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How one group runs: by a strategy, in one of its normal forms (None where the strategy needs none), or by a
    native kernel.  `least` is a proven lower bound of the log decays, for functions that take one; `native`: whether
    the runtime's function for the strategy is the one in C.
    """

    group: Group
    strategy: str
    form: Form | Gated | Linearised | None = None
    kernel: Kernel | None = None
    least: float | None = None
    native: bool = False

    @property
    def in_loop(self) -> bool:
        return self.strategy in ("step", "sequential") and self.kernel is None

    @staticmethod
    def of(cell: CellIR, group: GroupPlan, kernel: Kernel | None = None) -> Choice:
        """The planner's choice; Newton's method gets the derivative of the step, which nothing else needs."""
        form: Form | Linearised | None = group.form
        if group.strategy == "newton" and kernel is None:
            form = linearise(cell, group.group.states)
        native = group.chosen.native and kernel is None
        return Choice(group=group.group, strategy=group.strategy, form=form, kernel=kernel, native=native)


def by_gate(cell: CellIR, choice: Choice) -> Choice:
    """The same choice, by the form of a gate where the scan is one's."""
    if choice.strategy != "scan" or choice.group.semiring != "plus_times" or not isinstance(choice.form, Elementwise):
        return choice
    return replace(choice, form=gated_update(cell, choice.form) or choice.form)


def coefficients(cell: CellIR, form: Form | Gated | Linearised) -> list[NodeId]:
    """The nodes that a form's strategies read."""
    match form:
        case Elementwise():
            found: Iterable[NodeId | None] = (form.a, form.b)
        case Gated():
            found = (form.share, form.new)
        case Coupled():
            found = (*(n for row in form.a for n in row), *form.b)
        case MatrixState():
            found = [n for step in form.steps for n in micro_step_nodes(cell, step)]
            for read in form.reads or ():
                found = [*found, read.key, read.extra]
            found = [*found, form.normaliser.value] if form.normaliser is not None else found
        case BlockLinear():
            found = (form.blocks, form.b)
        case Dense():
            found = (form.a, form.b)
        case Linearised():
            found = (*form.sequences, *form.statics)
        case _:
            assert_never(form)
    return [n for n in found if n is not None]


def micro_step_nodes(cell: CellIR, step: MicroStep) -> list[NodeId | None]:
    fused, low_rank, writes = fused_updates(cell, step)
    decay = step.log_decay if step.log_decay is not None else step.decay
    updates = [n for u in fused for n in factored(cell, u).nodes]
    return [decay, *updates, *(n for pair in (*low_rank, *writes) for n in pair)]


def coefficient_titles(cell: CellIR, form: Form | Gated | Linearised) -> list[tuple[NodeId, str]]:
    """What the variable of a coefficient without a name is called."""
    match form:
        case Elementwise():
            pairs: list[tuple[NodeId | None, str]] = [(form.a, f"{form.state}_decay"), (form.b, f"{form.state}_in")]
        case Gated():
            pairs = [(form.share, f"{form.state}_gate"), (form.new, f"{form.state}_in")]
        case BlockLinear():
            pairs = [(form.blocks, f"{form.state}_blocks"), (form.b, f"{form.state}_in")]
        case Dense():
            pairs = [(form.a, f"{form.state}_transition"), (form.b, f"{form.state}_in")]
        case MatrixState():
            pairs = [(r.key, f"{form.state}_key") for r in form.reads or ()]
            for step in form.steps:
                decay = "log_decay" if step.log_decay is not None else "decay"
                pairs.append((step.log_decay if step.log_decay is not None else step.decay, f"{form.state}_{decay}"))
                fused, low_rank, writes = fused_updates(cell, step)
                for u, v in (*((x.u, x.v) for x in (factored(cell, y) for y in fused)), *writes):
                    pairs += [(u, f"{form.state}_write"), (v, f"{form.state}_value")]
                for a, b in low_rank:
                    pairs += [(a, f"{form.state}_left"), (b, f"{form.state}_right")]
        case Coupled() | Linearised():
            pairs = []
        case _:
            assert_never(form)
    return [(node, title) for node, title in pairs if node is not None]


# ---------------------------------------------------------------- arguments


def tensor(
    f: Forward, node: NodeId | None, state: str, core: tuple[Dim, ...] | None = None, *, every: bool = False
) -> str:
    """A coefficient as an argument: "None" where it is absent, a 0-dimensional tensor for a number.

    With `core` the core axes get their real sizes; with `every` those of `per` blocks too.
    """
    if node is None:
        return "None"
    c, e = f.body.c, f.body.env[node]
    t = c.type(node)
    if core is not None:
        axes = None if every else frozenset(range(-len(core), 0))
        e = c.whole(e, replace(t, shape=core) if e.number else t, axes)
    kind = ", dtype=torch.bool" if t.dtype == "bool" else ""
    return f'state["{state}"].new_tensor({e.text}{kind})' if e.number else e.text


def fitted(e: Expr, own: Type, state: Type) -> Expr:
    """A coefficient that broadcasts to a state's core shape, as one whose axes of size 1 stand for the state's."""
    if e.number:
        return e
    missing = state.rank - own.rank
    text = f"{e.atom}[..., {', '.join(['None'] * missing)}]" if missing and own.rank == 0 else e.text
    assert not missing or own.rank == 0, "a coefficient of a lower rank is a scalar"
    single = {i - own.rank for i, d in enumerate(own.shape) if d == ONE} | set(range(-missing, 0))
    ones = {axis for axis in single if state.shape[axis] != ONE}
    small = frozenset(axis - missing for axis in e.small) | ones
    return replace(e, text=text, prec=ATOM if missing else e.prec, small=small)


def length_argument(f: Forward, nodes: Iterable[NodeId | None]) -> list[str]:
    """`length=` where no coefficient has a time axis."""
    if any(n is not None and not f.body.env[n].static for n in nodes):
        return []
    return [f"length={f.first_input}.shape[1]"]


def whole_state(f: Forward, name: str, text: str) -> str:
    """All values of a state in a variable; also provides the values before each step, and the last."""
    s = f.cell.state(name)
    variable = f.body.names.fresh(f"{name}_all")
    f.body.comment(f.body.source.line(f.cell.nodes[s.update]))
    f.body.statement(f"{variable} = {text}")
    f.provide_all(s, variable)
    f.finals[name] = f.last(name, variable)
    return variable


# ---------------------------------------------------------------- strategies


def scan(f: Forward, choice: Choice) -> None:
    """h' = a (x) h (+) b, elementwise."""
    form = choice.form
    assert isinstance(form, Elementwise)
    if choice.group.semiring == "plus_times" and (known := replaced(f, form)):
        whole_state(f, form.state, known)
        return
    function = f.body.c.use(SCANS[choice.group.semiring])
    if choice.strategy == "convolution":
        function = f.body.c.use("convolution_scan")
    a, b = (tensor(f, n, form.state) for n in (form.a, form.b))
    last = [*length_argument(f, (form.a, form.b)), *f.bounds]
    whole_state(f, form.state, call(function, a, b, f'state["{form.state}"]', *last))


def gated_scan(f: Forward, choice: Choice) -> None:
    """h' = h + z (c - h), elementwise."""
    form = choice.form
    assert isinstance(form, Gated)
    nodes = (form.share, form.new)
    arguments = [*(tensor(f, n, form.state) for n in nodes), f'state["{form.state}"]', *length_argument(f, nodes)]
    whole_state(f, form.state, call(f.body.c.use("lerp_scan"), *arguments, *f.bounds))


def replaced(f: Forward, form: Elementwise) -> str:
    """All values of a state that each step sets anew (the memory of a `prev`); empty where it keeps anything."""
    c, body, t = f.body.c, f.body, f.body.c.type(f.cell.state(form.state).node)
    if form.a is None or form.b is None or c.type(form.b).dtype != t.dtype:
        return ""
    if not body.env[form.a].number or body.env[form.a].text != "0":
        return ""
    e = c.whole(fitted(body.env[form.b], c.type(form.b), t), t, lead=True)
    return f'{e.atom}.to(state["{form.state}"].dtype)' if e.low else e.text


def coupled_scan(f: Forward, choice: Choice) -> None:
    """K states of one shape: a scan over K x K matrices at every position."""
    form = choice.form
    assert isinstance(form, Coupled)
    c, body = f.body.c, f.body
    t = c.type(f.cell.state(form.states[0]).node)
    zero = Expr(text="0", number=True, static=True)

    def stacked(nodes: Iterable[NodeId | None], axis: int) -> str:
        parts = [zero if n is None else fitted(body.env[n], c.type(n), t) for n in nodes]
        whole = [c.whole(e, t, lead=True) for e in parts]
        return f"torch.stack([{', '.join(e.text for e in whole)}], {axis})"

    prefix = "_".join(form.states)
    rows = [body.names.fresh(f"{prefix}_row{i or ''}") for i in range(len(form.states))]
    for row, nodes in zip(rows, form.a):
        body.statement(f"{row} = {stacked(nodes, -1)}")
    a = body.names.fresh(f"{prefix}_transition")
    body.statement(f"{a} = torch.stack([{', '.join(rows)}], -2)")
    b = stacked(form.b, -1) if any(n is not None for n in form.b) else "None"
    start = ", ".join(f'state["{n}"]' for n in form.states)
    everything = body.names.fresh(f"{prefix}_all")
    function = c.use("block_scan")
    body.statement(f"{everything} = {call(function, a, b, f'torch.stack([{start}], -1)', *f.bounds)}")
    names = [body.names.fresh(f"{n}_all") for n in form.states]
    body.statement(f"{', '.join(names)} = {everything}.unbind(-1)")
    for state, name in zip(form.states, names):
        f.provide_all(f.cell.state(state), name)
        f.finals[state] = f.last(state, name)


def block_scan(f: Forward, choice: Choice) -> None:
    """h' = blockdiag(blocks) h + b, or a dense transition."""
    form = choice.form
    c, body = f.body.c, f.body
    function = c.use("block_scan")
    if isinstance(form, Dense):
        dense_scan(f, form, function)
        return
    assert isinstance(form, BlockLinear)
    s = f.cell.state(form.state)
    t, blocks = c.type(s.node), c.type(form.blocks)
    p, n = blocks.shape[0], blocks.shape[1]
    axis = -t.rank  # the axis of size p * n
    split = f".unflatten({axis}, ({c.dim(p)}, {c.dim(n)}))"
    joined = f".flatten({axis - 1}, {axis})"
    b = "None"
    if form.b is not None:
        e = c.whole(body.env[form.b], replace(c.type(form.b), shape=t.shape), frozenset({axis}))
        b = f"{Expr(text=e.text, prec=e.prec).atom}{split}"
    a = tensor(f, form.blocks, form.state, blocks.shape, every=True)
    arguments = [a, b, f'state["{form.state}"]{split}', *length_argument(f, (form.blocks, form.b)), *f.bounds]
    whole_state(f, form.state, f"{call(function, *arguments)}{joined}")


def dense_scan(f: Forward, form: Dense, function: str) -> None:
    c, body = f.body.c, f.body
    s = f.cell.state(form.state)
    t, n = c.type(s.node), c.type(form.a).shape
    a = body.env[form.a]
    a_text = tensor(f, form.a, form.state, n, every=True)
    turn = form.side == "right" and t.rank == 2
    if form.side == "right":
        a_text = f"{Expr(text=a_text, prec=a.prec).atom}.mT"
    b = "None"
    if form.b is not None:
        e = c.whole(body.env[form.b], replace(c.type(form.b), shape=t.shape))
        b = f"{e.atom}.mT" if turn else e.text
    start = f'state["{form.state}"]{".mT" if turn else ""}'
    text = call(function, a_text, b, start, *length_argument(f, (form.a, form.b)), *f.bounds)
    whole_state(f, form.state, text + (".mT" if turn else ""))


# ---------------------------------------------------------------- matrix states


def chunkwise(f: Forward, choice: Choice) -> None:
    """S under products of diagonal-plus-low-rank micro-steps, chunk by chunk."""
    form = choice.form
    assert isinstance(form, MatrixState)
    body, c = f.body, f.body.c
    s = f.cell.state(form.state)
    t = c.type(s.node)
    right, vector = form.side == "right", t.rank == 1
    keys = (t.shape[-1] if right else t.shape[0],)
    values = () if vector else (t.shape[0] if right else t.shape[-1],)
    steps = [micro_step(f, step, form.state, keys, values) for step in form.steps]
    start = f'state["{form.state}"]{".mT" if right else ""}'
    length = length_argument(f, [n for n in coefficients(f.cell, form) if n in body.env])
    tail = (["vector=True"] if vector else []) + length
    tail += ([] if choice.least is None else [f"least={choice.least!r}"]) + f.bounds
    tail += ["across=True"] if form.reads_across else []
    body.comment(body.source.line(f.cell.nodes[s.update]))
    wanted = [r for k, r in enumerate(form.reads or ()) if {r.node, *dots_of(form, k)} & f.outside]
    if form.reads is None:
        function = c.use("matrix_states")
        whole_state(f, form.state, call(function, start, listed(steps), *tail) + (".mT" if right else ""))
        return
    reads = []
    for r in wanted:
        key = tensor(f, r.key, form.state, values if form.reads_across else keys)
        reads.append(call(c.use("Read"), key, *(['"old"'] if r.when == "old" else [])))
    if form.normaliser is not None:
        _normalised(f, form, steps, reads, wanted, tail)
        return
    names = [body.names.fresh(body.title(f.cell.nodes[r.node])) for r in wanted]
    final = body.names.fresh(form.state)
    targets = f"({', '.join(names)}{',' if len(names) == 1 else ''})" if names else "_"
    function = c.use("native_matrix_scan" if choice.native else "matrix_scan")
    long_call(body.lines, f"{targets}, {final} = ", function, [start, steps, reads, *tail])
    f.finals[form.state] = f"{final}.mT" if right else final
    for r, name in zip(wanted, names):
        body.variable(r.node, name)
        if r.extra is not None:
            extra = body.env[r.extra]
            body.statement(f"{name} = {name} + {extra.at(0)}")


def dots_of(form: MatrixState, read: int) -> tuple[NodeId, ...]:
    """What is read off the normaliser, if there is one, by the key of one of the form's reads."""
    return () if form.normaliser is None else form.normaliser.reads[read]


def _normalised(
    f: Forward, form: MatrixState, steps: list[str], reads: list[str], wanted: list[Read], tail: list[str]
) -> None:
    """A matrix state with its normaliser, by one call."""
    body, n = f.body, form.normaliser
    assert n is not None
    assert form.reads is not None
    right = form.side == "right"
    names = [body.names.fresh(body.title(f.cell.nodes[r.node])) for r in wanted]
    dots = [body.names.fresh(f"{n.state}_dot") for _ in wanted]
    finals = [body.names.fresh(s) for s in (form.state, n.state)]
    lists = [f"({', '.join(x)}{',' if len(x) == 1 else ''})" if x else "_" for x in (names, dots)]
    value = [] if n.value is None else [f"value={tensor(f, n.value, n.state)}"]
    start = f'state["{form.state}"]{".mT" if right else ""}'
    given: list[str | list[str]] = [start, f'state["{n.state}"]', steps, reads, *value, *tail]
    long_call(body.lines, f"{', '.join([*lists, *finals])} = ", "normalised_scan", given)
    f.body.c.use("matrix_scan")
    f.finals[form.state] = f"{finals[0]}.mT" if right else finals[0]
    f.finals[n.state] = finals[1]
    for r, name, dot in zip(wanted, names, dots, strict=True):
        body.variable(r.node, name)
        if r.extra is not None:
            body.statement(f"{name} = {name} + {body.env[r.extra].at(0)}")
        for i in n.reads[form.reads.index(r)]:
            body.variable(i, dot)


def micro_step(f: Forward, step: MicroStep, state: str, keys: tuple[Dim, ...], values: tuple[Dim, ...]) -> str:
    c = f.body.c
    parts = []
    decay = step.log_decay if step.log_decay is not None else step.decay
    if decay is not None:
        label = "log_decay" if step.log_decay is not None else "decay"
        core = keys if c.type(decay).rank else None
        parts.append(f"{label}={tensor(f, decay, state, core)}")
    fused, low_rank, writes = fused_updates(c.cell, step)
    if fused:
        inner = []
        for u in (factored(c.cell, x) for x in fused):
            v = "None" if u.v is None else tensor(f, u.v, state, values)
            read, write = scale(f, u.read), scale(f, u.write)
            scales = [] if read == write == "1" else [read] if write == "1" else [read, f"s={write}"]
            inner.append(call(c.use("Update"), tensor(f, u.u, state, keys), v, tensor(f, u.b, state, keys), *scales))
        parts.append(f"updates={tupled(inner)}")
    if low_rank:
        pairs = [f"({tensor(f, a, state, keys)}, {tensor(f, b, state, keys)})" for a, b in low_rank]
        parts.append(f"low_rank={tupled(pairs)}")
    if writes:
        pairs = [
            f"({tensor(f, u, state, keys)}, {tensor(f, v, state, values) if v is not None else 'None'})"
            for u, v in writes
        ]
        parts.append(f"writes={tupled(pairs)}")
    return call(c.use("MicroStep"), *parts)


def scale(f: Forward, x: Scale) -> str:
    """A scalar of an update: minus a product of gates, say, or a number."""
    return ("-" if x.negative else "") + (" * ".join(f.body.env[n].at(UNARY) for n in x.factors) or "1")


def listed(items: list[str]) -> str:
    return f"[{', '.join(items)}]"


def tupled(items: list[str]) -> str:
    return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"


def long_call(lines: list[str], target: str, function: str, arguments: list[str | list[str]]) -> None:
    """A call on one line, or one argument a line; an argument that is a list likewise."""
    flat = [listed(a) if isinstance(a, list) else a for a in arguments]
    one = f"{target}{function}({', '.join(flat)})"
    if len(one) <= 110:
        lines.append(one)
        return
    lines.append(f"{target}{function}(")
    for argument in arguments:
        if isinstance(argument, list) and len(listed(argument)) > 100:
            lines += ["    [", *(f"        {item}," for item in argument), "    ],"]
        else:
            lines.append(f"    {listed(argument) if isinstance(argument, list) else argument},")
    lines.append(")")


WRITERS: dict[tuple[str, type], Callable[[Forward, Choice], None]] = {
    ("scan", Elementwise): scan,
    ("scan", Gated): gated_scan,
    ("convolution", Elementwise): scan,
    ("block_scan", Coupled): coupled_scan,
    ("block_scan", BlockLinear): block_scan,
    ("block_scan", Dense): block_scan,
    ("chunkwise", MatrixState): chunkwise,
    ("newton", Linearised): newton,
}

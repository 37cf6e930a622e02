"""A group by Newton's method: the step, its slopes and the call of `rnnc.runtime.newton_scan`.

The step and its derivative become functions inside `forward`, of the states before, of sequences and of static values:

    def h_step(states, sequences, statics):     # the new states, for all steps at once
    def h_slopes(states, sequences, statics):   # and their derivatives by the states
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rnnc.backends.torch.body import Body, Owner, Source, indented
from rnnc.backends.torch.context import REPORT, identifier
from rnnc.backends.torch.expr import tuple_text
from rnnc.backends.torch.kernels import argument
from rnnc.backends.torch.needs import closure, count_uses
from rnnc.ir.graph import NodeId
from rnnc.ir.linearise import Linearised

if TYPE_CHECKING:
    from rnnc.backends.torch.functions import Forward, Writer
    from rnnc.backends.torch.strategies import Choice


def newton(f: Forward, choice: Choice) -> None:
    """All states of the group, and what is read of them."""
    form = choice.form
    assert isinstance(form, Linearised)
    body, stem = f.body, "_".join(form.states)
    for s in form.states:
        body.comment(body.source.line(f.cell.nodes[f.cell.state(s).update]))
    step = body.names.fresh(f"{stem}_step")
    slopes = "" if form.pulled else body.names.fresh(f"{stem}_slopes")
    pull = body.names.fresh(f"{stem}_pull") if form.pulled else ""
    write_function(f, form, step, [form.updates])
    if pull:
        write_function(f, form, pull, [form.pulled], seeds=True)
    else:
        write_function(f, form, slopes, [form.updates, *form.slopes])
    lead = f", lead={form.structure.blocks}" if form.structure.blocks else ""
    options = [
        f"length={f.first_input}.shape[1]",
        f'blocks={body.c.use("Blocks")}(pattern="{form.structure.pattern}"{lead}{f", pull={pull}" if pull else ""})',
        f"report=self.{REPORT}",
    ]
    given = [[f'state["{s}"]' for s in form.states]]
    given += [[argument(body, n) for n in nodes] for nodes in (form.sequences, form.statics)]
    names = [body.names.fresh(f"{s}_all") for s in form.states]
    targets = f"({names[0]},)" if len(names) == 1 else ", ".join(names)
    arguments: list[str | list[str]] = [step, "None" if pull else slopes, *given, *options]
    body.lines += [f"{targets} = {body.c.use('newton_scan')}(", *indented(_argument_lines(arguments)), ")"]
    for s, name in zip(form.states, names, strict=True):
        f.provide_all(f.cell.state(s), name)
        f.finals[s] = f"{name}[:, -1]"


def _argument_lines(arguments: Sequence[str | list[str]]) -> Iterator[str]:
    """One argument a line; a long tuple one item a line."""
    for a in arguments:
        text = a if isinstance(a, str) else tuple_text(a) if a else "()"
        if isinstance(a, str) or len(text) <= 90:
            yield f"{text},"
        else:
            yield from ("(", *indented(f"{item}," for item in a), "),")


def write_function(
    f: Forward, form: Linearised, name: str, results: Sequence[Sequence[NodeId | None]], seeds: bool = False
) -> None:
    """`def name(states, sequences, statics[, gradients])`, which returns the first results, and rows of the others."""
    wanted = [n for row in results for n in row if n is not None]
    body = function_body(f.w, form, wanted)
    if results[0] != form.updates or len(results) > 1:
        body.source = Source({})  # what belongs to a derivative stands in no line
    body.build(wanted)
    texts = []
    for row in results:
        whole = ["None" if n is None else body.c.whole(body.env[n], body.c.type(n), lead=True).text for n in row]
        texts.append(tuple_text(whole))
    returned = texts[0] if len(texts) == 1 else f"{texts[0]}, {tuple_text(texts[1:])}"
    n = len(form.states)
    inputs = [i.name for i in form.cell.inputs]
    last = n + len(form.sequences)
    groups = [inputs[:n], inputs[n:last], [p.name for p in form.cell.params], inputs[last:] if seeds else []]
    titles = ["states", "sequences", "statics", "gradients"][: 3 + seeds]
    read = (form.cell.nodes[i] for i in closure(form.cell, wanted))
    used = {i.name for i in read if i.op in ("input", "param")} | {inputs[0]}  # which says how many steps there are
    taken = []
    for group, title in zip(groups, titles):
        names = [identifier(x) if x in used else "_" for x in group]
        if set(names) - {"_"}:
            taken.append(f"{names[0]} = {title}[0]" if len(names) == 1 else f"{', '.join(names)} = {title}")
    lines = [f"def {name}({', '.join(titles)}):", *indented([*taken, *body.lines, f"return {returned}"]), ""]
    f.body.lines += lines


def function_body(w: Writer, form: Linearised, wanted: Sequence[NodeId]) -> Body:
    """The body of one of the functions: of the linearised cell, whose inputs and parameters are variables."""
    from rnnc.backends.torch.functions import Writer

    attributes: dict[NodeId | str, str] = {p.node: identifier(p.name) for p in form.cell.params}
    inner = Writer(cell=form.cell, attributes=attributes, source=w.source, like=None, imports=w.imports)
    uses = count_uses(form.cell, closure(form.cell, wanted), wanted)
    parts = {n: Owner(s, n) for s, n in zip(form.states, form.updates)}
    body = inner.body(2, uses, {}, parts)
    body.results = frozenset()
    for i in form.cell.inputs:
        body.variable(i.node, identifier(i.name))
    for p in form.cell.params:
        body.names.fresh(p.name)
    return body

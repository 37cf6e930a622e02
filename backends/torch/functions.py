"""The bodies of `step` and `forward`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from rnnc.analysis.forms import MatrixState
from rnnc.backends.torch.body import VIEWS, Body, Names, Owner, Source, owners, state_value
from rnnc.backends.torch.context import Context, identifier, static_nodes
from rnnc.backends.torch.kernels import all_steps, one_step
from rnnc.backends.torch.loop import sequential
from rnnc.backends.torch.needs import closure, count_uses, state_dependence
from rnnc.backends.torch.order import in_order
from rnnc.backends.torch.strategies import WRITERS, Choice, by_gate, coefficient_titles, coefficients, dots_of
from rnnc.backends.torch.timeops import Time
from rnnc.ir.graph import CellIR, NodeId, State


@dataclass(slots=True, kw_only=True)
class Writer:
    """What the functions of one module share."""

    cell: CellIR
    attributes: Mapping[NodeId | str, str]
    source: Source
    like: str | None  # a real parameter or buffer of the module, if there is one
    imports: set[str] = field(default_factory=set)
    native: bool = False  # see Context
    packs: bool = False  # whether packed sequences run as they are

    def context(self, lead: int) -> Context:
        names = [identifier(i.name) for i in self.cell.inputs]
        real = [identifier(i.name) for i in self.cell.inputs if self.cell.nodes[i.node].type.dtype == "real"]
        like = self.like or next(iter(real), "self.like")
        first = names[0]
        return Context(
            cell=self.cell,
            lead=lead,
            static=static_nodes(self.cell),
            like=like,
            lead_text=f"{first}.shape[0]" if lead == 1 else f"*{first}.shape[:2]",
            attributes=dict(self.attributes),
            imports=self.imports,
            native=self.native,
        )

    def body(
        self,
        lead: int,
        uses: Mapping[NodeId, int],
        titles: Mapping[NodeId, str],
        parts: Mapping[NodeId, Owner] | None = None,
    ) -> Body:
        names = Names({identifier(i.name) for i in self.cell.inputs} | {"y"} - {o.name for o in self.cell.outputs})
        body = Body(
            c=self.context(lead),
            names=names,
            env={},
            uses=uses,
            titles=titles,
            results=frozenset(self.titles()),
            owners=owners(self.cell, self.titles(), parts or {}),
            source=self.source,
            time=Time(step=lead == 1, packs=lead == 2 and self.packs),
        )
        for i in self.cell.inputs:
            body.variable(i.node, identifier(i.name), low=True)
        return body

    def titles(self) -> dict[NodeId, str]:
        """Names of results: an output's, and `S_new` for a state's new value."""
        found = {o.node: o.name for o in self.cell.outputs}
        found |= {s.update: f"{s.name}_new" for s in self.cell.states}
        moving = {n.id for n in self.cell.nodes if n.op in ("input", "state", "param")}
        return {k: v for k, v in found.items() if k not in moving}


def flip(w: Writer) -> Callable[[str], str]:
    """How a sequence is turned in time."""
    if not w.packs:
        return lambda name: f"{name}.flip(1)"
    w.imports.add("flipped")
    return lambda name: f"flipped({name}, cu_seqlens)"


def output_texts(body: Body, cell: CellIR) -> list[str]:
    found = []
    for o in cell.outputs:
        e = body.c.whole(body.env[o.node], body.c.type(o.node), lead=True)
        found.append(e.text)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A function's statements, its outputs' expressions in order, and the entries of the new state dict."""

    lines: list[str]
    outputs: list[str]
    finals: dict[str, str]

    def ending(self, turn: Callable[[str], str] | None = None) -> list[str]:
        """The return; with `turn`, outputs are turned back in time first where the caller asked for it."""
        one = "{" + ", ".join(f'"{k}": {v}' for k, v in self.finals.items()) + "}"
        dictionary = [f"state = {one}"]
        if len(one) > 96:
            dictionary = ["state = {", *(f'    "{k}": {v},' for k, v in self.finals.items()), "}"]
        lines, outputs, final = [], list(self.outputs), one
        if turn is not None:
            names = self._output_names()
            lines += [f"{n} = {o}" for n, o in zip(names, outputs) if n != o]
            if words(names) & words(self.finals.values()):  # the state is read before the outputs are turned
                lines, final = [*lines, *dictionary], "state"
            turned = list(dict.fromkeys(names))
            if turned:
                lines += ["if reverse:", f"    {', '.join(turned)} = {', '.join(map(turn, turned))}"]
            outputs = names
        values = outputs[0] if len(outputs) == 1 else f"({', '.join(outputs)})"
        if final == one and len(one) + len(values) > 96:
            lines, final = [*lines, *dictionary], "state"
        return [*lines, f"return {values}, {final}"]

    def _output_names(self) -> list[str]:
        """A variable for each output: its own, or a fresh one for an expression such as `S.mT`."""
        taken = words([*self.lines, *self.outputs, *self.finals.values()])
        names = []
        for n, text in enumerate(self.outputs):
            name = text if text.isidentifier() else next(f for f in _numbered("y", n or "") if f not in taken)
            taken.add(name)
            names.append(name)
        return names


def words(texts: Iterable[str]) -> set[str]:
    """The identifiers in pieces of Python."""
    return {w for text in texts for w in re.findall(r"[^\W\d]\w*", text)}


def _numbered(stem: str, first: int | str) -> Iterator[str]:
    """`y`, then `y_2`, `y_3`, ..."""
    yield f"{stem}{first}"
    yield from (f"{stem}{first}_{k}" for k in itertools.count(2))


def write_step(w: Writer, choices: tuple[Choice, ...] = ()) -> Written:
    """One step: every value, the new states, the outputs.  Groups with a kernel among the `choices` run by it."""
    cell = w.cell
    kernels = [c.kernel for c in choices if c.kernel is not None and c.kernel.single]
    native = {s for k in kernels for s in k.states}
    given = [i for k in kernels for i in k.outputs]
    ends = [*(s.update for s in cell.states if s.name not in native), *(o.node for o in cell.outputs)]
    roots = [*ends, *(i for k in kernels for i in k.inputs)]
    nodes = closure(cell, roots, given)
    held = {cell.state(s).node for k in kernels if k.fits is not None for s in k.states}  # by PyTorch's branch
    body = w.body(1, count_uses(cell, nodes, roots), w.titles())
    finals: dict[str, str] = {}
    for s in cell.states:
        if s.node in nodes or s.node in held:
            name = body.names.fresh(s.name)
            body.variable(s.node, name)
            body.statement(f'{name} = state["{s.name}"]')
    old = {s.name: body.env[s.node].text if s.node in body.env else f'state["{s.name}"]' for s in cell.states}
    # Kernels take what is static as it is: such a state gets its batch axis at the end only.
    body.finish = {s.update: (s, old[s.name]) for s in cell.states if s.update not in body.c.static}
    made = one_step(body, kernels)
    body.build(sorted(closure(cell, ends, body.env)))
    for s in cell.states:
        finals[s.name] = made[s.name] if s.name in made else state_value(body, s, old[s.name]).text
    finals |= body.time.final
    return Written(lines=body.lines, outputs=output_texts(body, cell), finals=finals)


@dataclass(slots=True, kw_only=True)
class Forward:
    """The whole sequence: what depends on no state at once, then the groups in order, then what reads them at once."""

    w: Writer
    choices: tuple[Choice, ...]
    depends: list[frozenset[str]] = field(default_factory=list)
    loop_reads: dict[int, set[NodeId]] = field(default_factory=dict)
    body: Body = None  # type: ignore[assignment]
    finals: dict[str, str] = field(default_factory=dict)
    outside: set[NodeId] = field(default_factory=set)  # what is read for all steps, outside the loops

    @property
    def cell(self) -> CellIR:
        return self.w.cell

    @property
    def first_input(self) -> str:
        return identifier(self.cell.inputs[0].name)

    def provided(self, choice: Choice) -> set[NodeId]:
        """Nodes whose values for all steps a group's strategy gives."""
        if choice.kernel is not None:
            return set(choice.kernel.outputs)
        states = [self.cell.state(n) for n in choice.group.states]
        found = {s.node for s in states} | {s.update for s in states} | self.loop_reads.get(choice.group.index, set())
        if isinstance(choice.form, MatrixState) and choice.form.reads is not None:
            found |= {r.node for r in choice.form.reads}
            found |= {i for k in range(len(choice.form.reads)) for i in dots_of(choice.form, k)}
        return found

    def roots(self, choice: Choice) -> list[NodeId]:
        """Nodes a group's strategy reads."""
        if choice.kernel is not None:
            return list(choice.kernel.inputs)
        if choice.form is not None:
            return coefficients(self.cell, choice.form)
        return [self.cell.state(n).update for n in choice.group.states]

    def provide_all(self, s: State, name: str) -> None:
        """A state's values after each step are in the variable `name`; those before it are these, moved by one step.

        What is the same at every step stays known as such: kernels and functions take it without batch and time.
        """
        if s.update not in self.body.c.static or s.update not in self.body.env:
            self.body.variable(s.update, name)
        if s.node in self.outside:
            before, start = self.body.names.fresh(f"{s.name}_before"), f'state["{s.name}"]'
            text = f"torch.cat([{start}.unsqueeze(1), {name}[:, :-1]], 1)"
            if self.w.packs:
                text = f"{self.body.c.use('states_before')}({name}, {start}, cu_seqlens)"
            self.body.statement(f"{before} = {text}")
            self.body.variable(s.node, before)

    def last(self, state: str, name: str) -> str:
        """A state after the last step; its values after each are in the variable `name`."""
        if self.w.packs:
            return f'{self.body.c.use("last_state")}({name}, state["{state}"], cu_seqlens)'
        return f"{name}[:, -1]"

    @property
    def bounds(self) -> list[str]:
        """The last argument of functions that take packed sequences."""
        return ["bounds=cu_seqlens"] if self.w.packs else []

    def write(self) -> Written:
        cell = self.cell
        self.depends = state_dependence(cell)
        self.choices = tuple(by_gate(cell, c) if c.kernel is None else c for c in self.choices)
        self._plan()
        self.choices, self.loop_reads = in_order(cell, self.choices, self.loop_reads)
        known: set[NodeId] = set()
        everything: set[NodeId] = set()
        for choice in self.choices:
            roots = {*self.roots(choice), *self.loop_reads.get(choice.group.index, ())}
            part = closure(cell, roots, known)
            everything |= part
            touched = self._touched(part, roots)
            self.outside |= touched & known if choice.in_loop else touched
            known |= self.provided(choice)
        final_roots = [o.node for o in cell.outputs]
        last = closure(cell, final_roots, known)
        everything |= last
        self.outside |= self._touched(last, final_roots)
        reads = [r for choice in self.choices if not choice.in_loop for r in self.roots(choice)]
        self.body = self.w.body(2, count_uses(cell, everything, [*final_roots, *reads]), self.titles(), self.parts())
        for choice in self.choices:
            if choice.kernel is not None:
                all_steps(self, choice)
                continue
            if choice.form is None:
                sequential(self, choice)
                continue
            self.body.build(self.roots(choice))
            WRITERS[choice.strategy, type(choice.form)](self, choice)
        self.body.build(final_roots)
        self.finals |= self.body.time.final
        order = {s.name: i for i, s in enumerate(cell.states)}
        finals = dict(sorted(self.finals.items(), key=lambda kv: order.get(kv[0], len(order))))
        return Written(lines=self.body.lines, outputs=output_texts(self.body, cell), finals=finals)

    def titles(self) -> dict[NodeId, str]:
        """Names of results, and of the coefficients that a strategy reads."""
        found = self.w.titles()
        for choice in self.choices:
            if choice.form is not None:
                for node, title in coefficient_titles(self.cell, choice.form):
                    if node not in found and not self.cell.nodes[node].name:
                        found[node] = title
        return found

    def parts(self) -> dict[NodeId, Owner]:
        """The coefficients of a group belong to its first state."""
        found: dict[NodeId, Owner] = {}
        for choice in self.choices:
            state = self.cell.state(choice.group.states[0])
            found |= {n: Owner(state.name, state.update) for n in self.roots(choice)}
        return found

    def _touched(self, part: set[NodeId], roots: Iterable[NodeId]) -> set[NodeId]:
        """The nodes that computing `part` needs: itself, what it reads, and the roots that are known already."""
        return part | {a for i in part for a in self.cell.nodes[i].args} | set(roots)

    def _plan(self) -> None:
        """Find the values outside the recurrence that a loop should compute as it goes: reads of large states."""
        cell = self.cell
        states = {s.name: s for s in cell.states}
        ends = {n for s in cell.states for n in (s.node, s.update)}
        inner = {c.group.index: closure(cell, self.roots(c), ()) for c in self.choices}
        needed = closure(cell, [o.node for o in cell.outputs], ()).union(*inner.values())
        for choice in self.choices:
            if not choice.in_loop:
                continue
            reads: set[NodeId] = set()
            for name in choice.group.states:
                s = states[name]
                if cell.nodes[s.node].type.rank < 2:
                    continue
                found = self._readers({s.node, s.update}, needed - inner[choice.group.index], ends)
                if found is not None:
                    reads |= found
            self.loop_reads[choice.group.index] = reads

    def _readers(self, of: set[NodeId], among: set[NodeId], ends: set[NodeId]) -> set[NodeId] | None:
        """The contractions of a state among the nodes outside its update; None when some node needs the state whole."""
        front, found = set(of), set()
        for i in sorted(among):
            node = self.cell.nodes[i]
            if not front & set(node.args):
                continue
            smaller = node.type.rank < max(self.cell.nodes[a].type.rank for a in node.args if a in front)
            if node.op in VIEWS:
                front.add(i)
            elif node.op in ("einsum", "sum", "mean", "amax", "amin") and smaller:
                found.add(i)
            else:
                return None
        outputs = {o.node for o in self.cell.outputs}
        return None if front & outputs else found

"""The bodies of `step` and `forward`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from rnnc.analysis.forms import MatrixState
from rnnc.backends.torch.body import VIEWS, Body, Names, Source, indented, owners, state_value
from rnnc.backends.torch.context import Context, identifier, static_nodes
from rnnc.backends.torch.expr import Expr
from rnnc.backends.torch.needs import closure, count_uses, state_dependence
from rnnc.backends.torch.strategies import WRITERS, Choice, coefficient_titles, coefficients
from rnnc.backends.torch.timeops import TIME, Time, buffer_length
from rnnc.ir.graph import CellIR, Node, NodeId, State


@dataclass(slots=True, kw_only=True)
class Writer:
    """What the functions of one module share."""

    cell: CellIR
    attributes: Mapping[NodeId | str, str]
    source: Source
    like: str | None  # a real parameter or buffer of the module, if there is one
    imports: set[str] = field(default_factory=set)

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
        )

    def body(self, lead: int, uses: Mapping[NodeId, int], titles: Mapping[NodeId, str]) -> Body:
        names = Names({identifier(i.name) for i in self.cell.inputs} | {"y"} - {o.name for o in self.cell.outputs})
        body = Body(
            c=self.context(lead),
            names=names,
            env={},
            uses=uses,
            titles=titles,
            results=frozenset(self.titles()),
            owners=owners(self.cell, titles),
            source=self.source,
            time=Time(step=lead == 1),
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


def settle(lines: list[str], moves: list[tuple[str, str]]) -> list[str]:
    """Assign the new states; a new value takes the state's own name at once where the old one is not read afterwards.

    before: h_new = ...; h = h_new      -->  after: h = ...
    """
    left: list[tuple[str, str]] = []
    for old, new in moves:
        where = [i for i, line in enumerate(lines) if re.match(rf"{re.escape(new)} = ", line)]
        reads_old = re.compile(rf"(?<![\w.\"]){re.escape(old)}(?![\w\"])")
        other = any(new_value == old for _, new_value in moves)
        if len(where) == 1 and not other and not any(reads_old.search(line) for line in lines[where[0] + 1 :] if not line.startswith("#")):
            writes_new = re.compile(rf"(?<![\w.\"]){re.escape(new)}(?![\w\"])")
            lines = [line if line.startswith("#") else writes_new.sub(old, line) for line in lines]
        else:
            left.append((old, new))
    if left:
        lines.append(f"{', '.join(o for o, _ in left)} = {', '.join(n for _, n in left)}")
    return lines


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

    def ending(self, reverse: bool = False) -> list[str]:
        """The return; with `reverse`, outputs are turned back in time first where the caller asked for it."""
        lines, outputs = [], list(self.outputs)
        if reverse:
            names = [o if o.isidentifier() else f"y{n or ''}" for n, o in enumerate(outputs)]
            lines += [f"{n} = {o}" for n, o in zip(names, outputs) if n != o]
            turned = [f"{n}.flip(1)" for n in names]
            lines += ["if reverse:", f"    {', '.join(names)} = {', '.join(turned)}"]
            outputs = names
        values = outputs[0] if len(outputs) == 1 else f"({', '.join(outputs)})"
        one = "{" + ", ".join(f'"{k}": {v}' for k, v in self.finals.items()) + "}"
        if len(one) + len(values) <= 96:
            return [*lines, f"return {values}, {one}"]
        if len(one) <= 96:
            return [*lines, f"state = {one}", f"return {values}, state"]
        return [*lines, "state = {", *(f'    "{k}": {v},' for k, v in self.finals.items()), "}", f"return {values}, state"]


def write_step(w: Writer) -> Written:
    """One step: every value, the new states, the outputs."""
    cell = w.cell
    roots = [*(s.update for s in cell.states), *(o.node for o in cell.outputs)]
    nodes = closure(cell, roots)
    nodes |= closure(cell, [n.id for n in cell.nodes if n.op in TIME and n.id in nodes])
    body = w.body(1, count_uses(cell, nodes, roots), w.titles())
    finals: dict[str, str] = {}
    for s in cell.states:
        if s.node in nodes:
            name = body.names.fresh(s.name)
            body.variable(s.node, name)
            body.statement(f'{name} = state["{s.name}"]')
    old = {s.name: body.env[s.node].text if s.node in nodes else f'state["{s.name}"]' for s in cell.states}
    body.finish = {s.update: (s, old[s.name]) for s in cell.states}
    body.build(sorted(nodes))
    for s in cell.states:
        finals[s.name] = state_value(body, s, old[s.name]).text
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
        states = [self.cell.state(n) for n in choice.group.states]
        found = {s.node for s in states} | {s.update for s in states} | self.loop_reads.get(choice.group.index, set())
        if isinstance(choice.form, MatrixState) and choice.form.reads is not None:
            found |= {r.node for r in choice.form.reads}
        return found

    def roots(self, choice: Choice) -> list[NodeId]:
        """Nodes a group's strategy reads."""
        if choice.form is not None:
            return coefficients(self.cell, choice.form)
        return [self.cell.state(n).update for n in choice.group.states]

    def provide_all(self, s: State, name: str) -> None:
        """A state's values after each step are in the variable `name`; those before it are these, moved by one step."""
        self.body.variable(s.update, name)
        if s.node in self.outside:
            before = self.body.names.fresh(f"{s.name}_before")
            self.body.statement(f'{before} = torch.cat([state["{s.name}"].unsqueeze(1), {name}[:, :-1]], 1)')
            self.body.variable(s.node, before)

    def write(self) -> Written:
        cell = self.cell
        self.depends = state_dependence(cell)
        self._plan()
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
        reads = [r for choice in self.choices for r in self.roots(choice) if choice.form is not None]
        self.body = self.w.body(2, count_uses(cell, everything, [*final_roots, *reads]), self.titles())
        for choice in self.choices:
            if choice.form is None:
                sequential(self, choice)
                continue
            self.body.build(sorted(closure(cell, self.roots(choice), self.body.env)))
            WRITERS[choice.strategy, type(choice.form)](self, choice)
        self.body.build(sorted(closure(cell, final_roots, self.body.env)))
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


# ---------------------------------------------------------------- the loop


def sequential(f: Forward, choice: Choice) -> None:
    """One step after another, in a Python loop."""
    cell, body = f.cell, f.body
    own = set(choice.group.states)
    states = [cell.state(n) for n in choice.group.states]
    reads = f.loop_reads.get(choice.group.index, set())
    inner = {
        i for i in closure(cell, [*(s.update for s in states), *reads], body.env) if f.depends[i] & own
    } - {s.node for s in states}
    moving, still = boundary(cell, inner, states, body.c.static)
    views = {i for i in closure(cell, inner, {*moving, *still, *body.env}) if i not in inner and i not in still} - {
        s.node for s in states
    } - moving
    body.loop_inputs = frozenset(moving)
    body.build(sorted(closure(cell, moving | still, body.env)), frozenset(moving | hoisted(cell, still)))
    loop = loop_body(f, states, moving, still)
    for s in states:
        name = loop.env[s.node].text
        body.statement(f'{name} = state["{s.name}"]')
    loop.finish = {s.update: (s, loop.env[s.node].text) for s in states}
    loop.build(sorted((inner | views) - set(loop.env)))
    write_loop(f, loop, states, inner, moving, reads)


def boundary(
    cell: CellIR, inner: set[NodeId], group: list[State], static: frozenset[NodeId]
) -> tuple[set[NodeId], set[NodeId]]:
    """What a loop reads from outside: sequences (taken apart step by step) and static values.

    A mere view of a sequence is taken inside the loop, so that the loop runs over values with names.
    """
    moving: set[NodeId] = set()
    still: set[NodeId] = set()
    states = {s.node for s in group}
    work = [a for i in inner for a in cell.nodes[i].args] + [s.update for s in group]
    seen: set[NodeId] = set()
    while work:
        a = work.pop()
        if a in inner or a in states or a in seen:
            continue
        seen.add(a)
        if a in static:
            still.add(a)
        elif cell.nodes[a].op in VIEWS and not cell.nodes[a].name:
            work.extend(cell.nodes[a].args)
        else:
            moving.add(a)
    return moving, still


def hoisted(cell: CellIR, still: Iterable[NodeId]) -> set[NodeId]:
    """Static values that take computing: done once, before the loop."""
    return {i for i in still if cell.nodes[i].op not in VIEWS}


def loop_body(f: Forward, states: list[State], moving: set[NodeId], still: set[NodeId]) -> Body:
    outer = f.body
    loop = replace(
        outer,
        c=replace(f.w.context(1), imports=outer.c.imports),
        env={i: outer.env[i] for i in still},
        suffix="_t",
        lines=[],
        bound={i: outer.bound[i] for i in still if i in outer.bound},
        titles={k: v for k, v in outer.titles.items() if k in {s.update for s in states}},
    )
    for i in sorted(moving):
        name = outer.names.fresh(f"{outer.env[i].text}_t")
        loop.env[i] = replace(outer.env[i], text=name, base="", index=(), unlifted=None, flipped=None, add_bias=None)
        loop.bound[i] = name
    for s in states:
        loop.variable(s.node, outer.names.fresh(s.name))
    return loop


def write_loop(
    f: Forward, loop: Body, states: list[State], inner: set[NodeId], moving: set[NodeId], reads: set[NodeId]
) -> None:
    cell, body = f.cell, f.body
    head = loop_head(f, loop, moving)
    variables = {s.node: loop.env[s.node].text for s in states}
    moves = []
    for s in states:
        old = variables[s.node]
        new = state_value(loop, s, old).text
        if not new.isidentifier() or new in {m[0] for m in moves}:
            name = loop.names.fresh(f"{s.name}_new")
            loop.statement(f"{name} = {new}")
            new = name
        moves.append((old, new))
        if s.update not in variables:  # a delayed state becomes what another one was
            loop.env[s.update] = Expr(text=new)
    later = later_needs(f, states, inner, reads)
    kept: list[tuple[NodeId, str, str]] = []  # node, list, the variable of all steps
    for i in sorted(later):
        state = next((s for s in states if s.update == i), None)
        if state is None and i in {s.node for s in states}:
            continue
        title = state.name if state else loop.title(cell.nodes[i])
        kept.append((i, body.names.fresh(f"{title}_steps"), body.names.fresh(f"{title}_all" if state else title)))
    lines = list(loop.lines)
    lines += [f"{steps}.append({loop.c.whole(loop.env[i], cell.nodes[i].type, lead=True).text})" for i, steps, _ in kept]
    lines = settle(lines, moves)
    body.lines += [f"{steps} = []" for _, steps, _ in kept]
    body.lines += [head, *indented(lines)]
    for i, steps, name in kept:
        body.statement(f"{name} = torch.stack({steps}, 1)")
        body.variable(i, name)
    for s in states:
        f.finals[s.name] = variables[s.node]
        if s.node in later:
            before = body.names.fresh(f"{s.name}_before")
            all_steps = body.env[s.update].text
            body.statement(f'{before} = torch.cat([state["{s.name}"].unsqueeze(1), {all_steps}[:, :-1]], 1)')
            body.variable(s.node, before)


def loop_head(f: Forward, loop: Body, moving: set[NodeId]) -> str:
    pairs = [(loop.env[i].text, f.body.env[i].text) for i in sorted(moving)]
    if not pairs:
        return f"for _ in range({identifier(f.cell.inputs[0].name)}.shape[1]):"
    targets, sequences = ", ".join(a for a, _ in pairs), [f"{b}.unbind(1)" for _, b in pairs]
    return f"for {targets} in {sequences[0] if len(pairs) == 1 else 'zip(' + ', '.join(sequences) + ')'}:"


def later_needs(f: Forward, states: list[State], inner: set[NodeId], reads: set[NodeId]) -> set[NodeId]:
    """Which values of the loop are read after it, for all steps."""
    cell = f.cell
    own = inner | {s.node for s in states}
    wanted: set[NodeId] = set()
    targets = [o.node for o in cell.outputs]
    index = next(i for i, c in enumerate(f.choices) if c.group.states == tuple(s.name for s in states))
    for choice in f.choices[index + 1 :]:
        targets += [*f.roots(choice), *f.loop_reads.get(choice.group.index, ())]
    done = set(f.body.env) | own
    wanted |= set(targets) & own
    for i in closure(cell, targets, done):
        wanted |= {a for a in cell.nodes[i].args if a in own}
    if any(s.node in wanted for s in states):
        wanted |= {s.update for s in states if s.node in wanted}
    return wanted


def buffers(cell: CellIR) -> list[Node]:
    """The time operations that keep past values."""
    return [n for n in cell.nodes if n.op in ("delay", "conv") and buffer_length(n) > 0]

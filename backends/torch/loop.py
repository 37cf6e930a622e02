"""A group one step after another: a Python loop over time, around the statements of one step."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from rnnc.backends.torch.body import VIEWS, Body, indented, state_value
from rnnc.backends.torch.context import identifier
from rnnc.backends.torch.expr import ATOM, Expr
from rnnc.backends.torch.gates import mixture
from rnnc.backends.torch.joining import apply_joined, find_maps, join
from rnnc.backends.torch.needs import closure
from rnnc.backends.torch.strategies import Choice
from rnnc.ir.graph import CellIR, NodeId, State

if TYPE_CHECKING:
    from rnnc.backends.torch.functions import Forward


def sequential(f: Forward, choice: Choice) -> None:
    """One step after another, in a Python loop."""
    cell, body = f.cell, f.body
    own = set(choice.group.states)
    states = [cell.state(n) for n in choice.group.states]
    reads = f.loop_reads.get(choice.group.index, set())
    inner = {i for i in closure(cell, [*(s.update for s in states), *reads], body.env) if f.depends[i] & own} - {
        s.node for s in states
    }
    inner |= gate_parts(f, inner)
    moving, still = boundary(cell, inner, states, body.c.static)
    views = (
        {i for i in closure(cell, inner, {*moving, *still, *body.env}) if i not in inner and i not in still}
        - {s.node for s in states}
        - moving
    )
    body.build(still, frozenset(hoisted(cell, still)))
    groups = find_maps(f, inner, {s.node for s in states}, reads)
    moving -= {i for group in groups if len(group.maps) > 1 for i in group.inputs}
    body.loop_inputs = frozenset(moving)
    body.build(moving, frozenset(moving))
    joined = [j for group in groups if (j := join(f, group))]
    loop = loop_body(f, states, moving, still)
    for s in states:
        name = loop.env[s.node].text
        body.statement(f'{name} = state["{s.name}"]')
    for maps in joined:
        apply_joined(loop, maps)
    loop.finish = {s.update: (s, loop.env[s.node].text) for s in states}
    done = {i for j in joined for i in (*j.together.maps, *j.together.inputs)}
    loop.build(sorted((inner | views) - set(loop.env) - done))
    pairs = [(loop.env[i].text, body.env[i].text) for i in sorted(moving)]
    write_loop(f, loop, states, inner, reads, pairs + [(j.source_t, j.source) for j in joined if j.source])


def gate_parts(f: Forward, inner: set[NodeId]) -> set[NodeId]:
    """What gates (1 - z) a + z b between values of the loop are made of and nothing else reads: done by the gate."""
    mixed = [m for i in inner if (m := mixture(f.cell, i))]
    return {p for m in mixed if all(f.body.uses.get(p) == 1 for p in m.parts) for p in m.parts} - set(f.body.env)


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
        if not outer.env[i].text.isidentifier():  # known from within another value, which a kernel reads
            name = outer.names.fresh(outer.title(f.cell.nodes[i]))
            outer.statement(f"{name} = {outer.env[i].text}")
            outer.env[i] = replace(outer.env[i], text=name, prec=ATOM)
        name = outer.names.fresh(f"{outer.env[i].text}_t")
        loop.env[i] = replace(outer.env[i], text=name, base="", index=(), unlifted=None, flipped=None, add_bias=None)
        loop.bound[i] = name
    for s in states:
        loop.variable(s.node, outer.names.fresh(s.name))
    return loop


def write_loop(
    f: Forward,
    loop: Body,
    states: list[State],
    inner: set[NodeId],
    reads: set[NodeId],
    pairs: list[tuple[str, str]],
) -> None:
    """The loop around the statements of one step; `pairs` are its variables and the sequences they run over."""
    cell, body = f.cell, f.body
    head = loop_head(f, pairs)
    variables = {s.node: loop.env[s.node].text for s in states}
    moves: list[tuple[str, str]] = []
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
    lines += [
        f"{steps}.append({loop.c.whole(loop.env[i], cell.nodes[i].type, lead=True).text})" for i, steps, _ in kept
    ]
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


def loop_head(f: Forward, pairs: list[tuple[str, str]]) -> str:
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


def settle(lines: list[str], moves: list[tuple[str, str]]) -> list[str]:
    """Assign the new states; a new value takes the state's own name at once where the old one is not read afterwards.

    before: h_new = ...; h = h_new      -->  after: h = ...
    """
    left: list[tuple[str, str]] = []
    now: dict[str, str] = {}  # the variable of a new value that is settled: two states may have the same
    for old, new in moves:
        if new in now:
            left.append((old, now[new]))
            continue
        where = [i for i, line in enumerate(lines) if re.match(rf"{re.escape(new)} = ", line)]
        reads_old = re.compile(rf"(?<![\w.\"]){re.escape(old)}(?![\w\"])")
        other = any(new_value == old for _, new_value in moves)
        if (
            len(where) == 1
            and not other
            and not any(reads_old.search(line) for line in lines[where[0] + 1 :] if not line.startswith("#"))
        ):
            writes_new = re.compile(rf"(?<![\w.\"]){re.escape(new)}(?![\w\"])")
            lines = [line if line.startswith("#") else writes_new.sub(old, line) for line in lines]
            now[new] = old
        else:
            left.append((old, new))
            now[new] = new
    if left:
        lines.append(f"{', '.join(o for o, _ in left)} = {', '.join(n for _, n in left)}")
    return lines

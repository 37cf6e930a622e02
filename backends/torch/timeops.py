"""code(torch): what looks back in time without a recurrence (`prev`, `conv`, attention), and calls of submodules.

What they carry from step to step is in the state dict, under their keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

from rnnc.backends.torch.expr import ATOM, Expr, call
from rnnc.ir.dims import Dim
from rnnc.ir.graph import Node

if TYPE_CHECKING:
    from rnnc.backends.torch.body import Body

TIME = frozenset({"delay", "conv", "attention", "call", "repeat"})


def whole_attr(node: Node, key: str) -> int:
    """An attribute that is a small number; 0 where it is left out."""
    value = node.attr(key, 0)
    assert isinstance(value, (int, Fraction)), value
    return int(value)


def buffer_length(node: Node) -> int:
    """How many past values `prev` or `conv` keeps; they are [batch, length, *per, *shape], oldest first."""
    if node.op == "delay":
        return int(Fraction(node.attr("n", 1)))  # type: ignore[arg-type]
    return int(Dim.of(node.attr("width")).constant or 0) - 1  # type: ignore[arg-type]


@dataclass(slots=True)
class Time:
    """Prints time operations and remembers the new buffers: `final` maps a key of the state dict to its new value."""

    step: bool
    packs: bool = False  # whether a sequence may be several packed ones
    final: dict[str, str] = field(default_factory=dict)
    results: dict[str, list[str]] = field(default_factory=dict)  # of calls, by key: the variables of the outputs

    def value(self, body: Body, node: Node, args: list[Expr]) -> Expr:
        match node.op:
            case "delay":
                return self._delay(body, node, args)
            case "conv":
                return self._conv(body, node, args)
            case "attention":
                return self._attention(body, node, args)
            case "call":
                return self._call(body, node, args)
            case _:
                return self._repeat(body, node, args)

    def _call(self, body: Body, node: Node, args: list[Expr]) -> Expr:
        """A submodule: one call for all of its outputs."""
        key, index = str(node.attr("key")), whole_attr(node, "output")
        if key not in self.results:
            sub = body.c.cell.subcells[whole_attr(node, "cell")]
            read = {whole_attr(n, "output"): n for n in body.c.cell.nodes if n.op == "call" and n.attr("key") == key}
            names = [body.names.fresh(body.title(read[i]) if i in read else "_") for i in range(len(sub.outputs))]
            state = body.names.fresh(f"{key}_state")
            targets = names[0] if len(names) == 1 else f"({', '.join(names)})"
            given = ", ".join([*self._given(body, node, args), f'state["{key}"]'])
            body.comment(body.source.line(node))
            call_text = f"{self.method(body.c.attributes[key])}({given}{self.bounds(', cu_seqlens=')})"
            body.statement(f"{targets}, {state} = {call_text}")
            self.final[key], self.results[key] = state, names
        return Expr(text=self.results[key][index], low=True)

    def _repeat(self, body: Body, node: Node, args: list[Expr]) -> Expr:
        """The same submodule class again and again, each time with its own parameters and state."""
        key = str(node.attr("key"))
        running, *outer = self._given(body, node, args)
        name, states = body.names.fresh(body.title(node)), body.names.fresh(f"{key}_state")
        layer, before = body.names.fresh("layer"), body.names.fresh("layer_state")
        given = ", ".join([name, *outer, before])
        body.comment(body.source.line(node))
        body.lines += [
            f"{name} = {running}",
            f"{states} = []",
            f'for {layer}, {before} in zip({body.c.attributes[key]}, state["{key}"]):',
            f"    {name}, {before} = {self.method(layer)}({given}{self.bounds(', cu_seqlens=')})",
            f"    {states}.append({before})",
        ]
        self.final[key] = states
        return Expr(text=name, low=True)

    def method(self, module: str) -> str:
        return f"{module}.step" if self.step else module

    def bounds(self, before: str = ", ") -> str:
        """The argument with the boundaries of packed sequences, where there may be any."""
        return f"{before}cu_seqlens" if self.packs else ""

    def own(self, body: Body, windows: str, length: int) -> str:
        """What stands at windows of `length` past values and the present one, one for each step."""
        return f"{body.c.use('own_steps')}({windows}, {length}, cu_seqlens)" if self.packs else windows

    def past(self, body: Body, window: str, length: int) -> str:
        """The values that the next step looks back at."""
        if self.packs:
            return f"{body.c.use('new_past')}({window}, {length}, cu_seqlens)"
        return f"{window}[:, 1:]" if self.step else f"{window}[:, -{length}:]"

    def _given(self, body: Body, node: Node, args: list[Expr]) -> list[str]:
        """Arguments of a submodule, which have batch and time axes and all their sizes."""
        return [body.c.whole(e, body.c.type(a), lead=True).text for e, a in zip(args, node.args)]

    def _window(self, body: Body, node: Node, x: Expr, length: int) -> str:
        """The buffer with the new values behind it, in a variable."""
        if len(x.text) > 40:
            x = body.held(node.args[0])
        x = body.c.whole(x, body.c.type(node.args[0]), lead=True)
        key = str(node.attr("key"))
        now = f"{x.atom}.unsqueeze(1)" if self.step else x.text
        name = body.names.fresh(f"{node.attr('key')}_window" if self.step else f"{key}_padded")
        body.comment(body.source.line(node))
        if self.packs:
            body.statement(f'{name} = {body.c.use("with_past")}(state["{key}"], {now}, cu_seqlens)')
        else:
            body.statement(f'{name} = torch.cat([state["{key}"], {now}], 1)')
        return name

    def _delay(self, body: Body, node: Node, args: list[Expr]) -> Expr:
        n = buffer_length(node)
        key = str(node.attr("key"))
        window = self._window(body, node, args[0], n)
        self.final[key] = self.past(body, window, n)
        text = f"{window}[:, 0]" if self.step else self.own(body, f"{window}[:, :-{n}]", n)
        return Expr(text=text, low=args[0].low)

    def _conv(self, body: Body, node: Node, args: list[Expr]) -> Expr:
        c, length = body.c, buffer_length(node)
        weights = [c.whole(e, c.type(a)) for e, a in zip(args[1:], node.args[1:])]
        if length == 0:
            x = c.whole(args[0], c.type(node.args[0]))
            window = x.atom + ".unsqueeze(1)" if self.step else x.text
        else:
            window = self._window(body, node, args[0], length)
            key = str(node.attr("key"))
            self.final[key] = self.past(body, window, length)
        text = call(c.use("causal_conv"), window, *(w.text for w in weights))
        text = self.own(body, text, length) if length else text
        return Expr(text=f"{text}.squeeze(1)" if self.step else text, prec=ATOM)

    def _attention(self, body: Body, node: Node, args: list[Expr]) -> Expr:
        """Causal attention over all steps so far; the keys and values seen are kept in the state."""
        c, key = body.c, str(node.attr("key"))
        q, k, v = (c.whole(e, c.type(a), lead=True) for e, a in zip(args, node.args))
        names = []
        for part, e in (("k", k), ("v", v)):
            now = f"{e.atom}.unsqueeze(1)" if self.step else e.text
            name = body.names.fresh(f"{key}_{part}")
            body.statement(f'{name} = torch.cat([state["{key}_{part}"], {now}], 1)')
            self.final[f"{key}_{part}"] = name
            names.append(name)
        query = f"{q.atom}.unsqueeze(1)" if self.step else q.text
        text = call(c.use("causal_attention"), query, *names)
        return Expr(text=f"{text}.squeeze(1)" if self.step else text, low=True)

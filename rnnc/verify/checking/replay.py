"""Closures step by step, in exact arithmetic or rounded to a float format: of single states, or of boxes of states."""

from __future__ import annotations

from typing import Any

from rnnc.exact import Asymptotic, is_limit
from rnnc.verify.checking.blocks import check_blocks
from rnnc.verify.format import decode_array
from rnnc.verify.trusted import boxes
from rnnc.verify.trusted.automata import Automaton, same_language, strays
from rnnc.verify.trusted.cells import NORMS, SINGULAR, Cell, need
from rnnc.verify.trusted.machine import Machine


def check_closure(c: Cell, data: Any, own: Automaton) -> set[str]:
    """Every step from every state (or box of states), and the map g onto the automaton's states.

    Returns the precision models that it speaks for.
    """
    if "blocks" in data:
        return check_blocks(c, data, own)
    dfa, g, kind, hidden = data["automaton"], data["g"], data["arithmetic"], data["left_out"]
    delta, boxed = dfa["delta"], "regions" in data
    need(dfa["alphabet"] == list(own.letters), f"the letters are {own.letters}")
    need(same_language(own, delta, dfa["start"], dfa["accept"]), "the automaton is not that of the claim")
    need(kind in ("exact", "float32"), f"`{kind}` is no arithmetic of closures")
    need(kind == "exact" or not (boxed or hidden), "boxes and states that are left out are exact")
    layers = [Machine(c.source, c.given, x["sizes"], x["params"], kind, hidden) for x in data["layers"]]
    letters = {a: layers[0].inputs(data["letters"][a], f"letter `{a}`") for a in own.letters}
    states = [
        [m.state(x, f"state {k}") for m, x in zip(layers, row, strict=True)] for k, row in enumerate(data["states"])
    ]
    spans = [boxes.read_spans(x, states[k][0]) for k, x in enumerate(data.get("regions", [[]] * len(states)))]
    free = {name for s in spans for name, _, _ in s}
    need(not boxed or (len(layers) == 1 and len(spans) == len(states)), "boxes are of one layer")
    m, unfolded = layers[0], Cell(layers[0].cell, {})
    unread = [i for s in m.cell.states if s.name in hidden for i in (s.init, s.update)]
    need(not unfolded.wild(unread, SINGULAR | NORMS), f"{hidden}, which are left out, may have no value")
    need(not free or affine(unfolded, free), f"an update is not affine in {sorted(free)} together")
    tables = [_table(above, rows) for above, rows in zip(layers[1:], data["tables"], strict=True)]
    signed = kind != "exact" and c.divides()  # then -0.0, which counts as 0.0 elsewhere, is another number

    def same(found: Any, to: int, n: int, where: str) -> None:
        for name, array in found.items():
            zero = signed and boxes.minus_zero(array)
            need(not zero, f"{where}: `{name}` is -0.0, and an update divides by a state")
            pairs = zip(boxes.places(name, array), boxes.places(name, states[to][n][name]), strict=True)
            fit = all(boxes.contains(spans[to], place, x, y) for (place, x), (_, y) in pairs)
            need(fit, f"{where}: `{name}` is {array.tolist()}, not what is stated")

    limits = False
    for n, layer in enumerate(layers):
        same(layer.start(), 0, n, f"state 0 is not the initial state of layer {n + 1}")
    for k, state in enumerate(states):
        for j, letter in enumerate(own.letters):
            to, where = data["steps"][k][j], f"state {k}, letter `{letter}`"
            for corner in boxes.corners(state[0], spans[k]):
                read, shown = letters[letter], dict[str, Any]()
                for n, (layer, before) in enumerate(zip(layers, state, strict=True)):
                    last = n + 1 == len(layers)
                    new, output = layer.step(read, boxes.moved(before, corner) if corner else before, not last)
                    limits |= any(isinstance(x, Asymptotic) and is_limit(x) for x in boxes.entries([new]))
                    same(new, to, n, f"{where}, to state {to}, layer {n + 1}")
                    shown |= {f"{n}.{name}": v for name, v in output.items()}
                    if not last:
                        key = letter, boxes.core([output if n == 0 else shown])
                        need(key in tables[n], f"{where}: layer {n + 1} gives an output that the map has not")
                        read = tables[n][key]
            limits |= boxes.rays(m, state[0], spans[k], letters[letter], (states[to][0], spans[to]), where)
    wrong = strays(data["steps"], g, delta, dfa["start"])
    need(not wrong, wrong)
    if boxed:
        sets = [(s[0], x) for s, x in zip(states, spans, strict=True)]
        near = [(j, k) for k in range(len(g)) for j in range(k) if g[j] != g[k] and not boxes.apart(sets[j], sets[k])]
        need(not near, f"boxes {near} may have a state in common and belong to different states of the automaton")
    else:
        boxes.separate(states, g)
    limits |= any(isinstance(x, Asymptotic) and is_limit(x) for s in states for x in boxes.entries(s))
    bounded = all(None not in ends for s in spans for ends in s.values())
    bounded &= all(unfolded.bounded((name,)) for name in hidden)
    return _models(kind, not limits, bounded, boxed)


def _table(above: Machine, rows: Any) -> dict[Any, Any]:
    """A map between layers: the inputs of the layer above, by the letter and the outputs below."""
    table: dict[Any, Any] = {}
    for row in rows:
        key = row["letter"], boxes.core([{name: decode_array(v) for name, v in row["output"].items()}])
        need(key not in table, "the map between layers is no function")
        table[key] = above.inputs(row["inputs"], "a table's input")
    return table


def _models(kind: str, attained: bool, bounded: bool, boxed: bool) -> set[str]:
    """The precision models that a closure speaks for."""
    if kind != "exact":
        return {"float32"}
    found = {"finite_precision"} | ({"exact"} if attained else set())
    found |= {"eta_finite"} if attained and bounded else set()
    return found | ({"log_precision"} if attained and not boxed else set())


def affine(c: Cell, free: set[str]) -> bool:
    """Whether every update is affine in these states together."""
    return c.coefficients(free, c.updates(c.states)) is not None

"""Products of closures: the entries of a state in blocks that do not read each other, each closed by itself."""

from __future__ import annotations

from typing import Any

import numpy

from rnnc.exact import Asymptotic, is_limit
from rnnc.verify.format import decode_array
from rnnc.verify.trusted.automata import Automaton, same_language, strays, told_by
from rnnc.verify.trusted.boxes import separate
from rnnc.verify.trusted.cells import Cell, need
from rnnc.verify.trusted.grid import Grid
from rnnc.verify.trusted.machine import Machine

np: Any = numpy  # object arrays, which its stubs do not describe


def check_blocks(c: Cell, data: Any, own: Automaton) -> set[str]:
    """Every step from every state of each block, with nothing known of the rest of the state.

    What is known after such a step holds whatever the other blocks are, so the cell goes through the product of the
    blocks' automata; that tells the state of the automaton of the claim.  And each number that a step works out is
    known in the steps of some block, so that all of them have values.  Returns the models that it speaks for.
    """
    dfa, blocks, limits = data["automaton"], data["blocks"], False
    need(dfa["alphabet"] == list(own.letters), f"the letters are {own.letters}")
    need(same_language(own, dfa["delta"], dfa["start"], dfa["accept"]), "the automaton is not that of the claim")
    (layer,) = data["layers"]
    need(data["arithmetic"] == "exact" and not data["left_out"], "blocks are exact, and nothing is left out")
    m = Machine(c.source, c.given, layer["sizes"], layer["params"], "exact")
    grid = Grid(m, [m.inputs(data["letters"][a], f"letter `{a}`") for a in own.letters])
    start = m.start()
    held = sorted((name, k) for b in blocks for name, at in b["entries"].items() for k in at)
    once = len(held) == sum(x.size for x in start.values())
    once = once and held == sorted((s, k) for s, x in start.items() for k in range(x.size))
    need(once and all(type(k) is int for _, k in held), "blocks hold each entry once")
    need(told_by([(b["delta"], b["start"]) for b in blocks], own), "the blocks' automata do not tell that of the claim")
    worked: dict[int, Any] = {}
    for n, b in enumerate(blocks, 1):
        limits |= check_block(grid, b, start, own, worked, f"block {n}")
    need(all(known.all() for known in worked.values()), "a step works out a number that no block alone determines")
    return {"finite_precision"} | (set() if limits else {"exact", "eta_finite", "log_precision"})


def check_block(grid: Grid, b: Any, start: Any, own: Automaton, worked: dict[int, Any], where: str) -> bool:
    """One block against its automaton; adds to what is known of the numbers that steps work out, by node.

    Whether a number in it is only a limit.
    """
    entries, g, table = b["entries"], b["g"], grid.table
    states = [{name: decode_array(row[name]) for name in entries} for row in b["states"]]
    stated, found, known = grid.alone(entries, states)
    for node, x in known.items():
        worked[node] = x | worked.get(node, np.zeros_like(x))
    steps = np.array(b["steps"])
    need(steps.shape == found.shape[:2] and steps.dtype == np.int64, f"{where}: a step is missing")
    first = np.concatenate([table.coded(start[name].reshape(-1)[at]) for name, at in entries.items()])
    need(grid.same(first, stated[0]).all(), f"{where}: state 0 is not the initial one")
    fit = grid.same(found, stated[steps])
    for k, j, place in np.argwhere(~fit)[:1].tolist():
        what = f"{where}, state {k}, letter `{own.letters[j]}`: number {place}"
        need(False, f"{what} is {table.values[found[k, j, place]]}, not what is stated")
    wrong = strays(b["steps"], g, b["delta"], b["start"])
    need(not wrong, f"{where}, {wrong}")
    separate([[s] for s in states], g)
    reached = (table.values[k] for k in {*found.flat, *stated.flat})
    return any(isinstance(x, Asymptotic) and is_limit(x) for x in reached)

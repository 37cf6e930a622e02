"""Claims about structure: derived for every input and all weights, or contradicted by numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from rnnc.ir.types import Domain, Interval
from rnnc.verify.claims import domain_of, operator_of
from rnnc.verify.trusted.cells import Cell, need
from rnnc.verify.trusted.machine import Machine
from rnnc.verify.trusted.matrices import outside
from rnnc.verify.trusted.numbers import bend, matrices, moves_on, multiplies
from rnnc.verify.trusted.ranges import Ranges
from rnnc.verify.trusted.transitions import Transitions


def wanted_of(c: Cell, claim: Any) -> Domain:
    dims = {p.name: c.given[p.name] for p in c.cell.dims if p.name in c.given}
    return Interval() if claim.real else domain_of(claim.domain, c.cell, dims)


# ---------------------------------------------------------------- for all weights and inputs


def established(c: Cell, claim: Any) -> None:
    subject = getattr(claim.subject, "id", "")
    group = next((g for g in c.groups if subject in g), ())
    match claim.kind:
        case "linear" | "affine":
            alone = c.coefficients([subject], [c.states[subject].update]) is not None
            need(alone or c.semirings(group), f"`{subject}` enters its update nonlinearly")
        case "time_invariant":
            need(not c.attends and all(map(c.fixed, c.groups)), "a transition is not fixed")
        case "eigenvalues" | "norm":
            op = operator_of(c.cell, claim.subject)
            z = op.cell.state(op.state)
            t = Transitions(op.cell, Ranges(op.cell)).of((z.node,), (z.update,))
            need(t.lies_in(wanted_of(c, claim), claim.kind), f"what is found is {t.eigenvalues}, norm {t.norm}")
        case "stable":  # of bounded inputs, which may come as near to the ends of their domains as they like
            need(not c.attends, "attention reads all steps before")
            closed = Cell(c.source, c.given, closed_inputs=True)
            for g in closed.groups:
                closed.stays(g)
        case "contractive":
            bound = c.slope(group)
            need(bound.hi < 1 or (bound.hi == 1 and bound.hi_open), f"distances may grow by a factor in {bound}")
        case "parallel":
            ways = [c.ways(g) for g in c.groups] if claim.args[0].id != "newton" else [{"newton"} for _ in c.groups]
            need(ways and not c.attends and all(ways) and claim.args[0].id in set().union(*ways), f"legal is {ways}")


# ---------------------------------------------------------------- by numbers


def contradicted(c: Cell, claim: Any, data: Any) -> None:
    """By weights, inputs and states at which the claim fails by a margin far above rounding."""
    op = operator_of(c.cell, claim.subject) if claim.kind in ("eigenvalues", "norm") else None
    exact = claim.kind == "stable" and data["exact"]
    cell, kind = op.cell if op else c.cell, "exact" if exact else "float64"
    m = Machine(cell, c.given, data["sizes"], data["params"], kind)
    inputs = [m.inputs(row, "an input") for row in data["inputs"]]
    name = data["state"] if claim.kind in ("stable", "parallel", "time_invariant") else getattr(claim.subject, "id", "")
    if op:
        spectrum_outside(m, inputs[0], op.state, wanted_of(c, claim), claim.kind)
    elif claim.kind == "stable":
        grows(c, m, inputs[0], name, exact)
    else:
        node = {s.name: s.node for s in m.cell.states}
        a, b = ({s: m.read(node[s], v, f"`{s}`") for s, v in row.items()} for row in data["states"][:2])
        moves_wrong(c, m, claim, inputs, name, m.start() | a, m.start() | b)


def spectrum_outside(m: Machine, inputs: Any, state: str, wanted: Domain, kind: str) -> None:
    need(any(outside(a, wanted, kind) for a in matrices(m, inputs, state)), "no eigenvalue or norm lies outside")


def moves_wrong(c: Cell, m: Machine, claim: Any, inputs: Any, name: str, a: Any, b: Any) -> None:
    """Two states whose midpoint is off the line, that move apart, or whose difference fares otherwise with an input.

    For `parallel` the midpoint is off to both sides, or a larger state leads to a smaller one: no map over (max, +).
    """
    group = next(g for g in c.groups if name in g)
    own = group if claim.kind == "time_invariant" else (name,)
    need(all(np.all(a[s] == b[s]) for s in a if s not in own), "another state differs")
    x = bend(m, inputs[0], name, a, b)
    match claim.kind:
        case "time_invariant":
            y = bend(m, inputs[1], name, a, b)
            need(
                np.abs(x.difference - y.difference).max() > x.margin + y.margin,
                f"`{name}` fares alike under both inputs",
            )
        case "contractive":
            before, after = (np.linalg.norm(np.ravel(z)) for z in (a[name] - b[name], x.difference))
            need(len(group) == 1 and after > before * (1 + 1e-3) + x.margin, "the states do not move apart")
        case "linear" | "affine" | "parallel":
            need(np.abs(x.off).max() > x.margin, f"the updates of `{name}` are in line")
            other = x.falls or min(x.off.max(), -x.off.min()) > x.margin
            need(claim.kind != "parallel" or other, f"`{name}` moves up with its state: (max, +) is not ruled out")
            need(claim.kind != "parallel" or claim.args[0].id != "newton", "Newton's method solves any recurrence")


def grows(c: Cell, m: Machine, inputs: Any, name: str, exact: bool) -> None:
    """Under a constant input a linear state grows geometrically, or (exactly) by the same amount in every step."""
    group = next(g for g in c.groups if name in g)
    need("plus_times" in c.semirings(group) and c.sources(c.updates(group))[0] <= {*group}, "not linear by itself")
    windows = [s.name for s in m.cell.states if s.name not in c.states]
    if exact:
        moves_on(m, inputs, name, group, windows)
    else:
        alone, start = c.transition(group).elementwise and len(group) == 1, m.start()
        order = 1 + (1 if alone else sum(start[s].size for s in group))  # beside the state the constant input
        need(multiplies(m, inputs, name, order, windows), "no such growth")

"""Stability and contractivity of a group's update, with the bound that proves it.

`stable`: bounded inputs keep the states bounded.  Proved for a linear group whose transitions have norms bounded below
1 (of at most 1, if nothing is added); also where they only stay below 1 without reaching it, as long as each is a
continuous function of values that stay bounded while the inputs do (a continuous function below 1 on a bounded closed
set has a maximum below 1).  The ends of an input's declared domain are taken to belong to it here: inputs may come as
near to them as they like.  For a fixed matrix the spectral radius decides.  A nonlinear update that is bounded whatever
the state is keeps the state bounded.

`contractive`: the update shrinks distances between states, by the Lipschitz bound of `lipschitz.py`.
"""

from __future__ import annotations

from dataclasses import replace

from rnnc.analysis import intervals as iv
from rnnc.analysis.elementary import NONNEGATIVE
from rnnc.analysis.facts import Spectrum
from rnnc.analysis.forms import Group, Recurrence, transition_nodes
from rnnc.analysis.growth import keeps_bounded
from rnnc.analysis.lipschitz import lipschitz_of
from rnnc.analysis.ranges import Ranges
from rnnc.analysis.steps import one_step
from rnnc.ir.graph import CellIR, NodeId, ancestors, is_static
from rnnc.ir.types import HalfPlane, Interval

JUMPS = frozenset({"step", "sign", "lt", "le", "eq", "ne", "select"})
NORMS = frozenset({"l2norm", "rmsnorm", "layernorm"})
SINGULAR = frozenset({"div", "log", "pow", "solve", "cayley"})


def with_stability(s: Spectrum, recurrence: Recurrence, group: Group, ranges: Ranges) -> Spectrum:
    """`s` with its stability and the Lipschitz bound of the update."""
    closed = _closed(ranges)
    undefined = _undefined(recurrence.cell, group, closed)
    if group.kind == "nonlinear" or group.semiring != "plus_times" or not group.forms:
        bound, why = lipschitz_of(recurrence.cell, group, ranges)
        s = replace(s, lipschitz=bound, reasons={**s.reasons, "lipschitz": why})
        return _not_a_number(s, undefined) if undefined else _nonlinear(s, recurrence.cell, group, closed)
    if s.norm is not None:
        s = s.because(f"the update is affine, so its Lipschitz bound is the norm: {s.why('norm')}", lipschitz=s.norm)
    return _not_a_number(s, undefined) if undefined else _linear(s, recurrence, group, closed)


def _closed(ranges: Ranges) -> Ranges:
    closed = ranges.with_closed_inputs()
    planes = {i: replace(d, strict=False) for i, d in closed.domains.items() if isinstance(d, HalfPlane)}
    return Ranges(closed.nodes, {**closed.domains, **planes})


def _not_a_number(s: Spectrum, what: str) -> Spectrum:
    missing = f"that {what} is a number for all inputs and weights"
    return replace(s, missing=s.missing or missing, reasons={**s.reasons, "stability": missing})


def _undefined(cell: CellIR, group: Group, ranges: Ranges) -> str:
    """A root, logarithm or power in the updates of a number that may be negative, or a quotient by one that may be zero
    (`sin(1 / h)`, `l2norm(h, eps = 0)`); "" where there is none.
    """
    for i in sorted(ancestors(cell, [cell.state(n).update for n in group.states])):
        n = cell.nodes[i]
        norm = n.op in NORMS and not n.attr("eps")  # of zeros it is 0 / 0
        fixed = (norm or n.op == "div") and is_static(cell.nodes, [i])
        real = n.type.dtype == "real" and n.op in ("sqrt", "log", "pow", "div")
        if fixed or not (norm or real):
            continue
        inner = ranges.real(n.args[0])
        if norm or not (iv.within(inner, NONNEGATIVE) if n.op == "sqrt" else _regular(ranges, i)):
            return f"`{n.name or n.op}`" + (f" in line {n.span.line}" if n.span is not None else "")
    return ""


def _linear(s: Spectrum, recurrence: Recurrence, group: Group, ranges: Ranges) -> Spectrum:
    """`ranges`: over closed domains of the inputs."""
    bound = None if s.norm is None else one_step(group, ranges).facts.norm
    alone = group.kind == "linear"  # nothing is added to the state
    if alone and bound is not None and bound.hi is not None and bound.hi <= 1:
        why = f"nothing is added to the state, and the norm of every transition is at most {bound.hi}"
        return s.because(why, stability="proved")
    if not _bounded_drive(recurrence.cell, group, ranges):
        missing = "that what is added to the state stays bounded"
        return replace(s, missing=s.missing or missing, reasons={**s.reasons, "stability": missing})
    if bound is not None and bound.hi is not None and bound.hi < 1:
        return s.because(f"the norm of every transition is at most {bound.hi}", stability="proved")
    radius = s.modulus
    if group.transition_static and radius is not None and _inside_the_disk(radius):
        return s.because("the transition is fixed, with all eigenvalues inside the unit disk", stability="proved")
    if bound is not None and bound.hi == 1 and bound.hi_open:
        open_to = _unbounded_source(group, ranges)
        if open_to is None:
            why = (
                "the norm of every transition is below 1 and continuous in values that stay bounded while the inputs do"
            )
            return s.because(why, stability="proved")
        missing = f"a bound below 1 of the norm for all values of {open_to}"
    elif bound is None or bound.hi is None:
        missing = s.missing or "a bound of the norm"
    else:
        missing = (
            "a bound of the norm of at most 1" if alone else "a bound of the norm below 1, since something is added"
        )
    return replace(s, missing=s.missing or missing, reasons={**s.reasons, "stability": missing})


def _inside_the_disk(radius: Interval) -> bool:
    return radius.hi is not None and (radius.hi < 1 or (radius.hi == 1 and radius.hi_open))


def _unbounded_source(group: Group, ranges: Ranges) -> str | None:
    """What the transition depends on that need not stay bounded, or jumps; None where there is nothing."""
    work, seen = transition_nodes(group.forms[0]), set()
    while work:
        i = work.pop()
        if i in seen:
            continue
        seen.add(i)
        n = ranges.nodes[i]
        if is_static(ranges.nodes, [i]):
            continue
        if n.op in JUMPS or (n.op in NORMS and not n.attr("eps")):
            return f"`{ranges.name(i)}`, which jumps"
        if n.op == "state":
            return f"the state `{n.name}`"
        if n.op in ("attention", "call", "repeat"):
            return f"`{ranges.name(i)}`"
        if n.op in SINGULAR and not _regular(ranges, i):
            return f"`{ranges.name(i)}`, which may grow without bound"
        work.extend(n.args)
    return None


def _regular(ranges: Ranges, node: NodeId) -> bool:
    """Whether a quotient, logarithm or power is continuous where it is used: its base stays away from zero or inside
    the positive numbers (a continuous positive function of bounded values has a positive minimum).
    """
    n = ranges.nodes[node]
    if n.type.dtype != "real" or n.op in ("solve", "cayley"):
        return False
    inner = ranges.real(n.args[1] if n.op == "div" else n.args[0])
    if iv.is_positive(inner) or iv.is_positive(iv.neg(inner)):
        return True
    exponent = ranges.real(n.args[1]) if n.op == "pow" else None
    return (
        exponent is not None
        and exponent.lo == exponent.hi
        and exponent.lo is not None
        and (exponent.lo.denominator == 1 and exponent.lo >= 0)
    )


# ---------------------------------------------------------------- nonlinear groups


def _nonlinear(s: Spectrum, cell: CellIR, group: Group, ranges: Ranges) -> Spectrum:
    bounds = {name: ranges.modulus(cell.state(name).update) for name in group.states}
    free = [name for name, b in bounds.items() if b.hi is None]
    if not free:
        shown = ", ".join(f"|`{name}`| <= {b.hi}" for name, b in bounds.items())
        return s.because(f"the update is bounded whatever the states are: {shown}", stability="proved")
    kept = _invariant(cell, group, ranges)
    if kept is not None:
        return s.because(f"the update keeps the states in {kept}, where they start", stability="proved")
    lipschitz = s.lipschitz
    if lipschitz is not None and lipschitz.hi is not None and lipschitz.hi < 1 and _bounded_drive(cell, group, ranges):
        return s.because(f"the update is a contraction with the factor {lipschitz.hi}", stability="proved")
    grown = keeps_bounded(cell, group, ranges, _steady(cell, group, ranges))
    if grown:
        return s.because(grown, stability="proved")
    missing = f"a bound of the update of `{free[0]}`, or a Lipschitz bound below 1"
    return replace(s, reasons={**s.reasons, "stability": missing})


def _invariant(cell: CellIR, group: Group, ranges: Ranges) -> Interval | None:
    """An interval [-r, r] that holds the initial states and that the updates map into itself."""
    for r in (1, 2):
        box = iv.between(-r, r, False, False)
        assumed = Ranges(cell.nodes, {**ranges.domains, **{cell.state(n).node: box for n in group.states}})
        inside = all(
            cell.nodes[cell.state(n).update].type.dtype == "real"
            and iv.within(assumed.real(cell.state(n).init), box)
            and iv.within(assumed.real(cell.state(n).update), box)
            for n in group.states
        )
        if inside:
            return box
    return None


def _steady(cell: CellIR, group: Group, ranges: Ranges) -> frozenset[NodeId]:
    """What no state of the group enters and stays bounded while the inputs and earlier states do."""
    own = {cell.state(n).node for n in group.states}
    found: set[NodeId] = set()
    for i in sorted(ancestors(cell, [cell.state(n).update for n in group.states])):
        n = ranges.nodes[i]
        wild = n.op in ("call", "repeat") or (n.op in SINGULAR and not _regular(ranges, i))
        if i not in own and (is_static(ranges.nodes, [i]) or (found.issuperset(n.args) and not wild)):
            found.add(i)
    return frozenset(found)


def _bounded_drive(cell: CellIR, group: Group, ranges: Ranges) -> bool:
    """Whether the update at the zero state stays bounded while the inputs and earlier states do."""
    own = {cell.state(n).node for n in group.states}
    work, seen = [cell.state(n).update for n in group.states], set()
    while work:
        i = work.pop()
        if i in seen or i in own or is_static(ranges.nodes, [i]):
            continue
        seen.add(i)
        n = ranges.nodes[i]
        if n.op in ("call", "repeat") or (n.op in SINGULAR and not _regular(ranges, i)):
            return False
        work.extend(n.args)
    return True

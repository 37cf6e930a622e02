"""What a structure can never do: theorems N1 to N7, each with its side conditions.

A `Ceiling` is one attempt: it speaks of one precision model, and holds if all its conditions do.  A condition that is
not discharged is named, never assumed.
"""

from __future__ import annotations

from collections.abc import Iterator

from rnnc.analysis.forms import Elementwise
from rnnc.ir.graph import CellIR, NodeId, ancestors
from rnnc.verify.ceiling import Ceiling, no_obstacle, subject
from rnnc.verify.continuity import passes_on
from rnnc.verify.layers import Layer, Layers
from rnnc.verify.periods import period_of_a_letter, periods, star_free
from rnnc.verify.results import Condition, Precision
from rnnc.verify.rounding import nondecreasing_in_floats
from rnnc.verify.target import Target, shown

FLOATS = ("float16", "bfloat16", "float32", "float64")

METRIC_GATES = "derived in Metric Automata Theory: strict contractions forget under a repeated letter"
SHAKERINAVA = "Shakerinava et al.: diagonal state space models and groups"
MERRILL = "Merrill, Petty and Sabharwal 2024"
FLOAT = "derived: rounding is monotone"
WEISS = "Weiss et al. 2018; Merrill 2019"


def ceilings(layers: Layers, target: Target, copies: int, precision: Precision) -> Iterator[Ceiling]:
    """All attempts under one precision model, the strongest statements first.  Lazy: the first that holds decides."""
    if not target.regular:
        if precision in FLOATS:
            yield _finite_state(layers, target, precision)
        elif precision == "finite_precision":
            yield _squashed(layers, target)
        return
    match precision:
        case "finite_precision":
            yield from periods(layers, target, copies)
            if target.group is not None:
                yield _abelian_series(layers, target, copies)
        case "eta_finite":
            yield star_free(layers, target, copies)
            yield _forgetting(layers, target, copies)
        case "log_precision":
            yield _threshold_circuits(layers, target)
        case "exact":
            return
        case _:
            yield _monotone_floats(layers, target, precision)


# ---------------------------------------------------------------- eta_finite: gates that are reached only in the limit


def _forgetting(layers: Layers, target: Target, copies: int) -> Ceiling:
    """Every transition shrinks strictly: repeating a letter leads all states to one point, so from some length on into
    one component.
    """
    conditions = [no_obstacle(layers)]
    for layer in layers.layers:
        norm = layer.spectrum.norm
        strict = norm is not None and norm.hi is not None and (norm.hi < 1 or (norm.hi == 1 and norm.hi_open))
        conditions.append(
            Condition(
                text=f"{layer.name}: linear, and for every input the transition's norm is strictly below 1",
                holds=strict and layer.group.kind != "nonlinear" and not layer.feedback and not layer.is_clock,
                by=f"norm in {norm}" if norm is not None else layer.spectrum.why("norm"),
            )
        )
    if layers.depth * copies > 1:
        conditions.append(passes_on(layers, copies))
    letter = target.lasting_letter()
    text = f"some letter of {subject(target)}, however often repeated, keeps two states apart"
    name = shown((letter or "",))
    have = f"the letter `{name}` does" if letter is not None else "every letter, repeated, leads to one state"
    conditions.append(Condition(text=text, holds=letter is not None, by=have))
    return Ceiling(
        theorem="contraction",
        source=METRIC_GATES,
        precision="eta_finite",
        reason=f"repeating `{name}` leads all states to one point: a gate of exactly 1 is reached in the limit only",
        conditions=tuple(conditions),
    )


# ---------------------------------------------------------------- N3, N3k: diagonal over C


def _abelian_series(layers: Layers, target: Target, copies: int) -> Ceiling:
    group = target.group
    assert group is not None
    depth = layers.depth * copies
    conditions = [no_obstacle(layers), *(_diagonal(layer) for layer in layers.layers)]
    conditions.append(_old_states(layers, copies))
    if group.derived_length is None:
        have, beyond = f"{group.shown} is not solvable", True
    else:
        beyond = group.derived_length > depth
        have = f"the derived series of {group.shown} has length {group.derived_length}"
    text = (
        f"the group of {subject(target)} is not abelian"
        if depth == 1
        else f"the group of {subject(target)} has no subnormal series of length {depth} with abelian factors"
    )
    conditions.append(Condition(text=text, holds=beyond, by=have))
    return Ceiling(
        theorem="N3" if depth == 1 else "N3k",
        source=SHAKERINAVA,
        precision="finite_precision",
        reason=f"{depth} layer{'s' if depth > 1 else ''} of commuting diagonal transitions, and {have}",
        conditions=tuple(conditions),
    )


def _diagonal(layer: Layer) -> Condition:
    """Diagonal over C in one basis: elementwise, turned in fixed planes, symmetric with fixed directions, ..."""
    text = f"{layer.name}: transitions are diagonal over C in one basis"
    forms = layer.group.forms
    if layer.feedback:
        return Condition(text=text, holds=False, by=f"it also reads its own past through `{layer.feedback}`")
    if layer.is_clock:
        return Condition(text=text, holds=False, by="it is a clock that no input reaches")
    if layer.group.kind == "nonlinear" or layer.group.semiring != "plus_times":
        return Condition(text=text, holds=False, by="its update is not linear over (+, x)")
    if forms and isinstance(forms[0], Elementwise):
        return Condition(text=text, holds=True, by="the update is elementwise")
    if forms and layer.spectrum.diagonalisable:  # by one change of basis for all inputs
        return Condition(text=text, holds=True, by=layer.spectrum.why("diagonalisable"))
    return Condition(text=text, holds=False, by=f"its structure is {layer.group.structure.replace('_', ' ')}")


def _old_states(layers: Layers, copies: int) -> Condition:
    """The theorem's layers read the inputs and the new states before them, of this step."""
    text = "a layer reads the inputs and, of earlier layers, the states of the same step"
    cell = layers.recurrence.cell
    for layer in layers.layers:
        if layer.reads and layers.windows:
            by = f"{layer.name} follows other states, and `{layers.windows[0]}` looks back"
            return Condition(text=text, holds=False, by=by)
        earlier = [s for i in layer.reads for s in layers.layers[i].group.states]
        updates = [cell.state(name).update for name in layer.group.states]
        old = next((s for s in earlier if _reads_old(cell, updates, s, frozenset(updates))), None)
        if old is not None:
            return Condition(text=text, holds=False, by=f"{layer.name} reads `{old}` before the step")
    if copies > 1 and layers.layers:
        if layers.windows:
            by = f"the next copy of the cell looks back through `{layers.windows[0]}`"
            return Condition(text=text, holds=False, by=by)
        outputs = [o.node for o in cell.outputs]
        old = next((s.name for s in cell.states if _reads_old(cell, outputs, s.name)), None)
        if old is not None:
            return Condition(text=text, holds=False, by=f"the next copy of the cell reads `{old}` before the step")
    by = "dependence analysis"
    if layers.windows:
        by += "; a window of the inputs is filled by a word for the identity after each letter"
    return Condition(text=text, holds=True, by=by)


def _reads_old(cell: CellIR, nodes: list[NodeId], earlier: str, within: frozenset[NodeId] = frozenset()) -> bool:
    """Whether `nodes` read the earlier state otherwise than through its update (or through one of `within`)."""
    s = cell.state(earlier)
    return s.update == s.node or s.node in ancestors(cell, nodes, frozenset({s.update}) - within)


# ---------------------------------------------------------------- N4: threshold circuits


def _threshold_circuits(layers: Layers, target: Target) -> Ceiling:
    conditions = []
    if layers.obstacle:
        text = "attention is in TC0 at log precision"
        conditions.append(Condition(text=text, holds=True, by="Merrill and Sabharwal 2023"))
    for layer in layers.layers:
        conditions.append(_circuit(layer))
    text = f"the word problem of {subject(target)} is complete for NC1: a group in its monoid is not solvable"
    have = {True: "all its groups are solvable", False: "not solvable", None: "not known"}[target.solvable]
    conditions.append(Condition(text=text, holds=target.solvable is False, by=have))
    return Ceiling(
        theorem="N4",
        source=MERRILL,
        precision="log_precision",
        reason=f"such layers are in TC0 at log precision, and {subject(target)} is complete for NC1",
        conditions=tuple(conditions),
        assuming="TC0 != NC1",
    )


def _circuit(layer: Layer) -> Condition:
    text = f"{layer.name}: not gated, diagonal, or simultaneously diagonalisable"
    s = layer.spectrum
    if layer.feedback or layer.group.kind == "nonlinear" or layer.group.semiring != "plus_times":
        return Condition(text=text, holds=False, by="its update is not linear over (+, x) in its own state alone")
    if layer.fixed_transition and layer.group.forms:
        return Condition(text=text, holds=True, by="the transition is the same at every step")
    if layer.is_diagonal:
        return Condition(text=text, holds=True, by="the update is elementwise")
    if s.diagonalisable:
        return Condition(text=text, holds=True, by=s.why("diagonalisable"))
    return Condition(text=text, holds=False, by=s.why("diagonalisable"))


# ---------------------------------------------------------------- N5: floating point, one step at a time


def _monotone_floats(layers: Layers, target: Target, precision: Precision) -> Ceiling:
    conditions = [no_obstacle(layers)]
    for layer in layers.layers:
        conditions.append(_monotone(layers, layer))
    conditions.append(_one_zero(layers))
    letter, p, condition = period_of_a_letter(target, 0)
    maps = "each number goes through a nondecreasing map of finitely many floats"
    return Ceiling(
        theorem="N5",
        source=FLOAT,
        precision=precision,
        reason=f"{maps}, so repeating `{shown((letter,))}` ends in one state",
        conditions=(*conditions, condition),
        data={"letter": letter, "period": p},
    )


def _one_zero(layers: Layers) -> Condition:
    """-0.0 and 0.0 are one number to all that a layer passes its state to: what divides by it tells them apart."""
    cell = layers.recurrence.cell
    for n in (cell.nodes[i] for i in sorted(ancestors(cell, [s.update for s in cell.states]))):
        told = {"div": n.args[1:], "pow": n.args[:1], "solve": n.args, "cayley": n.args}.get(n.op, ())
        if any(cell.nodes[i].op == "state" for i in ancestors(cell, told)):
            by = f"`{n.name or n.op}` may divide by a state"
            return Condition(text="-0.0 and 0.0 are one number to every layer", holds=False, by=by)
    return Condition(text="-0.0 and 0.0 are one number to every layer", holds=True, by="no layer divides by a state")


def _monotone(layers: Layers, layer: Layer) -> Condition:
    text = f"{layer.name}: as computed, one step at a time, each number's update rises with it or stays"
    forms = layer.group.forms
    if layer.feedback or layer.is_clock or not (forms and isinstance(forms[0], Elementwise)):
        return Condition(text=text, holds=False, by="the update is not elementwise in the state alone")
    cell = layers.recurrence.cell
    (name,) = layer.group.states
    state = cell.state(name)
    if cell.nodes[state.node].type.dtype != "real" or not nondecreasing_in_floats(cell, state.update, state.node):
        by = "as the update is written, rounding (or the sign of a coefficient) may make it fall"
        return Condition(text=text, holds=False, by=by)
    return Condition(text=text, holds=True, by="rounding is monotone, and the coefficients keep their signs in it")


# ---------------------------------------------------------------- languages that are not regular


def _finite_state(layers: Layers, target: Target, precision: Precision) -> Ceiling:
    condition = Condition(text=f"{subject(target)} is not regular", holds=True, by=_why_not_regular(target))
    return Ceiling(
        theorem="N6",
        source="a state of finitely many floats takes finitely many values",
        precision=precision,
        reason=f"finitely many values of the states make a finite automaton, and {subject(target)} has none",
        conditions=(no_obstacle(layers), condition),
    )


def _squashed(layers: Layers, target: Target) -> Ceiling:
    conditions = [no_obstacle(layers)]
    for layer in layers.layers:
        conditions.append(
            Condition(
                text=f"{layer.name}: a nonlinear update that keeps its states bounded",
                holds=layer.group.kind == "nonlinear" and layer.spectrum.stability == "proved",
                by=layer.spectrum.why("stability"),
            )
        )
    conditions.append(Condition(text=f"{subject(target)} is not regular", holds=True, by=_why_not_regular(target)))
    return Ceiling(
        theorem="N6",
        source=WEISS,
        precision="finite_precision",
        reason=f"bounded states of finite precision take finitely many values, and {subject(target)} is not regular",
        conditions=tuple(conditions),
    )


def _why_not_regular(target: Target) -> str:
    return getattr(target.task, "why_not_regular", "")

"""Claims about the structure of a cell: linear, time-invariant, parallel (and, in `bounds`, spectra and stability).

A claim is proved by an analysis, refuted by numbers inside the declared domains at which it fails by a margin, and
unknown otherwise, with the condition that could not be discharged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rnnc.analysis.forms import Group
from rnnc.analysis.operator import is_affine
from rnnc.frontend import ast
from rnnc.verify import bounds
from rnnc.verify.answers import MARGIN, TRIES, Answer, Subject, proved, refuted, unknown
from rnnc.verify.claims import Unclear
from rnnc.verify.layers import Layer
from rnnc.verify.probing import Array, Point, finite, holds_truth
from rnnc.verify.results import Condition

__all__ = ["Answer", "Subject", "answer", "unknown"]


def answer(subject: Subject, claim: ast.Claim) -> Answer:
    """The verdict on a claim that is not about expressivity, its `not` left aside."""
    try:
        match claim.kind:
            case "linear" | "affine":
                return _linear(subject, claim.kind, _state(claim))
            case "time_invariant":
                return _time_invariant(subject)
            case "eigenvalues":
                return bounds.eigenvalues(subject, claim)
            case "norm":
                return bounds.norm(subject, claim)
            case "stable":
                return bounds.stable(subject)
            case "contractive":
                return bounds.contractive(subject, _state(claim))
            case "parallel":
                return _parallel(subject, claim)
    except Unclear as missing:
        return Answer(verdict="unknown", reason=f"missing: {missing}")
    raise AssertionError(claim.kind)


def _state(claim: ast.Claim) -> str:
    assert isinstance(claim.subject, ast.Name)
    return claim.subject.id


# ---------------------------------------------------------------- linear, affine, time-invariant


def _linear(subject: Subject, kind: str, state: str) -> Answer:
    """S' = A S + B, with A and B free of S."""
    layer = subject.layer_of(state)
    over = "" if layer.group.semiring == "plus_times" else f" over {layer.group.semiring}"
    if layer.group.kind != "nonlinear":
        given = [s for s in layer.group.states if s != state]
        with_ = f", together with {', '.join(f'`{s}`' for s in given)}" if given else ""
        return proved(f"the update of `{state}` is {layer.group.kind} in it{with_}{over}")
    cell = subject.layers.cell
    if not layer.feedback and is_affine(cell, state):
        others = " and ".join(f"`{s}`" for s in layer.group.states if s != state)
        return proved(f"the update of `{state}` has at most degree 1 in it, for fixed {others}")
    found = _bend(subject, state)
    why = layer.group.because[0][0] if layer.group.because else "its update is nonlinear"
    if found is not None:
        point, size = found
        return refuted(
            f"{why}: the update of a midpoint is off the midpoint of the updates by {size:.3g}", point, state=state
        )
    return unknown(f"{kind} in `{state}` is not proved ({why}), and no numbers were found that contradict it")


def _bend(subject: Subject, state: str, *, anywhere: bool = True) -> tuple[Point, float] | None:
    """States a, b, their midpoint and maximum where the update is not affine; unless `anywhere`, over no semiring."""
    prober = subject.prober()
    group = subject.layer_of(state).group
    if prober is None or holds_truth(prober.cell, (state,)):
        return None
    for p in prober.points(TRIES, batch=1):
        a, b = (prober.states(group.states, 1, scale)[state] for scale in (1.0, 2.0))
        fixed = prober.states(tuple(s for s in group.states if s != state), 1)
        rows = Point(
            dims=p.dims,
            params=p.params,
            inputs={k: np.repeat(v, 4, axis=0) for k, v in p.inputs.items()},
            state={
                **{k: np.repeat(v, 4, axis=0) for k, v in fixed.items()},
                state: np.concatenate([a, b, (a + b) / 2, np.maximum(a, b)]),
            },
        )
        new = prober.after(rows)[state]
        if finite(new) and float(np.abs(new).max()) < 1e6:
            off = new[2] - (new[0] + new[1]) / 2
            size, margin = float(np.abs(off).max()), MARGIN * (1 + float(np.abs(new).max()))
            if size > margin and (anywhere or np.iscomplexobj(new) or _no_sum_of_maxima(new, off, margin)):
                return rows, size
    return None


def _no_sum_of_maxima(new: Array, off: Array, margin: float) -> bool:
    """Whether no map over (max, +), (min, +) or (log, +) does that: they are monotone, and convex or else concave."""
    falls = float((new[3] - np.maximum(new[0], new[1])).min()) < -margin
    return falls or min(float(off.max()), -float(off.min())) > margin


def _time_invariant(subject: Subject) -> Answer:
    layers = subject.layers
    gated = [
        x for x in layers.layers if not (x.group.forms and x.group.semiring == "plus_times" and x.fixed_transition)
    ]
    if not gated and not layers.obstacle and not any(x.feedback for x in layers.layers):
        names = ", ".join(x.name for x in layers.layers)
        return proved(f"the transition of {names} is made of parameters and constants only" if names else "no states")
    for layer in gated:
        found = _differs(subject, layer.group)
        if found is not None:
            point, size, state = found
            why = f"what {layer.name} keeps of a difference between two states changes with the input, by {size:.3g}"
            return refuted(why, point, state=state)
    return unknown("a transition that is made of parameters and constants only")


def _differs(subject: Subject, group: Group) -> tuple[Point, float, str] | None:
    """Two inputs (and two states a, b of the group) for which F(a, x) - F(b, x) is not the same; and in which state."""
    prober = subject.prober()
    if prober is None or not prober.cell.inputs:
        return None
    for p in prober.points(TRIES, batch=2):
        a, b = prober.states(group.states, 1), prober.states(group.states, 1)
        inputs = {k: np.concatenate([v[:1], v[:1], v[1:], v[1:]]) for k, v in p.inputs.items()}
        state = {s: np.concatenate([a[s], b[s], a[s], b[s]]) for s in group.states}
        rows = Point(dims=p.dims, params=p.params, inputs=inputs, state=state)
        after = prober.after(rows)
        for s in group.states:
            new = after[s] + 0  # truth values as 0 and 1
            if not finite(new) or float(np.abs(new).max()) > 1e6:
                continue
            off = float(np.abs((new[0] - new[1]) - (new[2] - new[3])).max())
            if off > MARGIN * (1 + float(np.abs(new).max())):
                return rows, off, s
    return None


# ---------------------------------------------------------------- parallel

NEWTON = (
    "Newton's method solves for all steps at once: k iterations make the first k steps exact, so that T suffice, "
    "and the residual says when fewer do (no backend runs it yet)"
)
WAYS = {"scan": ("scan", "block_scan"), "chunk": ("chunkwise",), "convolution": ("convolution",)}
PARALLEL = ("scan", "chunkwise", "block_scan", "convolution")


def _parallel(subject: Subject, claim: ast.Claim) -> Answer:
    """A group can run that way, and every other group in some parallel way."""
    from rnnc.plan import plan

    (way,) = claim.args
    assert isinstance(way, ast.Name)
    layers = subject.layers
    if layers.obstacle:
        return unknown(f"a recurrence: {layers.obstacle}")
    if not layers.layers:
        return unknown("a state to run")
    if way.id == "newton":
        return proved(NEWTON, *_solved(layers.layers))
    groups = plan(layers.recurrence, dict(subject.dims)).groups
    legal = {g.group.index: {o.name for o in g.options if o.legal} for g in groups}
    stuck = next((g for g in groups if not legal[g.group.index] & set(PARALLEL)), None)
    if stuck is not None:
        why = next(o.why for o in stuck.options if o.name in WAYS[way.id])
        return _illegal(subject, stuck.group, why)
    fit = next((g for g in groups if legal[g.group.index] & set(WAYS[way.id])), None)
    if fit is None:
        option = next(o for o in groups[-1].options if o.name in WAYS[way.id])
        return refuted(f"no group of states can run that way: {option.why}", None)
    option = next(o for o in fit.options if o.legal and o.name in WAYS[way.id])
    return proved(f"{_names(fit.group)} by {option.name}: {option.why}")


def _solved(layers: Sequence[Layer]) -> Iterator[Condition]:
    """How many iterations are known to be enough."""
    for layer in layers:
        if layer.group.kind != "nonlinear":
            yield Condition(text=f"{layer.name}: one iteration", holds=True, by=f"its update is {layer.group.kind}")
        else:
            bound = layer.spectrum.lipschitz
            shrinks = bound is not None and bound.hi is not None and bound.hi < 1
            how = f"distances shrink by a factor in {bound}" if shrinks else "nothing is known of how distances change"
            yield Condition(text=f"{layer.name}: {'few' if shrinks else 'at most T'} iterations", holds=True, by=how)


def _names(group: Group) -> str:
    return " and ".join(f"`{s}`" for s in group.states)


def _illegal(subject: Subject, group: Group, why: str) -> Answer:
    """A group that runs step by step only; of a nonlinear one, numbers show that it is."""
    reason = f"{_names(group)} can run step by step only: {why}"
    if group.kind != "nonlinear":
        return refuted(reason, None)
    for state in group.states:
        found = _bend(subject, state, anywhere=False)
        if found is not None:
            return refuted(reason, found[0], state=state)
    return unknown(f"a linear form of {_names(group)} ({why}), or numbers that contradict one")

"""Claims about the structure of a cell: linearity, spectra, norms, stability, contraction, ways to run in parallel.

A claim is proved by an analysis, refuted by numbers inside the declared domains at which it fails by a margin, and
unknown otherwise, with the condition that could not be discharged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from rnnc.analysis import intervals as iv
from rnnc.analysis.facts import Spectrum
from rnnc.analysis.forms import Group
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.analysis.spectrum import spectrum_of
from rnnc.frontend import ast
from rnnc.ir.domains.degree import degrees
from rnnc.ir.graph import CellIR
from rnnc.ir.types import Disk, Domain, HalfPlane, Interval
from rnnc.verify.claims import Operator, Unclear, domain_of, operator_of
from rnnc.verify.layers import Layer, Layers, layers_of
from rnnc.verify.probing import Array, Point, Prober, dims_for, finite
from rnnc.verify.results import Condition, Evidence, Verdict

TRIES = 40
MARGIN = 1e-6  # relative: far above the rounding of one step in float64
COMPLEX_MARGIN = 1e-2  # a defective real eigenvalue moves into the complex plane by the n-th root of the rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A verdict with its reason, before it is put beside its claim."""

    verdict: Verdict
    reason: str
    evidence: Evidence | None = None


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The cell that claims are made of; `dims` are those bound from outside."""

    cell: CellIR
    dims: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def layers(self) -> Layers:
        return layers_of(self.cell)

    @cached_property
    def sizes(self) -> dict[str, int] | None:
        """For searches."""
        return dims_for(self.cell, self.dims)

    def prober(self, cell: CellIR | None = None) -> Prober | None:
        return None if self.sizes is None else Prober(cell or self.cell, self.sizes)

    def layer_of(self, state: str) -> Layer:
        return next(x for x in self.layers.layers if state in x.group.states)


def answer(subject: Subject, claim: ast.Claim) -> Answer:
    """The verdict on a claim that is not about expressivity, its `not` left aside."""
    try:
        match claim.kind:
            case "linear" | "affine":
                return _linear(subject, claim.kind, _state(claim))
            case "time_invariant":
                return _time_invariant(subject)
            case "eigenvalues":
                return _eigenvalues(subject, claim)
            case "norm":
                return _norm(subject, claim)
            case "stable":
                return _stable(subject)
            case "contractive":
                return _contractive(subject, _state(claim))
            case "parallel":
                return _parallel(subject, claim)
    except Unclear as missing:
        return Answer(verdict="unknown", reason=f"missing: {missing}")
    raise AssertionError(claim.kind)


def proved(reason: str, *conditions: Condition, **data: Any) -> Answer:
    evidence = Evidence(kind="analysis", source="rnnc's analyses", conditions=conditions, data=data)
    return Answer(verdict="proved", reason=reason, evidence=evidence)


def refuted(reason: str, point: Point | None, **data: Any) -> Answer:
    """By numbers, or by an analysis that says what stands against the claim."""
    where = {} if point is None else {"at": point.to_json()}
    kind = "analysis" if point is None else "counterexample"
    source = "rnnc's analyses" if point is None else "the reference interpreter, in float64"
    return Answer(
        verdict="refuted",
        reason=reason,
        evidence=Evidence(kind=kind, source=source, data={**data, **where}),  # type: ignore[arg-type]
    )


def unknown(missing: str) -> Answer:
    return Answer(verdict="unknown", reason=f"missing: {missing}")


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
    update = cell.state(state).update
    if not layer.feedback and degrees(cell, [state], "plus_times", [update])[update].affine:
        others = " and ".join(f"`{s}`" for s in layer.group.states if s != state)
        return proved(f"the update of `{state}` has at most degree 1 in it, for fixed {others}")
    found = _bend(subject, state)
    why = layer.group.because[0][0] if layer.group.because else "its update is nonlinear"
    if found is not None:
        point, size = found
        return refuted(f"{why}: the update of a midpoint is off the midpoint of the updates by {size:.3g}", point)
    return unknown(f"{kind} in `{state}` is not proved ({why}), and no numbers were found that contradict it")


def _bend(subject: Subject, state: str) -> tuple[Point, float] | None:
    """States a, b and their midpoint at which the update is not affine."""
    prober = subject.prober()
    if prober is None:
        return None
    group = subject.layer_of(state).group
    for p in prober.points(TRIES, batch=1):
        a, b = (prober.states(group.states, 1, scale)[state] for scale in (1.0, 2.0))
        fixed = prober.states(tuple(s for s in group.states if s != state), 1)
        rows = Point(
            dims=p.dims,
            params=p.params,
            inputs={k: np.repeat(v, 3, axis=0) for k, v in p.inputs.items()},
            state={
                **{k: np.repeat(v, 3, axis=0) for k, v in fixed.items()},
                state: np.concatenate([a, b, (a + b) / 2]),
            },
        )
        new = prober.after(rows)[state]
        if finite(new) and float(np.abs(new).max()) < 1e6:
            off = float(np.abs(new[2] - (new[0] + new[1]) / 2).max())
            if off > MARGIN * (1 + float(np.abs(new).max())):
                return rows, off
    return None


def _time_invariant(subject: Subject) -> Answer:
    layers = subject.layers
    gated = [
        x for x in layers.layers if not (x.group.forms and x.group.semiring == "plus_times" and x.fixed_transition)
    ]
    if not gated and not layers.obstacle and not any(x.feedback for x in layers.layers):
        names = ", ".join(x.name for x in layers.layers)
        return proved(f"the transition of {names} is made of parameters and constants only")
    for layer in gated:
        found = _differs(subject, layer.group)
        if found is not None:
            point, size = found
            why = f"what {layer.name} keeps of a difference between two states changes with the input, by {size:.3g}"
            return refuted(why, point)
    return unknown("a transition that is made of parameters and constants only")


def _differs(subject: Subject, group: Group) -> tuple[Point, float] | None:
    """Two inputs (and two states a, b of the group) for which F(a, x) - F(b, x) is not the same."""
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
            new = after[s]
            if not finite(new) or float(np.abs(new).max()) > 1e6:
                continue
            off = float(np.abs((new[0] - new[1]) - (new[2] - new[3])).max())
            if off > MARGIN * (1 + float(np.abs(new).max())):
                return rows, off
    return None


# ---------------------------------------------------------------- spectra and norms


def _spectrum(operator: Operator) -> tuple[Spectrum, Group]:
    recurrence = analyse_recurrence(operator.cell)
    group = next(g for g in recurrence.groups if operator.state in g.states)
    return spectrum_of(recurrence, group), group


def _eigenvalues(subject: Subject, claim: ast.Claim) -> Answer:
    operator = operator_of(subject.layers.cell, claim.subject)
    s, _ = _spectrum(operator)
    if claim.real:
        if s.real:
            return proved("all eigenvalues are real, for every input and all weights", _because(s, "real"))
        bad = _search(subject, operator, _imaginary)
        if bad is not None:
            return refuted(f"an eigenvalue is {_number(bad[1])}", bad[0], eigenvalue=_pair(bad[1]))
        return unknown(f"a proof that the eigenvalues are real: {s.why('real')}")
    assert claim.domain is not None
    wanted = domain_of(claim.domain, subject.cell, subject.dims)
    condition = _inside(s, wanted)
    if condition is not None and condition.holds:
        return proved(f"all eigenvalues lie in {_known(s)}, for every input and all weights", condition)
    bad = _search(subject, operator, lambda m: _outside(m, wanted))
    if bad is not None:
        return refuted(f"an eigenvalue is {_number(bad[1])}, outside of {wanted}", bad[0], eigenvalue=_pair(bad[1]))
    known = f"what is proved is {_known(s)}" if _known(s) else s.why("interval")
    return unknown(f"a proof that the eigenvalues lie in {wanted}; {known}")


def _because(s: Spectrum, attribute: str) -> Condition:
    text = f"spectrum in {s.interval}" if s.interval is not None else attribute
    return Condition(text=text, holds=True, by=s.why(attribute))


def _known(s: Spectrum) -> str:
    if s.real and s.interval is not None:
        return str(s.interval)
    return f"moduli in {s.modulus}" if s.modulus is not None and s.modulus.hi is not None else ""


def _inside(s: Spectrum, wanted: Domain) -> Condition | None:
    """Whether the proven spectrum lies in the set."""
    match wanted:
        case Interval():
            if s.real and s.interval is not None:
                text = f"{s.interval} lies in {wanted}"
                return Condition(text=text, holds=iv.within(s.interval, wanted), by=s.why("interval"))
        case Disk():
            if s.modulus is not None:
                disk = Interval(lo=iv.exactly(0).lo, hi=wanted.radius)
                text = f"moduli in {s.modulus}, the disk of radius {wanted.radius}"
                return Condition(text=text, holds=iv.within(s.modulus, disk), by=s.why("modulus"))
        case HalfPlane():
            found = s.interval if s.real else iv.union(s.modulus, iv.neg(s.modulus)) if s.modulus else None
            if found is not None:
                half = _half_line(wanted)
                return Condition(text=f"{found} lies in {half}", holds=iv.within(found, half), by=s.why("interval"))
    return None


def _half_line(d: HalfPlane) -> Interval:
    if d.above:
        return Interval(lo=d.bound, hi=None, lo_open=d.strict, hi_open=True)
    return Interval(lo=None, hi=d.bound, lo_open=True, hi_open=d.strict)


def _norm(subject: Subject, claim: ast.Claim) -> Answer:
    operator = operator_of(subject.layers.cell, claim.subject)
    s, _ = _spectrum(operator)
    assert claim.domain is not None
    wanted = domain_of(claim.domain, subject.cell, subject.dims)
    if not isinstance(wanted, Interval):
        return unknown("an interval: a norm is a number")
    if s.norm is not None and iv.within(s.norm, wanted):
        text = f"{s.norm} lies in {wanted}"
        return proved(
            f"the norm lies in {s.norm}, for every input and all weights",
            Condition(text=text, holds=True, by=s.why("norm")),
        )

    def beyond(matrix: Array) -> complex | None:
        norm = float(np.linalg.norm(matrix, 2))
        return complex(norm) if _left(norm, wanted, MARGIN) else None

    bad = _search(subject, operator, beyond)
    if bad is not None:
        return refuted(f"the norm is {bad[1].real:.6g}, outside of {wanted}", bad[0], norm=bad[1].real)
    known = f"what is proved is {s.norm}" if s.norm is not None else s.why("norm")
    return unknown(f"a proof that the norm lies in {wanted}; {known}")


def _search(subject: Subject, operator: Operator, test: Any) -> tuple[Point, complex] | None:
    """A point at which some matrix of the operator fails `test` (matrix -> the offending number, or None)."""
    prober = subject.prober(operator.cell)
    if prober is None:
        return None
    for p in prober.points(TRIES, batch=4):
        value = prober.values(operator.node, p)
        if not finite(value):
            continue
        for row, matrix in _matrices(operator, value):
            bad = test(matrix)
            if bad is not None:
                inputs = {k: v[row : row + 1] for k, v in p.inputs.items()}
                return Point(dims=p.dims, params=p.params, inputs=inputs, state={}), bad
    return None


def _matrices(operator: Operator, value: Array) -> Iterator[tuple[int, Array]]:
    """(row of the batch, matrix) of every head."""
    t = operator.cell.nodes[operator.node].type
    for row in range(value.shape[0]):
        heads = value[row].reshape(-1, *value.shape[value.ndim - t.rank :]) if t.rank else value[row].reshape(-1)
        for head in heads:
            yield row, head if t.rank == 2 else np.diag(np.atleast_1d(head))


def _imaginary(matrix: Array) -> complex | None:
    values = np.linalg.eigvals(matrix)
    worst = values[np.argmax(np.abs(values.imag))]
    return complex(worst) if abs(worst.imag) > COMPLEX_MARGIN * max(1.0, float(np.linalg.norm(matrix, 2))) else None


def _outside(matrix: Array, wanted: Domain) -> complex | None:
    """An eigenvalue outside of the set by a margin; of matrices that are not normal the margin is wide."""
    normal = bool(np.allclose(matrix @ matrix.conj().T, matrix.conj().T @ matrix, rtol=1e-12, atol=1e-12))
    margin = MARGIN if normal else COMPLEX_MARGIN
    for z in np.linalg.eigvals(matrix):
        z = complex(z)
        match wanted:
            case Interval():
                off = abs(z.imag) > COMPLEX_MARGIN * (1 + abs(z)) or _left(z.real, wanted, margin)
            case Disk():
                off = abs(z) > float(wanted.radius) * (1 + margin)
            case HalfPlane():
                off = _left(z.real, _half_line(wanted), margin)
            case _:
                off = False
        if off:
            return z
    return None


def _left(value: float, d: Interval, margin: float) -> bool:
    """Whether a number lies outside of an interval by a relative margin."""
    lo, hi = (None if end is None else float(end) for end in (d.lo, d.hi))
    return (lo is not None and value < lo - margin * (1 + abs(lo))) or (
        hi is not None and value > hi + margin * (1 + abs(hi))
    )


def _number(z: complex) -> str:
    return f"{z.real:.6g}" if abs(z.imag) < 1e-12 else f"{z.real:.6g} {'+' if z.imag > 0 else '-'} {abs(z.imag):.6g}i"


def _pair(z: complex) -> list[float]:
    return [z.real, z.imag]


# ---------------------------------------------------------------- stable, contractive


def _stable(subject: Subject) -> Answer:
    layers = subject.layers
    if layers.obstacle:
        return unknown(layers.obstacle)
    open_ = [x for x in layers.layers if x.spectrum.stability != "proved" or x.feedback]
    if not open_:
        conditions = [
            Condition(text=f"{x.name} stays bounded", holds=True, by=x.spectrum.why("stability")) for x in layers.layers
        ]
        return proved("bounded inputs keep the states bounded", *conditions)
    found = _grows(subject)
    if found is not None:
        point, state, sizes = found
        shown = ", ".join(f"{x:.3g}" for x in sizes)
        return refuted(f"`{state}` grows by the same factor in each span of steps: {shown}", point, sizes=sizes)
    return unknown(f"a proof that {open_[0].name} stays bounded: {open_[0].spectrum.why('stability')}")


SPANS, SPAN = 4, 40


def _grows(subject: Subject) -> tuple[Point, str, list[float]] | None:
    """A constant input under which a linear state grows geometrically: its transition has an eigenvalue outside of the
    unit disk.
    """
    prober = subject.prober()
    if prober is None:
        return None
    linear = [
        s
        for x in subject.layers.layers
        if x.group.kind != "nonlinear" and x.group.semiring == "plus_times" and not x.reads and not x.feedback
        for s in x.group.states
    ]
    for p in prober.points(TRIES, batch=1):
        held = {k: np.repeat(v, SPAN, axis=1) for k, v in p.inputs.items()}
        state: dict[str, Array] = {}
        sizes: dict[str, list[float]] = {s: [] for s in linear}
        for _ in range(SPANS):
            state = prober.after(Point(dims=p.dims, params=p.params, inputs=held, state=state))
            for s in linear:
                sizes[s].append(float(np.abs(state[s]).max()))
        for s, found in sizes.items():
            ratios = [b / a for a, b in pairwise(found) if a > 0]
            if len(ratios) == SPANS - 1 and np.isfinite(found).all() and min(ratios) > 10:
                return p, s, found
    return None


def _contractive(subject: Subject, state: str) -> Answer:
    layer = subject.layer_of(state)
    bound = layer.spectrum.lipschitz
    if layer.feedback:
        return unknown(f"{layer.name} also reads its own past through `{layer.feedback}`")
    if bound is not None and bound.hi is not None and (bound.hi < 1 or (bound.hi == 1 and bound.hi_open)):
        condition = Condition(
            text=f"the Lipschitz constant lies in {bound}", holds=True, by=layer.spectrum.why("lipschitz")
        )
        return proved(f"the update of {layer.name} shrinks distances: by a factor in {bound}", condition)
    found = _spreads(subject, layer.group) if len(layer.group.states) == 1 else None  # of several, in which norm?
    if found is not None:
        return refuted(f"two states of {layer.name} move apart, by a factor of {found[1]:.6g}", found[0])
    known = f"what is proved is a factor in {bound}" if bound is not None else layer.spectrum.why("lipschitz")
    return unknown(f"a Lipschitz constant below 1 of the update of {layer.name}; {known}")


def _spreads(subject: Subject, group: Group) -> tuple[Point, float] | None:
    """Two states whose distance grows in one step with the same input."""
    prober = subject.prober()
    if prober is None:
        return None
    for p in prober.points(TRIES, batch=1):
        for scale in (1.0, 1e-2):
            a = prober.states(group.states, 1)
            b = {s: v + w for (s, v), w in zip(a.items(), prober.states(group.states, 1, scale).values(), strict=True)}
            inputs = {k: np.repeat(v, 2, axis=0) for k, v in p.inputs.items()}
            rows = Point(
                dims=p.dims,
                params=p.params,
                inputs=inputs,
                state={s: np.concatenate([a[s], b[s]]) for s in group.states},
            )
            after = prober.after(rows)
            if not finite(*after.values()):
                continue
            before, behind = (_distance(x, group) for x in (rows.state, after))
            if behind > before * (1 + 1e-3):
                return rows, behind / before
    return None


def _distance(state: Mapping[str, Array], group: Group) -> float:
    return float(np.sqrt(sum(np.sum(np.abs(state[s][0] - state[s][1]) ** 2) for s in group.states)))


# ---------------------------------------------------------------- parallel

WAYS = {"scan": ("scan", "block_scan"), "chunk": ("chunkwise",), "convolution": ("convolution",)}
PARALLEL = ("scan", "chunkwise", "block_scan", "convolution")


def _parallel(subject: Subject, claim: ast.Claim) -> Answer:
    """A group can run that way, and every other group in some parallel way."""
    from rnnc.plan import plan

    (way,) = claim.args
    assert isinstance(way, ast.Name)
    if way.id == "newton":
        return unknown("a solver for nonlinear recurrences, which comes in a later version")
    layers = subject.layers
    if layers.obstacle:
        return unknown(f"a recurrence: {layers.obstacle}")
    if not layers.layers:
        return unknown("a state to run")
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


def _names(group: Group) -> str:
    return " and ".join(f"`{s}`" for s in group.states)


def _illegal(subject: Subject, group: Group, why: str) -> Answer:
    """A group that runs step by step only; of a nonlinear one, numbers show that it is."""
    reason = f"{_names(group)} can run step by step only: {why}"
    if group.kind != "nonlinear":
        return refuted(reason, None)
    for state in group.states:
        found = _bend(subject, state)
        if found is not None:
            return refuted(reason, found[0])
    return unknown(f"a linear form of {_names(group)} ({why}), or numbers that contradict one")

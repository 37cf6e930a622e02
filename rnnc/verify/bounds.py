"""Claims about bounds: spectra and norms of operators, stable, contractive."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise, product

import numpy as np

from rnnc.analysis import intervals as iv
from rnnc.analysis.facts import Spectrum
from rnnc.analysis.forms import Elementwise, Group, transition_nodes
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.analysis.spectrum import spectrum_of
from rnnc.exact import NotExact, to_float
from rnnc.frontend import ast
from rnnc.ir.domains.exact import ExactCell, exact_array, shape_of
from rnnc.ir.graph import CellIR, Input, ancestors
from rnnc.ir.types import Disk, Domain, HalfPlane, Interval, UnitNorm
from rnnc.verify.answers import MARGIN, TRIES, Answer, Subject, proved, refuted, unknown
from rnnc.verify.claims import Operator, domain_of, operator_of
from rnnc.verify.probing import Array, Point, finite, holds_truth
from rnnc.verify.results import Condition

COMPLEX_MARGIN = 1e-2  # a defective real eigenvalue moves into the complex plane by the n-th root of the rounding


# ---------------------------------------------------------------- spectra and norms


def _spectrum(operator: Operator) -> tuple[Spectrum, Group]:
    recurrence = analyse_recurrence(operator.cell)
    group = next(g for g in recurrence.groups if operator.state in g.states)
    return spectrum_of(recurrence, group), group


def eigenvalues(subject: Subject, claim: ast.Claim) -> Answer:
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
    bad = _search(subject, operator, lambda m: outside(m, wanted))
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


def norm(subject: Subject, claim: ast.Claim) -> Answer:
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


def _search(
    subject: Subject, operator: Operator, test: Callable[[Array], complex | None]
) -> tuple[Point, complex] | None:
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


def outside(matrix: Array, wanted: Domain) -> complex | None:
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


def stable(subject: Subject) -> Answer:
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
        return refuted(
            f"`{state}` grows by the same factor in each span of steps: {shown}", point, sizes=sizes, state=state
        )
    crept = _creeps(subject)
    if crept is not None:
        point, state, move = crept
        return refuted(
            f"under a constant input `{state}` moves by the same {move:g} in every step", point, move=move, state=state
        )
    return unknown(f"a proof that {open_[0].name} stays bounded: {open_[0].spectrum.why('stability')}")


SPANS, SPAN, LONG = 4, 40, 1000
WARM = 5  # steps after which most windows of inputs are full


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
    tries = 4  # of long runs
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
            if len(ratios) == SPANS - 1 and np.isfinite(found).all() and min(ratios) > 10 and tries:
                if _outgrows(subject, p, s):
                    return p, s, found
                tries -= 1
    return None


def _outgrows(subject: Subject, p: Point, state: str) -> bool:
    """Whether a state grows beyond what eigenvalues in the closed unit disk allow: for a while a nilpotent matrix, too,
    multiplies it by the same factor.

    Entry K of a solution of a linear recurrence of order N is then at most sum_j C(K, j) C(K - j - 1, N - 1 - j) times
    the largest of the first N, with equality where all roots are 1.
    """
    prober = subject.prober()
    assert prober is not None
    layer = subject.layer_of(state)
    alone = len(layer.group.states) == 1 and any(isinstance(f, Elementwise) for f in layer.group.forms)
    # beside the state its constant input, once windows of inputs are full
    order = 1 + (1 if alone else sum(prober.size(s) for s in layer.group.states))
    sizes = prober.course(p, state, LONG)[sum(prober.size(s) for s in prober.buffers) :]
    sizes = sizes[: next(iter(np.flatnonzero(~np.isfinite(sizes))), None)]
    first = max(sizes[:order], default=0.0)
    for k in range(order, len(sizes), SPAN // 2):
        most = 2 * sum(math.comb(k, j) * math.comb(k - j - 1, order - 1 - j) for j in range(order))
        if 0 < first < sizes[k] and math.log(sizes[k]) - math.log(first) > math.log(most):
            return True
    return False


def _creeps(subject: Subject) -> tuple[Point, str, float] | None:
    """A constant input under which a linear state moves by the same amount twice, in exact arithmetic: so for ever."""
    if subject.sizes is None:
        return None
    cell = subject.layers.cell
    alone = [x for x in subject.layers.layers if x.group.semiring == "plus_times" and not x.reads and not x.feedback]
    linear = [x.group.states for x in alone if x.group.kind != "nonlinear"]
    groups = [states for states in linear if not holds_truth(cell, states)]
    formed = subject.layers.recurrence.cell
    seen = ancestors(formed, [n for x in alone for form in x.group.forms for n in transition_nodes(form)])
    gates = {formed.nodes[i].name for i in seen if formed.nodes[i].op == "param"}
    for low, (gate, other) in product((False, True), ((1, 1), (0, 0), (0, 1))):
        inputs = {i.name: _end_of(cell, i, subject.sizes, low) for i in cell.inputs}
        weights = {p.name: gate if p.name in gates else other for p in cell.params}
        params = {p.name: np.full(shape_of(cell, p.node, subject.sizes), weights[p.name]) for p in cell.params}
        try:
            machine = ExactCell(cell, subject.sizes, params | {k: v for k, v in subject.fixed.items() if k in params})
            states = [machine.start()]
            for _ in range(WARM + 3):
                states.append(machine.step(inputs, states[-1]))
        except NotExact:
            continue
        windows = states[-1].keys() - {s.name for s in cell.states}
        if any((a[w] != b[w]).any() for a, b in pairwise(states[-3:]) for w in windows):
            continue  # an earlier input is still seen
        for group in groups:
            moves = [{s: np.atleast_1d(b[s] - a[s]) for s in group} for a, b in pairwise(states[-3:])]
            sizes = {s: max((abs(to_float(v, None)) for v in moves[0][s].flat), default=0.0) for s in group}
            if any(sizes.values()) and all((moves[0][s] == moves[1][s]).all() for s in group):
                worst = max(group, key=lambda s: sizes[s])
                held = {k: np.asarray(v, dtype=float)[None, None] for k, v in inputs.items()}
                plain = {k: np.asarray(v, dtype=float) for k, v in machine.given.items()}
                return Point(dims=subject.sizes, params=plain, inputs=held, state={}), worst, sizes[worst]
    return None


def _end_of(cell: CellIR, source: Input, sizes: Mapping[str, int], low: bool) -> Array:
    """A rational value of an input: an end of its domain where that is attained, else one inside."""
    shape = shape_of(cell, source.node, sizes)
    match source.domain:
        case UnitNorm():
            value = np.zeros(shape, dtype=int)
            value[..., 0] = 1
            return value
        case Interval(lo=lo, hi=hi):
            end, open_ = (lo, source.domain.lo_open) if low else (hi, source.domain.hi_open)
            if end is not None and not open_:
                return exact_array(np.full(shape, end, dtype=object))
            inside = (lo + hi) / 2 if lo is not None and hi is not None else lo + 1 if lo is not None else (hi or 1) - 1
            return exact_array(np.full(shape, inside, dtype=object))
        case HalfPlane(bound=bound, above=above):
            return exact_array(np.full(shape, bound + (1 if above else -1), dtype=object))
        case Disk(radius=radius):
            return exact_array(np.full(shape, -radius if low else radius, dtype=object))
    return np.zeros(shape, dtype=np.int64 if cell.nodes[source.node].type.dtype == "token" else int) + (not low)


def contractive(subject: Subject, state: str) -> Answer:
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
        return refuted(f"two states of {layer.name} move apart, by a factor of {found[1]:.6g}", found[0], state=state)
    known = f"what is proved is a factor in {bound}" if bound is not None else layer.spectrum.why("lipschitz")
    return unknown(f"a Lipschitz constant below 1 of the update of {layer.name}; {known}")


def _spreads(subject: Subject, group: Group) -> tuple[Point, float] | None:
    """Two states whose distance grows in one step with the same input."""
    prober = subject.prober()
    if prober is None or holds_truth(prober.cell, group.states):
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

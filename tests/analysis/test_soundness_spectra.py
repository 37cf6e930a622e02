"""What is proved of ranges, spectra, norms and products holds in numbers: every cell of the library and of the tests,
random cells and random transitions, at random and at extreme weights and inputs, in float64 and saturated float32.

Tolerances follow from rounding alone.  Eigenvalues of a computed matrix are those of a matrix at distance c n eps |A|;
for symmetric ones they move by no more than that (Weyl), for others by 2 |A| (c n eps)^(1/n) (Elsner 1985).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from random_cells import DIMS, build

import rnnc
from rnnc.analysis.facts import Spectrum
from rnnc.analysis.forms import BlockLinear, Coupled, Dense, Elementwise, Form, MatrixState, Recurrence
from rnnc.analysis.ranges import Ranges
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.analysis.spectrum import spectrum_of
from rnnc.ir.domains.concrete import Concrete
from rnnc.ir.evaluate import evaluate
from rnnc.ir.graph import CellIR, NodeId
from rnnc.ir.types import Disk, HalfPlane, Interval, UnitNorm
from rnnc.stdlib import FOLDER

HERE = Path(__file__).parent
SIZES = {"d": 4, "heads": 2, "n": 3, "dk": 4, "dv": 2, "p": 2, "e": 3, "w": 2, "rank": 2, "vocab": 5, "k": 3, "K": 3}
FOLDERS = [FOLDER, HERE.parent / "stdlib" / "odd", HERE.parent / "stdlib" / "unlisted"]
CELLS = [
    (path, cell)
    for folder in FOLDERS
    for path in sorted(folder.glob("*.rnn"))
    for cell in rnnc.load(path).cells
    if cell not in rnnc.load(path).models
]
SETTINGS = [(1, 1.0), (2, 10.0), (3, 300.0)]  # seed and scale of weights and inputs
EPS = {"float64": 2.3e-16, "float32": 1.2e-7}


# ---------------------------------------------------------------- numbers for a cell


def sizes_of(cell: CellIR) -> dict[str, int]:
    given = {d.name: SIZES.get(d.name, 3) for d in cell.dims if d.name in SIZES or d.default is None}
    return dict(cell.dim_values(given))


def numbers(cell: CellIR, sizes: dict[str, int], seed: int, scale: float, dtype: str = "float64") -> dict[NodeId, Any]:
    """Values of all leaves and of what an analysis takes as given (delays, convolutions); inputs in their domains."""
    rng = np.random.default_rng(seed)
    domains = {i.node: i.domain for i in cell.inputs}
    given: dict[NodeId, Any] = {}
    for n in cell.nodes:
        if n.op not in ("input", "param", "state", "delay", "conv", "attention"):
            continue
        shape = tuple(d.evaluate(sizes) for d in (*n.type.per, *n.type.shape))
        if n.type.dtype == "token":
            given[n.id] = rng.integers(0, n.type.vocab.evaluate(sizes) if n.type.vocab else 2, size=shape)
        elif n.type.dtype == "bool":
            given[n.id] = rng.integers(0, 2, size=shape).astype(bool)
        else:
            value = scale * rng.normal(size=shape)
            if n.type.dtype == "complex":
                value = value + 1j * scale * rng.normal(size=shape)
            value = inside(value, domains.get(n.id), rng)
            given[n.id] = value.astype("complex64" if value.dtype.kind == "c" and dtype == "float32" else value.dtype)
            if value.dtype.kind == "f":
                given[n.id] = value.astype(dtype)
    return given


def inside(x: Any, domain: object, rng: np.random.Generator) -> Any:
    """Values inside a declared domain, its closed ends among them."""
    match domain:
        case UnitNorm():
            return x / np.linalg.norm(x, axis=-1, keepdims=True)
        case Interval(lo=lo, hi=hi):
            if lo is not None and hi is not None:
                t = 1 / (1 + np.exp(-np.clip(x, -30, 30)))
                t = (
                    np.where(rng.random(x.shape) < 0.2, np.round(t), t)
                    if not domain.lo_open and not domain.hi_open
                    else t
                )
                return float(lo) + float(hi - lo) * t
            if lo is not None:
                return float(lo) + np.abs(x) + 1e-3
            return float(hi) - np.abs(x) - 1e-3 if hi is not None else x
        case Disk(radius=radius):  # the far ones on its edge
            return x / np.maximum(1, np.abs(x) / float(radius))
        case HalfPlane(bound=bound, above=above):
            far = np.abs(x.real) + 1e-3
            return float(bound) + (far if above else -far) + 1j * x.imag
    return x


def values_of(recurrence: Recurrence, sizes: dict[str, int], given: dict[NodeId, Any], dtype: str) -> dict[NodeId, Any]:
    """All values that a step has; in float32, constants too."""
    cell = recurrence.cell
    domain = Concrete(cell, sizes, given)
    known = dict(given)
    if dtype == "float32":
        for n in cell.nodes:
            if not n.args and n.id not in given:
                value = np.asarray(domain.leaf(n))
                known[n.id] = value.astype(dtype) if value.dtype.kind == "f" else value
    wanted = [n.id for n in cell.nodes if n.op not in ("call", "repeat", "state", "input", "param")]
    with np.errstate(all="ignore"):
        return {**known, **evaluate(cell, domain, wanted, known)}


# ---------------------------------------------------------------- transitions as matrices


def matrices(form: Form, cell: CellIR, value: dict[NodeId, Any], sizes: dict[str, int]) -> list[Any]:
    """The transition's blocks as matrices: one a head, block or position."""
    match form:
        case Elementwise():
            t = cell.nodes[cell.state(form.state).node].type
            shape = tuple(d.evaluate(sizes) for d in (*t.per, *t.shape))
            a = np.ones(shape) if form.a is None else np.broadcast_to(value[form.a], shape)
            return [np.diag(np.atleast_1d(np.asarray(a).reshape(-1)))]
        case Coupled():
            t = cell.nodes[cell.state(form.states[0]).node].type
            shape = tuple(d.evaluate(sizes) for d in (*t.per, *t.shape))
            rows = [[np.broadcast_to(0.0 if a is None else value[a], shape).reshape(-1) for a in row] for row in form.a]
            return [np.array([[x[i] for x in row] for row in rows]) for i in range(int(np.prod(shape)))]
        case BlockLinear():
            blocks = np.asarray(value[form.blocks])
            return list(blocks.reshape(-1, *blocks.shape[-2:]))
        case Dense():
            a = np.asarray(value[form.a])
            t = cell.nodes[form.a].type
            a = np.broadcast_to(a, tuple(d.evaluate(sizes) for d in (*t.per, *t.shape)))
            return list(a.reshape(-1, *a.shape[-2:]))
        case MatrixState():
            return _of_micro_steps(form, cell, value, sizes)


def _of_micro_steps(form: MatrixState, cell: CellIR, value: dict[NodeId, Any], sizes: dict[str, int]) -> list[Any]:
    t = cell.nodes[cell.state(form.state).node].type
    per = tuple(d.evaluate(sizes) for d in t.per)
    size = (t.shape[0] if form.side == "left" or t.rank == 1 else t.shape[-1]).evaluate(sizes)
    total = np.broadcast_to(np.eye(size), (*per, size, size))
    for step in form.steps:
        decay = 1.0 if step.decay is None else np.asarray(value[step.decay])
        scalar = step.decay is None or cell.nodes[step.decay].type.rank == 0
        entries = np.broadcast_to(np.asarray(decay)[..., None] if scalar else decay, (*per, size))
        m = entries[..., :, None] * np.eye(size)
        for a, b in step.low_rank:
            m = m + np.asarray(value[a])[..., :, None] * np.asarray(value[b])[..., None, :]
        total = m @ total
    return list(np.asarray(total).reshape(-1, size, size))


# ---------------------------------------------------------------- the checks


def eigenvalue_slack(m: Any, eps: float, exactness: int = 64) -> float:
    n, size = len(m), max(float(np.linalg.norm(m, 2)), 1e-300)
    relative = exactness * n * eps
    normal = np.allclose(m, np.conj(m.T), rtol=0, atol=relative * size)
    return relative * size if normal else 2 * size * relative ** (1 / n)


def check_one(m: Any, s: Spectrum, eps: float) -> None:
    if not np.isfinite(m).all() or np.abs(m).max(initial=0) > 1e100:
        return
    eigenvalues, slack = np.linalg.eigvals(m), eigenvalue_slack(m, eps)
    if s.real:
        assert np.abs(eigenvalues.imag).max() <= slack
    if s.nonnegative:
        assert eigenvalues.real.min() >= -slack
    check_within(eigenvalues.real if s.interval is not None else [], s.interval, slack)
    check_within(np.abs(eigenvalues), s.modulus, slack)
    size = float(np.linalg.norm(m, 2))
    check_within([size], s.norm, 64 * len(m) * eps * max(size, 1e-300))
    if s.unit_circle:
        assert np.abs(np.abs(eigenvalues) - 1).max() <= slack + 64 * eps
    if s.permutation_like:
        assert max(np.count_nonzero(m, axis=0).max(), np.count_nonzero(m, axis=1).max()) <= 1


def check_within(values: Any, interval: Interval | None, slack: float) -> None:
    """Closed ends: floating point may saturate."""
    if interval is None or not len(values):
        return
    assert interval.lo is None or min(values) >= float(interval.lo) - slack
    assert interval.hi is None or max(values) <= float(interval.hi) + slack


def check_products(a: Any, b: Any, c: Any, s: Spectrum) -> None:
    """A product of three transitions of one block, at independent inputs."""
    if not all(np.isfinite(m).all() and np.linalg.norm(m, 2) < 1e30 for m in (a, b, c)):
        return
    whole, eps = a @ b @ c, EPS["float64"]
    scale = np.prod([np.linalg.norm(m, 2) for m in (a, b, c)])
    relative = 256 * len(a) * eps
    slack = max(eigenvalue_slack(whole, eps, 256), 2 * scale * relative ** (1 / len(a)))
    eigenvalues = np.linalg.eigvals(whole)
    if s.products_real:
        assert np.abs(eigenvalues.imag).max() <= slack
    if s.products_nonnegative:
        assert eigenvalues.real.min() >= -slack
    if s.products_bounded and s.norm_bound is not None and s.norm_bound <= 1:
        assert np.linalg.norm(whole, 2) <= 1 + relative
    if s.commuting:
        assert np.linalg.norm(a @ b - b @ a) <= relative * np.linalg.norm(a) * np.linalg.norm(b)
    if s.diagonalisable:
        assert s.commuting


def check_cell(cell: CellIR, sizes: dict[str, int], settings: list[tuple[int, float]], dtype: str) -> int:
    """Returns how many transitions were looked at."""
    recurrence = analyse_recurrence(cell)
    spectra = [(g, spectrum_of(recurrence, g)) for g in recurrence.groups]
    ranges = Ranges.of(recurrence.cell)
    seen = 0
    for seed, scale in settings:
        weights = numbers(recurrence.cell, sizes, seed, scale, dtype)
        value = values_of(recurrence, sizes, weights, dtype)
        check_ranges(recurrence.cell, ranges, value, EPS[dtype])
        found = [
            transitions(recurrence, value, sizes) for value in steps(recurrence, sizes, weights, value, seed, dtype)
        ]
        for i, (_, s) in enumerate(spectra):
            for blocks in zip(*(f[i] for f in found), strict=True):
                seen += 1
                for m in blocks:
                    check_one(np.asarray(m, dtype=complex if np.iscomplexobj(m) else float), s, EPS[dtype])
                if dtype == "float64":
                    check_products(*blocks, s)
    return seen


def steps(
    recurrence: Recurrence,
    sizes: dict[str, int],
    weights: dict[NodeId, Any],
    first: dict[NodeId, Any],
    seed: int,
    dtype: str,
) -> Iterator[dict[NodeId, Any]]:
    """Three steps of one cell: the same parameters, other inputs and states."""
    yield first
    for k in (1, 2):
        fresh = numbers(recurrence.cell, sizes, seed + 100 * k, 1.0 + 5.0 * k, dtype)
        params = {n: v for n, v in weights.items() if recurrence.cell.nodes[n].op == "param"}
        yield values_of(recurrence, sizes, {**fresh, **params}, dtype)


def transitions(recurrence: Recurrence, value: dict[NodeId, Any], sizes: dict[str, int]) -> list[list[Any]]:
    return [
        matrices(g.forms[0], recurrence.cell, value, sizes) if g.forms and g.semiring == "plus_times" else []
        for g in recurrence.groups
    ]


ADDING = frozenset({"add", "sub", "einsum", "sum", "mean", "conv", "solve", "cayley", "expm"})  # cancellation happens


def check_ranges(cell: CellIR, ranges: Ranges, value: dict[NodeId, Any], eps: float) -> None:
    """Each operation rounds by a few units of its result, or of its arguments where they may cancel."""
    for n in cell.nodes:
        if n.id not in value or n.type.dtype not in ("real", "complex"):
            continue
        found = np.asarray(value[n.id])
        finite = found[np.isfinite(found)]
        sizes = [np.abs(finite).max(initial=0)]
        if n.op in ADDING:
            sizes += [np.abs(np.asarray(value[a])).max(initial=0) for a in n.args if a in value]
        scale = float(max(sizes))
        if not finite.size or not scale < 1e15:
            continue
        slack = 64 * eps * scale
        if n.type.dtype == "real":
            check_within(finite.reshape(-1), ranges.real(n.id), slack)
        check_within(np.abs(finite).reshape(-1), ranges.modulus(n.id), slack)
        if n.type.rank and np.isfinite(found).all() and found.ndim:
            squared = (np.abs(found) ** 2).sum(-1).reshape(-1)
            check_within(squared, ranges.norm_squared(n.id), 2 * slack * scale * found.shape[-1])


@pytest.mark.parametrize(("path", "cell"), CELLS, ids=lambda v: v if isinstance(v, str) else "")
def test_the_cells_of_the_library(path: Path, cell: str) -> None:
    lowered = rnnc.load(path).lower(cell)
    check_cell(lowered, sizes_of(lowered), SETTINGS, "float64")
    check_cell(lowered, sizes_of(lowered), SETTINGS[1:], "float32")


@pytest.mark.parametrize("part", range(8))
def test_random_cells(part: int) -> None:
    seen = 0
    for seed in range(40 * part, 40 * part + 40):
        rng = Random(seed)
        cell = build(rng, rng.randrange(5, 30))
        seen += check_cell(cell, DIMS, [(seed, 1.0), (seed + 1, 20.0)], "float64")
    assert seen > 100


# ---------------------------------------------------------------- random transitions

GATES = """
  gate alpha: real in (0, 1) = sigmoid(linear(x))
  gate beta: real in (0, {reach}) = {reach} * sigmoid(linear(x))
  gate w: real[3] in (0, 1) = sigmoid(linear(x))
  gate a: real[3] in (0, 1) = exp(-softplus(linear(x)))
  gate t: real[3] in (-1, 1) = tanh(linear(x))
  let k: unit[3] = l2norm(linear(x))
  let l: unit[3] = l2norm(silu(linear(x)))
  let u: real[3] = linear(x)
  param fixed: unit[3]
  param M: real[3, 3]
"""
SQUARE = [
    "I",
    "diag(w)",
    "diag(t)",
    "diag(1 - w)",
    "householder(k, beta)",
    "householder(l, beta)",
    "householder(fixed, alpha)",
    "outer(k, a * k)",
    "outer(a * k, k)",
    "outer(w * k, a * k)",
    "outer(k, l)",
    "outer(u, u)",
    "(I - beta / (1 + beta * dot(u, u)) * outer(u, u))",
    "(diag(w) - outer(k, a * k))",
    "(diag(w) - beta * outer(k, w * k))",
    "outer(t * k, k)",
    "cayley(M - M.T)",
    "expm(-0.3 * (M @ M.T))",
    "permutation([2, 0, 1])",
    "circulant(softmax(u))",
    "tanh(M)",
    "(M + M.T)",
    "rotation(linear[1](x))",
]
NUMBERS = ["alpha", "-alpha", "0.5", "(1 - beta)", "(beta - 1)", "1"]


def random_transition(rng: Random) -> str:
    def factor() -> str:
        scale = rng.choice(NUMBERS)
        return f"{scale} * {rng.choice(SQUARE[:-1])}"

    match rng.randrange(4):
        case 0:
            return factor()
        case 1:
            return f"({factor()}) @ ({factor()})"
        case 2:
            return f"{factor()} + {factor()}"
        case _:
            return f"({factor()}) @ ({factor()}) @ ({factor()})"


COUPLINGS = [
    "{a} * p - {b} * q;{b} * p + {a} * q",
    "cos(u) * p - sin(u) * q;sin(u) * p + cos(u) * q",
    "w * p - sqrt(1 - w^2) * q;sqrt(1 - w^2) * p + w * q",
    "w * cos(u) * p - w * sin(u) * q;w * sin(u) * p + w * cos(u) * q",
    "{a} * p + {b} * q;{c} * p + {d} * q",
    "0.5 * p + 1.5 * q;-0.25 * p + 2 * q",
    "(1 - w) * p + w * q;w * p + (1 - w) * q",
]
ENTRIES = ["w", "a", "t", "(1 - w)", "-w", "0.3", "-1.2", "alpha", "w * a", "1"]


def random_coupling(rng: Random) -> tuple[str, str]:
    letters = {x: rng.choice(ENTRIES) for x in "abcd"}
    p, q = rng.choice(COUPLINGS).format(**letters).split(";")
    return p, q


@pytest.mark.parametrize("part", range(4))
def test_random_transitions(part: int) -> None:
    known = real = 0
    for seed in range(40 * part, 40 * part + 40):
        rng = Random(seed)
        if seed % 5 == 4:
            p, q = random_coupling(rng)
            states = f"state p: real[3] = 0; state q: real[3] = 0; p <- {p} + x[0:3]; q <- {q}"
        else:
            states = f"state p: real[3] = 0; p <- ({random_transition(rng)}) @ p + x[0:3]"
        gates = GATES.format(reach=rng.choice([1, 2]))
        text = f"cell C() {{ input x: real[4] {gates} {states}; output y: real[3] = p' }}"
        cell = rnnc.parse(text).lower("C")
        check_cell(cell, {}, [(seed, 1.0), (seed + 1, 30.0)], "float64")
        recurrence = analyse_recurrence(cell)
        s = spectrum_of(recurrence, recurrence.groups[0])
        known += s.norm is not None and s.norm.hi is not None
        real += s.real is True
    assert known >= 15
    assert real >= 5


def test_the_checks_can_fail() -> None:
    def spectrum(**facts: Any) -> Spectrum:
        return Spectrum(**facts)

    turn, reflection = np.array([[0.0, -1.0], [1.0, 0.0]]), np.diag([1.0, 1.0, -1.0])
    eps = EPS["float64"]
    cases = [
        (turn, spectrum(real=True)),
        (reflection, spectrum(nonnegative=True)),
        (reflection, spectrum(interval=Interval(lo=-0, hi=1))),  # type: ignore[arg-type]
        (reflection, spectrum(norm=Interval(lo=0, hi=0.999))),  # type: ignore[arg-type]
        (2 * turn, spectrum(unit_circle=True)),
        (turn + reflection[:2, :2], spectrum(permutation_like=True)),
    ]
    for m, wrong in cases:
        with pytest.raises(AssertionError):
            check_one(m, wrong, eps)
    lines = [np.outer(v, v) for v in ([1.0, 0.0], [0.5, 0.75**0.5], [-0.5, 0.75**0.5])]
    with pytest.raises(AssertionError):
        check_products(*lines, spectrum(products_nonnegative=True))
    with pytest.raises(AssertionError):
        check_products(*lines, spectrum(commuting=True))

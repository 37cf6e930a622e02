"""The analyses' domains on every op, with each subset of its arguments made states, against concrete values."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_examples import EXAMPLES, Example, M, N, example, real
from random_cells import DIMS, cells, sample, values
from with_states import CASES, WithStates, with_sizes, with_states

from rnnc.analysis.forms import Group
from rnnc.analysis.lipschitz import Slopes
from rnnc.analysis.monomials import Axes, Labels, Sum
from rnnc.analysis.operator import Affine, NonLinear, Opaque, Operators
from rnnc.analysis.ranges import Ranges
from rnnc.analysis.semiring import TROPICAL, Affinity
from rnnc.analysis.tight import Tight
from rnnc.ir.builder import Builder
from rnnc.ir.domains.concrete import Concrete, resolve
from rnnc.ir.evaluate import evaluate
from rnnc.ir.graph import CellIR, State
from rnnc.ir.ops import OPS
from rnnc.ir.types import Interval

PLAIN = [e for e in EXAMPLES if OPS[e.op].category not in ("time", "model")]


# ---------------------------------------------------------------- operators


def sum_value(terms: Sum, shape: tuple[int, ...], labels: Labels, dims: dict[str, int], value: Any) -> Any:
    """The entries [*per, *shape] that a sum of monomials stands for; `value` gives a factor's or an atom's array."""
    total: Any = np.zeros(shape)
    for m in terms:
        number: dict[int, int] = {}

        def split(array: Any, axes: Axes, number: dict[int, int] = number) -> tuple[Any, list[int]]:
            flat = [x for axis in axes for x in axis]
            array = np.asarray(array).reshape([resolve(labels.sizes[x], dims) for x in flat])
            return array, [number.setdefault(x, len(number)) for x in flat]

        operands: list[Any] = []
        for f in m.factors:
            operands += split(value(f.node), f.axes)
        if m.atom is not None:
            operands += split(value(m.atom), m.atom_axes)
        out = [x for axis in m.out for x in axis]
        for x in dict.fromkeys(out):
            operands += [np.ones(resolve(labels.sizes[x], dims)), [number.setdefault(x, len(number))]]
        once = list(dict.fromkeys(out))
        found = np.einsum(*operands, [number[x] for x in once]) if operands else np.ones(())
        total = total + float(m.coeff) * _repeated(found, once, out).reshape(shape)
    return total


def _repeated(found: Any, once: list[int], out: list[int]) -> Any:
    """A label that occurs twice in `out` is an identity: zero off the diagonal."""
    for at, x in enumerate(out):
        if x in out[:at]:
            first = out.index(x)
            eye = np.eye(found.shape[first])
            found = np.moveaxis(np.moveaxis(np.expand_dims(found, -1), first, -2) * eye, -2, first)
            found = np.moveaxis(found, -1, at)
    return found


@pytest.mark.parametrize("c", CASES, ids=str)
def test_the_operator_form_reproduces_the_value(c: WithStates) -> None:
    """A sum of monomials is the value; what is called affine has no second difference; linear: f(t s) = t f(s)."""
    b, labels = Builder.of(c.cell), Labels()
    atoms = {s.node: s.name for s in c.cell.states}
    found = Operators(b, atoms, labels).value(c.e.node)
    if isinstance(found, NonLinear):
        return
    rng = np.random.default_rng(7)
    arrays, along = c.e.sample(rng, ()), c.e.sample(rng, ())
    names = set(atoms.values())

    def at(t: float) -> Any:
        return c.value({k: x + t * along[k] if k in names else x for k, x in arrays.items()})

    here, up, down = at(0.0), at(0.7), at(-0.7)
    np.testing.assert_allclose(up + down, 2 * here, rtol=1e-9, atol=1e-9)
    linear = not found.offset if isinstance(found, Opaque) else all(m.atom is not None for m in found.terms)
    if linear:
        grown = c.value({k: 1.3 * x if k in names else x for k, x in arrays.items()})
        np.testing.assert_allclose(grown, 1.3 * here, rtol=1e-11, atol=1e-12)
    if isinstance(found, Affine):
        grown_cell = replace(c.cell, nodes=tuple(b.nodes))
        nodes = evaluate(grown_cell, Concrete(grown_cell, c.e.dims, c.given(arrays)))
        by_name = {name: nodes[i] for i, name in atoms.items()}
        got = sum_value(found.terms, here.shape, labels, c.e.dims, lambda x: by_name[x] if x in by_name else nodes[x])
        np.testing.assert_allclose(got, here, rtol=1e-10, atol=1e-11)


def test_what_is_linear_is_seen_to_be() -> None:
    """Every op whose row says that it is linear in an argument is read as affine with that argument a state."""
    for c in CASES:
        op = OPS[c.e.op]
        places = range(len(c.e.args)) if op.linear in ("joint", "multi") else op.linear
        expected = (
            op.linear != "none" and (set(c.chosen) <= set(places)) and (op.linear != "multi" or len(c.chosen) == 1)
        )
        value = Operators(Builder.of(c.cell), {s.node: s.name for s in c.cell.states}).value(c.e.node)
        if not expected:
            assert isinstance(value, NonLinear), str(c)
        elif not (op.over_reals and any(c.e.args[k].type.dtype == "complex" for k in c.chosen)):
            assert not isinstance(value, NonLinear), str(c)


@given(cells(), st.integers(0, 2**16))
@settings(max_examples=150, deadline=None)
def test_affine_values_of_random_cells(cell: CellIR, seed: int) -> None:
    """Affine in the states: f(s + v) + f(s - v) = 2 f(s); linear: f(0) = 0 besides."""
    rng = np.random.default_rng(seed)
    base, along = sample(cell, rng), sample(cell, rng)
    at = {s.node: along[s.node] for s in cell.states}
    here = values(cell, base)
    up = values(cell, base | {n: base[n] + v for n, v in at.items()})
    down = values(cell, base | {n: base[n] - v for n, v in at.items()})
    zero = values(cell, base | {n: 0 * v for n, v in at.items()})
    ops = Operators(Builder.of(cell), {s.node: s.name for s in cell.states})
    for n in cell.nodes:
        value = ops.value(n.id)
        if isinstance(value, NonLinear) or n.type.dtype not in ("real", "complex"):
            continue
        if not all(np.isfinite(v[n.id]).all() for v in (here, up, down, zero)):
            continue
        size = 1 + max(np.abs(v[n.id]).max() for v in (here, up, down))
        assert np.abs(up[n.id] + down[n.id] - 2 * here[n.id]).max() <= 1e-9 * size
        linear = not value.offset if isinstance(value, Opaque) else all(m.atom is not None for m in value.terms)
        if linear:
            assert np.abs(zero[n.id]).max() <= 1e-9 * size


# ---------------------------------------------------------------- other semirings


@pytest.mark.parametrize("semiring", TROPICAL)
@pytest.mark.parametrize("c", [c for c in CASES if all(a.type.dtype == "real" for a in c.e.args)], ids=str)
def test_what_is_affine_over_a_semiring(c: WithStates, semiring: Any) -> None:
    """max_j(a_j + s_j, b): adding a number to all states adds it to the value, but for what `b` holds back."""
    t = c.cell.nodes[c.e.node].type
    b = Builder.of(c.cell)
    found = Affinity(b, semiring, {s.node: s.name for s in c.cell.states}, t).value(c.e.node)
    if found is None:
        return
    arrays = c.e.sample(np.random.default_rng(8), ())
    names = {f"x{k}" for k in c.chosen}
    low = c.value(arrays)
    up = c.value({k: x + 0.75 if k in names else x for k, x in arrays.items()})
    if found.b is None:
        np.testing.assert_allclose(up, low + 0.75, rtol=1e-12)
    else:
        assert (up >= low - 1e-12).all()
        assert (up <= low + 0.75 + 1e-12).all()


# ---------------------------------------------------------------- ranges


def inside(x: Interval, value: Any, slack: float = 1e-9) -> bool:
    value = np.asarray(value)
    slack = slack * (1 + float(np.abs(value).max(initial=0)))
    low = x.lo is None or bool((value >= float(x.lo) - slack).all())
    return low and (x.hi is None or bool((value <= float(x.hi) + slack).all()))


@pytest.mark.parametrize("e", PLAIN, ids=str)
@pytest.mark.parametrize("known", [False, True], ids=["free", "with known arguments"])
def test_ranges_enclose_every_op(e: Example, known: bool) -> None:
    """Entries, real parts, moduli and squared norms; with free arguments, and with the intervals of those drawn."""
    rng = np.random.default_rng(5)
    cell = with_sizes(e.cell, e.dims) if known else e.cell
    ranges = Ranges(cell.nodes, {})
    leaves = (*e.cell.inputs, *e.cell.params)
    arrays = e.sample(rng, (4,))
    arrays = {p.name: arrays[p.name][0] if p in e.cell.params else arrays[p.name] for p in leaves} | {
        p.name: e.sample(rng, ())[p.name] for p in e.cell.params
    }
    if known:
        nodes = [replace(n, op="input") if n.op == "param" else n for n in cell.nodes]
        domains = {
            leaf.node: Interval(lo=Fraction(arrays[leaf.name].min()), hi=Fraction(arrays[leaf.name].max()))
            for leaf in leaves
            if np.asarray(arrays[leaf.name]).dtype.kind == "f"
        }
        ranges = Ranges(nodes, domains)
    with np.errstate(all="ignore"):
        value = evaluate(e.cell, Concrete(e.cell, e.dims, {p.node: arrays[p.name] for p in leaves}))[e.node]
    t = e.cell.nodes[e.node].type
    if t.dtype not in ("real", "complex"):
        return
    if t.dtype == "real":
        assert inside(ranges.real(e.node), value)
    assert inside(ranges.modulus(e.node), np.abs(value))
    assert inside(ranges.real_part(e.node), value.real)
    if t.rank:
        assert inside(ranges.norm_squared(e.node), (np.abs(value) ** 2).sum(axis=-1))


# ---------------------------------------------------------------- slopes and freedom


def small(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return rng.uniform(-1, 1, size=shape)


ALONE = [  # sums over one operand alone
    with_states(example("einsum", real(N, M, draw=small), real(N, draw=small), spec=spec), chosen)
    for spec in ("ij,k->ik", "ij,k->k", "ij,i->i", "ij,k->")
    for chosen in ((0,), (1,))
]


@pytest.mark.parametrize("sizes", [False, True], ids=["symbolic", "known sizes"])
@pytest.mark.parametrize("c", [*CASES, *ALONE], ids=str)
def test_slopes_bound_differences(c: WithStates, sizes: bool) -> None:
    """|f(s) - f(s')| <= L |s - s'| where a bound is given, with everything else held and inputs inside [-1, 1]."""
    cell = with_sizes(c.cell, c.e.dims) if sizes else c.cell
    cell = replace(
        cell, states=tuple(State(name=s.name, node=s.node, init=s.init, update=c.e.node) for s in c.cell.states)
    )
    group = Group(
        index=0,
        states=tuple(s.name for s in cell.states),
        kind="nonlinear",
        semiring="plus_times",
        input_dependent=True,
        transition_static=False,
        structure="dense",
        rank=None,
        field="real",
        jacobian="dense",
        forms=(),
        because=(),
    )
    drawn_small = c in ALONE
    box = Interval(lo=Fraction(-1), hi=Fraction(1))
    given_domains = {n.id: box for n in cell.nodes if n.op == "input" and drawn_small}
    bound = Slopes(cell, group, Ranges(cell.nodes, given_domains)).of(c.e.node).bound
    if bound is None:
        return
    names = {s.name for s in cell.states}
    rng = np.random.default_rng(11)
    for size in (1e-3, 1.0, 10.0):
        arrays, other = c.e.sample(rng, ()), c.e.sample(rng, ())
        moved = {k: x + size * (other[k] - x) if k in names else x for k, x in arrays.items()}
        first, second = c.value(arrays), c.value(moved)
        if not (np.isfinite(first).all() and np.isfinite(second).all()):
            continue
        distance = np.sqrt(sum(np.sum(np.abs(moved[k] - arrays[k]) ** 2) for k in names))
        far = np.sqrt(np.sum(np.abs(np.asarray(first, complex) - np.asarray(second, complex)) ** 2))
        assert far <= float(bound) * distance * (1 + 1e-9) + 1e-12


@given(cells(), st.integers(0, 2**16), st.sampled_from([0.01, 1.0, 5.0]))
@settings(max_examples=100, deadline=None)
def test_slopes_of_random_cells(cell: CellIR, seed: int, far: float) -> None:
    """Every node's slope in all states together, at known sizes and inputs inside [-1, 1]."""
    cell = with_sizes(cell, DIMS)
    group = Group(index=0, states=tuple(s.name for s in cell.states), kind="nonlinear")
    box = Interval(lo=Fraction(-1), hi=Fraction(1))
    slopes = Slopes(cell, group, Ranges(cell.nodes, {i.node: box for i in cell.inputs}))
    rng = np.random.default_rng(seed)
    other, states = sample(cell, rng), {s.node for s in cell.states}
    base = {i: np.clip(v, -1, 1) if cell.nodes[i].op == "input" else 5 * v for i, v in sample(cell, rng).items()}
    moved = {i: v + far * other[i] if i in states else v for i, v in base.items()}
    here, there = values(cell, base), values(cell, moved)
    distance = np.sqrt(sum(np.sum(np.abs(moved[i] - base[i]) ** 2) for i in states))
    for n in cell.nodes:
        bound = slopes.of(n.id).bound
        if bound is None or n.type.dtype not in ("real", "complex"):
            continue
        x, y = here[n.id].astype(complex), there[n.id].astype(complex)
        if np.isfinite(x).all() and np.isfinite(y).all():
            slack = 1e-9 * (1 + np.abs(x).max(initial=0))
            assert np.sqrt(np.sum(np.abs(x - y) ** 2)) <= float(bound) * distance * (1 + 1e-9) + slack, n.op


@pytest.mark.parametrize("e", PLAIN, ids=str)
def test_freedom_names_the_leaves(e: Example) -> None:
    """What a value's freedom rests on is among the leaves it uses; no op is left out."""
    tight = Tight(Ranges(e.cell.nodes, {}))
    tight.exact(e.node)
    free = tight.apply(e.cell.nodes[e.node], tuple(tight.leaf(e.cell.nodes[a]) for a in e.cell.nodes[e.node].args))
    assert free.uses == frozenset(e.cell.nodes[e.node].args)
    assert free.rests_on is None or free.rests_on <= free.uses

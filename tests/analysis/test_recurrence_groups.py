"""Groups, other semirings, nonlinear near-misses, and random linear cells."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnc.analysis.forms import Elementwise, MatrixState
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.ir.dims import Dim

# ---------------------------------------------------------------- groups and semirings


def test_a_stabiliser_is_a_scan_of_its_own(make, reproduces):
    m = make()
    n, c, top = m.state("n"), m.state("C", "K", "V"), m.state("m")
    f, i = m.input("f"), m.input("i")
    new_top = m.b.map("max", m.b.map("add", f, top), i)
    keep = m.b.add("exp", m.b.map("sub", m.b.map("add", f, top), new_top))
    write = m.b.add("exp", m.b.map("sub", i, new_top))
    k, v = m.input("k", "K"), m.input("v", "V")
    m.update("m", new_top)
    m.update("C", m.b.map("add", m.b.map("mul", keep, c), m.b.map("mul", write, m.b.outer(k, v))))
    m.update("n", m.b.map("add", m.b.map("mul", keep, n), write))
    found = reproduces(m.cell())
    assert {g.states: g.semiring for g in found.groups} == {
        ("m",): "max_plus",
        ("n",): "plus_times",
        ("C",): "plus_times",
    }
    assert [g.states for g in found.groups].index(("m",)) == 0
    assert not any(g.transition_static for g in found.groups)


def test_a_momentum_state_comes_before_what_reads_its_new_value(make, reproduces):
    m = make()
    s, v = m.state("S", "n"), m.state("V", "n")
    new_v = m.b.map("add", m.b.map("mul", m.input("eta"), v), m.input("x", "n"))
    m.update("V", new_v)
    m.update("S", m.b.map("add", s, new_v))
    assert [g.states for g in reproduces(m.cell()).groups] == [("V",), ("S",)]


def test_states_through_each_others_new_values_are_one_group(make):
    m = make()
    a, b = m.state("a", "n"), m.state("b", "n")
    new_a = m.b.map("add", m.b.map("mul", m.input("f", "n"), a), b)
    m.update("a", new_a)
    m.update("b", m.b.map("sub", b, new_a))
    (group,) = analyse_recurrence(m.cell()).groups
    assert group.states == ("a", "b")
    assert group.kind == "linear"


@pytest.mark.parametrize(("op", "semiring"), [("max", "max_plus"), ("min", "min_plus"), ("logaddexp", "log_plus")])
def test_semirings(make, op, semiring):
    m = make()
    h = m.state("h", "n")
    m.update("h", m.b.map(op, m.b.map("add", h, m.input("f", "n")), m.input("i", "n")))
    (group,) = analyse_recurrence(m.cell()).groups
    assert (group.kind, group.semiring) == ("affine", semiring)
    assert isinstance(group.forms[0], Elementwise)


@pytest.mark.parametrize(("op", "semiring"), [("relu", "max_plus"), ("softplus", "log_plus")])
def test_a_clipped_walk_is_linear_over_a_semiring(make, op, semiring):
    m = make()
    h = m.state("h", "n")
    m.update("h", m.b.add(op, m.b.map("add", h, m.input("f", "n"))))
    (group,) = analyse_recurrence(m.cell()).groups
    assert (group.kind, group.semiring) == ("affine", semiring)


# ---------------------------------------------------------------- near-misses: these are not linear

NEAR_MISSES = {
    "normalised inside": lambda b, s, k, g: b.add("l2norm", b.map("mul", g, s), eps=0),
    "state in its gate": lambda b, s, k, g: b.map("mul", b.add("sigmoid", s), s),
    "state times state": lambda b, s, k, g: b.map("mul", s, b.map("mul", g, s)),
    "read times state": lambda b, s, k, g: b.map("mul", b.add("expand", b.matmul(b.transpose(s), k), axes=(-2,)), s),
    "scaled max": lambda b, s, k, g: b.map("max", b.map("mul", b.add("sigmoid", g), s), g),
    "max and sum": lambda b, s, k, g: b.map("add", b.map("max", s, g), s),
    "max over an axis": lambda b, s, k, g: b.map("sub", s, b.add("expand", b.add("amax", s, axes=(-1,)), axes=(-1,))),
    "absolute value": lambda b, s, k, g: b.map("mul", g, b.add("abs", s)),
    "divided by its size": lambda b, s, k, g: b.map("div", s, b.add("sum", s, axes=(-2, -1))),
    "state decides": lambda b, s, k, g: b.map("select", b.map("lt", s, b.const(0)), s, b.map("mul", g, s)),
    "a power": lambda b, s, k, g: b.map("pow", s, b.const(2)),
}


@pytest.mark.parametrize("what", NEAR_MISSES)
def test_near_misses_are_nonlinear(make, what):
    m = make()
    s, k, g = m.state("S", "K", "V"), m.input("k", "K"), m.input("g")
    m.update("S", NEAR_MISSES[what](m.b, s, k, g))
    (group,) = analyse_recurrence(m.cell()).groups
    assert group.kind == "nonlinear"
    assert group.forms == ()
    assert group.because
    assert "`S`" in group.because[0][0]


@pytest.mark.parametrize("op", ["conj", "re", "im"])
def test_parts_of_a_complex_state_are_not_complex_linear(make, op):
    m = make()
    h = m.state("h", "n", dtype="complex")
    part = m.b.add(op, h)
    m.update("h", m.b.map("mul", m.input("a", "n", dtype="complex"), part))
    (group,) = analyse_recurrence(m.cell()).groups
    assert group.kind == "nonlinear"


def test_jacobians_of_nonlinear_groups_are_proved(make):
    def group(write, *names):
        m = make()
        states = [m.state(n, "n") for n in names]
        for name, node in zip(names, write(m, *states), strict=True):
            m.update(name, node)
        (found,) = analyse_recurrence(m.cell()).groups
        return found.jacobian

    assert group(lambda m, h: [m.b.add("tanh", m.b.map("mul", m.input("w", "n"), h))], "h") == "diagonal"
    assert group(lambda m, h: [m.b.add("tanh", m.b.matmul(m.param("W", "n", "n"), h))], "h") == "dense"
    assert group(lambda m, h, c: [m.b.add("tanh", c), m.b.map("mul", h, c)], "h", "c") == "block_diagonal"
    assert group(lambda m, h: [m.b.add("softmax", h)], "h") == "low_rank"  # diag(s) - s s^T


def test_the_reason_names_state_gate_and_function(make):
    m = make()
    h, x = m.state("h", "n"), m.input("x", "n")
    z = m.b.add("sigmoid", m.b.map("add", m.b.matmul(m.param("W", "n", "n"), h), x), name="z")
    m.update("h", m.b.map("mul", z, h))
    (group,) = analyse_recurrence(m.cell()).groups
    assert group.because[0][0] == "`h` enters `z` through sigmoid"


# ---------------------------------------------------------------- random linear cells


def _matrix(m, kind, size, i):
    k = m.input(f"k{i}", size)
    n = Dim.of(size)
    match kind:
        case "householder":
            return m.b.map("sub", m.b.add("eye", n=n), m.b.map("mul", m.input(f"b{i}"), m.b.outer(k, k)))
        case "diagonal":
            return m.b.add("layout", k, kind="diag")
        case "rank one":
            return m.b.outer(k, m.input(f"l{i}", size))
        case "dense":
            return m.param(f"W{i}", size, size)
        case "scaled identity":
            return m.b.map("mul", m.input(f"b{i}"), m.b.add("eye", n=n))
    raise AssertionError(kind)


KINDS = st.sampled_from(["householder", "diagonal", "rank one", "dense", "scaled identity"])
STEPS = st.one_of(
    st.tuples(st.just("left"), KINDS),
    st.tuples(st.just("left"), KINDS),
    st.tuples(st.just("right"), KINDS),
    st.tuples(
        st.sampled_from(["scale", "write", "blend", "erase", "row", "twice transposed", "centre", "product"]), KINDS
    ),
)


def _apply(m, s, first, step, i):
    b, (what, kind) = m.b, step
    match what:
        case "left":
            return b.matmul(_matrix(m, kind, "K", i), s)
        case "right":
            return b.matmul(s, _matrix(m, kind, "V", i))
        case "product":
            return b.matmul(b.matmul(_matrix(m, kind, "K", f"{i}a"), _matrix(m, "householder", "K", f"{i}b")), s)
        case "scale":
            return b.map("mul", b.add("exp", m.input(f"g{i}")), s)
        case "write":
            return b.map("add", s, b.outer(m.input(f"u{i}", "K"), m.input(f"v{i}", "V")))
        case "blend":
            return b.map("sub", s, b.map("mul", m.input(f"g{i}"), first))
        case "erase":
            return b.map("sub", s, b.outer(m.input(f"u{i}", "K"), b.matmul(b.transpose(s), m.input(f"k{i}", "K"))))
        case "row":
            return b.map("mul", s, m.input(f"r{i}", "V"))
        case "twice transposed":
            return b.transpose(b.map("add", b.transpose(s), b.outer(m.input(f"v{i}", "V"), m.input(f"u{i}", "K"))))
        case "centre":
            return b.map("sub", s, b.add("expand", b.add("mean", s, axes=(-2,)), axes=(-2,)))
    raise AssertionError(what)


@settings(max_examples=120, deadline=None)
@given(steps=st.lists(STEPS, min_size=1, max_size=5), seed=st.integers(0, 1000))
def test_random_linear_updates(make, reproduces, steps, seed):
    m = make()
    first = s = m.state("S", "K", "V")
    for i, step in enumerate(steps):
        s = _apply(m, s, first, step, i)
    m.update("S", s)
    m.output("o", m.b.matmul(m.b.transpose(s), m.input("q", "K")))
    (group,) = reproduces(m.cell(), None, seed).groups
    assert group.kind in ("linear", "affine")
    left_only = {"left", "write", "erase", "scale", "twice transposed", "product"}
    if all(what in left_only and kind != "dense" for what, kind in steps):
        assert any(isinstance(f, (MatrixState, Elementwise)) for f in group.forms)


@settings(max_examples=30, deadline=None)
@given(steps=st.lists(STEPS, min_size=1, max_size=4), order=st.randoms())
def test_names_do_not_matter(make, steps, order):
    m = make()
    first = s = m.state("S", "K", "V")
    for i, step in enumerate(steps):
        s = _apply(m, s, first, step, i)
    m.update("S", s)
    cell = m.cell()
    renamed = replace(
        cell,
        name="Other",
        nodes=tuple(replace(n, name=f"x{order.randrange(10**6)}_{n.id}" if n.name else "") for n in cell.nodes),
        states=tuple(replace(x, name="T") for x in cell.states),
    )
    (a,), (b,) = analyse_recurrence(cell).groups, analyse_recurrence(renamed).groups
    facts = ("kind", "semiring", "structure", "rank", "field", "jacobian", "transition_static", "input_dependent")
    assert [getattr(a, f) for f in facts] == [getattr(b, f) for f in facts]
    assert [type(f) for f in a.forms] == [type(f) for f in b.forms]

"""Many ways of writing one recurrence give one normal form, and every form computes the cell's update."""

from __future__ import annotations

from fractions import Fraction

import pytest

from rnnc.analysis.forms import BlockLinear, Coupled, Dense, Elementwise, MatrixState
from rnnc.ir.dims import Dim

N = Dim.of("n")

# ---------------------------------------------------------------- elementwise


def _leaky(m, write):
    h, z, c = m.state("h", "n"), m.b.add("sigmoid", m.input("z", "n")), m.input("c", "n")
    m.update("h", write(m.b, h, z, c))
    m.output("y", h)
    return m.cell()


LEAKY = {
    "(1-z)*h + z*c": lambda b, h, z, c: b.map("add", b.map("mul", b.map("sub", b.const(1), z), h), b.map("mul", z, c)),
    "h + z*(c-h)": lambda b, h, z, c: b.map("add", h, b.map("mul", z, b.map("sub", c, h))),
    "z*c + h - h*z": lambda b, h, z, c: b.map("sub", b.map("add", b.map("mul", z, c), h), b.map("mul", h, z)),
    "-((z-1)*h - c*z)": lambda b, h, z, c: b.map(
        "neg", b.map("sub", b.map("mul", b.map("sub", z, b.const(1)), h), b.map("mul", c, z))
    ),
    "diag(1-z) @ h + z*c": lambda b, h, z, c: b.map(
        "add", b.matmul(b.add("layout", b.map("sub", b.const(1), z), kind="diag"), h), b.map("mul", z, c)
    ),
    "(I - diag(z)) @ h + diag(z) @ c": lambda b, h, z, c: b.map(
        "add",
        b.matmul(b.map("sub", b.add("eye", n=N), b.add("layout", z, kind="diag")), h),
        b.matmul(b.add("layout", z, kind="diag"), c),
    ),
    "h*(2 - 2*z)/2 + z*c": lambda b, h, z, c: b.map(
        "add",
        b.map("div", b.map("mul", h, b.map("sub", b.const(2), b.map("mul", b.const(2), z))), b.const(2)),
        b.map("mul", z, c),
    ),
    "mean of two copies": lambda b, h, z, c: b.map(
        "add",
        b.add(
            "mean", b.add("broadcast", b.map("mul", b.map("sub", b.const(1), z), h), shape=(Dim.of(2), N)), axes=(-2,)
        ),
        b.map("mul", z, c),
    ),
    "through a column": lambda b, h, z, c: b.map(
        "add",
        b.add(
            "reshape", b.add("reshape", b.map("mul", b.map("sub", b.const(1), z), h), shape=(N, Dim.of(1))), shape=(N,)
        ),
        b.map("mul", z, c),
    ),
}


@pytest.mark.parametrize("spelling", LEAKY)
def test_one_elementwise_form(make, reproduces, spelling):
    found = reproduces(_leaky(make(), LEAKY[spelling]))
    (group,) = found.groups
    assert (group.kind, group.structure, group.jacobian) == ("affine", "diagonal", "diagonal")
    (form,) = group.forms
    assert isinstance(form, Elementwise)


def test_an_integrator_has_no_coefficients(make, reproduces):
    m = make()
    h = m.state("h", "n")
    m.update("h", m.b.map("add", h, m.input("x", "n")))
    (group,) = reproduces(m.cell()).groups
    assert group.forms[0].a is None
    assert group.transition_static
    assert group.structure == "scalar"


def test_a_shift_register_is_affine_with_a_zero_transition(make, reproduces):
    m = make()
    m.state("h", "n")
    m.update("h", m.input("x", "n"))
    found = reproduces(m.cell())
    assert found.cell.nodes[found.groups[0].forms[0].a].attr("value") == 0


def test_cancelling_state_terms_leave_no_transition(make, reproduces):
    m = make()
    h, x = m.state("h", "n"), m.input("x", "n")
    m.update("h", m.b.map("add", m.b.map("sub", h, h), x))
    found = reproduces(m.cell())
    assert found.cell.nodes[found.groups[0].forms[0].a].attr("value") == 0


def test_complex_elementwise(make, reproduces):
    m = make()
    h = m.state("h", "n", dtype="complex")
    lam = m.b.map("polar", m.b.add("sigmoid", m.param("r", "n")), m.param("theta", "n"))
    m.update("h", m.b.map("add", m.b.map("mul", lam, h), m.input("x", "n")))
    m.output("y", m.b.add("re", h))
    (group,) = reproduces(m.cell()).groups
    assert group.field == "complex"
    assert group.transition_static
    assert isinstance(group.forms[0], Elementwise)


def test_the_real_part_of_a_complex_factor_of_a_real_state(make, reproduces):
    m = make()
    h, c = m.state("h", "n"), m.input("c", "n", dtype="complex")
    m.update("h", m.b.map("add", m.b.add("re", m.b.map("mul", c, h)), m.b.add("im", c)))
    (group,) = reproduces(m.cell()).groups
    assert group.kind == "affine"
    assert isinstance(group.forms[0], Elementwise)


def test_a_selected_update_is_linear(make, reproduces):
    m = make()
    h, x, f = m.state("h", "n"), m.input("x", "n"), m.b.add("sigmoid", m.input("f", "n"))
    keep = m.b.map("lt", x, m.b.const(0))
    m.update("h", m.b.map("select", keep, h, m.b.map("add", m.b.map("mul", f, h), x)))
    (group,) = reproduces(m.cell()).groups
    assert isinstance(group.forms[0], Elementwise)


# ---------------------------------------------------------------- matrix states


def _delta_cell(m, write, per=("H",)):
    s = m.state("S", "K", "V", per=per)
    k, q = m.input("k", "K", per=per), m.input("q", "K", per=per)
    v = m.input("v", "V", per=per)
    beta, alpha = m.input("beta", per=per), m.b.add("sigmoid", m.input("alpha", per=per))
    new = write(m.b, s, k, v, beta, alpha)
    m.update("S", new)
    m.output("o", m.b.matmul(m.b.transpose(new), q))
    return m.cell()


def _householder(b, k, beta):
    return b.map("sub", b.add("eye", n=Dim.of("K")), b.map("mul", beta, b.outer(k, k)))


def _gated(b, s, k, v, beta, alpha):
    a = b.map("mul", alpha, _householder(b, k, beta))
    return b.map("add", b.matmul(a, s), b.map("mul", beta, b.outer(k, v)))


def _erase_then_write(b, s, k, v, beta, alpha):
    s = b.map("mul", alpha, s)
    error = b.map("sub", v, b.matmul(b.transpose(s), k))
    return b.map("add", s, b.map("mul", beta, b.outer(k, error)))


def _decay_last(b, s, k, v, beta, alpha):
    erased = b.map("sub", s, b.outer(b.map("mul", beta, k), b.einsum("kv,k->v", s, k)))
    return b.map("add", b.map("mul", erased, alpha), b.outer(k, b.map("mul", v, beta)))


def _by_sums(b, s, k, v, beta, alpha):
    column = b.add("expand", k, axes=(-1,))
    read = b.add("sum", b.map("mul", column, s), axes=(-2,))
    erase = b.map("mul", b.map("mul", column, beta), b.map("mul", read, alpha))
    return b.map("add", b.map("sub", b.map("mul", alpha, s), erase), b.map("mul", b.map("mul", column, v), beta))


def _transposed(b, s, k, v, beta, alpha):
    a = b.map("mul", alpha, _householder(b, k, beta))
    acted = b.transpose(b.matmul(b.transpose(s), a))  # symmetric
    return b.map("add", acted, b.transpose(b.map("mul", b.outer(v, k), beta)))


def _by_product(b, s, k, v, beta, alpha):
    scaled = b.map("mul", alpha, b.add("eye", n=Dim.of("K")))
    return b.map("add", b.matmul(b.matmul(_householder(b, k, beta), scaled), s), b.map("mul", b.outer(k, v), beta))


def _gradient(b, s, k, v, beta, alpha):
    grad = b.outer(k, b.map("sub", b.matmul(k, b.map("mul", alpha, s)), v))
    return b.map("sub", b.map("mul", alpha, s), b.map("mul", beta, grad))


DELTA = [_gated, _erase_then_write, _decay_last, _by_sums, _transposed, _by_product, _gradient]


@pytest.mark.parametrize("per", [("H",), ()])
@pytest.mark.parametrize("write", DELTA, ids=lambda f: f.__name__.strip("_"))
def test_one_delta_rule(make, reproduces, write, per):
    (group,) = reproduces(_delta_cell(make(), write, per)).groups
    assert (group.kind, group.structure, group.rank, group.jacobian) == ("affine", "householder_product", 1, "low_rank")
    (form,) = group.forms
    assert isinstance(form, MatrixState)
    assert form.side == "left"
    assert form.whole_because is None
    (step,) = form.steps
    assert step.log_decay is not None
    assert len(step.low_rank) == 1
    assert len(step.writes) == 1
    assert [r.when for r in form.reads] == ["new"]


def test_three_householders_are_three_micro_steps(make, reproduces):
    m = make()
    s, v, x = m.state("S", "K", "V"), m.input("v", "V"), m.input("q", "K")
    product = None
    for j in range(3):
        factor = _householder(m.b, m.input(f"k{j}", "K"), m.input(f"b{j}"))
        product = factor if product is None else m.b.matmul(factor, product)
    m.update("S", m.b.map("add", m.b.matmul(product, s), m.b.outer(x, v)))
    (group,) = reproduces(m.cell()).groups
    (form,) = group.forms
    assert [len(step.low_rank) for step in form.steps] == [1, 1, 1]
    assert (group.structure, group.rank) == ("householder_product", 3)


def test_substeps_with_a_gate_on_the_first_only(make, reproduces):
    m = make()
    s = m.state("S", "K", "V")
    new = m.b.map("mul", m.b.add("exp", m.input("g")), s)
    for j in range(2):
        k, v, beta = m.input(f"k{j}", "K"), m.input(f"v{j}", "V"), m.input(f"b{j}")
        new = m.b.map("add", m.b.matmul(_householder(m.b, k, beta), new), m.b.map("mul", beta, m.b.outer(k, v)))
    m.update("S", new)
    (group,) = reproduces(m.cell()).groups
    (form,) = group.forms
    assert len(form.steps) == 2
    assert form.steps[0].log_decay is not None
    assert form.steps[1].decay is None


def test_a_long_product_is_not_multiplied_out(make, reproduces):
    m = make()
    s = m.state("S", "K", "V")
    product = _householder(m.b, m.input("k0", "K"), m.input("b0"))
    for j in range(1, 9):
        product = m.b.matmul(_householder(m.b, m.input(f"k{j}", "K"), m.input(f"b{j}")), product)
    m.update("S", m.b.matmul(m.b.transpose(product), s))
    (group,) = reproduces(m.cell()).groups
    assert (group.kind, group.structure, group.rank) == ("linear", "householder_product", 9)


def test_right_acting_state(make, reproduces):
    m = make()
    s, k, v, q = m.state("S", "V", "K"), m.input("k", "K"), m.input("v", "V"), m.input("q", "K")
    new = m.b.map("add", m.b.matmul(s, _householder(m.b, k, m.input("beta"))), m.b.outer(v, k))
    m.update("S", new)
    m.output("y", m.b.matmul(new, q))
    m.output("z", m.b.matmul(s, k))
    (group,) = reproduces(m.cell()).groups
    (form,) = group.forms
    assert form.side == "right"
    assert sorted(r.when for r in form.reads) == ["new", "old"]


def test_a_read_across_the_decay(make, reproduces):
    m = make()
    s, k, v, q = m.state("S", "K", "V"), m.input("k", "K"), m.input("v", "V"), m.input("q", "K")
    a = m.b.add("sigmoid", m.input("a", "V"))
    m.update("S", m.b.map("add", m.b.map("mul", s, m.b.add("expand", a, axes=(-2,))), m.b.outer(k, v)))
    m.output("y", m.b.einsum("ij,i->j", m.updates["S"], q))
    (group,) = reproduces(m.cell()).groups
    form = next(f for f in group.forms if isinstance(f, MatrixState))
    assert (form.side, form.reads, len(form.across)) == ("right", None, 1)
    assert form.read_across().reads == form.across


def test_a_scalar_decay_lies_on_the_axis_that_is_read(make, reproduces):
    m = make()
    s, k, v, q = m.state("S", "K", "V"), m.input("k", "K"), m.input("v", "V"), m.input("q", "V")
    a = m.b.add("sigmoid", m.input("a"))
    m.update("S", m.b.map("add", m.b.map("mul", m.b.add("expand", a, axes=(-2, -1)), s), m.b.outer(k, v)))
    m.output("y", m.b.einsum("ij,j->i", m.updates["S"], q))
    (group,) = reproduces(m.cell()).groups
    form = next(f for f in group.forms if isinstance(f, MatrixState))
    assert form.side == "right"
    assert form.reads is not None
    assert not form.across


def test_vector_decay_is_elementwise_and_matrix_state(make, reproduces):
    m = make()
    s, k, v = m.state("S", "K", "V", per=("H",)), m.input("k", "K", per=("H",)), m.input("v", "V", per=("H",))
    a = m.b.add("sigmoid", m.input("a", "K", per=("H",)))
    m.update("S", m.b.map("add", m.b.matmul(m.b.add("layout", a, kind="diag"), s), m.b.outer(k, v)))
    (group,) = reproduces(m.cell()).groups
    assert [type(f) for f in group.forms] == [Elementwise, MatrixState]
    assert group.structure == "diagonal"


def test_diagonal_minus_rank_one(make, reproduces):
    m = make()
    s, k, a = m.state("S", "K", "V"), m.input("k", "K"), m.input("a", "K")
    w = m.b.add("exp", m.input("w", "K"))
    transition = m.b.map("sub", m.b.add("layout", w, kind="diag"), m.b.outer(k, m.b.map("mul", a, k)))
    m.update("S", m.b.map("add", m.b.matmul(transition, s), m.b.outer(k, m.input("v", "V"))))
    (group,) = reproduces(m.cell()).groups
    assert (group.structure, group.rank) == ("diagonal_plus_low_rank", 1)


def test_low_rank_of_known_rank_is_taken_apart(make, reproduces):
    m = make()
    s = m.state("S", "K", "V")
    u, w = m.input("u", "K", 2), m.input("w", "K", 2)
    low = m.b.matmul(u, m.b.transpose(w))
    m.update("S", m.b.matmul(m.b.map("add", m.b.add("eye", n=Dim.of("K")), low), s))
    (group,) = reproduces(m.cell()).groups
    assert (group.kind, group.structure, group.rank) == ("linear", "diagonal_plus_low_rank", 2)


def test_a_vector_state_under_a_reflection(make, reproduces):
    m = make()
    h, k = m.state("h", "K"), m.input("k", "K")
    m.update("h", m.b.map("add", m.b.matmul(_householder(m.b, k, m.input("beta")), h), m.input("x", "K")))
    m.output("y", m.b.add("tanh", h))
    (group,) = reproduces(m.cell()).groups
    (form,) = group.forms
    assert isinstance(form, MatrixState)
    assert form.reads is None
    assert form.steps[0].writes[0][1] is None


def test_a_read_before_the_write_with_a_bonus(make, reproduces):
    m = make()
    s, r, k, v, u = m.state("S", "K", "V"), m.input("r", "K"), m.input("k", "K"), m.input("v", "V"), m.param("u", "K")
    write = m.b.outer(k, v)
    m.update("S", m.b.map("add", m.b.map("mul", m.b.add("expand", m.input("w", "K"), axes=(-1,)), s), write))
    seen = m.b.map("add", s, m.b.map("mul", m.b.add("expand", u, axes=(-1,)), write))
    m.output("y", m.b.add("tanh", m.b.matmul(m.b.transpose(seen), r)))
    (group,) = reproduces(m.cell()).groups
    (read,) = group.forms[1].reads
    assert read.when == "old"
    assert read.extra is not None


@pytest.mark.parametrize("op", ["tanh", "output"])
def test_a_use_of_the_whole_state_is_named(make, reproduces, op):
    m = make()
    s = m.state("S", "K", "V")
    new = m.b.map("add", m.b.map("mul", m.input("a"), s), m.b.outer(m.input("k", "K"), m.input("v", "V")))
    m.update("S", new)
    use = new if op == "output" else m.b.add("tanh", new)
    m.output("y", use)
    (group,) = reproduces(m.cell()).groups
    assert group.forms[1].reads is None
    assert group.forms[1].whole_because == use


# ---------------------------------------------------------------- coupled, blocks, dense


def test_two_states_turned_into_each_other(make, reproduces):
    m = make()
    a, b, theta = m.state("a", "n"), m.state("b", "n"), m.input("theta", "n")
    cos, sin = m.b.add("cos", theta), m.b.add("sin", theta)
    m.update("a", m.b.map("add", m.b.map("sub", m.b.map("mul", cos, a), m.b.map("mul", sin, b)), m.input("x", "n")))
    m.update("b", m.b.map("add", m.b.map("mul", sin, a), m.b.map("mul", cos, b)))
    (group,) = reproduces(m.cell()).groups
    (form,) = group.forms
    assert isinstance(form, Coupled)
    assert group.jacobian == "block_diagonal"
    assert form.b[1] is None


def test_rotation_blocks(make, reproduces):
    m = make()
    h, theta = m.state("h", Dim.of("p") * 2), m.input("theta", "p")
    turn = m.b.add("layout", m.b.add("rotation_blocks", theta), kind="blockdiag")
    m.update("h", m.b.map("add", m.b.matmul(turn, h), m.input("x", Dim.of("p") * 2)))
    (group,) = reproduces(m.cell()).groups
    assert isinstance(group.forms[0], BlockLinear)
    assert group.structure == "orthogonal"


def test_decayed_blocks_of_a_matrix_state(make, reproduces):
    m = make()
    h = m.state("h", Dim.of("p") * 2, "V")
    turn = m.b.add("layout", m.input("M", "p", 2, 2), kind="blockdiag")
    m.update("h", m.b.map("sub", m.b.matmul(turn, h), m.b.map("mul", m.input("g"), h)))
    (group,) = reproduces(m.cell()).groups
    assert isinstance(group.forms[0], BlockLinear)
    assert group.structure == "block_diagonal"


def test_rotating_halves_is_dense(make, reproduces):
    m = make()
    n = Dim.of("p") * 2
    h, c = m.state("h", n), m.b.add("cos", m.input("theta", "p"))
    low = m.b.add("slice", h, axis=-1, start=Dim.of(0), stop=Dim.of("p"))
    high = m.b.add("slice", h, axis=-1, start=Dim.of("p"), stop=n)
    m.update("h", m.b.add("concat", m.b.add("neg", m.b.map("mul", c, high)), m.b.map("mul", c, low), axis=-1))
    (group,) = reproduces(m.cell()).groups
    assert group.kind == "linear"
    assert isinstance(group.forms[0], Dense)


def test_dense_time_invariant(make, reproduces):
    m = make()
    h, w = m.state("h", "n"), m.param("W", "n", "n")
    m.update(
        "h",
        m.b.map(
            "add", m.b.map("add", m.b.matmul(w, h), m.b.map("mul", m.b.const(Fraction(1, 2)), h)), m.input("x", "n")
        ),
    )
    (group,) = reproduces(m.cell()).groups
    (form,) = group.forms
    assert isinstance(form, Dense)
    assert group.transition_static
    assert group.structure == "dense"


def test_mixing_heads_has_no_form_but_is_linear(make, reproduces):
    m = make()
    h, w = m.state("h", "n", per=("H",)), m.param("W", "H", "H")
    mixed = m.b.einsum("gh,hn->gn", w, m.b.add("merge", h, n=1))
    m.update("h", m.b.add("split_per", mixed, n=1))
    (group,) = reproduces(m.cell()).groups
    assert group.kind == "linear"
    assert group.forms == ()
    assert "linear" in group.because[0][0]


def test_a_general_bilinear_update_has_no_form(make, reproduces):
    m = make()
    s, left, right = m.state("S", "K", "V"), m.param("L", "K", "K"), m.param("R", "V", "V")
    m.update("S", m.b.matmul(m.b.matmul(left, s), right))
    (group,) = reproduces(m.cell()).groups
    assert group.kind == "linear"
    assert group.forms == ()


def test_a_dense_write_into_a_delta_rule_has_no_matrix_form(make, reproduces):
    m = make()
    s, k, x = m.state("S", "K", "V"), m.input("k", "K"), m.input("x", "K", "V")
    m.update("S", m.b.map("add", m.b.matmul(_householder(m.b, k, m.b.const(1)), s), x))
    (group,) = reproduces(m.cell()).groups
    assert group.kind == "affine"
    assert all(isinstance(f, Dense) for f in group.forms)

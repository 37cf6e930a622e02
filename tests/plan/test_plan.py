"""Strategies: what is legal for which form, what it costs, what is chosen, and how an override is refused."""

from __future__ import annotations

import numpy as np
import pytest

import rnnc.spec
from rnnc.analysis.forms import BlockLinear, Coupled, Elementwise, MatrixState
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.diagnostics import SpecError
from rnnc.frontend.codes import pages
from rnnc.plan import STRATEGIES, plan

CELLS = {
    "leak": ("state h: real[n] = 0; h <- sigmoid(linear(x)) * h + x", {"scan"}),
    "fixed leak": ("state h: real[n] = 0; h <- 0.5 * h + x", {"scan", "convolution"}),
    "integrator": ("state h: real[n] = 0; h <- h + x", {"scan"}),
    "stabiliser": ("state h: real[n] = 0; h <- max(h + x, x)", {"scan"}),
    "delta": ("state S: real[n, n] = 0; S <- S - outer(x, S.T @ x) + outer(x, x)", {"chunkwise"}),
    "gated write": ("state S: real[n, n] = 0; S <- diag(x) @ S + outer(x, x)", {"scan", "chunkwise"}),
    "reflection": ("state h: real[n] = 0; h <- h - x * dot(x, h) + x", {"chunkwise"}),
    "rotation": ("state h: real[2*n] = 0; h <- rotation(x) @ h + linear(x)", {"block_scan"}),
    "pair": ("state a: real[n] = 0; state b: real[n] = 0; a <- a + x * b; b <- b - x * a", {"block_scan"}),
    "dense": ("param W: real[n, n]; state h: real[n] = 0; h <- W @ h + x", {"block_scan"}),
    "elman": ("state h: real[n] = 0; h <- tanh(linear(h) + x)", {"newton"}),
    "large elman": ("state h: real[8*n] = 0; h <- tanh(linear(h) + linear(x))", set()),
    "entrywise": ("state h: real[n] = 0; h <- tanh(h + x)", {"newton"}),
    "bilinear": ("param W: real[n, n]; state S: real[n, n] = 0; S <- W @ S @ W + outer(x, x)", set()),
}


def recurrence(body: str):
    text = f"cell C(n: dim) {{ input x: real[n]; {body}; output y: real[n] = x }}"
    return analyse_recurrence(rnnc.spec.parse(text).lower("C"))


@pytest.mark.parametrize("what", CELLS)
def test_legal_strategies(what):
    body, expected = CELLS[what]
    (group,) = plan(recurrence(body), {"n": 8}).groups
    legal = {o.name for o in group.options if o.legal}
    assert legal == {"step", "sequential"} | expected
    assert group.strategy in legal - {"step"}
    for option in group.options:
        assert option.why
        assert bool(option.flops) == bool(option.depth) == option.legal
        assert (option.form is not None) == (option.legal and option.name not in ("step", "sequential", "newton"))


@pytest.mark.parametrize(
    ("what", "strategy", "form"),
    [
        ("leak", "scan", Elementwise),
        ("delta", "chunkwise", MatrixState),
        ("gated write", "chunkwise", MatrixState),
        ("rotation", "block_scan", BlockLinear),
        ("pair", "block_scan", Coupled),
    ],
)
def test_long_sequences_run_in_parallel(what, strategy, form):
    (group,) = plan(recurrence(CELLS[what][0]), {"n": 64, "B": 4, "T": 4096}).groups
    assert group.strategy == strategy
    assert isinstance(group.form, form)


def test_a_large_dense_transition_runs_step_by_step():
    (group,) = plan(recurrence(CELLS["dense"][0]), {"n": 512, "B": 4, "T": 1024}).groups
    assert group.strategy == "sequential"


def test_costs_are_expressions_and_numbers():
    (group,) = plan(recurrence(CELLS["leak"][0])).groups
    scan = next(o for o in group.options if o.name == "scan")
    assert scan.flops == "2*B*T*n"
    assert scan.flops_number is None
    (group,) = plan(recurrence(CELLS["leak"][0]), {"n": 10, "B": 2, "T": 100}).groups
    scan = next(o for o in group.options if o.name == "scan")
    assert scan.flops_number == 4000


def test_an_override_runs_what_it_can():
    found = recurrence("state m: real = 0; state S: real[n, n] = 0; m <- max(m, sum(x)); S <- m' * S + outer(x, x)")
    chosen = plan(found, strategy="scan").groups
    assert [g.strategy for g in chosen] == ["scan", "scan"]
    chosen = plan(found, strategy={"S": "sequential"}).groups
    assert {g.group.states: g.strategy for g in chosen} == {("m",): "scan", ("S",): "sequential"}


@pytest.mark.parametrize(
    ("what", "strategy", "code", "says"),
    [
        ("elman", "scan", "E0602", "tanh"),
        ("delta", "scan", "E0602", "householder product"),
        ("leak", "convolution", "E0602", "changes from step to step"),
        ("stabiliser", {"h": "convolution"}, "E0602", "Fourier"),
        ("leak", "parallel", "E0603", "parallel"),
        ("leak", {"g": "scan"}, "E0603", "`g`"),
    ],
)
def test_an_illegal_override_says_why(what, strategy, code, says):
    with pytest.raises(SpecError) as caught:
        plan(recurrence(CELLS[what][0]), strategy=strategy)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == code
    assert code in pages()
    assert says in str(caught.value)


def test_newton_is_chosen_where_it_contracts_and_its_blocks_have_one_size():
    def chosen(body, **dims):
        (group,) = plan(recurrence(body), {"B": 1, "T": 8192, **dims}).groups
        return group.strategy

    assert chosen("param u: real[n] init normal(0.3); state h: real[n] = 0; h <- tanh(u * h + x)") == "newton"
    assert chosen("param u: real[n] init normal(9); state h: real[n] = 0; h <- 5 * sin(u * h + x)") == "sequential"
    assert chosen("state h: real[n] = 0; h <- tanh(linear(h) + x)") == "sequential"  # a layer may have a large n
    assert chosen("state h: real[n] = 0; h <- tanh(linear(h) + x)", n=4) == "newton"
    assert chosen("state h: real[2] = 0; h <- tanh(linear(h) + linear(x))") == "newton"


def test_names_of_strategies():
    known = ["step", "sequential", "scan", "chunkwise", "block_scan", "convolution", "newton"]
    assert [s.name for s in STRATEGIES] == known


def test_a_cell_without_states_has_an_empty_plan():
    found = analyse_recurrence(rnnc.spec.parse("cell C(n: dim) { input x: real[n]; output y: real[n] = x }").lower("C"))
    assert plan(found, strategy="scan").groups == ()


# ---------------------------------------------------------------- what is safe, and what would be legal

REMEDIES = {
    "gru": (
        "let z: real[n] = sigmoid(x + h); state h: real[n] = 0; h <- z * h + (1 - z) * x",
        "scan",
        "take `h` out of `z`: the update is then linear in `h` and runs by scan",
    ),
    "elman": (
        "param W: real[n, n]; state h: real[n] = 0; h <- tanh(W @ h + x)",
        "block_scan",
        "drop the nonlinearity of `tanh` in line 1: the update is then linear in `h` and runs by block scan",
    ),
    "dense": (
        "param W: real[n, n]; state h: real[n] = 0; h <- W @ h + x",
        "scan",
        "a diagonal transition of `h`, such as `diag(a)`, would scan",
    ),
    "normalised": ("state h: real[n] = 0; h <- l2norm(h + x)", "scan", ""),
}


@pytest.mark.parametrize("what", REMEDIES)
def test_what_would_make_a_strategy_legal(what):
    body, name, expected = REMEDIES[what]
    (group,) = plan(recurrence(body), {"n": 8}).groups
    option = next(o for o in group.options if o.name == name)
    assert not option.legal
    assert option.remedy == expected
    assert all(not o.remedy for o in group.options if o.legal)
    assert all(not o.safety for o in group.options if not o.legal)


def test_the_remedy_for_a_cell_of_two_states_names_the_one_that_enters():
    found = analyse_recurrence(rnnc.stdlib("lstm").lower("LSTM"))
    (group,) = plan(found).groups
    remedy = next(o for o in group.options if o.name == "scan").remedy
    assert remedy.startswith("take `h` out of ")
    assert {"`f`", "`i`", "`g`"} <= set(remedy.replace(",", " ").replace(":", " ").split())


KEYED = "{key}; state S: real[n, n] = 0; S <- S - {beta} * outer(k, S.T @ k) + outer(k, x)"


@pytest.mark.parametrize(
    ("key", "beta", "part"),
    [
        ("let k: unit[n] = l2norm(x)", "2 * sigmoid(sum(x))", "at most 2: safe in float32"),
        ("let k: unit[n] = l2norm(x)", "sigmoid(sum(x))", "at most 1: safe in float32"),
        ("let k: real[n] = x", "1", "no proven bound (unnormalised keys `x`"),
        ("let k: unit[n] = l2norm(x)", "3", "may grow with the chunk"),
        ("let k: real[n] = x", "(1 / (1 + dot(k, k)))", "at most 1: safe in float32"),
    ],
)
def test_the_inverse_of_a_chunk_is_safe_where_beta_k_squared_is_bounded(key, beta, part):
    (group,) = plan(recurrence(KEYED.format(key=key, beta=beta)), {"n": 8}).groups
    chunkwise = next(o for o in group.options if o.name == "chunkwise")
    assert part in chunkwise.safety


@pytest.mark.parametrize(
    ("gate", "part"),
    [
        ("0.5 + 0.5 * sigmoid(x)", "chunks of 126 steps in float32"),
        ("sigmoid(x)", "no lower bound above zero"),
        ("tanh(x)", "not known to be positive"),
    ],
)
def test_the_chunk_that_the_decay_makes_safe(gate, part):
    (group,) = plan(recurrence(f"state S: real[n, n] = 0; S <- diag({gate}) @ S + outer(x, x)"), {"n": 8}).groups
    assert part in next(o for o in group.options if o.name == "chunkwise").safety


def test_memory_is_counted():
    (group,) = plan(recurrence(CELLS["gated write"][0]), {"n": 8, "B": 2, "T": 100}).groups
    memory = {o.name: o.memory_number for o in group.options if o.legal}
    assert memory["step"] == 2 * 64 * 4
    assert memory["sequential"] == 100 * memory["step"]
    assert memory["chunkwise"] is not None
    (group,) = plan(recurrence(CELLS["gated write"][0])).groups
    assert next(o for o in group.options if o.name == "scan").memory == "8*B*T*n*n"


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_the_bound_of_the_inverse_holds_in_numbers(beta):
    """Entries of (I + tril(beta K K^T, -1))^-1 are at most beta for unit keys, and huge for long ones."""
    rng = np.random.default_rng(0)
    near = np.ones(4) + 0.1 * rng.normal(size=(64, 4))
    for keys in (rng.normal(size=(64, 4)), near):
        unit = keys / np.linalg.norm(keys, axis=1, keepdims=True)
        inverse = np.linalg.inv(np.eye(64) + np.tril(beta * unit @ unit.T, -1))
        assert np.abs(np.tril(inverse, -1)).max() <= beta * (1 + 1e-9)
    long = 3 * near
    assert np.abs(np.linalg.inv(np.eye(64) + np.tril(beta * long @ long.T, -1))).max() > 1e12

"""Strategies: what is legal for which form, what it costs, what is chosen, and how an override is refused."""

from __future__ import annotations

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
    "elman": ("state h: real[n] = 0; h <- tanh(linear(h) + x)", set()),
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
        assert (option.form is not None) == (option.legal and option.name not in ("step", "sequential"))


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


def test_names_of_strategies():
    assert [s.name for s in STRATEGIES] == ["step", "sequential", "scan", "chunkwise", "block_scan", "convolution"]


def test_a_cell_without_states_has_an_empty_plan():
    found = analyse_recurrence(rnnc.spec.parse("cell C(n: dim) { input x: real[n]; output y: real[n] = x }").lower("C"))
    assert plan(found, strategy="scan").groups == ()

"""Rewrites: each by text, and all of them against the original in values and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_cells import DIMS, cells, sample, values

from rnnc.ir.autodiff import backward
from rnnc.ir.domains.concrete import Concrete
from rnnc.ir.evaluate import evaluate
from rnnc.ir.graph import CellIR
from rnnc.ir.simplify import simplify
from rnnc.ir.text import parse_cell, print_cell
from rnnc.ir.verify import verify_cell


def cell_of(body: str, result: str) -> str:
    return f"""cell "C" {{
  dim n
  %0 "x" = input : real[n]
  %1 "A" = param : real[n, n]
  %2 "B" = param : real[n, n]
  %3 "h" = state : real[n]
  %4 = const {{value=0/1}} : real[n]
{body}
  input "x" %0
  param "A" %1 init default()
  param "B" %2 init default()
  state "h" %3 init %4 update %3
  output "y" {result}
}}"""


RULES = [
    ("one = const {value=1/1} : real | y = mul(x, one) : real[n]", "x"),
    ("zero = const {value=0/1} : real | y = add(zero, h) : real[n]", "h"),
    ("zero = const {value=0/1} : real | y = sub(x, zero) : real[n]", "x"),
    ("zero = const {value=0/1} : real | y = sub(zero, x) : real[n]", "neg(x)"),
    ("a = neg(x) : real[n] | y = neg(a) : real[n]", "x"),
    ("a = neg(x) : real[n] | y = sub(h, a) : real[n]", "add(h, x)"),
    ("a = neg(x) : real[n] | y = abs(a) : real[n]", "abs(x)"),
    ("a = exp(x) : real[n] | y = log(a) : real[n]", "x"),
    ("a = conj(x) : real[n] | y = conj(a) : real[n]", "x"),
    (
        "a = transpose(A) {perm=(1, 0)} : real[n, n] | "
        "b = transpose(a) {perm=(1, 0)} : real[n, n] | "
        'y = einsum(b, x) {spec="ij,j->i"} : real[n]',
        "einsum(A, x)",
    ),
    (
        "a = reshape(A) {shape=(<n*n>)} : real[n*n] | "
        "b = reshape(a) {shape=(<n>, <n>)} : real[n, n] | "
        'y = einsum(b, x) {spec="ij,j->i"} : real[n]',
        "einsum(A, x)",
    ),
    ('a = eye {n=<n>} : real[n, n] | y = einsum(a, x) {spec="ij,j->i"} : real[n]', "x"),
    (
        "a = const {value=1/2} : real | "
        "b = const {value=1/3} : real | "
        "c = add(a, b) : real | "
        "d = expand(c) {axes=(-1)} : real[1] | "
        "y = mul(x, d) : real[n]",
        "mul(x, 5/6)",
    ),
    (
        "a = const {value=2/1} : real | "
        "b = const {value=-3/1} : real | "
        "c = pow(a, b) : real | "
        "d = expand(c) {axes=(-1)} : real[1] | "
        "y = mul(x, d) : real[n]",
        "mul(x, 1/8)",
    ),
    ("y = max(x, x) : real[n]", "x"),
    (
        'a = einsum(A, B) {spec="ij,jk->ik"} : real[n, n] | y = einsum(a, h) {spec="ij,j->i"} : real[n]',
        "einsum(A, einsum(B, h))",
    ),
    (
        'a = einsum(x, x) {spec="i,j->ij"} : real[n, n] | y = einsum(a, h) {spec="ij,j->i"} : real[n]',
        "mul(x, expand(einsum(x, h)))",
    ),
]


def expression(cell: CellIR, node: int) -> str:
    n = cell.nodes[node]
    if n.op == "const":
        return str(n.attr("value"))
    return f"{n.op}({', '.join(expression(cell, a) for a in n.args)})" if n.args else n.name


def build(lines: str) -> CellIR:
    """Numbers the named lines of a rule's example."""
    names = {"x": "%0", "A": "%1", "B": "%2", "h": "%3"}
    body = []
    for k, line in enumerate(lines.split(" | "), start=5):
        name, right = line.split(" = ", 1)
        head, _, tail = right.partition("(") if "(" in right.split(" ")[0] else (right, "", "")
        if tail:
            inner, close, rest = tail.partition(")")
            right = f"{head}({', '.join(names[a] for a in inner.split(', '))}{close}{rest}"
        names[name] = f"%{k}"
        body.append(f"  %{k} = {right}")
    return verify_cell(parse_cell(cell_of("\n".join(body), names["y"])))


@pytest.mark.parametrize(("before", "after"), RULES, ids=[b for b, _ in RULES])
def test_rule(before: str, after: str) -> None:
    cell = verify_cell(simplify(build(before)))
    assert expression(cell, cell.outputs[0].node) == after


def test_a_shared_product_stays() -> None:
    both = (
        'a = einsum(A, B) {spec="ij,jk->ik"} : real[n, n] | '
        'b = einsum(a, h) {spec="ij,j->i"} : real[n] | '
        'c = einsum(a, x) {spec="ij,j->i"} : real[n] | '
        "y = add(b, c) : real[n]"
    )
    cell = simplify(build(both))
    assert expression(cell, cell.outputs[0].node) == "add(einsum(einsum(A, B), h), einsum(einsum(A, B), x))"


def results(cell: CellIR, given: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Values of updates and outputs, and the gradients of a fixed loss in them, by leaf name."""
    leaves = {e.name: e.node for t in (cell.inputs, cell.params, cell.states) for e in t}
    at = {leaves[k]: v for k, v in given.items()}
    roots = [o.node for o in cell.outputs] + [s.update for s in cell.states]
    found = values(cell, at, roots)
    rule = backward(cell, roots, leaves.values())
    with np.errstate(all="ignore"):
        seeds = {
            rule.seeds[r]: np.cos(np.arange(found[r].size)).reshape(found[r].shape) * roots.count(r) for r in set(roots)
        }
        grads = evaluate(rule.cell, Concrete(rule.cell, DIMS, at | seeds), rule.grads.values())
    by_name = {k: grads[rule.grads[n]] if n in rule.grads else 0 * given[k] for k, n in leaves.items()}
    return [found[r] for r in roots], {k: np.broadcast_to(g, given[k].shape) for k, g in by_name.items()}


@given(cells(most=30), st.integers(0, 2**16))
@settings(max_examples=120)
def test_simplified_is_the_same_function(cell: CellIR, seed: int) -> None:
    small = verify_cell(simplify(cell))
    assert parse_cell(print_cell(small)) == small
    by_node = sample(cell, np.random.default_rng(seed))
    given_ = {e.name: by_node[e.node] for t in (cell.inputs, cell.params, cell.states) for e in t}
    before, d_before = results(cell, given_)
    after, d_after = results(small, given_)
    for x, y in zip(before, after):
        if np.isfinite(x).all():
            np.testing.assert_allclose(y, x, rtol=1e-9, atol=1e-9)
    if all(np.isfinite(x).all() for x in before):
        for k, g in d_before.items():
            if np.isfinite(g).all():
                np.testing.assert_allclose(d_after[k], g, rtol=1e-7, atol=1e-7 * (1 + np.abs(g).max()))


@given(cells(most=30))
@settings(max_examples=60)
def test_simplify_ends_and_is_idempotent(cell: CellIR) -> None:
    small = simplify(cell)
    assert simplify(small) == small
    assert len(small.nodes) <= len(cell.nodes) + 4

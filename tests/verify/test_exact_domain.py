"""The exact domain agrees with the concrete one on every op, at arguments where the op is exact."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from op_examples import EXAMPLES, Example

from rnnc.analysis.ranges import nonnegative_nodes
from rnnc.exact import NotExact, is_limit, omega, pi, to_float
from rnnc.exact.functions import power
from rnnc.ir.domains.concrete import Concrete
from rnnc.ir.domains.exact import RULES, VIEWS, ExactCell, ExactDomain, exact_array
from rnnc.ir.evaluate import evaluate
from rnnc.ir.ops import OPS
from rnnc.spec import parse

PLAIN = [e for e in EXAMPLES if OPS[e.op].category not in ("time", "model")]
AT_ZERO = {
    "exp",
    "expm1",
    "tanh",
    "erf",
    "gelu",
    "silu",
    "sigmoid",
    "sin",
    "cos",
    "expm",
    "softmax",
    "softplus",
    "logsigmoid",
}
AT_ANGLES = {"rotation_blocks": (0,), "polar": (1,)}


def arguments(e: Example) -> dict[str, Any]:
    """Quarters, zeros where only those are exact, multiples of pi / 3 for angles."""
    rng = np.random.default_rng(3)
    found = {}
    for name, value in e.sample(rng, ()).items():
        value = np.asarray(value)
        if value.dtype.kind not in "fc":
            found[name] = value
            continue
        near = value * 0 if e.op in AT_ZERO else np.round(value * 4) / 4
        if e.op in ("log", "sqrt", "logaddexp", "pow"):
            near = np.abs(np.round(value)) + 1 if e.op != "logaddexp" else value * 0
        exact = exact_array(near)
        if int(name[1:]) in AT_ANGLES.get(e.op, ()):
            exact = np.asarray(exact_array(np.round(value).astype(int)) * pi / 3, dtype=object)
        found[name] = exact
    return found


def floats(array: Any) -> Any:
    return np.vectorize(to_float, otypes=[complex])(array) if array.dtype == object else array


@pytest.mark.parametrize("e", PLAIN, ids=str)
def test_agrees_with_the_concrete_domain(e: Example) -> None:
    given = arguments(e)
    leaf = {i.node: i.name for i in (*e.cell.inputs, *e.cell.params)}
    exact = {node: given[name] for node, name in leaf.items()}
    types = {node: e.cell.nodes[node].type.dtype for node in leaf}
    concrete = {n: floats(v) if types[n] == "complex" else np.real(floats(v)) for n, v in exact.items()}
    concrete = {n: v.astype(float) if types[n] == "real" else v for n, v in concrete.items()}
    want = evaluate(e.cell, Concrete(e.cell, e.dims, concrete), [e.node])[e.node]
    got = evaluate(e.cell, ExactDomain(e.cell, e.dims, exact), [e.node])[e.node]
    assert got.shape == np.shape(want)
    np.testing.assert_allclose(floats(got), want, rtol=1e-9, atol=1e-9)


def test_every_plain_op_has_a_rule_or_is_refused() -> None:
    for e in PLAIN:
        assert e.op in RULES or e.op in VIEWS or e.op in ("and", "or", "not"), e.op


def test_the_refusal_names_the_op() -> None:
    e = next(e for e in PLAIN if e.op == "sigmoid")
    node = e.cell.inputs[0].node
    shape = np.shape(arguments(e)["x0"])
    with pytest.raises(NotExact, match="sigmoid is not exact"):
        evaluate(e.cell, ExactDomain(e.cell, e.dims, {node: exact_array(np.full(shape, 2))}), [e.node])


def root_of(text: str) -> Any:
    """The output of a cell without states at x = omega, exactly."""
    cell = parse(f"cell C() {{ input x: real; output y: real = {text} }}").lower("C")
    machine = ExactCell(cell, {}, {}, nonnegative_nodes)
    return machine.outputs({"x": omega}, {})["y"][()]


def test_roots_of_what_vanishes_from_an_unknown_side() -> None:
    """sigmoid(x) - 1 is negative at every finite x: its root is no number, though both go to 0."""
    assert is_limit(root_of("sqrt(1 - sigmoid(x)^2)"))
    assert is_limit(root_of("sigmoid(-x)^(1/16)"))
    assert is_limit(root_of("(sigmoid(x) - 1)^2"))
    with pytest.raises(NotExact, match="may be negative"):
        root_of("sqrt(sigmoid(x) - 1)")
    with pytest.raises(NotExact, match="may be negative"):
        root_of("(sigmoid(x) - 1)^(1/3)")


def test_huge_powers_are_refused_at_once() -> None:
    with pytest.raises(NotExact, match="power"):
        power(Fraction(3, 2), Fraction(10**9))
    assert power(Fraction(-1), Fraction(10**9 + 1)) == -1

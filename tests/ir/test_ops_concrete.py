"""Every op's value: it has the type the shape rule says, with any axes in front, and agrees with a second
implementation.
"""

from __future__ import annotations

import numpy as np
import pytest
from op_examples import EXAMPLES, LEAVES, Example

from rnnc.ir.domains.concrete import Concrete, resolve
from rnnc.ir.evaluate import evaluate
from rnnc.ir.ops import OPS
from rnnc.ir.oracle import DTYPES, init_params, run

PLAIN = [e for e in EXAMPLES if OPS[e.op].category not in ("time", "model")]
LEADS = [(), (2,), (2, 5)]


def test_every_op_has_an_example() -> None:
    assert {e.op for e in EXAMPLES} | LEAVES == OPS.keys()


def test_every_op_has_a_value_or_is_given_or_unfolds() -> None:
    without = {name for name, op in OPS.items() if op.value is None}
    assert without == LEAVES | {name for name, op in OPS.items() if op.category in ("time", "model")}


def value_at(e: Example, arrays: dict[str, np.ndarray]) -> np.ndarray:
    leaves = (*e.cell.inputs, *e.cell.params)
    domain = Concrete(e.cell, e.dims, {leaf.node: arrays[leaf.name] for leaf in leaves})
    return evaluate(e.cell, domain)[e.node]


@pytest.mark.parametrize("lead", LEADS, ids=str)
@pytest.mark.parametrize("e", PLAIN, ids=str)
def test_value_has_the_inferred_type(e: Example, lead: tuple[int, ...]) -> None:
    value = value_at(e, e.sample(np.random.default_rng(0), lead))
    t = e.cell.nodes[e.node].type
    varies = bool(e.cell.inputs)
    assert value.shape == (lead if varies else ()) + resolve((*t.per, *t.shape), e.dims)
    assert value.dtype == np.dtype(DTYPES[t.dtype])
    assert value.dtype.kind not in "fc" or np.isfinite(value).all()


@pytest.mark.parametrize("e", [e for e in PLAIN if e.cell.inputs], ids=str)
def test_a_sequence_is_its_steps(e: Example) -> None:
    """[B, T, ...] at once gives the same as each [B, ...]."""
    arrays = e.sample(np.random.default_rng(1), (2, 3))
    whole = value_at(e, arrays)
    varying = {i.name for i in e.cell.inputs}
    for t in range(3):
        step = value_at(e, {name: x[:, t] if name in varying else x for name, x in arrays.items()})
        np.testing.assert_allclose(whole[:, t], step, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("e", [e for e in EXAMPLES if OPS[e.op].category in ("time", "model")], ids=str)
def test_over_time_in_pieces_is_the_whole(e: Example) -> None:
    """Running on from a returned state gives what one run gives; shapes of the state are those of the layout."""
    rng = np.random.default_rng(2)
    arrays = e.sample(rng, (2, 6))
    params = {p.name: arrays[p.name] for p in e.cell.params} | {
        k: v for k, v in init_params(e.cell, e.dims, rng).items() if k not in arrays
    }
    inputs = {i.name: arrays[i.name] for i in e.cell.inputs}
    whole, final = run(e.cell, e.dims, params, inputs)
    first, middle = run(e.cell, e.dims, params, {k: x[:, :2] for k, x in inputs.items()})
    second, last = run(e.cell, e.dims, params, {k: x[:, 2:] for k, x in inputs.items()}, middle)
    np.testing.assert_allclose(np.concatenate([first["y"], second["y"]], axis=1), whole["y"], rtol=1e-12)
    assert last.keys() == final.keys()
    for key in final:
        np.testing.assert_allclose(last[key], final[key], rtol=1e-12)


def test_delay_and_conv_by_hand() -> None:
    by_op = {(e.op, len(e.args)): e for e in EXAMPLES}
    rng = np.random.default_rng(3)
    delay = by_op["delay", 2]
    a = delay.sample(rng, (2, 7))
    y, state = run(delay.cell, delay.dims, {"x1": a["x1"]}, {"x0": a["x0"]})
    np.testing.assert_array_equal(y["y"][:, 3:], a["x0"][:, :-3])
    np.testing.assert_array_equal(y["y"][:, :3], np.broadcast_to(a["x1"], (2, 3, 2, 3)))
    np.testing.assert_array_equal(state["d"], a["x0"][:, -3:])
    conv = by_op["conv", 3]
    a = conv.sample(rng, (2, 7))
    y, state = run(conv.cell, conv.dims, {"x1": a["x1"], "x2": a["x2"]}, {"x0": a["x0"]})
    padded = np.concatenate([np.zeros((2, 3, 3)), a["x0"]], axis=1)
    expect = a["x2"] + sum(a["x1"][:, j] * padded[:, j : j + 7] for j in range(4))
    np.testing.assert_allclose(y["y"], expect, rtol=1e-12)
    np.testing.assert_array_equal(state["c"], a["x0"][:, -3:])


def test_attention_by_hand() -> None:
    e = next(e for e in EXAMPLES if e.op == "attention")
    a = e.sample(np.random.default_rng(4), (2, 5))
    y, _ = run(e.cell, e.dims, {}, a)
    scores = np.einsum("bthd,bshd->bhts", a["x0"], a["x1"]) / np.sqrt(3)
    scores = np.where(np.tril(np.ones((5, 5), dtype=bool)), scores, -np.inf)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(y["y"], np.einsum("bhts,bshd->bthd", weights, a["x2"]), rtol=1e-12)


@pytest.mark.parametrize(
    ("op", "x", "expect"),
    [
        ("logsigmoid", -800.0, -800.0),
        ("logsigmoid", 40.0, -np.exp(-40.0)),
        ("softplus", 800.0, 800.0),
        ("softplus", -40.0, np.exp(-40.0)),
        ("sigmoid", -40.0, np.exp(-40.0)),
        ("sigmoid", 800.0, 1.0),
        ("gelu", -10.0, -7.61985302416e-23),
        ("silu", -800.0, 0.0),
        ("step", 0.0, 0.0),
        ("sign", 0.0, 0.0),
    ],
)
def test_careful_values(op: str, x: float, expect: float) -> None:
    e = next(e for e in EXAMPLES if e.op == op)
    with np.errstate(over="raise", invalid="raise"):
        value = value_at(e, {"x0": np.full(3, x)})
    np.testing.assert_allclose(value, expect, rtol=1e-9, atol=0)

"""How a cell meets a task: roles, sizes, and the errors, on real specs."""

from __future__ import annotations

import pytest

import rnnc
from rnnc.diagnostics import SpecError
from rnnc.training.fit import fit
from rnnc.training.tasks import make_task

LAYER = "cell A(d: dim, n: dim) {\n input x: real[d]\n output y: real[n] = linear(x)\n}\n"
TOKENS = (
    "model M(vocab: dim, d: dim = 8) {\n input t: token[vocab]\n let e: real[d] = embedding(t, d)\n"
    " output y: real[vocab] = linear(e)\n}\n"
)
TWO = "cell B(d: dim) {\n input x: real[d]\n input z: real[d]\n output y: real[d] = x + z\n}\n"
HEADS = (
    "cell C(d: dim, heads: dim = 2) {\n per heads {\n input x: real[d]\n let y: real[d] = linear(x)\n }\n"
    " output o: real[heads*d] = flatten(y)\n}\n"
)
COMPLEX = "cell D(d: dim) {\n input x: real[d]\n output y: complex[d] = complex(x, x)\n}\n"
SCALAR = "cell E() {\n input x: real\n state s: real = 0\n s <- s + x\n output y: real = s'\n}\n"


def test_the_input_takes_the_width_and_the_user_may_say_otherwise() -> None:
    cell = rnnc.parse(LAYER).lower("A")
    assert fit(cell, make_task("parity"), {"n": 5}, 32).dims == {"d": 32, "n": 5}
    found = fit(cell, make_task("parity"), {"n": 5, "d": 7}, 32)
    assert (found.role, found.input_shape, found.output_shape) == ("layer", (7,), (5,))


def test_a_model_takes_the_tasks_vocabulary() -> None:
    found = fit(rnnc.parse(TOKENS).lower("M"), make_task("s3"), {}, 64)
    assert (found.role, found.dims) == ("model", {"vocab": 6, "d": 8})
    recall = fit(rnnc.parse(TOKENS).lower("M"), make_task("recall"), {}, 64)
    assert recall.dims["vocab"] == 128


def test_per_blocks_and_scalars() -> None:
    found = fit(rnnc.parse(HEADS).lower("C"), make_task("parity"), {"d": 3}, 16)
    assert (found.input_shape, found.output_shape) == ((2, 3), (6,))
    found = fit(rnnc.parse(SCALAR).lower("E"), make_task("parity"), {}, 16)
    assert (found.input_shape, found.output_shape) == ((), ())


@pytest.mark.parametrize(
    ("text", "task", "dims", "code", "message"),
    [
        (TWO, "parity", {}, "E0702", "has 2 inputs (`x`, `z`)"),
        (COMPLEX, "parity", {}, "E0702", "an output of type `complex[d]`"),
        (TOKENS, "digits", {}, "E0702", "reads tokens, the task digits gives 1 real number"),
        (TOKENS, "s3", {"vocab": 4}, "E0702", "reads 4 tokens and gives 4 scores"),
        (LAYER, "parity", {}, "E0703", "needs a value for `n`"),
        (LAYER, "parity", {"n": 4, "k": 4}, "E0703", "has no dim `k`; its dims are: d, n"),
    ],
)
def test_says_why_a_cell_does_not_fit(text: str, task: str, dims: dict[str, int], code: str, message: str) -> None:
    spec = rnnc.parse(text)
    with pytest.raises(SpecError) as caught:
        fit(spec.lower(spec.cells[0]), make_task(task), dims, 16)
    (found,) = caught.value.diagnostics
    assert found.code == code
    assert message in found.message

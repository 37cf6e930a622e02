"""Every cell of the standard library, by every legal strategy, is what the float64 oracle says."""

from __future__ import annotations

from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_support as support

import rnnc
import rnnc.spec
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.ir.graph import CellIR
from rnnc.ir.oracle import init_params
from rnnc.plan.choose import plan

FOLDER = Path(rnnc.spec.stdlib("deltanet").file).parent
LENGTHS = (1, 2, 63, 75)


@cache
def spec_of(file: str) -> Any:
    return rnnc.spec.load(FOLDER / file)


def cells() -> list[tuple[str, str]]:
    """The cells of the library that are no models."""
    files = [p.name for p in sorted(FOLDER.glob("*.rnn"))]
    return [(f, c) for f in files for c in spec_of(f).cells if c not in spec_of(f).models]


@cache
def lowered(file: str, cell: str) -> CellIR:
    return spec_of(file).lower(cell)  # type: ignore[no-any-return]


def strategies(file: str, cell: str) -> list[str]:
    """Names of all strategies that some group of the cell can run by; `step` is the same loop as `sequential`."""
    found = plan(analyse_recurrence(lowered(file, cell)))
    return sorted({o.name for g in found.groups for o in g.options if o.legal} - {"step"})


@cache
def compiled(file: str, cell: str, strategy: str) -> Any:
    return rnnc.compile(spec_of(file), cell, strategy=strategy)


@lru_cache(maxsize=8)
def case(file: str, cell: str, steps: int) -> support.Case:
    """Random inputs, and a random initial state of the size the state has after some steps."""
    ir = lowered(file, cell)
    dims = support.small_dims(ir)
    rng = np.random.default_rng(steps)
    params = init_params(ir, dims, rng)
    inputs = support.random_inputs(ir, dims, rng, batch=2, steps=steps)
    first = support.Case(ir, dims, params, support.random_inputs(ir, dims, rng, batch=2, steps=3), differentiable=False)
    state = {k: v + 0.1 * rng.normal(size=v.shape) for k, v in first.final.items()}
    return support.Case(ir, dims, params, inputs, state)


# Newton's method may end in single steps, says so, and has the same numbers.
pytestmark = pytest.mark.filterwarnings("ignore::rnnc.runtime.NewtonWarning")

PAIRS = [(f, c, s) for f, c in cells() for s in strategies(f, c)]


@pytest.mark.parametrize(("file", "cell", "strategy"), PAIRS)
@pytest.mark.parametrize("steps", LENGTHS)
def test_is_the_oracle(file: str, cell: str, strategy: str, steps: int) -> None:
    layer = compiled(file, cell, strategy)
    case(file, cell, steps).check(layer, step=steps == 63 and strategy == strategies(file, cell)[0])
    case(file, cell, steps).check(layer, dtype=torch.float32, tolerance=1e-4, step=False)


@pytest.mark.parametrize(("file", "cell"), cells())
def test_long_sequences(file: str, cell: str) -> None:
    for strategy in strategies(file, cell):
        layer = compiled(file, cell, strategy)
        case(file, cell, 500).check(layer, step=False)
        case(file, cell, 500).check(layer, dtype=torch.float32, tolerance=1e-4, step=False)


@pytest.mark.parametrize(("file", "cell", "strategy"), PAIRS)
def test_reversed_and_packed_sequences(file: str, cell: str, strategy: str) -> None:
    """`reverse` is a run on the reversed sequence; `cu_seqlens` is a run on each sequence alone."""
    ir = lowered(file, cell)
    dims = support.small_dims(ir)
    rng = np.random.default_rng(1)
    layer = compiled(file, cell, strategy)(**dims, dtype=torch.float64)
    lengths = [3, 1, 4]
    xs = [
        support.tensor(x, torch.float64)
        for x in support.random_inputs(ir, dims, rng, batch=1, steps=sum(lengths)).values()
    ]
    y, final = layer(*xs, reverse=True)
    turned, last = layer(*(x.flip(1) for x in xs))
    for got, want in zip(_tuple(y), _tuple(turned)):
        support.assert_close(got, want.flip(1))
    for key, value in support.flat(last).items():
        support.assert_close(support.flat(final)[key], value)
    ends = np.cumsum([0, *lengths]).tolist()
    for reverse in (False, True):
        y, final = layer(*xs, cu_seqlens=torch.tensor(ends), reverse=reverse)
        for i, (start, end) in enumerate(pairwise(ends)):
            pieces = [x[:, start:end] for x in xs]
            alone, last = layer(*(p.flip(1) if reverse else p for p in pieces))
            for got, want in zip(_tuple(y), _tuple(alone)):
                support.assert_close(got[:, start:end], want.flip(1) if reverse else want)
            for key, want in support.flat(last).items():
                support.assert_close(support.flat(final)[key][i : i + 1], want)


@pytest.mark.parametrize(("file", "cell", "strategy"), PAIRS)
def test_a_sequence_without_a_step(file: str, cell: str, strategy: str) -> None:
    """Empty outputs, and the state as it was; packed sequences may be empty too."""
    ir = lowered(file, cell)
    dims = support.small_dims(ir)
    layer = compiled(file, cell, strategy)(**dims)
    inputs = support.random_inputs(ir, dims, np.random.default_rng(2), batch=2, steps=3)
    xs = [support.tensor(x, torch.float32) for x in inputs.values()]
    y, state = layer(*xs)
    for options in ({}, {"reverse": True}):
        empty, after = layer(*(x[:, :0] for x in xs), state=state, **options)
        for got, like in zip(_tuple(empty), _tuple(y)):
            assert got.shape == (2, 0, *like.shape[2:])
            assert got.dtype == like.dtype
        for key, value in support.flat(state).items():
            assert torch.equal(support.flat(after)[key], value)
    _, fresh = layer(*(x[:, :0] for x in xs))
    for key, value in support.flat(layer.initial_state(2) if ir.params else fresh).items():
        assert torch.equal(support.flat(fresh)[key], value)


@pytest.mark.parametrize(
    ("file", "cell"), [("lru.rnn", "LRU"), ("s4d.rnn", "S4D"), ("s5.rnn", "S5"), ("hgrn.rnn", "HGRNComplex")]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_with_complex_states(file: str, cell: str, dtype: torch.dtype) -> None:
    """Outputs are of half precision, states complex64; step by step or all at once."""
    ir = lowered(file, cell)
    dims = support.small_dims(ir)
    torch.manual_seed(0)
    exact = rnnc.compile(spec_of(file), cell)(**dims)
    low = rnnc.compile(spec_of(file), cell)(**dims)
    low.load_state_dict(exact.state_dict())
    low.to(dtype)
    inputs = support.random_inputs(ir, dims, np.random.default_rng(3), batch=2, steps=6)
    x = support.tensor(inputs["x"], torch.float32)
    y, state = low(x.to(dtype))
    assert y.dtype == dtype
    assert all(s.dtype == torch.complex64 for s in state.values())
    torch.testing.assert_close(y.float(), exact(x)[0], rtol=0.05, atol=0.05)
    last, stepped = low.step(x[:, 0].to(dtype))
    assert last.dtype == dtype
    assert {k: v.dtype for k, v in stepped.items()} == {k: v.dtype for k, v in state.items()}


def _tuple(y: Any) -> tuple[torch.Tensor, ...]:
    return (y,) if isinstance(y, torch.Tensor) else y

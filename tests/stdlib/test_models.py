"""Models: against the oracle, whole sequences and in pieces; every cell of the library as a tagger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stdlib_specs as specs
import torch

import rnnc
from rnnc.ir.oracle import init_params
from rnnc.stdlib import FOLDER, tagger_source

HERE = Path(__file__).parent


MODELS = FOLDER / "std" / "models.rnn"
CASES = [
    (MODELS, "CharLM", {"vocab": 7, "d": 8}, True),
    (MODELS, "Tagger", {"vocab": 7, "classes": 3, "d": 4}, True),
    (MODELS, "GriffinLM", {"vocab": 7, "d": 8}, False),  # no gradients: the oracle has none for attention
    (HERE / "odd" / "hybrid.rnn", "Hybrid", {"vocab": 7, "d": 4}, False),
]


@pytest.mark.parametrize(
    ("path", "name", "sizes", "differentiable"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_model_agrees_with_the_oracle(path: Path, name: str, sizes: dict[str, int], differentiable: bool) -> None:
    spec = rnnc.load(path)
    model = spec.lower(name)
    dims = dict(model.dim_values(sizes))
    rng = np.random.default_rng(1)
    params = {k: v + 0.1 * rng.normal(size=v.shape) for k, v in init_params(model, dims, rng).items()}
    tokens = {"t": rng.integers(0, 7, (2, 13))}
    case = specs.support.Case(model, dims, params, tokens, differentiable=differentiable)
    case.check(rnnc.compile(spec, name), tolerance=1e-9)


STACKABLE = """
    RNN LSTM GRU MinGRU MinLSTM LRU S4D S5 RetNet GLA Mamba Mamba2 Hawk HGRN HGRNComplex HGRN2
    DeltaNet GatedDeltaNet DeltaProduct mLSTM sLSTM
"""


@pytest.mark.parametrize("cell", STACKABLE.split())
def test_a_tagger_of_any_cell_learns_and_streams(cell: str) -> None:
    torch.manual_seed(0)
    model: Any = rnnc.compile(rnnc.parse(tagger_source(cell)), "Tagger")(vocab=5, classes=3, d=16, layers=1).double()
    tokens, labels = torch.randint(0, 5, (2, 21)), torch.randint(0, 3, (2, 21))
    whole, _ = model(tokens)
    first, state = model(tokens[:, :8])
    second, _ = model(tokens[:, 8:], state=state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=0, atol=1e-12)
    loss = torch.nn.functional.cross_entropy(whole.flatten(0, 1), labels.flatten())
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        parameter.data -= 0.05 * parameter.grad
    after = torch.nn.functional.cross_entropy(model(tokens)[0].flatten(0, 1), labels.flatten())
    assert after < loss

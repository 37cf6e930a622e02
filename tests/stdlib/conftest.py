"""What the tests of the standard library share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rnnc.stdlib import entries

FILE_OF = {cell: entry.name for entry in entries() for cell in entry.cells}


def relative_error(got: Tensor, expected: Tensor) -> float:
    """||a - b|| / ||b|| in float64."""
    got, expected = got.detach().to(torch.complex128), expected.detach().to(torch.complex128)
    return float((got - expected).norm() / expected.norm())


@pytest.fixture
def agree() -> Callable[..., None]:
    """agree(got, expected, bound, what): same shape, finite, nonzero, and close in relative norm."""

    def check(got: Tensor | None, expected: Tensor | None, bound: float, what: str = "") -> None:
        assert got is not None, what
        assert expected is not None, what
        assert got.shape == expected.shape, f"{what}: {tuple(got.shape)} is not {tuple(expected.shape)}"
        assert torch.isfinite(expected).all(), what
        assert expected.norm() > 0, f"{what}: the expected value is zero, so it says nothing"
        error = relative_error(got, expected)
        assert error < bound, f"{what}: relative error {error:.2e}"

    return check


@pytest.fixture
def stdlib_layer() -> Callable[..., torch.nn.Module]:
    """stdlib_layer(cell, **sizes): a module of a standard-library cell; dims and other hyperparameters together."""
    import rnnc

    def make(cell: str, **sizes: Any) -> torch.nn.Module:
        spec = rnnc.stdlib(FILE_OF[cell])
        dims = {p.name for p in spec.lower(cell).dims}
        hyper = {k: v for k, v in sizes.items() if k not in dims}
        module: torch.nn.Module = rnnc.compile(spec, cell, **hyper)(**{k: v for k, v in sizes.items() if k in dims})
        return module

    return make


@pytest.fixture
def conform(agree: Callable[..., None]) -> Callable[..., None]:
    """conform(layer, peer, weights, inputs, run_peer, bound): outputs and gradients agree, weights copied over.

    `weights(named)` maps the peer's tensors by name to ours by name; it is applied to the values and to the gradients,
    so it only slices and reshapes.
    """

    def check(
        layer: torch.nn.Module,
        peer: torch.nn.Module,
        weights: Callable[[dict[str, Tensor]], dict[str, Tensor]],
        inputs: tuple[Tensor, ...],
        run_peer: Callable[..., Tensor],
        bound: float = 1e-5,
    ) -> None:
        named = dict(peer.named_parameters())
        values = weights({k: v.detach() for k, v in named.items()})
        missing = {k for k, _ in layer.named_parameters()} - values.keys()
        assert not missing, f"no weight for {missing}"
        layer.load_state_dict({k: v.clone() for k, v in values.items()})
        ours = tuple(x.clone().requires_grad_() for x in inputs)
        theirs = tuple(x.clone().requires_grad_() for x in inputs)
        y, _ = layer(*ours)
        expected = run_peer(*theirs)
        torch.manual_seed(11)
        dy = torch.randn_like(expected)
        y.backward(dy.reshape(y.shape))
        expected.backward(dy)
        agree(y.reshape(expected.shape), expected, bound, "output")
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            agree(a.grad, b.grad, bound, f"gradient of input {i}")
        gradients = weights({k: v.grad for k, v in named.items() if v.grad is not None})
        for name, value in layer.named_parameters():
            agree(value.grad, gradients[name], bound, f"gradient of {name}")

    return check

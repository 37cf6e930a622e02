"""mLSTM and sLSTM against the `xlstm` package, in float64, weights copied over."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.conformance

BATCH, TIME, HEADS, K, V = 2, 75, 2, 4, 4


@pytest.fixture(autouse=True, scope="module")
def _quiet_import() -> None:
    """Their import warns about missing accelerators, which is not what is tested here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("xlstm")
        from xlstm.blocks.mlstm import backends  # noqa: F401
        from xlstm.blocks.slstm import cell  # noqa: F401


def mlstm_inputs() -> list[torch.Tensor]:
    """q, k, v [batch, time, heads, K] and the pre-activations i, f [batch, time, heads]."""
    torch.manual_seed(8)
    q, k, v = (torch.randn(BATCH, TIME, HEADS, K, dtype=torch.float64) for _ in range(3))
    i, f = (2 * torch.randn(BATCH, TIME, HEADS, dtype=torch.float64) for _ in range(2))
    return [q, k, v, i, f + 2]


def leaves(values: list[torch.Tensor]) -> list[torch.Tensor]:
    return [x.clone().requires_grad_() for x in values]


def test_mlstm_parallel_form(stdlib_layer: Any, agree: Any) -> None:
    from xlstm.blocks.mlstm.backends import parallel_stabilized_simple

    ours, theirs = leaves(mlstm_inputs()), leaves(mlstm_inputs())
    op = stdlib_layer("mLSTMOp", heads=HEADS, dk=K, dv=V, eps=0).double()
    h, _ = op(*ours)
    q, k, v = (x.transpose(1, 2) for x in theirs[:3])
    i, f = (x.transpose(1, 2)[..., None] for x in theirs[3:])
    expected = parallel_stabilized_simple(q, k, v, i, f, eps=0.0).transpose(1, 2)
    dh = torch.randn_like(h)
    h.backward(dh)
    expected.backward(dh)
    agree(h, expected, 1e-10, "output")
    for name, a, b in zip("qkvif", ours, theirs, strict=True):
        agree(a.grad, b.grad, 1e-10, f"gradient of {name}")


def test_mlstm_recurrent_form_and_its_states(stdlib_layer: Any, agree: Any) -> None:
    from xlstm.blocks.mlstm.backends import recurrent_step_stabilized_simple

    values = mlstm_inputs()
    op = stdlib_layer("mLSTMOp", heads=HEADS, dk=K, dv=V).double()
    h, state = op(*values)
    c = torch.zeros(BATCH, HEADS, K, V, dtype=torch.float64)
    n, m = torch.zeros(BATCH, HEADS, K, 1, dtype=torch.float64), torch.zeros(BATCH, HEADS, 1, 1, dtype=torch.float64)
    out = []
    for t in range(TIME):
        q, k, v = (x[:, t, :, None].clone() for x in values[:3])  # they squeeze their arguments in place
        i, f = (x[:, t, :, None, None] for x in values[3:])
        h_t, (c, n, m) = recurrent_step_stabilized_simple(c, n, m, q, k, v, i, f)
        out.append(h_t[:, :, 0])
    agree(h, torch.stack(out, 1), 1e-10, "output")
    agree(state["C"], c, 1e-10, "C")
    agree(state["n"], n[..., 0], 1e-10, "n")
    agree(state["m"], m[..., 0, 0], 1e-10, "m")


def test_slstm(stdlib_layer: Any, agree: Any) -> None:
    from xlstm.blocks.slstm.src.vanilla import slstm_forward, slstm_pointwise_function_registry

    d, dh = 5, 3
    torch.manual_seed(9)
    layer = stdlib_layer("sLSTM", d=d, heads=HEADS, dh=dh).double()
    x = torch.randn(BATCH, TIME, d, dtype=torch.float64)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, state = layer(ours)

    copies = {name: p.detach().clone().requires_grad_() for name, p in layer.named_parameters()}
    inner = [f"{gate}_linear" for gate in "ifzo"]
    weight, bias = (torch.stack([copies[f"{name}_{part}"] for name in inner]) for part in ("weight", "bias"))
    drive = torch.einsum("ghoi,bti->tbgho", weight, theirs) + bias  # their layout: time first, then gate, head, feature
    kernel = torch.cat([copies[f"{name}_2_weight"] for name in inner], 1)  # [heads, 4 dh, dh]
    start = torch.zeros(4, BATCH, HEADS * dh, dtype=torch.float64)
    no_bias = torch.zeros(4 * HEADS * dh, dtype=torch.float64)
    pointwise = slstm_pointwise_function_registry["slstm"]
    states, last, _ = slstm_forward(drive.flatten(2), start, kernel, no_bias, pointwise)
    expected = states[0, 1:].transpose(0, 1)

    dy = torch.randn_like(expected)
    y.backward(dy)
    expected.backward(dy)
    agree(y, expected, 1e-10, "output")
    agree((state["c"] / state["n"]).flatten(1), last[1] / last[2], 1e-10, "c / n")  # c and n themselves carry exp(-m)
    agree(ours.grad, theirs.grad, 1e-10, "gradient of x")
    for name, value in layer.named_parameters():
        if name == "i_linear_bias":  # h = o c / n does not change when all input gates grow by one factor
            assert value.grad.abs().max() < 1e-12
            assert copies[name].grad.abs().max() < 1e-12
        else:
            agree(value.grad, copies[name].grad, 1e-10, f"gradient of {name}")

"""The classical cells against torch.nn, in float64, weights copied over."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.conformance

BATCH, TIME, D, N = 3, 75, 5, 6


def by_gate(named: dict[str, Tensor], gates: str) -> dict[str, Tensor]:
    """torch.nn stacks the gates' rows; ours have one map of x and one of h each."""
    blocks = (named[f"{kind}_l0"].split(N) for kind in ("weight_ih", "bias_ih", "weight_hh"))
    out = {}
    for gate, w, b, u in zip(gates, *blocks, strict=True):
        out |= {f"{gate}_linear_weight": w, f"{gate}_linear_bias": b, f"{gate}_linear_2_weight": u}
    return out


@pytest.mark.parametrize("rectified", [False, True])
def test_rnn(rectified: bool, stdlib_layer: Any, conform: Any) -> None:
    torch.manual_seed(0)
    peer = torch.nn.RNN(D, N, batch_first=True, nonlinearity="relu" if rectified else "tanh").double()
    peer.bias_hh_l0.data.zero_()  # one bias suffices: their sum is what counts

    def weights(p: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            "drive_linear_weight": p["weight_ih_l0"],
            "drive_linear_bias": p["bias_ih_l0"],
            "drive_linear_2_weight": p["weight_hh_l0"],
        }

    layer = stdlib_layer("RNN", d=D, n=N, rectified=rectified).double()
    x = torch.randn(BATCH, TIME, D, dtype=torch.float64)
    conform(layer, peer, weights, (x,), lambda x: peer(x)[0], 1e-10)


def test_lstm(stdlib_layer: Any, conform: Any) -> None:
    torch.manual_seed(1)
    peer = torch.nn.LSTM(D, N, batch_first=True).double()
    peer.bias_hh_l0.data.zero_()
    layer = stdlib_layer("LSTM", d=D, n=N).double()
    x = torch.randn(BATCH, TIME, D, dtype=torch.float64)
    conform(layer, peer, lambda p: by_gate(p, "ifgo"), (x,), lambda x: peer(x)[0], 1e-10)


def test_gru(stdlib_layer: Any, conform: Any) -> None:
    torch.manual_seed(2)
    peer = torch.nn.GRU(D, N, batch_first=True).double()
    peer.bias_hh_l0.data[: 2 * N].zero_()  # r and z have one bias here; the candidate keeps both

    def weights(p: dict[str, Tensor]) -> dict[str, Tensor]:
        return by_gate(p, "rzc") | {"c_linear_2_bias": p["bias_hh_l0"][2 * N :]}

    layer = stdlib_layer("GRU", d=D, n=N).double()
    x = torch.randn(BATCH, TIME, D, dtype=torch.float64)
    conform(layer, peer, weights, (x,), lambda x: peer(x)[0], 1e-10)


def test_the_states_are_those_of_torch_and_go_back_in(stdlib_layer: Any, agree: Any) -> None:
    torch.manual_seed(3)
    peer = torch.nn.LSTM(D, N, batch_first=True).double()
    layer = stdlib_layer("LSTM", d=D, n=N).double()
    with torch.no_grad():
        for i, gate in enumerate("ifgo"):
            rows = slice(i * N, (i + 1) * N)
            layer.get_parameter(f"{gate}_linear_weight").copy_(peer.weight_ih_l0[rows])
            layer.get_parameter(f"{gate}_linear_bias").copy_(peer.bias_ih_l0[rows] + peer.bias_hh_l0[rows])
            layer.get_parameter(f"{gate}_linear_2_weight").copy_(peer.weight_hh_l0[rows])
    x = torch.randn(BATCH, 20, D, dtype=torch.float64)
    h, c = torch.randn(2, BATCH, N, dtype=torch.float64)
    expected, (h_end, c_end) = peer(x, (h[None], c[None]))
    y, state = layer(x, state={"h": h, "c": c})
    agree(y, expected, 1e-12, "output")
    agree(state["h"], h_end[0], 1e-12, "h")
    agree(state["c"], c_end[0], 1e-12, "c")

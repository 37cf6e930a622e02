"""Packed sequences of different lengths against one call for each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rnnc.runtime import causal_conv, last_state, linear_scan, run_packed
from rnnc.runtime.varlen import pack, pad, reverse_each, sequence_lengths

F64 = torch.float64
LENGTHS = [3, 0, 7, 3, 1, 0, 4]
BOUNDS = torch.tensor([0, *LENGTHS]).cumsum(0)


class Layer(nn.Module):
    """A convolution and a scan: a state and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4, dtype=F64))

    def initial_state(self, batch: int, *, device: object = None, dtype: object = None) -> dict[str, Tensor]:
        return {"h": torch.ones(batch, 3, dtype=F64), "past": torch.zeros(batch, 3, 3, dtype=F64)}

    def forward(
        self, x: Tensor, gate: Tensor, state: dict[str, Tensor] | None = None
    ) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
        state = self.initial_state(x.shape[0]) if state is None else state
        window = torch.cat((state["past"], x), 1)
        u = causal_conv(window, self.weight)
        h = linear_scan(gate.sigmoid(), u, state["h"])
        return (h.sin(), u), {"h": last_state(h, state["h"]), "past": window[:, -3:]}


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("reverse", [True, False])
def test_run_packed(given: bool, reverse: bool) -> None:
    layer, total = Layer(), int(BOUNDS[-1])
    x, gate = torch.randn(1, total, 3, dtype=F64), torch.randn(1, total, 3, dtype=F64)
    h0 = torch.randn(len(LENGTHS), 3, dtype=F64)
    leaves = [t.requires_grad_() for t in (x, gate, h0, layer.weight)]
    state = {"h": h0, "past": torch.randn(len(LENGTHS), 3, 3, dtype=F64)} if given else None

    (y, u), final = run_packed(layer, (x, gate), state, BOUNDS, reverse=reverse)
    found = torch.autograd.grad((y**2).sum() + u.sum() + final["h"].sin().sum(), leaves, allow_unused=not given)

    loss = torch.zeros((), dtype=F64)
    for i, n in enumerate(LENGTHS):
        own = {k: v[i : i + 1] for k, v in state.items()} if state else layer.initial_state(1)
        parts = [t[:, BOUNDS[i] : BOUNDS[i] + n] for t in (x, gate)]
        (y_i, u_i), s_i = layer(*(p.flip(1) if reverse else p for p in parts), own)
        y_i, u_i = (o.flip(1) if reverse else o for o in (y_i, u_i))
        assert torch.allclose(y[:, BOUNDS[i] : BOUNDS[i] + n], y_i)
        assert torch.allclose(u[:, BOUNDS[i] : BOUNDS[i] + n], u_i)
        for k, v in s_i.items():
            assert torch.allclose(final[k][i], v[0])
        loss = loss + (y_i**2).sum() + u_i.sum() + s_i["h"].sin().sum()
    expected = torch.autograd.grad(loss, leaves, allow_unused=not given)
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b)


def test_pad_pack_and_reverse() -> None:
    x = torch.randn(1, int(BOUNDS[-1]), 2)
    padded = pad(x, LENGTHS)
    assert padded.shape == (7, 7, 2)
    assert padded[0, 3:].abs().sum() == 0
    assert torch.equal(pack(padded, LENGTHS), x)
    turned = reverse_each(x, LENGTHS)
    assert torch.equal(turned[:, :3], x[:, :3].flip(1))
    assert torch.equal(turned[:, 3:10], x[:, 3:10].flip(1))
    assert torch.equal(reverse_each(turned, LENGTHS), x)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        (torch.tensor([1, 5]), "start at 0"),
        (torch.tensor([0, 4, 3, 5]), "4 is followed by 3"),
        (torch.tensor([0, 4]), "ends at 4"),
        (torch.tensor([0.0, 5.0]), "integers"),
        (torch.tensor([0]), "at least 2"),
        (torch.tensor([[0, 5]]), "vector"),
    ],
)
def test_wrong_boundaries(bounds: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sequence_lengths(bounds, 5)


def test_wrong_batch_sizes() -> None:
    layer, x = Layer(), torch.randn(1, int(BOUNDS[-1]), 3, dtype=F64)
    with pytest.raises(ValueError, match="names 7 sequences"):
        run_packed(layer, (x, x), layer.initial_state(1), BOUNDS)
    with pytest.raises(ValueError, match="batch size 1"):
        run_packed(layer, (x.expand(2, -1, -1), x), None, BOUNDS)

"""Use a cell of the standard library from Python: analyse it, compile it, train a step."""

from __future__ import annotations

import torch

import rnnc


def main() -> None:
    spec = rnnc.stdlib("gated_deltanet")
    report = rnnc.analyze(spec, "GatedDeltaNet", reach=2)
    for group in report.to_json()["groups"]:
        print(group["states"], group["kind"], group["transition"]["structure"], "->", group["chosen"])

    GatedDeltaNet = rnnc.compile(spec, "GatedDeltaNet", reach=2)  # an nn.Module subclass
    torch.manual_seed(0)
    layer = GatedDeltaNet(d=32, heads=2, dk=16, dv=16)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2)

    x = torch.randn(4, 50, 32)  # [batch, time, d]
    target = x.cumsum(1).tanh()
    losses = []
    for _ in range(20):
        y, state = layer(x)  # y [4, 50, 32]; state["S"] [4, heads, dk, dv]
        loss = torch.nn.functional.mse_loss(y, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}; the state S is {tuple(state['S'].shape)}")
    assert losses[-1] < losses[0]


if __name__ == "__main__":
    main()

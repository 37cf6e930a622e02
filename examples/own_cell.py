"""Write a cell of your own: `leaky_max.rnn` beside this file.  Its states become scans over two semirings."""

from __future__ import annotations

from pathlib import Path

import torch

import rnnc


def main() -> None:
    spec = rnnc.load(Path(__file__).parent / "leaky_max.rnn")
    for group in rnnc.analyze(spec, "LeakyMax").to_json()["groups"]:
        print(f"{group['states']}: {group['kind']} over {group['semiring']}, run by {group['chosen']}")

    LeakyMax = rnnc.compile(spec)
    step_by_step = rnnc.compile(spec, strategy="step")  # the same cell, run as a plain loop
    torch.manual_seed(0)
    fast = LeakyMax(d=8).double()
    slow = step_by_step(d=8).double()
    slow.load_state_dict(fast.state_dict())

    x = torch.randn(2, 200, 8, dtype=torch.float64)
    with torch.no_grad():
        y_fast, state = fast(x)
        y_slow, _ = slow(x)
    difference = float((y_fast - y_slow).abs().max())
    print(f"states {sorted(state)}; scan and loop differ by at most {difference:.1e}")
    assert difference < 1e-12


if __name__ == "__main__":
    main()

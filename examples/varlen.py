"""Sequences of different lengths, packed end to end: no padding is computed, no state leaks from one to the next."""

from __future__ import annotations

import torch

import rnnc


def main() -> None:
    GatedDeltaNet = rnnc.compile(rnnc.stdlib("gated_deltanet"), "GatedDeltaNet")
    torch.manual_seed(0)
    layer = GatedDeltaNet(d=32, heads=2, dk=16, dv=16).double()

    lengths = [5, 30, 1, 17]
    sequences = [torch.randn(1, n, 32, dtype=torch.float64) for n in lengths]
    ends = torch.tensor(lengths).cumsum(0)
    cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.int64), ends])  # [0, 5, 35, 36, 53]

    packed, state = layer(torch.cat(sequences, 1), cu_seqlens=cu_seqlens)  # [1, 53, 32]; one state a sequence
    print(f"packed {tuple(packed.shape)}, S {tuple(state['S'].shape)}")

    for i, x in enumerate(sequences):
        alone, state_alone = layer(x)
        torch.testing.assert_close(packed[:, cu_seqlens[i] : cu_seqlens[i + 1]], alone)
        torch.testing.assert_close(state["S"][i : i + 1], state_alone["S"])
    print("each sequence has the numbers it has alone")


if __name__ == "__main__":
    main()

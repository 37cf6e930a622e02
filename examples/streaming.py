"""Run a layer by pieces and one step at a time, as a decoder does: the numbers are those of the whole sequence."""

from __future__ import annotations

import argparse

import torch

import rnnc


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--backend", choices=("auto", "torch", "cpu"), default="auto", help="what runs the layer (auto)")
    Mamba2 = rnnc.compile(rnnc.stdlib("mamba2"), "Mamba2", backend=p.parse_args().backend)
    torch.manual_seed(0)
    layer = Mamba2(d=32).double().eval()
    x = torch.randn(1, 60, 32, dtype=torch.float64)

    with torch.no_grad():
        whole, _ = layer(x)

        # A prompt in pieces of any length, then token by token from the state they left: the state carries convolution
        # buffers too.
        streamed, state = [], None
        for piece in (x[:, :1], x[:, 1:33], x[:, 33:40]):
            y, state = layer(piece, state=state)
            streamed.append(y)
        for t in range(40, 60):
            y, state = layer.step(x[:, t], state=state)
            streamed.append(y[:, None])
        difference = float((torch.cat(streamed, 1) - whole).abs().max())

    sizes = {name: tuple(value.shape) for name, value in state.items()}
    print(f"the state is {sizes}")
    print(f"streamed and whole differ by at most {difference:.1e}")
    assert difference < 1e-10


if __name__ == "__main__":
    main()

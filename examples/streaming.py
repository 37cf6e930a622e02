"""Run a layer one step at a time, as a decoder does: the numbers are those of the whole sequence."""

from __future__ import annotations

import torch

import rnnc


def main() -> None:
    Mamba2 = rnnc.compile(rnnc.stdlib("mamba2"), "Mamba2")
    torch.manual_seed(0)
    layer = Mamba2(d=32).double().eval()
    x = torch.randn(1, 60, 32, dtype=torch.float64)

    with torch.no_grad():
        whole, _ = layer(x)

        # A prompt at once, then token by token from the state it left: the state carries convolution buffers too.
        prompt, state = layer(x[:, :40])
        streamed = [prompt]
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

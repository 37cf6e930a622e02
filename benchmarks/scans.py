"""Elementwise scans h_t = a_t h_{t-1} + b_t against the eager loop and PyTorch's own associative_scan.

The loop is the fast way to write it: it takes the steps apart once (`unbind`) and stacks the states at the end.
Indexing `a[:, t]` in the loop makes the backward quadratic in T, since each step's gradient is a tensor of the whole
sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.measure import machine, measure, parser, report
from rnnc.runtime import linear_scan

SHAPES = ((2, 4096, 64), (4, 4096, 256), (4, 1024, 1024), (4, 64, 256), (4, 8, 256))


def loop(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    h, states = h0, []
    for a_t, b_t in zip(a.unbind(1), b.unbind(1), strict=True):
        h = a_t * h + b_t
        states.append(h)
    return torch.stack(states, 1)


def associative(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """The same scan by `torch.associative_scan` in its generic mode (the other one needs a GPU)."""
    from torch._higher_order_ops.associative_scan import associative_scan

    def combine(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return x[0] * y[0], y[0] * x[1] + y[1]

    b = torch.cat((b[:, :1] + (a[:, 0] * h0).unsqueeze(1), b[:, 1:]), 1)
    return associative_scan(combine, (a, b), dim=1, combine_mode="generic")[1]  # type: ignore[no-any-return]


def main() -> None:
    p = parser(__doc__ or "", "scans")
    p.add_argument("--associative", action="store_true", help="also torch.associative_scan (slow to set up)")
    p.add_argument("--shape", type=int, nargs=3, action="append", metavar=("B", "T", "D"), help="sizes")
    options = p.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    before = machine()
    functions = {"loop": loop, "rnnc": linear_scan}
    if options.associative:
        functions["associative_scan"] = associative
    rows = []
    for batch, steps, width in options.shape or SHAPES:
        arguments = [
            torch.rand(batch, steps, width),
            torch.randn(batch, steps, width),
            torch.randn(batch, width),
        ]
        arguments = [x.requires_grad_() for x in arguments]
        rows.append(
            measure(f"[{batch}, {steps}, {width}]", functions, arguments, baseline="loop", rounds=options.rounds)
        )
    report(rows, options.output, before)


if __name__ == "__main__":
    main()

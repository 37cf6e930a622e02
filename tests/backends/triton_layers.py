"""Layers for the tests on a GPU, one or two for every kind of kernel; the same without a GPU, interpreted and small.

`TRITON_INTERPRET=1 pytest -m gpu tests/backends/test_triton_gpu.py` runs what it can on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch_support as support
import triton_newton as newton
from torch import Tensor

import rnnc
import rnnc.spec
from rnnc.compile import load_source
from rnnc.runtime.gpu.compat import interpreted
from rnnc.runtime.gpu.recurrence import Recurrence

__all__ = ["BOUNDS", "DEVICE", "LAYERS", "SMALL", "error", "kernel_of", "layers", "with_gradients"]

DEVICE = "cuda" if torch.cuda.is_available() and not interpreted() else "cpu"
SMALL = DEVICE == "cpu"
HEADS = {"d": 8, "heads": 2, "dk": 3, "dv": 5} if SMALL else {"d": 64, "heads": 2, "dk": 32, "dv": 48}
WIDE = 5 if SMALL else 75
OWN = {
    "loop": "h <- tanh(c + sigmoid(a) * h)",
    "max_plus": "h <- max(h + a, c)",
    "log_plus": "h <- logaddexp(h + a, c)",
}
LAYERS: dict[str, tuple[str | None, dict[str, int], str | None]] = {  # by file: cell, sizes, strategy
    "mingru": (None, {"d": 24, "n": WIDE}, None),
    "lru": (None, {"d": 24, "n": WIDE}, None),
    "mamba": ("Mamba", {"d": 24, "e": WIDE - 2, "n": 5, "rank": 3}, None),
    "loop": (None, {"d": 24, "n": WIDE}, "sequential"),
    "max_plus": (None, {"d": 24, "n": WIDE}, None),
    "log_plus": (None, {"d": 24, "n": WIDE}, None),
    "gla": ("GLA", HEADS, None),
    "mlstm": ("mLSTM", {"d": 8 if SMALL else 64, "heads": 2}, None),
    "gated_deltanet": ("GatedDeltaNet", HEADS, None),
    "lstm": (None, {"d": 24, "n": 5 if SMALL else 37}, None),
    "gru": (None, {"d": 24, "n": 5 if SMALL else 300}, None),  # a head that does not fit on chip
    "slstm": (None, {"d": 24, "heads": 2, "dh": 3 if SMALL else 21}, None),
    "heads of entries": (None, {"d": 24, "heads": 3, "n": 5 if SMALL else 25}, "newton"),
}
BOUNDS = (0, 3, 3, 4, 9) if SMALL else (0, 63, 63, 64, 139)


def spec_of(name: str) -> Any:
    if name in OWN:
        text = (
            "  input x: real[d]\n  state h: real[n] = 0\n  let a: real[n] = linear(x)\n  let c: real[n] = linear(x)\n"
        )
        return rnnc.parse(f"cell Own(d: dim, n: dim) {{\n{text}  {OWN[name]}\n  output y: real[n] = h'\n}}")
    return rnnc.parse(newton.CELLS[name]) if name in newton.CELLS else rnnc.spec.stdlib(name)


def layers(name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any, Tensor]:
    """The same layer by kernels on DEVICE and, in float64, by PyTorch on the CPU; a sequence [1, T, d] in float64."""
    from rnnc.backends.triton.backend import emit

    cell, sizes, strategy = LAYERS[name]
    spec = spec_of(name)
    torch.manual_seed(0)
    plain = rnnc.compile(spec, cell, backend="torch")(**sizes, dtype=torch.float64)
    ir = spec.lower(cell)
    source = emit(ir, dims=None, strategy=strategy, sources=spec.sources)
    ours = getattr(load_source(source, ir.name), ir.name)(**sizes, device=DEVICE, dtype=dtype)
    ours.load_state_dict(plain.state_dict())
    return ours, plain, torch.randn(1, BOUNDS[-1], plain.d, dtype=torch.float64)


def kernel_of(layer: Any) -> Any:
    """The first kernel of a layer's module."""
    found = type(layer).forward.__globals__
    return next(v for v in found.values() if isinstance(v, Recurrence))


def with_gradients(layer: Any, x: Tensor, **options: Any) -> list[Tensor]:
    """Outputs, last states, the gradients of the input and of all parameters, of a function of all of them."""
    x = x.detach().requires_grad_()
    y, final = layer(x, **options)
    loss = y.double().sin().sum() + sum(s.abs().double().square().sum() for s in support.flat(final).values())
    return [y, *support.flat(final).values(), *torch.autograd.grad(loss, [x, *layer.parameters()])]


def error(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest of ||a - b|| / ||b||."""
    wide = [[x.detach().cpu().to(torch.complex128) for x in xs] for xs in (found, wanted)]
    return max(support.error(a, b.resolve_conj()) for a, b in zip(*wide, strict=True))

"""Cases of triton_interpreted.py: scans of tiles, and what a layer keeps of its inputs' layout and dtype."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch_support as support
import triton_buffers as buffers
from triton_oracle import UNLISTED, case_of, is_the_oracle, layer_of, spec_of

from rnnc.runtime.gpu.tuning import Config

SPECS = {
    "max_plus": "h <- max(h + a, c)",
    "min_plus": "h <- min(h + a, c)",
    "log_plus": "h <- logaddexp(h + a, c)",
    "old_state": "h <- sigmoid(a) * h + c",
    "nonlinear": "h <- tanh(c + sigmoid(a) * h)",
    "ops": "h <- sigmoid(a) * h + tanh(c) + exp(a) + log(abs(a) + 0.1) + sqrt(abs(c) + 0.1) + sin(a) * cos(c)"
    " + softplus(a) + logsigmoid(c) + silu(a) + gelu(c) + relu(a) + sign(c) + max(a, c) * min(a, 2 * c)"
    " + (abs(a) + 0.1)^c + logaddexp(a, c) + a^3 + c^-2 / (1 + abs(a)) + 0.3^a",
    "coupled": "h <- sigmoid(a) * h - 0.5 * p\n  p <- 0.5 * h + sigmoid(c) * p",
}


def own_cell(name: str) -> str:
    """A cell of one line, with a parameter in its readout, and for one of them a use of the state before the step."""
    reads = "h' * h" if name == "old_state" else "h'"
    extra = "state p: real[n] = 0" if name == "coupled" else ""
    return f"""cell Own(n: dim) {{
  input a: real[n]
  input c: real[n]
  param w: real[n] init ones
  state h: real[n] = 0
  {extra}
  {SPECS[name]}
  output y: real[n] = w * {reads}
}}
"""


def half_precision(dtype: torch.dtype) -> None:
    """bfloat16 and float16 in and out, the state in float32: as exact as the inputs, outputs and gradients."""
    ir, layer, _ = layer_of(spec_of("mingru"), None, None, Config(steps=4, channels=4))
    case = case_of(ir, {"d": 3, "n": 5}, 21, start=False)
    got = case.module(layer, dtype)
    x = support.tensor(case.inputs["x"], dtype).requires_grad_()
    y, final = got(x)
    assert y.dtype == final["h"].dtype == dtype
    weights = support.tensor(case.d_outputs["y"], torch.float32)
    (
        (y.float() * weights).sum() + (final["h"].float() * support.tensor(case.d_final["h"], torch.float32)).sum()
    ).backward()
    eps = torch.finfo(dtype).eps
    assert support.error(y.float(), case.outputs["y"]) < 4 * eps
    assert case.grads is not None
    assert x.grad is not None
    assert support.error(x.grad.float(), case.grads.inputs["x"]) < 10 * eps


def strides() -> None:
    """Inputs that are views: a slice of channels, time last in memory, one value for all of the batch."""
    ir, layer, _ = layer_of(spec_of("mamba"), "SelectiveScan", None, Config(steps=4, channels=4))
    dims = {"e": 5, "n": 3}
    case = case_of(ir, dims, 9, start=False)
    got = case.module(layer, torch.float64)
    xs = {k: support.tensor(v, torch.float64) for k, v in case.inputs.items()}
    wide = torch.cat([torch.full_like(xs["u"], torch.nan), xs["u"], torch.full_like(xs["u"], torch.nan)], -1)
    xs["u"] = wide[..., 5:10]
    xs["dt"] = xs["dt"].mT.contiguous().mT
    xs["B"] = xs["B"][:1].expand(2, -1, -1)
    y, _ = got(**xs)
    plain, _ = got(**{k: x.contiguous() for k, x in xs.items()})
    assert torch.equal(y, plain)


def operators() -> None:
    """`torch.compile` with fullgraph, `torch.export`, and the registration as PyTorch itself checks it."""
    _, layer, kernels = layer_of(spec_of("mingru"), None, None, Config(steps=4, channels=4))
    torch.manual_seed(0)
    net = layer(d=3, n=5, dtype=torch.float64)
    x = torch.randn(2, 9, 3, dtype=torch.float64, requires_grad=True)
    y, _ = net(x)
    y.square().sum().backward()
    want, x.grad = x.grad, None
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    z, _ = compiled(x)
    z.square().sum().backward()
    assert torch.equal(y, z)
    assert want is not None
    assert torch.allclose(x.grad, want)  # type: ignore[arg-type]
    exported = torch.export.export(net, (x.detach(),))
    assert torch.equal(exported.module()(x.detach())[0], y)
    (k,) = kernels
    a, c, h = (torch.randn(2, *t, 5, dtype=torch.float64, requires_grad=True) for t in ((9,), (9,), ()))
    with buffers.taken(buffers.zeros):  # opcheck compares buffers
        torch.library.opcheck(torch.ops.rnnc.recurrence, (k.key, [a, c], [h], [3, 5, 5], 9, 9, None, True))


def same_bits() -> None:
    """Two runs give the same gradients, bit by bit, where a gradient is summed over blocks, heads and steps."""
    ir, layer, _ = layer_of(spec_of("mamba"), "SelectiveScan", None, Config(steps=4, channels=4))
    case = case_of(ir, {"e": 9, "n": 3}, 9, start=False)
    found = []
    for _ in range(2):
        net = case.module(layer, torch.float32)
        xs = {k: support.tensor(v, torch.float32).requires_grad_() for k, v in case.inputs.items()}
        y, _ = net(**xs)
        y.square().sum().backward()
        found.append([x.grad for x in (*xs.values(), *net.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


LIBRARY: dict[str, tuple[str, str | None, dict[str, Any]]] = {  # a file of the library, its cell, and how it runs
    "MinGRU": ("mingru", None, {"dims": {"d": 3, "n": 7}, "steps": 27, "step": True}),
    "MinGRU, one step": ("mingru", None, {"dims": {"d": 3, "n": 1}, "steps": 1, "start": False}),
    "Mamba": ("mamba", "Mamba", {"dims": {"d": 2, "e": 5, "n": 3, "rank": 2}, "steps": 9}),
    "LRU": ("lru", None, {"dims": {"d": 3, "n": 5}, "step": True}),
    "RGLRU": ("rglru", "RGLRU", {"dims": {"heads": 2, "w": 3}, "steps": 9}),
    "S4D": ("s4d", None, {"dims": {"d": 3, "n": 2}, "steps": 7}),
    "GLA, scan": ("gla", "GLA", {"strategy": "scan", "steps": 9}),
    "Mamba2, scan": ("mamba2", "Mamba2", {"strategy": "scan", "steps": 9}),
    "S5": ("s5", None, {"dims": {"d": 3, "n": 5}}),
    "Hawk": ("rglru", "Hawk", {"steps": 9}),
    "HGRN": ("hgrn", "HGRN", {}),
    "HGRNComplex": ("hgrn", "HGRNComplex", {"steps": 9}),
    "MinLSTM": ("minlstm", None, {}),
}
SPLIT = {"config": Config(steps=4, channels=4, splits=3)}  # thirteen steps in three splits
SPLITS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "MinGRU": ("mingru", None, {"dims": {"d": 3, "n": 5}}),
    "SelectiveScan": ("mamba", "SelectiveScan", {"dims": {"e": 5, "n": 2}}),
    "HGRNComplex": ("hgrn", "HGRNComplex", {}),
    "RGLRU": ("rglru", "RGLRU", {"dims": {"heads": 2, "w": 3}}),
    "GLA": ("gla", "GLA", {"strategy": "scan"}),
} | {name: (own_cell(name), None, {"dims": {"n": 5}}) for name in ("old_state", "max_plus", "min_plus", "log_plus")}

CASES: dict[str, Callable[[], None]] = {
    "MinGRU, sequential": partial(
        is_the_oracle, "mingru", kind="sequential", strategy="sequential", dims={"d": 3, "n": 5}
    ),
    "Phasor": partial(is_the_oracle, UNLISTED / "phasor.rnn", kind="scan", steps=7),
    "SaturatingMemory": partial(is_the_oracle, UNLISTED / "saturating_memory.rnn", kind="sequential", steps=5),
    "Tide": partial(is_the_oracle, UNLISTED / "tide.rnn", kind="sequential", steps=7),
    "bfloat16": partial(half_precision, torch.bfloat16),
    "float16": partial(half_precision, torch.float16),
    "strides": strides,
    "operators": operators,
    "same bits": same_bits,
}
CASES |= {name: partial(is_the_oracle, file, cell, kind="scan", **how) for name, (file, cell, how) in LIBRARY.items()}
CASES |= {
    f"{name}, split": partial(is_the_oracle, source, cell, kind="scan", **SPLIT, **how)
    for name, (source, cell, how) in SPLITS.items()
}
for _name in SPECS:
    _kind = "sequential" if _name in ("nonlinear", "coupled") else "scan"
    _strategy = "sequential" if _kind == "sequential" else None
    CASES[_name] = partial(is_the_oracle, own_cell(_name), kind=_kind, strategy=_strategy, dims={"n": 5})

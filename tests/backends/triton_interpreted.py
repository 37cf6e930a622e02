"""Runs generated Triton kernels in Triton's interpreter, on the CPU, and compares them with the float64 oracle.

Triton decides when it is imported whether it interprets, so this is a program of its own: `python triton_interpreted.py
NAME...` with TRITON_INTERPRET=1 checks the named cases and prints a line for each, "NAME: ok" or what went wrong.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_support as support
import triton_buffers as buffers
import triton_decays as decay_cases
import triton_hazards as hazards
import triton_low_rank as low_rank_cases
import triton_nan as nan_cases
import triton_newton as newton_cases
import triton_rows as row_cases
import triton_sanitiser as sanitiser
import triton_stepped as stepped_cases
import triton_transforms as transform_cases
import triton_turned as turned_cases

import rnnc.spec
from rnnc.compile import load_source
from rnnc.ir.oracle import init_params
from rnnc.ir.rounding import keep_digits
from rnnc.runtime.gpu import tuner
from rnnc.runtime.gpu.recurrence import Recurrence
from rnnc.runtime.gpu.tuning import Config
from rnnc.runtime.varlen import run_packed

CELLS = {  # with products of learned matrices
    "reset first": """cell ResetFirst(d: dim, n: dim) {
  input x: real[d]
  state h: real[n] = 0
  gate r: real[n] in (0, 1) = sigmoid(linear(x) + linear(h))
  gate z: real[n] in (0, 1) = sigmoid(linear(x) + linear(h))
  let c: real[n] = tanh(linear(x) + linear(r * h))
  h <- (1 - z) * h + z * c
  output y: real[n] = h'
}""",
    "peephole": """cell Peephole(d: dim, n: dim) {
  input x: real[d]
  param p: real[n] init normal(0.3)
  param q: real[n] init normal(0.3)
  state h: real[n] = 0
  state c: real[n] = 0
  gate i: real[n] in (0, 1) = sigmoid(linear(x) + linear(h, bias = false) + p * c)
  c <- (1 - i) * c + i * tanh(linear(x) + linear(h, bias = false))
  h <- sigmoid(linear(x) + linear(h, bias = false) + q * c') * tanh(c')
  output y: real[n] = h'
  output mean_c: real = mean(c')
}""",
    "projected": """cell Projected(d: dim, n: dim, p: dim) {
  input x: real[d]
  state h: real[p] = 0
  state c: real[n] = 0
  gate i: real[n] in (0, 1) = sigmoid(linear(x) + linear(h, bias = false))
  gate f: real[n] in (0, 1) = sigmoid(linear(x) + linear(h, bias = false))
  gate g: real[n] in (-1, 1) = tanh(linear(x) + linear(h, bias = false))
  gate o: real[n] in (0, 1) = sigmoid(linear(x) + linear(h, bias = false))
  c <- f * c + i * g
  h <- linear(o * tanh(c'), bias = false)
  output y: real[p] = h'
}""",
    "rounds": """cell Rounds(d: dim, heads: dim, n: dim) {
  input x: real[d]
  param M: real[n, n] init normal(0.4)
  per heads {
    state h: real[n] = 0
    state s: real[n] = 0
    let first: real[n] = s * tanh(linear(h) + linear(x))
    let second: real[n] = h + sigmoid(linear(first) + linear(s))
    s <- 0.5 * s + M.T @ (second * first)
    h <- tanh(0.5 * linear(second) + M @ s)
  }
  output y: real[heads*n] = flatten(h')
}""",
}
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


UNLISTED = {p.stem: p for p in (Path(__file__).parent.parent / "stdlib" / "unlisted").glob("*.rnn")}
ODD = Path(__file__).parent.parent / "stdlib" / "odd"


def layer_of(spec: Any, cell: str | None, strategy: str | None, config: Config) -> tuple[Any, Any, list[Any]]:
    """The graph, the class of the generated module, and its kernels (at least one)."""
    from rnnc.backends.triton.backend import emit

    ir = spec.lower(cell)
    source = emit(keep_digits(ir), dims=None, strategy=strategy, sources=spec.sources)
    module = load_source(source, ir.name)
    kernels = [v for v in vars(module).values() if isinstance(v, Recurrence)]
    assert kernels or "runtime.gpu.matrix" in source, f"{ir.name} has no kernel"
    for k in kernels:
        k.configs[()] = Config(steps=4, channels=32, stages=1) if k.kind == "coupled" else config
    return ir, vars(module)[module.__all__[0]], kernels


def spec_of(file: str) -> Any:
    if file in CELLS:
        return rnnc.spec.parse(CELLS[file])
    if file in stepped_cases.CELLS:
        return rnnc.spec.parse(stepped_cases.CELLS[file])
    if file in newton_cases.CELLS:
        return rnnc.spec.parse(newton_cases.CELLS[file])
    if file in UNLISTED:
        return rnnc.load(UNLISTED[file])
    if file in decay_cases.CELLS or file in decay_cases.BY_ENTRY:
        return rnnc.spec.parse(decay_cases.cell(file))
    if file in low_rank_cases.CELLS or file in low_rank_cases.STEP_BY_STEP:
        return rnnc.spec.parse(low_rank_cases.cell(file))
    if file in turned_cases.OWN:
        return rnnc.spec.parse(turned_cases.cell(file))
    if file in turned_cases.STDLIB.values():
        return rnnc.load(ODD / f"{file}.rnn")
    return rnnc.spec.parse(own_cell(file)) if file in SPECS else rnnc.spec.stdlib(file)


def case_of(ir: Any, dims: Mapping[str, int], steps: int, start: bool) -> support.Case:
    """Random inputs; with `start`, an initial state of the size that the state has after some steps."""
    rng = np.random.default_rng(steps)
    params = init_params(ir, dims, rng)
    inputs = support.random_inputs(ir, dims, rng, batch=2, steps=steps)
    state = None
    if start:
        few = support.random_inputs(ir, dims, rng, batch=2, steps=3)
        first = support.Case(ir, dims, params, few, differentiable=False)
        state = {k: v + 0.1 * rng.normal(size=v.shape) for k, v in first.final.items()}
    return support.Case(ir, dims, params, inputs, state)


def chunkwise(layer: Any) -> bool:
    return bool({"matrix_scan", "normalised_scan"} & layer.__init__.__globals__.keys())


def is_the_oracle(
    file: str,
    cell: str | None = None,
    *,
    kind: str,
    strategy: str | None = None,
    dims: Mapping[str, int] | None = None,
    steps: int = 13,
    start: bool = True,
    step: bool = False,
    config: Config | None = None,
) -> None:
    """Outputs, last states and all gradients in float64; `kind` is the schedule of the (first) kernel."""
    config = config or Config(steps=4, channels=4)
    ir, layer, kernels = layer_of(spec_of(file), cell, strategy, config)
    kinds = {k.kind for k in kernels} | ({"chunkwise"} if chunkwise(layer) else set())
    assert kind in kinds, kinds
    sizes = ir.dim_values(dims) if dims else support.small_dims(ir)
    case_of(ir, sizes, steps, start).check(layer, tolerance=1e-9, step=step)


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


def coupled_operators() -> None:
    """Layers with matrices on chip under `torch.compile` (fullgraph) and `torch.export`, and PyTorch's own checks."""
    _, layer, (k,) = layer_of(spec_of("gru"), None, None, Config(steps=4, channels=4))
    torch.manual_seed(0)
    net = layer(d=3, n=5, dtype=torch.float64)
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    y, _ = net(x)
    want = torch.autograd.grad(y.square().sum(), [x, *net.parameters()])
    z, _ = torch.compile(net, fullgraph=True, backend="aot_eager")(x)
    got = torch.autograd.grad(z.square().sum(), [x, *net.parameters()])
    assert torch.equal(y, z)
    assert all(torch.allclose(a, b) for a, b in zip(got, want, strict=True))
    exported = torch.export.export(net, (x.detach(),)).module()
    assert torch.equal(exported(x.detach())[0], y)
    inputs = [torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    inputs.append(torch.randn(5, dtype=torch.float64, requires_grad=True))
    inputs += [torch.randn(5, 5, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    start = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    with buffers.taken(buffers.zeros):  # opcheck compares buffers
        torch.library.opcheck(torch.ops.rnnc.coupled, (k.key, inputs, [start], [3, 5, 5], 4, 4, None, True))


def packed() -> None:
    """Sequences of different lengths behind each other, empty ones too, in one launch: as if each ran alone.

    Scans, steps one after another and steps with products; gradients of every initial state and of shared inputs.
    """
    lengths = [5, 0, 1, 9]
    bounds = torch.tensor([0, *np.cumsum(lengths)])
    for file, dims in (("mingru", {"d": 3, "n": 5}), ("coupled", {"n": 3}), ("peephole", {"d": 3, "n": 5})):
        _, _, (k,) = layer_of(spec_of(file), None, None, Config(steps=4, channels=4))
        torch.manual_seed(0)
        sizes = {x: 5 for d in k.states for x in d if x.isupper()}

        def random(d: str, *lead: int, sizes: Mapping[str, int] = sizes) -> torch.Tensor:
            shape = [sizes.get(x, 1) for x in d if x not in "bt*"]
            return torch.randn(*lead, *shape, dtype=torch.float64, requires_grad=True)

        inputs = [random(d, *((1, sum(lengths)) if d.startswith("bt") else ())) for d in k.inputs]
        inputs += [random("AA") for _ in getattr(k, "products", ())]
        states = [random(d, len(lengths)) for d in k.states]
        given = [*dims.values()]
        whole = k(inputs, states, given, sum(lengths), bounds)
        alone = []
        for i, n in enumerate(lengths):
            own = [x[:, bounds[i] : bounds[i] + n] if d.startswith("bt") else x for x, d in zip(inputs, k.inputs)]
            alone.append(k([*own, *inputs[len(own) :]], [h[i : i + 1] for h in states], given, n))
        ys = [torch.cat(y, 1) for y in zip(*(a[0] for a in alone), strict=True)]
        hs = [torch.cat(h) for h in zip(*(a[1] for a in alone), strict=True)]
        weights = [torch.randn_like(x) for x in (*ys, *hs)]
        found = []
        for results in ((*whole[0], *whole[1]), (*ys, *hs)):
            loss = sum((x * w).sum() for x, w in zip(results, weights, strict=True))
            grads = torch.autograd.grad(loss, [*inputs, *states], retain_graph=True)
            found.append([x.detach() for x in (*results, *grads)])
        assert all(support.error(a, b) < 1e-12 for a, b in zip(*found, strict=True)), file


HEADS = {"d": 4, "heads": 2, "dk": 3, "dv": 2}
PACKED: tuple[tuple[str, str | None, dict[str, int]], ...] = (
    ("mingru", None, {"d": 3, "n": 5}),
    ("lstm", None, {"d": 3, "n": 5}),
    ("lru", None, {"d": 2, "n": 3}),
    ("mamba", "Mamba", {"d": 2, "e": 5, "n": 3, "rank": 2}),
    ("gla", "GLA", HEADS),
    ("projected", None, {"d": 3, "n": 5, "p": 2}),
)


def packed_layers(layers: tuple[tuple[str, str | None, dict[str, int]], ...]) -> None:
    """`cu_seqlens` of a whole layer in one launch is one call for each length: outputs, states, gradients; reversed,
    too, and with wrong boundaries refused.
    """
    bounds = torch.tensor([0, 4, 4, 5, 11], dtype=torch.int32)
    for file, cell, dims in layers:
        _, layer, _ = layer_of(spec_of(file), cell, None, Config(steps=4, channels=4))
        torch.manual_seed(0)
        net = layer(**dims, dtype=torch.float64)
        x = torch.randn(1, 11, dims["d"], dtype=torch.float64, requires_grad=True)
        few = net(torch.randn(4, 2, dims["d"], dtype=torch.float64))[1]
        start = {k: v.detach().requires_grad_() for k, v in few.items()}
        for reverse in (False, True):
            found = []
            for given in (
                net(x, start, cu_seqlens=bounds, reverse=reverse),
                run_packed(net, (x,), start, bounds, reverse=reverse),
            ):
                y, final = given
                loss = y.abs().square().sum() + sum((v.abs() ** 3).sum() for v in final.values())
                found.append([y, *final.values(), *torch.autograd.grad(loss, [x, *start.values(), *net.parameters()])])
            assert all(support.error(a, b.detach().resolve_conj()) < 1e-12 for a, b in zip(*found, strict=True)), file
        plain = run_packed(net, (x,), None, bounds)[0].detach()
        assert support.error(net(x, cu_seqlens=bounds)[0], plain) < 1e-12, file
        for wrong in ([0, 4], [1, 11], [0, 6, 4, 11], [0.0, 11.0]):
            try:
                net(x, cu_seqlens=torch.tensor(wrong))
            except ValueError:
                continue
            raise AssertionError(f"{wrong} was taken")


def tuned() -> None:
    """With every configuration measured by a timer of the test's, results stay the oracle's."""
    measured: list[int] = []

    def timer(run: Callable[[], object]) -> float:
        run()
        measured.append(len(measured))
        return -float(len(measured))  # the last one is the fastest

    tuner.TUNER, kept = tuner.Tuner(timer=timer, folder=lambda: None, always=True), tuner.TUNER
    for file, dims in (("mingru", {"d": 3, "n": 37}), ("coupled", {"n": 40}), ("reset first", {"d": 3, "n": 5})):
        ir, layer, kernels = layer_of(spec_of(file), None, None, Config(steps=4, channels=4))
        for k in kernels:
            k.configs.clear()
        measured.clear()
        case_of(ir, dims, 5, start=True).check(layer, tolerance=1e-9, step=False)
        assert len(measured) >= 4, measured
    tuner.TUNER = kept


CASES: dict[str, Callable[[], None]] = {
    "MinGRU": lambda: is_the_oracle("mingru", kind="scan", dims={"d": 3, "n": 7}, steps=27, step=True),
    "MinGRU, one step": lambda: is_the_oracle("mingru", kind="scan", dims={"d": 3, "n": 1}, steps=1, start=False),
    "MinGRU, sequential": lambda: is_the_oracle(
        "mingru", kind="sequential", strategy="sequential", dims={"d": 3, "n": 5}
    ),
    "Mamba": lambda: is_the_oracle("mamba", "Mamba", kind="scan", dims={"d": 2, "e": 5, "n": 3, "rank": 2}, steps=9),
    "LRU": lambda: is_the_oracle("lru", kind="scan", dims={"d": 3, "n": 5}, step=True),
    "RGLRU": lambda: is_the_oracle("rglru", "RGLRU", kind="scan", dims={"heads": 2, "w": 3}, steps=9),
    "S4D": lambda: is_the_oracle("s4d", kind="scan", dims={"d": 3, "n": 2}, steps=7),
    "GLA": lambda: is_the_oracle("gla", "GLA", kind="chunkwise", steps=18, step=True),
    "GLA, scan": lambda: is_the_oracle("gla", "GLA", kind="scan", strategy="scan", steps=9),
    "mLSTM": lambda: is_the_oracle("mlstm", "mLSTM", kind="chunkwise", steps=7),
    "Mamba2": lambda: is_the_oracle("mamba2", "Mamba2", kind="chunkwise", steps=67),
    "RetNet": lambda: is_the_oracle("retnet", kind="chunkwise", steps=65),
    "SSDOp": lambda: is_the_oracle(
        "mamba2", "SSDOp", kind="chunkwise", dims={"heads": 2, "n": 5, "p": 17}, steps=130, start=False
    ),
    "Mamba2, scan": lambda: is_the_oracle("mamba2", "Mamba2", kind="scan", strategy="scan", steps=9),
    "DeltaNet": lambda: is_the_oracle("deltanet", "DeltaNet", kind="chunkwise", steps=9, step=True),
    "GatedDeltaNet": lambda: is_the_oracle("gated_deltanet", "GatedDeltaNet", kind="chunkwise", steps=6),
    "DeltaProduct": lambda: is_the_oracle("deltaproduct", "DeltaProduct", kind="chunkwise", steps=6),
    "DeltaNet, sequential": lambda: is_the_oracle(
        "deltanet", "DeltaNet", kind="sequential", strategy="sequential", steps=9, step=True
    ),
    "GatedDeltaNet, sequential": lambda: is_the_oracle(
        "gated_deltanet", "GatedDeltaNet", kind="sequential", strategy="sequential", steps=6
    ),
    "DeltaProduct, sequential": lambda: is_the_oracle(
        "deltaproduct", "DeltaProduct", kind="sequential", strategy="sequential", steps=6
    ),
    "bfloat16": lambda: half_precision(torch.bfloat16),
    "float16": lambda: half_precision(torch.float16),
    "strides": strides,
    "operators": operators,
    "hazards": hazards.check,
    "same bits": same_bits,
    "coupled operators": coupled_operators,
    "packed": packed,
    "packed layers": lambda: packed_layers(PACKED),
    "packed delta rule": lambda: packed_layers((("gated_deltanet", "GatedDeltaNet", HEADS),)),
    "tuned": tuned,
    "S5": lambda: is_the_oracle("s5", kind="scan", dims={"d": 3, "n": 5}),
    "Hawk": lambda: is_the_oracle("rglru", "Hawk", kind="scan", steps=9),
    "HGRN": lambda: is_the_oracle("hgrn", "HGRN", kind="scan"),
    "HGRNComplex": lambda: is_the_oracle("hgrn", "HGRNComplex", kind="scan", steps=9),
    "HGRN2": lambda: is_the_oracle("hgrn2", kind="chunkwise", steps=18),
    "MinLSTM": lambda: is_the_oracle("minlstm", kind="scan"),
}
COUPLED = {
    "LSTM": ("lstm", {"d": 3, "n": 5}),
    "GRU": ("gru", {"d": 3, "n": 17}),
    "RNN": ("rnn", {"d": 2, "n": 3}),
    "sLSTM": ("slstm", {"d": 6, "heads": 2, "dh": 3}),
    "Pendulum": ("pendulum", {"d": 3, "n": 5}),
    "reset first": ("reset first", {"d": 3, "n": 5}),
    "peephole": ("peephole", {"d": 3, "n": 7}),
    "projected": ("projected", {"d": 3, "n": 7, "p": 5}),
    "rounds": ("rounds", {"d": 2, "heads": 3, "n": 5}),
}
CASES |= {
    name: lambda file=file, dims=dims: is_the_oracle(file, kind="coupled", dims=dims, steps=9, step=True)
    for name, (file, dims) in COUPLED.items()
}
CASES |= {
    "Phasor": lambda: is_the_oracle("phasor", kind="scan", steps=7),
    "SaturatingMemory": lambda: is_the_oracle("saturating_memory", kind="sequential", steps=5),
    "Tide": lambda: is_the_oracle("tide", kind="sequential", steps=7),
    "ColumnEraser": lambda: is_the_oracle("column_eraser", kind="chunkwise", steps=7),
}
SPLIT = Config(steps=4, channels=4, splits=3)  # thirteen steps in three splits
CASES |= {
    "MinGRU, split": lambda: is_the_oracle("mingru", kind="scan", dims={"d": 3, "n": 5}, config=SPLIT),
    "SelectiveScan, split": lambda: is_the_oracle(
        "mamba", "SelectiveScan", kind="scan", dims={"e": 5, "n": 2}, config=SPLIT
    ),
    "HGRNComplex, split": lambda: is_the_oracle("hgrn", "HGRNComplex", kind="scan", config=SPLIT),
    "RGLRU, split": lambda: is_the_oracle("rglru", "RGLRU", kind="scan", dims={"heads": 2, "w": 3}, config=SPLIT),
    "GLA, split": lambda: is_the_oracle("gla", "GLA", kind="scan", strategy="scan", config=SPLIT),
    "old_state, split": lambda: is_the_oracle("old_state", kind="scan", dims={"n": 5}, config=SPLIT),
    "max_plus, split": lambda: is_the_oracle("max_plus", kind="scan", dims={"n": 5}, config=SPLIT),
    "min_plus, split": lambda: is_the_oracle("min_plus", kind="scan", dims={"n": 5}, config=SPLIT),
    "log_plus, split": lambda: is_the_oracle("log_plus", kind="scan", dims={"n": 5}, config=SPLIT),
}
CASES |= {
    name: (lambda n=name: is_the_oracle(n, kind="scan", dims={"n": 5}))
    for name in SPECS
    if name not in ("nonlinear", "coupled")
}
CASES |= {
    name: (lambda n=name: is_the_oracle(n, kind="sequential", strategy="sequential", dims={"n": 5}))
    for name in ("nonlinear", "coupled")
}
CASES |= (
    row_cases.cases(is_the_oracle)
    | stepped_cases.cases(sys.modules[__name__])
    | low_rank_cases.CASES
    | decay_cases.CASES
    | nan_cases.CASES
    | newton_cases.CASES
    | transform_cases.CASES
)
CASES |= {
    name: lambda name=name, dims=dims: is_the_oracle(name, kind="newton", strategy="newton", dims=dims, steps=11)
    for name, dims in newton_cases.SIZES.items()
}
CASES |= {
    name: (lambda n=name: is_the_oracle(n, kind="chunkwise", dims={"n": 5, "m": 3}, steps=18))
    for name in decay_cases.CELLS
} | {
    name: (lambda n=name: is_the_oracle(n, kind="scan", dims={"n": 5, "m": 3}, steps=7))
    for name in decay_cases.BY_ENTRY
}
CASES |= {
    name: (lambda n=name: is_the_oracle(n, kind="chunkwise", dims={"n": 3, "m": 5}, steps=7))
    for name in low_rank_cases.CELLS
}
CASES |= {
    name: (lambda n=name: is_the_oracle(n, kind="sequential", dims={"n": 3, "m": 5}, steps=7))
    for name in low_rank_cases.STEP_BY_STEP
}


CASES |= {
    name: (lambda n=name, k=kind: is_the_oracle(n, kind=k, dims={"d": 3, "n": 5, "m": 3}, steps=7, step=True))
    for name in turned_cases.OWN
    for kind in ["scan" if name in turned_cases.SCANNED else "sequential"]
} | {
    name: (lambda n=name, f=file, k=kind: is_the_oracle(f, n, kind=k, steps=6, step=True))
    for name, file in turned_cases.STDLIB.items()
    for kind in ["coupled" if name in turned_cases.CHIPPED else "sequential"]
}


def guard_launches() -> None:
    """From now on every launch has to be where the device of the tensors is made the current one."""
    from triton.runtime.interpreter import GridExecutor

    inside: list[torch.Tensor] = []
    device_of, run = torch.cuda.device_of, GridExecutor.__call__

    @contextmanager
    def recorded(x: torch.Tensor) -> Iterator[None]:
        with device_of(x):
            inside.append(x)
            yield
            inside.pop()

    def guarded(self: Any, *arguments: Any, **options: Any) -> None:
        assert inside, "a kernel is launched on whatever device is the current one"
        run(self, *arguments, **options)

    torch.cuda.device_of, GridExecutor.__call__ = recorded, guarded


def main(names: list[str]) -> None:
    sanitiser.watch()
    guard_launches()
    buffers.take(buffers.no_numbers)
    np.seterr(all="ignore")  # entries outside of the arrays divide by zero
    for name in names:
        begun = time.perf_counter()
        try:
            CASES[name]()
            print(f"{name}: ok ({time.perf_counter() - begun:.1f} s)", flush=True)
        except Exception:  # noqa: BLE001  every case reports for itself
            print(f"{name}: {traceback.format_exc(limit=-6)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

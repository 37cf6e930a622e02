"""The CPU backend's kernels against what PyTorch and transformers run for the same recurrences.

python -m benchmarks.cpu

As in `benchmarks.foundation` every competitor is checked against the first before anything is timed, and runs
interleaved with the others.  `--only` takes a part of a name; the Mamba mixer takes minutes, for the peer's sake.
`--mapped` starts again with an allocator that keeps memory mapped (glibc): large results then cost no page faults,
which otherwise are most of what moving memory takes, on both sides.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rnnc
from benchmarks.cells import DECAY, DIAGONAL_GRU, PEEPHOLE
from benchmarks.foundation import (
    Case,
    Runner,
    copy_weights,
    gated_delta_inputs,
    gated_delta_peer,
    layer,
    run_cases,
)


def pair(spec: rnnc.Spec, cell: str, **sizes: int) -> tuple[nn.Module, nn.Module]:
    """The module of the torch backend and that of the CPU backend, with the same weights."""
    by_torch, native = (rnnc.compile(spec, cell, backend=b)(**sizes) for b in ("torch", "cpu"))
    native.load_state_dict(by_torch.state_dict())
    return by_torch, native


def decay_case(batch: int, steps: int, width: int) -> Case:
    """h <- a h + b against an `addcmul` over arrays of the same size, which is no recurrence: the memory's limit."""
    by_torch, native = pair(rnnc.parse(DECAY), "Decay", n=width)
    return Case(
        name=f"h <- a h + b [{batch}, {steps}, {width}]",
        inputs=[torch.rand(batch, steps, width), torch.randn(batch, steps, width)],
        runners={"torch backend": layer(by_torch), "cpu backend": layer(native)},
    )


def limit_case(batch: int, steps: int, width: int) -> Case:
    """The same recurrence and an `addcmul` that moves as many bytes; `decay_case` compares values.

    With `--mapped` also into memory that was touched before, which the kernel's results then are.  A virtual machine's
    new memory may be new to its host too, which costs ten times as much and comes to an end: hence the many rounds.
    """
    _, native = pair(rnnc.parse(DECAY), "Decay", n=width)
    third, there = torch.randn(batch, steps, width), torch.zeros(batch, steps, width)
    runners = {"addcmul": Runner(run=lambda a, b: torch.addcmul(third, a, b), part=True)}
    if is_mapped():
        runners["addcmul, out="] = Runner(run=lambda a, b: torch.addcmul(third, a, b, out=there), part=True)
    return Case(
        name=f"addcmul over the arrays of h <- a h + b [{batch}, {steps}, {width}]{', memory mapped' * is_mapped()}",
        inputs=[torch.rand(batch, steps, width), torch.randn(batch, steps, width)],
        runners={**runners, "cpu backend": layer(native)},
        promise=("cpu backend", 1 / 1.3),
        direction="forward",
        differentiated=False,
        least_rounds=25,
    )


def mamba_case(batch: int, steps: int, width: int) -> Case:
    """Mamba's mixer against the fallback that transformers runs on a CPU, a Python loop over time."""
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    e, n, rank = 2 * width, 16, 16
    config = MambaConfig(hidden_size=width, intermediate_size=e, state_size=n, time_step_rank=rank, num_hidden_layers=1)
    peer = MambaMixer(config, layer_idx=0)
    by_torch, native = pair(rnnc.stdlib("mamba"), "Mamba", d=width, e=e, n=n, rank=rank)
    theirs = dict(peer.named_parameters())
    u, z = theirs["in_proj.weight"].split(e)
    low, b, c = theirs["x_proj.weight"].split([rank, n, n])
    maps = {"u_linear_weight": u, "z_linear_weight": z, "low_linear_weight": low, "B_linear_weight": b}
    maps |= {"C_linear_weight": c, "u_conv_weight": theirs["conv1d.weight"][:, 0], "u_conv_bias": theirs["conv1d.bias"]}
    maps |= {"dt_linear_weight": theirs["dt_proj.weight"], "dt_bias": theirs["dt_proj.bias"]}
    maps |= {"A_log": theirs["A_log"], "D": theirs["D"], "y_linear_weight": theirs["out_proj.weight"]}
    with torch.no_grad():
        for module in (by_torch, native):
            for name, value in maps.items():
                dict(module.named_parameters())[name].copy_(value)
    return Case(
        name=f"Mamba mixer [{batch}, {steps}, {width}]",
        inputs=[torch.randn(batch, steps, width)],
        runners={
            "transformers": Runner(run=lambda x: peer(x), parameters=list(peer.parameters())),
            "torch backend": layer(by_torch),
            "cpu backend": layer(native),
        },
        promise=("cpu backend", 100.0),
        also=[("forward", "cpu backend", 5.0)],
        most_rounds=2,
    )


def gated_delta_case(batch: int, steps: int, heads: int, keys: int) -> Case:
    """The gated delta rule against transformers' chunked fallback."""
    by_torch, native = pair(rnnc.stdlib("gated_deltanet"), "GatedDeltaOp", heads=heads, dk=keys, dv=keys)
    return Case(
        name=f"gated delta rule [{batch}, {steps}, {heads} heads, {keys}]",
        inputs=gated_delta_inputs(batch, steps, heads, keys),
        runners={
            "transformers": gated_delta_peer(),
            "torch backend": Runner(run=lambda q, *rest: by_torch(q * keys**-0.5, *rest)[0]),
            "cpu backend": Runner(run=lambda q, *rest: native(q * keys**-0.5, *rest)[0]),
        },
        promise=("cpu backend", 4.0),
    )


def steps_of(module: nn.Module, tokens: int) -> Runner:
    """`tokens` steps from the initial state, without gradients."""

    def steps(*inputs: Tensor) -> Tensor:
        state = None
        with torch.no_grad():
            for _ in range(tokens):
                y, state = module.step(*inputs, state=state)
        return y  # type: ignore[no-any-return]

    return Runner(run=steps)


def decode_case(batch: int, heads: int, keys: int, tokens: int = 50) -> Case:
    """Steps of the gated delta rule one by one, as when a model generates, against the eager step of transformers."""
    from transformers.models.qwen3_next.modeling_qwen3_next import torch_recurrent_gated_delta_rule

    by_torch, native = pair(rnnc.stdlib("gated_deltanet"), "GatedDeltaOp", heads=heads, dk=keys, dv=keys)
    size = (batch, heads)
    k = F.normalize(torch.randn(*size, keys), dim=-1)
    inputs = [torch.randn(*size, keys), k, torch.randn(*size, keys), -0.1 * torch.rand(size), torch.rand(size)]

    def eager(*inputs: Tensor) -> Tensor:
        q, *rest = (x[:, None] for x in inputs)
        state = torch.zeros(batch, heads, keys, keys)
        with torch.no_grad():
            for _ in range(tokens):  # it scales the queries itself
                y, state = torch_recurrent_gated_delta_rule(q * keys**0.5, *rest, state, output_final_state=True)
        return y[:, 0]  # type: ignore[no-any-return]

    return Case(
        name=f"{tokens} decode steps of the gated delta rule [{batch}, {heads} heads, {keys}]",
        inputs=inputs,
        runners={
            "transformers, eager": Runner(run=eager),
            "torch backend": steps_of(by_torch, tokens),
            "cpu backend": steps_of(native, tokens),
        },
        promise=("cpu backend", 5.0),
        direction="forward",
        differentiated=False,
        least_rounds=15,
    )


def layer_decode_case(file: str, cell: str, width: int, tokens: int = 50) -> Case:
    """Steps of a whole layer: projections, convolutions, norms and the recurrence."""
    by_torch, native = pair(rnnc.stdlib(file), cell, d=width)
    return Case(
        name=f"{tokens} decode steps of {cell} [1, {width}]",
        inputs=[torch.randn(1, width)],
        runners={"torch backend": steps_of(by_torch, tokens), "cpu backend": steps_of(native, tokens)},
        direction="forward",
        differentiated=False,
        least_rounds=15,
    )


def associative_case(batch: int, steps: int, width: int) -> Case:
    """h <- a h + b against PyTorch's own scan, compiled before anything is timed."""
    from torch._higher_order_ops.associative_scan import associative_scan

    def combine(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return left[0] * right[0], right[0] * left[1] + right[1]

    @torch.compile(fullgraph=True)
    def scan(a: Tensor, b: Tensor) -> Tensor:
        return associative_scan(combine, (a, b), dim=1, combine_mode="generic")[1]  # type: ignore[no-any-return]

    notes: dict[str, float] = {}

    def compiled(a: Tensor, b: Tensor) -> Tensor:
        start = time.perf_counter()
        found: Tensor = scan(a.detach(), b.detach())
        notes.setdefault("seconds that torch.compile took for associative_scan", time.perf_counter() - start)
        return found

    _, native = pair(rnnc.parse(DECAY), "Decay", n=width)
    inputs = [torch.rand(batch, steps, width), torch.randn(batch, steps, width)]
    return Case(
        name=f"h <- a h + b [{batch}, {steps}, {width}] by associative_scan",
        inputs=inputs,
        runners={
            "associative_scan, compiled": Runner(run=compiled),
            "cpu backend": Runner(run=lambda a, b: native(a.detach(), b.detach())[0]),
        },
        promise=("cpu backend", 4.0),
        direction="forward",
        differentiated=False,
        notes=notes,
    )


def nonlinear_case(kind: str, batch: int, steps: int, width: int) -> Case:
    """LSTM and GRU against PyTorch's fused layers."""
    whole = (nn.LSTM if kind == "LSTM" else nn.GRU)(width, width, batch_first=True)
    by_torch, native = pair(rnnc.stdlib(kind.lower()), kind, d=width)
    for module in (by_torch, native):
        copy_weights(whole, module)
    return Case(
        name=f"{kind} [{batch}, {steps}, {width}]",
        inputs=[torch.randn(batch, steps, width)],
        runners={f"nn.{kind}": layer(whole), "torch backend": layer(by_torch), "cpu backend": layer(native)},
        promise=("cpu backend", 1.0),
    )


def peephole_case(batch: int, steps: int, width: int) -> Case:
    """A peephole LSTM, which PyTorch has no layer for."""
    by_torch, native = pair(rnnc.parse(PEEPHOLE), "Peephole", d=width)
    return Case(
        name=f"peephole LSTM [{batch}, {steps}, {width}]",
        inputs=[torch.randn(batch, steps, width)],
        runners={"eager loop": layer(by_torch), "cpu backend": layer(native)},
        promise=("cpu backend", 5.0),
    )


def newton_case(batch: int, steps: int, width: int) -> Case:
    """A GRU with diagonal recurrent weights: one step after the other, by Newton's method, and as the planner says.

    Where that is Newton's method it is faster than the steps; in any case it is near the best.
    """
    spec = rnnc.parse(DIAGONAL_GRU)
    modules = [rnnc.compile(spec, backend="cpu", strategy=s)(d=width) for s in ("sequential", "newton")]
    modules.append(rnnc.compile(spec, backend="cpu", expect=(batch, steps), d=width)(d=width))
    for m in modules[1:]:
        m.load_state_dict(modules[0].state_dict())
    names = ("step by step", "Newton's method", "the planner's choice")
    return Case(
        name=f"diagonal GRU [{batch}, {steps}, {width}]",
        inputs=[torch.randn(batch, steps, width)],
        runners={name: layer(m) for name, m in zip(names, modules, strict=True)},
        promise=("the planner's choice", 1.0) if hasattr(modules[2], "newton") else None,
        near="the planner's choice",
        least_rounds=15,
    )


KEEPING = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184"}


def is_mapped() -> bool:
    """Whether this process keeps freed memory mapped."""
    return all(os.environ.get(k) == v for k, v in KEEPING.items())


def cases() -> Iterator[Callable[[], Case]]:
    yield lambda: limit_case(4, 2048, 1024)
    yield lambda: associative_case(4, 2048, 1024)
    yield lambda: decay_case(4, 2048, 1024)
    yield lambda: gated_delta_case(2, 1024, 4, 64)
    yield lambda: decode_case(1, 4, 64)
    yield lambda: layer_decode_case("gated_deltanet", "GatedDeltaNet", 256)
    yield lambda: layer_decode_case("mamba2", "Mamba2", 256)
    yield lambda: nonlinear_case("LSTM", 16, 256, 256)
    yield lambda: nonlinear_case("GRU", 16, 256, 256)
    yield lambda: peephole_case(16, 256, 256)
    for width in (1, 4, 8, 64):
        yield lambda width=width: newton_case(1, 8192, width)  # type: ignore[misc]
    yield lambda: newton_case(2, 8192, 4)
    yield lambda: mamba_case(2, 1024, 256)


if __name__ == "__main__":
    if "--mapped" in sys.argv:
        rest = [a for a in sys.argv[1:] if a != "--mapped"]
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.cpu", *rest], {**os.environ, **KEEPING})
    flags = {"--mapped": "start again with an allocator that keeps memory mapped: new pages cost no faults"}
    run_cases(__doc__ or "", "cpu", cases(), flags)

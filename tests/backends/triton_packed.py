"""Cases of triton_interpreted.py: packed sequences, and what the tuner tries, for every kind of kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
import torch_support as support
import triton_coupled as coupled
import triton_scans as scans
from triton_oracle import case_of, layer_of, spec_of

from rnnc.runtime.gpu import tuner
from rnnc.runtime.gpu.tuning import Config
from rnnc.runtime.varlen import run_packed

COUPLED = scans.own_cell("coupled")  # two states without matrices
PEEPHOLE, RESET_FIRST = coupled.CELLS["peephole"], coupled.CELLS["reset first"]


def packed() -> None:
    """Sequences of different lengths behind each other, empty ones too, in one launch: as if each ran alone.

    Scans, steps one after another and steps with products; gradients of every initial state and of shared inputs.
    """
    lengths = [5, 0, 1, 9]
    bounds = torch.tensor([0, *np.cumsum(lengths)])
    for file, dims in (("mingru", {"d": 3, "n": 5}), (COUPLED, {"n": 3}), (PEEPHOLE, {"d": 3, "n": 5})):
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
    (coupled.CELLS["projected"], None, {"d": 3, "n": 5, "p": 2}),
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
    for file, dims in (("mingru", {"d": 3, "n": 37}), (COUPLED, {"n": 40}), (RESET_FIRST, {"d": 3, "n": 5})):
        ir, layer, kernels = layer_of(spec_of(file), None, None, Config(steps=4, channels=4))
        for k in kernels:
            k.configs.clear()
        measured.clear()
        case_of(ir, dims, 5, start=True).check(layer, tolerance=1e-9, step=False)
        assert len(measured) >= 4, measured
    tuner.TUNER = kept


CASES: dict[str, Callable[[], None]] = {
    "packed": packed,
    "packed layers": partial(packed_layers, PACKED),
    "packed delta rule": partial(packed_layers, (("gated_deltanet", "GatedDeltaNet", HEADS),)),
    "tuned": tuned,
}

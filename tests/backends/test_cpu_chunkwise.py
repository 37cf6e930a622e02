"""Matrix states chunk by chunk in C: cells against the float64 oracle, the function itself against PyTorch's form."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import test_cpu_cells as cells
import test_cpu_sanitised as sanitised
import torch

import rnnc
from rnnc.runtime import chunk, compiled, native_chunk
from rnnc.runtime.chunk import MicroStep, Read, Update

pytestmark = pytest.mark.skipif(compiled.compiler() is None, reason="needs a C compiler")

CELLS = [
    ("mamba2.rnn", "SSDOp", {"heads": 2, "n": 17, "p": 9}, "S"),
    ("gated_deltanet.rnn", "GatedDeltaOp", {"heads": 3, "dk": 9, "dv": 35}, "S"),
    ("deltanet.rnn", "DeltaOp", {"heads": 1, "dk": 33, "dv": 16}, "S"),
    ("retnet.rnn", "RetNet", {"d": 20, "heads": 2, "dk": 6, "dv": 18}, "S"),
    ("mlstm.rnn", "mLSTM", {"d": 12, "heads": 3, "dk": 7, "dv": 5}, "C"),
]


def layer_of(file: str, cell: str, state: str) -> tuple[Any, Path]:
    path = cells.LIBRARY / file
    return rnnc.compile(cells.spec_of(path), cell, backend="cpu", strategy={state: "chunkwise"}), path


@pytest.mark.parametrize(("file", "cell", "dims", "state"), CELLS)
def test_is_the_oracle(file: str, cell: str, dims: dict[str, int], state: str) -> None:
    layer, path = layer_of(file, cell, state)
    assert "products of matrices in C, chunk by chunk" in " ".join(layer.__doc__.split())
    ir = cells.spec_of(path).lower(cell)
    known = {d.name for d in ir.dims}
    sizes = ir.dim_values({k: v for k, v in dims.items() if k in known})
    for steps in (1, 75):
        found = cells.case(path, cell, steps, sizes)
        found.check(layer, step=steps == 1)
        found.check(layer, dtype=torch.float32, tolerance=2e-4, step=False)


class Problem:
    """One problem of the function, its tensors leaves with gradients."""

    def __init__(self, sizes: tuple[int, ...], delta: bool, decay: bool, dtype: torch.dtype = torch.float64) -> None:
        b, t, h, k, v = sizes
        self.xs = {
            "u": torch.randn(b, t, h, k, dtype=dtype) / k**0.5,
            "v": torch.randn(b, t, h, v, dtype=dtype),
            "q": torch.randn(b, t, h, k, dtype=dtype),
            "state": torch.randn(b, h, k, v, dtype=dtype),
        }
        if decay:
            self.xs["log_decay"] = -3 * torch.rand(b, t, h, dtype=dtype)
        if delta:
            self.xs["b"] = torch.randn(b, t, h, k, dtype=dtype) / k**0.5
            self.xs["c"] = -torch.rand(b, t, h, dtype=dtype)
        for x in self.xs.values():
            x.requires_grad_()
        self.weights = torch.randn(b, t, h, v, dtype=dtype), torch.randn(b, h, k, v, dtype=dtype)

    def run(self, scan: Any) -> list[torch.Tensor]:
        update = Update(self.xs["u"], self.xs["v"], self.xs.get("b"), self.xs.get("c"))
        step = MicroStep(log_decay=self.xs.get("log_decay"), updates=(update,))
        (y,), final = scan(self.xs["state"], [step], [Read(self.xs["q"])])
        loss = (y.double() * self.weights[0]).sum() + (final.double() * self.weights[1]).sum()
        return [y, final, *torch.autograd.grad(loss, list(self.xs.values()))]


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (2, 31, 3, 5, 7), (1, 64, 2, 17, 33), (2, 100, 1, 64, 20)])
def test_is_the_form_by_pytorch(sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    for delta, decay in product((False, True), repeat=2):
        problem = Problem(sizes, delta, decay)
        want = problem.run(chunk.matrix_scan)
        with monkeypatch.context() as alone:  # not by falling back
            alone.setattr(native_chunk.by_torch, "matrix_scan", None)
            found = problem.run(native_chunk.matrix_scan)
        for a, b in zip(found, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_decays_of_zero_and_one_and_long_memories() -> None:
    """Logarithms of minus infinity, of zero, and so small that a product of float32 decays would lose them."""
    torch.manual_seed(0)
    problem = Problem((1, 300, 1, 4, 4), delta=False, decay=True)
    log_decay = torch.full((1, 300, 1), -1e-8, dtype=torch.float64)
    log_decay[:, 200] = -torch.inf
    log_decay[:, 210:] = 0
    problem.xs["log_decay"] = log_decay.requires_grad_()
    y, final, *_ = problem.run(native_chunk.matrix_scan)
    S = problem.xs["state"].detach().clone()
    for t in range(300):
        S = S * log_decay[0, t].exp() + torch.einsum("bhk,bhv->bhkv", problem.xs["u"][:, t], problem.xs["v"][:, t])
        want = torch.einsum("bhkv,bhk->bhv", S, problem.xs["q"][:, t])
        torch.testing.assert_close(y[:, t], want, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(final, S, rtol=1e-9, atol=1e-9)


def test_second_derivatives() -> None:
    torch.manual_seed(0)
    problem = Problem((1, 3, 1, 1, 2), delta=True, decay=True)
    names = list(problem.xs)

    def both(*given: torch.Tensor) -> Any:
        problem.xs = dict(zip(names, given, strict=True))
        x = problem.xs
        step = MicroStep(log_decay=x["log_decay"], updates=(Update(x["u"], x["v"], x["b"], x["c"]),))
        (y,), final = native_chunk.matrix_scan(x["state"], [step], [Read(x["q"])])
        return y, final

    assert torch.autograd.gradgradcheck(both, tuple(problem.xs.values()))


def test_half_types_and_what_is_left_to_pytorch() -> None:
    torch.manual_seed(0)
    half = Problem((1, 40, 2, 8, 8), delta=True, decay=True, dtype=torch.bfloat16)
    found, want = half.run(native_chunk.matrix_scan), half.run(chunk.matrix_scan)
    for a, b in zip(found, want, strict=True):
        assert a.dtype == b.dtype == torch.bfloat16
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.05)
    keyed = MicroStep(
        log_decay=-torch.rand(1, 40, 2, 8), writes=((torch.randn(1, 40, 2, 8), torch.randn(1, 40, 2, 8)),)
    )
    state, read = torch.randn(1, 2, 8, 8), Read(torch.randn(1, 40, 2, 8))
    (a,), _ = native_chunk.matrix_scan(state, [keyed], [read])
    (b,), _ = chunk.matrix_scan(state, [keyed], [read])
    assert torch.equal(a, b)


SCRIPT = """
import test_cpu_chunkwise as mine
for sizes in ((1, 1, 1, 1, 1), (2, 31, 3, 5, 7), (1, 65, 2, 17, 33)):
    for dtype in (torch.float32, torch.float64):
        for delta in (False, True):
            for x in mine.Problem(sizes, delta, decay=delta, dtype=dtype).run(mine.native_chunk.matrix_scan):
                assert torch.isfinite(x).all()
"""


@pytest.mark.slow
def test_sanitised(tmp_path: Path) -> None:
    sanitised.run(SCRIPT, tmp_path)


def test_exported_for_any_length() -> None:
    """Sizes that are symbols are not looked at: an exported program has PyTorch's form."""
    layer = rnnc.compile(rnnc.stdlib("gated_deltanet"), "GatedDeltaNet", backend="cpu", strategy="chunkwise")(d=8)
    x = torch.randn(2, 40, 8)
    with torch.no_grad():
        lengths = ({0: torch.export.Dim("batch", min=2), 1: torch.export.Dim("time", min=2)},)
        program = torch.export.export(layer, (x,), dynamic_shapes=lengths).module()
        for other in (x, torch.randn(3, 70, 8)):
            torch.testing.assert_close(program(other)[0], layer(other)[0], rtol=1e-4, atol=1e-4)

"""C kernels under PyTorch's tracers and transforms: torch.compile, torch.export, vmap, grad, and twice a gradient."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_support as support
from torch import Tensor

import rnnc
from rnnc.runtime import compiled

pytestmark = pytest.mark.skipif(compiled.compiler() is None, reason="needs a C compiler")

CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")
CELLS = [("minlstm", "MinLSTM"), ("gated_deltanet", "GatedDeltaNet"), ("lru", "LRU"), ("gru", "GRU")]


@cache
def layers(name: str, cell: str) -> tuple[Any, Any]:
    """A layer of generated kernels and one of the torch backend with the same weights, in float64."""
    torch.manual_seed(0)
    spec = rnnc.stdlib(name)
    dims = support.small_dims(spec.lower(cell))
    native = rnnc.compile(spec, cell, backend="cpu", strategy="sequential")(**dims, dtype=torch.float64)
    by_torch = rnnc.compile(spec, cell, backend="torch")(**dims, dtype=torch.float64)
    by_torch.load_state_dict(native.state_dict())
    return native, by_torch


def gradients(layer: Any, f: Any, x: Tensor) -> list[Tensor]:
    y = f(x)[0]
    weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return [y, *torch.autograd.grad((weight * y).sum(), [x, *layer.parameters()])]


@pytest.mark.parametrize(("name", "cell"), [CELLS[0], CELLS[3]])
def test_compiled_whole(name: str, cell: str) -> None:
    """One graph, with gradients, for lengths and batches that change (AOT autograd and its partitioner included)."""
    native, by_torch = layers(name, cell)
    torch._dynamo.reset()
    fast = torch.compile(native, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch, steps in ((2, 9), (3, 7)):
        x = torch.randn(batch, steps, native.d, dtype=torch.float64, requires_grad=True)
        for a, b in zip(gradients(native, fast, x), gradients(by_torch, by_torch, x), strict=True):
            support.assert_close(a, b.detach(), 1e-10)
    state = by_torch.initial_state(2)
    x = torch.randn(2, native.d, dtype=torch.float64)
    step = torch.compile(native.step, fullgraph=True, backend="aot_eager")
    support.assert_close(step(x, state)[0], by_torch.step(x, state)[0].detach(), 1e-10)


@pytest.mark.slow
def test_compiled_by_inductor() -> None:
    native, by_torch = layers("minlstm", "MinLSTM")
    torch._dynamo.reset()
    fast = torch.compile(native, fullgraph=True)
    x = torch.randn(2, 9, native.d, dtype=torch.float64, requires_grad=True)
    for a, b in zip(gradients(native, fast, x), gradients(by_torch, by_torch, x), strict=True):
        support.assert_close(a, b.detach(), 1e-10)


@pytest.mark.parametrize(("name", "cell"), CELLS)
def test_exported(name: str, cell: str) -> None:
    """With a batch and a length of any size."""
    native, by_torch = layers(name, cell)
    x = torch.randn(2, 9, native.d, dtype=torch.float64)
    sizes = {"x": {0: torch.export.Dim("batch", min=2), 1: torch.export.Dim("steps", min=2)}}
    program = torch.export.export(native, (x,), dynamic_shapes=sizes | {})
    y = torch.randn(3, 14, native.d, dtype=torch.float64)
    support.assert_close(program.module()(y)[0], by_torch(y)[0].detach(), 1e-10)
    assert any("rnnc.kernel" in str(n.target) for n in program.graph.nodes)


def test_an_exported_program_in_a_process_of_its_own(tmp_path: Path) -> None:
    """It needs the emitted module; without it the message says so."""
    native, _ = layers("minlstm", "MinLSTM")
    x = torch.randn(2, 9, native.d, dtype=torch.float64)
    torch.export.save(torch.export.export(native, (x,)), tmp_path / "program.pt2")
    torch.save((x, native(x)[0].detach()), tmp_path / "numbers.pt")
    (tmp_path / "minlstm_layer.py").write_text(type(native).source)
    script = textwrap.dedent("""
        import sys, torch
        import rnnc.runtime
        program = torch.export.load("program.pt2").module()
        x, y = torch.load("numbers.pt")
        try:
            program(x)
        except RuntimeError as problem:
            assert "import the emitted module" in str(problem), problem
        else:
            raise SystemExit("the kernel cannot be known here")
        sys.path.insert(0, "")
        import minlstm_layer
        torch.testing.assert_close(program(x)[0], y)
    """)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("name", "cell"), CELLS)
def test_vmap(name: str, cell: str) -> None:
    """Over inputs, and over weights, as an ensemble of models does; with gradients."""
    native, by_torch = layers(name, cell)
    x = torch.randn(2, 3, 7, native.d, dtype=torch.float64)
    want = torch.stack([by_torch(part)[0] for part in x.unbind(1)])
    support.assert_close(torch.vmap(lambda a: native(a)[0], in_dims=1)(x), want.detach(), 1e-10)

    def loss(layer: Any, weights: dict[str, Tensor], a: Tensor) -> Tensor:
        return torch.func.functional_call(layer, weights, (a,))[0].square().sum()

    weights = {k: torch.stack([v.detach(), 0.9 * v.detach()]) for k, v in native.named_parameters()}
    found = torch.vmap(torch.func.grad(lambda w, a: loss(native, w, a)))(weights, x)
    for i in range(2):
        own = {k: v[i].clone().requires_grad_() for k, v in weights.items()}
        grads = torch.autograd.grad(loss(by_torch, own, x[i]), list(own.values()))
        for k, g in zip(own, grads, strict=True):
            support.assert_close(found[k][i], g, 1e-10)
    each = torch.vmap(torch.func.grad(lambda a: native(a)[0].square().sum()))(x)
    for i in range(2):
        a = x[i].clone().requires_grad_()
        support.assert_close(each[i], torch.autograd.grad(by_torch(a)[0].square().sum(), a)[0], 1e-10)


@pytest.mark.parametrize(("name", "cell"), CELLS)
def test_twice_a_gradient_says_what_is_missing(name: str, cell: str) -> None:
    native, _ = layers(name, cell)
    x = torch.randn(2, 5, native.d, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(native(x)[0].square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"cannot be differentiated twice.*backend=\"torch\""):
        g.sum().backward()
    twice = torch.func.grad(lambda a: torch.func.grad(lambda b: native(b)[0].square().sum())(a).sum())
    with pytest.raises(RuntimeError, match=r"cannot be differentiated twice.*backend=\"torch\""):
        twice(x.detach())


def test_operators_keep_pytorch_s_rules() -> None:
    """Schema, fake tensors and gradients, as `torch.library.opcheck` asks."""
    from rnnc.runtime.native_ops import KERNELS, kernel_operator

    native, _ = layers("minlstm", "MinLSTM")
    kernel = next(k for k in KERNELS.values() if k.name.startswith("MinLSTM"))
    size = {o.axes[-1]: native.d for o in kernel.states}
    tensors = [
        torch.randn(*((2, 5) if not o.static else ()), *(size[a] for a in o.axes), dtype=torch.float64).requires_grad_()
        for o in kernel.inputs
    ]
    tensors += [torch.randn(2, native.d, dtype=torch.float64, requires_grad=True) for _ in kernel.states]
    dims = [native.d for _ in range(8)]
    torch.library.opcheck(kernel_operator, (kernel.key, tensors, dims, 5), test_utils=CHECKS)


@pytest.mark.parametrize("shape", [(2, 5, 4), (2, 4)])
def test_wrong_sizes_are_refused(shape: tuple[int, ...]) -> None:
    """The C function would read what is not there."""
    cell = rnnc.parse(
        "cell Scan(n: dim) {\n  input a: real[n]\n  state h: real[n] = 0\n  h <- 0.5 * h + a\n  output y = h'\n}"
    )
    layer = rnnc.compile(cell, backend="cpu")(n=8)
    x = torch.randn(shape)
    with pytest.raises(ValueError, match=r"needs an input of shape"):
        layer(x) if len(shape) == 3 else layer.step(x)
    with pytest.raises(ValueError, match="state 'h' has batch size 1, and the inputs have 2"):
        layer(torch.randn(2, 5, 8), {"h": torch.zeros(1, 8)})
    with pytest.raises(ValueError, match="needs a state of shape"):
        layer(torch.randn(2, 5, 8), {"h": torch.zeros(2, 4)})
    assert pickle.loads(pickle.dumps(layer))(torch.randn(2, 5, 8))[0].shape == (2, 5, 8)
